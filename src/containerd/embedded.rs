//! berth's own containerd: started when nobody answers on its socket, taken over when somebody does.
//!
//! It outlives berth. Its log is a file, never a pipe of berth's; under systemd it runs in a unit of its own, so that
//! stopping berth's unit leaves it alone; elsewhere in a session of its own. Its pid is kept in a file beside its
//! socket, with the start time that proves that the pid is still it.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Client, Error as ContainerdError};
use crate::sys;

/// How long a containerd may take to answer after its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where things are.
#[derive(Debug, Clone)]
pub struct Embedded {
    binary: PathBuf,
    /// Its persistent root.
    root: PathBuf,
    /// Its socket, pid file and run-time state.
    state: PathBuf,
    /// Distinguishes systemd units of several berths.
    instance: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write {} for berth's own containerd: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot start {} (is containerd installed?): {source}", binary.display())]
    Start { binary: PathBuf, source: io::Error },
    #[error("berth's own containerd ended right after its start; its log is {}", log.display())]
    Died { log: PathBuf },
    #[error("berth's own containerd did not answer in {} s; its log is {}: {source}", PATIENCE.as_secs(), log.display())]
    Silent { log: PathBuf, source: ContainerdError },
}

impl Embedded {
    pub fn new(binary: &Path, root: &Path, state: &Path, instance: &str) -> Self {
        let (root, state) = (root.join("containerd"), state.join("containerd"));
        Self {
            binary: binary.to_owned(),
            root,
            state,
            instance: instance.to_owned(),
        }
    }

    pub fn address(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    fn log(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    /// Makes sure that it runs: `client` answers when this returns.
    pub async fn ensure(&self, client: &Client) -> Result<(), Error> {
        if client.version().await.is_ok() {
            return Ok(());
        }
        if self.pid().is_none() {
            self.start()?;
        }
        let begin = tokio::time::Instant::now();
        loop {
            match client.version().await {
                Ok(version) => {
                    tracing::info!(version, address = %self.address().display(), "berth's own containerd answers");
                    return Ok(());
                }
                Err(_) if begin.elapsed() > Duration::from_secs(3) && self.pid().is_none() && !under_systemd() => {
                    return Err(Error::Died { log: self.log() });
                }
                Err(source) if begin.elapsed() > PATIENCE => {
                    return Err(Error::Silent {
                        log: self.log(),
                        source,
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    }

    fn start(&self) -> Result<(), Error> {
        for dir in [&self.root, &self.state] {
            std::fs::create_dir_all(dir).map_err(|source| Error::Write {
                path: dir.clone(),
                source,
            })?;
        }
        let config = self.root.join("config.toml");
        std::fs::write(&config, self.config()).map_err(|source| Error::Write {
            path: config.clone(),
            source,
        })?;
        let failed = |source| Error::Start {
            binary: self.binary.clone(),
            source,
        };
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log());
        let log = log.map_err(|source| Error::Write {
            path: self.log(),
            source,
        })?;
        let mut command = self.command(&config);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .current_dir("/");
        let mut child = command.spawn().map_err(failed)?;
        tracing::info!(binary = %self.binary.display(), root = %self.root.display(), "started berth's own containerd");
        if !under_systemd() {
            self.record(child.id()).map_err(failed)?;
        }
        // Reaps it (or systemd-run, which ends at once); it need not end before us.
        std::thread::spawn(move || drop(child.wait()));
        Ok(())
    }

    fn command(&self, config: &Path) -> Command {
        if under_systemd() {
            let mut command = Command::new("systemd-run");
            command
                .args([
                    "--quiet",
                    "--collect",
                    "--property=Delegate=yes",
                    "--property=KillMode=process",
                ])
                .arg(format!("--property=StandardOutput=append:{}", self.log().display()))
                .arg(format!("--property=StandardError=append:{}", self.log().display()))
                .args(["--property=LimitNOFILE=1048576", "--property=TasksMax=infinity"])
                .arg(format!("--unit={}", self.unit()))
                .arg(&self.binary)
                .arg("--config")
                .arg(config);
            return command;
        }
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(config);
        // A process group of its own: a terminal's ctrl-C must not reach it.
        command.process_group(0);
        command
    }

    fn unit(&self) -> String {
        format!("berth-containerd-{}", self.instance)
    }

    fn config(&self) -> String {
        let path = |path: &Path| toml::Value::String(path.display().to_string()).to_string();
        let (root, state, address) = (path(&self.root), path(&self.state.join("run")), path(&self.address()));
        let ttrpc = path(&self.state.join("containerd.sock.ttrpc"));
        // The names of the CRI plugin in containerd 1.x and 2.x. Kept off, so that berth alone makes pods here.
        let off = [
            "io.containerd.grpc.v1.cri",
            "io.containerd.cri.v1.images",
            "io.containerd.cri.v1.runtime",
        ];
        format!(
            "# Written by berth at every start of its own containerd.\n\
             version = 2\nroot = {root}\nstate = {state}\ndisabled_plugins = {off:?}\n\
             [grpc]\n  address = {address}\n  max_recv_message_size = 67108864\n  max_send_message_size = 67108864\n\
             [ttrpc]\n  address = {ttrpc}\n"
        )
    }

    fn pid_file(&self) -> PathBuf {
        self.state.join("pid")
    }

    fn record(&self, pid: u32) -> io::Result<()> {
        let start = sys::process::start_time(pid)?;
        std::fs::write(self.pid_file(), format!("{pid} {start}\n"))
    }

    /// The pid of the containerd that berth started, while it lives.
    fn pid(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let pid = pid.parse().ok()?;
        (sys::process::start_time(pid).ok()?.to_string() == start && !sys::process::is_zombie(pid)).then_some(pid)
    }

    /// Returns when it is gone: its process ended, or nobody answers on its socket.
    pub async fn gone(&self) {
        let Ok(connection) = tokio::net::UnixStream::connect(self.address()).await else {
            return;
        };
        let ended = listener(&connection).map(ended);
        // A connection that stayed, saying nothing, would keep a containerd that is to end from ending.
        drop(connection);
        match ended {
            Ok(ended) => drop(ended.await),
            Err(error) => {
                tracing::error!(%error, "cannot watch berth's own containerd");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Ends it and removes its run-time state. Its images stay.
    pub async fn stop(&self) -> io::Result<()> {
        if under_systemd() {
            let unit = format!("{}.service", self.unit());
            tokio::process::Command::new("systemctl")
                .args(["stop", &unit])
                .status()
                .await?;
        }
        if let Some(pid) = self.pid() {
            tokio::task::spawn_blocking(move || sys::process::end(pid, Duration::from_secs(10))).await??;
        }
        match std::fs::remove_dir_all(&self.state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// The process that listens at the other end.
fn listener(connection: &tokio::net::UnixStream) -> io::Result<sys::process::Handle> {
    let pid = connection.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok());
    sys::process::Handle::open(pid.ok_or_else(|| io::Error::other("its pid is not known here"))?)
}

/// Comes when the process has ended. It is waited for by a thread that nothing waits for.
fn ended(process: sys::process::Handle) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        if let Err(error) = process.wait() {
            tracing::error!(%error, "cannot wait for the end of berth's own containerd");
            std::thread::sleep(Duration::from_secs(1));
        }
        sender.send(()).ok();
    });
    receiver
}

/// Whether berth runs as a service of systemd, which would end all processes of berth's unit with it.
fn under_systemd() -> bool {
    Path::new("/run/systemd/system").exists() && std::env::var_os("INVOCATION_ID").is_some()
}
