//! Further processes without the OCI runtime ([`crate::nsexec`]).

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::{Process as Spec, Spec as ContainerSpec};

use crate::nsexec::{self, Connection, Exec, Groups, Program, Reply, Setting};
use crate::shim::container::{Container, Exit};
use crate::shim::core::Shim;
use crate::shim::ends::Ends;
use crate::shim::failed;
use crate::shim::record::Record;
use crate::sys::process::Handle;
use crate::ttrpc::{Code, Status};

/// What is run, and how.
pub struct Command {
    setting: Arc<Setting>,
    program: Program,
    groups: Groups,
    init: Arc<Handle>,
}

impl Command {
    /// The process `spec`, OCI's as JSON. None: the OCI runtime has to run it, or to say what is wrong with it.
    pub fn of(container: &Container, record: &Record, spec: &[u8]) -> Option<Self> {
        let setting = setting(container, record)?;
        let spec: Spec = serde_json::from_slice(spec).ok()?;
        let init = container.state().init.handle.clone()?;
        Some(Self {
            program: setting.program(&spec).ok()?,
            groups: record.cgroups.as_ref()?.for_execs()?,
            setting,
            init,
        })
    }
}

/// What the processes of a container have in common; found out once.
fn setting(container: &Container, record: &Record) -> Option<Arc<Setting>> {
    if let Some(known) = &container.state().setting {
        return known.clone();
    }
    let setting = read(record).map(Arc::new);
    container.state().setting = Some(setting.clone());
    setting
}

fn read(record: &Record) -> Option<Setting> {
    if !record.runtime.is_joinable() {
        return None;
    }
    let text = fs::read(record.bundle.join("config.json")).ok()?;
    let spec: ContainerSpec = serde_json::from_slice(&text).ok()?;
    Setting::of(&spec, record.runtime.keyring(&record.id)).ok()
}

impl Shim {
    pub(super) fn run_directly(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        command: &Command,
        ends: Ends,
        patience: Duration,
    ) -> Result<u32, Status> {
        let home = File::open(&command.groups.home).map_err(failed("open the container's control group"))?;
        let exec = Exec {
            program: &command.program,
            groups: &command.groups,
            home: home.as_fd(),
            init: command.init.as_fd(),
            stdio: ends.files(),
            filter: command.setting.filter.as_deref(),
        };
        let connection = nsexec::begin(&self.place.exec_socket(), &exec).map_err(refusal)?;
        let (pid, fds) = match connection.wait(patience) {
            Some(Ok((Reply::Started { pid }, fds))) => (pid, fds),
            Some(Ok(_)) => return Err(Status::new(Code::Internal, "the command was answered out of turn")),
            Some(Err(error)) => return Err(refusal(error)),
            None => {
                let message = format!("the command did not start within {} s", patience.as_secs_f32());
                return Err(Status::new(Code::DeadlineExceeded, message));
            }
        };
        let (handle, master) = sort(fds, command.program.terminal.is_some());
        let connection = Arc::new(connection);
        {
            let mut state = container.state();
            let process = state
                .process_mut(exec_id)
                .expect("what is being started is not deleted");
            process.pid = pid;
            process.handle = handle.map(|handle| Arc::new(Handle::from(handle)));
            process.connection = Some(Arc::clone(&connection));
        }
        let kept = ends.settle_with(self, &container.id, exec_id, master)?;
        if let Some(process) = container.state().process_mut(exec_id) {
            process.kept = Some(kept);
        }
        self.exec_started(container, exec_id, pid);
        self.watch_command(container, exec_id, &connection);
        Ok(pid)
    }

    /// There is something to hear of a process. Whether there is more to come.
    pub(in crate::shim) fn on_command(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        connection: &Arc<Connection>,
    ) -> bool {
        let exit = match nsexec::receive(&**connection) {
            Err(_) | Ok(Ok((Reply::Started { .. } | Reply::Failed(_), _))) => return true,
            Ok(Ok((Reply::Exited { code }, _))) => Exit {
                code,
                at: crate::shim::exit::now(),
                known: true,
            },
            Ok(Err(_)) => Exit::unknown(),
        };
        if let Some(process) = container.state().process_mut(exec_id) {
            process.connection = None;
        }
        self.ended(container, exec_id, exit);
        false
    }
}

/// A handle of the process, which one that has been reaped does not have, and its terminal.
fn sort(fds: Vec<OwnedFd>, terminal: bool) -> (Option<OwnedFd>, Option<OwnedFd>) {
    let mut fds = fds;
    let master = if terminal { fds.pop() } else { None };
    (fds.pop(), master)
}

fn refusal(error: nsexec::Error) -> Status {
    let code = match &error {
        nsexec::Error::Failed(_) | nsexec::Error::Io(_) => Code::Unknown,
        nsexec::Error::Unreachable(_) | nsexec::Error::Lost => Code::Unavailable,
    };
    // In the words of containerd's own shim and of runc, because people search for those.
    let message = format!("OCI runtime exec failed: exec failed: unable to start container process: {error}");
    Status::new(code, message)
}
