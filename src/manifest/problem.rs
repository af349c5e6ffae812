//! What is wrong with a manifest.

use std::fmt;

/// Everything that is wrong with a manifest, in the order of the text; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1; None if nothing in the text stands for it.
    pub line: Option<u64>,
    /// Such as `spec.containers[0].image`; empty: the text as a whole.
    pub path: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Kubernetes knows it, berth does not yet.
    Unsupported,
    /// Nobody knows such a field.
    Unknown,
    Invalid(String),
}

impl Problems {
    /// Whether Kubernetes would take the manifest, for all that is known here.
    pub fn only_unsupported(&self) -> bool {
        self.0.iter().all(|problem| problem.what == What::Unsupported)
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match &self.what {
            What::Unsupported => f.write_str("not supported yet"),
            What::Unknown => f.write_str("no such field (a typo?)"),
            What::Invalid(reason) => f.write_str(reason),
        }
    }
}
