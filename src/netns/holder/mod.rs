//! The program that holds the PID namespace which the containers of a pod share, and its root file system.
//!
//! `main.rs` beside this file is that program; build.rs makes it and berth carries its bytes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

/// The program: static, a few kilobytes.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/berth-holder"));

/// Lays out a root file system in `dir` with the program at `/holder` and the directories an OCI runtime mounts on,
/// and returns `dir`. Fine when it is there already; a holder that runs from it goes on.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    for name in ["proc", "dev", "sys"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let program = dir.join("holder");
    if fs::read(&program).is_ok_and(|bytes| bytes == PROGRAM) {
        return Ok(dir.to_owned());
    }
    let new = dir.join(format!(".holder.{}", process::id()));
    let result = write(&new).and_then(|()| fs::rename(&new, &program));
    if result.is_err() {
        // The first error tells more than one of this.
        let _ = fs::remove_file(&new);
    }
    result.map(|()| dir.to_owned())
}

fn write(path: &Path) -> io::Result<()> {
    fs::write(path, PROGRAM)?;
    fs::set_permissions(path, Permissions::from_mode(0o555))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_holder_is_installed_once_and_replaced_when_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        assert_eq!(install(&root).unwrap(), root);
        let mode = fs::metadata(root.join("holder")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o555);
        let before = fs::metadata(root.join("holder")).unwrap().modified().unwrap();
        install(&root).unwrap();
        assert_eq!(fs::metadata(root.join("holder")).unwrap().modified().unwrap(), before);
        fs::remove_file(root.join("holder")).unwrap();
        fs::write(root.join("holder"), "older").unwrap();
        install(&root).unwrap();
        assert_eq!(fs::read(root.join("holder")).unwrap(), PROGRAM);
        let names = fs::read_dir(&root).unwrap().count();
        assert_eq!(names, 4);
    }

    #[test]
    fn the_holder_holds_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let root = install(dir.path()).unwrap();
        let mut child = Command::new(root.join("holder")).spawn().unwrap();
        thread::sleep(Duration::from_millis(50));
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running);
    }
}
