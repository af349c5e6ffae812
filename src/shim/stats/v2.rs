//! Version 2 (Documentation/admin-guide/cgroup-v2.rst of the kernel).

use std::path::Path;

use super::{Group, Keyed, rdma_line};
use crate::proto::shim::cgroup2::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData, PsiStats, RdmaEntry,
    RdmaStat,
};

pub(super) fn metrics(group: &Path) -> Metrics {
    let group = Group(group);
    let events = group.keyed("memory.events");
    Metrics {
        pids: Some(PidsStat {
            current: amount(group, "pids.current"),
            limit: amount(group, "pids.max"),
        }),
        cpu: Some(cpu(group)),
        memory: Some(memory(group)),
        rdma: Some(rdma(group)),
        io: Some(IoStat {
            usage: group.text("io.stat").lines().filter_map(io_line).collect(),
            psi: pressure(&group.text("io.pressure")),
        }),
        hugetlb: hugetlb(group),
        memory_events: (!events.is_empty()).then(|| MemoryEvents {
            low: events.get("low"),
            high: events.get("high"),
            max: events.get("max"),
            oom: events.get("oom"),
            oom_kill: events.get("oom_kill"),
        }),
    }
}

/// A number, or 2^64 - 1 for `max`.
fn amount(group: Group<'_>, file: &str) -> u64 {
    let text = group.text(file);
    if text.trim() == "max" {
        u64::MAX
    } else {
        text.trim().parse().unwrap_or(0)
    }
}

fn cpu(group: Group<'_>) -> CpuStat {
    let stat = group.keyed("cpu.stat");
    CpuStat {
        usage_usec: stat.get("usage_usec"),
        user_usec: stat.get("user_usec"),
        system_usec: stat.get("system_usec"),
        nr_periods: stat.get("nr_periods"),
        nr_throttled: stat.get("nr_throttled"),
        throttled_usec: stat.get("throttled_usec"),
        psi: pressure(&group.text("cpu.pressure")),
    }
}

fn memory(group: Group<'_>) -> MemoryStat {
    MemoryStat {
        usage: amount(group, "memory.current"),
        usage_limit: amount(group, "memory.max"),
        swap_usage: amount(group, "memory.swap.current"),
        swap_limit: amount(group, "memory.swap.max"),
        max_usage: amount(group, "memory.peak"),
        swap_max_usage: amount(group, "memory.swap.peak"),
        psi: pressure(&group.text("memory.pressure")),
        ..memory_stat(&group.keyed("memory.stat"))
    }
}

fn memory_stat(stat: &Keyed) -> MemoryStat {
    MemoryStat {
        anon: stat.get("anon"),
        file: stat.get("file"),
        kernel_stack: stat.get("kernel_stack"),
        slab: stat.get("slab"),
        sock: stat.get("sock"),
        shmem: stat.get("shmem"),
        file_mapped: stat.get("file_mapped"),
        file_dirty: stat.get("file_dirty"),
        file_writeback: stat.get("file_writeback"),
        anon_thp: stat.get("anon_thp"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        slab_reclaimable: stat.get("slab_reclaimable"),
        slab_unreclaimable: stat.get("slab_unreclaimable"),
        pgfault: stat.get("pgfault"),
        pgmajfault: stat.get("pgmajfault"),
        workingset_refault: stat.get("workingset_refault"),
        workingset_activate: stat.get("workingset_activate"),
        workingset_nodereclaim: stat.get("workingset_nodereclaim"),
        pgrefill: stat.get("pgrefill"),
        pgscan: stat.get("pgscan"),
        pgsteal: stat.get("pgsteal"),
        pgactivate: stat.get("pgactivate"),
        pgdeactivate: stat.get("pgdeactivate"),
        pglazyfree: stat.get("pglazyfree"),
        pglazyfreed: stat.get("pglazyfreed"),
        thp_fault_alloc: stat.get("thp_fault_alloc"),
        thp_collapse_alloc: stat.get("thp_collapse_alloc"),
        ..Default::default()
    }
}

/// A line of io.stat: `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn io_line(line: &str) -> Option<IoEntry> {
    let mut words = line.split_whitespace();
    let (major, minor) = words.next()?.split_once(':')?;
    let mut entry = IoEntry {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        ..Default::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let Ok(value) = value.parse() else { continue };
        match name {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// A file of pressure stall information, two lines such as `some avg10=0.12 avg60=0.00 avg300=0.00 total=1234`; the
/// second begins with `full`. None when the kernel has none.
fn pressure(text: &str) -> Option<PsiStats> {
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let mut data = PsiData::default();
        for (name, value) in line.split_whitespace().filter_map(|word| word.split_once('=')) {
            match name {
                "avg10" => data.avg10 = value.parse().ok()?,
                "avg60" => data.avg60 = value.parse().ok()?,
                "avg300" => data.avg300 = value.parse().ok()?,
                "total" => data.total = value.parse().ok()?,
                _ => {}
            }
        }
        Some(data)
    };
    let (some, full) = (line("some "), line("full "));
    (some.is_some() || full.is_some()).then_some(PsiStats { some, full })
}

fn rdma(group: Group<'_>) -> RdmaStat {
    let entry = |(device, hca_handles, hca_objects)| RdmaEntry {
        device,
        hca_handles,
        hca_objects,
    };
    let entries = |file: &str| group.text(file).lines().filter_map(rdma_line).map(entry).collect();
    RdmaStat {
        current: entries("rdma.current"),
        limit: entries("rdma.max"),
    }
}

fn hugetlb(group: Group<'_>) -> Vec<HugeTlbStat> {
    let sizes = group.huge_pages("current").into_iter();
    sizes
        .map(|pagesize| HugeTlbStat {
            current: amount(group, &format!("hugetlb.{pagesize}.current")),
            max: amount(group, &format!("hugetlb.{pagesize}.max")),
            pagesize,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_file_of_a_group_finds_its_figure() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            (
                "cpu.stat",
                "usage_usec 1\nuser_usec 2\nsystem_usec 3\nthrottled_usec 4\n",
            ),
            ("cpu.pressure", "some avg10=0.12 avg60=1.50 avg300=2.00 total=1234\n"),
            ("memory.stat", "anon 5\nfile 6\nworkingset_nodereclaim 7\n"),
            ("memory.current", "8\n"),
            ("memory.max", "max\n"),
            ("memory.swap.max", "9\n"),
            ("memory.events", "low 0\nhigh 0\nmax 10\noom 11\noom_kill 12\n"),
            ("pids.current", "13\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "8:0 rbytes=14 wbytes=15 rios=16 wios=17 dbytes=0 dios=0\n8:16 \nrubbish\n",
            ),
            ("rdma.max", "mlx4_0 hca_handle=max hca_object=18\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.max", "max\n"),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let metrics = metrics(directory.path());
        let cpu = metrics.cpu.unwrap();
        assert_eq!(
            (cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.throttled_usec),
            (1, 2, 3, 4)
        );
        let some = cpu.psi.unwrap().some.unwrap();
        assert!((some.avg60 - 1.5).abs() < 0.001 && some.total == 1234, "{some:?}");
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.anon, memory.file, memory.workingset_nodereclaim), (5, 6, 7));
        assert_eq!((memory.usage, memory.usage_limit, memory.swap_limit), (8, u64::MAX, 9));
        assert_eq!((memory.max_usage, memory.psi), (0, None));
        let events = metrics.memory_events.unwrap();
        assert_eq!((events.max, events.oom, events.oom_kill), (10, 11, 12));
        assert_eq!(
            metrics.pids.unwrap(),
            PidsStat {
                current: 13,
                limit: u64::MAX
            }
        );
        let io = metrics.io.unwrap().usage;
        assert_eq!((io.len(), io[0].rbytes, io[0].wios, io[1].minor), (2, 14, 17, 16));
        let limit = &metrics.rdma.unwrap().limit[0];
        assert_eq!((limit.hca_handles, limit.hca_objects), (u32::MAX, 18));
        assert_eq!(
            (metrics.hugetlb[0].pagesize.as_str(), metrics.hugetlb[0].max),
            ("1GB", u64::MAX)
        );
    }
}
