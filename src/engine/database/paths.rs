//! The route table of the `database` engine: every path, field and help text there is. Router, `path-help`, the OpenAPI
//! document and the field reference in the documentation all come from here.

use crate::engine::access::{CREDS_FIELDS, ROLE_FIELDS};
use crate::engine::field::{Field, FieldType, Preset};
use crate::engine::request::Operation::{self, Create, Delete, List, Read, Update};
use crate::engine::route::Route;
use crate::engine::schedule::rule::{TIMEZONE_FIELD, WINDOW_FIELD};
use crate::engine::schedule::timing::DISABLE_FIELD;

/// A path of this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `config/`
    Configs,
    /// `config/:name`
    Config,
    /// `check/:name`
    Check,
    /// `reset/:name`
    Reset,
    /// `reload/:plugin_name`
    Reload,
    /// `roles/`
    Roles,
    /// `roles/:name`
    Role,
    /// `creds/:name`
    Creds,
    /// `static-roles/`
    StaticRoles,
    /// `static-roles/:name`
    StaticRole,
    /// `static-creds/:name`
    StaticCreds,
    /// `rotate-role/:name`
    RotateRole,
    /// `rotate-root/:name`
    RotateRoot,
    /// `roles/:name/test`
    RoleTest,
    /// `selftest/:role`
    Selftest,
    /// `status`
    Statuses,
    /// `status/:name`
    Status,
    /// `metrics`
    Metrics,
    /// `reconcile/:name`
    Reconcile,
    /// `remnants/`
    Remnants,
    /// `remnants/:id`
    Remnant,
    /// `remnants/:id/accept`
    RemnantAccept,
    /// `remnants/:id/retry`
    RemnantRetry,
}

/// What `path-help` says of the mount as a whole.
pub const HELP: &str = "\
The database backend supports using many different databases as secret backends: PostgreSQL, MySQL and
MariaDB, Valkey and Redis.

After mounting this backend, configure it with the endpoints below \"config/\", write a role below \"roles/\", and read
credentials below \"creds/\". Each read makes a user of its own at the database; its lease ends it. For users that are
there already, whose passwords are changed regularly, there are \"static-roles/\" and \"static-creds/\".";

const WRITE: &[Operation] = &[Create, Update];
const ALL: &[Operation] = &[Create, Update, Read, Delete];

const AFTER: Field = Field::new("after", FieldType::String, "List entries after this one, exclusive.").query();
const LIMIT: Field = Field::new("limit", FieldType::Int, "List this many entries at most; without it, all.").query();

const OWNED_OBJECTS: &str = "What becomes of objects that a minted user owns when it ends. fail: they stay, and with them \
                             the user, which can do nothing any more; see remnants/. drop: they go with it. \
                             reassign:<role>: they become that role's. By default fail.";
const SESSIONS: &str = "What becomes of the open sessions of a minted user when it ends. terminate: they are ended at \
                        once. keep: they go on until they end by themselves. grace:<duration>: they have so long to end \
                        by themselves. By default terminate.";
const VERIFY: &str = "Whether the database is looked at once more when a minted user has ended. required: yes, and what \
                      cannot be looked at counts as left. best_effort: as far as the account of the connection can see. \
                      off: no. By default required.";

const MAX_LIVE_USERS: Field = Field::new(
    "max_live_users",
    FieldType::Int,
    "Users that live at a time at most, those that are being made included; a read beyond that is answered with 429. 0 for \
     no limit.",
);

const FORCE: &str = "Delete the connection, or point it at another server, though users or remnants still need it. \
                     Nobody ends then what is left at the database.";

const ID: Field = Field::new("id", FieldType::String, "Name of the record, as LIST remnants/ shows it.");

/// What the drivers understand of `config/:name`. The engine keeps them, and any other, unread.
pub const CONNECTION_DETAILS: &[Field] = &[
    Field::new(
        "connection_url",
        FieldType::String,
        "Where the database is and how to log in. PostgreSQL: a postgresql:// URL or key=value pairs. MySQL: \
         {{username}}:{{password}}@tcp(host:port)/database. Redis: a redis://, rediss://, valkey:// or valkeys:// URL. \
         {{username}} and {{password}} stand for the fields of that name. Either this or host.",
    ),
    Field::new("username", FieldType::String, "Account that Leasehold logs in with."),
    Field::new("password", FieldType::Secret, "Password of that account. Never returned."),
    Field::new(
        "self_managed",
        FieldType::Bool,
        "PostgreSQL, MySQL: there is no such account. Each account of a static role logs in with its own password to change \
         it; nothing can be minted here, and nothing is verified at a write. Never undone.",
    ),
    Field::new(
        "host",
        FieldType::String,
        "Host name, address or (PostgreSQL, MySQL) socket, instead of connection_url; PostgreSQL and MySQL take several, \
         separated by commas, and use the first that can be written to.",
    ),
    Field::new(
        "port",
        FieldType::Int,
        "TCP port, with host. PostgreSQL: 5432 by default. MySQL: 3306 by default. Redis: required.",
    ),
    Field::new(
        "database",
        FieldType::String,
        "PostgreSQL, MySQL: database to connect to, with host. PostgreSQL: postgres by default. MySQL: none by default.",
    ),
    Field::new(
        "sslmode",
        FieldType::String,
        "PostgreSQL: disable, allow, prefer, require or verify-full; verify-ca counts as verify-full. With host, or where \
         connection_url does not say. By default prefer.",
    ),
    Field::new(
        "tls",
        FieldType::String,
        "MySQL, with host: true, false, preferred or skip-verify. Redis: true or false; true needs ca_cert or insecure_tls.",
    ),
    Field::new("tls_ca", FieldType::String, "PostgreSQL, MySQL: CA certificates of the server, PEM."),
    Field::new("tls_certificate", FieldType::String, "PostgreSQL: client certificate, PEM."),
    Field::new("private_key", FieldType::Secret, "PostgreSQL: key of the client certificate, PEM. Never returned."),
    Field::new(
        "tls_certificate_key",
        FieldType::Secret,
        "MySQL: client certificate and its key, PEM, one after the other. Never returned.",
    ),
    Field::new(
        "tls_server_name",
        FieldType::String,
        "MySQL, with tls_ca or tls_certificate_key: the name in the server's certificate. Empty means the host's.",
    ),
    Field::new("tls_skip_verify", FieldType::Bool, "MySQL, with tls_ca or tls_certificate_key: take any certificate."),
    Field::new("ca_cert", FieldType::String, "Redis: CA certificates of the server, PEM."),
    Field::new("insecure_tls", FieldType::Bool, "Redis: take any certificate."),
    Field::new(
        "persistence_mode",
        FieldType::String,
        "Redis: how users survive a restart of the server: none, aclfile (ACL SAVE) or rewrite (CONFIG REWRITE). By \
         default none.",
    ),
    Field::new(
        "max_open_connections",
        FieldType::Int,
        "Sessions at the database at most; negative for no limit. This many requests run at once.",
    )
    .preset(Preset::Int(4)),
    Field::new(
        "max_idle_connections",
        FieldType::Int,
        "Sessions kept while idle; 0 for as many as may be open, negative for none.",
    ),
    Field::new(
        "max_connection_lifetime",
        FieldType::DurationSecond,
        "A session is closed after this many seconds or this duration; 0 for never.",
    ),
    Field::new(
        "connect_timeout",
        FieldType::DurationSecond,
        "Seconds or duration after which an attempt to get a session is given up.",
    )
    .preset(Preset::Int(10)),
    Field::new(
        "statement_timeout",
        FieldType::DurationSecond,
        "Seconds or duration after which a statement is given up.",
    )
    .preset(Preset::Int(30)),
    Field::new(
        "disable_escaping",
        FieldType::Bool,
        "PostgreSQL: put username and password into connection_url as they are, without percent-encoding.",
    ),
    Field::new(
        "username_template",
        FieldType::String,
        "Go template of minted user names. Fields: .DisplayName, .RoleName. Empty means the default. A name may be 63 \
         bytes long in PostgreSQL, 32 with mysql-database-plugin, 16 with the other MySQL plugins, 100 in Redis.",
    ),
    Field::new(
        "password_authentication",
        FieldType::String,
        "PostgreSQL: how {{password}} is filled: scram-sha-256 (a verifier, everywhere), password (the text, everywhere). \
         Without it: a verifier where PASSWORD stands before it, the text elsewhere.",
    ),
    Field::new(
        "scram_iterations",
        FieldType::Int,
        "PostgreSQL: rounds of the verifiers that passwords are turned into, 1 to 100000; 0 or nothing for 4096. Generated \
         passwords are too long to be guessed with any: fewer rounds make mints and logins cheaper. Some clients (Java's) \
         refuse fewer than 4096.",
    ),
    Field::new(
        "user_host",
        FieldType::String,
        "MySQL: what {{host}} stands for in statements: where users log in from. Empty means %, anywhere.",
    ),
    Field::new(
        "password_hashing",
        FieldType::String,
        "MySQL: whose hash stands in for '{{password}}' after IDENTIFIED BY: server (of the plugin that the server would \
         take), none (the password itself), or the name of a plugin. By default server.",
    ),
    Field::new(
        "refuse_plaintext_password",
        FieldType::Bool,
        "MySQL: refuse statements in which the password itself would reach the server.",
    ),
];

/// Every path.
pub const ROUTES: &[Route<Path>] = &[
    Route {
        id: Path::Configs,
        pattern: "config/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the configured connections.",
        description: "Names only; read config/:name for one.",
    },
    Route {
        id: Path::Config,
        pattern: "config/{name}",
        operations: ALL,
        fields: &[
            Field::new("name", FieldType::String, "Name of this connection."),
            Field::new(
                "plugin_name",
                FieldType::String,
                "Kind of database: postgresql-, mysql-, mysql-aurora-, mysql-rds-, mysql-legacy-, valkey- or \
                 redis-database-plugin. Required the first time.",
            ),
            Field::new(
                "plugin_version",
                FieldType::String,
                "Version of the plugin. Leasehold carries its drivers itself: leave it empty.",
            ),
            Field::new(
                "verify_connection",
                FieldType::Bool,
                "Connect and ask for a sign of life before anything is stored.",
            )
            .preset(Preset::Bool(true)),
            Field::new(
                "allowed_roles",
                FieldType::CommaStringSlice,
                "Roles that may use this connection: names, or patterns with \"*\". Empty means none.",
            ),
            Field::new(
                "root_rotation_statements",
                FieldType::StringSlice,
                "Statements that change the password of the account used here. Empty means the database's default.",
            ),
            Field::new(
                "password_policy",
                FieldType::String,
                "Name of the host's password policy for what is minted here. Empty means 20 characters of a-z, A-Z, \
                 0-9 and \"-\".",
            ),
            Field::new("owned_objects", FieldType::String, OWNED_OBJECTS),
            Field::new("sessions", FieldType::String, SESSIONS),
            Field::new("verify", FieldType::String, VERIFY),
            MAX_LIVE_USERS,
            Field::new("force", FieldType::Bool, FORCE).query(),
            Field::new(
                "revocation_mode",
                FieldType::String,
                "Whether users of this connection are ended: normal, report_only (none is; the log tells who would have \
                 been) or paused (none is). For the time after a restore; the plugin's own --revocation-mode counts \
                 where it is stricter. By default normal.",
            ),
            Field::new(
                "rotation_period",
                FieldType::DurationSecond,
                "The password of the account used here changes within this many seconds, or this duration, of its last \
                 change; at least 10 seconds; 0 for never. Either this or rotation_schedule.",
            ),
            Field::new(
                "rotation_schedule",
                FieldType::String,
                "The password of the account used here changes after these times: a cron expression of five fields (\"0 3 \
                 * * SUN\"). Empty for never.",
            ),
            WINDOW_FIELD,
            TIMEZONE_FIELD,
            DISABLE_FIELD,
        ],
        details: Some(CONNECTION_DETAILS),
        synopsis: "Configure connection details of a database.",
        description: "\
Names a database and how to log in to it. Fields that are not listed are kept and returned, and mean nothing.

A write lays the given fields over those that are stored. Unless verify_connection is false, nothing is stored before
the database has answered.",
    },
    Route {
        id: Path::Check,
        pattern: "check/{name}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of the connection.")],
        details: None,
        synopsis: "See whether a database answers, and what the account of its connection may do.",
        description: "\
Tells whether the database can be reached, what it is, how long it takes to answer (latency_ms) and by how many seconds its
clock is ahead of the host's; what the engine needs of the account, with what would grant it; and which roles ask for more
than it may do. Changes nothing.",
    },
    Route {
        id: Path::Reset,
        pattern: "reset/{name}",
        operations: WRITE,
        fields: &[Field::new("name", FieldType::String, "Name of the connection.")],
        details: None,
        synopsis: "Close the sessions of a connection and open new ones.",
        description: "Requests that are under way finish on the old sessions. Fails if the database cannot be reached.",
    },
    Route {
        id: Path::Reload,
        pattern: "reload/{plugin_name}",
        operations: WRITE,
        fields: &[Field::new("plugin_name", FieldType::String, "Kind of database, as in config/:name.")],
        details: None,
        synopsis: "Reset every connection of one kind of database.",
        description: "Answers with the names of the connections that were reset; those that could not be are warnings.",
    },
    Route {
        id: Path::Roles,
        pattern: "roles/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the roles.",
        description: "Names only; read roles/:name for one.",
    },
    Route {
        id: Path::Role,
        pattern: "roles/{name}",
        operations: ALL,
        fields: &[
            Field::new("name", FieldType::String, "Name of the role."),
            Field::new("db_name", FieldType::String, "Name of the connection to mint at. Required."),
            Field::new(
                "creation_statements",
                FieldType::StringSlice,
                "Statements that create and configure a user: text with semicolons, a JSON array, or base64 of either. \
                 {{name}}, {{password}} and {{expiration}} are filled in, in MySQL {{host}} too. Redis: ACL rules, one \
                 an element, without those for the password; empty means ~* +@read.",
            ),
            Field::new(
                "group_roles",
                FieldType::CommaStringSlice,
                "PostgreSQL: roles of the database that users are made members of, instead of creation_statements: they have \
                 what those have. The quick way to make and to end users.",
            ),
            Field::new(
                "revocation_statements",
                FieldType::StringSlice,
                "Statements that end a user. Empty means the default: no login, no session, grants and user dropped. Redis \
                 ignores them.",
            ),
            Field::new(
                "renew_statements",
                FieldType::StringSlice,
                "Statements that prolong a user. Empty means the default: in PostgreSQL ALTER ROLE … VALID UNTIL, in MySQL \
                 nothing. Redis ignores them.",
            ),
            Field::new(
                "rollback_statements",
                FieldType::StringSlice,
                "Statements that run, in a transaction of their own, after a creation has failed. MySQL drops the user in \
                 any case. Redis ignores them.",
            ),
            Field::new(
                "default_ttl",
                FieldType::DurationSecond,
                "How long a lease lasts, in seconds or as a duration; 0 for the mount's default.",
            ),
            Field::new(
                "max_ttl",
                FieldType::DurationSecond,
                "How long a lease may be renewed to last, in seconds or as a duration; 0 for the mount's maximum.",
            ),
            Field::new(
                "scram_iterations",
                FieldType::Int,
                "PostgreSQL: rounds of the verifiers of the role's users, 1 to 100000; 0 for the connection's.",
            ),
            Field::new(
                "credential_type",
                FieldType::String,
                "password, rsa_private_key or client_certificate. Every database takes password, PostgreSQL \
                 client_certificate too.",
            )
            .preset(Preset::Text("password")),
            Field::new(
                "credential_config",
                FieldType::KvPairs,
                "Settings of the credential type. password: password_policy. rsa_private_key: key_bits (2048, 3072 or 4096; \
                 default 2048), format (pkcs8). client_certificate: common_name_template (with .Username, .DisplayName \
                 and .RoleName), ca_cert and ca_private_key (PEM; the key is not read back), key_type (rsa, ec or \
                 ed25519), and if wanted key_bits (rsa: 2048, 3072, 4096; ec: 256, 384, 521) and signature_bits (256, \
                 384 or 512, for a CA with an RSA key).",
            ),
            ROLE_FIELDS[0],
            ROLE_FIELDS[1],
            MAX_LIVE_USERS,
            Field::new(
                "max_active",
                FieldType::Int,
                "Users of the role that one entity has at most; a read beyond that is answered with 429. Tokens without an \
                 entity count as one. 0 for no limit.",
            ),
            Field::new(
                "on_new_issue",
                FieldType::String,
                "What becomes of the users that the same entity had of the role before, when it reads another credential. \
                 keep: they live as long as their leases. supersede: they end after supersede_overlap, so only where one \
                 client has the entity. By default keep.",
            ),
            Field::new(
                "supersede_overlap",
                FieldType::DurationSecond,
                "With on_new_issue=supersede: how long the users before live on, in seconds or as a duration; at least one \
                 second.",
            )
            .preset(Preset::Int(60)),
            Field::new("owned_objects", FieldType::String, OWNED_OBJECTS),
            Field::new("sessions", FieldType::String, SESSIONS),
            Field::new("verify", FieldType::String, VERIFY),
            Field::new(
                "validate",
                FieldType::Bool,
                "Try the role as roles/:name/test does before it is stored; what fails is not stored. Not kept.",
            ),
        ],
        details: None,
        synopsis: "Manage the roles that can be created with this backend.",
        description: "\
A role says at which connection a user is made, with which statements, and for how long.

A write lays the given fields over those that are stored. Leases that are out keep what is needed to end them.",
    },
    Route {
        id: Path::RoleTest,
        pattern: "roles/{name}/test",
        operations: WRITE,
        fields: &[Field::new("name", FieldType::String, "Name of the role.")],
        details: None,
        synopsis: "Make a user of the role, end it, and say what came of it.",
        description: "\
PostgreSQL runs creation, renewal and revocation statements in one transaction that is rolled back: nobody else ever sees
the user. Elsewhere the user is real, logs in once, and is ended at once; nobody gets its password.",
    },
    Route {
        id: Path::Selftest,
        pattern: "selftest/{role}",
        operations: WRITE,
        fields: &[
            Field::new("role", FieldType::String, "Name of a role with jit_policy."),
            Field::new("params", FieldType::KvPairs, "What narrows the role: see params_allowed in roles/:name."),
        ],
        details: None,
        synopsis: "Show that a gated role works, from the request to the verified end.",
        description: "\
A credential that nobody gets goes the whole way: made as for a caller, used for one login, ended, and looked for at the
target. Answers with its chain in the record, of which every event says drill, whether each of the five links is there, and
how long each part took. No approval is needed, as nobody gets anything; a freeze and recording=require hold. For
administrators, and for a job that runs it now and then.",
    },
    Route {
        id: Path::Creds,
        pattern: "creds/{name}",
        operations: &[Read],
        fields: &[
            Field::new("name", FieldType::String, "Name of the role."),
            CREDS_FIELDS[0],
            CREDS_FIELDS[1],
            CREDS_FIELDS[2],
            CREDS_FIELDS[3],
        ],
        details: None,
        synopsis: "Request database credentials for a certain role.",
        description: "\
Makes a user at the role's connection and answers with its name and password. The user lives as long as the lease.

Of a role with jit_policy the caller needs a grant: see requests/:role. Without one the answer is 403, and its text says
what to do; a sidecar that tries again gets the credential once the request is approved.",
    },
    Route {
        id: Path::StaticRoles,
        pattern: "static-roles/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the static roles.",
        description: "Names only; read static-roles/:name for one.",
    },
    Route {
        id: Path::StaticRole,
        pattern: "static-roles/{name}",
        operations: ALL,
        fields: &[
            Field::new("name", FieldType::String, "Name of the role."),
            Field::new("db_name", FieldType::String, "Name of the connection where the user is. Required."),
            Field::new("username", FieldType::String, "The user, which must be there. Required, and never changed."),
            Field::new(
                "rotation_period",
                FieldType::DurationSecond,
                "The password changes this many seconds, or this duration, after the last change; at least 5 seconds. \
                 Either this or rotation_schedule.",
            ),
            Field::new(
                "rotation_schedule",
                FieldType::String,
                "The password changes at these times: a cron expression of five fields (\"0 3 * * SUN\").",
            ),
            WINDOW_FIELD,
            TIMEZONE_FIELD,
            Field::new(
                "rotation_mode",
                FieldType::String,
                "What becomes of the password before. single: it ends. dual_account: each change is one of the other of \
                 two users, which is handed out from then on. dual_password: the user has both for a while; MySQL 8.0.14 \
                 or later, Valkey and Redis only.",
            )
            .preset(Preset::Text("single")),
            Field::new(
                "secondary_username",
                FieldType::String,
                "With rotation_mode=dual_account: the other user, which must be there. Required, and never changed.",
            ),
            Field::new(
                "grace_period",
                FieldType::DurationSecond,
                "With rotation_mode=dual_account or dual_password: for how many seconds, or how long, the password before \
                 goes on working at least. Required; no longer than rotation_period. A shorter one cuts a grace short \
                 that has begun.",
            ),
            Field::new(
                "rotation_statements",
                FieldType::StringSlice,
                "Statements that change the password; {{name}} and {{password}} are filled in. Empty means the default: \
                 ALTER ROLE … PASSWORD, ALTER USER … IDENTIFIED BY at each host of the user. Redis ignores them.",
            ),
            Field::new(
                "password",
                FieldType::Secret,
                "The password that the user has now. Never returned. It may be given until the first change; at a connection \
                 with self_managed it is required on creation, and may be given whenever the user has got another one.",
            ),
            Field::new("self_managed_password", FieldType::Secret, "An older name of password. Never returned."),
            Field::new(
                "skip_import_rotation",
                FieldType::Bool,
                "On creation: leave the password as it is until the first time that it is due.",
            ),
            Field::new("credential_type", FieldType::String, "password; databases take no other.")
                .preset(Preset::Text("password")),
            Field::new(
                "credential_config",
                FieldType::KvPairs,
                "Settings of the credential type. password: password_policy.",
            ),
        ],
        details: None,
        synopsis: "Manage the static roles that can be created with this backend.",
        description: "\
A static role stands for one user that is there already. Its password is changed when the role is written first, and then
regularly; static-creds/:name answers with the one that is valid.

A write lays the given fields over those that are stored. Deleting the role leaves the user and its password as they are.",
    },
    Route {
        id: Path::StaticCreds,
        pattern: "static-creds/{name}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of the static role.")],
        details: None,
        synopsis: "Request database credentials for a certain static role. These credentials are rotated periodically.",
        description: "\
Answers with user name, password, and the seconds until the password changes (ttl). There is no lease.

With rotation_mode=dual_account or dual_password, previous_valid_until says until when the password before goes on working,
and previous_username whose it is if it is the other user's. Without them only the answered one is sure to be valid.",
    },
    Route {
        id: Path::RotateRole,
        pattern: "rotate-role/{name}",
        operations: WRITE,
        fields: &[Field::new("name", FieldType::String, "Name of the static role.")],
        details: None,
        synopsis: "Change the password of a static role's user now.",
        description: "\
A rotation_period begins anew; a rotation_schedule is not moved. Refused while somebody may still use the password before
(grace_period).",
    },
    Route {
        id: Path::RotateRoot,
        pattern: "rotate-root/{name}",
        operations: WRITE,
        fields: &[Field::new("name", FieldType::String, "Name of the connection.")],
        details: None,
        synopsis: "Change the password of the account that a connection logs in with.",
        description: "\
Afterwards only Leasehold knows it. Sessions go on. A later write of the connection that brings an earlier password back is
answered with a warning, and the valid one is kept.",
    },
    Route {
        id: Path::Statuses,
        pattern: "status/?",
        operations: &[Read],
        fields: &[],
        details: None,
        synopsis: "Show how every connection is doing.",
        description: "\
Answers from what the active node knows; no database is asked. unwell names the connections that somebody should look at.",
    },
    Route {
        id: Path::Status,
        pattern: "status/{name}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of the connection.")],
        details: None,
        synopsis: "Show how a connection is doing.",
        description: "\
Its live users and the oldest of them, users whose end is not over and why, when which password changes next and what is
late, the sessions at the database, whether it answers, what waits, and how long the latest 512 operations of each kind took
(the numbers begin with the process). The database is asked for the users that it has, for three seconds at most.",
    },
    Route {
        id: Path::Metrics,
        pattern: "metrics",
        operations: &[Read],
        fields: &[],
        details: None,
        synopsis: "Show the figures of this node for Prometheus.",
        description: "\
OpenMetrics text. Each node answers for itself: what is counted here was done here, and a node on standby knows no users,
remnants or queue. No database is asked.",
    },
    Route {
        id: Path::Reconcile,
        pattern: "reconcile/{name}",
        operations: &[Create, Update, Read],
        fields: &[Field::new("name", FieldType::String, "Name of the connection.")],
        details: None,
        synopsis: "Compare the users at a database with what is known of them.",
        description: "\
A read tells which users have outlived their leases, or are in another way not as they should be, and what would be done
about each. A write does it, without waiting for the tick, which looks about every minute.

A user is suspicious whose comment says that it is of this mount, but that this mount did not write (its seal is wrong): nobody
touches it, whatever it says.",
    },
    Route {
        id: Path::Remnants,
        pattern: "remnants/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the users whose end is not over.",
        description: "\
Each with its connection, its state and since when. contained: it can do nothing any more, but something of it is left.
grace: it cannot log in any more, its open sessions have time to end. open: the database could not be reached or refused, so it may still log in. All are tried again by themselves.",
    },
    Route {
        id: Path::Remnant,
        pattern: "remnants/{id}",
        operations: &[Read],
        fields: &[ID],
        details: None,
        synopsis: "Show a user whose end is not over: what is left, why, and when it is tried again.",
        description: "Shows what was accepted, too, for as long as it is there.",
    },
    Route {
        id: Path::RemnantAccept,
        pattern: "remnants/{id}/accept",
        operations: WRITE,
        fields: &[
            ID,
            Field::new("reason", FieldType::String, "Why what is left may stay. It is logged and kept.").required(),
        ],
        details: None,
        synopsis: "Decide that what is left of a user may stay.",
        description: "Nothing is tried any more. The answer says what is left, and who has accepted it.",
    },
    Route {
        id: Path::RemnantRetry,
        pattern: "remnants/{id}/retry",
        operations: WRITE,
        fields: &[ID],
        details: None,
        synopsis: "Try again now to end a user.",
        description: "Answers with what came of it.",
    },
];
