//! Role statements: decode, split with a real lexer, fill.
//!
//! The accepted forms are the built-in engine's: a list whose elements are each plain SQL, base64 of it, a JSON array of
//! texts, or base64 of that. Unlike there, a `;` inside quotes, comments or bodies ends nothing, and a value that is
//! filled in cannot leave the quotes it stands in.
//!
//! The templates are trusted, they are an operator's own SQL; the values are not.

mod fill;
mod lex;
mod split;

use std::fmt;

use crate::secret::Secret;
use crate::target::TargetError;

pub use lex::Dialect;
use lex::{Kind, Lexeme};

/// One statement of a script.
#[derive(Clone, PartialEq, Eq)]
pub struct Statement {
    text: String,
    lexemes: Vec<Lexeme>,
}

/// A list of role statements, decoded and split, ready to be filled and run in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Script {
    statements: Vec<Statement>,
    dialect: Dialect,
}

/// What is filled into a script. A variable whose value is `None` is left in place, as is any other `{{…}}`.
#[derive(Debug, Clone, Copy)]
pub struct Vars<'a> {
    /// `{{name}}` and `{{username}}`.
    pub name: &'a str,
    /// `{{password}}`.
    pub password: Option<&'a Secret>,
    /// What `{{password}}` stands for where the server takes a verifier: directly after the keyword `PASSWORD`, as in
    /// `PASSWORD '{{password}}'`, `PASSWORD E'…'`, and with doubled quotes inside the body of a `DO`. Options of
    /// foreign servers and user mappings (`OPTIONS (password '…')`) are not such a place. PostgreSQL only.
    pub verifier: Option<&'a Secret>,
    /// `{{password}}` is the verifier everywhere (the built-in engine's `password_authentication=scram-sha-256`).
    pub verifier_everywhere: bool,
    /// `{{expiration}}`.
    pub expiration: Option<&'a str>,
}

impl<'a> Vars<'a> {
    /// Only a name: what revocation and rollback statements are filled with.
    pub fn name(name: &'a str) -> Self {
        Self { name, password: None, verifier: None, verifier_everywhere: false, expiration: None }
    }
}

impl Script {
    /// Decodes and splits the elements of a statement list. Never fails: text that the lexer cannot read (a quote that
    /// is not closed) becomes one statement, and the server will say what is wrong with it. Statements that hold nothing
    /// but comments are dropped.
    pub fn parse(elements: &[String], dialect: Dialect) -> Self {
        let statements = elements
            .iter()
            .flat_map(|element| split::decode(element))
            .flat_map(|text| split::split(&text, dialect))
            .map(|text| Statement { lexemes: lex::lexemes(&text, dialect), text })
            .collect();
        Self { statements, dialect }
    }

    /// True if there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// The statements, in order.
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// True if `{{password}}` occurs anywhere.
    pub fn uses_password(&self) -> bool {
        self.statements.iter().any(|statement| statement.text.contains("{{password}}"))
    }

    /// The filled texts, one for each of [`Script::statements`]. A value that holds a variable is not filled again.
    ///
    /// Inside quotes the quotes of a value are doubled (and its backslashes where they escape). Outside of quotes, and
    /// in dollar-quoted bodies, which hold code of another language, only values that cannot be mistaken for anything
    /// else are filled.
    ///
    /// # Errors
    /// [`TargetError::Plan`], which names the statement and the fix, when a value would not be safe where it stands.
    pub fn fill(&self, vars: &Vars<'_>) -> Result<Vec<Secret>, TargetError> {
        fill::fill(self, vars)
    }
}

/// An empty script.
impl Default for Script {
    fn default() -> Self {
        Self { statements: Vec::new(), dialect: Dialect::Postgres }
    }
}

/// Tells how many statements there are, not what they say: an operator's SQL may hold anything.
impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({:?}, {} statements)", self.dialect, self.statements.len())
    }
}

impl Statement {
    /// The text as it was written, with its variables.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if every quote and comment is closed. A statement that is not must be sent by itself: put together with
    /// others it would turn their quotes inside out.
    pub fn is_closed(&self) -> bool {
        self.lexemes.last().is_none_or(|lexeme| lexeme.closed)
    }

    /// True for `BEGIN`, `START TRANSACTION`, `COMMIT` and `END`: what the transaction around the script does anyway.
    pub fn is_transaction_control(&self) -> bool {
        let words = self.words(2);
        match words.first().map(String::as_str) {
            Some("begin" | "end") => words.get(1).is_none_or(|word| word != "not"),
            Some("commit") => words.get(1).is_none_or(|word| word != "prepared"),
            Some("start") => words.get(1).is_some_and(|word| word == "transaction"),
            _ => false,
        }
    }

    /// True for `ROLLBACK` and `ABORT` (not `ROLLBACK TO` a savepoint): a script that undoes itself.
    pub fn is_rollback(&self) -> bool {
        let words = self.words(3);
        let to = words.iter().any(|word| word == "to");
        matches!(words.first().map(String::as_str), Some("rollback" | "abort")) && !to
    }

    /// True if the statement writes catalogue rows that statements for other users write too: grants on objects,
    /// default privileges, `DROP OWNED`, and code that speaks of any of these. PostgreSQL fails such writes when they
    /// happen at once (`tuple concurrently updated`). Membership in a role is not among them: each member has a row of
    /// its own.
    pub fn touches_shared_rows(&self) -> bool {
        let words = self.words(usize::MAX);
        match words.first().map(String::as_str) {
            Some("grant" | "revoke") => words.iter().any(|word| word == "on"),
            Some("drop" | "reassign") => words.get(1).is_some_and(|word| word == "owned"),
            Some("alter") => !matches!(words.get(1).map(String::as_str), Some("role" | "user" | "group")),
            Some("do" | "call" | "select") => {
                let text = self.text.to_ascii_lowercase();
                ["grant", "revoke", "owned", "privileges"].iter().any(|word| text.contains(word))
            }
            _ => false,
        }
    }

    /// True if the statement calls functions: what they write is not in its text.
    pub fn calls_functions(&self) -> bool {
        matches!(self.words(1).first().map(String::as_str), Some("do" | "call" | "select")) && self.text.contains('(')
    }

    /// The first `limit` words outside of quotes and parentheses, in lower case.
    fn words(&self, limit: usize) -> Vec<String> {
        let mut depth = 0_usize;
        let mut words = Vec::new();
        for lexeme in &self.lexemes {
            match lexeme.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                Kind::Word if depth == 0 && words.len() < limit => {
                    words.push(self.text[lexeme.span.clone()].to_ascii_lowercase());
                }
                _ => {}
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let script = Script::parse(&[text.to_owned()], Dialect::Postgres);
        assert_eq!(script.statements.len(), 1, "{text}");
        script.statements[0].clone()
    }

    #[test]
    fn transaction_control() {
        for text in ["BEGIN", "begin work", "START TRANSACTION", "Commit", "END", "/* x */ COMMIT AND NO CHAIN"] {
            assert!(one(text).is_transaction_control(), "{text}");
        }
        for text in ["COMMIT PREPARED 'x'", "ROLLBACK", "CREATE ROLE a", "START x", "\"begin\"", "BEGIN NOT ATOMIC"] {
            assert!(!one(text).is_transaction_control(), "{text}");
        }
        assert!(one("ROLLBACK").is_rollback() && one("abort").is_rollback());
        assert!(!one("ROLLBACK TO SAVEPOINT a").is_rollback() && !one("ROLLBACK WORK TO a").is_rollback());
    }

    #[test]
    fn shared_rows() {
        for text in [
            r#"GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}""#,
            r#"revoke all on database x from "{{name}}""#,
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO x",
            "ALTER TABLE x OWNER TO y",
            "DROP OWNED BY x",
            "REASSIGN OWNED BY x TO y",
            "DO $$ BEGIN EXECUTE 'GRANT SELECT ON x TO y'; END $$",
            "SELECT grant_all('{{name}}')",
        ] {
            assert!(one(text).touches_shared_rows(), "{text}");
        }
        for text in [
            r#"GRANT readonly TO "{{name}}""#,
            r#"GRANT "on" TO "{{name}}""#,
            r#"CREATE ROLE "{{name}}" LOGIN IN ROLE readonly"#,
            r#"ALTER ROLE "{{name}}" SET search_path = x"#,
            r#"DROP ROLE "{{name}}""#,
            "DO $$ BEGIN PERFORM 1; END $$",
            "SELECT give('{{name}}')",
        ] {
            assert!(!one(text).touches_shared_rows(), "{text}");
        }
        for text in ["SELECT give('{{name}}')", "CALL give('{{name}}')", "DO $$ BEGIN PERFORM give(); END $$"] {
            assert!(one(text).calls_functions(), "{text}");
        }
        assert!(!one("SELECT 1").calls_functions() && !one("CREATE TABLE x (y int)").calls_functions());
    }

    #[test]
    fn debug_says_nothing() {
        let script = Script::parse(&["SELECT 'hidden'".to_owned()], Dialect::MySql);
        assert_eq!(format!("{script:?}"), "Script(MySql, 1 statements)");
    }
}
