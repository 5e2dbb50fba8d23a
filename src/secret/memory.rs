//! The memory of the process.
