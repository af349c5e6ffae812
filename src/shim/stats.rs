//! The figures of a container, read from its control groups as containerd's stock shim does (containerd/cgroups).
//!
//! What a kernel does not offer is zero; a file that goes away with its group while it is read is, too.

mod v1;
mod v2;

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use prost_types::Any;

use super::cgroups::Cgroups;
use crate::proto::shim::pack;
use crate::sys::cgroup::read_if_there;

/// `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`, by what the host has. The error is NotFound
/// when the groups are gone.
pub fn metrics(cgroups: &Cgroups) -> io::Result<Any> {
    let gone = || io::Error::new(ErrorKind::NotFound, "the container's cgroup is gone");
    match cgroups {
        Cgroups::V1 { groups, .. } => {
            let there = groups.values().any(|group| group.is_dir());
            there.then(|| pack(&v1::metrics(groups))).ok_or_else(gone)
        }
        Cgroups::V2 { group } => group.is_dir().then(|| pack(&v2::metrics(group))).ok_or_else(gone),
    }
}

/// A group's directory.
#[derive(Clone, Copy)]
struct Group<'a>(&'a Path);

impl Group<'_> {
    fn text(self, file: &str) -> String {
        read_if_there(&self.0.join(file)).ok().flatten().unwrap_or_default()
    }

    /// A file with one number; None for `max` and what is not there.
    fn number(self, file: &str) -> Option<u64> {
        self.text(file).trim().parse().ok()
    }

    fn keyed(self, file: &str) -> Keyed {
        Keyed::parse(&self.text(file))
    }

    /// The sizes of huge pages that it has files `hugetlb.<size>.<suffix>` for, such as 2MB.
    fn huge_pages(self, suffix: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut sizes: Vec<_> = names.filter_map(|name| huge_page(&name, suffix)).collect();
        sizes.sort();
        sizes
    }
}

fn huge_page(name: &str, suffix: &str) -> Option<String> {
    let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?.strip_suffix('.')?;
    (!size.contains('.')).then(|| size.to_owned())
}

/// A file of lines with a name and a number.
#[derive(Default)]
struct Keyed(HashMap<String, u64>);

impl Keyed {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A line of rdma.current or rdma.max: `mlx4_0 hca_handle=2 hca_object=max`. The device, handles and objects.
fn rdma_line(line: &str) -> Option<(String, u32, u32)> {
    let mut words = line.split_whitespace();
    let device = words.next()?.to_owned();
    let (mut handles, mut objects) = (0, 0);
    for word in words {
        let (name, value) = word.split_once('=')?;
        let value = if value == "max" { u32::MAX } else { value.parse().ok()? };
        match name {
            "hca_handle" => handles = value,
            "hca_object" => objects = value,
            _ => {}
        }
    }
    Some((device, handles, objects))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::super::cgroups::tests::Groups;
    use super::*;
    use crate::proto::shim::{cgroup1, cgroup2, unpack};

    #[test]
    fn the_figures_of_a_running_process_are_read_until_its_groups_are_gone() {
        let mut groups = Groups::new();
        let cgroups = groups.run("while true; do :; done");
        thread::sleep(Duration::from_millis(200));
        let any = metrics(&cgroups).unwrap();
        let (cpu, memory, pids) = match &cgroups {
            Cgroups::V1 { .. } => {
                let metrics: cgroup1::Metrics = unpack(&any).unwrap().unwrap();
                let cpu = metrics.cpu.unwrap().usage.unwrap();
                assert!(
                    cpu.total >= 50_000_000 && cpu.per_cpu.iter().sum::<u64>() > 0,
                    "{cpu:?}"
                );
                assert!(metrics.blkio.is_some() && metrics.memory_oom_control.is_some());
                let memory = metrics.memory.unwrap().usage.unwrap();
                (cpu.total, memory, metrics.pids.unwrap().current)
            }
            Cgroups::V2 { .. } => {
                let metrics: cgroup2::Metrics = unpack(&any).unwrap().unwrap();
                let usage = metrics.memory.unwrap().usage;
                let memory = cgroup1::MemoryEntry {
                    usage,
                    max: usage,
                    limit: u64::MAX,
                    failcnt: 0,
                };
                (
                    metrics.cpu.unwrap().usage_usec * 1000,
                    memory,
                    metrics.pids.unwrap().current,
                )
            }
        };
        assert!(cpu >= 50_000_000, "{cpu} ns");
        assert!(
            memory.usage > 0 && memory.max >= memory.usage && memory.limit > 1 << 40,
            "{memory:?}"
        );
        assert_eq!(pids, 1);
        drop(groups);
        assert_eq!(metrics(&cgroups).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn lines_that_are_not_figures_are_passed_over() {
        let keyed = Keyed::parse("cache 5\nrss x\n\nnothing\noom_kill 18446744073709551615\n");
        assert_eq!(
            (keyed.get("cache"), keyed.get("rss"), keyed.get("oom_kill")),
            (5, 0, u64::MAX)
        );
        assert_eq!(
            rdma_line("mlx4_0 hca_handle=2 hca_object=max"),
            Some(("mlx4_0".to_owned(), 2, u32::MAX))
        );
        assert_eq!((rdma_line(""), rdma_line("mlx4_0 hca_handle=x")), (None, None));
    }

    #[test]
    fn huge_pages_are_known_by_their_files() {
        assert_eq!(
            huge_page("hugetlb.2MB.usage_in_bytes", "usage_in_bytes"),
            Some("2MB".to_owned())
        );
        assert_eq!(huge_page("hugetlb.1GB.current", "current"), Some("1GB".to_owned()));
        assert_eq!(huge_page("hugetlb.2MB.rsvd.usage_in_bytes", "usage_in_bytes"), None);
        assert_eq!(huge_page("memory.usage_in_bytes", "usage_in_bytes"), None);
    }
}
