//! A refusal: the request is wrong, and this is the field that is.

/// What is wrong with a request, before anything has been done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The value of a field can never be right. Answered as INVALID_ARGUMENT.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    /// The value is right, but berth cannot do it (yet). Answered as UNIMPLEMENTED.
    #[error("{field}: {reason} is not supported")]
    Unsupported { field: String, reason: String },
}

impl Refusal {
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    pub fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
