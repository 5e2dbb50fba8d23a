use proptest::prelude::*;

use super::super::{Dialect, Script, Vars};
use super::*;

const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2E=$c3RvcmVk/+==:c2VydmVy/+==";

fn fill_all(text: &str, dialect: Dialect, vars: &Vars<'_>) -> Result<Vec<String>, String> {
    let filled = Script::parse(&[text.to_owned()], dialect).fill(vars).map_err(|e| e.to_string())?;
    Ok(filled.iter().map(|secret| secret.expose().to_owned()).collect())
}

/// One statement, a name and a password, no verifier.
fn pg(text: &str, name: &str, password: &str) -> Result<String, String> {
    let secret = Secret::new(password.to_owned());
    let vars = Vars { password: Some(&secret), expiration: Some("2026-11-22 02:11:17+0000"), ..Vars::name(name) };
    fill_all(text, Dialect::Postgres, &vars).map(|mut all| all.remove(0))
}

fn my(text: &str, name: &str, password: &str) -> Result<String, String> {
    let secret = Secret::new(password.to_owned());
    let vars = Vars { password: Some(&secret), ..Vars::name(name) };
    fill_all(text, Dialect::MySql, &vars).map(|mut all| all.remove(0))
}

/// What `{{password}}` becomes when there is a verifier.
fn with_verifier(text: &str, everywhere: bool) -> String {
    let (password, verifier) = (Secret::new("plain-password".into()), Secret::new(VERIFIER.into()));
    let vars = Vars {
        password: Some(&password),
        verifier: Some(&verifier),
        verifier_everywhere: everywhere,
        ..Vars::name("user")
    };
    fill_all(text, Dialect::Postgres, &vars).unwrap().remove(0)
}

#[test]
fn the_documented_forms() {
    assert_eq!(
        pg(
            r#"CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"#,
            "v-token-app-7Ba4-1",
            "a-B3"
        ),
        Ok(r#"CREATE ROLE "v-token-app-7Ba4-1" WITH LOGIN PASSWORD 'a-B3' VALID UNTIL '2026-11-22 02:11:17+0000'"#
            .into())
    );
    assert_eq!(
        my("CREATE USER '{{username}}'@'%' IDENTIFIED BY '{{password}}'", "u", "p"),
        Ok("CREATE USER 'u'@'%' IDENTIFIED BY 'p'".into())
    );
}

#[test]
fn other_variables_stay() {
    for text in ["SELECT '{{role}} {{ name }} {{Name}} {name}'", "SELECT {{x}}", "SELECT '{{'"] {
        assert_eq!(pg(text, "n", "p"), Ok(text.into()));
    }
    let text = "SELECT '{{password}}', '{{expiration}}', {{expiration}}, {{password}}";
    assert_eq!(fill_all(text, Dialect::Postgres, &Vars::name("n")), Ok(vec![text.into()]));
    assert_eq!(pg("SELECT '{{{name}}}'", "n", "p"), Ok("SELECT '{n}'".into()));
}

#[test]
fn a_value_is_not_filled_again() {
    assert_eq!(
        pg(r#"x "{{name}}" '{{password}}'"#, "{{password}}", "{{name}}"),
        Ok(r#"x "{{password}}" '{{name}}'"#.into())
    );
}

#[test]
fn quotes_of_values_stay_inside() {
    assert_eq!(pg(r#"x "{{name}}""#, r#"a";DROP TABLE x;--"#, ""), Ok(r#"x "a"";DROP TABLE x;--""#.into()));
    assert_eq!(pg("x '{{name}}'", r"a';b\", ""), Ok(r"x 'a'';b\'".into()));
    assert_eq!(pg("x E'{{name}}'", r"a';b\", ""), Ok(r"x E'a'';b\\'".into()));
    assert_eq!(my("x '{{name}}'", r"a';b\", ""), Ok(r"x 'a'';b\\'".into()));
    assert_eq!(my("x `{{name}}`", r"a`b\", ""), Ok(r"x `a``b\`".into()));
    assert_eq!(my(r#"x "{{name}}""#, r#"a"'\"#, ""), Ok(r#"x "a""'\\""#.into()));
    assert_eq!(pg("x U&'{{name}}'", "a'", ""), Ok("x U&'a'''".into()));
    assert!(pg("x U&'{{name}}'", r"a\0027", "").is_err());
}

#[test]
fn outside_of_quotes_only_one_word() {
    assert_eq!(pg("GRANT a TO {{name}}", "v_Token_1", ""), Ok("GRANT a TO v_Token_1".into()));
    assert_eq!(pg("x role_{{name}}_x", "1", ""), Ok("x role_1_x".into()));
    for name in ["a b", "a;b", "a--b", "-a", "a-", "", "a$$", "a'", "a\"", "a/*", "ä", "a\\"] {
        let error = pg("GRANT a TO {{name}}", name, "").unwrap_err();
        assert_eq!(error, "statement 1: {{name}} cannot be filled in safely: put double quotes around it", "{name}");
    }
    assert!(pg("VALID UNTIL {{expiration}}", "a", "").unwrap_err().contains("put single quotes around it"));
    // A word that would become the prefix of quotes.
    for text in ["x {{name}}'a\\'", "x {{name}}$$ $$", "x ${{name}}$"] {
        assert!(pg(text, "E", "").is_err(), "{text}");
    }
}

#[test]
fn a_password_is_never_bare() {
    let error = pg("CREATE ROLE x PASSWORD {{password}}", "n", "topsecret").unwrap_err();
    assert!(error.contains("{{password}}") && !error.contains("topsecret"), "{error}");
    assert!(pg("CREATE ROLE x PASSWORD '{{password}}", "n", "topsecret").is_err(), "quotes not closed");
}

#[test]
fn comments() {
    assert_eq!(pg("x /* {{name}} */", "a b", ""), Ok("x /* a b */".into()));
    assert_eq!(pg("x -- {{name}}\n y", "a\nb", ""), Ok("x -- {{name}}\n y".into()));
    assert_eq!(pg("x -- {{password}}", "a", "pw"), Ok("x -- {{password}}".into()));
    assert!(my("x /*! {{name}} */", "a */ b", "").is_err());
    assert_eq!(my("x /*! '{{name}}' */", "a-b", ""), Ok("x /*! 'a-b' */".into()));
}

#[test]
fn bodies() {
    let block = |inner: &str| format!("DO $$ BEGIN EXECUTE '{inner}'; END $$");
    let create = block(r#"CREATE ROLE "{{name}}" PASSWORD ''{{password}}'' VALID UNTIL ''{{expiration}}''"#);
    assert_eq!(
        pg(&create, "v-a--b", "x--Y0$/="),
        Ok(block(r#"CREATE ROLE "v-a--b" PASSWORD ''x--Y0$/='' VALID UNTIL ''2026-11-22 02:11:17+0000''"#))
    );
    for (name, password) in [("a\"b", "p"), ("a", "p'q"), ("a", "p\\"), ("a", "p$$q"), ("a\nb", "p"), ("ä", "p")] {
        assert!(pg(&create, name, password).is_err(), "{name} {password}");
    }
    let bare = block("CREATE ROLE {{name}} NOSUPERUSER");
    assert_eq!(pg(&bare, "a_1", ""), Ok(block("CREATE ROLE a_1 NOSUPERUSER")));
    for name in ["a SUPERUSER", "a--", "a--b", "a$$", "a;b"] {
        assert!(pg(&bare, name, "").is_err(), "{name}");
    }
    // The closing tag must stay where it was.
    assert!(pg("DO $a$ '{{name}}' $a$", "x$a$y", "").is_err());
    assert_eq!(pg("DO $a$ '{{name}}' $a$", "x$$y", ""), Ok("DO $a$ 'x$$y' $a$".into()));
}

#[test]
fn the_verifier_follows_the_keyword() {
    for text in [
        "CREATE ROLE x PASSWORD '{{password}}'",
        "CREATE ROLE x ENCRYPTED\npassword E'{{password}}'",
        "ALTER USER x PASSWORD'{{password}}'",
        r#"DO $$ BEGIN EXECUTE 'CREATE ROLE "a" PASSWORD ''{{password}}'''; END $$"#,
    ] {
        assert_eq!(with_verifier(text, false), text.replace("{{password}}", VERIFIER));
    }
    for text in [
        "SELECT dblink('password={{password}}')",
        "SELECT '{{password}}'",
        "SELECT nopassword '{{password}}'",
        "CREATE ROLE x PASSWORD 'a{{password}}'",
        "CREATE ROLE x PASSWORD '{{password}}b'",
        "CREATE USER MAPPING FOR x SERVER y OPTIONS (user 'z', password '{{password}}')",
        "DO $$ BEGIN EXECUTE format('ALTER ROLE x PASSWORD %L', '{{password}}'); END $$",
    ] {
        assert_eq!(with_verifier(text, false), text.replace("{{password}}", "plain-password"));
        assert_eq!(with_verifier(text, true), text.replace("{{password}}", VERIFIER));
    }
    assert_eq!(
        with_verifier("CREATE SERVER x OPTIONS (a 'b'); ALTER ROLE x PASSWORD '{{password}}'", false),
        "CREATE SERVER x OPTIONS (a 'b')"
    );
}

#[test]
fn nul_is_refused() {
    assert!(pg(r#"x "{{name}}""#, "a\0", "").is_err());
    assert!(pg(r#"x "{{name}}""#, "a", "\0").is_err());
}

/// What the lexer says a filled text is: kinds, with the value's own text cut out.
fn shape(text: &str, dialect: Dialect) -> Vec<Kind> {
    lex::lexemes(text, dialect).into_iter().map(|lexeme| lexeme.kind).collect()
}

proptest! {
    /// Whatever the value, a filled statement has the lexemes of its template: no value ends the quotes it stands in.
    #[test]
    fn no_value_leaves_its_place(
        name in "\\PC{0,12}|[-a-zE$'\"`;/*!#(){}\\\\ \n]{0,12}",
        place in 0_usize..12,
        mysql: bool,
    ) {
        let dialect = if mysql { Dialect::MySql } else { Dialect::Postgres };
        let template = [
            "a '{{name}}' b", "a \"{{name}}\" b", "a E'x{{name}}y' b", "a U&'{{name}}' b", "a `x` '{{name}}' b",
            "a -- {{name}}\nb", "a /* {{name}} */ b", "a $t$ '{{name}}' $t$ b", "a $$ {{name}} $$ b", "a {{name}} b",
            "a `{{name}}` b", "a /*! '{{name}}' */ b",
        ][place];
        if mysql != (place >= 10) && place >= 7 {
            return Ok(());
        }
        let plain = fill_all(template, dialect, &Vars::name("n")).unwrap().remove(0);
        if let Ok(filled) = fill_all(template, dialect, &Vars::name(&name)) {
            let word = |k: &Kind| matches!(k, Kind::Word | Kind::Other);
            let (mut want, mut got) = (shape(&plain, dialect), shape(&filled[0], dialect));
            if template.contains(" {{name}} b") {
                (want, got) = (
                    want.into_iter().filter(|k| !word(k)).collect(),
                    got.into_iter().filter(|k| !word(k)).collect(),
                );
            }
            prop_assert_eq!(want, got, "{}", filled[0]);
        }
    }

    #[test]
    fn arbitrary_templates_do_not_panic(
        text in "([-a-zE$'\"`;/*!#(){}\\\\ \n]|\\{\\{name\\}\\}|\\{\\{password\\}\\}|\\$\\$){0,30}",
        name in "\\PC{0,8}",
        mysql: bool,
    ) {
        let dialect = if mysql { Dialect::MySql } else { Dialect::Postgres };
        let secret = Secret::new("sEcReT".into());
        let vars = Vars { password: Some(&secret), verifier: Some(&secret), ..Vars::name(&name) };
        if let Err(error) = fill_all(&text, dialect, &vars) {
            prop_assert!(!error.contains("sEcReT"), "{}", error);
        }
    }
}
