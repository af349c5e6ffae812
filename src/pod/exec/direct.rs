//! Commands without containerd and the OCI runtime ([`crate::nsexec`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::{DRAIN, ExecOutput, copy, is_direct, runtime};
use crate::containerd::Task;
use crate::model::container::ContainerState;
use crate::nsexec::{self, Exec, Groups, Reply, Setting};
use crate::oci;
use crate::pod::Core;
use crate::pod::error::Error;
use crate::pod::registry::Container;
use crate::pod::shims::Group;
use crate::shim::cgroups::Cgroups;
use crate::sys::cgroup::Version;
use crate::sys::process::Handle;

/// How long a shim that was killed may take to come back before a command is given up.
const COME: Duration = Duration::from_secs(10);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How long the killing of a command is waited for before its timeout is told. It goes on by itself.
const KILLED: Duration = Duration::from_secs(1);

/// How commands are run in one container; found out once.
pub struct Direct {
    setting: Setting,
    groups: Groups,
    /// The directory of [`Groups::home`].
    home: OwnedFd,
    init: Handle,
}

impl Core {
    /// How commands are run in a running container. None: through containerd.
    pub(super) async fn direct(&self, container: &Container) -> Result<Option<Arc<Direct>>, Error> {
        let found = container
            .direct()
            .get_or_try_init(|| self.find_direct(container))
            .await?;
        Ok(found.clone())
    }

    async fn find_direct(&self, container: &Container) -> Result<Option<Arc<Direct>>, Error> {
        let record = container.record();
        let sandbox = self.registry.sandbox(&record.sandbox)?.record();
        let Some(handler) = self.handler(&sandbox.handler).filter(|handler| is_direct(handler)) else {
            return Ok(None);
        };
        let not_running = || container.wrong_state("it must run");
        let ContainerState::Running { pid, .. } = container.state() else {
            return Err(not_running());
        };
        let init = Handle::open(pid).map_err(|_| not_running())?;
        if !is_of(pid, &init, &record.cgroup) {
            // It may have been moved elsewhere. If the pid is the task's still, the handle is its, too.
            match self.containerd.task(&container.id).await? {
                Some(Task::Running { pid: now }) if now == pid => {}
                _ => return Err(not_running()),
            }
        }
        let spec = self.containerd.spec(&container.id).await?;
        let spec: oci::Spec = serde_json::from_slice(&spec).map_err(|error| {
            Error::Containerd(crate::containerd::Error::Unreadable {
                what: "the spec of the container".to_owned(),
                reason: error.to_string(),
            })
        })?;
        let keyring = nsexec::keyring(runtime(handler).as_ref(), container.id.as_str());
        let setting = match Setting::of(&spec, Some(keyring)) {
            Ok(setting) => setting,
            Err(reason) => {
                tracing::info!(id = ?container.id, %reason, "commands are run by containerd in this container");
                return Ok(None);
            }
        };
        let cgroup = |source| Error::Cgroup {
            path: record.cgroup.clone(),
            source,
        };
        let Some(groups) = groups(&self.settings.cgroups, &record.cgroup, pid).map_err(cgroup)? else {
            return Ok(None);
        };
        let home = File::open(&groups.home).map_err(cgroup)?.into();
        Ok(Some(Arc::new(Direct {
            setting,
            groups,
            home,
            init,
        })))
    }

    pub(super) async fn exec_directly(
        self: &Arc<Self>,
        container: &Container,
        direct: &Direct,
        command: Vec<String>,
        timeout: Option<Duration>,
        output: mpsc::Sender<ExecOutput>,
    ) -> Result<i32, Error> {
        let sandbox = self.registry.sandbox(&container.record().sandbox)?;
        let group = self.group(&sandbox.shim().group);
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let (stdout, its_stdout) = io::pipe().map_err(nsexec::Error::Io)?;
        let (stderr, its_stderr) = io::pipe().map_err(nsexec::Error::Io)?;
        let receiver = |pipe: io::PipeReader| pipe::Receiver::from_owned_fd(pipe.into()).map_err(nsexec::Error::Io);
        let (stdout, stderr) = (receiver(stdout)?, receiver(stderr)?);
        let stdio = [null()?, its_stdout.as_fd(), its_stderr.as_fd()];
        let begun = direct.begin(&group, command, stdio);
        let connection = match within(deadline, begun).await {
            Some(connection) => connection?,
            None => return Err(Error::ExecTimeout(timeout.unwrap_or_default())),
        };
        drop((its_stdout, its_stderr));
        let gone = output.clone();
        let streams = tokio::spawn(copy(stdout, stderr, output));
        let ended = async {
            tokio::select! {
                ended = end(&connection) => Some(ended),
                () = gone.closed() => None,
            }
        };
        let ended = within(deadline, ended).await;
        if !matches!(ended, Some(Some(_))) {
            nsexec::kill(&connection);
            // Only for the caller's sake, who may look whether it is gone.
            tokio::time::timeout(KILLED, end(&connection)).await.ok();
        }
        // The copy ends when the last holder of the pipes does; one that lives on is not waited for.
        let abort = streams.abort_handle();
        if ended.is_none() || tokio::time::timeout(DRAIN, streams).await.is_err() {
            abort.abort();
        }
        match ended {
            Some(Some(ended)) => Ok(ended?),
            Some(None) => Ok(128 + 9),
            None => Err(Error::ExecTimeout(timeout.unwrap_or_default())),
        }
    }
}

impl Direct {
    /// Has the command run, by the next shim should this one have been killed.
    async fn begin(
        &self,
        group: &Group,
        command: Vec<String>,
        stdio: [BorrowedFd<'_>; 3],
    ) -> Result<UnixStream, Error> {
        let process = oci::exec(self.setting.process(), command, false);
        let program = self
            .setting
            .program(&process)
            .expect("what is unsuited was found before");
        let exec = Exec {
            program: &program,
            groups: &self.groups,
            home: self.home.as_fd(),
            init: self.init.as_fd(),
            stdio: Some(stdio),
            filter: self.setting.filter.as_deref(),
        };
        let socket = group.place.exec_socket();
        let deadline = Instant::now() + COME;
        let connection = loop {
            match nsexec::begin(&socket, &exec) {
                Err(nsexec::Error::Unreachable(_)) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                begun => break begun?,
            }
        };
        // A socket that keeps messages apart, but one to wait for as for any other.
        let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(connection));
        Ok(UnixStream::from_std(socket).map_err(nsexec::Error::Io)?)
    }
}

/// Whether the process that `handle` is of, and that had this pid when it was opened, is in a container's control
/// group: then the pid is no stranger's. containerd may have lost sight of it for the moment.
fn is_of(pid: u32, handle: &Handle, cgroup: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let found = paths.any(|path| Path::new(path).starts_with(cgroup));
    found && handle.has_ended().is_ok_and(|ended| !ended)
}

/// What commands read from.
fn null() -> Result<BorrowedFd<'static>, nsexec::Error> {
    static NULL: OnceLock<File> = OnceLock::new();
    let file = match NULL.get() {
        Some(file) => file,
        None => {
            let file = File::open("/dev/null").map_err(nsexec::Error::Io)?;
            NULL.get_or_init(|| file)
        }
    };
    Ok(file.as_fd())
}

/// How the command ends.
async fn end(connection: &UnixStream) -> Result<i32, nsexec::Error> {
    loop {
        connection.readable().await.map_err(nsexec::Error::Io)?;
        match connection.try_io(Interest::READABLE, || nsexec::receive(connection)) {
            Ok(Ok((Reply::Exited { code }, _))) => return Ok(code),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(nsexec::Error::Io(error)),
        }
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout_at(deadline.into(), work).await.ok(),
    }
}

/// Where commands in a container belong. On version 2 that is what its spec says: its first process may have gone to
/// a group below.
fn groups(version: &Version, cgroup: &str, pid: u32) -> io::Result<Option<Groups>> {
    let of_process = || Ok(Cgroups::of(pid)?.and_then(|groups| groups.for_execs()));
    let Version::V2 { root } = version else {
        return of_process();
    };
    let home = root.join(Path::new(cgroup).strip_prefix("/").unwrap_or(Path::new(cgroup)));
    match home.is_dir() {
        true => Ok(Some(Groups {
            home,
            ..Groups::default()
        })),
        false => of_process(),
    }
}
