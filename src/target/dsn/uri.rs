//! `postgres://` URLs, read as Go's `net/url` and the built-in engine's driver read them.

use super::Setting;

/// True for a URL of PostgreSQL.
pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

/// The settings of a URL, escapes undone. The error is Go's, without what it quotes where that may be of a secret.
pub(super) fn settings(text: &str) -> Result<Vec<Setting>, String> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let parts = Parts::of(text);
    let mut settings = Vec::new();
    if let Some(userinfo) = parts.userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        // What is wrong in here may be a piece of a password: say what, not where.
        let hidden = |_| "invalid URL escape in user information".to_owned();
        settings.push(("user".to_owned(), unescape(user, false).map_err(hidden)?));
        if let Some(password) = password {
            settings.push(("password".to_owned(), unescape(password, false).map_err(hidden)?));
        }
    }
    let (hosts, ports) = hosts(parts.host)?;
    settings.push(("host".to_owned(), hosts));
    settings.push(("port".to_owned(), ports));
    let database = unescape(parts.path.trim_start_matches('/'), false)?;
    if !database.is_empty() {
        settings.push(("dbname".to_owned(), database));
    }
    let mut query: Vec<Setting> = Vec::new();
    for pair in parts.query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = unescape(key, true)?;
        let value = unescape(value, true).map_err(|_| "invalid URL escape in a parameter".to_owned())?;
        // The built-in engine's driver takes the first of several.
        if !query.iter().any(|(known, _)| *known == key) {
            query.push((key, value));
        }
    }
    settings.extend(query);
    Ok(settings)
}

/// The parts of a URL, still escaped.
struct Parts<'a> {
    userinfo: Option<&'a str>,
    host: &'a str,
    path: &'a str,
    query: &'a str,
}

impl<'a> Parts<'a> {
    /// Cuts a URL after its `://`.
    fn of(text: &'a str) -> Self {
        let rest = text.find("://").map_or(text, |at| &text[at + 3..]);
        let rest = rest.split('#').next().unwrap_or(rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        Self { userinfo, host, path, query }
    }
}

/// `a:1,[::1]:2,c` as hosts and ports, each joined by commas.
fn hosts(text: &str) -> Result<(String, String), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',').filter(|one| !one.is_empty()) {
        let (host, port) = match one.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or("missing ']' in host")?;
                (address, after.strip_prefix(':').unwrap_or_default())
            }
            // An address of the new kind, without brackets and without a port.
            None if one.matches(':').count() > 1 => (one, ""),
            None => one.split_once(':').unwrap_or((one, "")),
        };
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            // It may be a piece of a password that was not escaped.
            return Err("invalid port after host".to_owned());
        }
        let host = unescape(host, false)?;
        if host.contains([' ', ',']) {
            return Err("invalid character in host name".to_owned());
        }
        hosts.push(host);
        ports.push(port.to_owned());
    }
    let ports = if ports.iter().all(String::is_empty) { String::new() } else { ports.join(",") };
    Ok((hosts.join(","), ports))
}

/// Undoes percent escapes, in queries also `+` for a space.
fn unescape(text: &str, plus: bool) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'%' => {
                let digit = |at: usize| after.get(at).and_then(|&b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let shown: String = text[text.len() - after.len() - 1..].chars().take(3).collect();
                    return Err(format!("invalid URL escape {shown:?}"));
                };
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &after[2..];
            }
            b'+' if plus => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| "invalid UTF-8 in URL".to_owned())
}
