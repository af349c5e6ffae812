//! A container: its bundle, and what containerd asks of the shim about it.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use berth::proto::shim::{self as proto, process, runc, task, types};
use berth::ttrpc::Status;
use prost_types::Any;
use serde_json::{Value, json};

use crate::ground::{Ground, becomes, words};

pub struct Bundle<'a> {
    pub ground: &'a Ground,
    pub id: String,
    pub path: PathBuf,
    /// OCI's spec.
    pub spec: Value,
    pub rootfs: Vec<types::Mount>,
    pub options: runc::Options,
    pub stdin: String,
    pub stdout: String,
    pub terminal: bool,
    /// What Create tells the shim.
    pub timeout: Option<Duration>,
}

impl<'a> Bundle<'a> {
    pub fn new(ground: &'a Ground, id: String, args: &[&str]) -> Self {
        let path = ground.path("bundles").join(&id);
        fs::create_dir_all(&path).unwrap();
        Self {
            spec: spec(ground, &id, args),
            rootfs: vec![types::Mount {
                r#type: "bind".to_owned(),
                source: ground.path("busybox").display().to_string(),
                options: vec!["rbind".to_owned(), "ro".to_owned()],
                ..Default::default()
            }],
            options: runc::Options {
                root: ground.path("state").display().to_string(),
                ..Default::default()
            },
            stdin: String::new(),
            stdout: String::new(),
            terminal: false,
            timeout: None,
            path,
            id,
            ground,
        }
    }

    /// Made by an OCI runtime that is a shell script.
    pub fn by(mut self, script: &str) -> Self {
        self.options.binary_name = self.ground.fake_runtime(script).display().to_string();
        self
    }

    /// Shares its PID namespace with the host, so that its end is not that of all its processes.
    pub fn in_host_pids(mut self) -> Self {
        let namespaces = self.spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
        self
    }

    pub fn write(&self) {
        fs::create_dir_all(&self.path).unwrap();
        fs::write(self.path.join("config.json"), self.spec.to_string()).unwrap();
    }

    /// The command `start`.
    pub fn command(&self, command: &str) -> Output {
        self.ground.command(command, &self.id, &self.path).output().unwrap()
    }

    /// The bundle, and a shim for it.
    pub fn prepare(&self) {
        self.write();
        let started = self.command("start");
        assert!(started.status.success(), "{}", words(&started));
        assert_eq!(String::from_utf8(started.stdout).unwrap(), self.ground.place.address());
    }

    pub fn request(&self) -> task::CreateTaskRequest {
        task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.path.display().to_string(),
            rootfs: self.rootfs.clone(),
            stdin: self.stdin.clone(),
            stdout: self.stdout.clone(),
            terminal: self.terminal,
            options: Some(proto::pack(&self.options)),
            ..Default::default()
        }
    }

    pub fn create(&self) -> Result<u32, Status> {
        let mut wire = self.ground.connect();
        let answer: task::CreateTaskResponse = wire.ask_within("Create", &self.request(), self.timeout)?;
        Ok(answer.pid)
    }

    pub fn start(&self) -> Result<u32, Status> {
        self.start_process("")
    }

    pub fn start_process(&self, exec_id: &str) -> Result<u32, Status> {
        let request = task::StartRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        let answer: task::StartResponse = self.ground.connect().ask("Start", &request)?;
        Ok(answer.pid)
    }

    /// All of it. Gives the pid.
    pub fn run(&self) -> u32 {
        self.prepare();
        let pid = self.create().unwrap();
        assert_eq!(self.start().unwrap(), pid);
        pid
    }

    pub fn exec(&self, exec_id: &str, args: &[&str]) -> Result<(), Status> {
        let request = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: Some(Any {
                type_url: String::new(),
                value: words_of(args).to_string().into_bytes(),
            }),
            ..Default::default()
        };
        self.ground.connect().ask("Exec", &request)
    }

    pub fn exec_run(&self, exec_id: &str, args: &[&str]) -> u32 {
        self.exec(exec_id, args).unwrap();
        self.start_process(exec_id).unwrap()
    }

    pub fn state(&self) -> Result<task::StateResponse, Status> {
        let request = task::StateRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.ground.connect().ask("State", &request)
    }

    pub fn status(&self) -> process::Status {
        self.state().unwrap().status()
    }

    pub fn kill(&self, signal: u32) -> Result<(), Status> {
        let request = task::KillRequest {
            id: self.id.clone(),
            signal,
            all: signal == 9,
            ..Default::default()
        };
        self.ground.connect().ask("Kill", &request)
    }

    pub fn wait(&self) -> Result<task::WaitResponse, Status> {
        self.wait_process("")
    }

    pub fn wait_process(&self, exec_id: &str) -> Result<task::WaitResponse, Status> {
        let request = task::WaitRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
        };
        self.ground.connect().ask("Wait", &request)
    }

    pub fn delete(&self) -> Result<task::DeleteResponse, Status> {
        let request = task::DeleteRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.ground.connect().ask("Delete", &request)
    }

    /// Ends and deletes it. Gives its exit code.
    pub fn remove(&self) -> u32 {
        self.kill(9).unwrap();
        self.wait().unwrap();
        self.delete().unwrap().exit_status
    }

    /// What the next shim will know.
    pub fn record(&self) -> PathBuf {
        self.ground.place.container(&self.id).join("record.json")
    }

    /// Has the container write to a file, and waits until it holds `text`.
    pub fn output_to(&mut self, name: &str) -> PathBuf {
        let path = self.ground.path(name);
        self.stdout = format!("file://{}", path.display());
        path
    }

    /// Waits until nothing is kept of it.
    pub fn is_forgotten(&self) {
        let kept = [
            self.ground.place.container(&self.id),
            self.ground.state().join(&self.id),
        ];
        becomes("all is forgotten", || kept.iter().all(|path| !path.exists()));
    }
}

fn words_of(args: &[&str]) -> Value {
    let capabilities = ["CAP_KILL"];
    json!({
        "args": args, "cwd": "/", "env": ["PATH=/bin", "TERM=xterm"], "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": true,
    })
}

fn spec(ground: &Ground, id: &str, args: &[&str]) -> Value {
    let mount = |at: &str, kind: &str| json!({"destination": at, "type": kind, "source": kind});
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "process": words_of(args),
        "root": {"path": "rootfs"},
        "mounts": [
            mount("/proc", "proc"),
            mount("/dev", "tmpfs"),
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": pts},
        ],
        "annotations": {"berth.dev/shim": ground.place.directory()},
        "linux": {"cgroupsPath": format!("/{}/{id}", ground.name), "namespaces": namespaces},
    })
}
