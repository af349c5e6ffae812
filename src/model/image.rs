//! What berth needs to know of an image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Signal;

/// An image in the store, as CRI lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and 64 hexadecimal digits: the digest of the image's config.
    pub id: String,
    /// `repository:tag`, canonical (`docker.io/library/busybox:latest`).
    pub repo_tags: Vec<String>,
    /// `repository@digest`, canonical.
    pub repo_digests: Vec<String>,
    /// Bytes that the image takes in the content store (compressed).
    pub size: u64,
    pub config: ImageConfig,
    /// Never to be offered to a kubelet's garbage collection.
    pub pinned: bool,
}

/// What a piece of content is, and the digest and size that prove it (OCI image specification, "descriptor").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// The parts of an OCI image config that a container takes over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty: root.
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<Signal>,
    /// Chain id of the top layer: the key of the snapshot that a container's is made from.
    pub chain_id: String,
}
