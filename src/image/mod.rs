//! Images: where they come from, how they are kept in containerd, and how they are found again.
//!
//! containerd is the only record. An image has one record there for each of its names, as `ctr` and other clients
//! make them: `repository:tag` and `repository@digest`, pointing at a manifest or an index of manifests. The image's
//! id, the digest of its config, is worked out from the content behind the record ([`catalog`]). Labels on the
//! content tell containerd's garbage collector what belongs together, so removing the names removes the image; what
//! is on its way in is held by a lease that ends with the work ([`lease`]).

mod archive;
pub mod auth;
mod catalog;
mod challenge;
pub mod document;
mod error;
pub mod hosts;
mod import;
mod lease;
mod pull;
pub mod reference;
mod registry;
mod turns;
mod unpack;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

pub use auth::Auth;
pub use error::Error;
pub use import::Import;
pub use pull::Progress;
pub use reference::Reference;
pub use usage::Usage;

use crate::containerd;
use crate::model::image::Image;
use catalog::Catalog;
use turns::Turns;
use usage::LastUsage;

/// The images of one containerd namespace. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Shared>);

struct Shared {
    client: containerd::Client,
    settings: Settings,
    catalog: Catalog,
    /// Who is fetching a blob or unpacking a layer just now; the others wait for it.
    turns: Turns,
    usage: LastUsage,
}

/// What the operator decides about images.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The berth whose images these are, for what several on one containerd must not take from each other.
    pub instance: String,
    /// Directories with `<host>/hosts.toml`; the first that knows a host counts.
    pub certs_dirs: Vec<PathBuf>,
    /// Where images are unpacked unless a runtime handler names another.
    pub snapshotter: String,
    /// How many blobs one pull fetches at a time.
    pub max_parallel_downloads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance: "none".to_owned(),
            certs_dirs: vec![
                PathBuf::from("/etc/containerd/certs.d"),
                PathBuf::from("/etc/docker/certs.d"),
            ],
            snapshotter: "overlayfs".to_owned(),
            max_parallel_downloads: 3,
        }
    }
}

impl Images {
    pub fn new(client: containerd::Client, settings: Settings) -> Self {
        Self(Arc::new(Shared {
            client,
            settings,
            catalog: Catalog::default(),
            turns: Turns::default(),
            usage: LastUsage::default(),
        }))
    }

    /// All images, each once, ordered by id.
    pub async fn list(&self) -> Result<Vec<Image>, Error> {
        let entries = self.0.catalog.entries(&self.0.client).await?;
        Ok(entries.into_iter().map(|entry| entry.image).collect())
    }

    /// The image with this tag, digest, id or unique beginning of an id (with or without `sha256:`).
    pub async fn find(&self, reference_or_id: &str) -> Result<Option<Image>, Error> {
        let entry = self.0.catalog.find(&self.0.client, reference_or_id).await?;
        Ok(entry.map(|entry| entry.image))
    }

    /// Removes an image with all its names, in all repositories. One that is not there is fine.
    pub async fn remove(&self, reference_or_id: &str) -> Result<(), Error> {
        let names = match self.0.catalog.find(&self.0.client, reference_or_id).await? {
            Some(entry) => entry.names,
            // A record may stand for content that is gone or that is no image for this platform.
            None => Reference::parse(reference_or_id)
                .map(|reference| vec![reference.record_name()])
                .unwrap_or_default(),
        };
        let images = self.0.client.images();
        for (index, name) in names.iter().enumerate() {
            images.delete(name, index + 1 == names.len()).await?;
        }
        Ok(())
    }

    /// Makes sure that the layers of `image` are unpacked in `snapshotter` and returns the chain id of the top one:
    /// the name of the snapshot to make a container's from.
    pub async fn unpack(&self, image: &Image, snapshotter: &str) -> Result<String, Error> {
        let top = &image.config.chain_id;
        if top.is_empty() || self.0.client.layers(snapshotter).exists(top).await? {
            return Ok(top.clone());
        }
        let found = self.0.catalog.find(&self.0.client, &image.id).await?;
        let entry = found.ok_or_else(|| Error::Gone { id: image.id.clone() })?;
        let lease = self.lease("unpack").await?;
        let unpacked = self.unpack_all(&entry.content, snapshotter, &lease).await;
        lease.end(unpacked).await?;
        Ok(top.clone())
    }
}
