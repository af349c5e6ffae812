//! Create: the container, all but its process running.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::cgroups::Cgroups;
use super::container::{Container, Phase, Process};
use super::core::Shim;
use super::ends::{Ends, key};
use super::record::{self, Io, Life, Record, Recorded};
use super::runtime::{Make, Options, Runtime};
use super::stdio::Kept;
use super::{failed, refusal};
use crate::proto::shim::{self as proto, events, runc, task, types};
use crate::sys;
use crate::sys::process::Handle;
use crate::sys::rootfs::Mount;
use crate::ttrpc::{Code, Status};

/// How long the OCI runtime may take for a verb when its caller sets no limit of its own.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What of an OCI spec the shim wants to know.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Spec {
    linux: Linux,
    hooks: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
    #[serde(rename = "cgroupsPath")]
    cgroups_path: String,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

impl Shim {
    /// Makes a container, or takes one back for containerd that this shim adopted.
    pub fn create(
        self: &Arc<Self>,
        request: task::CreateTaskRequest,
        patience: Duration,
    ) -> Result<task::CreateTaskResponse, Status> {
        if !record::is_id(&request.id) {
            let message = format!("{:?} is no id of a container", request.id);
            return Err(Status::new(Code::InvalidArgument, message));
        }
        if !self.tidied.wait(&request.id, self.tidied.latest(), patience) {
            let message = format!("what was left of an earlier {:?} is still being removed", request.id);
            return Err(Status::new(Code::Unavailable, message));
        }
        let record = self.intent(&request)?;
        self.refuse_unreadable(&request.id)?;
        let container = Container::new(record, Process::new(io(&request)), true);
        let _work = container.work();
        while let Err(other) = self.add(&container) {
            let claimed = other.state().claimed;
            // One that containerd gave up while it is made will be gone.
            let _work = (!claimed).then(|| other.work());
            if claimed || self.find(&other.id).is_some_and(|found| Arc::ptr_eq(&found, &other)) {
                return self.reclaim(&other, &request);
            }
        }
        let made = self.make(&container, &request, patience);
        let given_up = !container.state().claimed;
        match made {
            Ok(pid) if !given_up => Ok(task::CreateTaskResponse { pid }),
            failed => {
                self.unmake(&container);
                failed.and(Err(Status::new(
                    Code::Unavailable,
                    "containerd gave it up while it was made",
                )))
            }
        }
    }

    /// What a newer shim wrote down is not ours to write over, nor is its container ours to remove.
    fn refuse_unreadable(&self, id: &str) -> Result<(), Status> {
        match Record::read(&self.place, id) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let message = format!("what was written down of an earlier {id:?} cannot be read: {error}");
                Err(Status::new(Code::FailedPrecondition, message))
            }
            _ => Ok(()),
        }
    }

    /// What is to be made, checked as far as it can be.
    fn intent(&self, request: &task::CreateTaskRequest) -> Result<Record, Status> {
        let options = match &request.options {
            None => runc::Options::default(),
            Some(any) => match proto::unpack::<runc::Options>(any) {
                Some(Ok(options)) => options,
                _ if any.value.is_empty() => runc::Options::default(),
                _ => {
                    let message = format!("options of the type {:?} are not understood", any.type_url);
                    return Err(Status::new(Code::InvalidArgument, message));
                }
            },
        };
        let bundle = Path::new(&request.bundle);
        let spec = fs::read(bundle.join("config.json")).map_err(failed("read the bundle's config.json"))?;
        let spec: Spec = serde_json::from_slice(&spec)
            .map_err(|error| Status::new(Code::InvalidArgument, format!("the bundle's config.json: {error}")))?;
        let own_pids = spec
            .linux
            .namespaces
            .iter()
            .any(|it| it.kind == "pid" && it.path.is_empty());
        Ok(Record {
            version: record::VERSION,
            id: request.id.clone(),
            namespace: self.namespace.clone(),
            boot_id: sys::boot_id().map_err(failed("read the boot id"))?,
            bundle: bundle.to_owned(),
            io_owner: (options.io_uid, options.io_gid),
            runtime: Runtime::new(runtime_options(options), &self.namespace),
            io: io(request),
            own_pids,
            hooks: spec.hooks.is_some_and(|hooks| !hooks.is_empty()),
            stdin_closed: false,
            cgroups: None,
            cgroups_path: spec.linux.cgroups_path,
            state: Recorded::Creating,
            execs: Default::default(),
        })
    }

    fn make(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: &task::CreateTaskRequest,
        patience: Duration,
    ) -> Result<u32, Status> {
        let record = container.state().record.clone();
        record
            .save(&self.place)
            .map_err(failed("write down what is to be made"))?;
        mount(&request.rootfs, &record.bundle.join("rootfs"))?;
        container.state().mounted = !request.rootfs.is_empty();
        let pid = if request.checkpoint.is_empty() {
            self.create_process(container, &record, patience)?
        } else {
            container.state().checkpoint = Some(request.checkpoint.clone());
            container.state().init.phase = Phase::Created;
            0
        };
        self.tell_created(container, request, pid);
        Ok(pid)
    }

    fn create_process(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        patience: Duration,
    ) -> Result<u32, Status> {
        let ends = Ends::open(self, record, &record.io)?;
        let _starting = self.starting();
        let make = Make {
            id: &record.id,
            bundle: &record.bundle,
            ends: ends.for_runtime(),
            // As the stock shim has it; other tools look there.
            pid_file: &record.bundle.join("init.pid"),
        };
        let runtime = record.runtime.clone().with_patience(patience);
        let pid = runtime.create(&self.children, &make).map_err(|error| refusal(&error))?;
        self.own(container, pid)?;
        container.state().init.kept = Some(ends.settle(self, &record.id, "")?);
        Ok(pid)
    }

    /// Takes the first process of a container as ours, from when it has a pid. What is not written down would be unmade
    /// by the next shim.
    pub(super) fn own(self: &Arc<Self>, container: &Arc<Container>, pid: u32) -> Result<(), Status> {
        self.refuse_foreign(pid)?;
        let handle = Handle::open(pid).ok().map(Arc::new);
        let cgroups = Cgroups::of(pid).ok().flatten();
        {
            let mut state = container.state();
            let life = Life::of(pid).unwrap_or(Life { pid, start_time: 0 });
            state.init.pid = pid;
            state.init.handle = handle;
            state.init.phase = Phase::Created;
            state.record.state = Recorded::Created(life);
            state.record.cgroups = cgroups;
            let saved = state.record.save(&self.place);
            saved.map_err(failed("write down what was made"))?;
        }
        self.watch_oom(container);
        if let Some(dead) = self.claim(pid, &container.id, "") {
            self.ended(container, "", dead.into());
        }
        Ok(())
    }

    /// A pid that an OCI runtime told must be that of a process it started.
    pub(super) fn refuse_foreign(&self, pid: u32) -> Result<(), Status> {
        if self.is_ours(pid) {
            return Ok(());
        }
        let message = format!("the OCI runtime told the pid {pid}, which is no process that it started");
        Err(Status::new(Code::Unknown, message))
    }

    fn tell_created(&self, container: &Container, request: &task::CreateTaskRequest, pid: u32) {
        self.publish(&events::TaskCreate {
            container_id: container.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(events::TaskIo {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint.clone(),
            pid,
        });
    }

    /// Undoes what was made of a container that could not be made, in any state. Its work is held.
    pub(super) fn unmake(self: &Arc<Self>, container: &Arc<Container>) {
        let (record, handle, kept) = {
            let mut state = container.state();
            (state.record.clone(), state.init.handle.clone(), state.init.kept.take())
        };
        kept.into_iter().for_each(Kept::abandon);
        if let Some(handle) = handle {
            handle.signal(libc::SIGKILL).ok();
        }
        self.consoles.detach(&key(&record.id, ""));
        // containerd removes the bundle as soon as it is told.
        self.unmount(&record);
        self.tidy_later(record);
        self.drop_container(&container.id);
        self.outbox.ring();
    }
}

fn io(request: &task::CreateTaskRequest) -> Io {
    Io {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn runtime_options(options: runc::Options) -> Options {
    Options {
        binary: options.binary_name,
        root: options.root,
        systemd_cgroup: options.systemd_cgroup,
        no_pivot_root: options.no_pivot_root,
        no_new_keyring: options.no_new_keyring,
        criu_work: options.criu_work_path,
    }
}

/// Makes the mounts of a root file system, one over the other.
fn mount(mounts: &[types::Mount], rootfs: &Path) -> Result<(), Status> {
    for mount in mounts {
        fs::create_dir_all(rootfs).map_err(failed("make the root directory"))?;
        let wanted = Mount {
            fs_type: mount.r#type.clone(),
            source: mount.source.clone(),
            options: mount.options.clone(),
        };
        let at = match mount.target.trim_start_matches('/') {
            "" => rootfs.to_owned(),
            target => rootfs.join(target),
        };
        sys::mount::filesystem(&wanted, &at)
            .map_err(|error| failed(&format!("mount {} at {}", wanted.source, at.display()))(error))?;
    }
    Ok(())
}
