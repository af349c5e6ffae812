//! What a shim writes down of each container, so that the next one can go on where a killed one stopped.
//!
//! One small JSON file a container, below /run (so a reboot, after which no container runs, forgets it): written to
//! another name and renamed, before what it announces is done and after what it tells has happened.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cgroups::Cgroups;
use super::place::Place;
use super::runtime::Runtime;
use crate::sys;

/// The version that this shim writes; a newer one is left alone.
pub const VERSION: u32 = 1;

/// A container, as far as it must be known without the shim that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub id: String,
    /// containerd's namespace.
    pub namespace: String,
    pub boot_id: String,
    pub bundle: PathBuf,
    pub runtime: Runtime,
    pub io: Io,
    /// The user and group that own the FIFOs, where the runtime's options say so.
    pub io_owner: (u32, u32),
    /// Whether all its processes end with its first one, because they have a PID namespace of their own.
    pub own_pids: bool,
    /// Whether its process is started by more than the opening of a FIFO: the spec has hooks.
    pub hooks: bool,
    /// Whether the end of stdin that a shim keeps open was let go.
    pub stdin_closed: bool,
    pub cgroups: Option<Cgroups>,
    /// The spec's `cgroupsPath`, which is where a container that is only half made has its cgroups.
    pub cgroups_path: String,
    pub state: Recorded,
    /// Further processes that run, by exec id.
    pub execs: BTreeMap<String, Life>,
}

/// What a request says of a process' streams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
    pub terminal: bool,
}

/// One process for certain, within a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub pid: u32,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// How far a container has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// Being made, or being unmade after that failed: nobody relies on it yet.
    Creating,
    Created(Life),
    Running(Life),
    /// `code` as a shell has it; `at` in nanoseconds since the Unix epoch.
    Exited {
        pid: u32,
        code: i32,
        at: i64,
        known: bool,
    },
    /// Deleted for containerd; the OCI runtime has not tidied up yet.
    Deleting,
}

impl Life {
    /// The process that has `pid` now.
    pub fn of(pid: u32) -> io::Result<Self> {
        let start_time = sys::process::start_time(pid)?;
        Ok(Self { pid, start_time })
    }

    /// Whether it has not ended yet, as far as /proc says; a pid that was used again is another process.
    pub fn is_alive(&self) -> bool {
        sys::process::start_time(self.pid).is_ok_and(|start| start == self.start_time)
            && !sys::process::is_zombie(self.pid)
    }
}

impl Record {
    /// Writes it down. The file is whole or as it was before, whatever happens.
    pub fn save(&self, place: &Place) -> io::Result<()> {
        let directory = place.container(&self.id);
        let (file, next) = (directory.join("record.json"), directory.join("record.new"));
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut open = fs::OpenOptions::new();
        let mut opened = open.write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        opened.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(next, file)
    }

    /// Forgets it; none is fine.
    pub fn remove(place: &Place, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(place.container(id)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records of this boot that can be read, and what was wrong with the others. A directory without a record
    /// is one whose making was cut off, and is removed.
    pub fn load(place: &Place) -> io::Result<(Vec<Self>, Vec<String>)> {
        let boot_id = sys::boot_id()?;
        let (mut records, mut complaints) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(place.containers())?.flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            match Self::read(place, &id) {
                Ok(record) if record.boot_id == boot_id => records.push(record),
                Ok(_) => Self::remove(place, &id)?,
                Err(error) if error.kind() == ErrorKind::NotFound => Self::remove(place, &id)?,
                Err(error) => complaints.push(format!("the record of {id}: {error}")),
            }
        }
        Ok((records, complaints))
    }

    /// The record of `id`.
    pub fn read(place: &Place, id: &str) -> io::Result<Self> {
        let text = fs::read(place.container(id).join("record.json"))?;
        let record: Self = serde_json::from_slice(&text)?;
        if record.version > VERSION || record.id != id {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("it is of version {} and about {}", record.version, record.id),
            ));
        }
        Ok(record)
    }
}

/// Whether `id` may be an id of containerd's (its `identifiers` package): so it can be a file's name, too.
pub fn is_id(id: &str) -> bool {
    let sane = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    id.len() <= 76 && id.split(['.', '_', '-']).all(sane)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path()).unwrap();
        place.make().unwrap();
        (dir, place)
    }

    fn record(id: &str) -> Record {
        Record {
            version: VERSION,
            id: id.to_owned(),
            namespace: "test".to_owned(),
            boot_id: sys::boot_id().unwrap(),
            bundle: "/bundle".into(),
            runtime: Runtime::new(Default::default(), "test"),
            io: Io::default(),
            io_owner: (0, 0),
            own_pids: true,
            hooks: false,
            stdin_closed: false,
            cgroups: None,
            cgroups_path: String::new(),
            state: Recorded::Running(Life::of(std::process::id()).unwrap()),
            execs: BTreeMap::from([("e".to_owned(), Life { pid: 2, start_time: 3 })]),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_what_is_removed_is_gone() {
        let (_dir, place) = place();
        let (one, mut two) = (record("one"), record("two"));
        one.save(&place).unwrap();
        two.save(&place).unwrap();
        two.state = Recorded::Exited {
            pid: 9,
            code: 137,
            at: 5,
            known: true,
        };
        two.save(&place).unwrap();
        let (mut loaded, complaints) = Record::load(&place).unwrap();
        loaded.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!((loaded, complaints), (vec![one, two], Vec::new()));
        Record::remove(&place, "one").unwrap();
        Record::remove(&place, "one").unwrap();
        assert_eq!(Record::load(&place).unwrap().0.len(), 1);
    }

    #[test]
    fn records_of_another_boot_are_forgotten_and_unreadable_ones_left_alone() {
        let (_dir, place) = place();
        let mut old = record("old");
        old.boot_id = "another".to_owned();
        old.save(&place).unwrap();
        let mut newer = record("newer");
        newer.version = VERSION + 1;
        newer.save(&place).unwrap();
        fs::create_dir(place.container("half-made")).unwrap();
        fs::create_dir(place.container("garbage")).unwrap();
        fs::write(place.container("garbage").join("record.json"), "{").unwrap();
        let (loaded, complaints) = Record::load(&place).unwrap();
        assert_eq!((loaded.len(), complaints.len()), (0, 2), "{complaints:?}");
        assert!(!place.container("old").exists() && !place.container("half-made").exists());
        assert!(place.container("garbage").exists());
    }

    #[test]
    fn a_pid_alone_is_not_a_life() {
        let own = Life::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(
            !Life {
                start_time: own.start_time + 1,
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn ids_are_what_containerd_takes_for_ids() {
        for good in ["a", "redis-0", "A.b_c-d", &"x".repeat(76)] {
            assert!(is_id(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "ä", &"x".repeat(77)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
