//! Who asks, as it is written into what AWS sees: templates of identity data, and what AWS takes for names and tags.
//!
//! The directives are those of the host's policies. A value that is missing is an error, never an empty text; and a value
//! that AWS does not take is one too, never another text: two callers must not come out the same.

use crate::engine::Mount;
use crate::engine::error::Error;
use crate::engine::issue::Permit;
use crate::engine::port::{Entity, Group};

/// The longest template, in bytes.
const LONGEST: usize = 1024;

/// A parsed template.
#[derive(Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { directive: String, of: Directive },
}

/// What stands between the braces.
#[derive(Debug, PartialEq, Eq)]
enum Directive {
    RoleName,
    RequestId,
    Entity(Attribute),
    Alias(String, Attribute),
    GroupById(String, Attribute),
    GroupByName(String, Attribute),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Attribute {
    Id,
    Name,
    Metadata(String),
    CustomMetadata(String),
}

impl Template {
    /// Splits a text into what stands there and what is filled in.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("longer than {LONGEST} bytes"));
        }
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (inside, behind) = after.split_once("}}").ok_or("{{ without }}")?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let directive = inside.trim();
            let of = Directive::parse(directive).ok_or_else(|| format!("there is no {{{{{directive}}}}}"))?;
            parts.push(Part::Value { directive: directive.to_owned(), of });
            rest = behind;
        }
        if rest.contains("}}") {
            return Err("}} without {{".to_owned());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    fn asks_who(&self) -> bool {
        let asks = |part: &Part| match part {
            Part::Text(_) => false,
            Part::Value { of, .. } => !matches!(of, Directive::RoleName | Directive::RequestId),
        };
        self.0.iter().any(asks)
    }

    fn fill(&self, facts: &Facts) -> Result<String, String> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value { directive, of } => match of.value(facts).filter(|value| !value.is_empty()) {
                    Some(value) => out.push_str(value),
                    None if facts.entity.is_none() => {
                        return Err(format!("{{{{{directive}}}}} has no value: the token has no entity"));
                    }
                    None => return Err(format!("{{{{{directive}}}}} has no value for this caller")),
                },
            }
        }
        Ok(out)
    }
}

impl Directive {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "role.name" => return Some(Self::RoleName),
            "request.id" => return Some(Self::RequestId),
            _ => {}
        }
        let rest = text.strip_prefix("identity.")?;
        if let Some(rest) = rest.strip_prefix("entity.aliases.") {
            let (accessor, attribute) = rest.split_once('.')?;
            return Some(Self::Alias(accessor.to_owned(), Attribute::parse(attribute, true)?));
        }
        if let Some(attribute) = rest.strip_prefix("entity.") {
            return Attribute::parse(attribute, false).map(Self::Entity);
        }
        if let Some(rest) = rest.strip_prefix("groups.ids.") {
            let (id, attribute) = rest.split_once('.')?;
            return Some(Self::GroupById(id.to_owned(), Attribute::parse(attribute, false)?));
        }
        let (name, attribute) = rest.strip_prefix("groups.names.")?.split_once('.')?;
        Some(Self::GroupByName(name.to_owned(), Attribute::parse(attribute, false)?))
    }

    fn value<'a>(&self, facts: &'a Facts) -> Option<&'a str> {
        match self {
            Self::RoleName => return Some(&facts.role),
            Self::RequestId => return Some(&facts.request),
            _ => {}
        }
        let identity = facts.entity.as_ref()?;
        match self {
            Self::RoleName | Self::RequestId => None,
            Self::Entity(attribute) => match attribute {
                Attribute::Id => Some(&identity.id),
                Attribute::Name => Some(&identity.name),
                Attribute::Metadata(key) => identity.metadata.get(key).map(String::as_str),
                Attribute::CustomMetadata(_) => None,
            },
            Self::Alias(accessor, attribute) => {
                let alias = identity.aliases.iter().find(|alias| alias.mount_accessor == *accessor)?;
                match attribute {
                    Attribute::Id => Some(&alias.id),
                    Attribute::Name => Some(&alias.name),
                    Attribute::Metadata(key) => alias.metadata.get(key).map(String::as_str),
                    Attribute::CustomMetadata(key) => alias.custom_metadata.get(key).map(String::as_str),
                }
            }
            Self::GroupById(wanted, attribute) | Self::GroupByName(wanted, attribute) => {
                let by_id = matches!(self, Self::GroupById(..));
                let group =
                    facts.groups.iter().find(|group| *wanted == *if by_id { &group.id } else { &group.name })?;
                match attribute {
                    Attribute::Id => Some(&group.id),
                    Attribute::Name => Some(&group.name),
                    Attribute::Metadata(key) => group.metadata.get(key).map(String::as_str),
                    Attribute::CustomMetadata(_) => None,
                }
            }
        }
    }
}

impl Attribute {
    fn parse(text: &str, alias: bool) -> Option<Self> {
        let key = |prefix: &str| text.strip_prefix(prefix).filter(|key| !key.is_empty()).map(str::to_owned);
        match text {
            "id" => Some(Self::Id),
            "name" => Some(Self::Name),
            _ => match key("metadata.") {
                Some(key) => Some(Self::Metadata(key)),
                None => key("custom_metadata.").filter(|_| alias).map(Self::CustomMetadata),
            },
        }
    }
}

/// What templates are filled from.
#[derive(Debug, Default)]
pub struct Facts {
    role: String,
    request: String,
    entity: Option<Entity>,
    groups: Vec<Group>,
}

impl Facts {
    /// What is known of a caller. The host is asked only if one of the `templates` needs it.
    ///
    /// # Errors
    /// [`Error::Failed`] if a template cannot be parsed, or the host does not answer.
    pub async fn gather<'a>(
        mount: &Mount,
        role: &str,
        permit: &Permit,
        templates: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Error> {
        let mut asks = false;
        for text in templates {
            asks |= Template::parse(text).map_err(Error::Failed)?.asks_who();
        }
        let host = mount.ports.host.as_ref();
        let (entity, groups) = match permit.entity_id() {
            id if asks && !id.is_empty() => tokio::try_join!(host.entity(id), host.groups(id))?,
            _ => Default::default(),
        };
        Ok(Self { role: role.to_owned(), request: permit.request_id().to_owned(), entity, groups })
    }

    /// A template with its values.
    ///
    /// # Errors
    /// [`Error::Refused`] if one is missing; `field` is whose template it is.
    pub fn fill(&self, field: &str, text: &str) -> Result<String, Error> {
        let template = Template::parse(text).map_err(Error::Failed)?;
        template.fill(self).map_err(|why| Error::Refused(format!("cannot fill {field}: {why}")))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '=' | ',' | '.' | '@' | '-')
}

/// Whether AWS takes it for the name of a user, a session or a federated user, or for a source identity.
///
/// # Errors
/// What is wrong with it.
pub fn principal(text: &str, longest: usize) -> Result<(), String> {
    if let Some(c) = text.chars().find(|c| !is_word(*c)) {
        return Err(format!("holds {c:?}: AWS takes letters, digits and _+=,.@- there"));
    }
    match text.len() {
        length if length < 2 => Err("is shorter than the 2 characters that AWS asks for".to_owned()),
        length if length > longest => {
            Err(format!("is {length} characters long, and {longest} is the most that AWS takes"))
        }
        _ if text.starts_with("aws:") => Err("begins with aws:, which AWS keeps for itself".to_owned()),
        _ => Ok(()),
    }
}

fn is_tag(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || matches!(c, ' ' | '_' | '.' | ':' | '/' | '=' | '+' | '-' | '@'))
}

/// Whether AWS takes it for the key of a tag.
///
/// # Errors
/// What is wrong with it.
pub fn tag_key(key: &str) -> Result<(), String> {
    match key.chars().count() {
        0 => Err("a tag has no key".to_owned()),
        1..=128 if key.to_lowercase().starts_with("aws:") => Err(format!("{key:?} begins with aws:, which AWS keeps")),
        1..=128 if is_tag(key) => Ok(()),
        1..=128 => Err(format!("{key:?} holds a character that AWS does not take in tags")),
        _ => Err(format!("the key {:?}… is longer than 128 characters", key.chars().take(20).collect::<String>())),
    }
}

/// The same of its value.
///
/// # Errors
/// What is wrong with it, without the value.
pub fn tag_value(value: &str) -> Result<(), String> {
    if value.chars().count() > 256 {
        return Err("is longer than 256 characters".to_owned());
    }
    if is_tag(value) { Ok(()) } else { Err("holds a character that AWS does not take in tags".to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::engine::port::Alias;

    fn facts() -> Facts {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let alias = Alias {
            id: "alias-id".into(),
            name: "alice@example.com".into(),
            mount_accessor: "auth_oidc_1".into(),
            mount_type: "oidc".into(),
            metadata: pairs(&[("role", "dev")]),
            custom_metadata: pairs(&[("a.b", "dotted")]),
        };
        let group = Group { id: "g-1".into(), name: "ops".into(), metadata: pairs(&[("cost", "42")]) };
        let entity = Entity {
            id: "e-1".into(),
            name: "alice".into(),
            metadata: pairs(&[("team", "red"), ("empty", "")]),
            aliases: vec![alias],
            ..Entity::default()
        };
        Facts { role: "deploy".into(), request: "r-1".into(), entity: Some(entity), groups: vec![group] }
    }

    #[test]
    fn values_are_filled_in() {
        for (text, want) in [
            ("plain", "plain"),
            ("{{identity.entity.id}}", "e-1"),
            ("x-{{ identity.entity.name }}-y", "x-alice-y"),
            ("{{identity.entity.metadata.team}}/{{role.name}}", "red/deploy"),
            ("{{identity.entity.aliases.auth_oidc_1.name}}", "alice@example.com"),
            ("{{identity.entity.aliases.auth_oidc_1.metadata.role}}", "dev"),
            ("{{identity.entity.aliases.auth_oidc_1.custom_metadata.a.b}}", "dotted"),
            ("{{identity.groups.names.ops.id}}", "g-1"),
            ("{{identity.groups.ids.g-1.metadata.cost}}", "42"),
            ("{{request.id}}", "r-1"),
        ] {
            assert_eq!(Template::parse(text).unwrap().fill(&facts()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_an_error() {
        for text in [
            "{{identity.entity.metadata.none}}",
            "{{identity.entity.metadata.empty}}",
            "{{identity.entity.aliases.other.name}}",
            "{{identity.groups.names.none.id}}",
            "{{identity.groups.ids.ops.name}}",
        ] {
            assert!(Template::parse(text).unwrap().fill(&facts()).unwrap_err().contains("no value"), "{text}");
        }
        let nobody = Facts { entity: None, ..facts() };
        let text = Template::parse("{{identity.entity.id}}").unwrap().fill(&nobody).unwrap_err();
        assert!(text.contains("no entity"), "{text}");
    }

    #[test]
    fn what_is_no_directive_is_refused() {
        for text in [
            "{{",
            "}}",
            "{{}}",
            "{{identity}}",
            "{{identity.entity.password}}",
            "{{identity.entity.custom_metadata.x}}",
            "{{identity.entity.metadata.}}",
            "{{identity.entity.aliases.name}}",
            "{{request.display_name}}",
            "{{random}}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_and_tags_are_those_that_aws_takes() {
        assert_eq!(principal("a.b@c-d_e+f=,", 64), Ok(()));
        for bad in ["", "a", "a b", "ä1", "aws:x", "a/b", &"x".repeat(65)] {
            assert!(principal(bad, 64).is_err(), "{bad}");
        }
        assert_eq!((tag_key("cost:center"), tag_value("a b/ü")), (Ok(()), Ok(())));
        assert!(tag_key("AWS:x").is_err() && tag_key("").is_err() && tag_key(&"k".repeat(129)).is_err());
        assert!(tag_value("a*b").is_err() && tag_value(&"v".repeat(257)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in ".*", inside in "[a-z.{} ]{0,40}") {
            let _ = Template::parse(&text).map(|template| template.fill(&facts()));
            let _ = Template::parse(&format!("{{{{{inside}}}}}")).map(|template| template.fill(&facts()));
        }
    }
}
