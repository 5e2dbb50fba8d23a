//! Secret material: the type that holds it, where it comes from, the form in which a server may see it.

pub mod authority;
pub mod key;
pub mod mac;
pub mod memory;
pub mod password;
pub mod seal;
pub mod signer;
pub mod verifier;

use std::fmt;

use zeroize::Zeroize;

/// A secret text on the heap, wiped when dropped.
///
/// It has no `Clone`, no `Display`, no `Serialize`; its `Debug` prints nothing of the content. What needs the text
/// borrows it with [`Secret::expose`].
pub struct Secret(String);

impl Secret {
    /// Takes ownership of `text`. The caller must not keep a copy.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret text. Never put what this returns into a log line, an error or a `Debug`.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A second copy, on purpose and by name; both are wiped when dropped.
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }

    /// True if there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Equality in time that depends on the lengths only.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), other.0.as_bytes()).into()
    }
}
impl Eq for Secret {}

/// Appends secret bytes in base64. The library's own way to append works in a kilobyte of the stack, and leaves it there.
fn push_base64(text: &mut String, how: &impl base64::Engine, bytes: impl AsRef<[u8]>) {
    text.push_str(&zeroize::Zeroizing::new(how.encode(bytes)));
}

/// Does not compile if [`Secret`] implements one of these: each would make a copy that nobody asked for by name.
macro_rules! never {
    ($($way:path),+) => {$(
        const _: fn() = || {
            /// With an implementation for all, and another for those that implement `$way`, the call below has two
            /// meanings for what does.
            trait Unclear<Which> {
                fn call() {}
            }
            struct Implements;
            impl<T: ?Sized> Unclear<()> for T {}
            impl<T: ?Sized + $way> Unclear<Implements> for T {}
            let _ = <Secret as Unclear<_>>::call;
        };
    )+};
}
never!(Clone, fmt::Display, serde::Serialize, std::hash::Hash, PartialOrd, Default, AsRef<str>, Into<String>);
