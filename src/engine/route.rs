//! From a path to its route: what it takes, what it means.

use super::field::{Field, is_name};
use super::request::{Fields, Operation};

/// One path of an engine and all that is to be known of it. `P` is the engine's own name for the path.
#[derive(Debug)]
pub struct Route<P: 'static> {
    /// The engine's name for it.
    pub id: P,
    /// `config/{name}`, `remnants/{id}/retry`: names are captured, `{name@}` if it may hold `@`; `config/?`: with or
    /// without a slash at the end, as lists have it.
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

    /// The same route without the engine's name for it: all that help texts need.
    pub fn plain(&self) -> Route<()> {
        Route {
            id: (),
            pattern: self.pattern,
            operations: self.operations,
            fields: self.fields,
            details: self.details,
            synopsis: self.synopsis,
            description: self.description,
        }
    }

    /// The names of the fields that the path captures, in order.
    pub fn captures(&self) -> impl Iterator<Item = &'static str> {
        self.pattern.split('/').filter_map(captured_field)
    }

    /// The fields that the path captures, with what `path` says of each.
    pub fn captured<'a>(&self, path: &'a str) -> Captures<'a> {
        self.matches(path).unwrap_or_default()
    }

    fn matches<'a>(&self, path: &'a str) -> Option<Captures<'a>> {
        let (pattern, path) = match self.pattern.strip_suffix("/?") {
            Some(pattern) => (pattern, path.strip_suffix('/').unwrap_or(path)),
            None => (self.pattern, path),
        };
        let mut captured = Vec::new();
        let mut given = path.split('/');
        for wanted in pattern.split('/') {
            let given = given.next()?;
            match captured_field(wanted) {
                Some(field) if is_name(given) || (wanted.ends_with("@}") && is_name_with_at(given)) => {
                    captured.push((field, given));
                }
                None if wanted == given => {}
                _ => return None,
            }
        }
        given.next().is_none().then_some(captured)
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
        let mut replaced: Vec<&str> = self.captures().filter(|field| data.contains_key(*field)).collect();
        if !replaced.is_empty() {
            replaced.sort_unstable();
            warnings.push(format!(
                "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: \
                 [{}]",
                replaced.join(" ")
            ));
        }
        warnings
    }
}

/// What a path captures: the fields of a pattern with their values, in order.
pub type Captures<'a> = Vec<(&'static str, &'a str)>;

/// The field of a piece of a pattern, if it is one.
fn captured_field(piece: &'static str) -> Option<&'static str> {
    piece.strip_prefix('{')?.strip_suffix('}').map(|name| name.trim_end_matches('@'))
}

/// A name that may hold `@`, though not at an end.
fn is_name_with_at(text: &str) -> bool {
    !text.starts_with('@') && !text.ends_with('@') && is_name(&text.replace('@', "-"))
}

/// The route of a path, and the first name that the path captures (empty if it captures none).
pub fn find<'r, 'a, P>(routes: &'r [Route<P>], path: &'a str) -> Option<(&'r Route<P>, &'a str)> {
    routes.iter().find_map(|route| Some((route, route.matches(path)?.first().map_or("", |(_, name)| *name))))
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
