//! Pulling: a reference resolved, its content fetched in parallel, its layers unpacked as they come.
//!
//! Dropping the future of a pull stops it; what it brought goes with its lease. Two pulls at once fetch and unpack
//! what they share once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::mpsc;
use tonic::Code;

use super::catalog::{Content, parse, pick};
use super::document::{Document, LIMIT, chain_ids, digest_of};
use super::lease::Lease;
use super::reference::Version;
use super::registry::{Registry, cause};
use super::{Auth, Error, Images, Reference, hosts};
use crate::containerd;
use crate::containerd::content::Writer;
use crate::model::image::{Descriptor, Image};

/// What a pull has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The reference stands for this digest.
    Resolved { digest: String },
    /// `done` of `size` bytes of a blob are here.
    Fetching { digest: String, done: u64, size: u64 },
    /// So many of the image's layers are unpacked.
    Unpacked { layers: usize, of: usize },
}

/// A blob is asked for as often, with these pauses between.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];

struct Pull<'a> {
    images: &'a Images,
    reference: &'a Reference,
    registry: Registry,
    lease: &'a Lease,
    snapshotter: &'a str,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl Images {
    /// Pulls an image and unpacks it in `snapshotter` (None: the default one).
    pub async fn pull(&self, reference: &str, auth: Option<&Auth>, snapshotter: Option<&str>) -> Result<Image, Error> {
        self.pull_with(reference, auth, snapshotter, &|_| {}).await
    }

    /// [`Images::pull`], telling how it goes.
    pub async fn pull_with(
        &self,
        reference: &str,
        auth: Option<&Auth>,
        snapshotter: Option<&str>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Image, Error> {
        let settings = &self.0.settings;
        let reference = Reference::parse(reference)?;
        let endpoints = hosts::endpoints(&settings.certs_dirs, &reference.domain)?;
        let registry = Registry::open(&reference, endpoints, auth)?;
        let lease = self.lease("pull").await?;
        let pull = Pull {
            images: self,
            reference: &reference,
            registry,
            lease: &lease,
            snapshotter: snapshotter.unwrap_or(&settings.snapshotter),
            progress,
        };
        let pulled = pull.run().await;
        let content = lease.end(pulled).await?;
        let id = &content.config_blob.digest;
        self.find(id).await?.ok_or_else(|| Error::Gone { id: id.clone() })
    }
}

impl Pull<'_> {
    async fn run(&self) -> Result<Arc<Content>, Error> {
        let target = self.documents().await?;
        let shared = &self.images.0;
        let content = shared.catalog.content(&shared.client, &target).await?;
        self.layers(&content).await?;
        self.images.tie_content(&content).await?;
        self.images.tie_snapshot(&content, self.snapshotter).await?;
        let records = shared.client.images();
        // The digest keeps the image when its tag moves on.
        records
            .point(&self.reference.at(&target.digest).record_name(), &target)
            .await?;
        if let Version::Tag(_) = self.reference.version {
            records.point(&self.reference.record_name(), &target).await?;
        }
        Ok(content)
    }

    /// Fetches what lies between the reference and the config, and the config; returns what the reference stands for.
    async fn documents(&self) -> Result<Descriptor, Error> {
        let (target, mut document) = self.document(&self.reference.version).await?;
        (self.progress)(Progress::Resolved {
            digest: target.digest.clone(),
        });
        let mut depth = 1;
        loop {
            match document {
                Document::Index(entries) => {
                    let next = pick(&entries, &self.reference.to_string(), depth)?;
                    (_, document) = self.document(&Version::Digest(next.digest)).await?;
                    depth += 1;
                }
                Document::Manifest(manifest) => {
                    self.small_enough(&manifest.config)?;
                    self.fetch(&manifest.config).await?;
                    return Ok(target);
                }
            }
        }
    }

    /// Fetches one index or manifest into the content store.
    async fn document(&self, version: &Version) -> Result<(Descriptor, Document), Error> {
        let fetched = self.registry.manifest(version).await?;
        let document = parse(&fetched.bytes, &self.reference.to_string())?;
        let descriptor = Descriptor {
            media_type: fetched.media_type.unwrap_or_else(|| document.media_type().to_owned()),
            digest: digest_of(&fetched.bytes),
            size: fetched.bytes.len() as u64,
        };
        let content = self.images.0.client.content();
        content.put(self.lease.id(), &descriptor, &fetched.bytes).await?;
        Ok((descriptor, document))
    }

    fn small_enough(&self, config: &Descriptor) -> Result<(), Error> {
        if config.size <= LIMIT as u64 {
            return Ok(());
        }
        let reason = format!("its config of {} bytes is larger than {LIMIT}", config.size);
        Err(Error::Malformed {
            what: self.reference.to_string(),
            reason,
        })
    }

    /// Fetches the layers, some at a time, and unpacks each as soon as it and those below it are here.
    async fn layers(&self, content: &Content) -> Result<(), Error> {
        let count = content.layers.len();
        let chain = chain_ids(&content.config.diff_ids);
        // Room for all: fetching never waits for unpacking.
        let (arrived, mut arrivals) = mpsc::channel(count.max(1));
        let fetch = async move {
            let layers: Vec<BoxFuture<'_, Result<(), Error>>> = content
                .layers
                .iter()
                .map(|layer| Box::pin(self.fetch(layer)) as _)
                .collect();
            let parallel = self.images.0.settings.max_parallel_downloads.max(1);
            let mut layers = stream::iter(layers).buffered(parallel);
            while let Some(fetched) = layers.next().await {
                fetched?;
                arrived.try_send(()).expect("there is room for every layer");
            }
            Ok::<_, Error>(())
        };
        let unpack = async {
            for index in 0..count {
                if arrivals.recv().await.is_none() {
                    break;
                }
                let images = self.images;
                images
                    .unpack_layer(content, &chain, index, self.snapshotter, self.lease)
                    .await?;
                (self.progress)(Progress::Unpacked {
                    layers: index + 1,
                    of: count,
                });
            }
            Ok(())
        };
        tokio::try_join!(fetch, unpack)?;
        Ok(())
    }

    /// Fetches a blob into the content store, unless it is there.
    async fn fetch(&self, blob: &Descriptor) -> Result<(), Error> {
        let _turn = self.images.0.turns.wait(&blob.digest).await;
        let mut attempt = 0;
        loop {
            match self.fetch_once(blob, attempt).await {
                Err(error) if error.is_transient() && attempt < PAUSES.len() => {
                    tracing::info!(%error, blob = blob.digest, "fetching a blob again");
                    tokio::time::sleep(PAUSES[attempt]).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn fetch_once(&self, blob: &Descriptor, attempt: usize) -> Result<(), Error> {
        let content = self.images.0.client.content();
        let begun = content.begin(self.lease.id(), Some(blob)).await?;
        let Some(mut writer) = begun else {
            self.tell(blob, blob.size);
            return Ok(());
        };
        if let Err(error) = self.copy(blob, attempt, &mut writer).await {
            if let Err(left) = writer.abort().await {
                tracing::debug!(error = %left, "a broken download is left to its lease");
            }
            return Err(error);
        }
        match writer.commit(blob).await {
            Ok(_) => Ok(()),
            Err(containerd::Error::Failed {
                what,
                code: Code::FailedPrecondition,
                message,
            }) => Err(Error::Corrupt { what, reason: message }),
            Err(error) => Err(error.into()),
        }
    }

    async fn copy(&self, blob: &Descriptor, attempt: usize, writer: &mut Writer) -> Result<(), Error> {
        let mut response = self.registry.blob(&blob.digest, attempt).await?;
        loop {
            let chunk = response.chunk().await.map_err(|error| Error::Unreachable {
                what: format!("blob {} of {}", blob.digest, self.reference),
                registry: response.url().host_str().unwrap_or_default().to_owned(),
                message: cause(&error),
            })?;
            let Some(chunk) = chunk else { break };
            writer.write(&chunk).await?;
            if writer.written() > blob.size {
                break;
            }
            self.tell(blob, writer.written());
        }
        if writer.written() == blob.size {
            return Ok(());
        }
        let reason = format!(
            "{} bytes came of the {} that the manifest says",
            writer.written(),
            blob.size
        );
        let what = format!("blob {} of {}", blob.digest, self.reference);
        Err(Error::Corrupt { what, reason })
    }

    fn tell(&self, blob: &Descriptor, done: u64) {
        (self.progress)(Progress::Fetching {
            digest: blob.digest.clone(),
            done,
            size: blob.size,
        });
    }
}
