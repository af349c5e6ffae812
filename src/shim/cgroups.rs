//! Where a container's processes are: its control groups, found once from its first process and kept in its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::nsexec::Groups;
use crate::sys::cgroup::{self, Version};
use crate::sys::process::kill;

/// How long [`Cgroups::kill_all`] goes on.
const PATIENCE: Duration = Duration::from_secs(2);
/// And how often it looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The directories of a container's control groups. None of them has the shim in it, so that what is done to a group
/// never meets the shim itself: an OCI runtime that makes no group in a hierarchy leaves the container in its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroups {
    V1 {
        /// By controller (`memory`) or name (`name=systemd`).
        groups: BTreeMap<String, PathBuf>,
        /// On a hybrid host, the group in the hierarchy of version 2, which has no controllers.
        unified: Option<PathBuf>,
    },
    V2 {
        group: PathBuf,
    },
}

impl Cgroups {
    /// Those of the process `pid`. None: it has none of its own.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let memberships = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup"));
        Ok(Self::parse(
            &Version::detect()?,
            &memberships(pid)?,
            &memberships(process::id())?,
        ))
    }

    /// `its` and `own` are the /proc/<pid>/cgroup (cgroups(7)) of the container's process and of the shim.
    fn parse(version: &Version, its: &str, own: &str) -> Option<Self> {
        let own = memberships(own);
        let mut its = memberships(its);
        // Below the root, and not around the shim.
        its.retain(|hierarchy, path| {
            let around = own.get(hierarchy).is_some_and(|own| own.starts_with(&*path));
            path.starts_with("/") && path.parent().is_some() && !around && !path.iter().any(|part| part == "..")
        });
        let below = |root: &Path, path: &Path| Some(root.join(path.strip_prefix("/").ok()?));
        let unified = |root: &Path| below(root, its.get("")?);
        match version {
            Version::V2 { root } => Some(Self::V2 { group: unified(root)? }),
            Version::V1 {
                hierarchies,
                unified: v2,
            } => {
                let groups: BTreeMap<_, _> = hierarchies
                    .iter()
                    .filter_map(|(name, root)| Some((name.clone(), below(root, its.get(name)?)?)))
                    .collect();
                let unified = v2.as_deref().and_then(unified);
                (!groups.is_empty() || unified.is_some()).then_some(Self::V1 { groups, unified })
            }
        }
    }

    /// The group that has the controller `name`.
    pub fn with(&self, name: &str) -> Option<&Path> {
        match self {
            Self::V1 { groups, .. } => groups.get(name).map(PathBuf::as_path),
            Self::V2 { group } => Some(group),
        }
    }

    /// How further processes join them.
    pub fn for_execs(&self) -> Option<Groups> {
        let (groups, unified) = match self {
            Self::V2 { group } => {
                return Some(Groups {
                    home: group.clone(),
                    ..Groups::default()
                });
            }
            Self::V1 { groups, unified } => (groups, unified.as_ref()),
        };
        // Where version 2 is not mounted at all: any hierarchy tells who belongs together.
        let home = unified
            .or_else(|| groups.get("freezer"))
            .or_else(|| groups.values().next())?;
        // Several controllers may share one hierarchy.
        let joined: BTreeSet<_> = groups.values().filter(|group| *group != home).cloned().collect();
        Some(Groups {
            joined: joined.into_iter().collect(),
            freezer: groups.get("freezer").cloned(),
            home: home.clone(),
        })
    }

    fn directories(&self) -> BTreeSet<&Path> {
        match self {
            Self::V1 { groups, unified } => groups.values().chain(unified).map(PathBuf::as_path).collect(),
            Self::V2 { group } => [group.as_path()].into(),
        }
    }

    /// Every process in them and in the groups below. None when they are gone.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = BTreeSet::new();
        for directory in self.directories() {
            pids.extend(cgroup::processes(directory)?);
        }
        pids.remove(&process::id());
        Ok(pids.into_iter().collect())
    }

    /// Removes those that nothing is in any more. What has groups below it is left to the OCI runtime.
    pub fn remove(&self) {
        for directory in self.directories() {
            fs::remove_dir(directory).ok();
        }
    }

    /// Kills every process in them, those that are forked meanwhile, too, and frozen ones. Takes up to 2 s; whether all
    /// are gone then (one in an uninterruptible sleep is not).
    pub fn kill_all(&self) -> io::Result<bool> {
        let end = Instant::now() + PATIENCE;
        let at_once = matches!(self, Self::V2 { group } if fs::write(group.join("cgroup.kill"), "1").is_ok());
        let mut again = false;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            if !at_once {
                // What survives one round may be forking faster than it is killed, or be frozen.
                self.kill_each(&pids, again)?;
                again = true;
            }
            thread::sleep(PAUSE);
        }
    }

    fn kill_each(&self, pids: &[u32], frozen: bool) -> io::Result<()> {
        if !frozen {
            pids.iter().copied().for_each(kill);
            return Ok(());
        }
        self.freeze(true);
        let killed = self.pids().map(|pids| pids.into_iter().for_each(kill));
        self.freeze(false);
        killed
    }

    /// Freezes or thaws, if there is a freezer; not waited for.
    fn freeze(&self, frozen: bool) {
        let _no_freezer = match self {
            Self::V1 { groups, .. } => groups.get("freezer").map(|group| {
                let state = if frozen { "FROZEN" } else { "THAWED" };
                fs::write(group.join("freezer.state"), state)
            }),
            Self::V2 { group } => Some(fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" })),
        };
    }
}

/// Path by controller or name; the hierarchy of version 2 is the empty one.
fn memberships(text: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        if let (Some(names), Some(path)) = (fields.next(), fields.next()) {
            found.extend(names.split(',').map(|name| (name.to_owned(), PathBuf::from(path))));
        }
    }
    found
}

#[cfg(test)]
pub mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Groups of this host in every hierarchy that are gone after the test.
    pub struct Groups {
        version: Version,
        path: String,
        children: Vec<Child>,
    }

    impl Groups {
        #[allow(clippy::new_without_default)]
        pub fn new() -> Self {
            Self::at(format!("/berth-test-{}", &crate::model::Id::random().as_str()[..8]))
        }

        /// Groups below; they must go first.
        pub fn below(&self, name: &str) -> Self {
            Self::at(format!("{}/{name}", self.path))
        }

        fn at(path: String) -> Self {
            let version = Version::detect().unwrap();
            version.create(&path).unwrap();
            Self {
                version,
                path,
                children: Vec::new(),
            }
        }

        /// Lets them have `bytes` of memory, without swap where that can be said.
        pub fn limit(&self, bytes: u64) {
            let (root, limit, swap, none) = match &self.version {
                Version::V1 { hierarchies, .. } => (
                    &hierarchies["memory"],
                    "memory.limit_in_bytes",
                    "memory.memsw.limit_in_bytes",
                    bytes,
                ),
                Version::V2 { root } => (root, "memory.max", "memory.swap.max", 0),
            };
            let group = root.join(&self.path[1..]);
            fs::write(group.join(limit), bytes.to_string()).unwrap();
            if group.join(swap).exists() {
                fs::write(group.join(swap), none.to_string()).unwrap();
            }
        }

        /// Runs `script` in the groups, with their paths known.
        pub fn run(&mut self, script: &str) -> Cgroups {
            let roots: BTreeSet<_> = match &self.version {
                Version::V1 { hierarchies, .. } => hierarchies.values().cloned().collect(),
                Version::V2 { root } => [root.clone()].into(),
            };
            let join: String = roots
                .iter()
                .map(|root| format!("echo $$ > {}{}/cgroup.procs\n", root.display(), self.path))
                .collect();
            let child = Command::new("sh")
                .arg("-ec")
                .arg(format!("{join}{script}"))
                .spawn()
                .unwrap();
            let pid = child.id();
            self.children.push(child);
            let last = roots.last().unwrap().join(&self.path[1..]);
            let end = Instant::now() + Duration::from_secs(10);
            while !cgroup::processes(&last).unwrap().contains(&pid) {
                assert!(Instant::now() < end);
                thread::sleep(PAUSE);
            }
            Cgroups::of(pid).unwrap().unwrap()
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            for child in &mut self.children {
                child.kill().ok();
                child.wait().unwrap();
            }
            for pid in self.version.pids(&self.path).unwrap() {
                kill(pid.cast_unsigned());
            }
            self.version.remove(&self.path).unwrap();
        }
    }

    fn hybrid() -> Version {
        let hierarchies = ["cpu", "cpuacct", "memory", "name=systemd"]
            .map(|name| (name.to_owned(), Path::new("/sys/fs/cgroup").join(name)));
        Version::V1 {
            hierarchies: hierarchies.into(),
            unified: Some("/sys/fs/cgroup/unified".into()),
        }
    }

    #[test]
    fn a_container_has_the_groups_that_are_not_the_shims() {
        let own = "3:name=systemd:/system.slice/containerd.service\n2:memory:/\n1:cpu,cpuacct:/\n0::/\n";
        let its = "3:name=systemd:/system.slice/containerd.service\n2:memory:/k8s/c1\n1:cpu,cpuacct:/k8s/c1\n0::/\n";
        let groups = ["cpu", "cpuacct", "memory"]
            .map(|name| (name.to_owned(), Path::new("/sys/fs/cgroup").join(name).join("k8s/c1")));
        let expected = Cgroups::V1 {
            groups: groups.into(),
            unified: None,
        };
        let found = Cgroups::parse(&hybrid(), its, own).unwrap();
        assert_eq!(found, expected);
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Cgroups>(&json).unwrap(), found);
        assert_eq!(Cgroups::parse(&hybrid(), own, own), None);
        let around = "2:memory:/k8s\n";
        assert_eq!(Cgroups::parse(&hybrid(), around, "2:memory:/k8s/shim\n"), None);
        assert_eq!(Cgroups::parse(&hybrid(), "2:memory:/../other\n", own), None);
    }

    #[test]
    fn a_container_of_version_2_has_one_group() {
        let version = Version::V2 {
            root: "/sys/fs/cgroup".into(),
        };
        let group = PathBuf::from("/sys/fs/cgroup/k8s/c1");
        assert_eq!(
            Cgroups::parse(&version, "0::/k8s/c1\n", "0::/\n"),
            Some(Cgroups::V2 { group })
        );
        assert_eq!(Cgroups::parse(&version, "0::/\n", "0::/\n"), None);
    }

    #[test]
    fn every_process_is_listed_and_killed_though_they_ignore_signals_and_fork() {
        let mut groups = Groups::new();
        let cgroups = groups.run("trap '' TERM INT HUP; while true; do sleep 0.01 & sleep 0.02; done");
        assert!(!cgroups.pids().unwrap().is_empty());
        assert!(cgroups.kill_all().unwrap());
        assert_eq!(cgroups.pids().unwrap(), [0; 0]);
        drop(groups);
        assert_eq!(cgroups.pids().unwrap(), [0; 0]);
        assert!(cgroups.kill_all().unwrap());
    }

    #[test]
    fn frozen_processes_are_killed() {
        let mut groups = Groups::new();
        let cgroups = groups.run("sleep 60 & sleep 60");
        cgroups.freeze(true);
        assert!(cgroups.kill_all().unwrap());
    }
}
