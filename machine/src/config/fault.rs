//! What a machine config is refused for.

/// One thing wrong with a machine config, said so that its author can mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File, URL or other name of the input.
    pub file: String,
    /// 1-based; 0 where no place in the text is to blame.
    pub line: u32,
    /// 1-based; 0 where no place in the text is to blame.
    pub column: u32,
    /// Such as `Cluster.podCIDRs[0]`.
    pub field: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.message, self.remedy)
    }
}
