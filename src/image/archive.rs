//! Image archives: what `docker save` writes (`manifest.json`) and OCI layouts (`index.json`), as tar files, plain or
//! gzipped. This part knows the formats; [`super::import`] moves the bytes.
//!
//! An archive is read once, front to back, however large it is: the two small files that describe it are kept, and
//! everything else goes on in pieces.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::document::{Document, LIMIT, OCI_CONFIG, OCI_MANIFEST, digest_of};
use super::{Error, Reference};
use crate::model::image::Descriptor;

const INDEX: &str = "index.json";
const MANIFEST: &str = "manifest.json";
/// Files in one archive; an image has some hundreds at most.
const MAX_FILES: usize = 20_000;
const CHUNK: usize = 256 << 10;

/// A part of an archive, in the order in which it comes.
pub enum Piece {
    /// One of the two files that describe the archive.
    Description {
        path: String,
        bytes: Vec<u8>,
    },
    Begin {
        path: String,
    },
    Data(Vec<u8>),
    End,
    /// A second name for a file.
    Link {
        path: String,
        target: String,
    },
}

/// An archive whose files are in the content store.
#[derive(Debug, Default)]
pub struct Archive {
    files: HashMap<String, File>,
    links: HashMap<String, String>,
    descriptions: HashMap<String, Vec<u8>>,
}

/// A file of an archive, now content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    pub digest: String,
    pub size: u64,
    /// Its first bytes, which tell how it is compressed.
    pub head: Vec<u8>,
}

/// An image of an archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub target: Descriptor,
    /// The manifest, where the archive has none of its own.
    pub made: Option<Vec<u8>>,
    pub names: Vec<Reference>,
}

/// Reads an archive to its end and sends its pieces. Returns early when nobody takes them any more.
pub fn split(reader: impl Read, pieces: &mpsc::Sender<Piece>) -> Result<(), Error> {
    let mut reader = BufReader::with_capacity(CHUNK, reader);
    let gzipped = io::BufRead::fill_buf(&mut reader).map_err(broken)?.starts_with(&GZIP);
    if gzipped {
        split_tar(flate2::bufread::MultiGzDecoder::new(reader), pieces)
    } else {
        split_tar(reader, pieces)
    }
}

fn split_tar(reader: impl Read, pieces: &mpsc::Sender<Piece>) -> Result<(), Error> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let Some(path) = normal(&entry.path().map_err(broken)?, Path::new("")) else {
            continue;
        };
        let kind = entry.header().entry_type();
        let taken = if kind.is_file() && (path == INDEX || path == MANIFEST) {
            send_description(&mut entry, path, pieces)?
        } else if kind.is_file() {
            send_file(&mut entry, path, pieces)?
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name().map_err(broken)?.unwrap_or_default();
            let base = if kind.is_symlink() {
                Path::new(&path).parent()
            } else {
                None
            };
            match normal(&target, base.unwrap_or(Path::new(""))) {
                Some(target) => pieces.blocking_send(Piece::Link { path, target }).is_ok(),
                None => true,
            }
        } else {
            true
        };
        if !taken {
            return Ok(());
        }
    }
    // tar files end with padding, and whoever pipes one in wants it all taken.
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .map(drop)
        .map_err(broken)
}

fn send_description(entry: &mut impl Read, path: String, pieces: &mpsc::Sender<Piece>) -> Result<bool, Error> {
    let mut bytes = Vec::new();
    entry.take(LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() > LIMIT {
        return Err(Error::Archive(format!("{path} is larger than {LIMIT} bytes")));
    }
    Ok(pieces.blocking_send(Piece::Description { path, bytes }).is_ok())
}

fn send_file(entry: &mut impl Read, path: String, pieces: &mpsc::Sender<Piece>) -> Result<bool, Error> {
    let mut taken = pieces.blocking_send(Piece::Begin { path }).is_ok();
    while taken {
        let mut chunk = Vec::new();
        entry.take(CHUNK as u64).read_to_end(&mut chunk).map_err(broken)?;
        if chunk.is_empty() {
            break;
        }
        taken = pieces.blocking_send(Piece::Data(chunk)).is_ok();
    }
    Ok(taken && pieces.blocking_send(Piece::End).is_ok())
}

/// `path` seen from `base`, without `.` and `..`; None: it leads out of the archive or names nothing.
fn normal(path: &Path, base: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let base = if path.is_absolute() { Path::new("") } else { base };
    for component in base.components().chain(path.components()) {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of a file's beginning that are kept.
pub const HEAD: usize = 4;

impl Archive {
    pub fn describe(&mut self, path: String, bytes: Vec<u8>) {
        self.descriptions.insert(path, bytes);
    }

    pub fn add(&mut self, path: String, file: File) -> Result<(), Error> {
        self.files.insert(path, file);
        self.bounded()
    }

    pub fn link(&mut self, path: String, target: String) -> Result<(), Error> {
        self.links.insert(path, target);
        self.bounded()
    }

    fn bounded(&self) -> Result<(), Error> {
        if self.files.len() + self.links.len() <= MAX_FILES {
            return Ok(());
        }
        Err(Error::Archive(format!("it has more than {MAX_FILES} files")))
    }

    /// The images of the archive. `tag` names its only image, whatever the archive says.
    pub fn images(&self, tag: Option<&Reference>) -> Result<Vec<Found>, Error> {
        let mut found = if let Some(index) = self.descriptions.get(INDEX) {
            oci(index)?
        } else if let Some(manifest) = self.descriptions.get(MANIFEST) {
            self.docker(manifest)?
        } else {
            let neither = format!("it has neither {INDEX} (OCI) nor {MANIFEST} (docker save)");
            return Err(Error::Archive(neither));
        };
        match (tag, found.as_mut_slice()) {
            (_, []) => return Err(Error::Archive("it has no image".to_owned())),
            (Some(tag), [only]) => only.names = vec![tag.clone()],
            (Some(_), many) => {
                let count = many.len();
                return Err(Error::Archive(format!(
                    "it has {count} images, one name cannot be for all"
                )));
            }
            (None, _) => {}
        }
        if found.iter().any(|image| image.names.is_empty()) {
            return Err(Error::Archive(
                "it does not name its image: give a name with --tag".to_owned(),
            ));
        }
        Ok(found)
    }

    /// `manifest.json`: a list of images, each a config and layers by path.
    fn docker(&self, bytes: &[u8]) -> Result<Vec<Found>, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Option<Vec<String>>,
        }
        let images: Vec<Image> =
            serde_json::from_slice(bytes).map_err(|error| Error::Archive(format!("{MANIFEST}: {error}")))?;
        let found = images.into_iter().map(|image| {
            let config = self.file(&image.config)?;
            let layers = image.layers.unwrap_or_default();
            let layers: Vec<_> = layers
                .iter()
                .map(|path| {
                    let layer = self.file(path)?;
                    Ok(json!({"mediaType": layer_type(&layer.head), "digest": layer.digest, "size": layer.size}))
                })
                .collect::<Result<_, Error>>()?;
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": {"mediaType": OCI_CONFIG, "digest": config.digest, "size": config.size},
                "layers": layers,
            });
            let manifest = manifest.to_string().into_bytes();
            let names = image.repo_tags.unwrap_or_default();
            Ok(Found {
                target: Descriptor {
                    media_type: OCI_MANIFEST.to_owned(),
                    digest: digest_of(&manifest),
                    size: manifest.len() as u64,
                },
                made: Some(manifest),
                names: names
                    .iter()
                    .map(|name| Reference::parse(name))
                    .collect::<Result<_, _>>()?,
            })
        });
        found.collect()
    }

    fn file(&self, path: &str) -> Result<&File, Error> {
        let missing = || Error::Archive(format!("it has no file {path:?}"));
        let path = normal(Path::new(path), Path::new("")).ok_or_else(missing)?;
        // docker wrote a layer that images share once, and links to it.
        let path = self.links.get(&path).unwrap_or(&path);
        self.files.get(path).ok_or_else(missing)
    }
}

/// `index.json`: manifests by digest, named by annotations.
fn oci(bytes: &[u8]) -> Result<Vec<Found>, Error> {
    let document = Document::parse(bytes).map_err(|error| Error::Archive(format!("{INDEX}: {error}")))?;
    let Document::Index(entries) = document else {
        return Err(Error::Archive(format!("{INDEX} is not an index")));
    };
    // One image may have an entry for each of its names.
    let mut found: Vec<Found> = Vec::new();
    for entry in entries {
        let name = name_in(&entry.annotations)?;
        match found
            .iter_mut()
            .find(|image| image.target.digest == entry.descriptor.digest)
        {
            Some(image) => image.names.extend(name),
            None => found.push(Found {
                target: entry.descriptor,
                made: None,
                names: name.into_iter().collect(),
            }),
        }
    }
    Ok(found)
}

/// The name that annotations give an image. A `ref.name` may be a mere tag, which names no repository.
fn name_in(annotations: &std::collections::BTreeMap<String, String>) -> Result<Option<Reference>, Error> {
    let full = annotations.get("io.containerd.image.name");
    let name = annotations.get("org.opencontainers.image.ref.name");
    match full.or(name.filter(|name| name.contains(['/', ':']))) {
        Some(name) => Ok(Some(Reference::parse(name)?)),
        None => Ok(None),
    }
}

fn layer_type(head: &[u8]) -> &'static str {
    if head.starts_with(&GZIP) {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    } else if head.starts_with(&ZSTD) {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    } else {
        "application/vnd.oci.image.layer.v1.tar"
    }
}

fn broken(error: io::Error) -> Error {
    Error::Archive(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(n: u8, head: &[u8]) -> File {
        File {
            digest: digest_of(&[n]),
            size: 1,
            head: head.to_vec(),
        }
    }

    fn docker(manifest: &serde_json::Value) -> Archive {
        let mut archive = Archive::default();
        archive.describe(MANIFEST.into(), manifest.to_string().into_bytes());
        archive.add("c.json".into(), file(1, b"{")).unwrap();
        archive.add("a/layer.tar".into(), file(2, &GZIP)).unwrap();
        archive.add("b/layer.tar".into(), file(3, b"etc/")).unwrap();
        archive.link("z/layer.tar".into(), "a/layer.tar".into()).unwrap();
        archive
    }

    #[test]
    fn a_docker_archive_s_manifest_is_made_from_its_files_and_links() {
        let archive = docker(&json!([{"Config": "c.json", "RepoTags": ["x:1", "y/z"],
            "Layers": ["z/layer.tar", "./b/layer.tar"]}]));
        let found = archive.images(None).unwrap();
        assert_eq!(found[0].names[1].to_string(), "docker.io/y/z:latest");
        let Document::Manifest(manifest) = Document::parse(found[0].made.as_ref().unwrap()).unwrap() else {
            panic!()
        };
        assert_eq!(manifest.config.digest, digest_of(&[1]));
        assert_eq!(manifest.layers[0].digest, digest_of(&[2]));
        assert!(manifest.layers[0].media_type.ends_with("tar+gzip"));
        assert!(manifest.layers[1].media_type.ends_with(".tar"));
    }

    #[test]
    fn archives_that_cannot_be_imported_say_why() {
        let unnamed = docker(&json!([{"Config": "c.json", "RepoTags": null, "Layers": []}]));
        assert!(unnamed.images(None).unwrap_err().to_string().contains("--tag"));
        let tag = Reference::parse("t:1").unwrap();
        assert_eq!(unnamed.images(Some(&tag)).unwrap()[0].names, std::slice::from_ref(&tag));
        let one = json!({"Config": "c.json", "RepoTags": ["x:1"], "Layers": ["missing"]});
        assert!(
            docker(&json!([one]))
                .images(None)
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        let one = json!({"Config": "c.json", "RepoTags": ["x:1"]});
        assert!(
            docker(&json!([one, one]))
                .images(Some(&tag))
                .unwrap_err()
                .to_string()
                .contains("2 images")
        );
        assert!(
            docker(&json!([]))
                .images(None)
                .unwrap_err()
                .to_string()
                .contains("no image")
        );
        assert!(
            Archive::default()
                .images(None)
                .unwrap_err()
                .to_string()
                .contains("neither")
        );
        assert!(docker(&json!({})).images(None).is_err());
    }

    #[test]
    fn the_entries_of_an_index_that_share_a_manifest_are_one_image() {
        let entry = |name: &str, value: &str| json!({"mediaType": OCI_MANIFEST, "digest": digest_of(b"m"), "size": 1, "annotations": {name: value}});
        let mut archive = Archive::default();
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("io.containerd.image.name", "docker.io/a/b:1"),
            entry("org.opencontainers.image.ref.name", "c:2"),
            entry("org.opencontainers.image.ref.name", "latest"),
        ]});
        archive.describe(INDEX.into(), index.to_string().into_bytes());
        let found = archive.images(None).unwrap();
        assert_eq!(found.len(), 1);
        let names: Vec<_> = found[0].names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/a/b:1", "docker.io/library/c:2"]);
    }

    #[test]
    fn paths_stay_inside_the_archive() {
        let normal = |path: &str, base: &str| normal(Path::new(path), Path::new(base));
        assert_eq!(normal("../x/layer.tar", "a").as_deref(), Some("x/layer.tar"));
        assert_eq!(normal("./a//b", "").as_deref(), Some("a/b"));
        assert_eq!(normal("../../x", "a"), None);
        assert_eq!(normal(".", ""), None);
    }

    #[test]
    fn a_broken_archive_is_refused_and_an_early_end_of_its_reader_is_not_an_error() {
        let (sender, mut receiver) = mpsc::channel(64);
        assert!(split(&[7u8; 700][..], &sender).is_err());
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        builder.append_data(&mut header, "blobs/x", &b"hello"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        split(&bytes[..], &sender).unwrap();
        assert!(matches!(receiver.blocking_recv(), Some(Piece::Begin { path }) if path == "blobs/x"));
        assert!(matches!(receiver.blocking_recv(), Some(Piece::Data(data)) if data == b"hello"));
        assert!(matches!(receiver.blocking_recv(), Some(Piece::End)));
        assert!(split(&bytes[..514], &sender).is_err());
        drop(receiver);
        split(&bytes[..], &sender).unwrap();
    }
}
