//! One of the two that are measured: its daemon, its directory, its connection.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth::proto::runtime as cri;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use nix::sys::signal::Signal;
use serde_json::json;
use tonic::transport::Channel;

use crate::cgroup::Cgroup;
use crate::image::{self, Image};
use crate::machine::{self, Memory};
use crate::{Outcome, sweep};

/// The image of every container.
pub const BUSYBOX: &str = "docker.io/library/busybox:bench";
/// The image of containerd's sandbox containers.
pub const PAUSE: &str = "localhost/berth-bench/pause:1";

/// How long a daemon may take until it serves.
const PATIENCE: Duration = Duration::from_secs(60);

/// The images, as docker archives.
pub struct Archives {
    pub busybox: PathBuf,
    pub pause: PathBuf,
}

impl Archives {
    pub fn make(directory: &Path) -> Outcome<Self> {
        let archives = Self {
            busybox: directory.join("busybox.tar"),
            pause: directory.join("pause.tar"),
        };
        let busybox = image::busybox();
        let pause = Image::new(busybox.layers.clone(), &json!({"Cmd": ["/bin/sleep", "2000000000"]}));
        fs::write(&archives.busybox, image::docker_archive(&busybox, &[BUSYBOX]))?;
        fs::write(&archives.pause, image::docker_archive(&pause, &[PAUSE]))?;
        Ok(archives)
    }
}

/// A daemon that serves CRI, and everything that must go with it.
pub struct Peer {
    pub name: &'static str,
    pub runtime: RuntimeServiceClient<Channel>,
    /// Where its metrics are, if it has any.
    pub metrics: Option<SocketAddr>,
    /// A parent for its pods' control groups.
    pub pods: Cgroup,
    images: ImageServiceClient<Channel>,
    daemon: Daemon,
}

/// A process with its log; when dropped, it and all that lives in or from its directory go too.
pub struct Daemon {
    child: Child,
    /// It and all that it starts, but for containers.
    pub cgroup: Cgroup,
    /// Everything of this peer is in here, and the path is in the command line of each of its processes.
    directory: PathBuf,
    /// A command that ends it and the processes that outlive it; SIGTERM alone is enough where there is none.
    pub down: Option<Command>,
    /// What it may leave outside of its directory.
    pub leaves: Leaves,
}

/// Names of a daemon's own things that no directory contains.
#[derive(Default)]
pub struct Leaves {
    pub bridge: String,
    pub nft_table: Option<String>,
}

impl Peer {
    /// Waits until the daemon serves CRI on `socket`.
    pub async fn connect(name: &'static str, mut daemon: Daemon, socket: &Path) -> Outcome<Self> {
        let begin = Instant::now();
        let pods = Cgroup::make(&format!("pods-{}", name_of(&daemon.directory)))?;
        loop {
            let channel = channel(socket);
            let (runtime, images) = (
                RuntimeServiceClient::new(channel.clone()),
                ImageServiceClient::new(channel),
            );
            let answer = runtime.clone().version(cri::VersionRequest::default()).await;
            match answer {
                Ok(_) => {
                    return Ok(Self {
                        name,
                        runtime,
                        metrics: None,
                        pods,
                        images,
                        daemon,
                    });
                }
                Err(status) if begin.elapsed() > PATIENCE || daemon.child.try_wait()?.is_some() => {
                    let text = format!("{name} does not serve: {}\n{}", status.message(), daemon.log_end());
                    return Err(text.into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        self.daemon.log_end()
    }

    /// The control group of its daemons.
    pub fn daemons(&self) -> &Cgroup {
        &self.daemon.cgroup
    }

    /// What its processes hold, by role.
    pub fn memory(&self) -> Outcome<Vec<Memory>> {
        machine::memory(self.name, &self.daemon.directory)
    }

    /// Removes its pods, ends it and removes what is left.
    pub async fn end(mut self) {
        if let Err(status) = self.remove_pods().await {
            eprintln!("bench: {}: {}", self.name, status.message());
        }
        self.daemon.end();
    }

    async fn remove_pods(&mut self) -> Result<(), tonic::Status> {
        let list = self
            .runtime
            .list_pod_sandbox(cri::ListPodSandboxRequest::default())
            .await?
            .into_inner();
        for sandbox in list.items {
            let pod_sandbox_id = sandbox.id;
            self.runtime
                .stop_pod_sandbox(cri::StopPodSandboxRequest {
                    pod_sandbox_id: pod_sandbox_id.clone(),
                })
                .await?;
            self.runtime
                .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
                .await?;
        }
        Ok(())
    }
}

impl Daemon {
    /// Starts it, away from the terminal's signals, its log in its directory.
    pub fn start(mut command: Command, directory: &Path, leaves: Leaves) -> Outcome<Self> {
        use std::os::unix::process::CommandExt;
        let log = File::create(directory.join("log"))?;
        let cgroup = Cgroup::make(&format!("daemons-{}", name_of(directory)))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let daemon = Self {
            child,
            cgroup,
            directory: directory.to_owned(),
            down: None,
            leaves,
        };
        // Before it has started any process.
        daemon.cgroup.take(daemon.child.id())?;
        Ok(daemon)
    }

    fn log_end(&self) -> String {
        let text = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn end(&mut self) {
        let down = self.down.as_mut().map(|down| down.stdin(Stdio::null()).status());
        if !matches!(down, Some(Ok(status)) if status.success()) {
            sweep::signal(self.child.id(), Signal::SIGTERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        sweep::processes(&self.directory);
        sweep::mounts(&self.directory);
        sweep::link(&self.leaves.bridge);
        if let Some(table) = &self.leaves.nft_table {
            sweep::nft_table(table);
        }
    }
}

/// Runs a command and gives its error output when it fails.
pub fn run(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}: {error}", command.get_program().display(), output.status).into());
    }
    Ok(())
}

fn name_of(directory: &Path) -> std::path::Display<'_> {
    Path::new(directory.file_name().unwrap_or_default()).display()
}

/// A connection to a unix socket, made when it is first used.
fn channel(socket: &Path) -> Channel {
    // The namespace is of no account for CRI's services.
    berth::containerd::Client::new(socket, "k8s.io").channel()
}
