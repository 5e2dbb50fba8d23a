//! Who asks: a person, a service, an agent or a third party. Derived from the host's identity store, and refused where
//! it is not clear: the host tells the entity, not by which of its aliases a token came.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::Settings;
use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::port::Entity;
use crate::engine::request::Caller;

/// What kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A person.
    Human,
    /// A workload.
    Service,
    /// Software that acts by itself.
    Agent,
    /// Somebody of another organisation.
    ThirdParty,
}

impl Class {
    /// The class of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Human, Self::Service, Self::Agent, Self::ThirdParty].into_iter().find(|class| class.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Service => "service",
            Self::Agent => "agent",
            Self::ThirdParty => "third_party",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In an entity's metadata: its class, by the word of an identity administrator.
pub const CLASS_KEY: &str = "jit_class";

/// What kinds of auth mounts people and workloads log in at, where `identity_map` does not say.
const KINDS: &[(&str, Class)] = &[
    ("userpass", Class::Human),
    ("ldap", Class::Human),
    ("oidc", Class::Human),
    ("github", Class::Human),
    ("okta", Class::Human),
    ("radius", Class::Human),
    ("kerberos", Class::Human),
    ("saml", Class::Human),
    ("approle", Class::Service),
    ("kubernetes", Class::Service),
    ("cert", Class::Service),
    ("jwt", Class::Service),
    ("aws", Class::Service),
    ("azure", Class::Service),
    ("gcp", Class::Service),
    ("spiffe", Class::Service),
];

/// A caller, as far as decisions need to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Its entity.
    pub entity_id: String,
    /// The entity's name, or one that it logs in by.
    pub name: String,
    /// Its class.
    pub class: Class,
    /// What makes two entities one person, if the identity store says (`person_key`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub person: String,
    /// The names it logs in by.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The groups it is in.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// What identity administrators wrote of it, as far as it matters here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub about: BTreeMap<String, String>,
}

/// Metadata that decisions use.
const ABOUT: [&str; 4] = ["sponsor", "end_date", "org", "manager"];

impl Who {
    /// Whether the two are one person: the same entity, the same person key, or a name in common by which they log in.
    pub fn is_same_person(&self, other: &Who) -> bool {
        let same_alias = |a: &String| other.aliases.iter().any(|b| a.eq_ignore_ascii_case(b));
        self.entity_id == other.entity_id
            || (!self.person.is_empty() && self.person == other.person)
            || self.aliases.iter().any(same_alias)
    }

    /// As events show it.
    pub fn shown(&self) -> Value {
        json!({ "entity_id": self.entity_id, "name": self.name, "class": self.class.name(), "aliases": self.aliases })
    }
}

/// Why nobody can say what a caller is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No alias, or only of auth mounts that no rule speaks of.
    #[error("its class is unknown: set the metadata {CLASS_KEY} of the entity, or identity_map in config/jit")]
    NoRule,
    /// Aliases of two classes.
    #[error(
        "ambiguous class: it logs in both as {0} and as {1}; set the metadata {CLASS_KEY} of the entity, or split it"
    )]
    Ambiguous(Class, Class),
    /// The metadata is no class.
    #[error("its metadata {CLASS_KEY} is none of human, service, agent and third_party")]
    NoClass,
}

/// The class of an entity.
///
/// # Errors
/// If there is none, or more than one.
pub fn class(entity: &Entity, settings: &Settings) -> Result<Class, Unknown> {
    if let Some(name) = entity.metadata.get(CLASS_KEY) {
        return Class::named(name).ok_or(Unknown::NoClass);
    }
    let of_alias = |alias: &crate::engine::port::Alias| {
        let rules = &settings.identity_map;
        let ruled = rules.get(&alias.mount_accessor).or_else(|| rules.get(&alias.mount_type));
        let class = match ruled {
            Some(name) => Class::named(name),
            None => KINDS.iter().find(|(kind, _)| *kind == alias.mount_type).map(|(_, class)| *class),
        };
        let is_agent =
            settings.agent_patterns.iter().any(|pattern| crate::engine::template::glob(pattern, &alias.name));
        if is_agent { Some(Class::Agent) } else { class }
    };
    let classes: BTreeSet<Option<Class>> = entity.aliases.iter().map(of_alias).collect();
    let known: Vec<Class> = classes.iter().flatten().copied().collect();
    match known.as_slice() {
        // An alias that no rule speaks of may be anything.
        [one] if !classes.contains(&None) => Ok(*one),
        [] | [_] => Err(Unknown::NoRule),
        [one, other, ..] => Err(Unknown::Ambiguous(*one, *other)),
    }
}

/// Who an entity is now. `None` if it is gone or disabled, or its class is not known: it may do nothing.
pub async fn look(mount: &Mount, settings: &Settings, entity_id: &str) -> Result<Option<Who>, Error> {
    match of_entity(mount, settings, entity_id).await {
        Ok(who) => Ok(Some(who)),
        Err(Error::Coded(..)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Who the caller is.
///
/// # Errors
/// 403 `jit_identity`, with the reason.
pub async fn of_caller(mount: &Mount, settings: &Settings, caller: &Caller) -> Result<Who, Error> {
    if caller.entity_id.is_empty() {
        return Err(refused("the token has no entity (root and orphan tokens have none): log in by an auth method"));
    }
    let known = of_entity(mount, settings, &caller.entity_id).await;
    if let Err(Error::Coded(_, why)) = &known {
        mount.access.refused(&caller.entity_id, why);
    }
    known
}

async fn of_entity(mount: &Mount, settings: &Settings, entity_id: &str) -> Result<Who, Error> {
    let host = &mount.ports.host;
    if settings.offboarded.iter().any(|id| id == entity_id) {
        return Err(refused("the entity was offboarded here (config/jit offboarded)"));
    }
    let (entity, groups) = tokio::try_join!(host.entity(entity_id), host.groups(entity_id))?;
    let entity = entity.ok_or_else(|| refused(&format!("there is no entity {entity_id}")))?;
    if entity.disabled {
        return Err(refused(&format!("the entity {:?} is disabled", entity.name)));
    }
    let class = class(&entity, settings).map_err(|e| refused(&format!("entity {:?}: {e}", entity.name)))?;
    // Names that the host made up tell nobody anything.
    let name = match entity.aliases.first() {
        Some(alias) if entity.name.is_empty() || entity.name.starts_with("entity_") => alias.name.clone(),
        _ => entity.name.clone(),
    };
    let about = ABOUT.iter().filter_map(|key| entity.metadata.get_key_value(*key));
    Ok(Who {
        class,
        person: entity.metadata.get(&settings.person_key).cloned().unwrap_or_default(),
        aliases: entity.aliases.iter().map(|alias| alias.name.clone()).collect(),
        groups: groups.into_iter().map(|group| group.name).collect(),
        about: about.map(|(key, value)| (key.clone(), value.clone())).collect(),
        entity_id: entity.id,
        name,
    })
}

fn refused(why: &str) -> Error {
    Error::Coded(403, format!("jit_identity: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::port::Alias;

    fn entity(aliases: &[(&str, &str)], metadata: &[(&str, &str)]) -> Entity {
        let alias = |(kind, name): &(&str, &str)| Alias {
            mount_type: (*kind).into(),
            mount_accessor: format!("auth_{kind}_1"),
            name: (*name).into(),
            ..Alias::default()
        };
        Entity {
            aliases: aliases.iter().map(alias).collect(),
            metadata: metadata.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Entity::default()
        }
    }

    #[test]
    fn a_class_is_derived_and_never_guessed() {
        let settings = Settings {
            identity_map: [
                ("auth_ldap_1".to_owned(), "third_party".to_owned()),
                ("odd".to_owned(), "service".to_owned()),
            ]
            .into(),
            agent_patterns: vec!["*/agent/*".into()],
            ..Settings::default()
        };
        for (aliases, metadata, wanted) in [
            (&[("userpass", "ann")][..], &[][..], Ok(Class::Human)),
            (&[("approle", "r"), ("kubernetes", "k")], &[], Ok(Class::Service)),
            (&[("ldap", "ann")], &[], Ok(Class::ThirdParty)),
            (&[("odd", "x")], &[], Ok(Class::Service)),
            (&[("jwt", "spiffe://x/agent/bot")], &[], Ok(Class::Agent)),
            (&[("oidc", "a"), ("kubernetes", "b")], &[], Err(Unknown::Ambiguous(Class::Human, Class::Service))),
            (&[("oidc", "a"), ("kubernetes", "b")], &[("jit_class", "human")], Ok(Class::Human)),
            (&[("userpass", "a")], &[("jit_class", "wizard")], Err(Unknown::NoClass)),
            (&[("userpass", "a"), ("strange", "b")], &[], Err(Unknown::NoRule)),
            (&[], &[], Err(Unknown::NoRule)),
        ] {
            assert_eq!(class(&entity(aliases, metadata), &settings), wanted, "{aliases:?} {metadata:?}");
        }
    }

    #[test]
    fn one_person_is_one_person_whatever_the_entity() {
        let who = |id: &str, person: &str, alias: &str| Who {
            entity_id: id.into(),
            name: id.into(),
            class: Class::Human,
            person: person.into(),
            aliases: vec![alias.into()],
            groups: BTreeSet::new(),
            about: BTreeMap::new(),
        };
        let ann = who("1", "p7", "ann");
        for (other, same) in [
            (who("1", "", "x"), true),
            (who("2", "p7", "x"), true),
            (who("2", "", "ANN"), true),
            (who("2", "p8", "bob"), false),
            (who("2", "", "bob"), false),
        ] {
            assert_eq!(ann.is_same_person(&other), same, "{other:?}");
        }
        assert!(!who("1", "", "a").is_same_person(&who("2", "", "b")), "no key is no sign");
    }
}
