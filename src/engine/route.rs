//! From a path to its route: what it takes, what it means.

use super::field::{Field, is_name};
use super::request::{Fields, Operation};

/// One path of an engine and all that is to be known of it. `P` is the engine's own name for the path.
#[derive(Debug)]
pub struct Route<P: 'static> {
    /// The engine's name for it.
    pub id: P,
    /// `config/{name}`, `remnants/{id}/retry`: one captured name, `{name@}` if it may hold `@`; `config/?`: a list, with
    /// or without the slash; `config/root`: itself.
    pub pattern: &'static str,
    /// What it answers to. `Create` and `Update` always come together.
    pub operations: &'static [Operation],
    /// What the engine reads of a request.
    pub fields: &'static [Field],
    /// What the engine hands on unread, whatever its name; these are the known ones.
    pub details: Option<&'static [Field]>,
    /// What it is for, in one line.
    pub synopsis: &'static str,
    /// The rest of the help text.
    pub description: &'static str,
}

impl<P> Route<P> {
    /// True if the path answers to `operation`.
    pub fn takes(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }

    /// True if the host asks whether there is an entry before it writes.
    pub fn is_checked(&self) -> bool {
        self.takes(Operation::Create) && self.takes(Operation::Read)
    }

    /// The name of the field that the path captures.
    pub fn captures(&self) -> Option<&'static str> {
        let name = self.pattern.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name);
        name.map(|name| name.trim_end_matches('@'))
    }

    /// The field that the path captures, with `name` as its value.
    pub fn captured<'a>(&self, name: &'a str) -> Option<(&'static str, &'a str)> {
        self.captures().map(|field| (field, name))
    }

    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        if let Some(list) = self.pattern.strip_suffix("/?") {
            return (path.strip_suffix('/').unwrap_or(path) == list).then_some("");
        }
        let Some((prefix, rest)) = self.pattern.split_once('{') else { return (path == self.pattern).then_some("") };
        let (_, suffix) = rest.split_once('}')?;
        let name = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let plain = if self.allows_at() { name.replace('@', "-") } else { name.to_owned() };
        let ends = !name.starts_with('@') && !name.ends_with('@');
        (ends && is_name(&plain)).then_some(name)
    }

    /// True if the captured name may hold `@`.
    pub fn allows_at(&self) -> bool {
        self.pattern.contains("@}")
    }

    /// The path as documents show it: `config/{name}`.
    pub fn shown(&self) -> String {
        self.pattern.replace("@}", "}")
    }

    /// True if a field is given in the query of a read or a list.
    pub fn takes_query(&self) -> bool {
        self.fields.iter().any(|field| field.query)
    }

    /// The warnings of the host's framework about what a request gave for nothing. They accompany an answer that has a
    /// body.
    pub fn ignored(&self, data: &Fields) -> Vec<String> {
        let mut warnings = Vec::new();
        let known = |key: &str| self.fields.iter().any(|field| field.name == key);
        let mut unknown: Vec<&str> = data.keys().map(String::as_str).filter(|key| !known(key)).collect();
        if self.details.is_none() && !unknown.is_empty() {
            unknown.sort_unstable();
            warnings.push(format!("Endpoint ignored these unrecognized parameters: [{}]", unknown.join(" ")));
        }
        if let Some(field) = self.captures().filter(|field| data.contains_key(*field)) {
            warnings.push(format!(
                "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: \
                 [{field}]"
            ));
        }
        warnings
    }
}

/// The route of a path, and the name that the path captures (empty for lists).
pub fn find<'a, P>(routes: &'static [Route<P>], path: &'a str) -> Option<(&'static Route<P>, &'a str)> {
    routes.iter().find_map(|route| Some((route, route.matches(path)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::database::paths::{Path, ROUTES};
    use crate::engine::field::FieldType;

    #[test]
    fn a_path_finds_its_route_and_name() {
        for (path, expected) in [
            ("config", Some((Path::Configs, ""))),
            ("config/", Some((Path::Configs, ""))),
            ("config/pg", Some((Path::Config, "pg"))),
            ("roles/a.b-c_d", Some((Path::Role, "a.b-c_d"))),
            ("roles/-bad", None),
            ("roles/trail.", None),
            ("roles/a/b", None),
            ("roles/ä", None),
            ("remnants/x", Some((Path::Remnant, "x"))),
            ("remnants/x/retry", Some((Path::RemnantRetry, "x"))),
            ("remnants/retry", Some((Path::Remnant, "retry"))),
            ("remnants//retry", None),
            ("creds", None),
            ("creds/", None),
            ("", None),
            ("nothing/x", None),
        ] {
            assert_eq!(find(ROUTES, path).map(|(route, name)| (route.id, name)), expected, "{path}");
        }
    }

    #[test]
    fn every_field_says_what_it_is_and_a_duration_says_its_unit() {
        for route in ROUTES {
            assert!(!route.synopsis.is_empty() && !route.description.is_empty(), "{}", route.pattern);
            for field in route.fields.iter().chain(route.details.unwrap_or_default()) {
                assert!(field.description.ends_with('.'), "{}: {}", route.pattern, field.name);
                if field.kind == FieldType::DurationSecond {
                    assert!(field.description.to_lowercase().contains("seconds"), "{}", field.name);
                }
            }
        }
    }
}
