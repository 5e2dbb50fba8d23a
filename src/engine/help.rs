//! `path-help` and the OpenAPI document, from the route table.

use serde_json::json;

use super::request::{Fields, Response};
use super::route::{self, Route};

/// The answer to a help request for `path`; empty means the whole mount.
pub fn answer<P>(routes: &'static [Route<P>], mount: &str, path: &str, _data: &Fields) -> Option<Response> {
    let text = if path.is_empty() {
        mount.to_owned()
    } else {
        let (route, _) = route::find(routes, path)?;
        format!("{}\n\n{}", route.synopsis, route.description)
    };
    Some(Response::data([("help", json!(text)), ("see_also", json!(null)), ("openapi", json!({}))]))
}
