//! What a helper that was killed has left: programs in groups of their own that bear its pid.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::leaf::{Leaf, PREFIX};
use crate::sys::cgroup::Version;
use crate::sys::process;

/// How long the dying may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills the execs of the helper that had the pid `helper`, and removes their groups. Takes up to 2 s.
pub fn sweep(helper: u32) {
    let Ok(version) = Version::detect() else { return };
    let end = Instant::now() + PATIENCE;
    let mut leaves: Vec<Leaf> = groups(&version, helper)
        .iter()
        .filter_map(|group| {
            let parent = File::open(group.parent()?).ok()?;
            Leaf::open(parent.into(), group.file_name()?.to_str()?).ok()
        })
        .collect();
    loop {
        leaves.iter().for_each(Leaf::kill);
        leaves.retain(|leaf| !leaf.remove());
        if leaves.is_empty() || Instant::now() > end {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The groups of a helper's execs in which there is somebody.
fn groups(version: &Version, helper: u32) -> BTreeSet<PathBuf> {
    let name = format!("{PREFIX}{helper}-");
    let mut groups = BTreeSet::new();
    for pid in process::all() {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
            continue;
        };
        for line in text.lines() {
            if let Some(group) = group(version, line, &name) {
                groups.insert(group);
            }
        }
    }
    groups
}

/// The directory of a line of /proc/<pid>/cgroup (cgroups(7)) if a part of its path begins with `name`.
fn group(version: &Version, line: &str, name: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (hierarchy, path) = (fields.next()?, Path::new(fields.next()?));
    let leaf = path.ancestors().find(|part| {
        let last = part.file_name().and_then(|last| last.to_str());
        last.is_some_and(|last| last.starts_with(name))
    })?;
    let root = match version {
        Version::V2 { root } => Some(root),
        Version::V1 { unified, .. } if hierarchy.is_empty() => unified.as_ref(),
        Version::V1 { hierarchies, .. } => hierarchy.split(',').find_map(|name| hierarchies.get(name)),
    }?;
    Some(root.join(leaf.strip_prefix("/").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_helper_are_found_by_their_names() {
        let version = Version::V1 {
            hierarchies: [("freezer".to_owned(), "/f".into())].into(),
            unified: Some("/u".into()),
        };
        let group = |line| group(&version, line, "berth-exec-7-");
        assert_eq!(
            group("0::/pod/c/berth-exec-7-3"),
            Some("/u/pod/c/berth-exec-7-3".into())
        );
        assert_eq!(group("0::/c/berth-exec-7-3/below"), Some("/u/c/berth-exec-7-3".into()));
        assert_eq!(group("6:freezer:/c/berth-exec-7-3"), Some("/f/c/berth-exec-7-3".into()));
        for other in [
            "0::/c/berth-exec-77-3",
            "0::/c",
            "5:memory:/c/berth-exec-7-3",
            "0::/",
            "nonsense",
        ] {
            assert_eq!(group(other), None, "{other}");
        }
    }
}
