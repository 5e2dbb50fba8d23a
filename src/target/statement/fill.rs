//! Filling in variables so that a value stays where it was put.

use super::lex::{self, Dialect, Kind, Lexeme};
use super::{Script, Statement, Vars};
use crate::secret::Secret;
use crate::target::TargetError;
use zeroize::Zeroizing;

pub(super) fn fill(script: &Script, vars: &Vars<'_>) -> Result<Vec<Secret>, TargetError> {
    let values = [Some(vars.name), vars.password.map(Secret::expose), vars.expiration];
    if values.into_iter().flatten().any(|value| value.contains('\0')) {
        return Err(TargetError::Plan("a value to fill in holds a NUL character".to_owned()));
    }
    let fill_one = |(index, statement): (usize, &Statement)| {
        Filler { statement, vars, dialect: script.dialect }.fill().map_err(|refusal| {
            let Refusal { variable, fix } = refusal;
            TargetError::Plan(format!("statement {}: {variable} cannot be filled in safely: {fix}", index + 1))
        })
    };
    script.statements.iter().enumerate().map(fill_one).collect()
}

/// Why a value was not filled: what to change in the statement.
struct Refusal {
    variable: &'static str,
    fix: &'static str,
}

struct Filler<'a> {
    statement: &'a Statement,
    vars: &'a Vars<'a>,
    dialect: Dialect,
}

/// A stretch of a template: plain text, or a variable at an offset.
enum Piece<'a> {
    Text(&'a str),
    Variable(&'static str, usize),
}

impl Filler<'_> {
    fn fill(&self) -> Result<Secret, Refusal> {
        let text = &self.statement.text;
        // Reserved at full size: a buffer that grows leaves copies of its content behind.
        let longest = [Some(self.vars.name), self.vars.expiration]
            .into_iter()
            .chain([self.vars.password, self.vars.verifier].map(|secret| secret.map(Secret::expose)))
            .flatten()
            .map(str::len)
            .max()
            .unwrap_or(0);
        let variables = text.matches("{{").count();
        let mut out = Zeroizing::new(String::with_capacity(text.len() + variables * 2 * longest));
        for (index, lexeme) in self.statement.lexemes.iter().enumerate() {
            match lexeme.kind {
                Kind::Variable => self.bare(index, lexeme, &mut out)?,
                Kind::Comment => self.comment(lexeme, &mut out),
                Kind::Literal | Kind::Escaped | Kind::Unicode | Kind::Identifier => self.quoted(lexeme, &mut out)?,
                Kind::Dollar { .. } | Kind::Executable => self.body(lexeme, &mut out)?,
                Kind::Space | Kind::Word | Kind::Semicolon | Kind::Open | Kind::Close | Kind::Other => {
                    out.push_str(&text[lexeme.span.clone()]);
                }
            }
        }
        Ok(Secret::new(std::mem::take(&mut *out)))
    }

    /// Outside of quotes: only a text that is part of one word, whatever stands beside it.
    fn bare(&self, index: usize, lexeme: &Lexeme, out: &mut String) -> Result<(), Refusal> {
        let variable = lex::variable_at(&self.statement.text[lexeme.span.clone()]).unwrap_or_default();
        let Some(value) = self.value(variable, lexeme.span.start) else {
            out.push_str(variable);
            return Ok(());
        };
        let quotes = match (variable, self.dialect) {
            ("{{name}}" | "{{username}}", Dialect::Postgres) => "put double quotes around it",
            ("{{name}}" | "{{username}}", Dialect::MySql) => "put quotes around it",
            _ => "put single quotes around it",
        };
        // Without quotes it is a syntax error anyway, and the server's message would show a part of it.
        if variable == "{{password}}" || !is_one_word(value) {
            return Err(Refusal { variable, fix: quotes });
        }
        let lexemes = &self.statement.lexemes;
        let opens_quotes = |l: &Lexeme| {
            let dollar = matches!(l.kind, Kind::Dollar { .. });
            dollar || matches!(l.kind, Kind::Literal | Kind::Escaped | Kind::Unicode | Kind::Identifier)
        };
        let after_dollar = self.statement.text[..lexeme.span.start].ends_with('$');
        if lexemes.get(index + 1).is_some_and(opens_quotes) || after_dollar {
            return Err(Refusal { variable, fix: "put a space between it and what stands beside it" });
        }
        out.push_str(value);
        Ok(())
    }

    /// Comments are not run, so nothing there is worth a refusal: what is not plain stays unfilled.
    fn comment(&self, lexeme: &Lexeme, out: &mut String) {
        let plain = |value: &str| value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_@.:+ -".contains(&b));
        for piece in pieces(&self.statement.text[lexeme.span.clone()]) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable("{{password}}", _) => out.push_str("{{password}}"),
                Piece::Variable(variable, _) => match self.value(variable, 0) {
                    Some(value) if plain(value) => out.push_str(value),
                    _ => out.push_str(variable),
                },
            }
        }
    }

    /// Inside quotes: the value's own quotes are doubled.
    fn quoted(&self, lexeme: &Lexeme, out: &mut String) -> Result<(), Refusal> {
        let text = &self.statement.text[lexeme.span.clone()];
        let quote = text.chars().find(|c| matches!(c, '\'' | '"' | '`')).unwrap_or('\'');
        for piece in pieces(text) {
            let (variable, offset) = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Variable(variable, offset) => (variable, lexeme.span.start + offset),
            };
            let Some(value) = self.value(variable, offset) else {
                out.push_str(variable);
                continue;
            };
            if !lexeme.closed && variable == "{{password}}" {
                return Err(Refusal { variable, fix: "close the quotes around it" });
            }
            if lexeme.kind == Kind::Unicode && value.contains('\\') {
                return Err(Refusal { variable, fix: "use quotes without U& around it" });
            }
            for character in value.chars() {
                if character == quote || (character == '\\' && lexeme.kind == Kind::Escaped) {
                    out.push(character);
                }
                out.push(character);
            }
        }
        Ok(())
    }

    /// Inside a dollar-quoted body or an executable comment: code of another language, in which we do not know what a
    /// quote means. Between quotes of its own a value may hold what cannot end them; elsewhere it must be one word.
    fn body(&self, lexeme: &Lexeme, out: &mut String) -> Result<(), Refusal> {
        const FIX: &str = "in a body only letters, digits and _@.:+/=$- are filled in, and only between quotes if it is \
                           more than one word";
        let text = &self.statement.text[lexeme.span.clone()];
        let begin = out.len();
        let mut last = None;
        for piece in pieces(text) {
            let (variable, offset) = match piece {
                Piece::Text(text) => {
                    out.push_str(text);
                    continue;
                }
                Piece::Variable(variable, offset) => (variable, offset),
            };
            let Some(value) = self.value(variable, lexeme.span.start + offset) else {
                out.push_str(variable);
                continue;
            };
            last = Some(variable);
            let before = text[..offset].chars().next_back();
            let after = text[offset + variable.len()..].chars().next();
            let between_quotes = before == after && matches!(before, Some('\'' | '"'));
            let harmless = |b: u8| b.is_ascii_alphanumeric() || b"_@.:+/=$ -".contains(&b);
            let safe = if between_quotes { value.bytes().all(harmless) } else { is_one_word(value) };
            if !safe || !lexeme.closed {
                return Err(Refusal { variable, fix: FIX });
            }
            out.push_str(value);
        }
        if let (Kind::Dollar { tag }, Some(variable)) = (lexeme.kind, last) {
            // The body must still end where it did.
            let filled = &out[begin..];
            let delimiter = &text[..tag];
            if filled[tag..].find(delimiter) != Some(filled.len() - 2 * tag) {
                return Err(Refusal { variable, fix: "use another tag for the dollar quotes: $body$ … $body$" });
            }
        }
        Ok(())
    }

    /// The value of a variable that stands at `offset` in the statement.
    fn value(&self, variable: &str, offset: usize) -> Option<&str> {
        match variable {
            "{{name}}" | "{{username}}" => Some(self.vars.name),
            "{{expiration}}" => self.vars.expiration,
            "{{password}}" => {
                let takes_verifier = self.vars.verifier_everywhere
                    || (self.dialect == Dialect::Postgres && self.follows_password(offset));
                let verifier = if takes_verifier { self.vars.verifier } else { None };
                verifier.or(self.vars.password).map(Secret::expose)
            }
            _ => None,
        }
    }

    /// Whether `{{password}}` at `offset` is, all of it, the literal after the keyword `PASSWORD` of a role statement.
    fn follows_password(&self, offset: usize) -> bool {
        let text = &self.statement.text;
        let (before, after) = (&text[..offset], &text[offset + "{{password}}".len()..]);
        let opened = before.trim_end_matches('\'');
        if opened.len() == before.len() || !after.starts_with('\'') {
            return false;
        }
        let word = |text: &str| text.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let keyword = match opened.strip_suffix(['e', 'E']) {
            Some(prefix) if !word(prefix) => prefix,
            _ => opened,
        }
        .trim_end();
        let Some(start) = keyword.len().checked_sub("PASSWORD".len()) else { return false };
        let is_password = keyword.is_char_boundary(start) && keyword[start..].eq_ignore_ascii_case("PASSWORD");
        is_password && !word(&keyword[..start]) && !in_options(&keyword[..start])
    }
}

/// Whether `before` ends inside `OPTIONS (…`: the password of a foreign server, which must be the password.
fn in_options(before: &str) -> bool {
    let statement = before.rsplit(';').next().unwrap_or(before).to_ascii_lowercase();
    statement.match_indices("options").any(|(at, word)| {
        let rest = statement[at + word.len()..].trim_start();
        rest.starts_with('(') && !rest.contains(')')
    })
}

/// A text that, outside of quotes, can only be a part of one word, number or version: it begins no comment and no quote,
/// whatever stands beside it.
fn is_one_word(value: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    value.bytes().next().is_some_and(word)
        && value.bytes().next_back().is_some_and(word)
        && value.bytes().all(|b| word(b) || b == b'.' || b == b'-')
        && !value.contains("--")
}

/// Cuts `text` at its variables, once from left to right.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let (mut begin, mut at) = (0, 0);
    while let Some(next) = text[at..].find("{{") {
        at += next;
        let Some(variable) = lex::variable_at(&text[at..]) else {
            at += 1;
            continue;
        };
        found.push(Piece::Text(&text[begin..at]));
        found.push(Piece::Variable(variable, at));
        at += variable.len();
        begin = at;
    }
    found.push(Piece::Text(&text[begin..]));
    found
}

#[cfg(test)]
mod tests;
