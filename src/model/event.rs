//! What happens to a container, in the kubelet's words (pkg/kubelet/events): what `kubectl describe` would show.

use serde::{Deserialize, Serialize};

use super::Id;

/// Kubernetes' types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    Normal,
    Warning,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something that a probe or a hook did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    pub sandbox: Id,
    pub container: Id,
    /// The container's name.
    pub name: String,
    pub severity: Severity,
    /// One word: `Unhealthy`, `Killing`, `FailedPostStartHook`, …
    pub reason: &'static str,
    pub message: String,
}
