//! A container to be: its spec, mounts, options and pipes, until its task is made.

use std::path::Path;

use berth::containerd::RuncOptions;
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::{
    Container as Record, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
};
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Status;

use crate::node::{self, Node};
use crate::pipes::Pipes;
use crate::process::Process;

const SPEC_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// To be changed by a test before it is created.
pub struct Container<'a> {
    node: &'a Node,
    pub id: String,
    /// The OCI runtime spec.
    pub spec: Value,
    pub rootfs: Vec<Mount>,
    pub options: RuncOptions,
    terminal: bool,
    stdin: bool,
}

impl<'a> Container<'a> {
    pub fn new(node: &'a Node, id: String, args: &[&str]) -> Self {
        Self {
            spec: spec(args, &format!("{}/{id}", node.cgroup())),
            rootfs: vec![bind(&node.rootfs())],
            options: RuncOptions::default(),
            terminal: false,
            stdin: false,
            node,
            id,
        }
    }

    /// Connected to a terminal, and to a pipe for its input.
    pub fn terminal(mut self) -> Self {
        self.spec["process"]["terminal"] = true.into();
        self.terminal = true;
        self.with_stdin()
    }

    /// Connected to a pipe for its input.
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// With cgroup limits, as the spec's `linux.resources` has them.
    pub fn limited(mut self, resources: Value) -> Self {
        self.spec["linux"]["resources"] = resources;
        self
    }

    /// Makes its record and its task. A record whose task cannot be made is removed.
    pub async fn create(self) -> Result<Process<'a>, Status> {
        self.record().await?;
        let pipes = Pipes::new(self.node, self.stdin, self.terminal);
        let request = CreateTaskRequest {
            container_id: self.id.clone(),
            rootfs: self.rootfs.clone(),
            stdin: pipes.stdin(),
            stdout: pipes.stdout(),
            stderr: pipes.stderr(),
            terminal: self.terminal,
            options: Some(self.options.any()),
            ..Default::default()
        };
        match self.node.tasks().create(self.node.request(request)).await {
            Ok(answer) => Ok(Process::init(self.node, self.id, answer.into_inner().pid, pipes)),
            Err(status) => {
                remove_record(self.node, &self.id).await;
                Err(status)
            }
        }
    }

    /// Makes its task and starts it.
    pub async fn run(self) -> Process<'a> {
        let process = self.create().await.unwrap();
        process.start().await.unwrap();
        process
    }

    async fn record(&self) -> Result<(), Status> {
        let record = Record {
            id: self.id.clone(),
            runtime: Some(Runtime {
                name: node::runtime(),
                options: Some(self.options.any()),
            }),
            spec: Some(Any {
                type_url: SPEC_URL.to_owned(),
                value: self.spec.to_string().into_bytes(),
            }),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            container: Some(record),
        };
        self.node
            .containers()
            .create(self.node.request(request))
            .await
            .map(drop)
    }
}

pub async fn remove_record(node: &Node, id: &str) {
    let request = DeleteContainerRequest { id: id.to_owned() };
    node.containers().delete(node.request(request)).await.unwrap();
}

/// A mount that shows `source` as it is.
pub fn bind(source: &Path) -> Mount {
    Mount {
        r#type: "bind".to_owned(),
        source: source.display().to_string(),
        options: vec!["rbind".to_owned(), "rw".to_owned()],
        ..Default::default()
    }
}

/// What an OCI `process` looks like.
pub fn process(args: &[&str]) -> Value {
    let capabilities = ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"];
    json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": true,
    })
}

fn spec(args: &[&str], cgroup: &str) -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
        },
    })
}
