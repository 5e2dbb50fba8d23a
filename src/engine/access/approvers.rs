//! Who was seen here: the people of past requests and votes, as they are now. The host tells in which groups somebody is,
//! and never who is in a group, so whoever was never here is not known.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::{self, Who};
use super::policy::Policy;
use super::request::AccessRequest;
use super::{config, votes};
use crate::engine::Mount;
use crate::engine::error::Error;

/// How many people are looked up for one report.
const MOST: usize = 500;

/// The people of these requests, each entity once, without those who are gone or disabled.
pub async fn seen<'a>(mount: &Mount, requests: impl Iterator<Item = &'a AccessRequest>) -> Result<Vec<Who>, Error> {
    let settings = config::load(mount).await?;
    let people = |request: &'a AccessRequest| {
        let voters = request.votes.iter().map(|vote| vote.who.entity_id.as_str());
        std::iter::once(request.who.entity_id.as_str()).chain(voters)
    };
    let ids: BTreeSet<&str> = requests.flat_map(people).collect();
    let mut found = Vec::new();
    for id in ids.into_iter().take(MOST) {
        found.extend(identity::look(mount, &settings, id).await?);
    }
    Ok(found)
}

/// How many of the places of a policy these people can fill together. None of them need be one who asks.
pub fn able(policy: &Policy, people: &[Who]) -> votes::Tally {
    // Of those who can fill the same places, no more than there are places make a difference.
    let mut alike: BTreeMap<Vec<(usize, &str)>, Vec<&Who>> = BTreeMap::new();
    for who in people {
        let places = policy.steps.iter().enumerate();
        let places: Vec<(usize, &str)> = places
            .flat_map(|(place, step)| step.admits(who.class, &who.groups).map(move |group| (place, group)))
            .collect();
        let same = alike.entry(places).or_default();
        if same.len() < policy.votes() as usize && !same.iter().any(|other| other.is_same_person(who)) {
            same.push(who);
        }
    }
    alike.retain(|places, _| !places.is_empty());
    let mut persons: Vec<Who> = Vec::new();
    for who in alike.into_values().flatten() {
        if !persons.iter().any(|other| other.is_same_person(who)) {
            persons.push(who.clone());
        }
    }
    votes::tally(&policy.steps, policy.distinct_groups, &persons)
}
