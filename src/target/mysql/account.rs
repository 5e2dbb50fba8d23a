//! What a session can do to a user: a user is a name, and its accounts are the hosts that the name may come from.

use std::time::Duration;

use tokio::time::Instant;

use super::session::{Fault, Session, Texts};
use crate::target::Marker;

/// How often sessions that were told to go are looked for again.
const POLL: Duration = Duration::from_millis(10);

/// One account of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The host part.
    pub host: String,
    /// The password plugin, empty if the server does not say.
    pub plugin: String,
}

/// The accounts of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// Each host once.
    pub list: Vec<Account>,
    /// Not looked up but taken for granted: the admin user may not read `mysql.user`.
    pub assumed: bool,
}

/// `'text'`; sessions have no `NO_BACKSLASH_ESCAPES`.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// `'user'@'host'`.
pub fn account(username: &str, host: &str) -> String {
    format!("{}@{}", literal(username), literal(host))
}

/// The statement that writes into an account whose it is (MySQL 8.0.21). What the account has of attributes otherwise stays.
pub fn attribute(account: &str, marker: &Marker) -> String {
    let note = serde_json::json!({ "leasehold": {
        "mount": marker.mount,
        "connection": marker.connection,
        "role": marker.role,
        "request_id": marker.grant,
        "core_request_id": marker.request,
        "entity_id": marker.entity,
        "issued": marker.begun,
        "expires": marker.expires,
    } });
    format!("ALTER USER {account} ATTRIBUTE {}", literal(&note.to_string()))
}

impl Session {
    /// Whether [`Session::attribute`] has anything to write.
    pub fn wants_attribute(&self, marker: &Marker) -> bool {
        !marker.grant.is_empty() && self.server.has_attributes()
    }

    /// Writes into a user whose it is, where the server has a place for that and the user is one of a grant.
    pub async fn attribute(&mut self, username: &str, accounts: &Accounts, marker: &Marker) -> Result<(), Fault> {
        if !self.wants_attribute(marker) {
            return Ok(());
        }
        for Account { host, .. } in &accounts.list {
            self.run(&attribute(&account(username, host), marker)).await?;
        }
        Ok(())
    }

    /// Looks up the accounts of a user; where that is not allowed, there is one at `assumed_host`.
    pub async fn accounts(&mut self, username: &str, assumed_host: &str) -> Result<Accounts, Fault> {
        let rows = match self.rows_of(username).await {
            Err(fault) if fault.is_denied() => {
                let account = Account { host: assumed_host.to_owned(), plugin: String::new() };
                return Ok(Accounts { list: vec![account], assumed: true });
            }
            rows => rows?,
        };
        let texts = |row: Vec<Option<String>>| {
            let mut texts = row.into_iter().map(Option::unwrap_or_default);
            (texts.next().unwrap_or_default(), texts.next().unwrap_or_default(), texts.next().unwrap_or_default())
        };
        // The server pads what it compares: `u ` is another user.
        let exact =
            |(user, host, plugin): (String, String, String)| (user == username).then_some(Account { host, plugin });
        Ok(Accounts { list: rows.into_iter().map(texts).filter_map(exact).collect(), assumed: false })
    }

    /// Name, host and password plugin of the accounts of a user, and of names that only differ in blanks at their end.
    async fn rows_of(&mut self, username: &str) -> Result<Vec<Texts>, Fault> {
        let user = literal(username);
        if self.server.has_global_privileges() && self.reads_privileges {
            // The table behind the view is sorted by host first: found host by host, a user costs the same among any number.
            let rows = self
                .rows(&format!(
                    "SELECT STRAIGHT_JOIN p.User, p.Host, JSON_VALUE(p.Priv, '$.plugin') \
                     FROM (SELECT DISTINCT Host FROM mysql.global_priv) h JOIN mysql.global_priv p ON p.Host = h.Host \
                     WHERE p.User = {user} AND NOT IFNULL(JSON_VALUE(p.Priv, '$.is_role'), 0)"
                ))
                .await;
            match rows {
                Err(fault) if fault.is_denied() => self.reads_privileges = false,
                rows => return rows,
            }
        }
        let plugin = if self.server.lists_plugins() { "plugin" } else { "''" };
        let no_roles = if self.server.lists_roles_as_users() { " AND is_role = 'N'" } else { "" };
        self.rows(&format!("SELECT User, Host, {plugin} FROM mysql.user WHERE User = {user}{no_roles}")).await
    }

    /// Forbids new logins where the server can. Accounts that are gone are no error.
    pub async fn lock(&mut self, username: &str, accounts: &Accounts) -> Result<(), Fault> {
        if !self.server.can_lock() {
            return Ok(());
        }
        for Account { host, .. } in &accounts.list {
            match self.run(&format!("ALTER USER {} ACCOUNT LOCK", account(username, host))).await {
                Err(fault) if fault.number() == Some(1396) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// True if the server says of one of the accounts that it is not there. To ask changes nothing: they are not locked.
    pub async fn lacks(&mut self, username: &str, accounts: &Accounts) -> bool {
        if !self.server.can_lock() {
            return false;
        }
        for Account { host, .. } in &accounts.list {
            let asked = self.run(&format!("ALTER USER {} ACCOUNT UNLOCK", account(username, host))).await;
            if asked.is_err_and(|fault| fault.number() == Some(1396)) {
                return true;
            }
        }
        false
    }

    /// Drops the accounts. Those that are gone are no error.
    pub async fn drop_accounts(&mut self, username: &str, accounts: &Accounts) -> Result<(), Fault> {
        let if_exists = if self.server.has_if_exists() { "IF EXISTS " } else { "" };
        for Account { host, .. } in &accounts.list {
            match self.run(&format!("DROP USER {if_exists}{}", account(username, host))).await {
                Err(fault) if fault.number() == Some(1396) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The numbers of the sessions of a user, as far as the admin user may see them.
    pub async fn sessions_of(&mut self, username: &str) -> Result<Vec<u64>, Fault> {
        let of = |table: &str| format!("SELECT ID, USER FROM {table} WHERE USER = {}", literal(username));
        let rows = match self.rows(&of("information_schema.PROCESSLIST")).await {
            // Announced to go away in MySQL.
            Err(fault) if matches!(fault.number(), Some(1109 | 1146)) => {
                let table = "performance_schema.processlist";
                self.rows(&of(table)).await?
            }
            rows => rows?,
        };
        let own = self.id;
        let exact = |row: Vec<Option<String>>| match row.as_slice() {
            // The server compares without regard to case.
            [Some(id), Some(user)] if user == username => id.parse().ok().filter(|&id| id != own),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(exact).collect())
    }

    /// Ends all sessions of a user and waits until they are gone; says how many there were.
    ///
    /// # Errors
    /// Besides what the server says, [`Fault::Timeout`] if some do not end within `patience`.
    pub async fn end_sessions(&mut self, username: &str, patience: Duration) -> Result<u64, Fault> {
        let deadline = Instant::now() + patience;
        let mut told = Vec::new();
        loop {
            let open = self.sessions_of(username).await?;
            if open.is_empty() {
                return Ok(told.len() as u64);
            }
            for id in open {
                if !told.contains(&id) {
                    self.kill(id).await?;
                    told.push(id);
                }
            }
            if Instant::now() >= deadline {
                return Err(Fault::Timeout(patience));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn kill(&mut self, id: u64) -> Result<(), Fault> {
        match self.run(&format!("KILL CONNECTION {id}")).await {
            // It has ended by itself.
            Err(fault) if fault.number() == Some(1094) => Ok(()),
            // Not ours to kill. Amazon's managed servers have a procedure instead of the privilege.
            Err(fault) if fault.number() == Some(1095) => {
                self.run(&format!("CALL mysql.rds_kill({id})")).await.map_err(|_| fault)
            }
            other => other,
        }
    }

    /// Ends another session of the admin user, that of which nothing was heard any more, and waits until it is gone.
    /// From then on, what it was running has either happened or not.
    pub async fn end_own_session(&mut self, id: u64, username: &str, patience: Duration) -> Result<(), Fault> {
        let deadline = Instant::now() + patience;
        while self.sessions_of(username).await?.contains(&id) {
            if Instant::now() >= deadline {
                return Err(Fault::Timeout(patience));
            }
            self.kill(id).await?;
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        assert_eq!(account(r"a'b\", "%"), r"'a''b\\'@'%'");
    }

    #[test]
    fn an_attribute_says_whose_a_user_is() {
        let marker = Marker {
            mount: "m".into(),
            connection: "my".into(),
            role: "r'\"\\".into(),
            grant: "jr_1".into(),
            request: "req".into(),
            entity: "e".into(),
            begun: 5,
            expires: 9,
            seal: "not told".into(),
        };
        let wanted = concat!(
            r#"ALTER USER 'u'@'%' ATTRIBUTE '{"leasehold":{"mount":"m","connection":"my","role":"r''\\"\\\\","#,
            r#""request_id":"jr_1","core_request_id":"req","entity_id":"e","issued":5,"expires":9}}'"#,
        );
        assert_eq!(attribute(&account("u", "%"), &marker), wanted);
    }
}
