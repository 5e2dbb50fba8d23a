//! A lexer for role statements that loses nothing: the lexemes of a text, put together, are the text.
//!
//! It follows the servers' own scanners (PostgreSQL `scan.l`, MySQL `sql_lex.cc`) in what decides where a statement ends
//! and whether a byte lies inside quotes; it knows nothing of grammar. It never fails: what is not closed is one lexeme
//! up to the end of the text.

use std::ops::Range;

/// Whose language a text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PostgreSQL, with `standard_conforming_strings` on.
    Postgres,
    /// MySQL and MariaDB, with neither `ANSI_QUOTES` nor `NO_BACKSLASH_ESCAPES` in `sql_mode`.
    MySql,
    /// No SQL: rules of Redis, one a text, which are neither split nor filled here.
    Redis,
}

/// What a lexeme is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Space,
    /// A comment of either form; servers skip it.
    Comment,
    /// A MySQL comment that servers may run: `/*! … */`, `/*M! … */`.
    Executable,
    /// An identifier without quotes, a keyword, or a run of digits.
    Word,
    /// `{{name}}` and its like, outside of quotes.
    Variable,
    /// `'…'`, in which only quotes are special.
    Literal,
    /// `'…'` in which a backslash escapes: PostgreSQL's `E'…'`, MySQL's `'…'` and `"…"`.
    Escaped,
    /// PostgreSQL's `U&'…'` and `U&"…"`, in which a backslash names a character.
    Unicode,
    /// `"…"`, or MySQL's back quotes: an identifier.
    Identifier,
    /// `$tag$ … $tag$`; `tag` is the length of one delimiter.
    Dollar {
        tag: usize,
    },
    Semicolon,
    Open,
    Close,
    Other,
}

/// One lexeme: `text[span]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lexeme {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
    /// False if the text ended before the closing quote.
    pub(super) closed: bool,
}

/// The variables that are filled. The spelling is exact.
pub(super) const VARIABLES: [&str; 4] = ["{{name}}", "{{username}}", "{{password}}", "{{expiration}}"];

/// The variable that `text` begins with.
pub(super) fn variable_at(text: &str) -> Option<&'static str> {
    VARIABLES.into_iter().find(|variable| text.starts_with(variable))
}

/// All lexemes of `text`.
pub(super) fn lexemes(text: &str, dialect: Dialect) -> Vec<Lexeme> {
    if dialect == Dialect::Redis {
        return vec![Lexeme { kind: Kind::Other, span: 0..text.len(), closed: true }];
    }
    let mut found = Vec::new();
    let mut start = 0;
    let mut before = Kind::Space;
    while start < text.len() {
        let scanner = Scanner { rest: &text[start..], dialect };
        let (kind, length, closed) = scanner.next(before);
        let end = start + length;
        found.push(Lexeme { kind, span: start..end, closed });
        start = end;
        if !matches!(kind, Kind::Space | Kind::Comment) {
            before = kind;
        }
    }
    found
}

/// Looks at the beginning of `rest`, which is not empty. Everything that decides is ASCII, so that each length it gives
/// is a character boundary.
struct Scanner<'a> {
    rest: &'a str,
    dialect: Dialect,
}

impl Scanner<'_> {
    /// `before` is the last lexeme that is neither space nor comment: a literal goes on in a further pair of quotes, and
    /// PostgreSQL reads that in the manner of the first (`E'a'` on one line, `'b\'c'` on the next).
    fn next(&self, before: Kind) -> (Kind, usize, bool) {
        let bytes = self.rest.as_bytes();
        let mysql = self.dialect == Dialect::MySql;
        if let Some(variable) = variable_at(self.rest) {
            return (Kind::Variable, variable.len(), true);
        }
        match bytes[0] {
            b if is_space(b) => (Kind::Space, self.run(is_space), true),
            b'-' if bytes.get(1) == Some(&b'-')
                && (!mysql || bytes.get(2).is_none_or(|&b| is_space(b) || b.is_ascii_control())) =>
            {
                (Kind::Comment, self.line(), true)
            }
            b'#' if mysql => (Kind::Comment, self.line(), true),
            b'/' if bytes.get(1) == Some(&b'*') => self.block_comment(),
            b'\'' if mysql => self.quoted(Kind::Escaped, 0, true),
            b'\'' if before == Kind::Escaped => self.quoted(Kind::Escaped, 0, true),
            b'\'' if before == Kind::Unicode => self.quoted(Kind::Unicode, 0, false),
            b'\'' => self.quoted(Kind::Literal, 0, false),
            b'"' if mysql => self.quoted(Kind::Escaped, 0, true),
            b'"' => self.quoted(Kind::Identifier, 0, false),
            b'`' if mysql => self.quoted(Kind::Identifier, 0, false),
            b'$' if !mysql => self.dollar(),
            b';' => (Kind::Semicolon, 1, true),
            b'(' => (Kind::Open, 1, true),
            b')' => (Kind::Close, 1, true),
            b if is_word(b) || (mysql && b == b'$') => self.word(),
            _ => (Kind::Other, 1, true),
        }
    }

    /// A word, or the quoted text that a one-letter word introduces.
    fn word(&self) -> (Kind, usize, bool) {
        let bytes = self.rest.as_bytes();
        let length = self.run(|b| is_word(b) || b == b'$');
        if self.dialect == Dialect::Postgres {
            match (&bytes[..length], bytes.get(length), bytes.get(length + 1)) {
                (b"e" | b"E", Some(b'\''), _) => return self.quoted(Kind::Escaped, 1, true),
                (b"n" | b"N" | b"b" | b"B" | b"x" | b"X", Some(b'\''), _) => {
                    return self.quoted(Kind::Literal, 1, false);
                }
                (b"u" | b"U", Some(b'&'), Some(b'\'' | b'"')) => return self.quoted(Kind::Unicode, 2, false),
                _ => {}
            }
        }
        (Kind::Word, length, true)
    }

    /// Quoted text whose opening quote is at `open`. A doubled quote stands for itself.
    fn quoted(&self, kind: Kind, open: usize, backslash: bool) -> (Kind, usize, bool) {
        let bytes = self.rest.as_bytes();
        let quote = bytes[open];
        let mut at = open + 1;
        while at < bytes.len() {
            if bytes[at] == quote {
                if bytes.get(at + 1) != Some(&quote) {
                    return (kind, at + 1, true);
                }
                at += 2;
            } else if backslash && bytes[at] == b'\\' {
                at += 2;
            } else {
                at += 1;
            }
        }
        (kind, bytes.len(), false)
    }

    fn dollar(&self) -> (Kind, usize, bool) {
        let bytes = self.rest.as_bytes();
        let name = bytes[1..].iter().take_while(|&&b| is_word(b)).count();
        let digit = bytes.get(1).is_some_and(u8::is_ascii_digit);
        if digit || bytes.get(1 + name) != Some(&b'$') {
            return (Kind::Other, 1, true);
        }
        let tag = name + 2;
        match self.rest[tag..].find(&self.rest[..tag]) {
            Some(body) => (Kind::Dollar { tag }, tag + body + tag, true),
            None => (Kind::Dollar { tag }, bytes.len(), false),
        }
    }

    fn block_comment(&self) -> (Kind, usize, bool) {
        let bytes = self.rest.as_bytes();
        let mysql = self.dialect == Dialect::MySql;
        let executable = mysql && (self.rest.starts_with("/*!") || self.rest.starts_with("/*M!"));
        let kind = if executable { Kind::Executable } else { Kind::Comment };
        let (mut at, mut depth) = (2, 1_usize);
        while at < bytes.len() {
            match (bytes[at], bytes.get(at + 1)) {
                (b'*', Some(b'/')) => {
                    (at, depth) = (at + 2, depth - 1);
                    if depth == 0 {
                        return (kind, at, true);
                    }
                }
                (b'/', Some(b'*')) if !mysql => (at, depth) = (at + 2, depth + 1),
                _ => at += 1,
            }
        }
        (kind, bytes.len(), false)
    }

    fn line(&self) -> usize {
        let ends: &[char] = if self.dialect == Dialect::MySql { &['\n'] } else { &['\n', '\r'] };
        self.rest.find(ends).unwrap_or(self.rest.len())
    }

    fn run(&self, class: impl Fn(u8) -> bool) -> usize {
        self.rest.bytes().take_while(|&b| class(b)).count()
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str, dialect: Dialect) -> Vec<(Kind, &str)> {
        let found = lexemes(text, dialect);
        found.into_iter().filter(|l| l.kind != Kind::Space).map(|l| (l.kind, &text[l.span])).collect()
    }

    fn pg(text: &str) -> Vec<(Kind, &str)> {
        kinds(text, Dialect::Postgres)
    }

    #[test]
    fn postgres_quotes() {
        use Kind::*;
        assert_eq!(pg(r"'a''b\'"), [(Literal, r"'a''b\'")]);
        assert_eq!(pg(r"E'a\'b;''c' x"), [(Escaped, r"E'a\'b;''c'"), (Word, "x")]);
        assert_eq!(pg(r#""a""b" "#), [(Identifier, r#""a""b""#)]);
        assert_eq!(pg(r"U&'\0041' n'x'"), [(Unicode, r"U&'\0041'"), (Literal, "n'x'")]);
        assert_eq!(
            pg("E'a'\n--\n'b\\'' 'c'"),
            [(Escaped, "E'a'"), (Comment, "--"), (Escaped, "'b\\''"), (Escaped, "'c'")]
        );
        assert_eq!(pg("like'x'"), [(Word, "like"), (Literal, "'x'")]);
        assert_eq!(pg("$$a;b$$ $t$ $$ $t$"), [(Dollar { tag: 2 }, "$$a;b$$"), (Dollar { tag: 3 }, "$t$ $$ $t$")]);
        assert_eq!(pg("a$b$c"), [(Word, "a$b$c")]);
        assert_eq!(pg("$1$;"), [(Other, "$"), (Word, "1$"), (Semicolon, ";")]);
        assert_eq!(pg("`;`"), [(Other, "`"), (Semicolon, ";"), (Other, "`")]);
    }

    #[test]
    fn postgres_comments() {
        use Kind::*;
        assert_eq!(pg("--a;\rb"), [(Comment, "--a;"), (Word, "b")]);
        assert_eq!(pg("/* a /* ; */ ' */b"), [(Comment, "/* a /* ; */ ' */"), (Word, "b")]);
        // An operator ends where a comment begins.
        assert_eq!(pg("=--'\n'"), [(Other, "="), (Comment, "--'"), (Literal, "'")]);
    }

    #[test]
    fn mysql_forms() {
        use Kind::*;
        let my = |text| kinds(text, Dialect::MySql);
        assert_eq!(my(r"'a\'b'"), [(Escaped, r"'a\'b'")]);
        assert_eq!(my("`a``b`"), [(Identifier, "`a``b`")]);
        assert_eq!(my("#x;\n1--2"), [(Comment, "#x;"), (Word, "1"), (Other, "-"), (Other, "-"), (Word, "2")]);
        assert_eq!(my("/*!50003 x; */ /* /* */"), [(Executable, "/*!50003 x; */"), (Comment, "/* /* */")]);
        assert_eq!(my("$$;"), [(Word, "$$"), (Semicolon, ";")]);
    }

    #[test]
    fn what_is_not_closed_runs_to_the_end() {
        for text in ["'a;", "E'a\\", "\"a", "$$ a", "$t$ $$", "/* a /* */", "U&'"] {
            let found = lexemes(text, Dialect::Postgres);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(!found[0].closed, "{text}");
        }
    }

    #[test]
    fn variables_are_lexemes_of_their_own() {
        use Kind::*;
        assert_eq!(pg("a{{name}}b"), [(Word, "a"), (Variable, "{{name}}"), (Word, "b")]);
        assert_eq!(pg("{{ name }}")[0], (Other, "{"));
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "\\PC*|[-a-zE$'\"`;/*!#(){}\\\\ \n]{0,60}", mysql: bool) {
            let dialect = if mysql { Dialect::MySql } else { Dialect::Postgres };
            let found = lexemes(&text, dialect);
            let joined: String = found.iter().map(|l| &text[l.span.clone()]).collect();
            prop_assert_eq!(joined, text);
            prop_assert!(found.iter().rev().skip(1).all(|l| l.closed), "only the last lexeme can be open");
        }
    }
}
