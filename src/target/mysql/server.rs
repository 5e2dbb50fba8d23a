//! What kind of server answers, and what follows from that: pure questions about flavour, version and plugins.

use std::fmt;

use crate::secret::Secret;
use crate::secret::password::NoRandomness;
use crate::secret::verifier::mysql as verifier;

/// A password plugin whose hash can be made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `mysql_native_password`.
    Native,
    /// `caching_sha2_password`.
    CachingSha2,
    /// MariaDB's `ed25519`.
    Ed25519,
}

impl Plugin {
    /// By the name that the servers use.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "mysql_native_password" => Some(Self::Native),
            "caching_sha2_password" => Some(Self::CachingSha2),
            "ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }

    /// The name that the servers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Ed25519 => "ed25519",
        }
    }

    /// Whether `stored` is the hash of `password`; `None` if that cannot be told.
    pub fn matches(self, stored: &str, password: &Secret) -> Option<bool> {
        match self {
            Self::Native => Some(verifier::native(password).expose() == stored),
            Self::CachingSha2 => verifier::is_caching_sha2(stored, password),
            Self::Ed25519 => Some(verifier::ed25519(password).expose() == stored),
        }
    }

    /// What this plugin stores for `password`; needs no escaping inside `'…'`.
    pub fn hash(self, password: &Secret) -> Result<Secret, NoRandomness> {
        match self {
            Self::Native => Ok(verifier::native(password)),
            Self::CachingSha2 => verifier::caching_sha2(password),
            Self::Ed25519 => Ok(verifier::ed25519(password)),
        }
    }
}

/// What a session found at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// MariaDB, as opposed to MySQL and what speaks like it.
    pub mariadb: bool,
    /// Major, minor, patch.
    pub version: (u16, u16, u16),
    /// Password plugins that are loaded and that we can make hashes for.
    pub plugins: Vec<Plugin>,
    /// What `IDENTIFIED BY` gives a new user, if we can make hashes for it.
    pub default_plugin: Option<Plugin>,
}

/// `MariaDB 10.11.6`.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "{} {major}.{minor}.{patch}", if self.mariadb { "MariaDB" } else { "MySQL" })
    }
}

impl Server {
    /// From `VERSION()`, the names of the active authentication plugins, and the variables
    /// `default_authentication_plugin` and `authentication_policy` where the server has them.
    pub fn new(version: &str, plugins: &[&str], default_plugin: Option<&str>, policy: Option<&str>) -> Self {
        let mariadb = version.to_ascii_lowercase().contains("mariadb");
        let plugins: Vec<Plugin> = plugins.iter().filter_map(|name| Plugin::named(name)).collect();
        let version = numbers(version);
        // MySQL: the first factor of the policy wins; `*` in it means the older variable, which 8.4 no longer has.
        let first = policy.and_then(|policy| policy.split(',').next()).map(str::trim).unwrap_or_default();
        let first = first.rsplit(':').next().unwrap_or_default();
        let default_plugin = match (mariadb, first, default_plugin) {
            (true, ..) => Some(Plugin::Native),
            (false, "" | "*", Some(name)) => Plugin::named(name),
            (false, "" | "*", None) if version >= (8, 0, 4) => Some(Plugin::CachingSha2),
            (false, "" | "*", None) => Some(Plugin::Native),
            (false, name, _) => Plugin::named(name),
        };
        // Servers so old that they list none have the native one.
        let default_plugin = default_plugin
            .filter(|plugin| plugins.contains(plugin) || (plugins.is_empty() && *plugin == Plugin::Native));
        Self { mariadb, version, plugins, default_plugin }
    }

    /// The longest user name, in characters.
    pub fn longest_username(&self) -> usize {
        match (self.mariadb, self.version) {
            (true, _) => 80,
            (false, version) if version >= (5, 7, 8) => 32,
            (false, _) => 16,
        }
    }

    /// `ALTER USER … ACCOUNT LOCK`.
    pub fn can_lock(&self) -> bool {
        if self.mariadb { self.version >= (10, 4, 2) } else { self.version >= (5, 7, 6) }
    }

    /// The privilege to end the sessions of others.
    pub fn connection_admin(&self) -> &'static str {
        match (self.mariadb, self.version) {
            (true, version) if version >= (10, 5, 2) => "CONNECTION ADMIN",
            (false, version) if version >= (8, 0, 0) => "CONNECTION_ADMIN",
            _ => "SUPER",
        }
    }

    /// The privileges to drop a user that is a definer: MySQL insists on them, MariaDB knows none.
    pub fn orphans_definers(&self) -> &'static str {
        if self.version >= (8, 2, 0) { "SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER" } else { "SET_USER_ID" }
    }

    /// `DROP USER IF EXISTS`.
    pub fn has_if_exists(&self) -> bool {
        if self.mariadb { self.version >= (10, 1, 3) } else { self.version >= (5, 7, 8) }
    }

    /// `ALTER USER … IDENTIFIED …`.
    pub fn has_alter_user(&self) -> bool {
        if self.mariadb { self.version >= (10, 2, 0) } else { self.version >= (5, 7, 6) }
    }

    /// Two passwords at a time: `RETAIN CURRENT PASSWORD`, `DISCARD OLD PASSWORD`.
    pub fn has_two_passwords(&self) -> bool {
        !self.mariadb && self.version >= (8, 0, 14)
    }

    /// `ALTER USER … ATTRIBUTE`: an account carries a JSON object. MariaDB knows none.
    pub fn has_attributes(&self) -> bool {
        !self.mariadb && self.version >= (8, 0, 21)
    }

    /// Roles are rows of `mysql.user`, told apart by `is_role`.
    pub fn lists_roles_as_users(&self) -> bool {
        self.mariadb && self.version >= (10, 0, 5)
    }

    /// `mysql.user` is a view of the table `mysql.global_priv`.
    pub fn has_global_privileges(&self) -> bool {
        self.mariadb && self.version >= (10, 4, 0)
    }

    /// `mysql.user` has the column `plugin`.
    pub fn lists_plugins(&self) -> bool {
        self.mariadb || self.version >= (5, 5, 7)
    }

    /// The clause that gives a user the password behind `hash`.
    pub fn identified(&self, plugin: Plugin, hash: &Secret) -> Secret {
        let hash = hash.expose();
        Secret::new(match (plugin, self.mariadb) {
            (Plugin::Native, false) if self.version >= (5, 7, 6) => {
                format!("IDENTIFIED WITH mysql_native_password AS '{hash}'")
            }
            (Plugin::Native, _) => format!("IDENTIFIED BY PASSWORD '{hash}'"),
            (plugin, true) => format!("IDENTIFIED VIA {} USING '{hash}'", plugin.name()),
            (plugin, false) => format!("IDENTIFIED WITH {} AS '{hash}'", plugin.name()),
        })
    }
}

/// The three leading numbers of a version; MariaDB's `5.5.5-` in front of its own is skipped.
fn numbers(version: &str) -> (u16, u16, u16) {
    let own = version.strip_prefix("5.5.5-").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = own.unwrap_or(version).split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[&str] = &["mysql_native_password", "sha256_password", "caching_sha2_password"];

    fn mysql(version: &str, default: Option<&str>, policy: Option<&str>) -> Server {
        Server::new(version, ALL, default, policy)
    }

    #[test]
    fn versions() {
        assert_eq!(numbers("10.11.19-MariaDB-0+deb12u1"), (10, 11, 19));
        assert_eq!(numbers("5.5.5-10.3.2-MariaDB"), (10, 3, 2));
        assert_eq!(numbers("5.5.5"), (5, 5, 5));
        assert_eq!(numbers("8.0.36"), (8, 0, 36));
        assert_eq!(numbers("8.0.mysql_aurora.3.04.0"), (8, 0, 0));
        assert_eq!(numbers("8.4"), (8, 4, 0));
        assert_eq!(numbers("?"), (0, 0, 0));
    }

    #[test]
    fn mariadb() {
        let server = Server::new("10.11.19-MariaDB", &["mysql_native_password", "ed25519", "unix_socket"], None, None);
        assert!(server.mariadb && server.can_lock() && !server.has_two_passwords());
        assert_eq!(server.longest_username(), 80);
        assert_eq!(server.plugins, [Plugin::Native, Plugin::Ed25519]);
        assert_eq!(server.default_plugin, Some(Plugin::Native));
        let hash = Secret::new("H".to_owned());
        assert_eq!(server.identified(Plugin::Native, &hash).expose(), "IDENTIFIED BY PASSWORD 'H'");
        assert_eq!(server.identified(Plugin::Ed25519, &hash).expose(), "IDENTIFIED VIA ed25519 USING 'H'");
    }

    #[test]
    fn the_default_plugin_of_mysql() {
        use Plugin::*;
        for (version, default, policy, expected) in [
            ("5.7.44", Some("mysql_native_password"), None, Some(Native)),
            ("8.0.20", Some("caching_sha2_password"), None, Some(CachingSha2)),
            ("8.0.36", Some("mysql_native_password"), Some("*,,"), Some(Native)),
            ("8.0.36", Some("caching_sha2_password"), Some("mysql_native_password,,"), Some(Native)),
            ("8.4.3", None, Some("*,,"), Some(CachingSha2)),
            ("8.4.3", None, Some("*:mysql_native_password,,"), Some(Native)),
            ("8.4.3", None, Some("sha256_password"), None),
            ("8.4.3", None, None, Some(CachingSha2)),
        ] {
            assert_eq!(mysql(version, default, policy).default_plugin, expected, "{version} {default:?} {policy:?}");
        }
        // Named, but not there.
        let bare = Server::new("9.0.1", &["caching_sha2_password"], None, Some("mysql_native_password"));
        assert_eq!(bare.default_plugin, None);
        // A server from before the plugins.
        assert_eq!(Server::new("5.1.73", &[], None, None).default_plugin, Some(Native));
    }

    #[test]
    fn mysql_limits_and_forms() {
        let eight = mysql("8.0.36", None, None);
        assert!(eight.has_two_passwords() && eight.can_lock() && eight.has_if_exists());
        assert_eq!(eight.longest_username(), 32);
        let hash = Secret::new("H".to_owned());
        assert_eq!(
            eight.identified(Plugin::CachingSha2, &hash).expose(),
            "IDENTIFIED WITH caching_sha2_password AS 'H'"
        );
        assert_eq!(eight.identified(Plugin::Native, &hash).expose(), "IDENTIFIED WITH mysql_native_password AS 'H'");
        let old = mysql("5.6.51", None, None);
        assert!(eight.has_attributes() && mysql("8.0.21", None, None).has_attributes());
        assert!(!mysql("8.0.20", None, None).has_attributes());
        assert!(!Server::new("11.4.2-MariaDB", &[], None, None).has_attributes());
        assert!(!old.has_two_passwords() && !old.can_lock() && !old.has_if_exists() && !old.has_alter_user());
        assert_eq!(old.longest_username(), 16);
        assert_eq!(old.identified(Plugin::Native, &hash).expose(), "IDENTIFIED BY PASSWORD 'H'");
    }
}
