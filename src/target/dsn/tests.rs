use proptest::prelude::*;

use super::*;

fn parse(url: &str, username: &str, password: &str) -> Result<PgEndpoint, String> {
    let secret = Secret::new(password.to_owned());
    let source = Source { connection_url: url, username, password: Some(&secret), ..Source::default() };
    PgEndpoint::parse(&source).map_err(|error| error.to_string())
}

fn error(url: &str) -> String {
    parse(url, "u", "p").unwrap_err()
}

fn host(name: &str, port: u16) -> (String, u16) {
    (name.to_owned(), port)
}

fn exposed(endpoint: &PgEndpoint) -> String {
    endpoint.passwords.first().map_or_else(String::new, |password| password.expose().to_owned())
}

const TEMPLATE: &str = "postgresql://{{username}}:{{password}}@127.0.0.1:15532/postgres?sslmode=disable";

#[test]
fn the_documented_url() {
    let endpoint = parse(TEMPLATE, "vaultadmin", "rootpw").unwrap();
    assert_eq!(endpoint.hosts, [host("127.0.0.1", 15532)]);
    assert_eq!((endpoint.user.as_str(), exposed(&endpoint).as_str()), ("vaultadmin", "rootpw"));
    assert_eq!(endpoint.database, "postgres");
    assert_eq!(endpoint.ssl_mode, SslMode::Disable);
    assert_eq!(endpoint.application_name, "leasehold");
    assert!(endpoint.params.is_empty());
}

#[test]
fn values_cannot_change_the_meaning() {
    let keyword = "host=h port=1 user={{username}} password={{password}} dbname=d sslmode=disable";
    let quoted = "host=h port=1 user='{{username}}' password='{{password}}' dbname=d sslmode=disable";
    for value in ["p@ss w'd", "a/b?c#d%zz", "x' host=evil '", "a\\", "", "&sslmode=x", "{{name}}", "@evil:1/", "ä"] {
        for template in ["postgres://{{username}}:{{password}}@h:1/d?sslmode=disable", keyword, quoted] {
            let endpoint = parse(template, value, value).unwrap();
            assert_eq!((endpoint.user.as_str(), exposed(&endpoint).as_str()), (value, value), "{template}");
            assert_eq!((endpoint.hosts, endpoint.database.as_str()), (vec![host("h", 1)], "d"), "{template}");
        }
    }
}

#[test]
fn disable_escaping_puts_values_in_before_parsing() {
    let secret = Secret::new("p%40ss".to_owned());
    let source = Source {
        connection_url: TEMPLATE,
        username: "a",
        password: Some(&secret),
        disable_escaping: true,
        ..Source::default()
    };
    assert_eq!(exposed(&PgEndpoint::parse(&source).unwrap()), "p@ss");
    let secret = Secret::new("p@ss w\\'d".to_owned());
    let keyword = "host=h user='{{username}}' password='{{password}}' dbname=postgres";
    let source = Source { connection_url: keyword, password: Some(&secret), ..source };
    let endpoint = PgEndpoint::parse(&source).unwrap();
    assert_eq!((exposed(&endpoint).as_str(), endpoint.database.as_str()), ("p@ss w'd", "postgres"));
}

#[test]
fn hosts_of_urls() {
    let hosts = |url: &str| parse(url, "", "").unwrap().hosts;
    assert_eq!(hosts("postgres://a:1,b:2,c/d"), [host("a", 1), host("b", 2), host("c", 5432)]);
    assert_eq!(hosts("postgres://[::1]:7/d"), [host("::1", 7)]);
    assert_eq!(hosts("postgres://[::1]"), [host("::1", 5432)]);
    assert_eq!(hosts("postgres:///d"), [host("localhost", 5432)]);
    assert_eq!(hosts("postgres:///d?host=/run/pg&port=9"), [host("/run/pg", 9)]);
    assert_eq!(hosts("postgres://%2Frun%2Fpg/d"), [host("/run/pg", 5432)]);
    assert_eq!(hosts("host=a,b port=1,2"), [host("a", 1), host("b", 2)]);
    assert_eq!(hosts("host=a,b port=1"), [host("a", 1), host("b", 1)]);
    assert_eq!(hosts("user=x"), [host("localhost", 5432)]);
}

#[test]
fn parameters() {
    let endpoint = parse(
        "postgres://u:p%3a@h/d?sslmode=require&connect_timeout=7&application_name=my+app&target_session_attrs=read-write\
         &search_path=a%2Cb&timezone=Europe/Paris&options=-c%20geqo%3Doff%20--lock-timeout=5%20-cx.y=a%5C%20b",
        "",
        "",
    )
    .unwrap();
    assert_eq!(exposed(&endpoint).as_str(), "p:");
    assert_eq!(endpoint.ssl_mode, SslMode::Require);
    assert_eq!(endpoint.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(endpoint.application_name, "my app");
    assert_eq!(endpoint.session_attrs, SessionAttrs::ReadWrite);
    let params: Vec<_> = endpoint.params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(params, [("search_path", "a,b"), ("geqo", "off"), ("lock_timeout", "5"), ("x.y", "a b")]);
}

#[test]
fn keyword_forms() {
    let endpoint = parse(r"host = 'h' user=a\ b password = 'it\'s \\' dbname=''", "", "").unwrap();
    assert_eq!((endpoint.user.as_str(), exposed(&endpoint).as_str()), ("a b", r"it's \"));
    assert_eq!(endpoint.database, "");
}

#[test]
fn transport_security() {
    let mode = |source: Source<'_>| PgEndpoint::parse(&source).unwrap().ssl_mode;
    let with = |url| Source { connection_url: url, ..Source::default() };
    assert_eq!(mode(with("postgres://h/d")), SslMode::Prefer);
    assert_eq!(mode(with("postgres://h/d?sslmode=verify-ca")), SslMode::VerifyFull);
    assert_eq!(mode(with("postgres://h/d?sslmode=require&sslrootcert=/ca")), SslMode::VerifyFull);
    assert_eq!(mode(Source { tls_ca: "PEM", ..with("postgres://h/d") }), SslMode::VerifyFull);
    assert_eq!(mode(Source { sslmode: "require", ..with("postgres://h/d") }), SslMode::Require);
    assert_eq!(mode(Source { sslmode: "require", ..with("postgres://h/d?sslmode=disable") }), SslMode::Disable);
    let key = Secret::new("KEY".to_owned());
    let inline = Source { tls_certificate: "CERT", private_key: Some(&key), ..with("postgres://h/d?sslcert=/x") };
    let endpoint = PgEndpoint::parse(&inline).unwrap();
    assert_eq!(endpoint.ssl_mode, SslMode::Require);
    assert_eq!(endpoint.ssl_cert, Some(Pem::Inline(Secret::new("CERT".to_owned()))));
    assert_eq!(endpoint.ssl_key, Some(Pem::Inline(Secret::new("KEY".to_owned()))));
    assert_eq!(error("postgres://h/d?sslcert=/only"), "both a client certificate and its private key are required");
}

#[test]
fn structured_fields() {
    let password = Secret::new("p w".to_owned());
    let source = Source {
        username: "u'",
        password: Some(&password),
        host: "a,b",
        port: "1,2",
        database: "d",
        sslmode: "disable",
        ..Source::default()
    };
    let endpoint = PgEndpoint::parse(&source).unwrap();
    assert_eq!(endpoint.hosts, [host("a", 1), host("b", 2)]);
    assert_eq!((endpoint.user.as_str(), exposed(&endpoint).as_str(), endpoint.database.as_str()), ("u'", "p w", "d"));
}

#[test]
fn errors() {
    assert_eq!(error(""), "connection_url cannot be empty");
    assert_eq!(error("  "), "connection_url cannot be empty");
    assert_eq!(error("postgres://%zz"), "cannot parse connection url: invalid URL escape \"%zz\"");
    assert_eq!(
        parse(TEMPLATE, "{{username}}", "x").unwrap_err(),
        "username and/or password cannot contain the template variables"
    );
    assert_eq!(
        parse(TEMPLATE, "x", "a{{password}}").unwrap_err(),
        "username and/or password cannot contain the template variables"
    );
    assert_eq!(error("postgres://h/d?sslmode=maybe"), "cannot parse connection url: sslmode is invalid");
    assert_eq!(error("gibberish"), "cannot parse connection url: invalid keyword/value");
    for bad in [
        "postgres://h:99999/d",
        "postgres://h:0/d",
        "postgres://[::1",
        "postgres://h/d?connect_timeout=x",
        "postgres://h/d?target_session_attrs=x",
        "postgres://h/d?service=x",
        "postgres://h/d?options=-x",
        "postgres://u%00@h/d",
        "host='h",
        "host=h\\",
    ] {
        assert!(parse(bad, "u", "p").is_err(), "{bad}");
    }
}

#[test]
fn errors_hold_no_secret() {
    for url in [
        "postgres://u:hunter2%zz@h/d",
        "postgres://u:hunter2/x@h/d",
        "postgres://u:hunter2",
        "postgres://h/d?password=hunter2%zz",
        "host=h password='hunter2",
        "host=h password hunter2",
        "u:hunter2@tcp(h:1)/d",
    ] {
        let text = error(url);
        assert!(!text.contains("hunter2") && !text.contains("hunte"), "{url}: {text}");
    }
    let debug = format!("{:?}", parse(TEMPLATE, "vaultadmin", "hunter2").unwrap());
    assert!(debug.contains("vaultadmin") && !debug.contains("hunter2"), "{debug}");
}

#[test]
fn redaction() {
    for verbatim in [
        TEMPLATE,
        "host=127.0.0.1 port=15532 user={{username}} password={{password}} dbname=postgres sslmode=disable",
        "host=h password='{{password}}'",
        "{{username}}:{{password}}@tcp(127.0.0.1:3306)/",
        "postgres://h:1,i:2/d?sslmode=require",
        "postgres://user@h/d",
        "postgres://u:@h/d",
        "user@tcp(h:1)/",
        "postgres://[::1]:5432,[::2]/d?user=a@b",
        "",
    ] {
        assert_eq!(redact(verbatim), verbatim);
        assert!(!has_embedded_password(verbatim), "{verbatim}");
    }
    for (given, shown) in [
        (
            "postgresql://vaultadmin:rootpw@127.0.0.1:15532/postgres?sslmode=disable",
            "postgresql://vaultadmin:xxxxx@127.0.0.1:15532/postgres?sslmode=disable",
        ),
        ("postgres://u:p@ss@h/d", "postgres://u:xxxxx@h/d"),
        ("postgres://u:pa/ss@h/d", "postgres://u:xxxxx@h/d"),
        ("postgres://u:pa?ss@h/d", "postgres://u:xxxxx@h/d"),
        ("postgres://u:secret", "postgres://u:xxxxx"),
        ("postgres://u:x{{password}}@h/d", "postgres://u:xxxxx@h/d"),
        ("postgres://h/d?a=b&password=se%20c&x=y", "postgres://h/d?a=b&password=xxxxx&x=y"),
        ("postgres://u:p@h/d?p%61ssword=q", "postgres://u:xxxxx@h/d?p%61ssword=xxxxx"),
        ("host=h user=u password=rootpw dbname=d", "host=h user=u password=xxxxx dbname=d"),
        (r"host=h password = 'it\'s' dbname=d", "host=h password = xxxxx dbname=d"),
        ("root:p@ss/w:d@tcp(127.0.0.1:3306)/db?x=y", "root:xxxxx@tcp(127.0.0.1:3306)/db?x=y"),
        ("u:p@unix(/tmp/my.sock)/db", "u:xxxxx@unix(/tmp/my.sock)/db"),
        ("u:p@/", "u:xxxxx@/"),
        ("mysql://u:p@h/db", "mysql://u:xxxxx@h/db"),
        ("host=h password='open", "host=h passwordxxxxx"),
    ] {
        assert_eq!(redact(given), shown, "{given}");
        assert!(has_embedded_password(given), "{given}");
    }
}

proptest! {
    #[test]
    fn arbitrary_strings(
        url in "\\PC{0,40}|(postgres://)?[-a-z0-9@:/?#&=%\\[\\],'\\\\ {}.+]{0,40}|([a-z]{1,8} ?= ?('[^']*'|[^ ]*) ){0,5}",
        disable_escaping: bool,
    ) {
        let secret = Secret::new("p".to_owned());
        let source =
            Source { connection_url: &url, username: "u", password: Some(&secret), disable_escaping, ..Source::default() };
        if let Ok(endpoint) = PgEndpoint::parse(&source) {
            prop_assert!(!endpoint.hosts.is_empty());
        }
        let _ = (redact(&url), has_embedded_password(&url));
    }

    /// Where we find a password when we connect, a read does not show it.
    #[test]
    fn what_connects_is_hidden(password in "[A-Z0-9@:/?#&%' \\\\,]{6,20}", form in 0_usize..3) {
        let url = match form {
            0 => format!("postgres://u:{password}@h:1/d?a=b"),
            1 => format!("host=h user=u password={password} dbname=d"),
            _ => format!("host=h user=u password='{password}' dbname=d"),
        };
        let source = Source { connection_url: &url, ..Source::default() };
        if let Ok(endpoint) = PgEndpoint::parse(&source) {
            let found = exposed(&endpoint);
            prop_assume!(found.len() >= 4);
            prop_assert!(!redact(&url).contains(&found), "{} {}", url, redact(&url));
        } else if form == 0 {
            prop_assert!(!redact(&url).contains(&password), "{} {}", url, redact(&url));
        }
    }
}
