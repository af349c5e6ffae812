//! Forgets a container that is gone without running the runtime.
//!
//! runc's `delete` of an ended container (libcontainer/state_linux.go, destroy) kills what is left in its cgroups,
//! removes those, its group of resctrl and its state directory, and runs `poststop` hooks. Where its own state says that
//! nothing but the directory is left, to remove that is all. Whatever is not as expected is left to the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Runtime;
use super::release::Flavour;
use crate::sys::children::Children;
use crate::sys::process;

/// What runc has in a state directory of its own.
const FILES: [&str; 2] = ["state.json", "exec.fifo"];

/// Of runc's state.json (libcontainer/container_linux.go, State).
#[derive(Deserialize)]
struct State {
    init_process_pid: u32,
    /// In clock ticks since boot.
    init_process_start: u64,
    cgroup_paths: BTreeMap<String, PathBuf>,
    #[serde(default)]
    intel_rdt_path: String,
}

impl Runtime {
    /// Removes the state of a container without hooks whose processes and cgroups are gone. `false`: the runtime has to
    /// [`delete`](Self::delete) it.
    pub fn forget(&self, children: &Children, id: &str) -> bool {
        let directory = self.root.join(id);
        !self.systemd_cgroup
            && self.flavour(children) == Some(Flavour::Runc)
            && is_all(&directory)
            && fs::remove_dir_all(&directory).is_ok()
    }
}

/// Whether a state directory is all that is left of its container.
fn is_all(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else {
        return false;
    };
    let known = |entry: fs::DirEntry| FILES.iter().any(|name| entry.file_name() == *name);
    let state = fs::read(directory.join("state.json")).ok();
    let state = state.and_then(|text| serde_json::from_slice::<State>(&text).ok());
    entries.into_iter().all(|entry| entry.is_ok_and(known)) && state.is_some_and(|state| state.is_gone())
}

impl State {
    fn is_gone(&self) -> bool {
        let same = |start| start == self.init_process_start;
        let lives = process::start_time(self.init_process_pid).is_ok_and(same);
        // Another process in the container is in a cgroup, which could not have been removed.
        !lives && self.intel_rdt_path.is_empty() && !self.cgroup_paths.is_empty() && !self.any_cgroup_is_left()
    }

    fn any_cgroup_is_left(&self) -> bool {
        self.cgroup_paths.values().any(|path| path.exists())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A container of a pid that no process has.
    fn state() -> serde_json::Value {
        json!({
            "id": "one", "init_process_pid": u32::MAX, "init_process_start": 1,
            "cgroup_paths": {"cpu": "/sys/fs/cgroup/cpu/no-such-group"}, "config": {},
        })
    }

    fn is_all_with(change: impl FnOnce(&mut serde_json::Value, &Path)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let mut state = state();
        change(&mut state, dir.path());
        fs::write(dir.path().join("state.json"), state.to_string()).unwrap();
        is_all(dir.path())
    }

    #[test]
    fn a_state_directory_is_all_that_is_left_only_when_everything_else_is_known_to_be_gone() {
        assert!(is_all_with(|_, _| {}));
        assert!(is_all_with(|_, dir| fs::write(dir.join("exec.fifo"), "").unwrap()));
        assert!(!is_all_with(|_, dir| fs::write(dir.join("other"), "").unwrap()));
        assert!(!is_all_with(
            |state, dir| state["cgroup_paths"]["cpu"] = dir.to_string_lossy().into()
        ));
        assert!(!is_all_with(|state, _| state["cgroup_paths"] = json!({})));
        assert!(!is_all_with(
            |state, _| state["intel_rdt_path"] = "/sys/fs/resctrl/one".into()
        ));
        assert!(!is_all_with(|state, _| state["init_process_start"] = json!(null)));
        let own = std::process::id();
        assert!(!is_all_with(|state, _| {
            state["init_process_pid"] = own.into();
            state["init_process_start"] = process::start_time(own).unwrap().into();
        }));
        assert!(!is_all(Path::new("/no/such/directory")));
    }
}
