//! Version 1 (Documentation/admin-guide/cgroup-v1 of the kernel).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::PathBuf;

use nix::unistd::{SysconfVar, sysconf};

use super::{Group, Keyed, rdma_line};
use crate::proto::shim::cgroup1::{
    BlkIoEntry, BlkIoStat, CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, RdmaEntry, RdmaStat, Throttle,
};

pub(super) fn metrics(groups: &BTreeMap<String, PathBuf>) -> Metrics {
    let group = |name: &str| groups.get(name).filter(|path| path.is_dir()).map(|path| Group(path));
    Metrics {
        hugetlb: group("hugetlb").map(hugetlb).unwrap_or_default(),
        pids: group("pids").map(pids),
        cpu: Some(CpuStat {
            usage: Some(group("cpuacct").map(cpu_usage).unwrap_or_default()),
            throttling: Some(group("cpu").map(throttling).unwrap_or_default()),
        }),
        memory: group("memory").map(memory),
        blkio: group("blkio").map(blkio),
        rdma: group("rdma").map(rdma),
        memory_oom_control: group("memory").map(oom_control),
        // The stock shim has neither.
        network: Vec::new(),
        cgroup_stats: None,
    }
}

fn hugetlb(group: Group<'_>) -> Vec<HugetlbStat> {
    let sizes = group.huge_pages("usage_in_bytes").into_iter();
    let figure = |size: &str, name: &str| group.number(&format!("hugetlb.{size}.{name}")).unwrap_or(0);
    sizes
        .map(|pagesize| HugetlbStat {
            usage: figure(&pagesize, "usage_in_bytes"),
            max: figure(&pagesize, "max_usage_in_bytes"),
            failcnt: figure(&pagesize, "failcnt"),
            pagesize,
        })
        .collect()
}

fn pids(group: Group<'_>) -> PidsStat {
    PidsStat {
        current: group.number("pids.current").unwrap_or(0),
        limit: group.number("pids.max").unwrap_or(0),
    }
}

fn cpu_usage(group: Group<'_>) -> CpuUsage {
    let ticks = group.keyed("cpuacct.stat");
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    let tick = 1_000_000_000 / hertz.map_or(100, |hertz| hertz.unsigned_abs().max(1));
    CpuUsage {
        total: group.number("cpuacct.usage").unwrap_or(0),
        kernel: ticks.get("system") * tick,
        user: ticks.get("user") * tick,
        per_cpu: group
            .text("cpuacct.usage_percpu")
            .split_whitespace()
            .filter_map(|time| time.parse().ok())
            .collect(),
    }
}

fn throttling(group: Group<'_>) -> Throttle {
    let stat = group.keyed("cpu.stat");
    Throttle {
        periods: stat.get("nr_periods"),
        throttled_periods: stat.get("nr_throttled"),
        throttled_time: stat.get("throttled_time"),
    }
}

fn memory(group: Group<'_>) -> MemoryStat {
    let figure = |module: &str, name: &str| group.number(&format!("memory{module}.{name}")).unwrap_or(0);
    let entry = |module: &str| {
        Some(MemoryEntry {
            limit: figure(module, "limit_in_bytes"),
            usage: figure(module, "usage_in_bytes"),
            max: figure(module, "max_usage_in_bytes"),
            failcnt: figure(module, "failcnt"),
        })
    };
    MemoryStat {
        usage: entry(""),
        swap: entry(".memsw"),
        kernel: entry(".kmem"),
        kernel_tcp: entry(".kmem.tcp"),
        ..memory_stat(&group.keyed("memory.stat"))
    }
}

fn memory_stat(stat: &Keyed) -> MemoryStat {
    MemoryStat {
        cache: stat.get("cache"),
        rss: stat.get("rss"),
        rss_huge: stat.get("rss_huge"),
        mapped_file: stat.get("mapped_file"),
        dirty: stat.get("dirty"),
        writeback: stat.get("writeback"),
        pg_pg_in: stat.get("pgpgin"),
        pg_pg_out: stat.get("pgpgout"),
        pg_fault: stat.get("pgfault"),
        pg_maj_fault: stat.get("pgmajfault"),
        inactive_anon: stat.get("inactive_anon"),
        active_anon: stat.get("active_anon"),
        inactive_file: stat.get("inactive_file"),
        active_file: stat.get("active_file"),
        unevictable: stat.get("unevictable"),
        hierarchical_memory_limit: stat.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: stat.get("hierarchical_memsw_limit"),
        total_cache: stat.get("total_cache"),
        total_rss: stat.get("total_rss"),
        total_rss_huge: stat.get("total_rss_huge"),
        total_mapped_file: stat.get("total_mapped_file"),
        total_dirty: stat.get("total_dirty"),
        total_writeback: stat.get("total_writeback"),
        total_pg_pg_in: stat.get("total_pgpgin"),
        total_pg_pg_out: stat.get("total_pgpgout"),
        total_pg_fault: stat.get("total_pgfault"),
        total_pg_maj_fault: stat.get("total_pgmajfault"),
        total_inactive_anon: stat.get("total_inactive_anon"),
        total_active_anon: stat.get("total_active_anon"),
        total_inactive_file: stat.get("total_inactive_file"),
        total_active_file: stat.get("total_active_file"),
        total_unevictable: stat.get("total_unevictable"),
        ..Default::default()
    }
}

fn oom_control(group: Group<'_>) -> MemoryOomControl {
    let control = group.keyed("memory.oom_control");
    MemoryOomControl {
        oom_kill_disable: control.get("oom_kill_disable"),
        under_oom: control.get("under_oom"),
        oom_kill: control.get("oom_kill"),
    }
}

/// The figures of a proportional scheduler where there are any, else those of throttling, which every device has.
fn blkio(group: Group<'_>) -> BlkIoStat {
    let devices = devices(&fs::read_to_string("/proc/partitions").unwrap_or_default());
    let entries = |name: &str| entries(&group.text(&format!("blkio.{name}")), &devices);
    let stat = BlkIoStat {
        io_service_bytes_recursive: entries("io_service_bytes_recursive"),
        io_serviced_recursive: entries("io_serviced_recursive"),
        io_queued_recursive: entries("io_queued_recursive"),
        io_service_time_recursive: entries("io_service_time_recursive"),
        io_wait_time_recursive: entries("io_wait_time_recursive"),
        io_merged_recursive: entries("io_merged_recursive"),
        io_time_recursive: entries("time_recursive"),
        sectors_recursive: entries("sectors_recursive"),
    };
    if stat != BlkIoStat::default() {
        return stat;
    }
    BlkIoStat {
        io_service_bytes_recursive: entries("throttle.io_service_bytes"),
        io_serviced_recursive: entries("throttle.io_serviced"),
        ..Default::default()
    }
}

/// Names by number, from /proc/partitions (proc(5)).
fn devices(partitions: &str) -> HashMap<(u64, u64), String> {
    let mut found = HashMap::new();
    for line in partitions.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [major, minor, _blocks, name] = words[..]
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            found.entry((major, minor)).or_insert_with(|| format!("/dev/{name}"));
        }
    }
    found
}

/// Lines such as `8:0 Read 4096` or `8:0 17`; that of the total of all devices is left off.
fn entries(text: &str, devices: &HashMap<(u64, u64), String>) -> Vec<BlkIoEntry> {
    let entry = |line: &str| {
        let (number, rest) = line.split_once(' ')?;
        let (major, minor) = number.split_once(':')?;
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        let (op, value) = rest.rsplit_once(' ').unwrap_or(("", rest));
        Some(BlkIoEntry {
            op: op.to_owned(),
            device: devices.get(&(major, minor)).cloned().unwrap_or_default(),
            major,
            minor,
            value: value.trim().parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_devices_have_their_names_and_operations() {
        let partitions = "major minor  #blocks  name\n\n   8        0   1000 sda\n   8        1   999 sda1\n";
        let devices = devices(partitions);
        let text = "8:0 Read 4096\n8:0 Total 4096\n8:1 17\n259:0 Write 3\nTotal 4099\n";
        let entries: Vec<_> = entries(text, &devices)
            .into_iter()
            .map(|entry| (entry.device, entry.op, entry.major, entry.minor, entry.value))
            .collect();
        let expected = [
            ("/dev/sda", "Read", 8, 0, 4096),
            ("/dev/sda", "Total", 8, 0, 4096),
            ("/dev/sda1", "", 8, 1, 17),
            ("", "Write", 259, 0, 3),
        ];
        let expected =
            expected.map(|(device, op, major, minor, value)| (device.to_owned(), op.to_owned(), major, minor, value));
        assert_eq!(entries, expected);
    }

    #[test]
    fn every_file_of_a_group_finds_its_figure() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            (
                "memory.stat",
                "cache 1\npgpgin 2\nhierarchical_memsw_limit 3\ntotal_active_file 4\n",
            ),
            ("memory.usage_in_bytes", "5\n"),
            ("memory.memsw.failcnt", "6\n"),
            ("memory.kmem.tcp.limit_in_bytes", "9223372036854771712\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 7\n"),
            ("cpuacct.stat", "user 200\nsystem 100\n"),
            ("cpuacct.usage", "3000000001\n"),
            ("cpuacct.usage_percpu", "1 2 \n"),
            ("cpu.stat", "nr_periods 8\nnr_throttled 9\nthrottled_time 10\n"),
            ("pids.current", "11\n"),
            ("pids.max", "max\n"),
            ("hugetlb.2MB.usage_in_bytes", "12\n"),
            ("rdma.current", "mlx4_0 hca_handle=1 hca_object=2\n"),
        ];
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let names = ["memory", "cpu", "cpuacct", "pids", "hugetlb", "rdma", "blkio"];
        let metrics = metrics(&names.map(|name| (name.to_owned(), directory.path().to_owned())).into());
        let memory = metrics.memory.unwrap();
        assert_eq!(
            (memory.cache, memory.pg_pg_in, memory.hierarchical_swap_limit),
            (1, 2, 3)
        );
        assert_eq!((memory.total_active_file, memory.usage.unwrap().usage), (4, 5));
        assert_eq!(
            (memory.swap.unwrap().failcnt, memory.kernel_tcp.unwrap().limit),
            (6, 0x7fff_ffff_ffff_f000)
        );
        assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 7);
        let cpu = metrics.cpu.unwrap();
        let usage = cpu.usage.unwrap();
        assert_eq!((usage.user, usage.kernel), (2_000_000_000, 1_000_000_000));
        assert_eq!((usage.total, usage.per_cpu), (3_000_000_001, vec![1, 2]));
        assert_eq!(cpu.throttling.unwrap().throttled_time, 10);
        assert_eq!(metrics.pids.unwrap(), PidsStat { current: 11, limit: 0 });
        assert_eq!(
            (metrics.hugetlb[0].pagesize.as_str(), metrics.hugetlb[0].usage),
            ("2MB", 12)
        );
        assert_eq!(metrics.rdma.unwrap().current[0].hca_objects, 2);
    }
}
