//! Small images made on the fly.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An image: its layers, lowest first, and its config.
#[derive(Debug, Clone)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
    /// Speaks docker's media types instead of OCI's.
    pub docker: bool,
}

#[derive(Debug, Clone)]
pub struct Layer {
    /// Compressed.
    pub bytes: Vec<u8>,
    /// Digest of the tar.
    pub diff_id: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Gzip,
    Zstd,
}

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

impl Image {
    /// An image of these layers; `process` is the `config` object of its config.
    pub fn new(layers: Vec<Layer>, process: &Value) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": process,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self {
            layers,
            config: config.to_string().into_bytes(),
            docker: false,
        }
    }

    /// An image of one gzipped layer with a file named `name` that says `name`.
    pub fn small(name: &str) -> Self {
        Self::new(
            vec![Layer::new(Kind::Gzip, &[(name, name.as_bytes())])],
            &json!({"Cmd": [name]}),
        )
    }

    /// `sha256:…` of the config: the image's id.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    pub fn media_type(&self) -> &'static str {
        if self.docker { DOCKER_MANIFEST } else { OCI_MANIFEST }
    }

    pub fn manifest(&self) -> Vec<u8> {
        let config = match self.docker {
            true => "application/vnd.docker.container.image.v1+json",
            false => "application/vnd.oci.image.config.v1+json",
        };
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|layer| descriptor(layer.media_type(self.docker), &layer.bytes))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": self.media_type(),
            "config": descriptor(config, &self.config), "layers": layers,
        });
        manifest.to_string().into_bytes()
    }
}

impl Layer {
    /// A layer with these files.
    pub fn new(kind: Kind, files: &[(&str, &[u8])]) -> Self {
        Self::of(kind, tar(files))
    }

    /// The layer that a tar is.
    pub fn of(kind: Kind, tar: Vec<u8>) -> Self {
        let bytes = match kind {
            Kind::Plain => tar.clone(),
            Kind::Gzip => gzip(&tar),
            Kind::Zstd => zstd(&tar),
        };
        Self {
            bytes,
            diff_id: digest(&tar),
            kind,
        }
    }

    fn media_type(&self, docker: bool) -> &'static str {
        match (docker, self.kind) {
            (true, Kind::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (true, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (false, Kind::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (false, Kind::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (false, Kind::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Debian's busybox-static, with a hard link for each of its applets, and a few users.
pub fn busybox() -> Image {
    let binary = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let list = std::process::Command::new("/bin/busybox").arg("--list").output();
    let list = String::from_utf8(list.unwrap().stdout).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["bin", "tmp", "etc", "root", "dev", "proc", "sys", "var", "usr"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        layer.append_data(&mut header, directory, io::empty()).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nuser:x:1000:1000::/:/bin/sh\n";
    let group = "root:x:0:\nwww-data:x:33:\nuser:x:1000:\nextra:x:50000:user\n";
    for (path, mode, bytes) in [
        ("bin/busybox", 0o755, &*binary),
        ("etc/passwd", 0o644, passwd.as_bytes()),
        ("etc/group", 0o644, group.as_bytes()),
    ] {
        let mut header = header(tar::EntryType::Regular, mode, bytes.len());
        layer.append_data(&mut header, path, bytes).unwrap();
    }
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        let mut header = header(tar::EntryType::Link, 0o755, 0);
        let path = format!("bin/{applet}");
        layer.append_link(&mut header, path, "bin/busybox").unwrap();
    }
    let layer = Layer::of(Kind::Gzip, layer.into_inner().unwrap());
    Image::new(vec![layer], &json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]}))
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header
}

/// An index of manifests, each with its architecture.
pub fn index(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let manifests: Vec<_> = entries
        .iter()
        .map(|(architecture, manifest)| {
            let mut entry = descriptor(OCI_MANIFEST, manifest);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    index.to_string().into_bytes()
}

/// What `docker save` of old wrote.
pub fn docker_archive(image: &Image, tags: &[&str]) -> Vec<u8> {
    let paths: Vec<_> = (0..image.layers.len())
        .map(|index| format!("layer{index}/layer.tar"))
        .collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": paths}]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![("config.json", &image.config)];
    files.extend(
        paths
            .iter()
            .zip(&image.layers)
            .map(|(path, layer)| (path.as_str(), layer.bytes.as_slice())),
    );
    files.push(("manifest.json", manifest.as_bytes()));
    tar(&files)
}

/// An OCI layout in a tar.
pub fn oci_archive(image: &Image, name: Option<&str>) -> Vec<u8> {
    let manifest = image.manifest();
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)["sha256:".len()..]);
    let mut blobs: Vec<_> = image.layers.iter().map(|layer| layer.bytes.as_slice()).collect();
    blobs.extend([image.config.as_slice(), &manifest]);
    let blobs: Vec<_> = blobs.into_iter().map(|bytes| (path(bytes), bytes)).collect();
    let mut files: Vec<(&str, &[u8])> = vec![
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", index.as_bytes()),
    ];
    files.extend(blobs.iter().map(|(path, bytes)| (path.as_str(), *bytes)));
    tar(&files)
}

/// This machine's, as images call it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame of stored blocks (RFC 8878), which needs no compressor.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let size = u32::try_from(bytes.len()).unwrap();
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    frame.extend(size.to_le_bytes());
    let blocks = bytes.chunks(BLOCK);
    let last = blocks.len() - 1;
    for (index, block) in blocks.enumerate() {
        let header = u32::try_from(block.len()).unwrap() << 3 | u32::from(index == last);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}
