//! The passwords that sessions are opened with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::secret::Secret;

/// What may open the account that a target logs in with. Mostly one password; more while nobody can tell which of them is
/// valid. Clones are the same list: a session that is opened later tries what was added in between.
#[derive(Clone, Default)]
pub struct Passwords(Arc<Mutex<Vec<Known>>>);

struct Known {
    password: Secret,
    candidate: bool,
}

/// Two lists are equal if they hold the same.
impl PartialEq for Passwords {
    fn eq(&self, other: &Self) -> bool {
        let texts = |of: &Self| of.lock().iter().map(|known| known.password.duplicate()).collect::<Vec<_>>();
        Arc::ptr_eq(&self.0, &other.0) || texts(self) == texts(other)
    }
}
impl Eq for Passwords {}

impl From<Option<Secret>> for Passwords {
    fn from(password: Option<Secret>) -> Self {
        let own = Self::default();
        own.lock().extend(password.map(|password| Known { password, candidate: false }));
        own
    }
}

impl Passwords {
    fn lock(&self) -> MutexGuard<'_, Vec<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The password that is tried first, if there is any.
    pub fn first(&self) -> Option<Secret> {
        self.lock().first().map(|known| known.password.duplicate())
    }

    /// This one may open the account from now on.
    pub fn add(&self, candidate: &Secret) {
        let mut all = self.lock();
        if all.iter().all(|known| known.password != *candidate) {
            all.push(Known { password: candidate.duplicate(), candidate: true });
        }
    }

    /// What was added may not open the account any more, but for `candidates`.
    pub fn only_add(&self, candidates: &[Secret]) {
        self.lock().retain(|known| !known.candidate || candidates.contains(&known.password));
        candidates.iter().for_each(|candidate| self.add(candidate));
    }

    /// This one opens the account, and no other does.
    pub fn settle(&self, password: &Secret) {
        *self.lock() = vec![Known { password: password.duplicate(), candidate: false }];
    }

    /// Begins to try one after the other.
    pub fn tries(&self) -> Tries {
        Tries { passwords: self.clone(), wrong: Vec::new(), current: self.first() }
    }
}

/// One attempt to open a session, with as many passwords as it takes.
pub struct Tries {
    passwords: Passwords,
    wrong: Vec<Secret>,
    current: Option<Secret>,
}

impl Tries {
    /// The one to try now; `None` if the account has none.
    pub fn current(&self) -> Option<&Secret> {
        self.current.as_ref()
    }

    /// The server does not take it. True if there is another one to try, which may have been added meanwhile.
    pub fn go_on(&mut self) -> bool {
        let Some(wrong) = self.current.take() else { return false };
        self.wrong.push(wrong);
        let all = self.passwords.lock();
        let untried = all.iter().find(|known| !self.wrong.contains(&known.password));
        self.current = untried.map(|known| known.password.duplicate());
        self.current.is_some()
    }

    /// The server takes it: it is tried first from now on.
    pub fn succeed(self) {
        let mut all = self.passwords.lock();
        let position = all.iter().position(|known| Some(&known.password) == self.current.as_ref());
        if let Some(position) = position.filter(|position| *position > 0) {
            let known = all.remove(position);
            all.insert(0, known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    /// Which passwords are tried, in order, if none of them is right.
    fn tried(passwords: &Passwords) -> Vec<String> {
        let mut tries = passwords.tries();
        let mut all = Vec::new();
        while let Some(password) = tries.current() {
            all.push(password.expose().to_owned());
            tries.go_on();
        }
        all
    }

    #[test]
    fn each_is_tried_once_and_what_worked_last_first() {
        let passwords = Passwords::from(Some(secret("old")));
        passwords.add(&secret("new"));
        passwords.add(&secret("new"));
        assert_eq!(tried(&passwords), ["old", "new"]);
        let mut tries = passwords.tries();
        assert!(tries.go_on());
        tries.succeed();
        assert_eq!(tried(&passwords), ["new", "old"]);
        passwords.only_add(&[]);
        assert_eq!(tried(&passwords), ["old"], "a candidate that was given up");
        passwords.only_add(&[secret("a"), secret("b")]);
        passwords.only_add(&[secret("b"), secret("c")]);
        assert_eq!(tried(&passwords), ["old", "b", "c"]);
        passwords.settle(&secret("c"));
        assert_eq!(tried(&passwords), ["c"]);
    }

    #[test]
    fn what_is_added_meanwhile_is_tried() {
        let passwords = Passwords::from(Some(secret("old")));
        let mut tries = passwords.tries();
        passwords.add(&secret("new"));
        assert!(tries.go_on());
        passwords.settle(&secret("newer"));
        assert!(tries.go_on());
        assert_eq!(tries.current().unwrap().expose(), "newer");
        assert!(!tries.go_on());
    }

    #[test]
    fn no_password_is_tried_once_too() {
        let mut tries = Passwords::from(None).tries();
        assert!(tries.current().is_none());
        assert!(!tries.go_on());
    }
}
