//! Limits of a container or of a pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// CRI's `LinuxContainerResources`. As in CRI, zero (or empty) means "not given".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds per period; -1 is no quota.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes; -1 is no limit.
    pub memory_limit_in_bytes: i64,
    /// Bytes of memory and swap together; -1 is no limit.
    pub memory_swap_limit_in_bytes: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    /// Page size, as the kernel writes it ("2MB"), and limit in bytes.
    pub hugepage_limits: Vec<(String, u64)>,
    /// cgroup v2 files and their values.
    pub unified: BTreeMap<String, String>,
}
