//! What is kept on disk of pods: below `<root>/pods`, for each pod `<namespace>_<name>_<uid>/` with
//!
//! ```text
//!   manifest.json   the pod as it is wanted; written before anything of it is made, removed after everything is
//!   deleted.json    it is being deleted: the seconds its containers get
//!   events.json     what was told of it, as far as it was written: a moment behind, and not synced to the disk
//!   volumes/NAME/   its emptyDirs
//! ```
//!
//! and `logs/<namespace>_<name>_<uid>/<container>/<attempt>.log`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::pod::{Container, HostPathKind, Pod, Source};
use super::request;
use super::table::Table;

const MANIFEST: &str = "manifest.json";
const DELETED: &str = "deleted.json";
const EVENTS: &str = "events.json";
const VERSION: u32 = 1;

/// The directory of all pods.
#[derive(Debug, Clone)]
pub struct Store(PathBuf);

/// A pod that was found on disk.
pub struct Kept {
    pub pod: Pod,
    /// Seconds of grace, when it is being deleted.
    pub deleting: Option<u32>,
    pub events: Table,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: serde_json::Error },
    #[error("{} is of version {version}, which this berth does not know (is it older than the one that wrote it?)", path.display())]
    Newer { path: PathBuf, version: u32 },
    #[error("volume {volume:?}: {} is no {wanted}", path.display())]
    HostPath {
        volume: String,
        path: PathBuf,
        wanted: &'static str,
    },
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize, Deserialize)]
struct Deleted {
    grace_s: u32,
}

impl Store {
    pub fn new(root: &Path) -> Self {
        Self(root.join("pods"))
    }

    fn name(pod: &Pod) -> String {
        format!("{}_{}_{}", pod.name.namespace, pod.name.name, pod.uid)
    }

    fn directory(&self, pod: &Pod) -> PathBuf {
        self.0.join(Self::name(pod))
    }

    /// Where the pod's emptyDirs are.
    pub fn volumes(&self, pod: &Pod) -> PathBuf {
        self.directory(pod).join("volumes")
    }

    /// Where the pod's containers log.
    pub fn logs(&self, pod: &Pod) -> PathBuf {
        self.0.join("logs").join(Self::name(pod))
    }

    /// Records that the pod is wanted.
    pub fn keep(&self, pod: &Pod) -> Result<(), Error> {
        let directory = self.directory(pod);
        make_directory(&directory, 0o700)?;
        write(&directory, MANIFEST, pod)?;
        sync(&self.0)
    }

    /// Records that the pod is to go.
    pub fn mark_deleted(&self, pod: &Pod, grace_s: u32) -> Result<(), Error> {
        write(&self.directory(pod), DELETED, &Deleted { grace_s })
    }

    /// Records what was told of the pod. What this is interrupted at, and what the node's end takes with it, is lost.
    pub fn keep_events(&self, pod: &Pod, events: &Table) -> Result<(), Error> {
        let directory = self.directory(pod);
        let (path, new) = (directory.join(EVENTS), directory.join(format!("{EVENTS}.new")));
        fs::write(&new, text(events)).map_err(file("cannot write", &new))?;
        fs::rename(&new, &path).map_err(file("cannot put in place", &path))
    }

    /// Removes everything of a pod: its manifest last, so that what is interrupted is done again.
    pub fn forget(&self, pod: &Pod) -> Result<(), Error> {
        let directory = self.directory(pod);
        remove_all(&self.volumes(pod))?;
        remove_all(&self.logs(pod))?;
        remove_file(&directory.join(MANIFEST))?;
        remove_all(&directory)?;
        sync(&self.0)
    }

    /// All pods that are kept, and what could not be read. What was interrupted before a pod was kept, or after it
    /// was forgotten, is removed.
    pub fn load(&self) -> Result<(Vec<Kept>, Vec<Error>), Error> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.map_err(file("cannot list", &self.0))?,
        };
        let (mut kept, mut errors) = (Vec::new(), Vec::new());
        for entry in entries {
            let directory = entry.map_err(file("cannot list", &self.0))?.path();
            if directory.ends_with("logs") {
                continue;
            }
            match load(&directory) {
                Ok(Some(pod)) => kept.push(pod),
                Ok(None) => remove_all(&directory)?,
                Err(error) => errors.push(error),
            }
        }
        kept.sort_by_key(|kept| kept.pod.created_at);
        Ok((kept, errors))
    }

    /// Makes what the pod's containers stand on, and checks what they find on the node.
    pub fn prepare(&self, pod: &Pod, container: &Container) -> Result<(), Error> {
        make_directory(&self.logs(pod).join(&container.name), 0o755)?;
        let volumes = self.volumes(pod);
        for directory in request::empty_dirs(pod, &volumes) {
            make_directory(&directory, 0o755)?;
            // Whoever the containers run as may write; the mode given to mkdir(2) would be cut by the umask.
            fs::set_permissions(&directory, Permissions::from_mode(0o777))
                .map_err(file("cannot open up", &directory))?;
        }
        for volume in &pod.volumes {
            if let Source::HostPath { path, kind } = &volume.source {
                check_host_path(&volume.name, path, *kind)?;
            }
        }
        Ok(())
    }

    /// The first attempt of a container that has no log: how often it ran, even when no record tells any more.
    pub fn next_attempt(&self, pod: &Pod, container: &str) -> u32 {
        let Ok(entries) = fs::read_dir(self.logs(pod).join(container)) else {
            return 0;
        };
        let attempt = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
        let last = entries.filter_map(Result::ok).filter_map(attempt).max();
        last.map_or(0, |last| last.saturating_add(1))
    }
}

fn load(directory: &Path) -> Result<Option<Kept>, Error> {
    let Some(pod) = read(&directory.join(MANIFEST))? else {
        return Ok(None);
    };
    let deleted: Option<Deleted> = read(&directory.join(DELETED))?;
    // Events that were cut off by the node's end are no reason to do without the pod.
    let events = read(&directory.join(EVENTS)).ok().flatten();
    Ok(Some(Kept {
        pod,
        events: events.unwrap_or_default(),
        deleting: deleted.map(|deleted| deleted.grace_s),
    }))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        bytes => bytes.map_err(file("cannot read", path))?,
    };
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let Versioned {
        version,
        body: Nothing {},
    } = serde_json::from_slice(&bytes).map_err(unreadable)?;
    if version > VERSION {
        return Err(Error::Newer {
            path: path.to_owned(),
            version,
        });
    }
    let Versioned { body, .. } = serde_json::from_slice(&bytes).map_err(unreadable)?;
    Ok(Some(body))
}

/// Writes a file that is there whole or not at all, whatever happens to berth or the node.
fn write<T: Serialize>(directory: &Path, name: &str, body: &T) -> Result<(), Error> {
    let (path, new) = (directory.join(name), directory.join(format!("{name}.new")));
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&text(body))?;
        file.sync_all()
    })();
    written.map_err(file("cannot write", &new))?;
    fs::rename(&new, &path).map_err(file("cannot put in place", &path))?;
    sync(directory)
}

fn text<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(&Versioned { version: VERSION, body }).expect("plain data serialises")
}

fn sync(directory: &Path) -> Result<(), Error> {
    File::open(directory)
        .and_then(|open| open.sync_all())
        .map_err(file("cannot sync", directory))
}

fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(file("cannot make", path))
}

fn remove_all(path: &Path) -> Result<(), Error> {
    gone_is_fine(fs::remove_dir_all(path)).map_err(file("cannot remove", path))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    gone_is_fine(fs::remove_file(path)).map_err(file("cannot remove", path))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// As the kubelet checks (and makes, with its modes) hostPaths.
fn check_host_path(volume: &str, path: &Path, kind: HostPathKind) -> Result<(), Error> {
    let found = fs::metadata(path).map(|metadata| metadata.file_type());
    let missing = found
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(test);
    let (right, wanted) = match kind {
        HostPathKind::Unchecked => return Ok(()),
        HostPathKind::DirectoryOrCreate if missing => return make_directory(path, 0o755),
        HostPathKind::FileOrCreate if missing => {
            let made = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
            return made.map(drop).map_err(file("cannot make", path));
        }
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (is(fs::FileType::is_dir), "directory"),
        HostPathKind::File | HostPathKind::FileOrCreate => (is(fs::FileType::is_file), "file"),
        HostPathKind::Socket => (is(FileTypeExt::is_socket), "unix socket"),
        HostPathKind::CharDevice => (is(FileTypeExt::is_char_device), "character device"),
        HostPathKind::BlockDevice => (is(FileTypeExt::is_block_device), "block device"),
    };
    let refused = || Error::HostPath {
        volume: volume.to_owned(),
        path: path.to_owned(),
        wanted,
    };
    right.then_some(()).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    fn pod(spec: &str) -> Pod {
        let head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: i}]\n";
        parse(&format!("{head}{spec}"), 5).unwrap()
    }

    #[test]
    fn what_is_kept_is_loaded_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let (store, pod) = (Store::new(root.path()), pod("  volumes: [{name: v}]\n"));
        assert!(store.load().unwrap().0.is_empty());
        store.keep(&pod).unwrap();
        store.prepare(&pod, &pod.containers[0]).unwrap();
        let (kept, errors) = store.load().unwrap();
        assert_eq!((&kept[0].pod, kept[0].deleting, errors.len()), (&pod, None, 0));
        let mode = fs::metadata(store.volumes(&pod).join("v"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o777);
        store.mark_deleted(&pod, 7).unwrap();
        assert_eq!(store.load().unwrap().0[0].deleting, Some(7));
        store.forget(&pod).unwrap();
        store.forget(&pod).unwrap();
        assert!(store.load().unwrap().0.is_empty());
        assert_eq!(fs::read_dir(root.path().join("pods/logs")).unwrap().count(), 0);
    }

    #[test]
    fn events_are_kept_and_are_no_reason_to_lose_a_pod() {
        let root = tempfile::tempdir().unwrap();
        let (store, pod) = (Store::new(root.path()), pod(""));
        store.keep(&pod).unwrap();
        let mut events = Table::default();
        events.add(7, Some("c"), crate::model::event::Severity::Warning, "Unhealthy", "no");
        store.keep_events(&pod, &events).unwrap();
        assert_eq!(store.load().unwrap().0[0].events, events);
        fs::write(store.directory(&pod).join(EVENTS), "{\"vers").unwrap();
        let (kept, errors) = store.load().unwrap();
        assert_eq!((&kept[0].events, errors.len()), (&Table::default(), 0));
    }

    #[test]
    fn a_pod_that_an_older_berth_kept_is_read() {
        let root = tempfile::tempdir().unwrap();
        let (store, pod) = (Store::new(root.path()), pod(""));
        store.keep(&pod).unwrap();
        let path = store.directory(&pod).join(MANIFEST);
        let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let container = kept["containers"][0].as_object_mut().unwrap();
        assert!(container.remove("probes").is_some() && container.remove("hooks").is_some());
        fs::write(&path, kept.to_string()).unwrap();
        assert_eq!(store.load().unwrap().0[0].pod, pod);
    }

    #[test]
    fn what_was_interrupted_is_removed_and_what_is_unreadable_is_told() {
        let root = tempfile::tempdir().unwrap();
        let (store, pod) = (Store::new(root.path()), pod(""));
        let half = store.directory(&pod);
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("manifest.json.new"), "{").unwrap();
        let (kept, errors) = store.load().unwrap();
        assert!(kept.is_empty() && errors.is_empty() && !half.exists());
        store.keep(&pod).unwrap();
        fs::write(half.join(MANIFEST), r#"{"version": 99}"#).unwrap();
        let (kept, errors) = store.load().unwrap();
        assert!(kept.is_empty() && half.exists());
        assert!(matches!(errors[..], [Error::Newer { version: 99, .. }]), "{errors:?}");
        fs::write(half.join(MANIFEST), "").unwrap();
        assert!(matches!(store.load().unwrap().1[..], [Error::Unreadable { .. }]));
    }

    #[test]
    fn attempts_are_counted_by_their_logs() {
        let root = tempfile::tempdir().unwrap();
        let (store, pod) = (Store::new(root.path()), pod(""));
        assert_eq!(store.next_attempt(&pod, "c"), 0);
        store.prepare(&pod, &pod.containers[0]).unwrap();
        for name in ["0.log", "3.log", "x.log", "9.txt"] {
            fs::write(store.logs(&pod).join("c").join(name), "").unwrap();
        }
        assert_eq!(store.next_attempt(&pod, "c"), 4);
    }

    #[test]
    fn host_paths_are_checked_and_made() {
        let root = tempfile::tempdir().unwrap();
        let (dir, file) = (root.path().join("a/dir"), root.path().join("file"));
        check_host_path("v", &dir, HostPathKind::Directory).unwrap_err();
        check_host_path("v", &dir, HostPathKind::DirectoryOrCreate).unwrap();
        check_host_path("v", &dir, HostPathKind::Directory).unwrap();
        check_host_path("v", &file, HostPathKind::FileOrCreate).unwrap();
        check_host_path("v", &file, HostPathKind::File).unwrap();
        check_host_path("v", Path::new("/dev/null"), HostPathKind::CharDevice).unwrap();
        for kind in [
            HostPathKind::Directory,
            HostPathKind::DirectoryOrCreate,
            HostPathKind::Socket,
            HostPathKind::BlockDevice,
        ] {
            check_host_path("v", &file, kind).unwrap_err();
        }
    }
}
