//! `path-help` and the OpenAPI document, from the route table. The layout is that of the host's own engines.

use serde_json::{Map, Value, json};

use super::field::{Field, FieldType, Preset};
use super::request::{Operation, Response};
use super::route::{self, Route};

/// The answer to a help request for `path`; empty means the whole mount. `None` if there is no such path.
///
/// `engine` begins the names of the document's operations.
pub fn answer<P>(routes: &[Route<P>], engine: &str, mount: &str, path: &str) -> Option<Response> {
    let (text, openapi) = match path {
        "" => (mount_text(routes, mount), document(&routes.iter().collect::<Vec<_>>(), engine)),
        path => {
            let (route, _) = route::find(routes, path)?;
            (path_text(route, path), document(&[route], engine))
        }
    };
    Some(Response::data([("help", json!(text)), ("openapi", openapi), ("see_also", Value::Null)]))
}

fn mount_text<P>(routes: &[Route<P>], mount: &str) -> String {
    let mut paths: Vec<(String, &str)> = routes.iter().map(|route| (regex(route), route.synopsis)).collect();
    paths.sort();
    let paths: Vec<String> =
        paths.iter().map(|(regex, synopsis)| format!("    {regex}\n{}", indented(synopsis))).collect();
    format!(
        "## DESCRIPTION\n\n{mount}\n\n## PATHS\n\n\
         The following paths are supported by this backend. To view help for\n\
         any of the paths below, use the help command with any route matching\n\
         the path pattern. Note that depending on the policy of your auth token,\n\
         you may or may not be able to access certain paths.\n\n{}",
        paths.join("\n\n")
    )
}

fn path_text<P>(route: &Route<P>, path: &str) -> String {
    let mut text = format!("Request:        {path}\nMatching Route: {}\n\n{}\n\n", regex(route), route.synopsis);
    let mut fields: Vec<&Field> = all_fields(route).collect();
    fields.sort_by_key(|field| field.name);
    if !fields.is_empty() {
        text += "## PARAMETERS\n";
    }
    for field in fields {
        text += &format!("\n    {} ({})\n\n{}\n", field.name, type_name(field.kind), indented(&in_full(field)));
    }
    text + &format!("\n## DESCRIPTION\n\n{}", route.description)
}

/// Everything that can be given at a path, what it captures included.
pub fn all_fields<P>(route: &Route<P>) -> impl Iterator<Item = &'static Field> {
    route.fields.iter().chain(route.details.unwrap_or_default())
}

/// Whether the path says what the field is.
fn is_captured<P>(route: &Route<P>, field: &Field) -> bool {
    route.captures().any(|name| name == field.name)
}

/// The description and the default.
pub fn in_full(field: &Field) -> String {
    let default = match field.preset {
        Preset::Zero => return field.description.to_owned(),
        Preset::Text(text) => text.to_owned(),
        Preset::Bool(flag) => flag.to_string(),
        Preset::Int(number) => number.to_string(),
    };
    format!("{} Default: {default}.", field.description)
}

/// The pattern as the regular expression that the host's own engines print.
fn regex<P>(route: &Route<P>) -> String {
    let inside = if route.allows_at() { r"\w-.@" } else { r"\w-." };
    let mut pattern = route.shown();
    for name in route.captures() {
        pattern = pattern.replace(&format!("{{{name}}}"), &format!(r"(?P<{name}>\w(([{inside}]+)?\w)?)"));
    }
    format!("^{pattern}$")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("        {line}")).collect::<Vec<_>>().join("\n")
}

/// The type as the host's help prints it.
pub fn type_name(kind: FieldType) -> &'static str {
    match kind {
        FieldType::String | FieldType::Secret => "string",
        FieldType::NameString => "name string",
        FieldType::Bool => "bool",
        FieldType::Int => "int",
        FieldType::DurationSecond => "duration (sec)",
        FieldType::StringSlice | FieldType::CommaStringSlice => "slice",
        FieldType::KvPairs => "keypair",
        FieldType::Map => "map",
        FieldType::Json => "JSON",
    }
}

/// The operations that the document shows, and under which HTTP method.
const METHODS: &[(Operation, &str, &str)] = &[
    (Operation::Update, "post", "write"),
    (Operation::Read, "get", "read"),
    (Operation::List, "get", "list"),
    (Operation::Delete, "delete", "delete"),
];

/// The OpenAPI 3 document, with paths relative to the mount: the host merges it into that of the whole server.
fn document<P>(routes: &[&Route<P>], engine: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for route in routes {
        let shown = route.shown();
        let path = shown.trim_end_matches("/?");
        let place: Vec<&str> = path.split('/').filter(|piece| !piece.starts_with('{')).collect();
        let place = place.join("-");
        let mut item = Map::new();
        item.insert("description".into(), one_line(route.synopsis));
        let captured: Vec<Value> = route
            .captures()
            .filter_map(|name| route.fields.iter().find(|field| field.name == name))
            .map(|field| parameter(field, "path", true))
            .collect();
        if !captured.is_empty() {
            item.insert("parameters".into(), captured.into());
        }
        if route.is_checked() {
            item.insert("x-vault-createSupported".into(), json!(true));
        }
        for (operation, method, verb) in METHODS {
            if route.takes(*operation) {
                // A path and its children differ in the id only by the verb.
                let all = *operation == Operation::Read && route.pattern.ends_with("/?");
                let id = format!("{engine}-{verb}{}-{place}", if all { "-all" } else { "" });
                item.insert((*method).into(), described(route, *operation, &id, &mut schemas));
            }
        }
        paths.insert(format!("/{path}"), item.into());
    }
    json!({
        "openapi": "3.0.2",
        "info": {
            "title": "Leasehold API",
            "description": "The paths of one mount. Inside the host's document they stand below the mount's path.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn described<P>(route: &Route<P>, operation: Operation, id: &str, schemas: &mut Map<String, Value>) -> Value {
    let mut out = Map::new();
    out.insert("operationId".into(), json!(id));
    out.insert("tags".into(), json!(["secrets"]));
    let mut query: Vec<Value> = all_fields(route).filter(|f| f.query).map(|f| parameter(f, "query", false)).collect();
    if operation == Operation::List {
        query.insert(
            0,
            json!({
                "name": "list",
                "description": "Must be set to `true`",
                "in": "query",
                "schema": { "type": "string", "enum": ["true"] },
                "required": true,
            }),
        );
    }
    if !query.is_empty() {
        out.insert("parameters".into(), query.into());
    }
    let body: Vec<&Field> = all_fields(route).filter(|f| !f.query && !is_captured(route, f)).collect();
    if operation == Operation::Update && !body.is_empty() {
        let name = format!("{}Request", pascal(id));
        out.insert(
            "requestBody".into(),
            json!({
                "required": true,
                "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } },
            }),
        );
        schemas.insert(name, object(&body));
    }
    let response = match operation {
        Operation::Delete => json!({ "204": { "description": "empty body" } }),
        _ => json!({ "200": { "description": "OK" } }),
    };
    out.insert("responses".into(), response);
    out.into()
}

fn object(fields: &[&Field]) -> Value {
    let properties: Map<String, Value> = fields
        .iter()
        .map(|field| {
            let mut property = schema(field);
            property.insert("description".into(), one_line(field.description));
            (field.name.into(), property.into())
        })
        .collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

fn parameter(field: &Field, place: &str, required: bool) -> Value {
    let mut out = json!({
        "name": field.name,
        "description": one_line(field.description),
        "in": place,
        "schema": schema(field),
    });
    if required {
        out["required"] = true.into();
    }
    out
}

fn schema(field: &Field) -> Map<String, Value> {
    let (kind, format) = match field.kind {
        FieldType::String | FieldType::NameString | FieldType::Secret => ("string", None),
        FieldType::Bool => ("boolean", None),
        FieldType::Int => ("integer", None),
        FieldType::DurationSecond => ("integer", Some("seconds")),
        FieldType::StringSlice | FieldType::CommaStringSlice => ("array", None),
        FieldType::KvPairs => ("object", Some("kvpairs")),
        FieldType::Map => ("object", Some("map")),
        FieldType::Json => ("string", Some("json")),
    };
    let mut out = Map::new();
    out.insert("type".into(), kind.into());
    if let Some(format) = format {
        out.insert("format".into(), format.into());
    }
    match field.kind {
        FieldType::StringSlice | FieldType::CommaStringSlice => {
            out.insert("items".into(), json!({ "type": "string" }));
        }
        FieldType::NameString => {
            out.insert("pattern".into(), r"\w([\w-.]*\w)?".into());
        }
        FieldType::Secret => {
            out.insert("x-vault-displayAttrs".into(), json!({ "sensitive": true }));
        }
        _ => {}
    }
    match field.preset {
        Preset::Zero => None,
        Preset::Text(text) => out.insert("default".into(), text.into()),
        Preset::Bool(flag) => out.insert("default".into(), flag.into()),
        Preset::Int(number) => out.insert("default".into(), number.into()),
    };
    out
}

/// Line breaks and indentation are for the help text.
fn one_line(text: &str) -> Value {
    text.split_whitespace().collect::<Vec<_>>().join(" ").into()
}

/// `database-write-role` as `DatabaseWriteRole`.
fn pascal(id: &str) -> String {
    let capital = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_ascii_uppercase() + rest,
        None => String::new(),
    };
    id.split('-').map(capital).collect()
}

/// The field reference of the documentation, in Markdown.
pub fn reference<P>(title: &str, routes: &[Route<P>]) -> String {
    let mut text = format!(
        "# {title}\n\nMade from the route table by `make docs`; a test fails when it is out of date. Durations are \
         seconds, or\ntexts such as `90s`, `1h30m`, `2d`; reads answer with seconds.\n",
    );
    for route in routes {
        let path = route.shown().replace('{', ":").replace(['}', '?'], "");
        let methods: Vec<&str> = METHODS
            .iter()
            .filter(|(operation, ..)| route.takes(*operation))
            .map(|(operation, method, _)| if *operation == Operation::List { "LIST" } else { method })
            .collect();
        let (synopsis, description) = (route.synopsis, route.description);
        text += &format!("\n## `{path}`\n\n{}\n\n{synopsis}\n\n{description}\n", methods.join(", ").to_uppercase());
        let fields: Vec<&Field> = all_fields(route).filter(|field| !is_captured(route, field)).collect();
        if !fields.is_empty() {
            text += "\n| field | type | meaning |\n|---|---|---|\n";
        }
        for field in fields {
            let meaning = in_full(field).replace('|', "\\|");
            text += &format!("| `{}` | {} | {meaning} |\n", field.name, type_name(field.kind));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_reference_is_up_to_date() {
        for (file, wanted) in [
            ("fields.md", reference("Paths and fields", &both())),
            ("aws-fields.md", reference("Paths and fields of the AWS engine", AWS)),
        ] {
            let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("LEASEHOLD_WRITE_DOCS").is_some() {
                std::fs::write(&path, &wanted).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(found == wanted, "docs/{file} is out of date: make docs");
        }
    }
    use crate::engine::access::paths::ROUTES as ACCESS;
    use crate::engine::aws::paths::ROUTES as AWS;
    use crate::engine::database::paths::ROUTES;
    use crate::engine::request::Datum;

    fn both() -> Vec<Route<()>> {
        ROUTES.iter().map(Route::plain).chain(ACCESS.iter().map(Route::plain)).collect()
    }

    fn help(path: &str) -> (String, Value) {
        let mut data = answer(&both(), "database", "A mount.", path).unwrap().data.unwrap().into_iter();
        match (data.next(), data.next()) {
            (Some((_, Datum::Plain(Value::String(text)))), Some((_, Datum::Plain(openapi)))) => (text, openapi),
            other => panic!("{other:?}"),
        }
    }

    /// The layout was observed on the built-in engine.
    #[test]
    fn help_of_a_path_lists_its_fields_in_order() {
        let (text, openapi) = help("reset/pg");
        let want = r"Request:        reset/pg
Matching Route: ^reset/(?P<name>\w(([\w-.]+)?\w)?)$

Close the sessions of a connection and open new ones.

## PARAMETERS

    name (string)

        Name of the connection.

## DESCRIPTION

";
        assert!(text.starts_with(want), "{text}");
        assert_eq!(openapi["paths"].as_object().unwrap().keys().collect::<Vec<_>>(), ["/reset/{name}"]);
        let (text, _) = help("config/pg");
        let position = |name: &str| text.find(&format!("\n    {name} (")).unwrap_or_else(|| panic!("no {name}"));
        assert!(position("allowed_roles") < position("connection_url"));
        assert!(position("connection_url") < position("verify_connection"));
    }

    #[test]
    fn help_of_the_mount_lists_its_paths() {
        let (text, openapi) = help("");
        assert!(text.starts_with("## DESCRIPTION\n\nA mount.\n\n## PATHS\n"), "{text}");
        assert!(text.contains("\n    ^creds/(?P<name>\\w(([\\w-.]+)?\\w)?)$\n        Request "), "{text}");
        assert_eq!(openapi["paths"].as_object().unwrap().len(), both().len());
        assert!(answer(ROUTES, "database", "", "nope").is_none());
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_reference_leads_somewhere() {
        let (_, openapi) = help("");
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in openapi["paths"].as_object().unwrap() {
            for method in ["get", "post", "delete"] {
                let Some(operation) = item.get(method) else { continue };
                assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path} {method}");
                if let Some(reference) = operation.pointer("/requestBody/content/application~1json/schema/$ref") {
                    let name = reference.as_str().unwrap().strip_prefix("#/components/schemas/").unwrap();
                    assert!(openapi["components"]["schemas"][name]["properties"].is_object(), "{name}");
                }
            }
        }
        assert_eq!(openapi["paths"]["/roles/{name}"]["x-vault-createSupported"], json!(true));
    }
}
