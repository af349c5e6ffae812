//! The JSON documents of an image: index, manifest and config, of the OCI image specification and of docker's
//! schema 2. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::reference::is_digest;
use crate::model::Signal;
use crate::model::image::{Descriptor, ImageConfig};

/// Bytes of the largest document that is read.
pub const LIMIT: usize = 8 << 20;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a reference can stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Entry>),
    Manifest(Manifest),
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

/// A config: what a container takes over, and what the layers unpack to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    pub image: ImageConfig,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<String>,
}

/// Why a document cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not an image's document: {0}")]
    Json(String),
    #[error("{0}")]
    Reason(String),
    #[error("no image for {wanted}; it is there for {offered}")]
    Platform { wanted: String, offered: String },
}

/// The digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    digest_from(Sha256::new_with_prefix(bytes))
}

/// The digest of what `hash` has seen.
pub fn digest_from(hash: Sha256) -> String {
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Document {
    /// Reads an index or a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, Unusable> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            schema_version: Option<u32>,
            manifests: Option<Vec<Entry>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        let raw: Raw = json(bytes)?;
        if raw.schema_version == Some(1) {
            return Err(reason("manifests of docker's schema 1 are not supported"));
        }
        match (raw.manifests, raw.config) {
            // Two readers could see two different images in it (CVE-2021-41190).
            (Some(_), Some(_)) => Err(reason("it is an index and a manifest at once")),
            (Some(entries), None) => {
                entries.iter().try_for_each(|entry| check(&entry.descriptor))?;
                Ok(Self::Index(entries))
            }
            (None, Some(config)) => {
                let layers = raw.layers.unwrap_or_default();
                check(&config)?;
                layers.iter().try_for_each(check)?;
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            (None, None) => Err(reason("it is neither an index nor a manifest")),
        }
    }

    /// The media type to record when the document's source does not say.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Index(_) => OCI_INDEX,
            Self::Manifest(manifest) if manifest.config.media_type == DOCKER_CONFIG => DOCKER_MANIFEST,
            Self::Manifest(_) => OCI_MANIFEST,
        }
    }
}

impl Manifest {
    /// Refuses a manifest whose config is not an image's: charts, signatures and other artifacts look the same.
    pub fn check_is_image(&self) -> Result<(), Unusable> {
        match self.config.media_type.as_str() {
            OCI_CONFIG | DOCKER_CONFIG => Ok(()),
            other => Err(reason(format!("not a container image, its config is {other:?}"))),
        }
    }

    /// Bytes of all that the manifest names.
    pub fn size(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.size);
        layers.fold(self.config.size, u64::saturating_add)
    }
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// How well an image for `other` runs here; None: not at all.
    fn rank(&self, other: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        match (self.architecture.as_str(), other.variant.as_deref().unwrap_or_default()) {
            (_, "") | ("amd64", "v1") | ("arm64", "v8") | ("arm", "v7") => Some(0),
            ("arm", "v6") => Some(1),
            ("arm", "v5") => Some(2),
            // A higher level than every machine of the architecture has.
            _ => None,
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

/// The entry of an index that `platform` should run. An index of a single entry without a platform means that one.
pub fn choose<'a>(entries: &'a [Entry], platform: &Platform) -> Result<&'a Entry, Unusable> {
    let rank = |entry: &'a Entry| Some((platform.rank(entry.platform.as_ref()?)?, entry));
    let best = entries.iter().filter_map(rank).min_by_key(|(rank, _)| *rank);
    if let Some((_, entry)) = best {
        return Ok(entry);
    }
    if let [entry @ Entry { platform: None, .. }] = entries {
        return Ok(entry);
    }
    // BuildKit lists its attestations as images for "unknown/unknown".
    let offered: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(Platform::to_string)
        .collect();
    Err(Unusable::Platform {
        wanted: platform.to_string(),
        offered: if offered.is_empty() {
            "none".to_owned()
        } else {
            offered.join(", ")
        },
    })
}

impl Config {
    /// Reads the config of an image with `layers` layers.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, Unusable> {
        let raw: RawConfig = json(bytes)?;
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers {
            let found = diff_ids.len();
            return Err(reason(format!(
                "the manifest has {layers} layers and the config's rootfs.diff_ids {found}"
            )));
        }
        if let Some(bad) = diff_ids.iter().find(|id| !is_digest(id)) {
            return Err(reason(format!("rootfs.diff_ids: {bad:?} is not a sha256 digest")));
        }
        let process = raw.config.unwrap_or_default();
        let stop_signal = match process.stop_signal.as_deref() {
            None | Some("") => None,
            Some(name) => Some(
                name.parse::<Signal>()
                    .map_err(|error| reason(format!("config.StopSignal: {error}")))?,
            ),
        };
        let image = ImageConfig {
            user: process.user.unwrap_or_default(),
            env: process.env.unwrap_or_default(),
            entrypoint: process.entrypoint.unwrap_or_default(),
            cmd: process.cmd.unwrap_or_default(),
            working_dir: process.working_dir.unwrap_or_default(),
            labels: process.labels.unwrap_or_default(),
            stop_signal,
            chain_id: chain_ids(&diff_ids).pop().unwrap_or_default(),
        };
        Ok(Self { image, diff_ids })
    }
}

/// The name of each layer's snapshot: the digest of what lies below it and of itself (OCI image specification,
/// "Layer ChainID").
pub fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(id);
    }
    chain
}

/// Go writes an empty list as null, so everything may be missing or null.
#[derive(Deserialize)]
struct RawConfig {
    rootfs: RawRootfs,
    config: Option<RawProcess>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawProcess {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    stop_signal: Option<String>,
}

fn check(descriptor: &Descriptor) -> Result<(), Unusable> {
    if is_digest(&descriptor.digest) {
        Ok(())
    } else {
        let digest: String = descriptor.digest.chars().take(100).collect();
        Err(reason(format!("{digest:?} is not a sha256 digest")))
    }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unusable> {
    serde_json::from_slice(bytes).map_err(|error| Unusable::Json(error.to_string()))
}

fn reason(text: impl Into<String>) -> Unusable {
    Unusable::Reason(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(n: u8) -> String {
        digest_of(&[n])
    }

    fn blob(media_type: &str, n: u8) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": digest(n), "size": n})
    }

    fn parse(value: &serde_json::Value) -> Result<Document, Unusable> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_is_read() {
        let document = parse(&json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": null,
            "config": blob(OCI_CONFIG, 1), "layers": [blob("l", 2), blob("l", 3)],
        }));
        let Ok(Document::Manifest(manifest)) = document else {
            panic!("{document:?}")
        };
        assert_eq!((manifest.layers.len(), manifest.size()), (2, 6));
        assert_eq!(manifest.check_is_image(), Ok(()));
    }

    #[test]
    fn what_is_no_image_is_refused_with_the_reason() {
        let manifest = json!({"schemaVersion": 2, "config": blob(OCI_CONFIG, 1), "manifests": []});
        for (value, word) in [
            (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
            (manifest, "at once"),
            (json!({"schemaVersion": 2}), "neither"),
            (
                json!({"config": {"mediaType": "x", "digest": "../../etc", "size": 1}}),
                "digest",
            ),
            (
                json!({"config": {"mediaType": "x", "digest": digest(1), "size": -1}}),
                "invalid value",
            ),
            (json!([]), "not an image's document"),
        ] {
            let error = parse(&value).unwrap_err().to_string();
            assert!(error.contains(word), "{value}: {error}");
        }
        let chart = json!({"config": blob("application/vnd.cncf.helm.config.v1+json", 1)});
        let Ok(Document::Manifest(chart)) = parse(&chart) else {
            panic!()
        };
        assert!(chart.check_is_image().unwrap_err().to_string().contains("helm"));
    }

    fn entry(n: u8, platform: Option<(&str, &str, &str)>) -> Entry {
        Entry {
            descriptor: Descriptor {
                digest: digest(n),
                ..Descriptor::default()
            },
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: (!variant.is_empty()).then(|| variant.into()),
            }),
            annotations: BTreeMap::new(),
        }
    }

    fn platform(architecture: &str) -> Platform {
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        }
    }

    #[test]
    fn an_index_offers_the_image_that_runs_here() {
        let entries = [
            entry(1, Some(("windows", "amd64", ""))),
            entry(2, Some(("linux", "amd64", "v3"))),
            entry(3, Some(("linux", "amd64", ""))),
            entry(4, Some(("linux", "arm64", "v8"))),
            entry(5, Some(("linux", "arm", "v6"))),
            entry(6, Some(("linux", "arm", "v7"))),
            entry(7, Some(("unknown", "unknown", ""))),
        ];
        for (architecture, wanted) in [("amd64", 3), ("arm64", 4), ("arm", 6)] {
            let chosen = choose(&entries, &platform(architecture)).unwrap();
            assert_eq!(chosen.descriptor.digest, digest(wanted), "{architecture}");
        }
        let error = choose(&entries[4..], &platform("riscv64")).unwrap_err().to_string();
        assert_eq!(
            error,
            "no image for linux/riscv64; it is there for linux/arm/v6, linux/arm/v7"
        );
        assert!(choose(&[entry(1, None)], &platform("amd64")).is_ok());
        assert!(choose(&[entry(1, None), entry(2, None)], &platform("amd64")).is_err());
    }

    #[test]
    fn a_config_is_read_with_nulls_and_without_parts() {
        let ids = [digest(1), digest(2)];
        let bytes = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}, "config": {
            "User": "1000:1000", "Env": null, "Cmd": ["sh"], "StopSignal": "SIGQUIT", "Volumes": {"/data": {}},
        }});
        let config = Config::parse(bytes.to_string().as_bytes(), 2).unwrap();
        assert_eq!(config.image.user, "1000:1000");
        assert_eq!(config.image.stop_signal.unwrap().number(), 3);
        assert_eq!(
            config.image.chain_id,
            digest_of(format!("{} {}", ids[0], ids[1]).as_bytes())
        );
        let bare = json!({"rootfs": {"diff_ids": null}}).to_string();
        assert_eq!(Config::parse(bare.as_bytes(), 0).unwrap(), Config::default());
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused() {
        let parse = |value: serde_json::Value, layers| Config::parse(value.to_string().as_bytes(), layers);
        let one = json!({"rootfs": {"diff_ids": [digest(1)]}});
        assert!(parse(one, 2).unwrap_err().to_string().contains("2 layers"));
        let bad = json!({"rootfs": {"diff_ids": ["sha256:x"]}});
        assert!(parse(bad, 1).unwrap_err().to_string().contains("diff_ids"));
        let signal = json!({"rootfs": {}, "config": {"StopSignal": "NONE"}});
        assert!(parse(signal, 0).unwrap_err().to_string().contains("StopSignal"));
        assert!(parse(json!({}), 0).is_err());
    }
}
