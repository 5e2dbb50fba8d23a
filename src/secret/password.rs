//! Randomness, and the default password generator.
