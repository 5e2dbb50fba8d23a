//! MySQL and MariaDB: what is not the same as for every database.

mod connections;
mod credentials;
mod rotation;

use serde_json::{Value, json};

use crate::parity::table::Table;

/// What is in the server before the first row.
pub const WORLD: &str = "
CREATE DATABASE shop;
CREATE TABLE shop.orders (id int, note text);
CREATE TABLE shop.customers (id int, secret text);
CREATE USER weak@'%' IDENTIFIED BY 'weak';
CREATE USER odd@'%' IDENTIFIED BY 'p@ss:w/or#d%';
CREATE USER 'a@b'@'%' IDENTIFIED BY 'x';
";

const PLUGIN: &str = "mysql-database-plugin";
const CREATE: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'";
const GRANTED: &str = "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}'; GRANT SELECT ON *.* TO '{{name}}'@'%';";

/// A connection that works, with further fields.
fn with(more: Value) -> Value {
    let mut body =
        json!({ "plugin_name": PLUGIN, "connection_url": "{url}", "username": "vaultadmin", "password": "rootpw" });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

pub fn rows(t: &mut Table) {
    connections::rows(t);
    credentials::rows(t);
    rotation::rows(t);
}
