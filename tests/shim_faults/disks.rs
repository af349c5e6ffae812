//! Full disks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use berth::ttrpc::Code;

use crate::bundles::vanish;
use crate::ground::{Ground, alive, becomes};

/// Makes `name` of the ground a small file system.
fn small(ground: &Ground, name: &str) -> PathBuf {
    let path = ground.path(name);
    fs::create_dir_all(&path).unwrap();
    berth::sys::mount::tmpfs(&path, 256 << 10, 0o755).unwrap();
    path
}

/// Fills a file system to its last byte. Gives the file that does.
fn fill(path: &Path) -> PathBuf {
    let path = path.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    while file.write_all(&[7; 1024]).is_ok() {}
    path
}

#[test]
fn a_full_disk_for_records_refuses_new_containers_and_keeps_no_old_one() {
    let ground = Ground::new();
    let disk = small(&ground, "shims");
    let [old, new] = [ground.sleeper(), ground.sleeper()];
    old.run();
    let filler = fill(&disk);
    new.write();
    let refused = new.create().unwrap_err();
    assert!(
        refused.code == Code::Unknown && refused.message.contains("No space left"),
        "{refused}"
    );
    new.is_forgotten();
    assert_eq!(old.remove(), 137);
    old.is_forgotten();
    fs::remove_file(filler).unwrap();
    ground.serves();
    ground.end();
}

#[test]
fn a_container_outlives_its_shim_on_a_full_disk() {
    let ground = Ground::new();
    let disk = small(&ground, "shims");
    let bundle = ground.sleeper();
    let pid = bundle.run();
    let filler = fill(&disk);
    ground.kill_shim();
    ground.ensure();
    assert_eq!(bundle.create().unwrap(), pid);
    assert!(alive(pid));
    fs::remove_file(filler).unwrap();
    assert_eq!(bundle.remove(), 137);
    ground.end();
}

#[test]
fn a_full_disk_for_bundles_refuses_new_containers() {
    let ground = Ground::new();
    let disk = small(&ground, "bundles");
    let bundle = ground.sleeper();
    bundle.prepare();
    let filler = fill(&disk);
    let refused = bundle.create().unwrap_err();
    assert_eq!(refused.code, Code::Unknown, "{refused}");
    bundle.is_forgotten();
    fs::remove_file(filler).unwrap();
    // As containerd does, for what the OCI runtime left in it.
    vanish(&bundle);
    bundle.run();
    let filler = fill(&disk);
    assert_eq!(bundle.remove(), 137);
    fs::remove_file(filler).unwrap();
    becomes("its mount is gone", || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        !mounts.contains(&bundle.path.display().to_string())
    });
    berth::sys::mount::unmount(&disk).unwrap();
    ground.end();
}
