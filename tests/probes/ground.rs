//! What the tests share: containers with annotations, and what a verbose status tells of them.

use std::process::Command;
use std::time::{Duration, Instant};

use berth::proto::runtime as pb;
use serde_json::Value;

use crate::client::{Container, House, Pod, shell};

/// A container that runs a line of shell, with annotations under `berth.dev/`.
pub fn annotated(name: &str, line: &str, annotations: &[(&str, &str)]) -> pb::ContainerConfig {
    let mut config = shell(name, line);
    for (key, json) in annotations {
        config
            .annotations
            .insert(format!("berth.dev/{key}"), (*json).to_owned());
    }
    config
}

/// With a pod's grace period, as a kubelet tells it.
pub fn with_grace(mut config: pb::ContainerConfig, seconds: u32) -> pb::ContainerConfig {
    let key = "io.kubernetes.pod.terminationGracePeriod".to_owned();
    config.annotations.insert(key, seconds.to_string());
    config
}

/// An exec probe of a line of shell that is asked ten times a second, with more of a Probe's fields.
pub fn probe(line: &str, more: &str) -> String {
    let command = Value::from(vec!["sh", "-c", line]);
    format!(
        r#"{{"exec": {{"command": {command}}}, "periodMilliseconds": 100, "timeoutSeconds": 5, "failureThreshold": 1{more}}}"#
    )
}

/// An exec hook of a line of shell.
pub fn hook(line: &str) -> String {
    let command = Value::from(vec!["sh", "-c", line]);
    format!(r#"{{"exec": {{"command": {command}}}}}"#)
}

/// A line that sleeps until SIGTERM, says so, and ends with 0.
pub const POLITE: &str = "trap 'echo TERM; exit 0' TERM; echo up; while true; do sleep 0.05; done";
/// One that says so and goes on.
pub const STUBBORN: &str = "trap 'echo TERM' TERM; echo up; while true; do sleep 0.05; done";

impl Container {
    async fn info(&self, key: &str) -> Value {
        let info = self.try_status(true).await.unwrap().info;
        serde_json::from_str(&info[key]).unwrap()
    }

    /// What a verbose status tells of its probes.
    pub async fn probes(&self) -> Value {
        self.info("probes").await
    }

    pub async fn hooks(&self) -> Value {
        self.info("hooks").await
    }

    /// Its events: `Type Reason: message`.
    pub async fn events(&self) -> Vec<String> {
        let events = self.info("events").await;
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        let events = events.as_array().unwrap().iter();
        events
            .map(|event| {
                format!(
                    "{} {}: {}",
                    text(event, "type"),
                    text(event, "reason"),
                    text(event, "message")
                )
            })
            .collect()
    }

    /// Waits until its probes are as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let probes = self.probes().await;
            if wanted(&probes) {
                return probes;
            }
            let events = self.events().await;
            assert!(
                begin.elapsed() < Duration::from_secs(15),
                "not {what}: {probes:#} {events:#?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_ready(&self, ready: bool) {
        self.until(&format!("ready = {ready}"), |probes| probes["ready"] == ready)
            .await;
    }

    /// Waits until a hook is as `outcome` says.
    pub async fn until_hook(&self, kind: &str, outcome: &str) -> Value {
        let begin = Instant::now();
        loop {
            let hooks = self.hooks().await;
            if hooks[kind]["outcome"] == outcome {
                return hooks[kind].clone();
            }
            assert!(
                begin.elapsed() < Duration::from_secs(15),
                "{kind} not {outcome}: {hooks:#}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Runs a command of the node's in a pod's network namespace, as root with all that comes with it.
pub fn in_pod(house: &House, pod: &Pod, command: &[&str]) {
    let id = &pod.id;
    let name = format!(
        "cni-{}-{}-{}-{}-{}",
        &id[..8],
        &id[8..12],
        &id[12..16],
        &id[16..20],
        &id[20..32]
    );
    let pin = house.berth.path("netns").join(name);
    let output = Command::new("nsenter")
        .arg(format!("--net={}", pin.display()))
        .args(command)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
