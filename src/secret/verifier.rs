//! Password verifiers: what a server stores instead of a password.
