//! Connection strings and structured connection fields.
