//! Showing a connection string without the password in it.

use super::{keyword, uri};

/// What a password is shown as (the built-in engine's).
const HIDDEN: &str = "xxxxx";

/// Settings of a string or parameters of a URL that are secrets.
fn is_secret(key: &str) -> bool {
    matches!(key.trim().to_ascii_lowercase().as_str(), "password" | "sslpassword" | "pwd")
}

/// A variable is not a secret: the value is elsewhere.
fn is_variable(text: &str) -> bool {
    matches!(text.trim_matches('\''), "{{password}}" | "%7B%7Bpassword%7D%7D")
}

/// The connection string for reads: verbatim, but for an embedded password, which becomes `xxxxx`. Understands URLs,
/// keyword/value strings and Go's MySQL strings; what it cannot understand it hides from the first colon or equals sign
/// that could begin a password.
pub fn redact(connection_url: &str) -> String {
    passwords(connection_url).into_iter().rev().fold(connection_url.to_owned(), |mut text, span| {
        text.replace_range(span, HIDDEN);
        text
    })
}

/// True if the string holds a password of its own, which rotation of the root credential cannot change.
pub fn has_embedded_password(connection_url: &str) -> bool {
    !passwords(connection_url).is_empty()
}

type Span = std::ops::Range<usize>;

/// Where the passwords are, in order, without overlap.
fn passwords(text: &str) -> Vec<Span> {
    let spans = if scheme_length(text).is_some() {
        in_url(text)
    } else if let Some(span) = in_mysql(text) {
        vec![span]
    } else {
        in_keywords(text)
    };
    spans.into_iter().filter(|span| !span.is_empty() && !is_variable(&text[span.clone()])).collect()
}

/// Length of `scheme://` if the text begins with one.
fn scheme_length(text: &str) -> Option<usize> {
    let at = text.find("://")?;
    let scheme = text[..at].trim_start();
    let named = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (named && !scheme.is_empty()).then_some(at + 3)
}

fn in_url(text: &str) -> Vec<Span> {
    let begin = scheme_length(text).unwrap_or(0);
    let head = &text[begin..begin + text[begin..].find(['?', '#']).unwrap_or(text.len() - begin)];
    let authority = head.split('/').next().unwrap_or(head);
    // A password that should have been escaped and was not (`user:pa/ss@host`) moves where a parser sees its end. Better
    // too much is hidden than too little.
    let end = match head.rfind('@') {
        _ if uri::settings(text).is_err() => Some(text.rfind('@').filter(|&at| at >= begin).unwrap_or(text.len())),
        Some(at) => Some(begin + at),
        None if authority.contains(':') && (!ends_in_port(authority) || at_in_key(&text[begin + head.len()..])) => {
            Some(text.rfind('@').unwrap_or(text.len()))
        }
        None => None,
    };
    let mut spans = Vec::new();
    let mut after = begin;
    if let Some(end) = end {
        if let Some(colon) = text[begin..end].find(':') {
            spans.push(begin + colon + 1..end);
        }
        after = end;
    }
    // Also behind a `#`: that a server would not see it does not make it public.
    if let Some(query) = text[after..].find('?') {
        let mut at = after + query + 1;
        for pair in text[at..].split('&') {
            if let Some((key, value)) = pair.split_once('=')
                && (is_secret(key) || key.contains('%') && is_secret(&unescaped(key)))
            {
                let from = at + key.len() + 1;
                spans.push(from..from + value.len());
            }
            at += pair.len() + 1;
        }
    }
    spans
}

/// True if each host of `a:1,[::1]:2,c` that has a colon has a number after it.
fn ends_in_port(authority: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    authority.split(',').all(|host| match host.rsplit_once(']') {
        Some((_, after)) => after.is_empty() || after.strip_prefix(':').is_some_and(number),
        None => host.split_once(':').is_none_or(|(_, port)| number(port)),
    })
}

/// True if the first `@` of a query stands outside of a value: there is no such parameter, it ends a password.
fn at_in_key(query: &str) -> bool {
    query.split_once('@').is_some_and(|(before, _)| !before.rsplit('&').next().unwrap_or(before).contains('='))
}

fn unescaped(key: &str) -> String {
    percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned()
}

/// Go's MySQL driver: `user:password@net(address)/database`. The user ends at the first colon, the password at the last
/// `@` before the last `/`.
fn in_mysql(text: &str) -> Option<Span> {
    let slash = text.rfind('/')?;
    let at = text[..slash].rfind('@')?;
    let after = &text[at + 1..slash];
    let network = after.split('(').next().unwrap_or(after);
    let is_network = network.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let has_address = after.len() == network.len() || after.ends_with(')');
    let colon = text[..at].find(':')?;
    (is_network && has_address && !text[..colon].contains('=')).then_some(colon + 1..at)
}

fn in_keywords(text: &str) -> Vec<Span> {
    if let Ok(values) = keyword::values(text) {
        return values.into_iter().filter(|value| is_secret(&value.key)).map(|value| value.span).collect();
    }
    // Not a form that we know: everything from the first word that could name a password, or from the first colon.
    let lower = text.to_ascii_lowercase();
    let named = ["password", "pwd"].iter().filter_map(|word| lower.find(word).map(|at| at + word.len())).min();
    let colon = text.find('@').and_then(|at| text[..at].find(':')).map(|at| at + 1);
    named.into_iter().chain(colon).min().map(|from| from..text.len()).into_iter().collect()
}
