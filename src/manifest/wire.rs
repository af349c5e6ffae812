//! A Pod as YAML has it: types and nothing more. Which fields may be there at all is said by [`super::fields`]; to
//! Kubernetes a null is the same as no field, hence the options.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::quantity::Quantity;
use crate::model::probe::wire::{Lifecycle, Probe};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    pub metadata: Option<Metadata>,
    pub spec: Option<Spec>,
}

#[derive(Default, Deserialize)]
pub struct Metadata {
    pub name: Option<String>,
    pub namespace: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    pub init_containers: Option<Vec<Container>>,
    pub containers: Option<Vec<Container>>,
    pub volumes: Option<Vec<Volume>>,
    pub restart_policy: Option<String>,
    pub termination_grace_period_seconds: Option<i64>,
    pub dns_policy: Option<String>,
    pub host_network: Option<bool>,
    #[serde(rename = "hostPID")]
    pub host_pid: Option<bool>,
    #[serde(rename = "hostIPC")]
    pub host_ipc: Option<bool>,
    pub share_process_namespace: Option<bool>,
    pub hostname: Option<String>,
    pub security_context: Option<PodSecurity>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurity {
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Option<Vec<i64>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    pub name: Option<String>,
    pub image: Option<String>,
    pub image_pull_policy: Option<String>,
    pub command: Option<Vec<String>>,
    pub args: Option<Vec<String>>,
    pub working_dir: Option<String>,
    pub env: Option<Vec<Env>>,
    pub ports: Option<Vec<Port>>,
    pub security_context: Option<Security>,
    pub volume_mounts: Option<Vec<Mount>>,
    pub resources: Option<Resources>,
    pub liveness_probe: Option<Probe>,
    pub readiness_probe: Option<Probe>,
    pub startup_probe: Option<Probe>,
    pub lifecycle: Option<Lifecycle>,
}

#[derive(Deserialize)]
pub struct Env {
    pub name: Option<String>,
    pub value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    pub name: Option<String>,
    pub container_port: Option<i64>,
    pub protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    pub capabilities: Option<Capabilities>,
    pub run_as_user: Option<i64>,
    pub run_as_group: Option<i64>,
    pub privileged: Option<bool>,
    pub read_only_root_filesystem: Option<bool>,
    pub allow_privilege_escalation: Option<bool>,
}

#[derive(Default, Deserialize)]
pub struct Capabilities {
    pub add: Option<Vec<String>>,
    pub drop: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    pub name: Option<String>,
    pub mount_path: Option<String>,
    pub read_only: Option<bool>,
}

#[derive(Default, Deserialize)]
pub struct Resources {
    pub limits: Option<Amounts>,
    pub requests: Option<Amounts>,
}

#[derive(Default, Clone, Copy, Deserialize)]
pub struct Amounts {
    pub cpu: Option<Quantity>,
    pub memory: Option<Quantity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub name: Option<String>,
    pub empty_dir: Option<EmptyDir>,
    pub host_path: Option<HostPath>,
}

#[derive(Deserialize)]
pub struct EmptyDir {}

#[derive(Deserialize)]
pub struct HostPath {
    pub path: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
}
