//! A first look at a template's text: are its actions closed, its blocks balanced and its functions known?
//!
//! Go's parser refuses such texts. Ours lets some of them through and drops the rest of the template in silence, so
//! they are found here, in the order and with the words of Go's parser.

use super::function;

/// Blocks within blocks, and `else if` after `else if`: each is a level of recursion in the parser.
const MAX_DEPTH: usize = 50;

/// Why a text is not a template, with the line on which Go's parser would notice, from 1.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanError {
    pub line: usize,
    pub message: String,
}

/// Reads the whole text once.
pub fn scan(text: &str) -> Result<(), ScanError> {
    let mut scanner = Scanner { text, at: 0, open: Vec::new(), depth: 0 };
    scanner.run().map_err(|message| {
        let read = &text[..scanner.at.min(text.len())];
        ScanError { line: 1 + read.matches('\n').count(), message }
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    If,
    With,
    Range,
    Block,
    Define,
}

/// A block that has not ended yet.
struct Open {
    kind: Kind,
    /// Its `{{else}}` has been seen.
    in_else: bool,
    /// How many levels end with it: one, and one more for each `else if`.
    levels: usize,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    open: Vec<Open>,
    depth: usize,
}

/// The first tokens of an action.
#[derive(Default)]
struct Head<'a> {
    tokens: usize,
    first: &'a str,
    second: &'a str,
}

impl<'a> Scanner<'a> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(start) = self.rest().find("{{") {
            self.at += start + 2;
            let trimmed = self.rest().strip_prefix('-').is_some_and(|r| r.starts_with([' ', '\t', '\r', '\n']));
            self.at += usize::from(trimmed);
            if self.rest().trim_start().starts_with("/*") {
                self.comment()?;
            } else {
                let head = self.action()?;
                self.block(&head)?;
            }
        }
        self.at = self.text.len();
        if self.open.is_empty() { Ok(()) } else { Err("unexpected EOF".to_owned()) }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at.min(self.text.len())..]
    }

    fn comment(&mut self) -> Result<(), String> {
        let end = self.rest().find("*/").ok_or("unclosed comment")?;
        self.at += end + 2;
        let before = self.rest();
        self.at += before.len() - before.trim_start().len();
        let close = if self.rest().starts_with("-}}") && self.rest().len() < before.len() { 3 } else { 2 };
        if close == 2 && !self.rest().starts_with("}}") {
            return Err("comment ends before closing delimiter".to_owned());
        }
        self.at += close;
        Ok(())
    }

    /// Reads to the end of the action whose opening braces have just been read.
    fn action(&mut self) -> Result<Head<'a>, String> {
        let mut head = Head::default();
        loop {
            let before = self.rest();
            self.at += before.len() - before.trim_start().len();
            let rest = self.rest();
            if rest.starts_with("}}") {
                self.at += 2;
                return Ok(head);
            }
            if rest.starts_with("-}}") && rest.len() < before.len() {
                self.at += 3;
                return Ok(head);
            }
            let Some(c) = rest.chars().next() else { return Err("unclosed action".to_owned()) };
            let mut word = "";
            match c {
                '"' => self.quoted('"', "unterminated quoted string")?,
                '\'' => self.quoted('\'', "unterminated character constant")?,
                '`' => {
                    let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                    self.at += end + 2;
                }
                '.' | '$' => self.at += 1 + identifier(&rest[1..]).len(),
                '0'..='9' => self.at += rest.len() - rest.trim_start_matches(is_word).len(),
                c if is_word(c) => {
                    word = identifier(rest);
                    if !is_keyword(word) && !function::is_known(word) {
                        return Err(format!("function \"{word}\" not defined"));
                    }
                    self.at += word.len();
                }
                c => self.at += c.len_utf8(),
            }
            match head.tokens {
                0 => head.first = word,
                1 => head.second = word,
                _ => {}
            }
            head.tokens += 1;
        }
    }

    /// A literal that ends on its own line.
    fn quoted(&mut self, quote: char, unterminated: &str) -> Result<(), String> {
        let mut escaped = false;
        for (index, c) in self.rest().char_indices().skip(1) {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == quote => {
                    self.at += index + 1;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(unterminated.to_owned())
    }

    fn block(&mut self, head: &Head<'_>) -> Result<(), String> {
        let missing = |context: &str| Err(format!("missing value for {context}"));
        match head.first {
            "" if head.tokens == 0 => missing("command"),
            word @ ("if" | "with" | "range") if head.tokens == 1 => missing(word),
            "if" => self.enter(Kind::If),
            "with" => self.enter(Kind::With),
            "range" => self.enter(Kind::Range),
            "block" => self.enter(Kind::Block),
            "define" if self.open.is_empty() => self.enter(Kind::Define),
            "define" => Err("unexpected <define> in command".to_owned()),
            "else" => self.otherwise(head.second),
            "end" => match self.open.pop() {
                Some(open) => {
                    self.depth -= open.levels;
                    Ok(())
                }
                None => Err("unexpected {{end}}".to_owned()),
            },
            word @ ("break" | "continue") if !self.open.iter().any(|open| open.kind == Kind::Range) => {
                Err(format!("{{{{{word}}}}} outside {{{{range}}}}"))
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, kind: Kind) -> Result<(), String> {
        self.open.push(Open { kind, in_else: false, levels: 0 });
        self.deeper()
    }

    fn otherwise(&mut self, then: &str) -> Result<(), String> {
        let Some(open) = self.open.last_mut() else { return Err("unexpected {{else}}".to_owned()) };
        match (open.kind, then) {
            (Kind::Block | Kind::Define, _) => Err("unexpected {{else}}".to_owned()),
            _ if open.in_else => Err("expected end; found {{else}}".to_owned()),
            (Kind::If, "if") | (Kind::With, "with") => self.deeper(),
            (_, word @ ("if" | "with")) => Err(format!("unexpected <{word}> in input")),
            _ => {
                open.in_else = true;
                Ok(())
            }
        }
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if let Some(open) = self.open.last_mut() {
            open.levels += 1;
        }
        if self.depth > MAX_DEPTH { Err(format!("more than {MAX_DEPTH} nested blocks")) } else { Ok(()) }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c| !is_word(c)).unwrap_or(text.len());
    &text[..end]
}

fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "block"
            | "break"
            | "continue"
            | "define"
            | "else"
            | "end"
            | "false"
            | "if"
            | "nil"
            | "range"
            | "template"
            | "true"
            | "with"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The messages were observed on the built-in engine, but for the last three.
    #[test]
    fn refuses_with_the_words_of_go() {
        let deep = "{{if true}}".repeat(51);
        let chain = format!("{{{{if true}}}}{}{{{{end}}}}", "{{else if true}}".repeat(51));
        for (text, line, message) in [
            ("{{ foo", 1, "function \"foo\" not defined"),
            ("a\n{{ .DisplayName | truncate 8 | foo }}", 2, "function \"foo\" not defined"),
            ("{{end}}", 1, "unexpected {{end}}"),
            ("x{{else}}y", 1, "unexpected {{else}}"),
            ("{{if true}}x", 1, "unexpected EOF"),
            ("{{if}}x{{end}}", 1, "missing value for if"),
            ("{{}}", 1, "missing value for command"),
            ("{{ }}", 1, "missing value for command"),
            ("{{\"unclosed", 1, "unterminated quoted string"),
            ("{{\"a\n\"}}", 1, "unterminated quoted string"),
            ("{{break}}", 1, "{{break}} outside {{range}}"),
            ("{{ continue }}", 1, "{{continue}} outside {{range}}"),
            ("{{ \"a\"", 1, "unclosed action"),
            ("{{/* a", 1, "unclosed comment"),
            (&deep, 1, "more than 50 nested blocks"),
            (&chain, 1, "more than 50 nested blocks"),
        ] {
            assert_eq!(scan(text), Err(ScanError { line, message: message.to_owned() }), "{text:?}");
        }
    }

    #[test]
    fn lets_templates_pass() {
        for text in [
            "",
            "x }} y",
            "{ { }",
            "{{.RoleName}}",
            "{{/* c }} */}}x",
            "{{- /* c */ -}} x",
            "{{- \"a\" -}} b",
            "{{\"}} {{end}} \\\" foo\"}}",
            "{{`\nraw }}`}}",
            "{{'\\''}}{{'\"'}}",
            "{{if true}}a{{else if false}}b{{else}}c{{end}}",
            "{{with .RoleName}}{{.}}{{else with .DisplayName}}{{.}}{{end}}",
            "{{range 3}}{{if eq . 1}}{{break}}{{end}}{{end}}",
            "{{define \"a\"}}A{{end}}{{template \"a\"}}{{block \"b\" .}}{{end}}",
            "{{$x := 1}}{{$x}}",
            "{{printf \"%d\" 0x1F}}{{1e3}}",
        ] {
            assert_eq!(scan(text), Ok(()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in "(\\{\\{|\\}\\}|-|/\\*|\\*/|if|else|end|range|define|[\"'`.$ \n]|é|[a-z0-9]){0,40}") {
            let _ = scan(&text);
        }
    }
}
