//! The paths of access and evidence, the same on every kind of mount.

mod fields;

use crate::engine::field::{Field, FieldType, Preset};
use crate::engine::request::Operation::{self, Create, Delete, List, Read, Update};
use crate::engine::route::Route;
use fields::{COMMENT, HOOK, ID, NAME, POLICY, POLICY_SIMULATED, REVIEW, ROLE, SEEN};

/// A path of this part of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `config/jit`
    Config,
    /// `policies/`
    Policies,
    /// `policies/:name`
    Policy,
    /// `policies/:name/acl`
    PolicyAcl,
    /// `policies/:name/simulate`
    PolicySimulate,
    /// `policies/:name/activate`
    PolicyActivate,
    /// `config/jit/activate`
    ConfigActivate,
    /// `requests/:role`
    Requests,
    /// `requests/:role/:request_id`
    Request,
    /// `requests/:role/:request_id/approve`
    Approve,
    /// `requests/:role/:request_id/deny`
    Deny,
    /// `requests/:role/:request_id/cancel`
    Cancel,
    /// `requests/:role/:request_id/complete`
    Complete,
    /// `requests/:role/:request_id/revoke`
    Revoke,
    /// `requests/:role/:request_id/hold`
    Hold,
    /// `freezes/`
    Freezes,
    /// `freezes/:name`
    Freeze,
    /// `notify/`
    Hooks,
    /// `notify/:name`
    Hook,
    /// `notify/:name/test`
    HookTest,
    /// `notify/:name/dead`
    HookDead,
    /// `notify/:name/retry`
    HookRetry,
    /// `acknowledgements/`
    Acknowledgements,
    /// `acknowledgements/:id`
    Acknowledgement,
    /// `reviews/`
    Campaigns,
    /// `reviews/:name`
    Campaign,
    /// `reviews/:name/items/:item`
    CampaignItem,
    /// `preapprovals/`
    Preapprovals,
    /// `preapprovals/:name`
    Preapproval,
    /// `preapprovals/:name/approve`
    Preapprove,
    /// `break-glass/`
    Emergencies,
    /// `break-glass/:role`
    Emergency,
    /// `break-glass/:role/:request_id/review`
    EmergencyReview,
    /// `reports/`
    Reports,
    /// `reports/:name`
    Report,
    /// `offboard/entity/:entity_id`
    Offboard,
    /// `inbox`
    Inbox,
    /// `lookup/request`
    Lookup,
    /// `evidence/chain/:request_id`
    Chain,
    /// `evidence/by-credential/:name`
    ByCredential,
    /// `evidence/export`
    Export,
    /// `evidence/checkpoint`
    Checkpoint,
    /// `evidence/verify`
    Verify,
    /// `evidence/proof/:seq`
    Proof,
    /// `retention/prune`
    Prune,
}

const WRITE: &[Operation] = &[Create, Update];

/// A path at which somebody acts on a request.
const fn verb(
    id: Path,
    pattern: &'static str,
    fields: &'static [Field],
    synopsis: &'static str,
    text: &'static str,
) -> Route<Path> {
    Route { id, pattern, operations: WRITE, fields, details: None, synopsis, description: text }
}

/// Every path.
pub const ROUTES: &[Route<Path>] = &[
    Route {
        id: Path::Config,
        pattern: "config/jit",
        operations: &[Create, Update, Read],
        fields: fields::CONFIG,
        details: None,
        synopsis: "Configure how callers of gated roles are told apart.",
        description: "\
Applies to roles that name a jit_policy. The metadata jit_class of an entity wins over everything here. An entity with
aliases of two classes has none, and gets nothing: the host does not tell by which alias a token came.",
    },
    Route {
        id: Path::Policies,
        pattern: "policies/?",
        operations: &[List],
        fields: &[
            Field::new("after", FieldType::String, "List entries after this one, exclusive.").query(),
            Field::new("limit", FieldType::Int, "List this many entries at most; without it, all.").query(),
        ],
        details: None,
        synopsis: "List the access policies.",
        description: "Names only; read policies/:name for one.",
    },
    Route {
        id: Path::Policy,
        pattern: "policies/{name}",
        operations: &[Create, Update, Read, Delete],
        fields: POLICY,
        details: None,
        synopsis: "Manage an access policy: who may ask for a role, who has to agree, for how long and how often.",
        description: "\
A role names it in jit_policy. A write lays the given fields over those that are stored. It holds for requests that are
open already: votes are counted anew by it at each use, and grants that it would not allow end within half a minute.

Nobody votes on his own request, and there is no setting for that.",
    },
    Route {
        id: Path::PolicyAcl,
        pattern: "policies/{name}/acl",
        operations: &[Read],
        fields: &[NAME],
        details: None,
        synopsis: "Texts for the host's own policies: requester, approver, auditor.",
        description: "The host's ACL says who may try; the access policy says who may.",
    },
    verb(
        Path::PolicyActivate,
        "policies/{name}/activate",
        &[NAME, SEEN],
        "Put a change of a policy into force that somebody else has written.",
        "With policy_change=two_person in config/jit. Until then the old policy holds; a read of policies/:name shows both.",
    ),
    verb(
        Path::ConfigActivate,
        "config/jit/activate",
        &[SEEN],
        "Put a change of config/jit into force that somebody else has written.",
        "With policy_change=two_person. Until then the old settings hold.",
    ),
    verb(
        Path::PolicySimulate,
        "policies/{name}/simulate",
        POLICY_SIMULATED,
        "What a change of a policy would have decided differently.",
        "Takes the fields of policies/:name, lays them over the stored policy, and judges the requests of the last days once \
         more by both: as filed, and by who voted then. Writes and mints nothing.",
    ),
    Route {
        id: Path::Requests,
        pattern: "requests/{role}/?",
        operations: &[Create, Update, List],
        fields: &[
            ROLE,
            Field::new("reason", FieldType::String, "Why. Kept in the record."),
            Field::new("ticket", FieldType::String, "The ticket, if the policy asks for one."),
            Field::new("purpose", FieldType::String, "One of the policy's purposes, if it has any."),
            Field::new(
                "ttl",
                FieldType::DurationSecond,
                "How long a credential is to last, in seconds or as a duration; never longer than role and policy say.",
            ),
            Field::new("params", FieldType::KvPairs, "What narrows the role: see params_allowed in roles/:name."),
        ],
        details: None,
        synopsis: "Ask for a gated role, or list the requests for it.",
        description: "\
Answers with the request and its id. Asking again for the same while a request is open answers with that one. What is
approved is all of it: role, parameters, time and number of uses. Lists show what the caller may see.",
    },
    Route {
        id: Path::Request,
        pattern: "requests/{role}/{request_id}",
        operations: &[Read],
        fields: &[ROLE, ID],
        details: None,
        synopsis: "Look at a request: its state, votes, and what is missing.",
        description: "For the requester, who may vote on it, who may end it, and auditors; for others there is none.",
    },
    verb(
        Path::Approve,
        "requests/{role}/{request_id}/approve",
        &[
            ROLE,
            ID,
            COMMENT,
            Field::new(
                "ttl",
                FieldType::DurationSecond,
                "Cut the time of each credential to so many seconds, or this duration.",
            ),
        ],
        "Vote for a request.",
        "Takes a person in one of the groups of a step, who is not the requester under any of his entities.",
    ),
    verb(
        Path::Deny,
        "requests/{role}/{request_id}/deny",
        &[ROLE, ID, COMMENT],
        "Vote against a request.",
        "deny_threshold votes against it end it for good.",
    ),
    verb(
        Path::Cancel,
        "requests/{role}/{request_id}/cancel",
        &[ROLE, ID],
        "Take a request back that was not used yet.",
        "For the requester.",
    ),
    verb(
        Path::Complete,
        "requests/{role}/{request_id}/complete",
        &[ROLE, ID, COMMENT],
        "Say that the work is done: everything that was issued of the request ends now, at the target.",
        "For the requester. When this answers, no login is possible and no session is open. The leases end as they would.",
    ),
    verb(
        Path::Revoke,
        "requests/{role}/{request_id}/revoke",
        &[ROLE, ID, Field::new("reason", FieldType::String, "Why. Needed, and kept in the record.")],
        "End a request, and everything that was issued of it, now.",
        "For one person of those who may approve it, or of owner_groups.",
    ),
    verb(
        Path::Hold,
        "requests/{role}/{request_id}/hold",
        &[
            ROLE,
            ID,
            Field::new("reason", FieldType::String, "Why. Needed, and kept in the record."),
            Field::new("hold", FieldType::Bool, "false: the hold is lifted.").preset(Preset::Bool(true)),
        ],
        "Keep what is in the record of a request, whatever retention says.",
        "A legal hold. What came into the record after the first event of the request is kept too. For administrators.",
    ),
    Route {
        id: Path::Freezes,
        pattern: "freezes/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the freezes.",
        description: "Names only; read freezes/:name for one.",
    },
    Route {
        id: Path::Freeze,
        pattern: "freezes/{name}",
        operations: &[Create, Update, Read, Delete],
        fields: &[
            Field::new("name", FieldType::String, "Name of the freeze."),
            Field::new("reason", FieldType::String, "Why. Needed: who is refused is told."),
            Field::new("roles", FieldType::CommaStringSlice, "Which roles, with \"*\". By default all that are gated."),
            Field::new(
                "ttl",
                FieldType::DurationSecond,
                "The freeze ends by itself after so many seconds, or this duration. 0: it does not.",
            ),
            Field::new("end", FieldType::Bool, "End the grants that there are, too."),
            Field::new(
                "incident",
                FieldType::String,
                "Id of the incident that it is for. See break_glass_incident of policies/:name.",
            ),
            Field::new(
                "flag_only",
                FieldType::Bool,
                "Stop nothing: it only says that there is the incident. Not with end.",
            ),
        ],
        details: None,
        synopsis: "Stop issuing credentials of gated roles, whoever has agreed, or say that there is an incident.",
        description: "For a change freeze or an incident. Leases are not prolonged either. Break-glass goes on.",
    },
    Route {
        id: Path::Hooks,
        pattern: "notify/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the web servers that are told of events.",
        description: "Names only; read notify/:name for one.",
    },
    Route {
        id: Path::Hook,
        pattern: "notify/{name}",
        operations: &[Create, Update, Read, Delete],
        fields: &[
            HOOK,
            Field::new("url", FieldType::String, "Where it is: https, but for this machine itself."),
            Field::new(
                "ca_cert",
                FieldType::String,
                "The authorities that its certificate may be of, PEM. Empty: those of this machine.",
            ),
            Field::new(
                "signing_key",
                FieldType::Secret,
                "The key of the signature (HMAC-SHA256) on what is sent; 16 characters at least. Never shown.",
            ),
            Field::new(
                "events",
                FieldType::CommaStringSlice,
                "Kinds of events that it is told of, with \"*\": request.*, breakglass.*. By default all; none is \
                 needed to be asked about tickets.",
            ),
        ],
        details: None,
        synopsis: "A web server that is told what comes into the record.",
        description: "\
POSTs {\"text\", \"mount\", \"event\"} for each event, in order, at least once. X-Leasehold-Signature is \"sha256=\" and the
HMAC-SHA256, with signing_key, of X-Leasehold-Time, a dot and the body. What it does not take is tried again for a day
(what it refuses with 4xx, three times) and is then in notify/:name/dead.",
    },
    verb(
        Path::HookTest,
        "notify/{name}/test",
        &[HOOK],
        "Send an event that is in no record.",
        "Answers with the status, or why it was not taken.",
    ),
    Route {
        id: Path::HookDead,
        pattern: "notify/{name}/dead",
        operations: &[Read],
        fields: &[HOOK],
        details: None,
        synopsis: "The events that were not taken, and why.",
        description: "They are in the record all the same. notify/:name/retry sends them once more.",
    },
    verb(
        Path::HookRetry,
        "notify/{name}/retry",
        &[HOOK],
        "Send what was not taken once more.",
        "Answers with how many were taken and how many are left.",
    ),
    Route {
        id: Path::Acknowledgements,
        pattern: "acknowledgements/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List what was acknowledged of reports/standing.",
        description: "Ids; read acknowledgements/:id for one.",
    },
    Route {
        id: Path::Acknowledgement,
        pattern: "acknowledgements/{id}",
        operations: &[Create, Update, Read, Delete],
        fields: &[
            Field::new("id", FieldType::String, "Id of a line of reports/standing."),
            Field::new("owner", FieldType::String, "Who answers for it."),
            Field::new("reason", FieldType::String, "Why it may stand. Needed, and kept in the record."),
            Field::new("ttl", FieldType::DurationSecond, "For how long, in seconds or as a duration; at most 366 days.")
                .preset(Preset::Int(90 * 86_400)),
        ],
        details: None,
        synopsis: "Say that somebody knows of a standing right, for some time.",
        description: "After that time it is open again.",
    },
    Route {
        id: Path::Campaigns,
        pattern: "reviews/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the reviews of who may have which role.",
        description: "Names only; read reviews/:name for one.",
    },
    Route {
        id: Path::Campaign,
        pattern: "reviews/{name}",
        operations: &[Create, Update, Read, Delete],
        fields: &[
            REVIEW,
            Field::new("roles", FieldType::CommaStringSlice, "Which roles, with \"*\". By default all that are gated."),
            Field::new("days", FieldType::Int, "Who asked within so many days is looked at; at most 366.")
                .preset(Preset::Int(90)),
            Field::new("due", FieldType::DurationSecond, "Until when, in seconds or as a duration.")
                .preset(Preset::Int(14 * 86_400)),
        ],
        details: None,
        synopsis: "Begin a review of who may have which role, or look at one.",
        description: "\
Freezes a list of who asked for which role, with last use, coverage and approvals. Each line is decided on at
reviews/:name/items/:item. Who is on a line that nobody has kept by the due time, or that was revoked, gets nothing of that
role until somebody keeps it.",
    },
    verb(
        Path::CampaignItem,
        "reviews/{name}/items/{item}",
        &[
            REVIEW,
            Field::new("item", FieldType::String, "Number of the line."),
            Field::new("decision", FieldType::String, "keep or revoke."),
            Field::new("comment", FieldType::String, "Why. Needed, and kept in the record."),
        ],
        "Decide on one line of a review.",
        "For who may approve requests for the role or is in owner_groups, and is not the one on the line.",
    ),
    Route {
        id: Path::Preapprovals,
        pattern: "preapprovals/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the preapprovals.",
        description: "Names only; read preapprovals/:name for one.",
    },
    Route {
        id: Path::Preapproval,
        pattern: "preapprovals/{name}",
        operations: &[Create, Update, Read, Delete],
        fields: &[
            Field::new("name", FieldType::String, "Name of the preapproval."),
            Field::new("role", FieldType::String, "The role."),
            Field::new("entity_id", FieldType::String, "For whom: an entity."),
            Field::new("group", FieldType::String, "Or the members of an identity group."),
            Field::new("params", FieldType::KvPairs, "What narrows the role: see params_allowed in roles/:name."),
            Field::new("reason", FieldType::String, "Why. It is the reason of each request that is drawn from it."),
            Field::new(
                "period",
                FieldType::DurationSecond,
                "How long it lasts, in seconds or as a duration; at most 90 days.",
            )
            .preset(Preset::Int(30 * 86_400)),
            Field::new("per_day", FieldType::Int, "How many credentials in 24 hours.").preset(Preset::Int(1)),
            Field::new("ttl", FieldType::DurationSecond, "How long each lasts at most, in seconds or as a duration.")
                .preset(Preset::Int(900)),
            Field::new("hours", FieldType::String, "When, as in policies/:name. Empty: as the policy says."),
        ],
        details: None,
        synopsis: "Agree beforehand, for shifts and nightly jobs.",
        description: "\
Written by somebody who may approve requests for the role, and is not among those whom it is for; his vote counts, others
add theirs at preapprovals/:name/approve. Votes are counted anew at each use. Every read that draws from it files a request.",
    },
    verb(
        Path::Preapprove,
        "preapprovals/{name}/approve",
        &[
            Field::new("name", FieldType::String, "Name of the preapproval."),
            Field::new("hash", FieldType::String, "The hash that was read. Needed: what was written since is refused."),
        ],
        "Vote for a preapproval.",
        "Where a policy asks for more than one vote.",
    ),
    Route {
        id: Path::Emergencies,
        pattern: "break-glass/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the uses of break-glass that wait for a review.",
        description: "Each with who used it and by when it is to be reviewed.",
    },
    verb(
        Path::Emergency,
        "break-glass/{role}",
        &[
            ROLE,
            Field::new("reason", FieldType::String, "Why; 10 characters at least."),
            Field::new("incident", FieldType::String, "Id of the incident. Needed."),
            Field::new("params", FieldType::KvPairs, "What narrows the role: see params_allowed in roles/:name."),
            Field::new("drill", FieldType::Bool, "Do everything but give access."),
        ],
        "Get access without anybody's agreement, in an emergency.",
        "For members of the policy's break_glass_groups. Gives a grant for one read of creds/:role, whatever hours and freezes \
         say. It is in the record and in the host's log before anything is given, and somebody else has to review it.",
    ),
    verb(
        Path::EmergencyReview,
        "break-glass/{role}/{request_id}/review",
        &[
            ROLE,
            ID,
            Field::new("comment", FieldType::String, "What was found. Needed, and kept in the record."),
            Field::new("justified", FieldType::Bool, "Whether it was in order.").preset(Preset::Bool(true)),
        ],
        "Review a use of break-glass.",
        "For somebody else, who may approve requests for the role or is in owner_groups.",
    ),
    Route {
        id: Path::Reports,
        pattern: "reports/?",
        operations: &[List],
        fields: &[],
        details: None,
        synopsis: "List the reports.",
        description: "Names only.",
    },
    Route {
        id: Path::Report,
        pattern: "reports/{name}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of the report.")],
        details: None,
        synopsis: "Who really holds what, what nobody uses, and what is out of order.",
        description: "\
coverage: how much of the last hour, day and week somebody held a role, in thousandths; metrics: counted from the record;
standing: who can log in to the targets with rights that nobody asked for here; remnants; notifications; unused;
exceptions; identities: who was refused because it is not clear who they are; third-party; unapprovable; break-glass.",
    },
    verb(
        Path::Offboard,
        "offboard/entity/{entity_id}",
        &[
            Field::new("entity_id", FieldType::String, "Id of the entity."),
            Field::new("reason", FieldType::String, "Why. Needed, and kept in the record."),
        ],
        "End everything of somebody now, and let nothing begin any more.",
        "Grants end at the target, requests are void, votes do not count. Says what is left to do in the identity store.",
    ),
    Route {
        id: Path::Inbox,
        pattern: "inbox",
        operations: &[Read],
        fields: &[],
        details: None,
        synopsis: "The requests that the caller could vote on now.",
        description: "Those of all roles.",
    },
    verb(
        Path::Lookup,
        "lookup/request",
        &[ID],
        "Look at a request of which only the id is known.",
        "Answers as requests/:role/:request_id does.",
    ),
    Route {
        id: Path::Chain,
        pattern: "evidence/chain/{request_id}",
        operations: &[Read],
        fields: &[ID],
        details: None,
        synopsis: "Every event of a request, from its filing to its end.",
        description: "Says which of request, approval, issuance, execution and revocation are missing.",
    },
    Route {
        id: Path::ByCredential,
        pattern: "evidence/by-credential/{name}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of a user, as it is in the target's own log.")],
        details: None,
        synopsis: "The chain of the request that a user was made for.",
        description: "Answers as evidence/chain/:request_id does.",
    },
    Route {
        id: Path::Export,
        pattern: "evidence/export",
        operations: &[Read],
        fields: &[
            Field::new("after", FieldType::Int, "Events after this number, exclusive.").query(),
            Field::new("limit", FieldType::Int, "So many events at most; 10000 is the most.")
                .preset(Preset::Int(1000))
                .query(),
            Field::new("format", FieldType::String, "json, ocsf or cef.").preset(Preset::Text("json")).query(),
        ],
        details: None,
        synopsis: "Read the record.",
        description: "\
With the last event comes a signed checkpoint. The answer, as JSON, is what `leasehold verify-evidence` judges on any
machine.",
    },
    Route {
        id: Path::Checkpoint,
        pattern: "evidence/checkpoint",
        operations: &[Read],
        fields: &[],
        details: None,
        synopsis: "A signed statement of how far the record goes and what its tree is.",
        description: "\
Keep some where this server cannot change them: with one of them, whoever has the record can tell whether it is still the
same. The key is Ed25519, the tree that of RFC 6962 over the hashes of the events.",
    },
    Route {
        id: Path::Proof,
        pattern: "evidence/proof/{seq}",
        operations: &[Read],
        fields: &[Field::new("seq", FieldType::String, "Number of the event.")],
        details: None,
        synopsis: "One event, and that it is in the record that a checkpoint has signed.",
        description: "\
The audit path of RFC 6962 from the event to the root in the checkpoint: `leasehold verify-evidence` judges the answer, and
needs no other event for that.",
    },
    verb(
        Path::Verify,
        "evidence/verify",
        &[Field::new("checkpoint", FieldType::Json, "A checkpoint that was kept.")],
        "Look at every event in storage: whether it is what it was.",
        "Names the first one that is not.",
    ),
    // Not beneath evidence/: auditors have `update` on evidence/+, to verify.
    verb(
        Path::Prune,
        "retention/prune",
        &[Field::new("dry_run", FieldType::Bool, "Only say what would go, and what keeps the rest.")
            .preset(Preset::Bool(true))],
        "Take away the oldest part of the record that nobody has to keep.",
        "\
By retention in config/jit; without it nothing ever goes. Stops at the first event that has to be kept: too young, of a
request that is held or not over, or not taken by a notify/:name. A signed statement stands in its place. Once an hour a
mount does the same by itself.",
    ),
];
