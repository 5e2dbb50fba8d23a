//! Hashes in the place of passwords: filled statements are rewritten where the server takes a hash.

use std::ops::Range;

use super::server::{Plugin, Server};
use crate::secret::Secret;
use crate::secret::password::NoRandomness;

/// A statement without its password.
pub struct Hashed {
    /// What to send.
    pub text: Secret,
    /// The password is still in it, in a place where the server takes nothing else.
    pub plain: bool,
    /// A password or a hash of it is in it.
    pub sensitive: bool,
}

/// Puts hashes of `password` into `statement`, which has been filled with it:
///
/// - `IDENTIFIED BY 'password'` becomes the clause of the plugin `by_default`;
/// - `IDENTIFIED WITH plugin BY 'password'` becomes `… AS 'hash'`;
/// - `IDENTIFIED VIA plugin USING PASSWORD('password')` becomes `… USING 'hash'`.
///
/// Other places keep the password: `REPLACE` of an old password, plugins that are not ours, procedure calls.
pub fn hashed(
    statement: &Secret,
    password: &Secret,
    server: &Server,
    by_default: Option<Plugin>,
) -> Result<Hashed, NoRandomness> {
    let text = statement.expose();
    let tokens = tokens(text);
    // Longest clause: about 50 characters of words and 70 of hash.
    let mut out = String::with_capacity(text.len() + 128 * tokens.len().min(8));
    let (mut done, mut at, mut rewritten) = (0, 0, false);
    while at < tokens.len() {
        let found = place(&tokens[at..], text, password.expose());
        let Some((span, length, plugin)) = found else {
            at += 1;
            continue;
        };
        let clause = match plugin {
            Place::Default => match by_default {
                Some(plugin) => Some(server.identified(plugin, &plugin.hash(password)?)),
                None => None,
            },
            Place::As(plugin) if server.plugins.contains(&plugin) => {
                Some(Secret::new(format!("AS '{}'", plugin.hash(password)?.expose())))
            }
            Place::Using(plugin) => Some(Secret::new(format!("USING '{}'", plugin.hash(password)?.expose()))),
            Place::As(_) => None,
        };
        if let Some(clause) = clause {
            out.push_str(&text[done..span.start]);
            out.push_str(clause.expose());
            (done, rewritten) = (span.end, true);
        }
        at += length;
    }
    out.push_str(&text[done..]);
    let plain = holds(&out, password.expose());
    Ok(Hashed { text: Secret::new(out), plain, sensitive: plain || rewritten })
}

/// True if `text` holds the password as it is or as it stands inside quotes.
fn holds(text: &str, password: &str) -> bool {
    if password.is_empty() {
        return false;
    }
    let doubled = |quote: &str| Secret::new(password.replace('\\', "\\\\").replace(quote, &quote.repeat(2)));
    let escaped = Secret::new(password.replace('\\', "\\\\").replace('\'', "\\'"));
    [password, doubled("'").expose(), doubled("\"").expose(), escaped.expose()].iter().any(|form| text.contains(form))
}

enum Place {
    Default,
    As(Plugin),
    Using(Plugin),
}

/// What is rewritten if a place begins at the first token: the span, how many tokens to go on, and how.
fn place(tokens: &[Token], text: &str, password: &str) -> Option<(Range<usize>, usize, Place)> {
    let word = |at: usize, expected: &[&str]| {
        let Some(Token { kind: Kind::Word, span }) = tokens.get(at) else { return false };
        expected.iter().any(|word| text[span.clone()].eq_ignore_ascii_case(word))
    };
    let other = |at: usize, expected: &str| tokens.get(at).is_some_and(|token| &text[token.span.clone()] == expected);
    let the_password = |at: usize| {
        let Some(Token { kind: Kind::Quoted, span }) = tokens.get(at) else { return false };
        unquoted(&text[span.clone()]).is_some_and(|value| value.expose() == password)
    };
    let plugin = |at: usize| {
        let token = tokens.get(at)?;
        let name = match token.kind {
            Kind::Word => text[token.span.clone()].to_owned(),
            Kind::Quoted => unquoted(&text[token.span.clone()])?.expose().to_owned(),
            Kind::Other => return None,
        };
        Plugin::named(&name.to_ascii_lowercase())
    };
    let span = |from: usize, to: usize| tokens[from].span.start..tokens[to].span.end;

    if word(0, &["identified"]) && word(1, &["by"]) && the_password(2) && !word(3, &["replace"]) {
        return Some((span(0, 2), 3, Place::Default));
    }
    if word(0, &["identified"]) && word(1, &["with"]) && word(3, &["by"]) && the_password(4) && !word(5, &["replace"]) {
        let plugin = plugin(2).filter(|plugin| *plugin != Plugin::Ed25519)?;
        return Some((span(3, 4), 5, Place::As(plugin)));
    }
    let function = word(3, &["password"]) && other(4, "(") && the_password(5) && other(6, ")");
    if word(0, &["via", "with", "or"]) && word(2, &["using", "as"]) && function {
        let plugin = plugin(1).filter(|plugin| *plugin != Plugin::CachingSha2)?;
        return Some((span(2, 6), 7, Place::Using(plugin)));
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Quoted,
    Other,
}

struct Token {
    kind: Kind,
    span: Range<usize>,
}

/// Words, quoted texts and single other characters, without spaces and comments.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let until = |end: &str, from: usize| text[at + from..].find(end).map_or(rest.len(), |i| from + i + end.len());
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'$' || !b.is_ascii();
        let dashes =
            rest.starts_with(b"--") && rest.get(2).is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control());
        let (kind, length) = match rest[0] {
            b if b.is_ascii_whitespace() => (None, 1),
            b'#' => (None, until("\n", 1)),
            b'-' if dashes => (None, until("\n", 2)),
            b'/' if rest.starts_with(b"/*") => (None, until("*/", 2)),
            b'\'' | b'"' | b'`' => (Some(Kind::Quoted), quoted(rest)),
            b if is_word(&b) => (Some(Kind::Word), rest.iter().take_while(|b| is_word(b)).count()),
            _ => (Some(Kind::Other), 1),
        };
        tokens.extend(kind.map(|kind| Token { kind, span: at..at + length }));
        at += length;
    }
    tokens
}

/// Length of the quoted text that `bytes` begin with, to the end if it is not closed.
fn quoted(bytes: &[u8]) -> usize {
    let quote = bytes[0];
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == b'\\' && quote != b'`' {
            at += 2;
        } else if bytes[at] != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return at + 1;
        }
    }
    bytes.len()
}

/// What a quoted text stands for; `None` if it is not closed.
fn unquoted(text: &str) -> Option<Secret> {
    let quote = text.chars().next()?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        if character == quote {
            if characters.next() != Some(quote) {
                return None;
            }
            out.push(quote);
        } else if character == '\\' && quote != '`' {
            out.push(match characters.next()? {
                '0' => '\0',
                'b' => '\u{8}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'Z' => '\u{1a}',
                other => other,
            });
        } else {
            out.push(character);
        }
    }
    Some(Secret::new(out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    fn mariadb() -> Server {
        Server::new("10.11.1-MariaDB", &["mysql_native_password", "ed25519"], None, None)
    }

    fn mysql() -> Server {
        Server::new("8.0.36", &["mysql_native_password", "caching_sha2_password"], None, None)
    }

    fn rewrite(statement: &str, server: &Server, plugin: Plugin) -> (String, bool) {
        let hashed = hashed(&secret(statement), &secret("secret"), server, Some(plugin)).unwrap();
        (hashed.text.expose().to_owned(), hashed.plain)
    }

    const NATIVE: &str = "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7";
    const ED25519: &str = "ZIgUREUg5PVgQ6LskhXmO+eZLS0nC8be6HPjYWR4YJY";

    #[test]
    fn mariadb_forms() {
        for (statement, plugin, expected) in [
            (
                "CREATE USER 'u'@'%' IDENTIFIED BY 'secret'",
                Plugin::Native,
                format!("CREATE USER 'u'@'%' IDENTIFIED BY PASSWORD '{NATIVE}'"),
            ),
            (
                "create user u identified /* x */ by\n\"secret\" REQUIRE SSL",
                Plugin::Ed25519,
                format!("create user u IDENTIFIED VIA ed25519 USING '{ED25519}' REQUIRE SSL"),
            ),
            (
                "CREATE USER u IDENTIFIED VIA ed25519 USING PASSWORD('secret') OR mysql_native_password USING PASSWORD ( 'secret' )",
                Plugin::Native,
                format!(
                    "CREATE USER u IDENTIFIED VIA ed25519 USING '{ED25519}' OR mysql_native_password USING '{NATIVE}'"
                ),
            ),
        ] {
            assert_eq!(rewrite(statement, &mariadb(), plugin), (expected, false));
        }
    }

    #[test]
    fn mysql_forms() {
        let (text, plain) = rewrite("CREATE USER u IDENTIFIED BY 'secret'", &mysql(), Plugin::CachingSha2);
        assert!(text.starts_with("CREATE USER u IDENTIFIED WITH caching_sha2_password AS '$A$005$"), "{text}");
        assert!(!plain);
        for name in ["mysql_native_password", "'mysql_native_password'", "`MYSQL_native_password`"] {
            let statement = format!("ALTER USER u IDENTIFIED WITH {name} BY 'secret' RETAIN CURRENT PASSWORD");
            let expected = format!("ALTER USER u IDENTIFIED WITH {name} AS '{NATIVE}' RETAIN CURRENT PASSWORD");
            assert_eq!(rewrite(&statement, &mysql(), Plugin::CachingSha2), (expected, false));
        }
    }

    #[test]
    fn places_that_keep_the_password() {
        for statement in [
            "ALTER USER u IDENTIFIED BY 'secret' REPLACE 'old'",
            "ALTER USER u IDENTIFIED WITH sha256_password BY 'secret'",
            "CREATE USER u IDENTIFIED VIA pam USING PASSWORD('secret')",
            "CALL admin.create_user('u', 'secret')",
            "SET PASSWORD FOR u = PASSWORD('secret')",
            "/*! CREATE USER u IDENTIFIED BY 'secret' */",
            "CREATE USER u IDENTIFIED BY 'secret",
        ] {
            assert_eq!(rewrite(statement, &mysql(), Plugin::Native), (statement.to_owned(), true), "{statement}");
        }
        // A plugin that the server has not: it shall say so itself.
        let server = Server::new("9.0.1", &["caching_sha2_password"], None, None);
        let statement = "CREATE USER u IDENTIFIED WITH mysql_native_password BY 'secret'";
        assert_eq!(rewrite(statement, &server, Plugin::CachingSha2), (statement.to_owned(), true));
    }

    #[test]
    fn other_texts_stay() {
        for statement in
            ["GRANT SELECT ON *.* TO 'u'@'%'", "CREATE USER u IDENTIFIED BY 'secre'", "SELECT 'identified by'"]
        {
            assert_eq!(rewrite(statement, &mysql(), Plugin::Native), (statement.to_owned(), false));
        }
    }

    #[test]
    fn no_plugin_of_ours_is_the_default() {
        let statement = secret("CREATE USER u IDENTIFIED BY 'secret'");
        let kept = hashed(&statement, &secret("secret"), &mysql(), None).unwrap();
        assert!(kept.plain && kept.text == statement);
    }

    proptest! {
        /// Whatever the password, quoted as a filled value is quoted, it is found and gone.
        #[test]
        fn any_password(password in "\\PC{7,40}|[a-z'\"\\\\`]{7,20}", double: bool) {
            let quote = if double { "\"" } else { "'" };
            let value = password.replace('\\', "\\\\").replace(quote, &quote.repeat(2));
            let statement = format!("CREATE USER 'u'@'%' IDENTIFIED BY {quote}{value}{quote}; GRANT x TO y");
            let hashed = hashed(&secret(&statement), &secret(&password), &mariadb(), Some(Plugin::Native)).unwrap();
            let hash = Plugin::Native.hash(&secret(&password)).unwrap();
            let expected = format!("CREATE USER 'u'@'%' IDENTIFIED BY PASSWORD '{}'; GRANT x TO y", hash.expose());
            prop_assert_eq!(hashed.text.expose(), expected.as_str());
            prop_assert!(hashed.sensitive && !hashed.plain);
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC*|(identified|by|with|via|using|password|[a-z'\"`\\\\()/*#-]| ){0,30}") {
            let _ = hashed(&secret(&text), &secret("a"), &mariadb(), Some(Plugin::Native)).unwrap();
        }
    }
}
