//! Importing an archive: every file of it becomes content under a lease, in one pass and with flat memory; then what
//! belongs to an image is named and unpacked, and the lease's end takes the rest.

use std::io::Read;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::archive::{self, Archive, File, Found, HEAD, Piece};
use super::document::digest_from;
use super::lease::Lease;
use super::{Error, Images, Reference};
use crate::containerd;
use crate::containerd::content::Writer;
use crate::model::image::{Descriptor, Image};

/// What an import may be told.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// Names the archive's only image, whatever the archive says.
    pub tag: Option<String>,
    /// None: the default one.
    pub snapshotter: Option<String>,
}

/// Pieces that wait between the reading thread and us: a megabyte.
const QUEUE: usize = 4;

impl Images {
    /// Imports the images of an archive (docker's or OCI's, plain or gzipped), read on a thread of its own.
    pub async fn import(&self, archive: impl Read + Send + 'static, import: &Import) -> Result<Vec<Image>, Error> {
        let tag = import.tag.as_deref().map(Reference::parse).transpose()?;
        let snapshotter = import.snapshotter.as_deref().unwrap_or(&self.0.settings.snapshotter);
        let lease = self.lease("import").await?;
        let imported = self.import_under(&lease, archive, tag.as_ref(), snapshotter).await;
        let ids = lease.end(imported).await?;
        let mut images = Vec::with_capacity(ids.len());
        for id in ids {
            images.push(self.find(&id).await?.ok_or(Error::Gone { id })?);
        }
        Ok(images)
    }

    async fn import_under(
        &self,
        lease: &Lease,
        reader: impl Read + Send + 'static,
        tag: Option<&Reference>,
        snapshotter: &str,
    ) -> Result<Vec<String>, Error> {
        let archive = self.store(lease, reader).await?;
        let mut ids = Vec::new();
        for found in archive.images(tag)? {
            ids.push(self.keep(lease, &found, snapshotter).await?);
        }
        Ok(ids)
    }

    /// Puts every file of the archive into the content store.
    async fn store(&self, lease: &Lease, reader: impl Read + Send + 'static) -> Result<Archive, Error> {
        let (sender, mut pieces) = mpsc::channel(QUEUE);
        let thread = tokio::task::spawn_blocking(move || archive::split(reader, &sender));
        let mut archive = Archive::default();
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Description { path, bytes } => archive.describe(path, bytes),
                Piece::Link { path, target } => archive.link(path, target)?,
                Piece::Begin { path } => {
                    // None: the archive ends within the file, and the thread says how.
                    let Some(file) = self.store_file(lease, &mut pieces).await? else {
                        break;
                    };
                    archive.add(path, file)?;
                }
                Piece::Data(_) | Piece::End => unreachable!("a file's pieces follow its beginning"),
            }
        }
        thread.await.expect("reading an archive does not panic")?;
        Ok(archive)
    }

    async fn store_file(&self, lease: &Lease, pieces: &mut mpsc::Receiver<Piece>) -> Result<Option<File>, Error> {
        let begun = self.0.client.content().begin(lease.id(), None).await?;
        let mut writer: Writer = begun.expect("content without an expected digest is never there already");
        let mut file = File::default();
        let mut hash = Sha256::new();
        loop {
            match pieces.recv().await {
                Some(Piece::Data(data)) => {
                    let missing = HEAD.saturating_sub(file.head.len()).min(data.len());
                    file.head.extend_from_slice(&data[..missing]);
                    hash.update(&data);
                    writer.write(&data).await?;
                }
                Some(Piece::End) => break,
                _ => return Ok(None),
            }
        }
        let blob = Descriptor {
            digest: digest_from(hash),
            size: writer.written(),
            ..Descriptor::default()
        };
        writer.commit(&blob).await?;
        (file.digest, file.size) = (blob.digest, blob.size);
        Ok(Some(file))
    }

    /// Makes an image of what the archive has of it; returns its id.
    async fn keep(&self, lease: &Lease, found: &Found, snapshotter: &str) -> Result<String, Error> {
        let shared = &self.0;
        if let Some(manifest) = &found.made {
            shared.client.content().put(lease.id(), &found.target, manifest).await?;
        }
        let content = shared.catalog.content(&shared.client, &found.target).await;
        let content = content.map_err(|error| match error {
            Error::Containerd(containerd::Error::NotFound { what }) => Error::Archive(format!("it lacks {what}")),
            other => other,
        })?;
        for blob in content.layers.iter().chain(&content.path) {
            let missing = shared.client.content().begin(lease.id(), Some(blob)).await?;
            if let Some(writer) = missing {
                writer.abort().await?;
                return Err(Error::Archive(format!("it lacks content {}", blob.digest)));
            }
        }
        self.tie_content(&content).await?;
        self.unpack_all(&content, snapshotter, lease).await?;
        for name in &found.names {
            shared.client.images().point(&name.record_name(), &found.target).await?;
        }
        Ok(content.config_blob.digest.clone())
    }
}
