use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;

/// 2026-11-22T04:51:31.493907247Z
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_795_323_091, 493_907_247)
}

/// Bytes that count up: deterministic, and every character comes.
fn counting() -> impl FnMut(&mut [u8]) -> Result<(), NoEntropy> {
    let mut next = 0u8;
    move |buffer| {
        for byte in buffer {
            *byte = next;
            next = next.wrapping_add(1);
        }
        Ok(())
    }
}

const NAMES: Names<'static> = Names { display_name: "token", role_name: "my-role.x", username: None };

fn render(text: &str) -> Result<String, TemplateError> {
    Template::parse(text)?.render(&NAMES, &mut counting(), now())
}

/// A refusal as the built-in engine words it when the connection is written: after `invalid username template: ` or
/// `unable to initialize username template: `, and after `template: template:`.
fn refusal(text: &str) -> String {
    let error = Template::checked(text, &mut counting(), now()).unwrap_err().to_string();
    let parse = "unable to initialize username template: unable to parse template: template: template:";
    let apply = "invalid username template: unable to apply template: template: template:";
    match (error.strip_prefix(parse), error.strip_prefix(apply)) {
        (Some(rest), _) => format!("parse {rest}"),
        (_, Some(rest)) => rest.replace("executing \"template\" at ", ""),
        _ => panic!("{error}"),
    }
}

#[test]
fn the_defaults_give_the_usernames_that_clients_know() {
    assert_eq!(render(POSTGRESQL).unwrap(), "v-token-my-role.-0123456789ABCDEFGHIJ-1795323091");
    assert_eq!(render(MYSQL).unwrap(), "v-token-my-role.x-0123456789ABCD");
    assert_eq!(render(MYSQL_LEGACY).unwrap(), "v-my-r-012345678");
    let names = Names { display_name: "token-My.App user@x", role_name: "dn", username: None };
    let template = Template::parse(POSTGRESQL).unwrap();
    let username = template.render(&names, &mut counting(), now()).unwrap();
    assert!(username.starts_with("v-token-My-dn-0123"), "{username}");
}

/// Texts and results of the built-in engine.
#[test]
fn templates_give_what_they_give_in_go() {
    for (text, want) in [
        ("x }} y", "x }} y"),
        ("{{with .RoleName}}{{.}}{{end}}", "my-role.x"),
        ("{{if false}}{{.Nope}}{{end}}x", "x"),
        ("{{random 0}}", ""),
        ("{{random 1.0}}", "0"),
        ("{{truncate 3 .RoleName}}", "my-"),
        ("{{.RoleName | truncate 100}}", "my-role.x"),
        ("{{truncate 2 \"éèà\"}}", "é"),
        ("{{truncate_sha256 12 .RoleName}}", "my-role.x"),
        ("{{truncate_sha256 9 \"abcdefghijklmnopqrstuvwxyz\"}}", "a8982c3c9"),
        ("{{truncate_sha256 9 \"abcdefghi\"}}", "abcdefghi"),
        ("{{truncate_sha256 20 \"ééééééééééééééééé\"}}", "éééééé31de13a7"),
        ("{{truncate_sha256 10 \"ééééééééééééééééé\"}}", "é50bf38cd"),
        ("{{uppercase \"aßé\"}}", "AßÉ"),
        ("{{lowercase \"AÉİ\"}}", "aéi"),
        ("{{\"ABC\" | lowercase}}", "abc"),
        ("{{replace \"-\" \"_\" .RoleName}}", "my_role.x"),
        ("{{.RoleName | replace \"-\" \"_\" | replace \".\" \"+\"}}", "my_role+x"),
        ("{{replace \"\" \"x\" \"abc\"}}", "xaxbxcx"),
        ("{{sha256 \"a\"}}", "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ("{{base64 \"abcd?>\"}}", "YWJjZD8+"),
        ("{{decode_base64 \"YWJjZA==\"}}", "abcd"),
        ("{{hex \"abé\"}}", "6162c3a9"),
        ("{{decode_hex \"6162\"}}", "ab"),
        ("{{unix_time}}", "1795323091"),
        ("{{unix_time_millis}}", "1795323091493"),
        ("{{timestamp \"2006-01-02T15:04:05Z07:00\"}}", "2026-11-22T04:51:31Z"),
        ("{{timestamp \"abc\"}}", "abc"),
        ("{{uuid}}", "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("{{ uuid | truncate 8 }}", "00010203"),
        ("{{glob \"a*c\" \"abc\"}}", "true"),
        ("{{if glob \"my*\" .RoleName}}y{{else}}n{{end}}", "y"),
        ("{{printf \"%s\" 5}}", "%!s(int=5)"),
        ("{{printf \"%d\" .RoleName}}", "%!d(string=my-role.x)"),
        ("{{printf \"%v %q %x\" .RoleName .RoleName .RoleName}}", "my-role.x \"my-role.x\" 6d792d726f6c652e78"),
        ("{{unix_time | printf \"%d\"}}", "%!d(string=1795323091)"),
        ("{{printf \"%s\" unix_time}}", "1795323091"),
        ("{{len .RoleName}}", "9"),
        ("{{if eq .RoleName \"x\"}}1{{else if ne .RoleName \"y\"}}2{{end}}", "2"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{ range 2 }}{{ break }}{{ end }}x", "x"),
        ("{{define \"a\"}}A{{.}}{{end}}{{template \"a\" .RoleName}}", "Amy-role.x"),
        ("{{block \"b\" .RoleName}}[{{.}}]{{end}}", "[my-role.x]"),
        ("{{/* c */}}x", "x"),
        ("{{- \"a\" -}} b", "ab"),
        ("{{`raw\n`}}", "raw\n"),
        ("{{'a'}}", "97"),
        ("{{print nil}}", "<nil>"),
        ("{{$x := .RoleName}}{{$x}}", "my-role.x"),
        ("{{$x := 1}}{{$x = \"a\"}}{{$x}}", "a"),
        ("{{(.RoleName)}}", "my-role.x"),
        ("{{.}}", "{token my-role.x}"),
        ("{{$x := .}}{{$x}}", "{token my-role.x}"),
        ("{{html \"<a>\"}}{{js \"'\"}}{{urlquery \"a b\"}}", "&lt;a&gt;\\'a+b"),
        ("{{not true}} {{and 1 0}} {{or 0 \"x\"}}", "false 0 x"),
        ("{{lt 1 2}}", "true"),
        ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
        ("{{ random 5 | uppercase | len }}", "5"),
        ("{{ 5 | random | len }}", "5"),
        ("{{ random 1024 | len }}", "1024"),
    ] {
        assert_eq!(render(text).as_deref(), Ok(want), "{text}");
    }
}

/// Texts and refusals of the built-in engine.
#[test]
fn refusals_are_worded_as_in_go() {
    for (text, want) in [
        ("{{ .Nope }}", "1:3: <.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("a\n b {{ .Nope }}", "2:6: <.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{.DisplayName.Foo}}", "1:14: <.DisplayName.Foo>: can't evaluate field Foo in type string"),
        ("{{.Nope.Foo}}", "1:7: <.Nope.Foo>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{$.Nope}}", "1:3: <$.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{.rolename}}", "1:2: <.rolename>: can't evaluate field rolename in type dbplugin.UsernameMetadata"),
        ("{{.RoleName}}{{.Nope}}", "1:15: <.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{truncate 5 .Nope}}", "1:13: <.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{ .Nope | truncate 5 }}", "1:3: <.Nope>: can't evaluate field Nope in type dbplugin.UsernameMetadata"),
        ("{{ foo", "parse 1: function \"foo\" not defined"),
        ("{{foo}}", "parse 1: function \"foo\" not defined"),
        ("{{ .DisplayName | foo }}", "parse 1: function \"foo\" not defined"),
        ("{{ RoleName }}", "parse 1: function \"RoleName\" not defined"),
        ("{{if true}}x", "parse 1: unexpected EOF"),
        ("a{{end}}b", "parse 1: unexpected {{end}}"),
        ("{{$y}}", "parse 1: undefined variable \"$y\""),
        ("{{if true}}{{$z := 1}}{{end}}{{$z}}", "parse 1: undefined variable \"$z\""),
        ("{{1 | 2}}", "parse 1: non executable command in pipeline stage 2"),
        ("{{random}}", "1:2: <random>: wrong number of args for random: want 1 got 0"),
        ("{{random 5 5}}", "1:2: <random>: wrong number of args for random: want 1 got 2"),
        ("{{truncate 3}}", "1:2: <truncate>: wrong number of args for truncate: want 2 got 1"),
        ("{{sha256}}", "1:2: <sha256>: wrong number of args for sha256: want 1 got 0"),
        ("{{random \"5\"}}", "1:9: <\"5\">: expected integer; found \"5\""),
        ("{{truncate .RoleName 3}}", "1:11: <.RoleName>: wrong type for value; expected int; got string"),
        ("{{hex 255}}", "1:6: <255>: expected string; found 255"),
        ("{{timestamp 1}}", "1:12: <1>: expected string; found 1"),
        ("{{uppercase .}}", "1:12: <.>: wrong type for value; expected string; got dbplugin.UsernameMetadata"),
        ("{{uppercase nil}}", "1:12: <nil>: cannot assign nil to string"),
        (
            "{{truncate 0 .RoleName}}",
            "1:2: <truncate 0 .RoleName>: error calling truncate: max length must be > 0 but was 0",
        ),
        (
            "{{ truncate -5 \"abcdefghijklmnopqrstuvwxyz\" }}",
            "1:3: <truncate -5 \"abcdefghijklmnopqrstuvwxyz\">: error calling truncate: max length must be > 0 but was -5",
        ),
        (
            "{{truncate_sha256 8 .RoleName}}",
            "1:2: <truncate_sha256 8 .RoleName>: error calling truncate_sha256: max length must be > 8 but was 8",
        ),
        (
            "{{decode_base64 \"YWJjZA\"}}",
            "1:2: <decode_base64 \"YWJjZA\">: error calling decode_base64: illegal base64 data at input byte 4",
        ),
        (
            "{{decode_base64 \"_-8=\"}}",
            "1:2: <decode_base64 \"_-8=\">: error calling decode_base64: illegal base64 data at input byte 0",
        ),
        (
            "{{decode_base64 \"a*\"}}",
            "1:2: <decode_base64 \"a*\">: error calling decode_base64: illegal base64 data at input byte 1",
        ),
        (
            "{{decode_hex \"61f\"}}",
            "1:2: <decode_hex \"61f\">: error calling decode_hex: encoding/hex: odd length hex string",
        ),
        (
            "{{decode_hex \"zz\"}}",
            "1:2: <decode_hex \"zz\">: error calling decode_hex: encoding/hex: invalid byte: U+007A 'z'",
        ),
        ("{{template \"nope\"}}", "1:11: <{{template \"nope\"}}>: template \"nope\" not defined"),
    ] {
        assert_eq!(refusal(text), want, "{text}");
    }
}

#[test]
fn the_golden_refusals_are_whole() {
    let error = |text| Template::checked(text, &mut counting(), now()).unwrap_err().to_string();
    assert_eq!(
        error("{{ .Nope }}"),
        "invalid username template: unable to apply template: template: template:1:3: executing \"template\" at <.Nope>: \
         can't evaluate field Nope in type dbplugin.UsernameMetadata"
    );
    assert_eq!(
        error("{{ foo"),
        "unable to initialize username template: unable to parse template: template: template:1: function \"foo\" not \
         defined"
    );
}

/// A field that only a real name reaches is refused when the credential is made.
#[test]
fn a_branch_not_taken_at_the_check_is_refused_later() {
    let text = "{{with .RoleName}}{{.Foo}}{{end}}";
    let template = Template::checked(text, &mut counting(), now()).unwrap();
    assert_eq!(
        template.render(&NAMES, &mut counting(), now()).unwrap_err().to_string(),
        "unable to apply template: template: template:1:20: executing \"template\" at <.Foo>: can't evaluate field Foo \
         in type string"
    );
}

#[test]
fn runs_are_bounded() {
    let doubling: String = (1..30)
        .map(|n| {
            format!("{{{{define \"{n}\"}}}}{{{{template \"{}\"}}}}{{{{template \"{}\"}}}}{{{{end}}}}", n - 1, n - 1)
        })
        .collect();
    for (text, want) in [
        ("{{random 1000000000}}".to_owned(), "length must be between 0 and 1024"),
        ("{{random -1}}".to_owned(), "length must be between 0 and 1024"),
        ("{{range 1000000000}}{{end}}".to_owned(), "range iteration budget exhausted"),
        ("{{range 1999}}{{range 1999}}x{{end}}{{end}}".to_owned(), "range iteration budget exhausted"),
        ("{{range 1500}}{{if 1}}{{1 | and 1}}{{end}}{{end}}".to_owned(), "more than 2000 steps"),
        ("{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}".to_owned(), "recursion limit exceeded"),
        ("{{define \"template\"}}{{end}}{{template \"template\"}}".to_owned(), "recursion limit exceeded"),
        (format!("{{{{define \"0\"}}}}{{{{end}}}}{doubling}{{{{template \"29\"}}}}"), "more than 2000 steps"),
        ("{{$x := \"ab\"}}{{range 100}}{{$x = print $x $x}}{{end}}".to_owned(), "longer than 8192 bytes"),
        ("{{printf \"%65535d\" 1}}".to_owned(), "longer than 8192 bytes"),
        ("{{len (printf \"%65535d\" 1)}}".to_owned(), "longer than 8192 bytes"),
        ("{{replace \"\" (printf \"%8000d\" 1) (printf \"%8000d\" 1)}}".to_owned(), "longer than 8192 bytes"),
        ("{{range 9}}{{printf \"%1024d\" 1}}{{end}}".to_owned(), "longer than 8192 bytes"),
        ("{{range 30}}{{len (random 1024)}}{{end}}".to_owned(), "too much randomness"),
    ] {
        let error = render(&text).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
        assert!(error.starts_with("unable to apply template: template: template"), "{error}");
    }
    assert!(Template::parse(&"x".repeat(4097)).is_err());
}

#[test]
fn deep_nesting_is_refused_or_done_but_never_overflows() {
    for text in [
        format!("{}{}", "{{if true}}".repeat(50), "{{end}}".repeat(50)),
        format!("{{{{if false}}}}{}{{{{end}}}}", "{{else if false}}".repeat(49)),
        format!("{{{{{}1{}}}}}", "(".repeat(99), ")".repeat(99)),
        format!("{{{{{}1{}}}}}", "(".repeat(2000), ")".repeat(2000)),
        format!(
            "{{{{define \"a\"}}}}{{{{template \"a\" {}1{}}}}}{{{{end}}}}{{{{template \"a\"}}}}",
            "(".repeat(90),
            ")".repeat(90)
        ),
        format!(
            "{{{{define \"a\"}}}}{}{{{{template \"a\"}}}}{}{{{{end}}}}{{{{template \"a\"}}}}",
            "{{if true}}".repeat(40),
            "{{end}}".repeat(40)
        ),
    ] {
        let _ = render(&text);
    }
}

#[test]
fn a_run_takes_more_random_bytes_only_when_it_needs_them() {
    let mut asked = Vec::new();
    let mut entropy = |buffer: &mut [u8]| {
        asked.push(buffer.len());
        buffer.fill(7);
        Ok(())
    };
    Template::parse(POSTGRESQL).unwrap().render(&NAMES, &mut entropy, now()).unwrap();
    let long = Template::parse("{{random 200}}").unwrap().render(&NAMES, &mut entropy, now()).unwrap();
    assert_eq!(long, "7".repeat(200));
    assert_eq!(asked, [64, 64, 64, 128]);
}

#[test]
fn without_random_bytes_there_is_no_username() {
    let mut none = |_: &mut [u8]| Err(NoEntropy);
    let error = Template::parse(POSTGRESQL).unwrap().render(&NAMES, &mut none, now()).unwrap_err();
    assert_eq!(error, TemplateError::Entropy(NoEntropy));
}

/// Words and marks of the template language in any order.
fn soup() -> impl Strategy<Value = String> {
    let words = [
        "{{",
        "}}",
        "{{-",
        "-}}",
        "/*",
        "*/",
        "(",
        ")",
        "|",
        ",",
        ":=",
        "=",
        ".",
        "$",
        "$x",
        ".RoleName",
        ".Nope",
        "\"a\"",
        "\"",
        "`",
        "'a'",
        "'",
        "0",
        "-1",
        "1e9",
        "0x1F",
        "0b1",
        "+0b1",
        "1_0",
        "99999999999999999999",
        "nil",
        "true",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "block",
        "template",
        "break",
        "continue",
        "random",
        "truncate",
        "printf",
        "\"%*d%s\"",
        "index",
        "slice",
        "len",
        "and",
        "or",
        "call",
        "unix_time",
        "foo",
        " ",
        "\n",
        "é",
        "\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"t\"",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..30).prop_map(|words| words.join(" "))
}

/// Actions that are more likely to be well formed.
fn actions() -> impl Strategy<Value = String> {
    let actions = [
        "{{if .RoleName}}",
        "{{else}}",
        "{{else if 1}}",
        "{{end}}",
        "{{range 3}}",
        "{{range $i := 2}}",
        "{{with .DisplayName}}",
        "{{define \"t\"}}",
        "{{template \"t\" .}}",
        "{{block \"b\" 1}}",
        "{{$x := print $x 1}}",
        "{{$x := \"a\"}}",
        "{{$x = print $x $x}}",
        "{{.}}",
        "{{$x}}",
        "{{random 3 | truncate 2}}",
        "{{slice \"é\" 1}}",
        "{{index \"é\" 0}}",
        "{{printf \"%.3x %q %5.1f\" \"é\" 'a' 1.5}}",
        "{{len .}}",
        "{{break}}",
        "{{- 1 -}}",
        "é",
        " x ",
    ];
    proptest::collection::vec(proptest::sample::select(actions.to_vec()), 0..14).prop_map(|actions| actions.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_is_a_surprise(text in ".{0,60}") {
        let _ = render(&text).map_err(|e| e.to_string());
    }

    #[test]
    fn no_soup_is_a_surprise(text in soup()) {
        let failed = render(&text).map_err(|e| e.to_string());
        prop_assert!(!failed.is_err_and(|e| e.contains("failed")), "{text}");
    }

    #[test]
    fn no_action_is_a_surprise(text in actions()) {
        let failed = render(&text).map_err(|e| e.to_string());
        prop_assert!(!failed.is_err_and(|e| e.contains("failed")), "{text}");
    }

    #[test]
    fn any_names_give_a_username_that_fits(display_name in ".*", role_name in ".*") {
        let names = Names { display_name: &display_name, role_name: &role_name, username: None };
        for (text, max) in [(POSTGRESQL, 63), (MYSQL, 32), (MYSQL_LEGACY, 16)] {
            let username = Template::parse(text).unwrap().render(&names, &mut counting(), now()).unwrap();
            prop_assert!(username.starts_with("v-") && username.len() <= max, "{username}");
        }
    }
}
