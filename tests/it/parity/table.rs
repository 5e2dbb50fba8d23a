//! What a row of the table can say.

use std::panic::Location;

use serde_json::Value;

/// One step, played against each side in turn.
pub struct Row {
    /// What is done.
    pub step: Step,
    /// Where the row is written.
    pub place: &'static Location<'static>,
    /// What it shows, if the request does not say it by itself.
    pub note: &'static str,
    /// The permitted difference, if there is one.
    pub differs: Option<Difference>,
}

/// What a row does.
///
/// Texts may hold `{mount}`, and `{lease:NAME}`, `{user:NAME}`, `{password:NAME}`, `{token:NAME}` of an answer saved
/// before on the same side.
pub enum Step {
    /// A request; its answer is compared.
    Request(Request),
    /// SQL as the superuser, on each side.
    Sql(String),
    /// Removes the user of a saved credential; not compared.
    DropUser(&'static str),
    /// A login with a saved credential; whether it is refused is compared.
    Login(&'static str),
    /// A session with a saved credential, kept open.
    OpenSession(&'static str),
    /// Whether a session opened before still answers is compared.
    SessionLives(&'static str),
    /// Waits until the user of a saved credential is gone from the database.
    WaitGone(&'static str),
    /// Stops the spare database.
    StopSpare,
    /// Starts the spare database again.
    StartSpare,
}

/// A request of a row.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
    pub headers: Vec<(&'static str, &'static str)>,
    /// The saved token it is made with; the root token if `None`.
    pub token: Option<&'static str>,
    /// The name under which its answer is saved.
    pub save: Option<&'static str>,
}

/// A difference that docs/differences.md permits.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Its name there.
    pub name: &'static str,
    /// The status that our side must answer with.
    pub status: u16,
    /// A text that our side's answer (or catalogue change) must hold.
    pub holds: &'static str,
}

/// Rows in the order of play.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    #[track_caller]
    fn push(&mut self, step: Step) -> &mut Row {
        self.rows.push(Row { step, place: Location::caller(), note: "", differs: None });
        self.rows.last_mut().unwrap()
    }

    /// Any request; `path` is complete.
    #[track_caller]
    pub fn request(&mut self, method: &'static str, path: &str, body: Option<Value>) -> &mut Row {
        let request = Request { method, path: path.to_owned(), body, headers: Vec::new(), token: None, save: None };
        self.push(Step::Request(request))
    }

    /// `GET` below the mount.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> &mut Row {
        self.request("GET", &format!("{{mount}}/{path}"), None)
    }

    /// `LIST` below the mount.
    #[track_caller]
    pub fn list(&mut self, path: &str) -> &mut Row {
        self.request("LIST", &format!("{{mount}}/{path}"), None)
    }

    /// `POST` below the mount.
    #[track_caller]
    pub fn post(&mut self, path: &str, body: Value) -> &mut Row {
        self.request("POST", &format!("{{mount}}/{path}"), Some(body))
    }

    /// `DELETE` below the mount.
    #[track_caller]
    pub fn delete(&mut self, path: &str) -> &mut Row {
        self.request("DELETE", &format!("{{mount}}/{path}"), None)
    }

    /// Reads credentials of a role and saves them under a name.
    #[track_caller]
    pub fn mint(&mut self, role: &str, name: &'static str) -> &mut Row {
        self.get(&format!("creds/{role}")).save(name)
    }

    /// Renews a saved lease; 0 for no increment.
    #[track_caller]
    pub fn renew(&mut self, name: &str, increment: u64) -> &mut Row {
        let mut body = serde_json::json!({ "lease_id": format!("{{lease:{name}}}") });
        if increment > 0 {
            body["increment"] = increment.into();
        }
        self.request("POST", "sys/leases/renew", Some(body))
    }

    /// Revokes a saved lease and waits for it.
    #[track_caller]
    pub fn revoke(&mut self, name: &str) -> &mut Row {
        let body = serde_json::json!({ "lease_id": format!("{{lease:{name}}}"), "sync": true });
        self.request("POST", "sys/leases/revoke", Some(body))
    }

    /// Looks a saved lease up.
    #[track_caller]
    pub fn lookup(&mut self, name: &str) -> &mut Row {
        let body = serde_json::json!({ "lease_id": format!("{{lease:{name}}}") });
        self.request("POST", "sys/leases/lookup", Some(body))
    }

    #[track_caller]
    pub fn sql(&mut self, sql: &str) {
        self.push(Step::Sql(sql.to_owned()));
    }

    /// Removes the user of a saved credential, if it is there. What it finds is not compared: it tidies up after rows
    /// that may differ.
    #[track_caller]
    pub fn drop_user(&mut self, name: &'static str) {
        self.push(Step::DropUser(name));
    }

    #[track_caller]
    pub fn login(&mut self, name: &'static str) -> &mut Row {
        self.push(Step::Login(name))
    }

    #[track_caller]
    pub fn open_session(&mut self, name: &'static str) {
        self.push(Step::OpenSession(name));
    }

    #[track_caller]
    pub fn session_lives(&mut self, name: &'static str) -> &mut Row {
        self.push(Step::SessionLives(name))
    }

    #[track_caller]
    pub fn wait_gone(&mut self, name: &'static str) -> &mut Row {
        self.push(Step::WaitGone(name))
    }

    #[track_caller]
    pub fn stop_spare(&mut self) {
        self.push(Step::StopSpare);
    }

    #[track_caller]
    pub fn start_spare(&mut self) {
        self.push(Step::StartSpare);
    }
}

impl Row {
    /// What the row shows.
    pub fn note(&mut self, note: &'static str) -> &mut Row {
        self.note = note;
        self
    }

    /// Permits (and demands) a difference, and says what our side answers instead.
    pub fn differs(&mut self, name: &'static str, status: u16, holds: &'static str) -> &mut Row {
        self.differs = Some(Difference { name, status, holds });
        self
    }

    /// Saves lease, user, password and token of the answer under a name.
    pub fn save(&mut self, name: &'static str) -> &mut Row {
        self.request_mut().save = Some(name);
        self
    }

    /// Makes the request with a saved token.
    pub fn token(&mut self, name: &'static str) -> &mut Row {
        self.request_mut().token = Some(name);
        self
    }

    /// Adds a header.
    pub fn header(&mut self, name: &'static str, value: &'static str) -> &mut Row {
        self.request_mut().headers.push((name, value));
        self
    }

    fn request_mut(&mut self) -> &mut Request {
        match &mut self.step {
            Step::Request(request) => request,
            _ => panic!("not a request"),
        }
    }
}
