//! What can go wrong with images.

use super::{auth, hosts, reference};
use crate::containerd;

/// No message holds a credential: what a registry said is quoted, what was sent to it is not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Reference(#[from] reference::Invalid),
    #[error(transparent)]
    Auth(#[from] auth::Invalid),
    #[error(transparent)]
    Hosts(#[from] hosts::Error),
    /// The registry knows no such image.
    #[error("{what}: not found in {registry}{}", said(message))]
    NotFound {
        what: String,
        registry: String,
        message: String,
    },
    #[error(
        "{what}: {registry} refuses access{} (are the credentials for it right?)",
        said(message)
    )]
    Denied {
        what: String,
        registry: String,
        message: String,
    },
    /// Nobody answered, or something that is no registry did. The first word is one that kubelets know.
    #[error("RegistryUnavailable: {what}: {registry}: {message}")]
    Unreachable {
        what: String,
        registry: String,
        message: String,
    },
    #[error("{what}: {registry} answered {status}{}", said(message))]
    Registry {
        what: String,
        registry: String,
        status: u16,
        message: String,
    },
    /// What came is not what its digest or size says.
    #[error("{what}: {reason}")]
    Corrupt { what: String, reason: String },
    #[error("{what}: no image for {wanted}; it is there for {offered}")]
    NoPlatform {
        what: String,
        wanted: String,
        offered: String,
    },
    /// A manifest or config that cannot be used.
    #[error("{what}: {reason}")]
    Malformed { what: String, reason: String },
    #[error("image archive: {0}")]
    Archive(String),
    #[error("image id {id}: {count} images begin with it")]
    Ambiguous { id: String, count: usize },
    /// It was removed meanwhile.
    #[error("image {id}: not found")]
    Gone { id: String },
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
}

impl Error {
    /// Whether trying again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Corrupt { .. } => true,
            Self::Registry { status, .. } => *status == 429 || *status >= 500,
            Self::Reference(_)
            | Self::Auth(_)
            | Self::Hosts(_)
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::NoPlatform { .. }
            | Self::Malformed { .. }
            | Self::Archive(_)
            | Self::Ambiguous { .. }
            | Self::Gone { .. }
            | Self::Containerd(_) => false,
        }
    }
}

fn said(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(", which says: {message}")
    }
}
