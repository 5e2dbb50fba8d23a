//! The route table of the AWS engine: every path, field and help text there is.

use crate::engine::access::{CREDS_FIELDS as ACCESS_FIELDS, ROLE_FIELDS as ROLE_ACCESS_FIELDS};
use crate::engine::field::{Field, FieldType, Preset};
use crate::engine::request::Operation::{self, Delete, List, Read, Update};
use crate::engine::route::Route;
use crate::engine::schedule::rule::{TIMEZONE_FIELD, WINDOW_FIELD};
use crate::engine::schedule::timing::DISABLE_FIELD;

/// A path of this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// `config/root`
    Root,
    /// `config/rotate-root`
    RotateRoot,
    /// `config/lease`
    Lease,
    /// `roles/`
    Roles,
    /// `roles/:name`
    Role,
    /// `creds/:name`
    Creds,
    /// `sts/:name`
    Sts,
    /// `static-roles/`
    StaticRoles,
    /// `static-roles/:name`
    StaticRole,
    /// `static-creds/:name`
    StaticCreds,
    /// `rotate-role/:name`
    RotateRole,
    /// `status`
    Status,
    /// `metrics`
    Metrics,
    /// `sync`
    Sync,
    /// `revoke-identity`
    RevokeIdentity,
    /// `check/:name`
    Check,
}

/// What `path-help` says of the mount as a whole.
pub const HELP: &str = "\
The AWS backend gives out AWS credentials: IAM users with a key of their own, and STS sessions.

After mounting this backend, write the account's own credentials to \"config/root\", a role below \"roles/\", and read
credentials below \"creds/\" or \"sts/\". A user ends with its lease; a session too, where the role's revocation says so. For
users that are there already, whose keys are changed regularly, there are \"static-roles/\" and \"static-creds/\".";

const WRITE: &[Operation] = &[Update];
const READ_WRITE: &[Operation] = &[Read, Update];
const ALL: &[Operation] = &[Read, Update, Delete];

const NAME: Field = Field::new("name", FieldType::String, "Name of the role.");
const AFTER: Field = Field::new("after", FieldType::String, "List entries after this one, exclusive.").query();
const LIMIT: Field = Field::new("limit", FieldType::Int, "List this many entries at most; without it, all.").query();

const ROOT_FIELDS: &[Field] = &[
    Field::new(
        "access_key",
        FieldType::String,
        "Access key id of the engine's own user; without one, the SDK's chain.",
    ),
    Field::new(
        "secret_key",
        FieldType::Secret,
        "Its secret key. Never returned, and kept when a write does not give it.",
    ),
    Field::new("region", FieldType::String, "Region for API calls; by default AWS_REGION, else us-east-1."),
    Field::new("iam_endpoint", FieldType::String, "URL of IAM, if it is not AWS's own."),
    Field::new("sts_endpoint", FieldType::String, "URL of STS, if it is not AWS's own."),
    Field::new("sts_region", FieldType::String, "Region of sts_endpoint, if it is not that of region."),
    Field::new(
        "sts_fallback_endpoints",
        FieldType::CommaStringSlice,
        "URLs of STS that are asked in turn when the one before cannot be reached.",
    ),
    Field::new("sts_fallback_regions", FieldType::CommaStringSlice, "Their regions, as many and in the same order."),
    Field::new("max_retries", FieldType::Int, "Tries after the first; -1 for the SDK's number.")
        .preset(Preset::Int(-1)),
    Field::new(
        "username_template",
        FieldType::String,
        "Go template of the names of users and sessions, with .Type (IAM or STS), .DisplayName and .PolicyName.",
    ),
    Field::new(
        "role_arn",
        FieldType::String,
        "Role that the engine itself assumes with the token in identity_token_file.",
    ),
    Field::new(
        "identity_token_file",
        FieldType::String,
        "File with a web identity token that something else keeps fresh, on each server; read at each exchange.",
    ),
    Field::new(
        "rotation_period",
        FieldType::DurationSecond,
        "The key changes within this many seconds, or this duration, of its last change; at least 10 seconds; 0 for never. \
         Either this or rotation_schedule. The user must have no second key.",
    ),
    Field::new(
        "rotation_schedule",
        FieldType::String,
        "The key changes after these times: a cron expression of five fields (\"0 3 * * SUN\"). Empty for never.",
    ),
    WINDOW_FIELD,
    TIMEZONE_FIELD,
    DISABLE_FIELD,
    Field::new(
        "identity_token_ttl",
        FieldType::DurationSecond,
        "How long a token of identity_token_audience would be good for. Means nothing: see there.",
    ),
    Field::new(
        "identity_token_audience",
        FieldType::String,
        "Audience of an identity token of the host's own. Refused: this host has none for plugins; see identity_token_file.",
    ),
];

const LEASE_FIELDS: &[Field] = &[
    Field::new("lease", FieldType::String, "Lease of users that are minted, as a duration: 30m.").required(),
    Field::new("lease_max", FieldType::String, "Longest lease of users, renewals included.").required(),
];

const ROLE_FIELDS: &[Field] = &[
    NAME,
    Field::new(
        "credential_type",
        FieldType::String,
        "What the role gives: iam_user, assumed_role, federation_token or session_token.",
    ),
    Field::new("role_arns", FieldType::CommaStringSlice, "assumed_role: ARNs of the roles that may be assumed."),
    Field::new(
        "policy_arns",
        FieldType::CommaStringSlice,
        "ARNs of managed policies: attached to users; what sessions may is cut down to them.",
    ),
    Field::new(
        "policy_document",
        FieldType::String,
        "IAM policy, JSON: put on users; what sessions may is cut down to it.",
    ),
    Field::new(
        "iam_groups",
        FieldType::CommaStringSlice,
        "Groups: users join them; what sessions may is cut down to what their policies allow.",
    ),
    Field::new(
        "iam_tags",
        FieldType::KvPairs,
        "iam_user: tags of the user, given in the request that creates it. Values may hold {{…}}: see principal_name.",
    ),
    Field::new(
        "session_tags",
        FieldType::KvPairs,
        "assumed_role: tags of the session. Values may hold {{…}}: see principal_name.",
    ),
    Field::new(
        "transitive_tag_keys",
        FieldType::CommaStringSlice,
        "assumed_role: those of the session_tags that go along when the session assumes a further role.",
    ),
    Field::new("external_id", FieldType::String, "assumed_role: the external id that the role's trust asks for."),
    Field::new(
        "principal_name",
        FieldType::String,
        "Name of the user or session instead of username_template's, with {{identity.entity.id}}, .name, .metadata.KEY, \
         {{identity.entity.aliases.ACCESSOR.name}}, .metadata.KEY, .custom_metadata.KEY, {{identity.groups.names.NAME.id}}, \
         .metadata.KEY, {{identity.groups.ids.ID.name}}, .metadata.KEY, {{role.name}} or {{request.id}}. A value that is \
         missing refuses the request. A dash and 12 random characters follow. Callers cannot choose a name then.",
    ),
    Field::new(
        "source_identity",
        FieldType::String,
        "assumed_role: who the session is for good, a template as principal_name's. Callers cannot choose a name then.",
    ),
    Field::new(
        "default_sts_ttl",
        FieldType::DurationSecond,
        "Length in seconds of a session that is asked for without a ttl.",
    ),
    Field::new(
        "max_sts_ttl",
        FieldType::DurationSecond,
        "Longest session in seconds; 0 for the mount's longest lease.",
    ),
    Field::new("user_path", FieldType::String, "iam_user: path of the user; / by default."),
    Field::new("permissions_boundary_arn", FieldType::String, "iam_user: ARN of the permissions boundary of the user."),
    Field::new("mfa_serial_number", FieldType::String, "session_token: the MFA device of the engine's own user."),
    Field::new(
        "revocation",
        FieldType::String,
        "How sessions end with their lease: session (each by its id), tag (each by a tag of its own), identity (all that \
         its source_identity has at that moment), older (all issued before), off. A new role gets session if the engine can \
         write the denials, else off; the answer says which.",
    ),
    Field::new(
        "revocation_role_arns",
        FieldType::CommaStringSlice,
        "ARNs of roles to write denials with, one for each account that is not the engine's own.",
    ),
    Field::new(
        "revocation_overflow",
        FieldType::String,
        "When no more denials fit: fail (the revocation is tried again until they do), identity (where source_identity or \
         principal_name says whose the sessions are, every session ends that an identity has by then, the one with the most \
         denials first), or collective (the same, and if that is not enough every session of the AWS role that was issued \
         until then ends).",
    ),
    Field::new(
        "revocation_attached_policies",
        FieldType::Int,
        "Before that: how many managed policies may be made and attached for what the inline one has no room for; 0 by \
         default. Each has room for 6,144 characters, and counts among those that AWS lets a role have.",
    ),
    Field::new(
        "wait_until_usable",
        FieldType::DurationSecond,
        "iam_user: seconds to wait at most until the new key works, before it is answered; 0 for not at all.",
    ),
    ROLE_ACCESS_FIELDS[0],
    ROLE_ACCESS_FIELDS[1],
    Field::new("policy", FieldType::String, "Deprecated: use policy_document with credential_type."),
    Field::new("arn", FieldType::String, "Deprecated: use role_arns or policy_arns with credential_type."),
];

const CREDS_FIELDS: &[Field] = &[
    NAME,
    Field::new("role_arn", FieldType::String, "assumed_role: which of the role_arns, if there are several.").query(),
    Field::new("ttl", FieldType::DurationSecond, "Length of the session in seconds.").preset(Preset::Int(3600)).query(),
    Field::new(
        "role_session_name",
        FieldType::String,
        "assumed_role: name of the session, where the role leaves that to the caller.",
    )
    .query(),
    Field::new("mfa_code", FieldType::String, "session_token: code of the role's MFA device."),
    ACCESS_FIELDS[0],
    ACCESS_FIELDS[1],
    ACCESS_FIELDS[2],
    ACCESS_FIELDS[3],
];

const STATIC_ROLE_FIELDS: &[Field] = &[
    Field::new("name", FieldType::String, "Name of the static role."),
    Field::new("username", FieldType::String, "The IAM user, which exists already.").required(),
    Field::new(
        "rotation_period",
        FieldType::DurationSecond,
        "Seconds from one change of the key to the next; at least 60.",
    )
    .required(),
    Field::new(
        "grace_period",
        FieldType::DurationSecond,
        "Seconds that the key before goes on working after a change; 0 for until the next change.",
    ),
    Field::new("assume_role_arn", FieldType::String, "ARN of a role to assume first, for a user of another account."),
    Field::new("assume_role_session_name", FieldType::String, "With assume_role_arn: the name of that session."),
    Field::new(
        "external_id",
        FieldType::String,
        "With assume_role_arn: the external id that the role's trust asks for.",
    ),
];

/// Every path of the mount.
pub const ROUTES: &[Route<Path>] = &[
    Route {
        id: Path::Root,
        pattern: "config/root",
        operations: READ_WRITE,
        fields: ROOT_FIELDS,
        details: None,
        synopsis: "Configure the account that is used to make credentials.",
        description: "\
A write lays the given fields over those that are stored; an empty text clears one. AWS is not asked. A new access_key needs
its secret_key in the same write.",
    },
    Route {
        id: Path::RotateRoot,
        pattern: "config/rotate-root",
        operations: WRITE,
        fields: &[],
        details: None,
        synopsis: "Change the key that the engine itself uses.",
        description: "\
The user must have no second key. The new key is used before the old one is deleted, so a failure at any point leaves a key
that works. The answer names the new access_key; nobody but Leasehold knows its secret.",
    },
    Route {
        id: Path::Lease,
        pattern: "config/lease",
        operations: READ_WRITE,
        fields: LEASE_FIELDS,
        details: None,
        synopsis: "Configure the default lease information for generated credentials.",
        description: "For iam_user only: the lease of a session is as long as the session.",
    },
    Route {
        id: Path::Roles,
        pattern: "roles/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the existing roles in this backend.",
        description: "Roles are listed by name.",
    },
    Route {
        id: Path::Role,
        pattern: "roles/{name@}",
        operations: ALL,
        fields: ROLE_FIELDS,
        details: None,
        synopsis: "Read, write and reference IAM policies that access keys can be made for.",
        description: "\
A write lays the given fields over those that are stored, and then looks at the whole. Deleting a role leaves its leases as
they are.",
    },
    Route {
        id: Path::Creds,
        pattern: "creds/{name@}",
        operations: READ_WRITE,
        fields: CREDS_FIELDS,
        details: None,
        synopsis: "Generate AWS credentials from a specific Vault role.",
        description: "\
iam_user: a new user with a key, whose lease can be renewed. Otherwise a session, whose lease cannot; where the role's
revocation is on, a ttl may be shorter than what STS gives at least.",
    },
    Route {
        id: Path::Sts,
        pattern: "sts/{name@}",
        operations: READ_WRITE,
        fields: CREDS_FIELDS,
        details: None,
        synopsis: "Generate AWS credentials from a specific Vault role.",
        description: "The same as creds/:name, but for roles written with the deprecated fields: those give only sessions here.",
    },
    Route {
        id: Path::StaticRoles,
        pattern: "static-roles/?",
        operations: &[List],
        fields: &[AFTER, LIMIT],
        details: None,
        synopsis: "List the static roles.",
        description: "Static roles are listed by name.",
    },
    Route {
        id: Path::StaticRole,
        pattern: "static-roles/{name@}",
        operations: ALL,
        fields: STATIC_ROLE_FIELDS,
        details: None,
        synopsis: "Manage static roles for AWS.",
        description: "\
A static role stands for one IAM user that is there already. It gets a new key when the role is written first, and then
regularly. A user has two keys at most: a change removes the older one first. Deleting the role deletes the key that it made,
and leaves the user.",
    },
    Route {
        id: Path::StaticCreds,
        pattern: "static-creds/{name@}",
        operations: &[Read],
        fields: &[Field::new("name", FieldType::String, "Name of the static role.")],
        details: None,
        synopsis: "Retrieve static credentials from the named role.",
        description: "Answers with the key that is valid, and when it changes. There is no lease.",
    },
    Route {
        id: Path::RotateRole,
        pattern: "rotate-role/{name@}",
        operations: WRITE,
        fields: &[Field::new("name", FieldType::String, "Name of the static role.")],
        details: None,
        synopsis: "Change the key of a static role's user now.",
        description: "The rotation_period begins anew.",
    },
    Route {
        id: Path::Status,
        pattern: "status",
        operations: &[Read],
        fields: &[],
        details: None,
        synopsis: "How the account is doing, and the denials that are in force.",
        description: "\
Users that were made and are there, the oldest of them, and those whose lease is over; keys that change, with what went wrong;
work at AWS with its durations; what is due and not done; and what somebody should look at. For each role or user at AWS that
carries denials: how many, until when, how many of the characters that its inline policies may have, when they were last
written, and why the last attempt failed, if it did.",
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
denials or queue. AWS is not asked.",
    },
    Route {
        id: Path::Sync,
        pattern: "sync",
        operations: WRITE,
        fields: &[],
        details: None,
        synopsis: "Bring the denials at AWS in line with ours now.",
        description: "\
Drops those whose sessions have ended, and writes anew what somebody else has changed. It also happens by itself.",
    },
    Route {
        id: Path::RevokeIdentity,
        pattern: "revoke-identity",
        operations: WRITE,
        fields: &[
            Field::new("source_identity", FieldType::String, "The source identity whose sessions end.").required(),
        ],
        details: None,
        synopsis: "End every live session of one identity.",
        description: "\
Ends the sessions that roles with a source_identity have given to it until now, at every AWS role they are of, whether or not
their leases are known. Sessions that it gets afterwards work. Revoke its leases too, and take its right to read new ones.",
    },
    Route {
        id: Path::Check,
        pattern: "check/{name@}",
        operations: &[Read],
        fields: &[NAME],
        details: None,
        synopsis: "What the engine's own credentials can do of what a role needs.",
        description: "\
Asks AWS for what the role needs, as the engine. A session of the shortest length is made and thrown away, and a policy that
can match nobody is written and removed.",
    },
];
