//! What images there are: containerd's records, read together with the content that they stand for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::document::{Config, Document, Entry as IndexEntry, LIMIT, Platform, Unusable, choose};
use super::reference::is_hex;
use super::{Error, Reference};
use crate::containerd::Client;
use crate::containerd::images::ImageRecord;
use crate::model::image::{Descriptor, Image};

/// Another client may mark an image as never to be removed by garbage collection; this is the mark of containerd's
/// own CRI plugin.
const PINNED: (&str, &str) = ("io.cri-containerd.pinned", "pinned");

/// An image with all its names.
pub struct Entry {
    pub image: Image,
    /// Names of its records in containerd.
    pub names: Vec<String>,
    pub content: Arc<Content>,
}

/// What a record's target leads to on this platform. Content never changes, so it is read once.
#[derive(Debug)]
pub struct Content {
    /// The manifest or index that a record names, then all between it and the manifest, which is the last.
    pub path: Vec<Descriptor>,
    pub config_blob: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
    pub config: Config,
    pub size: u64,
}

/// Remembers what has been read, by the target's digest.
#[derive(Default)]
pub struct Catalog(Mutex<HashMap<String, Arc<Content>>>);

impl Catalog {
    /// All images, ordered by id. A record whose content is not here, or is not for this platform, is passed over:
    /// no container can be made from it.
    pub async fn entries(&self, client: &Client) -> Result<Vec<Entry>, Error> {
        let records = client.images().list().await?;
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for record in &records {
            let content = match self.content(client, &record.target).await {
                Ok(content) => content,
                Err(Error::Containerd(error)) if error.is_unavailable() => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(name = record.name, %error, "an image record without a usable image");
                    continue;
                }
            };
            let id = content.config_blob.digest.clone();
            let entry = entries.entry(id).or_insert_with(|| Entry::new(content));
            entry.add(record);
        }
        self.keep_only(&records);
        Ok(entries.into_values().collect())
    }

    /// The image that a reference, an id or the beginning of an id means.
    pub async fn find(&self, client: &Client, wanted: &str) -> Result<Option<Entry>, Error> {
        let id = beginning_of_id(wanted);
        // Nobody gets between an id and its image by naming another one `sha256:…`.
        let is_id = id.is_some() && wanted.starts_with("sha256:");
        let name = match Reference::parse(wanted) {
            _ if is_id => None,
            Ok(reference) => Some(reference.record_name()),
            Err(invalid) if id.is_none() => return Err(invalid.into()),
            Err(_) => None,
        };
        let mut entries = self.entries(client).await?;
        if let Some(name) = name {
            let named = |entry: &Entry| entry.names.contains(&name) || entry.image.repo_digests.contains(&name);
            if let Some(index) = entries.iter().position(named) {
                return Ok(Some(entries.swap_remove(index)));
            }
        }
        let Some(hex) = id else { return Ok(None) };
        entries.retain(|entry| entry.image.id["sha256:".len()..].starts_with(hex));
        match entries.len() {
            0 | 1 => Ok(entries.pop()),
            count => Err(Error::Ambiguous {
                id: wanted.to_owned(),
                count,
            }),
        }
    }

    /// What `target` leads to.
    pub async fn content(&self, client: &Client, target: &Descriptor) -> Result<Arc<Content>, Error> {
        let known = self
            .0
            .lock()
            .expect("nobody panics with the lock held")
            .get(&target.digest)
            .cloned();
        if let Some(content) = known {
            return Ok(content);
        }
        let content = Arc::new(read(client, target).await?);
        let mut all = self.0.lock().expect("nobody panics with the lock held");
        all.insert(target.digest.clone(), content.clone());
        Ok(content)
    }

    fn keep_only(&self, records: &[ImageRecord]) {
        let used: HashSet<_> = records.iter().map(|record| &record.target.digest).collect();
        let mut all = self.0.lock().expect("nobody panics with the lock held");
        all.retain(|digest, _| used.contains(digest));
    }
}

impl Entry {
    fn new(content: Arc<Content>) -> Self {
        let image = Image {
            id: content.config_blob.digest.clone(),
            size: content.size,
            config: content.config.image.clone(),
            ..Image::default()
        };
        Self {
            image,
            names: Vec::new(),
            content,
        }
    }

    fn add(&mut self, record: &ImageRecord) {
        self.names.push(record.name.clone());
        self.image.pinned |= record.labels.get(PINNED.0).is_some_and(|value| value == PINNED.1);
        let Ok(reference) = Reference::parse(&record.name) else {
            return;
        };
        let name = reference.record_name();
        if !name.contains('@') {
            insert(&mut self.image.repo_tags, name);
        }
        // A record of a digest may be of an index, and another of its manifest: both are the image's.
        insert(
            &mut self.image.repo_digests,
            reference.at(&record.target.digest).record_name(),
        );
    }
}

/// The digits of what may be an id or its beginning.
fn beginning_of_id(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    (!hex.is_empty() && hex.len() <= 64 && is_hex(hex)).then_some(hex)
}

fn insert(sorted: &mut Vec<String>, name: String) {
    if let Err(index) = sorted.binary_search(&name) {
        sorted.insert(index, name);
    }
}

/// Follows `target` down to the manifest for this platform, and reads its config.
async fn read(client: &Client, target: &Descriptor) -> Result<Content, Error> {
    let content = client.content();
    let mut path = vec![target.clone()];
    let mut size = target.size;
    let manifest = loop {
        let current = path.last().expect("the path begins with the target");
        let bytes = content.read(&current.digest, LIMIT).await?;
        match parse(&bytes, &current.digest)? {
            Document::Manifest(manifest) => break manifest,
            Document::Index(entries) => {
                let next = pick(&entries, &current.digest, path.len())?;
                size = size.saturating_add(next.size);
                path.push(next);
            }
        }
    };
    let what = &path.last().expect("the path has the manifest").digest;
    manifest.check_is_image().map_err(unusable(what))?;
    let bytes = content.read(&manifest.config.digest, LIMIT).await?;
    let config = Config::parse(&bytes, manifest.layers.len()).map_err(unusable(&manifest.config.digest))?;
    Ok(Content {
        size: size.saturating_add(manifest.size()),
        path,
        config_blob: manifest.config,
        layers: manifest.layers,
        config,
    })
}

/// How many indexes may lead to one another.
const DEPTH: usize = 3;

/// The entry of an index for this platform, `depth` steps below what was asked for.
pub fn pick(entries: &[IndexEntry], what: &str, depth: usize) -> Result<Descriptor, Error> {
    if depth > DEPTH {
        let reason = format!("more than {DEPTH} indexes lead to one another");
        return Err(Error::Malformed {
            what: what.to_owned(),
            reason,
        });
    }
    let entry = choose(entries, &Platform::host()).map_err(unusable(what))?;
    Ok(entry.descriptor.clone())
}

pub fn parse(bytes: &[u8], what: &str) -> Result<Document, Error> {
    Document::parse(bytes).map_err(unusable(what))
}

/// For `map_err`: an unusable document with its name.
pub fn unusable(what: &str) -> impl Fn(Unusable) -> Error {
    let what = what.to_owned();
    move |unusable| match unusable {
        Unusable::Platform { wanted, offered } => Error::NoPlatform {
            what: what.clone(),
            wanted,
            offered,
        },
        Unusable::Json(_) | Unusable::Reason(_) => Error::Malformed {
            what: what.clone(),
            reason: unusable.to_string(),
        },
    }
}
