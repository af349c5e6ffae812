//! Where a shim process lives: one directory, from which the names of all it has derive.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Where the shims of tasks that berth did not make live.
const COMMON: &str = "/run/berth-shim";

/// The longest name of a unix socket (unix(7)), without its final zero.
const MAX_SOCKET: usize = 107;

/// How often a place is tried to be made. It is taken away once for each shim that leaves.
const TRIES: usize = 10;

/// The directory of one shim process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    /// The place `directory`. It must be an absolute path that leaves room for the names of sockets.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let place = Self(directory.into());
        let fits = place.control_socket().as_os_str().len() <= MAX_SOCKET;
        if place.0.is_absolute() && fits {
            return Ok(place);
        }
        let message = format!(
            "{} is no absolute path of less than {MAX_SOCKET} bytes",
            place.0.display()
        );
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    /// Where the shim of tasks lives that name no place: one for each containerd and namespace.
    pub fn common(containerd: &Path, namespace: &str) -> Self {
        let digest = Sha256::digest(containerd.join(namespace).as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Self(Path::new(COMMON).join(name))
    }

    /// The place of a shim that listens at `address`, as `start` printed it.
    pub fn of_address(address: &str) -> Option<Self> {
        let socket = Path::new(address.trim().strip_prefix("unix://")?);
        let directory = socket.parent()?;
        (socket == Self(directory.to_owned()).task_socket()).then(|| Self(directory.to_owned()))
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Where containerd calls the Task service.
    pub fn task_socket(&self) -> PathBuf {
        self.0.join("task.sock")
    }

    /// What `start` tells containerd.
    pub fn address(&self) -> String {
        format!("unix://{}", self.task_socket().display())
    }

    /// Where berth, and this program's own commands, speak to the shim ([`super::control`]).
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Where berth, and the shim itself, have commands run ([`super::helper`]).
    pub fn exec_socket(&self) -> PathBuf {
        self.0.join("exec.sock")
    }

    /// Where berth speaks to the log writer ([`crate::logs`]).
    pub fn log_socket(&self) -> PathBuf {
        self.0.join("log.sock")
    }

    /// What the log writer remembers.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Held by the shim for as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// The shim's own messages.
    pub fn messages(&self) -> PathBuf {
        self.0.join("shim.log")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    /// What is kept of one container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Makes the directories, for root alone. A shim that leaves may take one away between two steps: then all again.
    pub fn make(&self) -> io::Result<()> {
        for _ in 1..TRIES {
            match self.make_once() {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                made => return made,
            }
        }
        self.make_once()
    }

    fn make_once(&self) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o711);
        if let Some(parent) = self.0.parent() {
            builder.create(parent)?;
        }
        builder.mode(0o700);
        builder.create(self.containers())?;
        builder.create(self.logs())
    }

    /// Removes the place of a shim that leaves, which holds the lock. One that still holds a container stays, but for
    /// its sockets. It is moved away first: the lock is free as soon as its file is gone, and what the next shim makes
    /// here is not ours to remove.
    pub fn clear(&self) {
        for name in [
            self.task_socket(),
            self.control_socket(),
            self.log_socket(),
            self.exec_socket(),
        ] {
            std::fs::remove_file(name).ok();
        }
        if std::fs::remove_dir(self.containers()).is_ok() {
            let mut gone = self.0.clone().into_os_string();
            gone.push(format!(".{}", std::process::id()));
            if std::fs::rename(&self.0, &gone).is_ok() {
                std::fs::remove_dir_all(gone).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_place() {
        let place = Place::new("/run/berth/shims/node").unwrap();
        assert_eq!(Place::of_address(&format!("{}\n", place.address())), Some(place));
        for foreign in ["", "unix://", "unix:///run/containerd/s/abc", "vsock://3", "/task.sock"] {
            assert_eq!(Place::of_address(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_place_has_room_for_its_sockets() {
        assert!(Place::new("relative").is_err());
        assert!(Place::new(format!("/{}", "x".repeat(100))).is_err());
        assert!(Place::new(format!("/{}", "x".repeat(80))).is_ok());
    }

    #[test]
    fn each_containerd_and_namespace_has_a_place_of_its_own() {
        let place = |address: &str, namespace: &str| Place::common(Path::new(address), namespace);
        let one = place("/run/containerd/containerd.sock", "default");
        assert_eq!(one, place("/run/containerd/containerd.sock", "default"));
        assert_ne!(one, place("/run/containerd/containerd.sock", "k8s.io"));
        assert_ne!(one, place("/run/other.sock", "default"));
    }

    #[test]
    fn a_place_is_made_for_root_alone_and_goes_only_when_it_is_empty() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().join("shims/node")).unwrap();
        place.make().unwrap();
        let mode = std::fs::metadata(place.containers()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        std::fs::create_dir(place.container("one")).unwrap();
        place.clear();
        assert!(place.container("one").exists());
        std::fs::remove_dir(place.container("one")).unwrap();
        place.clear();
        assert!(!place.directory().exists());
    }
}
