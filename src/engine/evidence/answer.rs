//! `evidence/`: what the record says of one request, all of it, and whether it is what it was.

use serde_json::{Map, Value, json};

use super::checkpoint::{self, Checkpoint};
use super::event::{hex, unhex};
use super::tree::{self, Tree};
use super::verify::{Flaw, Reader};
use super::{cut, export as form, head, read};
use crate::engine::error::Error;
use crate::engine::field::Input;
use crate::engine::request::{Reply, Response};
use crate::engine::{Mount, access};

/// The most events of one answer, and how many there are if nobody says.
const MOST: usize = 10_000;
const USUAL: usize = 1000;

/// What a whole chain has of: each kind of event, and what shows it.
const LINKS: &[(&str, &[&str])] = &[
    ("request", &["request.filed", "breakglass.used"]),
    ("approval", &["decision.approved", "decision.auto", "decision.preapproved", "decision.drill", "breakglass.used"]),
    ("issuance", &["issue.done"]),
    ("execution", &["execution.summary"]),
    ("revocation", &["revoke.verified", "revoke.contained"]),
];

/// `evidence/chain/:request_id`: every event of a request, and which links are missing.
pub async fn chain(mount: &Mount, id: &str) -> Reply {
    let Some(request) = access::find(mount, id).await? else { return Ok(None) };
    let end = if request.state.is_over() { request.last_event } else { head(mount).await?.next };
    let mut events = Vec::new();
    let mut from = request.first_event;
    while from <= end {
        let page = read(mount, from, USUAL).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break };
        events.extend(page.into_iter().filter(|event| event["request_id"] == id));
        from = last + 1;
    }
    let of = |kinds: &[&str]| {
        let found = events.iter().find(|event| event["kind"].as_str().is_some_and(|kind| kinds.contains(&kind)));
        found.map_or(Value::Null, |event| json!({ "seq": event["seq"], "kind": event["kind"], "time": event["time"] }))
    };
    let links: Map<String, Value> = LINKS.iter().map(|(link, kinds)| ((*link).to_owned(), of(kinds))).collect();
    let missing: Vec<&str> = LINKS.iter().map(|(link, _)| *link).filter(|link| links[*link].is_null()).collect();
    Ok(Some(Response::data([
        ("request_id", json!(id)),
        ("role", json!(request.role)),
        ("state", json!(request.state.name())),
        ("links", links.into()),
        ("missing", json!(missing)),
        ("complete", json!(missing.is_empty())),
        ("events", json!(events)),
    ])))
}

/// `evidence/export`.
pub async fn export(mount: &Mount, input: &Input) -> Reply {
    let after = u64::try_from(input.int("after").unwrap_or(0)).unwrap_or(0);
    let limit = usize::try_from(input.int("limit").unwrap_or(0)).unwrap_or(0);
    let limit = if limit == 0 { USUAL } else { limit.min(MOST) };
    let events = read(mount, after.saturating_add(1), limit).await?;
    let next = events.last().and_then(|event| event["seq"].as_u64()).unwrap_or(after);
    let checkpoint = checkpoint::take(mount).await?;
    let mut data: Map<String, Value> = Map::new();
    match input.text_or_preset("format") {
        "json" => data.insert("events".into(), json!(events)),
        "ocsf" => data.insert("events".into(), events.iter().map(form::ocsf).collect()),
        "cef" => data.insert("lines".into(), events.iter().map(|event| json!(form::cef(event))).collect()),
        other => return Err(Error::Refused(format!("format: {other:?} is none of json, ocsf, cef"))),
    };
    // It stands in the place of what was before the first event of the answer.
    if let Some(cut) = cut::load(mount).await?.filter(|cut| after <= cut.checkpoint.size) {
        data.insert("cut".into(), json!(cut));
    }
    data.insert("after".into(), json!(next));
    data.insert("more".into(), json!(next < checkpoint.size));
    if next >= checkpoint.size {
        data.insert("checkpoint".into(), json!(checkpoint));
    }
    data.insert("public_key".into(), json!(checkpoint::signer(mount).await?.public()));
    Ok(Some(Response::data(data)))
}

/// `evidence/checkpoint`.
pub async fn checkpoint(mount: &Mount) -> Reply {
    let checkpoint = checkpoint::take(mount).await?;
    Ok(Some(Response::data([
        ("checkpoint", json!(checkpoint)),
        ("jit_checkpoint", json!(checkpoint.line())),
        ("public_key", json!(checkpoint::signer(mount).await?.public())),
    ])))
}

/// `evidence/proof/:seq`: that one event is in the tree whose root a checkpoint has signed, without the others.
pub async fn proof(mount: &Mount, seq: &str) -> Reply {
    let seq: u64 = seq.parse().map_err(|_| Error::Refused("the number of an event is needed".into()))?;
    let checkpoint = checkpoint::take(mount).await?;
    if seq == 0 || seq > checkpoint.size {
        return Ok(None);
    }
    let cut = cut::load(mount).await?;
    let gone = cut.as_ref().map_or(0, |cut| cut.checkpoint.size);
    if seq <= gone {
        return Err(Error::Refused(format!("the first {gone} events were taken away: see retention in config/jit")));
    }
    let before = cut.and_then(|cut| cut.end()).map_or_else(Tree::default, |(_, tree)| tree);
    let (mut hashes, mut found, mut from) = (Vec::new(), None, gone + 1);
    while from <= checkpoint.size {
        let page = read(mount, from, USUAL).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break };
        for event in page {
            let hash = event["hash"].as_str().and_then(unhex);
            hashes.push(hash.ok_or_else(|| Error::Failed(format!("event {} has no hash", event["seq"])))?);
            if event["seq"] == seq {
                found = Some(event);
            }
        }
        from = last + 1;
    }
    hashes.truncate(usize::try_from(checkpoint.size.saturating_sub(gone)).unwrap_or(usize::MAX));
    let path = tree::path(&before, &hashes, seq - 1)
        .ok_or_else(|| Error::Failed(format!("event {seq} is missing: see evidence/verify")))?;
    let path: Vec<String> = path.iter().map(|hash| hex(hash)).collect();
    Ok(Some(Response::data([
        ("event", json!(found)),
        ("path", json!(path)),
        ("checkpoint", json!(checkpoint)),
        ("public_key", json!(checkpoint::signer(mount).await?.public())),
    ])))
}

/// `evidence/verify`: the record as it is in storage, against itself and a checkpoint that somebody kept.
pub async fn verify(mount: &Mount, input: &Input) -> Reply {
    let public = checkpoint::signer(mount).await?.public();
    let mut reader = Reader::default();
    if let Some(kept) = input.json("checkpoint").filter(|kept| !kept.is_null()) {
        let kept: Checkpoint = serde_json::from_value(kept.clone())
            .map_err(|_| Error::Refused("checkpoint: expected what evidence/checkpoint answers".into()))?;
        reader.expect(kept);
    }
    let cut = cut::load(mount).await?;
    let begun = cut.as_ref().map_or(Ok(()), |cut| reader.begin(cut));
    let mut from = 1;
    let judged = loop {
        if let Err(flaw) = begun {
            break Err(flaw);
        }
        let page = read(mount, from, USUAL).await?;
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { break reader.end(Some(&public)) };
        if let Err(flaw) = page.iter().try_for_each(|event| reader.event(event)) {
            break Err(flaw);
        }
        from = last.max(from) + 1;
    };
    // What stands in the place of the first events is signed: nothing may be missing without it.
    let judged = judged.and_then(|sound| match sound.first > sound.cut + 1 {
        true => Err(Flaw::Beginning(sound.first)),
        false => Ok(sound),
    });
    Ok(Some(match judged {
        Ok(sound) => Response::data([
            ("valid", json!(true)),
            ("events", json!(sound.last)),
            ("events_taken_away", json!(sound.cut)),
            ("head", json!(sound.head)),
            ("checkpoints", json!(sound.checkpoints)),
            ("checkpoints_too_old", json!(sound.too_old)),
            ("decisions_hold", json!(sound.decisions.otherwise.is_empty())),
            ("decisions", json!(sound.decisions)),
        ]),
        Err(flaw) => Response::data([("valid", json!(false)), ("flaw", json!(flaw.to_string()))]),
    }))
}
