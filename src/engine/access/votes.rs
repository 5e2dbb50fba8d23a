//! Whether enough people agreed: N of M in steps, each person once, nobody for himself.

use std::collections::BTreeSet;

use super::config::Settings;
use super::identity::{self, Class, Who};
use super::policy::{Policy, Step};
use super::request::AccessRequest;
use crate::engine::Mount;
use crate::engine::error::Error;

/// How many votes there are of those that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Votes that fill a place.
    pub given: u32,
    /// Places.
    pub needed: u32,
}

impl Tally {
    /// Nobody else has to agree. Never true if nobody had to.
    pub fn is_full(self) -> bool {
        self.needed > 0 && self.given >= self.needed
    }
}

/// The most places that these voters can fill. Each fills one, in a step that admits them; with `distinct_groups`, each
/// by another group.
pub fn tally(steps: &[Step], distinct_groups: bool, voters: &[Who]) -> Tally {
    let needed = steps.iter().fold(0u32, |sum, step| sum.saturating_add(step.min));
    let mut free: Vec<u32> = steps.iter().map(|step| step.min).collect();
    let given = fill(steps, distinct_groups, voters, &mut free, &mut BTreeSet::new());
    Tally { given, needed }
}

/// The first voter takes each place in turn, or none; the others do the best with the rest.
fn fill<'a>(
    steps: &'a [Step],
    distinct: bool,
    voters: &'a [Who],
    free: &mut [u32],
    spoken: &mut BTreeSet<&'a str>,
) -> u32 {
    let Some((voter, others)) = voters.split_first() else { return 0 };
    let places = free.iter().fold(0u32, |sum, free| sum.saturating_add(*free));
    let most = places.min(u32::try_from(voters.len()).unwrap_or(u32::MAX));
    let mut best = 0;
    for (place, step) in steps.iter().enumerate() {
        if best == most {
            return best;
        }
        for group in step.admits(voter.class, &voter.groups) {
            if free[place] == 0 || (distinct && spoken.contains(group)) {
                continue;
            }
            free[place] -= 1;
            spoken.insert(group);
            best = best.max(1 + fill(steps, distinct, others, free, spoken));
            free[place] += 1;
            spoken.remove(group);
            if !distinct {
                // By which group does not matter then.
                break;
            }
        }
    }
    if best == most { best } else { best.max(fill(steps, distinct, others, free, spoken)) }
}

/// Whether these people are enough for who asks: all places are filled, and of a third party its sponsor is among them.
pub fn is_enough(policy: &Policy, requester: &Who, voters: &[Who]) -> bool {
    let sponsored = requester.class != Class::ThirdParty || {
        let sponsor = requester.about.get("sponsor").map(String::as_str).unwrap_or_default();
        let is_sponsor = |who: &Who| {
            who.name == sponsor
                || who.entity_id == sponsor
                || who.aliases.iter().any(|alias| alias == sponsor)
                || who.groups.contains(sponsor)
        };
        voters.iter().any(is_sponsor)
    };
    sponsored && tally(&policy.steps, policy.distinct_groups, voters).is_full()
}

/// Why somebody may not vote on a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVote {
    /// It is his own.
    #[error("nobody votes on a request of his own, whichever of his entities he uses")]
    Own,
    /// He has voted.
    #[error("you have voted on this request already")]
    Twice,
    /// No step admits him.
    #[error("you are in none of the groups that may vote on it, or not of the class that a step asks for")]
    Group,
}

/// Whether `voter` may vote on it.
///
/// # Errors
/// Why not.
pub fn may_vote(policy: &Policy, request: &AccessRequest, voter: &Who) -> Result<(), NoVote> {
    if voter.is_same_person(&request.who) {
        return Err(NoVote::Own);
    }
    if request.votes.iter().any(|vote| vote.who.is_same_person(voter)) {
        return Err(NoVote::Twice);
    }
    if !policy.steps.iter().any(|step| step.admits(voter.class, &voter.groups).next().is_some()) {
        return Err(NoVote::Group);
    }
    Ok(())
}

/// Who agreed, as they are now: enabled, not the requester, each person once. Their groups are today's.
pub async fn standing(mount: &Mount, settings: &Settings, request: &AccessRequest) -> Result<Vec<Who>, Error> {
    let mut voters: Vec<Who> = Vec::new();
    for vote in request.votes.iter().filter(|vote| vote.approve) {
        let Some(who) = identity::look(mount, settings, &vote.who.entity_id).await? else { continue };
        let own = who.is_same_person(&request.who);
        if !own && !voters.iter().any(|other| other.is_same_person(&who)) {
            voters.push(who);
        }
    }
    Ok(voters)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(groups: &[&str], min: u32) -> Step {
        Step { groups: groups.iter().map(|g| (*g).to_owned()).collect(), min, classes: vec![] }
    }

    fn voter(id: usize, groups: &[&str]) -> Who {
        Who {
            entity_id: format!("e{id}"),
            name: format!("n{id}"),
            class: Class::Human,
            person: String::new(),
            aliases: vec![format!("a{id}")],
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            about: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn places_are_filled_as_well_as_can_be() {
        let two = [step(&["leads"], 1), step(&["sec"], 1)];
        let count = |steps: &[Step], distinct, voters: &[Who]| tally(steps, distinct, voters).given;
        assert_eq!(count(&two, false, &[voter(1, &["leads", "sec"]), voter(2, &["leads"])]), 2, "whoever comes first");
        assert_eq!(count(&two, false, &[voter(1, &["leads"]), voter(2, &["leads"])]), 1);
        assert_eq!(count(&two, false, &[voter(1, &["other"]), voter(2, &["sec"])]), 1);
        let any = [step(&["leads", "sec"], 2)];
        assert_eq!(count(&any, false, &[voter(1, &["leads"]), voter(2, &["leads"])]), 2);
        assert_eq!(count(&any, true, &[voter(1, &["leads"]), voter(2, &["leads"])]), 1);
        assert_eq!(count(&any, true, &[voter(1, &["leads"]), voter(2, &["leads", "sec"])]), 2);
        assert_eq!(count(&any, true, &[voter(2, &["leads", "sec"]), voter(1, &["leads"])]), 2);
        let bot = Who { class: Class::Service, ..voter(1, &["leads"]) };
        assert_eq!(count(&two, false, &[bot]), 0, "a machine is no person");
        assert!(!tally(&[], false, &[voter(1, &["leads"])]).is_full(), "nothing asked for is nothing given");
    }

    proptest! {
        /// Against every assignment of voters to places.
        #[test]
        fn no_assignment_fills_more(
            minimums in prop::collection::vec(1u32..3, 1..3),
            members in prop::collection::vec(prop::collection::vec(0usize..3, 0..3), 0..4),
            distinct in any::<bool>(),
        ) {
            const GROUPS: [&str; 3] = ["a", "b", "c"];
            let steps: Vec<Step> = minimums.iter().enumerate().map(|(i, min)| step(&[GROUPS[i], "c"], *min)).collect();
            let voters: Vec<Who> = members.iter().enumerate()
                .map(|(id, groups)| voter(id, &groups.iter().map(|g| GROUPS[*g]).collect::<Vec<_>>())).collect();
            // Each voter: none, or a step and a group.
            let choices = 1 + steps.len() * GROUPS.len();
            let mut best = 0;
            for code in 0..choices.pow(u32::try_from(voters.len()).unwrap()) {
                let (mut rest, mut free, mut used, mut count) = (code, minimums.clone(), Vec::new(), 0);
                let valid = voters.iter().all(|voter| {
                    let choice = rest % choices;
                    rest /= choices;
                    let Some(choice) = choice.checked_sub(1) else { return true };
                    let (place, group) = (choice / GROUPS.len(), GROUPS[choice % GROUPS.len()]);
                    let fits = voter.groups.contains(group) && steps[place].groups.iter().any(|g| g == group)
                        && free[place] > 0 && !(distinct && used.contains(&group));
                    if fits { free[place] -= 1; used.push(group); count += 1; }
                    fits
                });
                if valid { best = best.max(count); }
            }
            prop_assert_eq!(tally(&steps, distinct, &voters).given, best);
        }
    }
}
