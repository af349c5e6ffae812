//! The shims of one containerd, stock ones and our own: their processes and what they keep in `/run`.
//!
//! Both kinds are given containerd's address in their command lines.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

/// Where our shims live, each in a directory of its own.
const OURS: &str = "/run/berth-shim";
/// Where stock shims listen (`socketRoot` in containerd's shim library).
const STOCK_SOCKETS: &str = "/run/containerd/s";

/// Shims of the containerd at `address`, also such as just start: pid and command line.
pub fn processes(address: &Path) -> Vec<(u32, String)> {
    let address = address.display().to_string();
    let is_shim = |line: &str| {
        let program = line.split(' ').next().unwrap_or_default();
        program
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .starts_with("containerd-shim")
    };
    let mut all = super::processes();
    all.retain(|(_, line)| is_shim(line) && line.contains(&address));
    all
}

/// The directories of our shims of the containerd at `address`: those whose files name it, or a bundle in its directory.
pub fn directories(address: &Path) -> Vec<PathBuf> {
    let directory = address.parent().unwrap().display().to_string();
    let mut found = entries(Path::new(OURS));
    found.retain(|place| mentions(place, directory.as_bytes(), 3));
    found
}

/// What our shims of the containerd at `address` keep of containers: nothing when there are none.
pub fn containers(address: &Path) -> Vec<PathBuf> {
    let places = directories(address).into_iter();
    places.flat_map(|place| entries(&place.join("containers"))).collect()
}

/// The socket of the stock shim of a group, where there is one.
pub fn stock_socket(address: &Path, namespace: &str, group: &str) -> Option<PathBuf> {
    let name = address.join(namespace).join(group);
    let name = Sha256::digest(name.as_os_str().as_encoded_bytes());
    let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Path::new(STOCK_SOCKETS).join(name)).filter(|socket| socket.exists())
}

/// Kills all shims of the containerd at `address` and removes the directories of ours.
pub fn sweep(address: &Path) {
    let directories = directories(address);
    for (pid, _) in processes(address) {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    for directory in directories {
        let _ = fs::remove_dir_all(directory);
    }
}

/// Whether a file in `place`, at most `depth` directories down, contains `text`.
fn mentions(place: &Path, text: &[u8], depth: usize) -> bool {
    entries(place)
        .into_iter()
        .any(|path| match fs::symlink_metadata(&path) {
            Ok(it) if it.is_dir() => depth > 0 && mentions(&path, text, depth - 1),
            Ok(it) if it.is_file() => {
                let content = fs::read(&path).unwrap_or_default();
                content.windows(text.len()).any(|window| window == text)
            }
            _ => false,
        })
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
