//! A daemon with three handlers: `runc` as the test run has it, `stock`, whose containers containerd's own shim holds, and
//! `other`, whose OCI runtime has a name that berth does not know.

use std::process::{Command, Output};
use std::sync::{Arc, Weak};

use berth::proto::runtime as pb;
use tokio::sync::Mutex;

use crate::client::{House, Pod, pod_config};
use crate::support::berth::Berth;
use crate::support::containerd;

/// The daemon that the tests share as long as one of them runs.
pub async fn house() -> House {
    static SHARED: Mutex<Weak<Berth>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    let berth = match shared.upgrade() {
        Some(berth) => berth,
        None => Arc::new(own().await),
    };
    *shared = Arc::downgrade(&berth);
    House::of(berth).await
}

/// One of a test's own.
pub async fn own() -> Berth {
    let mut berth = Berth::start().await;
    berth.terminate();
    let file = berth.path("config.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    if !text.contains("[handlers.runc]") {
        text += "[handlers.runc]\n";
    }
    text += "[handlers.stock]\nruntime_type = \"io.containerd.runc.v2\"\n";
    let other = berth.path("other-runtime");
    let runc = Command::new("sh").args(["-c", "command -v runc"]).output().unwrap();
    std::os::unix::fs::symlink(String::from_utf8(runc.stdout).unwrap().trim(), &other).unwrap();
    text += &format!("[handlers.other]\nbinary = {other:?}\n");
    std::fs::write(&file, text).unwrap();
    berth.restart(&[]).await;
    berth
}

pub trait Stock {
    /// A sandbox whose containers are held by containerd's shim.
    async fn stock(&self, config: pb::PodSandboxConfig) -> Pod {
        self.handled(config, "stock").await
    }

    async fn handled(&self, config: pb::PodSandboxConfig, handler: &str) -> Pod;
}

impl Stock for House {
    async fn handled(&self, mut config: pb::PodSandboxConfig, handler: &str) -> Pod {
        let name = config.metadata.as_ref().unwrap().name.clone();
        config.log_directory = self.berth.path("logs").join(name).display().to_string();
        let request = pb::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.to_owned(),
        };
        let answer = self.cri.clone().run_pod_sandbox(request).await.unwrap();
        Pod {
            cri: self.cri.clone(),
            id: answer.into_inner().pod_sandbox_id,
            config,
        }
    }
}

/// The sandbox of most tests.
pub async fn pod(house: &House, name: &str) -> Pod {
    house.pod_of(pod_config(name)).await
}

/// What `ctr` gives of a command in one of the daemon's containers: containerd's Tasks.Exec.
pub fn by_containerd(house: &House, id: &str, command: &[&str]) -> Output {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    ctr(
        house,
        &[
            &["tasks", "exec", "--exec-id", &format!("witness-{number}"), id],
            command,
        ]
        .concat(),
    )
}

pub fn ctr(house: &House, arguments: &[&str]) -> Output {
    let mut command: Command = containerd::ctr(&house.berth.containerd_socket(), "k8s.io");
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}
