//! Our shim and containerd's stock one, in turns on one containerd: how long a container takes to come up and to go,
//! what processor time that costs, and what shims hold in memory.
//!
//! That containerd is in a cgroup of its own, and so are the shims and runtimes that come of it; containers have
//! another. Processor time is read a moment after the reply, so that what is left for later counts too.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth::containerd::{Client, RuncOptions};
use containerd_client::services::v1::container::Runtime;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest, DeleteTaskRequest, KillRequest,
    StartRequest, WaitRequest,
};
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::json;

use crate::machine::{self, field};
use crate::peer::{Daemon, Leaves};
use crate::samples::{Samples, Turn};
use crate::shims_report::{Held, Report};
use crate::{Options, Outcome, SETTLE, progress};

const NAMESPACE: &str = "berth-bench";
const SNAPSHOTTER: &str = "overlayfs";
const BASE: &str = "busybox";
const STOCK: &str = "io.containerd.runc.v2";
/// As many containers sleep while shims' memory is read.
const CROWDS: [usize; 3] = [1, 10, 50];

/// What is compared: how the table calls it, and containerd's name for it.
struct Shim {
    name: &'static str,
    runtime: String,
}

/// One containerd with a root file system for everybody.
struct Bench {
    client: Client,
    daemon: Daemon,
}

/// Measures, and removes what it made.
pub async fn measure(options: &Options, directory: &Path) -> Outcome<Report> {
    let shims = pair(options)?;
    let bench = Bench::start(options, directory).await?;
    let load = machine::load()?;
    let mut samples = Samples::default();
    // The first round warms caches and is not kept.
    for round in 0..=options.rounds {
        progress("one at a time", round, options.rounds);
        for shim in &shims {
            let turn = bench.turn(shim, round).await?;
            if round > 0 {
                samples.add(shim.name, round, &turn);
            }
        }
    }
    let mut held = Vec::new();
    for count in CROWDS {
        progress("asleep", count, count);
        for shim in &shims {
            held.push(bench.crowd(shim, count).await?);
        }
    }
    Ok(Report {
        machine: machine::describe(&options.containerd)?,
        names: shims.map(|shim| shim.name),
        rounds: options.rounds,
        load: [load, machine::load()?],
        held,
        samples,
    })
}

/// Ours first. Two that are the same where only a machine's noise is asked for.
fn pair(options: &Options) -> Outcome<[Shim; 2]> {
    let stock = |name| Shim {
        name,
        runtime: STOCK.to_owned(),
    };
    if options.null {
        return Ok([stock("stock-2"), stock("stock")]);
    }
    let ours = fs::canonicalize(&options.shim).map_err(|error| format!("{}: {error}", options.shim.display()))?;
    let ours = Shim {
        name: "ours",
        runtime: ours.display().to_string(),
    };
    Ok([ours, stock("stock")])
}

impl Bench {
    async fn start(options: &Options, directory: &Path) -> Outcome<Self> {
        let at = |name: &str| directory.join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("ttrpc.sock")
        );
        fs::write(at("config.toml"), config)?;
        let mut command = Command::new(&options.containerd);
        command.arg("--config").arg(at("config.toml"));
        let daemon = Daemon::start(command, directory, Leaves::default())?;
        let client = Client::new(&at("containerd.sock"), NAMESPACE);
        let begin = Instant::now();
        while let Err(error) = client.version().await {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let bench = Self { client, daemon };
        bench.busybox().await?;
        Ok(bench)
    }

    /// Commits a snapshot of busybox, on which the containers' are made.
    async fn busybox(&self) -> Outcome<()> {
        let mounts = self.prepare("base", "").await?;
        // Without a parent it is a directory to be bind-mounted.
        let root = Path::new(&mounts.first().ok_or("a snapshot without mounts")?.source);
        for directory in ["bin", "proc", "dev"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox"))?;
        std::os::unix::fs::symlink("busybox", root.join("bin/sleep"))?;
        let commit = CommitSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            name: BASE.to_owned(),
            key: "base".to_owned(),
            labels: [("containerd.io/gc.root".to_owned(), "now".to_owned())].into(),
        };
        self.snapshots().commit(self.client.request(commit)).await?;
        Ok(())
    }

    /// A container comes up, and goes.
    async fn turn(&self, shim: &Shim, round: usize) -> Outcome<Turn> {
        let id = format!("{}-{round}-{}", shim.name, std::process::id());
        let mut turn = Turn::new();
        let (begin, cpu) = (Instant::now(), self.daemon.cgroup.cpu_ms()?);
        self.up(shim, &id).await?;
        turn.push(("start", ms(begin)));
        tokio::time::sleep(SETTLE).await;
        turn.push(("start-cpu", self.daemon.cgroup.cpu_ms()? - cpu));
        let (begin, cpu) = (Instant::now(), self.daemon.cgroup.cpu_ms()?);
        self.down(&id).await?;
        turn.push(("stop", ms(begin)));
        tokio::time::sleep(SETTLE).await;
        turn.push(("stop-cpu", self.daemon.cgroup.cpu_ms()? - cpu));
        Ok(turn)
    }

    /// What the shims of `count` sleeping containers hold.
    async fn crowd(&self, shim: &Shim, count: usize) -> Outcome<Held> {
        let ids: Vec<_> = (0..count)
            .map(|number| format!("{}-crowd-{count}-{number}-{}", shim.name, std::process::id()))
            .collect();
        for id in &ids {
            self.up(shim, id).await?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut held = Held {
            shim: shim.name,
            containers: count,
            processes: 0,
            pss_kib: 0,
        };
        for pid in self.daemon.cgroup.pids()? {
            // A process that just ends has none of it.
            let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else {
                continue;
            };
            if name.starts_with("containerd-shim") {
                held.processes += 1;
                held.pss_kib += field(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:")?;
            }
        }
        for id in &ids {
            self.down(id).await?;
        }
        tokio::time::sleep(SETTLE).await;
        Ok(held)
    }

    async fn up(&self, shim: &Shim, id: &str) -> Outcome<()> {
        let options = Some(RuncOptions::default().any());
        let rootfs = self.prepare(id, BASE).await?;
        let container = Container {
            id: id.to_owned(),
            runtime: Some(Runtime {
                name: shim.runtime.clone(),
                options: options.clone(),
            }),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned(),
                value: spec(&cgroup_of(id)),
            }),
            snapshotter: SNAPSHOTTER.to_owned(),
            snapshot_key: id.to_owned(),
            ..Default::default()
        };
        let record = CreateContainerRequest {
            container: Some(container),
        };
        self.containers().create(self.client.request(record)).await?;
        let create = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            options,
            ..Default::default()
        };
        self.tasks().create(self.client.request(create)).await?;
        let start = StartRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        };
        self.tasks().start(self.client.request(start)).await?;
        Ok(())
    }

    async fn down(&self, id: &str) -> Outcome<()> {
        let container_id = id.to_owned();
        let kill = KillRequest {
            container_id: container_id.clone(),
            signal: 9,
            ..Default::default()
        };
        self.tasks().kill(self.client.request(kill)).await?;
        let wait = WaitRequest {
            container_id: container_id.clone(),
            exec_id: String::new(),
        };
        self.tasks().wait(self.client.request(wait)).await?;
        let delete = DeleteTaskRequest { container_id };
        self.tasks().delete(self.client.request(delete)).await?;
        let record = DeleteContainerRequest { id: id.to_owned() };
        self.containers().delete(self.client.request(record)).await?;
        let snapshot = RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: id.to_owned(),
        };
        self.snapshots().remove(self.client.request(snapshot)).await?;
        Ok(())
    }

    async fn prepare(&self, key: &str, parent: &str) -> Outcome<Vec<Mount>> {
        let request = PrepareSnapshotRequest {
            snapshotter: SNAPSHOTTER.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: [("containerd.io/gc.root".to_owned(), "now".to_owned())].into(),
        };
        let answer = self.snapshots().prepare(self.client.request(request)).await?;
        Ok(answer.into_inner().mounts)
    }

    fn tasks(&self) -> TasksClient<tonic::transport::Channel> {
        TasksClient::new(self.client.channel())
    }

    fn containers(&self) -> ContainersClient<tonic::transport::Channel> {
        ContainersClient::new(self.client.channel())
    }

    fn snapshots(&self) -> SnapshotsClient<tonic::transport::Channel> {
        SnapshotsClient::new(self.client.channel())
    }
}

fn ms(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// A container's cgroup, beside that of containerd, as a spec names it.
fn cgroup_of(id: &str) -> String {
    format!("{}/{id}", crate::cgroup_parent())
}

fn spec(cgroup: &str) -> Vec<u8> {
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind}));
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/sleep", "1000000"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": cgroup, "namespaces": namespaces},
    });
    spec.to_string().into_bytes()
}
