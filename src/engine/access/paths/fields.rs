//! Fields that several paths of access share, and the long lists of them.

use crate::engine::field::{Field, FieldType, Preset};

/// Fields of `config/jit`.
pub const CONFIG: &[Field] = &[
    Field::new(
        "identity_map",
        FieldType::KvPairs,
        "The class (human, service, agent, third_party) of who logs in at an auth mount, by its accessor or its \
         type. Known without it: userpass, ldap, oidc and the like are human; approle, kubernetes, cert, jwt, aws \
         and the like are service.",
    ),
    Field::new("agent_patterns", FieldType::CommaStringSlice, "Names of aliases, with \"*\", whose class is agent."),
    Field::new("person_key", FieldType::String, "The entity metadata that is the same for all entities of one person.")
        .preset(Preset::Text("employee_id")),
    Field::new(
        "proof_keys",
        FieldType::Json,
        "Public keys that sign proofs of workload identity, as a JWK set: those of a cluster, a SPIFFE trust domain or \
         an OpenID provider. RSA, P-256, P-384 and Ed25519.",
    ),
    Field::new(
        "proof_audience",
        FieldType::CommaStringSlice,
        "What such a proof has to be made for (aud). Without it none is taken.",
    ),
    Field::new(
        "proof_issuers",
        FieldType::CommaStringSlice,
        "Who may have made it (iss). Empty: whoever has one of the keys.",
    ),
    Field::new(
        "offboarded",
        FieldType::CommaStringSlice,
        "Ids of entities that may do nothing here any more: see offboard/entity/:entity_id.",
    ),
    Field::new(
        "policy_change",
        FieldType::String,
        "direct: who the ACL lets writes policies. two_person: a write of a policy, or of this, waits until somebody \
         else writes to its activate path; the jit_policy of a gated role stays as it is.",
    )
    .preset(Preset::Text("direct")),
    Field::new(
        "retention",
        FieldType::KvPairs,
        "How long requests and their evidence are kept once they are over, by the tier of the policy: low=90d medium=365d \
         high=2000d critical=0. All four or none; at least 30d; 0: for ever. What belongs to no request is kept as long as \
         anything. Only the oldest part of the record goes, as a whole. Not set: everything is kept for ever.",
    ),
    Field::new("legal_hold", FieldType::Bool, "Nothing is taken from the record, whatever retention says."),
    Field::new("auditor_groups", FieldType::CommaStringSlice, "Identity groups whose members may see every request."),
];

/// Of `policies/:name`.
pub const NAME: Field = Field::new("name", FieldType::String, "Name of the policy.");
/// A role.
pub const ROLE: Field = Field::new("role", FieldType::String, "Name of the role.");
/// A request.
pub const ID: Field = Field::new("request_id", FieldType::String, "Id of the request.");

/// Of the paths at which a change is put into force.
pub const SEEN: Field =
    Field::new("hash", FieldType::String, "The staged_hash that was read. Needed: what was written since is refused.");
/// Of `notify/:name`.
pub const HOOK: Field = Field::new("name", FieldType::String, "Name of the web server.");
/// Of `reviews/:name`.
pub const REVIEW: Field = Field::new("name", FieldType::String, "Name of the review.");

/// Fields of `policies/:name`.
pub const POLICY: &[Field] = &[
    NAME,
    Field::new("description", FieldType::String, "For people."),
    Field::new(
        "tier",
        FieldType::String,
        "How much harm its roles can do: low, medium, high (people have to approve) or critical (two at least).",
    )
    .preset(Preset::Text("medium")),
    Field::new(
        "eligible_groups",
        FieldType::CommaStringSlice,
        "Identity groups whose members may ask. Empty: everybody whom the ACL lets.",
    ),
    Field::new(
        "eligible_classes",
        FieldType::CommaStringSlice,
        "Classes of callers who may ask: human, service, agent, third_party. By default human.",
    ),
    Field::new("never", FieldType::Bool, "Nobody may ask, whatever else is said here."),
    Field::new(
        "hours",
        FieldType::String,
        "When credentials are issued: \"Mon-Fri 07:00-19:00 Europe/Berlin\". Empty: always.",
    ),
    Field::new("require_reason", FieldType::Int, "The fewest characters of a reason.").preset(Preset::Int(10)),
    Field::new("reason_pattern", FieldType::String, "A regular expression that the whole reason matches."),
    Field::new(
        "ticket_pattern",
        FieldType::String,
        "A regular expression that the whole ticket matches. Empty: no ticket is needed.",
    ),
    Field::new(
        "ticket_hook",
        FieldType::String,
        "The notify/:name that is asked whether a ticket is open, when a request is filed and at each use. Needs \
         ticket_pattern. It answers {\"open\": true, \"assignee\": \"ann\"}; without an answer nothing is given.",
    ),
    Field::new("end_with_ticket", FieldType::Bool, "With ticket_hook: a grant ends within a minute of its ticket."),
    Field::new("purposes", FieldType::CommaStringSlice, "The purposes there are. Empty: none has to be given."),
    Field::new("service_reason", FieldType::String, "The reason of requests that a read files by itself."),
    Field::new(
        "approval",
        FieldType::String,
        "manual: people approve, see steps. auto: the policy itself does, within the read. Not with tier high or critical.",
    )
    .preset(Preset::Text("manual")),
    Field::new(
        "steps",
        FieldType::Json,
        "Who approves: a list such as [{\"groups\": [\"dba-leads\"], \"min\": 1}, {\"groups\": [\"sec\"], \"min\": 1}]. Each \
         person fills one place. classes says who else than people may, as in eligible_classes.",
    ),
    Field::new("distinct_groups", FieldType::Bool, "Each vote has to come by another group."),
    Field::new(
        "forbid_reciprocal",
        FieldType::DurationSecond,
        "Nobody approves for who has approved for him within so many seconds, or this duration. 0: no such rule.",
    ),
    Field::new("deny_threshold", FieldType::Int, "So many votes against it end a request.").preset(Preset::Int(1)),
    Field::new(
        "owner_groups",
        FieldType::CommaStringSlice,
        "Identity groups whose members may revoke a grant, besides those who may approve it.",
    ),
    Field::new(
        "pending_ttl",
        FieldType::DurationSecond,
        "How long a request waits for votes, in seconds or as a duration; at most 24h.",
    )
    .preset(Preset::Int(3600)),
    Field::new(
        "activate_within",
        FieldType::DurationSecond,
        "How long an approved request waits for its first use, in seconds or as a duration.",
    )
    .preset(Preset::Int(900)),
    Field::new(
        "grant_ttl",
        FieldType::DurationSecond,
        "How long a grant lasts from its approval, in seconds or as a duration. Credentials end with it.",
    )
    .preset(Preset::Int(3600)),
    Field::new(
        "cred_max_ttl",
        FieldType::DurationSecond,
        "The longest that one credential lasts, in seconds or as a duration; 0: as the role says.",
    ),
    Field::new("uses", FieldType::Int, "How many credentials may be read of one grant; 0: any number.")
        .preset(Preset::Int(1)),
    Field::new("max_active", FieldType::Int, "The most grants of a role that one person has at a time; 0: any number.")
        .preset(Preset::Int(1)),
    Field::new(
        "cooldown",
        FieldType::DurationSecond,
        "How long after the end of a grant the same person may not ask again, in seconds or as a duration.",
    ),
    Field::new(
        "max_requests_per_day",
        FieldType::Int,
        "The most requests of one person for a role in 24 hours; 0: any number.",
    )
    .preset(Preset::Int(20)),
    Field::new(
        "max_coverage",
        FieldType::String,
        "The largest share of a time that one person may have held the role when he asks again: 0.5/24h. Empty: any.",
    ),
    Field::new(
        "require_proof",
        FieldType::String,
        "What a read has to bring besides its token, in identity_proof. none. workload: a JWT for proof_audience, signed by \
         one of proof_keys, whose subject is an alias of the caller, and used once. step_up: one that tells of a login with \
         a second factor (auth_time, and amr or acr) as well.",
    )
    .preset(Preset::Text("none")),
    Field::new("proof_max_age", FieldType::DurationSecond, "How old a proof may be, in seconds or as a duration.")
        .preset(Preset::Int(300)),
    Field::new(
        "end_idle",
        FieldType::DurationSecond,
        "A grant ends once nobody has used its credentials for so many seconds, or this duration: no statement, no session. \
         0: never for that. At least 60s. Not for Redis.",
    ),
    Field::new("supersede", FieldType::Bool, "A newer credential of a grant ends the older ones of it, after overlap."),
    Field::new("overlap", FieldType::DurationSecond, "With supersede: so many seconds, or this duration.")
        .preset(Preset::Int(120)),
    Field::new(
        "break_glass_groups",
        FieldType::CommaStringSlice,
        "Identity groups whose members (people only) may have access without anybody's agreement. Empty: nobody.",
    ),
    Field::new(
        "break_glass_after",
        FieldType::DurationSecond,
        "Only for who has an ordinary request for the role that has waited so many seconds, or this duration. 0: at once.",
    ),
    Field::new(
        "break_glass_incident",
        FieldType::Bool,
        "Only while somebody else has a freezes/:name for the role that names the incident.",
    ),
    Field::new(
        "break_glass_ttl",
        FieldType::DurationSecond,
        "How long that lasts, in seconds or as a duration; at most 1h.",
    )
    .preset(Preset::Int(900)),
    Field::new(
        "break_glass_review_within",
        FieldType::DurationSecond,
        "By when somebody else has to review it, in seconds or as a duration.",
    )
    .preset(Preset::Int(86_400)),
    Field::new(
        "break_glass_open_reviews",
        FieldType::Int,
        "How many reviews of one person may be open without his next use being refused.",
    ),
    Field::new(
        "recording",
        FieldType::String,
        "Whether what a user does is in its target's log. off: as the target is set up. prefer: where it can be. require: \
         else there is no credential. PostgreSQL: log_statement=all for the user, which it cannot turn off (the account of \
         the connection needs GRANT SET ON PARAMETER log_statement, PostgreSQL 15). MySQL and MariaDB: general_log, or an \
         audit plugin for everybody.",
    )
    .preset(Preset::Text("off")),
    Field::new(
        "max_ttl_unrecorded",
        FieldType::DurationSecond,
        "With recording=prefer: how long a credential lasts at most whose use is not recorded, in seconds or as a \
         duration; 0: as any other.",
    ),
    Field::new(
        "slow_revoke",
        FieldType::DurationSecond,
        "With max_ttl_slow_revoke: an end of a user at its database that takes longer than so many seconds, or this \
         duration, is slow, and so is one that left something or could not be done at once.",
    )
    .preset(Preset::Int(5)),
    Field::new(
        "max_ttl_slow_revoke",
        FieldType::DurationSecond,
        "How long a credential lasts at most at a database where more than one of the last hundred ends was slow (or one, \
         of fewer than a hundred), in seconds or as a duration; 0: as any other. Roles of databases.",
    ),
    Field::new(
        "verified_end",
        FieldType::Bool,
        "A role of a database that names this policy has to say verify=required, and is refused when it is written if the \
         account of its connection cannot do that, or nobody can ask it.",
    ),
    Field::new(
        "cedar",
        FieldType::String,
        "Rules in Cedar that narrow what the other fields allow; what they do not permit is denied. Actions: request, \
         auto_approve, approve, issue, renew, break_glass. With approval=auto and steps, what they do not permit to \
         auto_approve goes to the people of the steps.",
    ),
    Field::new(
        "on_unapproved",
        FieldType::String,
        "What a read does that finds no grant: deny, or file, which files the request with service_reason and is refused \
         until it is approved. Whoever reads again and again files one.",
    )
    .preset(Preset::Text("deny")),
    Field::new(
        "refile_after",
        FieldType::DurationSecond,
        "With on_unapproved=file: how long after a request came to nothing a read files the next, in seconds or as a \
         duration.",
    )
    .preset(Preset::Int(900)),
];

/// Fields of `policies/:name/simulate`: those of the policy, and how far back.
pub const POLICY_SIMULATED: &[Field] = &{
    let mut fields = [Field::new("replay_last", FieldType::Int, "So many requests, the newest; at most 10000.")
        .preset(Preset::Int(500)); POLICY.len() + 1];
    let mut place = 0;
    while place < POLICY.len() {
        fields[place] = POLICY[place];
        place += 1;
    }
    fields
};

/// Of the paths at which somebody votes.
pub const COMMENT: Field = Field::new("comment", FieldType::String, "What to say about it. Kept in the record.");
