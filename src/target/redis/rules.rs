//! ACL rules of creation statements: what a minted user may do, and nothing about how it logs in.

use super::TargetError;
use crate::target::Script;

/// What a user may do if its role does not say.
const DEFAULT: [&str; 2] = ["~*", "+@read"];

/// Words that are rules by themselves.
const WORDS: [&str; 11] = [
    "on",
    "allkeys",
    "resetkeys",
    "allchannels",
    "resetchannels",
    "allcommands",
    "nocommands",
    "clearselectors",
    "sanitize-payload",
    "skip-sanitize-payload",
    "off",
];

/// The rules of a script, `{{name}}` and `{{username}}` filled.
///
/// # Errors
/// [`TargetError::Plan`] for what is not one rule, or is one about passwords. The text names the rule by its position: it
/// may hold a password.
pub fn rules(script: &Script, username: &str) -> Result<Vec<String>, TargetError> {
    if script.is_empty() {
        return Ok(DEFAULT.map(str::to_owned).to_vec());
    }
    let one = |(position, statement): (usize, &crate::target::statement::Statement)| {
        let refused = |why| TargetError::Plan(format!("ACL rule {}: {why}", position + 1));
        let rule = statement.text().trim();
        check(rule).map_err(refused)?;
        let fills = rule.contains("{{name}}") || rule.contains("{{username}}");
        if fills && !username.bytes().all(is_plain) {
            return Err(refused("the user name holds characters that mean something in a rule"));
        }
        Ok(rule.replace("{{name}}", username).replace("{{username}}", username))
    };
    script.statements().iter().enumerate().map(one).collect()
}

/// Letters that mean themselves in a key pattern.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.:@".contains(&byte)
}

fn check(rule: &str) -> Result<(), &'static str> {
    if let Some(selector) = rule.strip_prefix('(') {
        let inner = selector.strip_suffix(')').ok_or("the selector is not closed")?;
        if inner.contains(['(', ')']) {
            return Err("a selector cannot hold another");
        }
        return inner.split_ascii_whitespace().try_for_each(|rule| match rule {
            "on" | "off" | "clearselectors" | "sanitize-payload" | "skip-sanitize-payload" => {
                Err("a selector holds rules about keys, channels and commands only")
            }
            rule => single(rule),
        });
    }
    single(rule)
}

fn single(rule: &str) -> Result<(), &'static str> {
    if rule.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("this is not one rule: write each rule as an element of its own");
    }
    let lower = rule.to_ascii_lowercase();
    let patterned = ["~", "%r~", "%w~", "%rw~", "%wr~", "&"].iter().any(|prefix| lower.starts_with(prefix));
    if patterned || WORDS.contains(&lower.as_str()) {
        return Ok(());
    }
    if let Some(command) = lower.strip_prefix(['+', '-']) {
        let command = command.strip_prefix('@').unwrap_or(command);
        let named = command.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-|".contains(&b));
        return if named && !command.is_empty() { Ok(()) } else { Err("this names no command and no category") };
    }
    match lower.as_bytes() {
        [b'>' | b'<' | b'#' | b'!', ..] => Err("passwords are not for statements to set"),
        b"nopass" | b"resetpass" | b"reset" => Err("passwords are not for statements to set"),
        _ => Err("this is no rule about keys, channels or commands"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::target::Dialect;

    fn of(elements: &[&str]) -> Result<Vec<String>, String> {
        let elements: Vec<String> = elements.iter().map(|e| (*e).to_owned()).collect();
        rules(&Script::parse(&elements, Dialect::Redis), "V_TOKEN-x_1").map_err(|e| e.to_string())
    }

    #[test]
    fn the_forms_of_statements() {
        assert_eq!(of(&[]).unwrap(), DEFAULT);
        assert_eq!(of(&[r#"["~a;b","+@read", "-config|set"]"#]).unwrap(), ["~a;b", "+@read", "-config|set"]);
        assert_eq!(of(&["~a:/*'", "+@ALL", "%RW~x", "&c"]).unwrap(), ["~a:/*'", "+@ALL", "%RW~x", "&c"]);
        assert_eq!(of(&["~{{name}}:*", "(+get ~{{username}})"]).unwrap(), ["~V_TOKEN-x_1:*", "(+get ~V_TOKEN-x_1)"]);
    }

    #[test]
    fn what_is_not_a_rule_about_keys_channels_and_commands() {
        for rule in [
            ">hunter2",
            "<hunter2",
            "#c3ab8ff13720",
            "!c3ab8ff13720",
            "nopass",
            "RESETPASS",
            "reset",
            "~a +b",
            "+",
            "+@",
            "+get;x",
            "hunter2",
            "(+get >hunter2)",
            "(+get",
            "((+get))",
            "(nopass)",
            "(on)",
            "~a\u{0}",
            "+a\nb",
        ] {
            let refused = of(&[rule]).unwrap_err();
            assert!(refused.starts_with("ACL rule 1: ") && !refused.contains("hunter2"), "{rule}: {refused}");
        }
    }

    #[test]
    fn a_name_with_a_meaning_is_not_filled_into_a_pattern() {
        let script = Script::parse(&["~{{name}}:*".to_owned()], Dialect::Redis);
        assert!(rules(&script, "a*").is_err());
    }

    proptest! {
        /// No text becomes a rule about passwords.
        #[test]
        fn passwords_stay_out(rule in "\\PC{0,20}|[()~+&%><#!a-z ]{0,12}") {
            if let Ok(rules) = of(&[&rule]) {
                for rule in rules.iter().flat_map(|rule| rule.trim_matches(['(', ')']).split_ascii_whitespace()) {
                    prop_assert!(!rule.starts_with(['>', '<', '#', '!']), "{}", rule);
                    prop_assert!(!["nopass", "resetpass", "reset"].contains(&rule.to_ascii_lowercase().as_str()));
                }
            }
        }
    }
}
