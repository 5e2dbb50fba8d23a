//! Role statements: decode, split with a real lexer, fill.

/// A list of role statements, decoded and split, ready to be filled and run in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    statements: Vec<String>,
}

impl Script {
    /// True if there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }
}
