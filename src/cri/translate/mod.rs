//! Protobuf into the model and back. Parsing checks a request whole; what it refuses it names by its field.

pub mod container;
pub mod health;
pub mod image;
mod probes;
pub mod sandbox;
mod security;

use std::collections::{BTreeMap, HashMap};

use crate::model::Refusal;
use crate::model::resources::Resources;
use crate::proto::runtime as pb;

/// A name (of a pod, a namespace, a container) may be this long: a DNS subdomain, the longest that Kubernetes has.
const MAX_NAME: usize = 253;
/// A request larger than this is refused: its config is kept in containerd's database.
const MAX_CONFIG: usize = 2 << 20;

fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T, Refusal> {
    value.ok_or_else(|| Refusal::invalid(field, "missing"))
}

fn name(field: &str, text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        return Err(Refusal::invalid(field, "empty"));
    }
    if text.len() > MAX_NAME {
        return Err(Refusal::invalid(
            field,
            format!("{} bytes; at most {MAX_NAME} are allowed", text.len()),
        ));
    }
    no_nul(field, text)?;
    Ok(text.to_owned())
}

/// No string of the kernel's can hold a zero byte.
fn no_nul(field: &str, text: &str) -> Result<(), Refusal> {
    if text.contains('\0') {
        Err(Refusal::invalid(field, "contains a zero byte"))
    } else {
        Ok(())
    }
}

fn check_size(field: &str, message: &impl prost::Message) -> Result<(), Refusal> {
    match message.encoded_len() {
        ..=MAX_CONFIG => Ok(()),
        size => Err(Refusal::invalid(
            field,
            format!("{size} bytes; at most {MAX_CONFIG} are allowed"),
        )),
    }
}

fn sorted(map: &HashMap<String, String>) -> BTreeMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub fn unsorted(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The limits of a container, checked against what the kernel can take.
pub fn resources(field: &str, message: &pb::LinuxContainerResources) -> Result<Resources, Refusal> {
    let at_least = |name: &str, value: i64, least: i64| match value {
        value if value < least => Err(Refusal::invalid(
            format!("{field}.{name}"),
            format!("{value} is less than {least}"),
        )),
        value => Ok(value),
    };
    if !(-1000..=1000).contains(&message.oom_score_adj) {
        let reason = format!("{} is not between -1000 and 1000", message.oom_score_adj);
        return Err(Refusal::invalid(format!("{field}.oom_score_adj"), reason));
    }
    Ok(Resources {
        cpu_period: at_least("cpu_period", message.cpu_period, 0)?,
        cpu_quota: at_least("cpu_quota", message.cpu_quota, -1)?,
        cpu_shares: at_least("cpu_shares", message.cpu_shares, 0)?,
        memory_limit_in_bytes: at_least("memory_limit_in_bytes", message.memory_limit_in_bytes, -1)?,
        memory_swap_limit_in_bytes: at_least("memory_swap_limit_in_bytes", message.memory_swap_limit_in_bytes, -1)?,
        oom_score_adj: message.oom_score_adj,
        cpuset_cpus: message.cpuset_cpus.clone(),
        cpuset_mems: message.cpuset_mems.clone(),
        hugepage_limits: message
            .hugepage_limits
            .iter()
            .map(|limit| (limit.page_size.clone(), limit.limit))
            .collect(),
        unified: sorted(&message.unified),
    })
}

pub fn resources_message(resources: &Resources) -> pb::LinuxContainerResources {
    let limit = |(page_size, limit): &(String, u64)| pb::HugepageLimit {
        page_size: page_size.clone(),
        limit: *limit,
    };
    pb::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources.hugepage_limits.iter().map(limit).collect(),
        unified: unsorted(&resources.unified),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_in_bytes,
    }
}
