//! The table. Its parts are played one after another against the same two mounts; each leaves nothing behind that the
//! next one would see, except the connections and roles it makes.
//!
//! To add rows: write them at the end of the part they belong to, play `the_built_in_engine_answers_as_itself`, and only
//! then ask whether ours agrees.

mod certificates;
mod connections;
mod credentials;
mod mariadb;
mod outage;
mod protocol;
mod redis;
mod revocation;
mod roles;
mod rotation;
mod statements;
mod usernames;

use super::table::{Row, Table};

/// What is in the database before the first row.
pub const WORLD: &str = r#"
CREATE TABLE public.customers (id int, secret text);
CREATE TABLE public.invoices (id int, amount numeric);
CREATE SEQUENCE public.numbers;
CREATE SCHEMA app;
CREATE TABLE app.orders (id int, note text);
CREATE SEQUENCE app.order_numbers;
CREATE FUNCTION app.total(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
REVOKE EXECUTE ON FUNCTION app.total FROM PUBLIC;
CREATE SCHEMA "my S";
CREATE TABLE "my S"."T x" (id int);
CREATE ROLE readers;
GRANT USAGE ON SCHEMA app TO readers;
GRANT SELECT ON app.orders TO readers;
CREATE ROLE weak LOGIN PASSWORD 'weak';
CREATE DATABASE other;
"#;

/// What is in MariaDB before the first row.
pub const MARIADB_WORLD: &str = mariadb::WORLD;

/// A role that most rows build on.
pub const LOGIN: &str = "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';";

/// Every row about MariaDB.
pub fn mariadb() -> Vec<Row> {
    let mut table = Table::default();
    mariadb::rows(&mut table);
    table.rows
}

/// Every row about Redis.
pub fn redis() -> Vec<Row> {
    let mut table = Table::default();
    redis::rows(&mut table);
    table.rows
}

/// Every row about PostgreSQL, and all that is the same for every database, in the order of play.
pub fn all() -> Vec<Row> {
    let mut table = Table::default();
    connections::rows(&mut table);
    roles::rows(&mut table);
    certificates::rows(&mut table);
    credentials::rows(&mut table);
    statements::rows(&mut table);
    usernames::rows(&mut table);
    revocation::rows(&mut table);
    rotation::rows(&mut table);
    protocol::rows(&mut table);
    outage::rows(&mut table);
    table.rows
}
