//! The names of everything berth makes, each derived from an id alone, so that after a crash what is to be undone
//! can be found without having been written down.

use std::path::{Path, PathBuf};

use crate::model::Id;

/// The directories that the names start from.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Run-time state, gone after a reboot.
    pub state: PathBuf,
    /// Where network namespaces are pinned.
    pub netns: PathBuf,
    /// Root file system of the holder of shared PID namespaces.
    pub holder: PathBuf,
    /// A directory for each group of pods: the place of its shim.
    pub shims: PathBuf,
    /// The cgroup that holds one per pod, in cgroupfs syntax.
    pub cgroup_root: String,
}

impl Paths {
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// What a sandbox keeps on disk: the files that its containers see, and its pins.
    pub fn sandbox(&self, id: &Id) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    pub fn hosts(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("hosts")
    }

    pub fn hostname(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("hostname")
    }

    pub fn resolv_conf(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("resolv.conf")
    }

    /// The pod's /dev/shm, a tmpfs.
    pub fn shm(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("shm")
    }

    /// The name pattern by which CNI users look for network namespaces.
    pub fn net_pin(&self, id: &Id) -> PathBuf {
        self.netns.join(format!("cni-{}", id.uuid()))
    }

    pub fn ipc_pin(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("ipc")
    }

    pub fn uts_pin(&self, id: &Id) -> PathBuf {
        self.sandbox(id).join("uts")
    }

    /// What a container keeps on disk: its pipes, and a directory for each running exec.
    pub fn container(&self, id: &Id) -> PathBuf {
        self.containers().join(id.as_str())
    }

    /// Is there while a start is undone: the task ends by berth's hand then, and not by its own.
    pub fn undone(&self, id: &Id) -> PathBuf {
        self.container(id).join("undone")
    }

    pub fn execs(&self, id: &Id) -> PathBuf {
        self.container(id).join("exec")
    }

    /// Files of what probes and hooks have come to, one per container that has any. They stay until it is removed.
    pub fn lifecycle(&self) -> PathBuf {
        self.state.join("lifecycle")
    }

    /// The cgroup of a pod whose client named no parent: berth makes and removes it.
    pub fn own_cgroup(&self, sandbox: &Id) -> String {
        format!("{}/{sandbox}", self.cgroup_root)
    }
}

/// The pipes of a container or an exec below its directory.
#[derive(Debug, Clone)]
pub struct Pipes {
    pub stdin: PathBuf,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

impl Pipes {
    pub fn below(directory: &Path) -> Self {
        let [stdin, stdout, stderr] = ["stdin", "stdout", "stderr"].map(|name| directory.join(name));
        Self { stdin, stdout, stderr }
    }
}
