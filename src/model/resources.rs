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

impl Resources {
    /// These limits with what `change` names in place of theirs; zero and empty in `change` leave a limit as it is.
    pub fn updated(&self, change: Self) -> Self {
        fn number(old: i64, new: i64) -> i64 {
            if new == 0 { old } else { new }
        }
        fn text(old: &str, new: String) -> String {
            if new.is_empty() { old.to_owned() } else { new }
        }
        let mut unified = self.unified.clone();
        unified.extend(change.unified);
        Self {
            cpu_period: number(self.cpu_period, change.cpu_period),
            cpu_quota: number(self.cpu_quota, change.cpu_quota),
            cpu_shares: number(self.cpu_shares, change.cpu_shares),
            memory_limit_in_bytes: number(self.memory_limit_in_bytes, change.memory_limit_in_bytes),
            memory_swap_limit_in_bytes: number(self.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes),
            oom_score_adj: number(self.oom_score_adj, change.oom_score_adj),
            cpuset_cpus: text(&self.cpuset_cpus, change.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems, change.cpuset_mems),
            hugepage_limits: if change.hugepage_limits.is_empty() {
                self.hugepage_limits.clone()
            } else {
                change.hugepage_limits
            },
            unified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_changes_what_it_names_and_no_more() {
        let old = Resources {
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            ..Resources::default()
        };
        let change = Resources {
            memory_limit_in_bytes: 2 << 20,
            cpuset_cpus: "0".into(),
            ..Resources::default()
        };
        let new = old.updated(change);
        assert_eq!(
            (new.cpu_shares, new.memory_limit_in_bytes, new.cpuset_cpus.as_str()),
            (512, 2 << 20, "0")
        );
        assert_eq!(old.updated(Resources::default()), old);
    }
}
