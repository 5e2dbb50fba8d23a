//! From the elements of a statement list to single statements.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::lex::{Dialect, Kind, lexemes};

/// The texts that one element stands for: itself, or what is in it as base64 and/or as a JSON array of texts.
pub(super) fn decode(element: &str) -> Vec<String> {
    let text = element.trim();
    let text = from_base64(text).unwrap_or_else(|| text.to_owned());
    match serde_json::from_str::<Vec<String>>(&text) {
        Ok(texts) => texts,
        Err(_) => vec![text],
    }
}

/// The decoded text, if that is something a person may have written: a word of SQL can be valid base64 by chance.
fn from_base64(text: &str) -> Option<String> {
    // Line breaks are skipped, as Go's decoder does: `base64` of the shell makes them.
    let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let text = String::from_utf8(STANDARD.decode(packed).ok()?).ok()?;
    let printable = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    (!text.trim().is_empty() && text.chars().all(printable)).then_some(text)
}

/// The statements of `text`, trimmed, without those that hold nothing to run.
pub(super) fn split(text: &str, dialect: Dialect) -> Vec<String> {
    let text = text.trim();
    let all = lexemes(text, dialect);
    if all.last().is_some_and(|last| !last.closed) {
        return vec![text.to_owned()];
    }
    let mut statements = Vec::new();
    // To a server some blanks of other scripts are words. To who writes them they are blanks, as to the built-in engine.
    let mut keep = |statement: &str| match statement.trim() {
        "" => {}
        statement => statements.push(statement.to_owned()),
    };
    let mut start = 0;
    let mut runs_something = false;
    let mut nesting = Nesting::new(dialect);
    for lexeme in all {
        let ends = lexeme.kind == Kind::Semicolon && nesting.is_outside();
        if !ends {
            runs_something |= !matches!(lexeme.kind, Kind::Space | Kind::Comment);
            nesting.follow(lexeme.kind, &text[lexeme.span]);
            continue;
        }
        if runs_something {
            keep(&text[start..lexeme.span.start]);
        }
        start = lexeme.span.end;
        runs_something = false;
        nesting = Nesting::new(dialect);
    }
    if runs_something {
        keep(&text[start..]);
    }
    statements
}

/// Whether a `;` is inside parentheses or inside the body of a routine. PostgreSQL's rules are those of `psql`; a body
/// exists only in `CREATE FUNCTION` and the like.
struct Nesting {
    dialect: Dialect,
    parentheses: usize,
    blocks: usize,
    routine: bool,
    words: usize,
    last: String,
    first: String,
}

impl Nesting {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, parentheses: 0, blocks: 0, routine: false, words: 0, last: String::new(), first: String::new() }
    }

    fn is_outside(&self) -> bool {
        self.parentheses == 0 && self.blocks == 0
    }

    fn follow(&mut self, kind: Kind, text: &str) {
        match kind {
            Kind::Open => self.parentheses += 1,
            Kind::Close => self.parentheses = self.parentheses.saturating_sub(1),
            Kind::Word if self.parentheses == 0 => self.word(text.to_ascii_lowercase()),
            _ => {}
        }
    }

    fn word(&mut self, word: String) {
        let mysql = self.dialect == Dialect::MySql;
        if self.words == 0 {
            self.first.clone_from(&word);
        }
        match word.as_str() {
            "function" | "procedure" if self.first == "create" && (mysql || self.words < 4) => self.routine = true,
            "trigger" | "event" if mysql && self.first == "create" => self.routine = true,
            // MariaDB's block without a routine.
            "atomic" if mysql && self.first == "begin" && self.words == 2 && self.last == "not" => {
                (self.routine, self.blocks) = (true, 1);
            }
            "begin" if self.routine => self.blocks += 1,
            "case" if self.blocks > 0 && self.last != "end" => self.blocks += 1,
            // `END IF` and its like close what was never counted.
            "if" | "loop" | "while" | "repeat" if mysql && self.routine && self.last == "end" => self.blocks += 1,
            "end" => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
        self.words += 1;
        self.last = word;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pg(text: &str) -> Vec<String> {
        split(text, Dialect::Postgres)
    }

    #[test]
    fn elements() {
        let encode = |text: &str| STANDARD.encode(text);
        assert_eq!(decode("  A; B "), ["A; B"]);
        assert_eq!(decode(&encode("CREATE ROLE x;\n")), ["CREATE ROLE x;\n"]);
        assert_eq!(decode(r#"["A", "B"]"#), ["A", "B"]);
        assert_eq!(decode(&encode(r#"["A","B;C"]"#)), ["A", "B;C"]);
        let long = encode(&"SELECT 1; ".repeat(20));
        let wrapped = format!("{}\n{}\n", &long[..76], &long[76..]);
        assert_eq!(decode(&wrapped), ["SELECT 1; ".repeat(20)]);
    }

    #[test]
    fn a_word_that_is_base64_by_chance_is_a_word() {
        for word in ["ROLLBACK", "COMMIT", "SAVE", "END=", "AAAA", ""] {
            assert_eq!(decode(word), [word], "{word}");
        }
    }

    #[test]
    fn the_golden_forms() {
        let create = r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#;
        let grant = r#"GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}""#;
        assert_eq!(pg(&format!("{create}; {grant};")), [create, grant]);
        assert_eq!(pg("CREATE ROL \"{{name}}\""), ["CREATE ROL \"{{name}}\""]);
        assert_eq!(pg("COMMENT ON ROLE x IS 'a;b'; y"), ["COMMENT ON ROLE x IS 'a;b'", "y"]);
        let block = "DO $$ begin execute 'a'; execute 'b'; end $$";
        assert_eq!(pg(&format!("{block}; GRANT x TO y")), [block, "GRANT x TO y"]);
    }

    #[test]
    fn nothing_to_run() {
        for text in ["", " ; ;; ", ";\u{3000};\u{3000}", "-- a; b", "/* a; */ ;\n--x"] {
            assert!(pg(text).is_empty(), "{text}");
        }
        assert_eq!(pg("-- who;\nSELECT 1 -- why;\n;"), ["-- who;\nSELECT 1 -- why;"]);
    }

    #[test]
    fn what_is_not_closed_is_one_statement() {
        assert_eq!(pg("SELECT 1; SELECT 'a; SELECT 2"), ["SELECT 1; SELECT 'a; SELECT 2"]);
    }

    #[test]
    fn postgres_bodies() {
        let body =
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END";
        assert_eq!(pg(&format!("{body}; SELECT 3")), [body, "SELECT 3"]);
        let rule = "CREATE RULE r AS ON UPDATE TO t DO (DELETE FROM a; DELETE FROM b)";
        assert_eq!(pg(&format!("{rule};SELECT 3;")), [rule, "SELECT 3"]);
        // `begin` is a block only there.
        assert_eq!(pg("BEGIN; SELECT 1; END"), ["BEGIN", "SELECT 1", "END"]);
    }

    #[test]
    fn mysql_bodies() {
        let my = |text: &str| split(text, Dialect::MySql);
        let body = "CREATE DEFINER=`a`@`%` PROCEDURE p() BEGIN IF x THEN CASE y WHEN 1 THEN SELECT 1; END CASE; \
                    SELECT CASE WHEN 1 THEN 2 END; END IF; WHILE z DO SELECT 2; END WHILE; END";
        assert_eq!(my(&format!("{body}; SELECT 3")), [body, "SELECT 3"]);
        let block = "BEGIN NOT ATOMIC SELECT 1; SELECT 2; END";
        assert_eq!(my(&format!("{block}; SELECT 3")), [block, "SELECT 3"]);
        assert_eq!(my("CREATE USER 'a;'@'%' # x;\n; GRANT b TO c"), ["CREATE USER 'a;'@'%' # x;", "GRANT b TO c"]);
    }

    proptest! {
        #[test]
        fn arbitrary_text(text in "\\PC*|[-a-zE$'\"`;/*!#(){}\\\\ \n]{0,60}", mysql: bool) {
            let dialect = if mysql { Dialect::MySql } else { Dialect::Postgres };
            for element in decode(&text) {
                for statement in split(&element, dialect) {
                    prop_assert!(!statement.is_empty() && element.contains(&statement));
                }
            }
        }

        /// Where the built-in engine's plain split works, ours agrees: no quotes, comments, parentheses or bodies.
        #[test]
        fn agrees_with_a_plain_split(text in "[a-z0-9_=,.{} ;\n]{0,80}") {
            let plain: Vec<&str> = text.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
            prop_assert_eq!(pg(&text), plain);
        }
    }

    /// Pieces of SQL that may follow each other with a space between.
    const PIECES: &[&str] = &[
        "CREATE ROLE",
        "\"a;b\"",
        "\"a\"\"b\"",
        "'it''s; fine'",
        "E'a\\'; b'",
        "$$ body; $ $$",
        "$tag$ a; $$ b; $tag$",
        "/* a; /* nested; */ b */",
        "-- to the end; of the line\n",
        "GRANT",
        "x",
        "42",
        ",",
        "*",
        ";",
        ";",
    ];

    proptest! {
        /// The lexer is our own because filling needs to know where in a text it stands, byte by byte, and because a
        /// quote that is not closed must not be an error. Where a well-known lexer has an opinion, it is the same one.
        #[test]
        fn statements_end_where_another_lexer_sees_them_end(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..20)) {
            use sqlparser::dialect::PostgreSqlDialect;
            use sqlparser::tokenizer::{Token, Tokenizer};

            let text = pieces.join(" ");
            let tokens = Tokenizer::new(&PostgreSqlDialect {}, &text).tokenize().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let statements = tokens
                .split(|token| *token == Token::SemiColon)
                .filter(|tokens| tokens.iter().any(|token| !matches!(token, Token::Whitespace(_))))
                .count();
            prop_assert_eq!(pg(&text).len(), statements, "{}", text);
        }
    }
}
