//! Control groups of both versions, by their path in cgroupfs syntax: `/berth-1a2b3c/pod4d5e` from the root.
//!
//! Every operation works on all hierarchies alike, so that its callers need not know the version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::mount;

/// How the kernel offers control groups here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    V1 {
        /// Mount point by controller (`memory`) or name (`name=systemd`). Controllers may share one.
        hierarchies: BTreeMap<String, PathBuf>,
        /// The mount of version 2 beside them, on a hybrid host. No limits live there, but an OCI runtime may make
        /// groups in it.
        unified: Option<PathBuf>,
    },
    V2 {
        root: PathBuf,
    },
}

/// How long a removal waits for dying processes to leave.
const PATIENCE: [u64; 8] = [1, 2, 5, 10, 30, 80, 200, 400];

impl Version {
    /// What this host has. Any mounted hierarchy of version 1 makes it version 1.
    pub fn detect() -> io::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup file system is mounted"))
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let mut hierarchies = BTreeMap::new();
        let mut unified = None;
        for line in mount::parse_mountinfo(mountinfo) {
            let point = PathBuf::from(line.point);
            match line.fs_type.as_str() {
                "cgroup" => {
                    for name in line.super_options.split(',').filter(|option| names_hierarchy(option)) {
                        hierarchies.entry(name.to_owned()).or_insert_with(|| point.clone());
                    }
                }
                "cgroup2" => {
                    unified.get_or_insert(point);
                }
                _ => {}
            }
        }
        if hierarchies.is_empty() {
            Some(Self::V2 { root: unified? })
        } else {
            Some(Self::V1 { hierarchies, unified })
        }
    }

    /// Whether containers' cgroups have the controller `name`.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Self::V1 { hierarchies, .. } => hierarchies.contains_key(name),
            Self::V2 { root } => fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|controllers| controllers.split_whitespace().any(|controller| controller == name)),
        }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }

    /// Makes the group and those above it wherever limits live. Fine when it exists.
    pub fn create(&self, path: &str) -> io::Result<()> {
        let path = checked(path)?;
        match self {
            Self::V1 { hierarchies, .. } => {
                let cpuset = hierarchies.get("cpuset");
                let roots: BTreeSet<_> = hierarchies.values().collect();
                roots
                    .into_iter()
                    .try_for_each(|root| create_v1(root, &path, Some(root) == cpuset))
            }
            Self::V2 { root } => create_v2(root, &path),
        }
    }

    /// Whether the group is in any hierarchy.
    pub fn exists(&self, path: &str) -> io::Result<bool> {
        let path = checked(path)?;
        Ok(self.roots().iter().any(|root| root.join(&path).is_dir()))
    }

    /// Removes the group and all below it from every hierarchy. Fine when it is gone. Its processes must have been
    /// killed; those that are still dying are waited for, up to a second.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let path = checked(path)?;
        // Every hierarchy is tried, whatever happens in another.
        let results: Vec<_> = self.roots().iter().map(|root| remove_tree(&root.join(&path))).collect();
        results.into_iter().collect()
    }

    /// How many processes of the group the kernel has killed for memory. None: the group is gone.
    pub fn oom_kills(&self, path: &str) -> io::Result<Option<u64>> {
        let path = checked(path)?;
        let file = match self {
            Self::V1 { hierarchies, .. } => match hierarchies.get("memory") {
                Some(root) => root.join(path).join("memory.oom_control"),
                None => return Ok(None),
            },
            Self::V2 { root } => root.join(path).join("memory.events"),
        };
        Ok(read_if_there(&file)?.and_then(|text| oom_kill_line(&text)))
    }

    /// Every process in the group and in those below it.
    pub fn pids(&self, path: &str) -> io::Result<BTreeSet<i32>> {
        let path = checked(path)?;
        let mut pids = BTreeSet::new();
        for root in self.roots() {
            collect_pids(&root.join(&path), &mut pids)?;
        }
        Ok(pids)
    }

    /// The names of the groups right below the group, in any hierarchy. Empty when it is gone.
    pub fn children(&self, path: &str) -> io::Result<BTreeSet<String>> {
        let path = checked(path)?;
        let mut names = BTreeSet::new();
        for root in self.roots() {
            let below = subdirectories(&root.join(&path))?.into_iter();
            names.extend(below.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())));
        }
        Ok(names)
    }

    /// Every mount point, the unified one of a hybrid host included.
    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = match self {
            Self::V1 { hierarchies, unified } => hierarchies.values().chain(unified).map(PathBuf::as_path).collect(),
            Self::V2 { root } => vec![root],
        };
        roots.sort();
        roots.dedup();
        roots
    }
}

/// Whether a mount option of a version 1 hierarchy is one of its controllers or its name (cgroups(7)).
fn names_hierarchy(option: &str) -> bool {
    let other = [
        "rw",
        "ro",
        "none",
        "clone_children",
        "cpuset_v2_mode",
        "favordynmods",
        "noprefix",
        "xattr",
    ];
    !other.contains(&option) && !option.starts_with("release_agent=")
}

/// `path` relative to a mount point. Refuses the root itself and what could lead out of it.
fn checked(path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if relative.as_os_str().is_empty() || !plain {
        let reason = format!("{path:?} is not the path of a cgroup below the root");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(relative.to_owned())
}

fn create_v1(root: &Path, path: &Path, cpuset: bool) -> io::Result<()> {
    let mut group = root.to_owned();
    for part in path.components() {
        let parent = group.clone();
        group.push(part);
        create_directory(&group)?;
        if cpuset {
            // A new group may use no CPU at all (cpuset(7)), and nothing can join it before it may.
            inherit(&parent, &group, "cpuset.cpus")?;
            inherit(&parent, &group, "cpuset.mems")?;
        }
    }
    Ok(())
}

fn inherit(parent: &Path, group: &Path, file: &str) -> io::Result<()> {
    if fs::read_to_string(group.join(file))?.trim().is_empty() {
        fs::write(group.join(file), fs::read_to_string(parent.join(file))?.trim())?;
    }
    Ok(())
}

fn create_v2(root: &Path, path: &Path) -> io::Result<()> {
    let mut group = root.to_owned();
    for part in path.components() {
        enable_controllers(&group)?;
        group.push(part);
        create_directory(&group)?;
    }
    enable_controllers(&group)
}

/// Lets the groups below `group` have every controller that it has. One that the kernel refuses (a threaded one, or
/// cpu beside real-time processes) is left off: the limit that needs it will say so.
fn enable_controllers(group: &Path) -> io::Result<()> {
    let offered = fs::read_to_string(group.join("cgroup.controllers"))?;
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control"))?;
    for controller in offered.split_whitespace() {
        if !enabled.split_whitespace().any(|name| name == controller) {
            let _refused = fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    Ok(())
}

fn create_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in subdirectories(group)? {
        remove_tree(&child)?;
    }
    for pause in PATIENCE {
        match remove_directory(group) {
            Err(Errno::EBUSY) => thread::sleep(Duration::from_millis(pause)),
            result => return Ok(result?),
        }
    }
    remove_directory(group)
        .map_err(|errno| io::Error::new(io::Error::from(errno).kind(), format!("{}: {errno}", group.display())))
}

fn remove_directory(group: &Path) -> Result<(), Errno> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        }
        _ => Ok(()),
    }
}

/// Every process in the group at the directory `group` and in those below it. None when it is gone.
pub fn processes(group: &Path) -> io::Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    collect_pids(group, &mut pids)?;
    Ok(pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()).collect())
}

fn collect_pids(group: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    if let Some(text) = read_if_there(&group.join("cgroup.procs"))? {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    subdirectories(group)?
        .iter()
        .try_for_each(|child| collect_pids(child, pids))
}

/// The directories right below `group`; none when it is gone.
fn subdirectories(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut directories = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

/// The text of a file of a group; None when the group is gone, be it while we read.
pub fn read_if_there(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The count of kills in `memory.oom_control` or `memory.events`; None on a kernel that does not count (before 4.13).
pub fn oom_kill_line(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A group of this host that is gone after the test.
    struct Group {
        version: Version,
        path: String,
    }

    impl Group {
        fn new() -> Self {
            Self {
                version: Version::detect().unwrap(),
                path: format!("/berth-test-{}", &crate::model::Id::random().as_str()[..8]),
            }
        }

        fn below(&self, name: &str) -> String {
            format!("{}/{name}", self.path)
        }

        /// A process in the group `path`.
        fn sleeper(&self, path: &str) -> Child {
            let child = Command::new("sleep").arg("60").spawn().unwrap();
            let root = match &self.version {
                Version::V1 { hierarchies, .. } => &hierarchies["memory"],
                Version::V2 { root } => root,
            };
            fs::write(
                root.join(checked(path).unwrap()).join("cgroup.procs"),
                child.id().to_string(),
            )
            .unwrap();
            child
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            self.version.remove(&self.path).unwrap();
        }
    }

    const HYBRID: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_hybrid_host_is_version_1() {
        let at = |name: &str| PathBuf::from("/sys/fs/cgroup").join(name);
        let hierarchies = BTreeMap::from([
            ("cpu".to_owned(), at("cpu,cpuacct")),
            ("cpuacct".to_owned(), at("cpu,cpuacct")),
            ("memory".to_owned(), at("memory")),
            ("name=systemd".to_owned(), at("systemd")),
        ]);
        let unified = Some(at("unified"));
        let version = Version::parse(HYBRID).unwrap();
        assert_eq!(version, Version::V1 { hierarchies, unified });
        assert_eq!(version.roots().len(), 4);
    }

    #[test]
    fn a_host_with_version_2_alone_is_version_2() {
        let table = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let root = PathBuf::from("/sys/fs/cgroup");
        assert_eq!(Version::parse(table), Some(Version::V2 { root }));
        assert_eq!(Version::parse("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn the_root_and_ways_out_of_it_are_refused() {
        let version = Version::V2 {
            root: "/nowhere".into(),
        };
        for path in ["", "/", "//", "/..", "/a/../..", "/../a", "."] {
            let error = version.remove(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert_eq!(checked("/a/b").unwrap(), Path::new("a/b"));
    }

    #[test]
    fn the_count_of_kills_is_found_in_both_versions() {
        assert_eq!(oom_kill_line("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(oom_kill_line(events), Some(1));
        assert_eq!(oom_kill_line("oom_kill_disable 0\n"), None);
    }

    #[test]
    fn a_group_is_made_listed_and_removed_with_all_below_it() {
        let group = Group::new();
        let (version, pod) = (&group.version, group.below("pod1"));
        assert!(!version.exists(&pod).unwrap());
        assert!(version.children(&group.path).unwrap().is_empty());
        version.create(&pod).unwrap();
        version.create(&pod).unwrap();
        version.create(&group.below("pod2/deep")).unwrap();
        assert!(version.exists(&pod).unwrap());
        let children = BTreeSet::from(["pod1".to_owned(), "pod2".to_owned()]);
        assert_eq!(version.children(&group.path).unwrap(), children);
        assert_eq!(version.oom_kills(&pod).unwrap(), Some(0));
        version.remove(&group.path).unwrap();
        version.remove(&group.path).unwrap();
        assert!(!version.exists(&group.path).unwrap());
        assert_eq!(version.oom_kills(&pod).unwrap(), None);
    }

    #[test]
    fn a_group_waits_for_its_dying_process_and_refuses_a_living_one() {
        let group = Group::new();
        let pod = group.below("pod");
        group.version.create(&pod).unwrap();
        let mut child = group.sleeper(&pod);
        assert_eq!(
            group.version.pids(&group.path).unwrap(),
            BTreeSet::from([child.id() as i32])
        );
        assert!(group.version.remove(&pod).is_err());
        child.kill().unwrap();
        child.wait().unwrap();
        group.version.remove(&pod).unwrap();
    }

    #[test]
    fn a_new_group_of_version_1_may_use_every_processor() {
        let group = Group::new();
        group.version.create(&group.below("pod")).unwrap();
        if let Version::V1 { hierarchies, .. } = &group.version {
            let group = hierarchies["cpuset"].join(checked(&group.below("pod")).unwrap());
            assert!(!fs::read_to_string(group.join("cpuset.cpus")).unwrap().trim().is_empty());
            assert!(!fs::read_to_string(group.join("cpuset.mems")).unwrap().trim().is_empty());
        }
    }
}
