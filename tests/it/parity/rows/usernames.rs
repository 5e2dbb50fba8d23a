//! User name templates and display names.

use serde_json::json;

use super::LOGIN;
use crate::parity::table::Table;

pub fn rows(t: &mut Table) {
    t.post(
        "roles/averyveryverylongrolename-x",
        json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }),
    );
    t.mint("averyveryverylongrolename-x", "long").note("a long role name");
    t.revoke("long");
    t.delete("roles/averyveryverylongrolename-x");
    t.post("roles/nm", json!({ "db_name": "pg", "creation_statements": LOGIN, "default_ttl": "1h" }));
    display_names(t);
    templates(t);
    t.post("config/pg", json!({ "username_template": "" })).note("the default again");
    t.mint("nm", "default");
    t.revoke("default");
    t.delete("roles/nm");
}

fn display_names(t: &mut Table) {
    for name in ["My.App user@x", "a", "ünïcode-näme", "x--y", "UPPER_case"] {
        t.request(
            "POST",
            "auth/token/create",
            Some(json!({ "policies": ["policy-{mount}-mint"], "display_name": name, "ttl": "1h" })),
        )
        .save("named");
        t.mint("nm", "byname").token("named").note(name);
        t.revoke("byname");
    }
}

fn templates(t: &mut Table) {
    for template in [
        "app_{{ .RoleName }}_{{ random 4 }}_{{ unix_time }}",
        "{{ .RoleName | uppercase }}~{{ random 8 }}",
        "{{ .DisplayName | replace \"o\" \"0\" | lowercase }}~{{ random 8 }}",
        "{{ printf \"%s-%d\" .RoleName 7 }}~{{ random 8 }}",
        "{{ .RoleName | sha256 | truncate 6 }}~{{ random 8 }}",
        "{{ truncate_sha256 20 \"abcdefghijklmnopqrstuvwxyz\" }}~{{ random 8 }}",
        "{{ .RoleName | base64 }}{{ \"YWJj\" | decode_base64 }}{{ .RoleName | hex }}{{ \"616263\" | decode_hex }}~{{ random 8 }}",
        "{{ timestamp \"2006\" | truncate 2 }}~{{ random 8 }}",
        "{{ if eq .RoleName \"nm\" }}yes{{ else }}no{{ end }}~{{ random 8 }}",
        "{{ with .DisplayName }}{{ . }}{{ end }}{{ len .RoleName }}~{{ random 8 }}",
        "{{ $x := .RoleName }}{{ $x }}{{/* a comment */}}{{- \" y\" -}}~{{ random 8 }}",
        "{{ glob \"n*\" .RoleName }}~{{ random 8 }}",
    ] {
        t.post("config/pg", json!({ "username_template": template }));
        t.mint("nm", "templated").note(template);
        t.login("templated");
        t.revoke("templated");
    }
    for bad in ["{{ index .RoleName 99 }}", "{{ range $i, $c := .RoleName }}{{ $i }}{{ end }}~{{ random 8 }}"] {
        t.post("config/pg", json!({ "username_template": bad })).differs(
            "template-errors",
            400,
            "invalid username template: unable to apply template",
        );
    }
    t.post("config/pg", json!({ "username_template": "fixed-{mount}-x" }));
    t.mint("nm", "fixed");
    t.get("creds/nm").note("the same name again");
    t.revoke("fixed");
    t.post("config/pg", json!({ "username_template": "{{ random 80 }}" })).differs("username-length", 400, "63");
    t.post("config/pg", json!({ "username_template": "{{ .RoleName }}~{{ random 8 }}" }));
    t.post("config/pg", json!({ "username_template": "a\"b~{{ random 8 }}" }));
    t.get("creds/nm").save("quote").differs("values-are-quoted", 200, "a\\\"b~<random>").note("a quote in the name");
    t.drop_user("quote");
    for bad in [
        "{{ random }}",
        "{{ random \"x\" }}",
        "{{ truncate 0 .RoleName }}",
        "{{ .RoleName.X }}",
        "{{ template \"x\" }}",
        "{{ if }}",
        "{{",
        "}}",
        "",
    ] {
        t.post("config/pg", json!({ "username_template": bad })).note("templates that may be refused");
    }
}
