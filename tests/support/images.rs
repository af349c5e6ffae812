//! Small images, made on the fly as docker archives.

use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Writes an image with busybox-static and hard links for its applets.
pub fn busybox(reference: &str, archive: &Path) {
    let binary = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    let list = String::from_utf8(list).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["bin", "tmp", "etc", "root", "dev", "proc", "sys", "var", "usr"] {
        entry(&mut layer, &format!("{directory}/"), tar::EntryType::Directory, 0o755, &[], None);
    }
    entry(&mut layer, "bin/busybox", tar::EntryType::Regular, 0o755, &binary, None);
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        entry(&mut layer, &format!("bin/{applet}"), tar::EntryType::Link, 0o755, &[], Some("bin/busybox"));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nuser:x:1000:1000::/:/bin/sh\n";
    let group = "root:x:0:\nwww-data:x:33:\nuser:x:1000:\nextra:x:50000:user\n";
    entry(&mut layer, "etc/passwd", tar::EntryType::Regular, 0o644, passwd.as_bytes(), None);
    entry(&mut layer, "etc/group", tar::EntryType::Regular, 0o644, group.as_bytes(), None);
    let layer = layer.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    write(reference, archive, &config.to_string(), &layer);
}

fn write(reference: &str, archive: &Path, config: &str, layer: &[u8]) {
    let name = digest(config.as_bytes()).replace("sha256:", "") + ".json";
    let manifest = serde_json::json!([{ "Config": name, "RepoTags": [reference], "Layers": ["layer.tar"] }]);
    let mut tar = tar::Builder::new(File::create(archive).unwrap());
    for (name, bytes) in [("manifest.json", manifest.to_string().as_bytes()), (&name, config.as_bytes()), ("layer.tar", layer)] {
        entry(&mut tar, name, tar::EntryType::Regular, 0o644, bytes, None);
    }
    tar.finish().unwrap();
}

fn entry<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, kind: tar::EntryType, mode: u32, bytes: &[u8], link: Option<&str>) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    if let Some(link) = link {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    tar.append_data(&mut header, name, bytes).unwrap();
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
