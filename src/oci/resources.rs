//! Limits: CRI's resources as the OCI runtime spec has them, with their ranges checked.

use std::ops::RangeInclusive;

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimitBuilder, LinuxMemory, LinuxResources};

use super::{Host, Note, resource_field};
use crate::model::Refusal;
use crate::model::resources::Resources;

/// What the kernel takes as `cpu.shares` (cgroup v1); runtimes convert it to a weight for v2.
const SHARES: RangeInclusive<i64> = 2..=262_144;
/// Microseconds that the kernel takes as a CFS period.
const PERIOD: RangeInclusive<i64> = 1_000..=1_000_000;
/// Microseconds of the smallest CFS quota.
const QUOTA: RangeInclusive<i64> = 1_000..=i64::MAX;

/// The limits alone, without device rules: what a container is made with, and what UpdateContainerResources sets.
///
/// What the request leaves out stays out, so that an update changes only what it names. Swap in particular: the
/// caller decides about it, no limit is made up.
pub fn limits(asked: &Resources, host: &Host, notes: &mut Vec<Note>) -> Result<LinuxResources, Refusal> {
    let mut resources = LinuxResources::default();
    resources.set_cpu(cpu(asked)?).set_memory(memory(asked)?);
    if !asked.hugepage_limits.is_empty() {
        if host.hugetlb {
            resources.set_hugepage_limits(Some(hugepages(asked)?));
        } else {
            notes.push(Note::HugepageLimitsLeftOut);
        }
    }
    if !asked.unified.is_empty() {
        let unified = unified(asked, host)?.map(|(file, value)| (file.clone(), value.clone()));
        resources.set_unified(Some(unified.collect()));
    }
    Ok(resources)
}

fn cpu(asked: &Resources) -> Result<Option<LinuxCpu>, Refusal> {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(given("cpu_shares", asked.cpu_shares, SHARES)?.map(i64::unsigned_abs))
        .set_period(given("cpu_period", asked.cpu_period, PERIOD)?.map(i64::unsigned_abs))
        .set_quota(given_or_unlimited("cpu_quota", asked.cpu_quota, QUOTA)?)
        .set_cpus(text(&asked.cpuset_cpus))
        .set_mems(text(&asked.cpuset_mems));
    Ok(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()))
}

fn memory(asked: &Resources) -> Result<Option<LinuxMemory>, Refusal> {
    let limit = given_or_unlimited("memory_limit_in_bytes", asked.memory_limit_in_bytes, 1..=i64::MAX)?;
    let swap = given_or_unlimited(
        "memory_swap_limit_in_bytes",
        asked.memory_swap_limit_in_bytes,
        1..=i64::MAX,
    )?;
    match (limit, swap) {
        (Some(limit @ 1..), Some(swap @ 1..)) if swap < limit => Err(Refusal::invalid(
            resource_field("memory_swap_limit_in_bytes"),
            format!("{swap} for memory and swap together is less than the {limit} for memory"),
        )),
        (None, None) => Ok(None),
        (limit, swap) => {
            let mut memory = LinuxMemory::default();
            memory.set_limit(limit).set_swap(swap);
            Ok(Some(memory))
        }
    }
}

fn hugepages(asked: &Resources) -> Result<Vec<oci_spec::runtime::LinuxHugepageLimit>, Refusal> {
    let one = |(index, (size, limit)): (usize, &(String, u64))| {
        let field = |name: &str| resource_field(&format!("hugepage_limits[{index}].{name}"));
        if !is_page_size(size) {
            return Err(Refusal::invalid(
                field("page_size"),
                format!("{size:?} is not like \"2MB\""),
            ));
        }
        let limit = i64::try_from(*limit).map_err(|_| Refusal::invalid(field("limit"), "is too large"))?;
        Ok(LinuxHugepageLimitBuilder::default()
            .page_size(size.clone())
            .limit(limit)
            .build()
            .expect("every field has a default"))
    };
    asked.hugepage_limits.iter().enumerate().map(one).collect()
}

/// A page size as the hugetlb controller's files are named: a number and KB, MB or GB.
fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|digits| !digits.starts_with('0') && digits.parse::<u32>().is_ok())
}

/// Files of cgroup v2. A name with a slash would reach into another cgroup.
fn unified<'a>(
    asked: &'a Resources,
    host: &Host,
) -> Result<impl Iterator<Item = (&'a String, &'a String)> + use<'a>, Refusal> {
    let field = || resource_field("unified");
    if !host.cgroup_v2 {
        return Err(Refusal::invalid(field(), "needs a host with cgroup v2"));
    }
    match asked
        .unified
        .keys()
        .find(|file| file.contains('/') || !file.contains('.'))
    {
        Some(file) => Err(Refusal::invalid(
            field(),
            format!("{file:?} is no file of a cgroup controller"),
        )),
        None => Ok(asked.unified.iter()),
    }
}

/// None for 0, which in CRI means "not given".
fn given(name: &str, value: i64, range: RangeInclusive<i64>) -> Result<Option<i64>, Refusal> {
    match value {
        0 => Ok(None),
        value if range.contains(&value) => Ok(Some(value)),
        value if *range.end() == i64::MAX => Err(Refusal::invalid(
            resource_field(name),
            format!("{value} is less than {}", range.start()),
        )),
        value => Err(Refusal::invalid(
            resource_field(name),
            format!("{value} is not within {} to {}", range.start(), range.end()),
        )),
    }
}

/// As [`given`]; -1 stands for no limit.
fn given_or_unlimited(name: &str, value: i64, range: RangeInclusive<i64>) -> Result<Option<i64>, Refusal> {
    match value {
        -1 => Ok(Some(-1)),
        value => given(name, value, range),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(asked: &Resources, host: &Host) -> serde_json::Value {
        serde_json::to_value(limits(asked, host, &mut Vec::new()).unwrap()).unwrap()
    }

    #[test]
    fn what_is_not_given_is_left_out() {
        assert_eq!(json(&Resources::default(), &Host::default()), serde_json::json!({}));
    }

    #[test]
    fn every_limit_has_its_place() {
        let asked = Resources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            memory_swap_limit_in_bytes: -1,
            oom_score_adj: 7,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![("2MB".into(), 0)],
            unified: [("memory.high".to_owned(), "1000000".to_owned())].into(),
        };
        let host = Host {
            cgroup_v2: true,
            hugetlb: true,
            ..Host::default()
        };
        assert_eq!(
            json(&asked, &host),
            serde_json::json!({
                "cpu": { "period": 100_000, "quota": -1, "shares": 512, "cpus": "0-1", "mems": "0" },
                "memory": { "limit": 1 << 20, "swap": -1 },
                "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }],
                "unified": { "memory.high": "1000000" },
            })
        );
    }

    #[test]
    fn values_out_of_range_are_refused_by_field() {
        let refused = |change: fn(&mut Resources)| {
            let mut asked = Resources::default();
            change(&mut asked);
            let host = Host {
                hugetlb: true,
                ..Host::default()
            };
            limits(&asked, &host, &mut Vec::new()).unwrap_err().to_string()
        };
        for (refusal, field) in [
            (refused(|asked| asked.cpu_shares = 1), "cpu_shares"),
            (refused(|asked| asked.cpu_shares = -1), "cpu_shares"),
            (refused(|asked| asked.cpu_period = 999), "cpu_period"),
            (refused(|asked| asked.cpu_quota = -2), "cpu_quota"),
            (
                refused(|asked| asked.memory_limit_in_bytes = -2),
                "memory_limit_in_bytes",
            ),
            (
                refused(|asked| {
                    asked.memory_limit_in_bytes = 2;
                    asked.memory_swap_limit_in_bytes = 1;
                }),
                "memory_swap_limit_in_bytes",
            ),
            (
                refused(|asked| asked.hugepage_limits = vec![("2M".into(), 0)]),
                "hugepage_limits[0].page_size",
            ),
            (
                refused(|asked| asked.hugepage_limits = vec![("1GB".into(), u64::MAX)]),
                "hugepage_limits[0].limit",
            ),
            (
                refused(|asked| drop(asked.unified.insert("memory.high".into(), "1".into()))),
                "unified",
            ),
        ] {
            assert!(refusal.starts_with(&format!("linux.resources.{field}: ")), "{refusal}");
        }
    }

    #[test]
    fn a_cgroup_file_elsewhere_is_refused() {
        let host = Host {
            cgroup_v2: true,
            ..Host::default()
        };
        for file in ["../memory.max", "a/b.c", "", "nonsense"] {
            let asked = Resources {
                unified: [(file.to_owned(), String::new())].into(),
                ..Resources::default()
            };
            assert!(limits(&asked, &host, &mut Vec::new()).is_err(), "{file}");
        }
    }

    #[test]
    fn hugepage_limits_are_left_out_with_a_note_where_the_kernel_has_none() {
        let asked = Resources {
            hugepage_limits: vec![("2MB".into(), 0)],
            ..Resources::default()
        };
        let mut notes = Vec::new();
        let resources = limits(&asked, &Host::default(), &mut notes).unwrap();
        assert_eq!(resources.hugepage_limits(), &None);
        assert_eq!(notes, [Note::HugepageLimitsLeftOut]);
    }

    proptest! {
        #[test]
        fn a_limit_is_taken_over_unchanged_or_refused(shares: i64, quota: i64, memory: i64) {
            let asked = Resources {
                cpu_shares: shares,
                cpu_quota: quota,
                memory_limit_in_bytes: memory,
                ..Resources::default()
            };
            if let Ok(built) = limits(&asked, &Host::default(), &mut Vec::new()) {
                let cpu = built.cpu().clone().unwrap_or_default();
                prop_assert_eq!(cpu.shares().unwrap_or(0), shares.unsigned_abs());
                prop_assert_eq!(cpu.quota().unwrap_or(0), quota);
                prop_assert_eq!(built.memory().unwrap_or_default().limit().unwrap_or(0), memory);
            }
        }
    }
}
