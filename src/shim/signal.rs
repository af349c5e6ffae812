//! What is done to a container that runs: Kill, Pause, Resume, Update, ResizePty, CloseIO.

use std::sync::Arc;
use std::time::Duration;

use super::cgroups::Cgroups;
use super::container::{Phase, Wrong};
use super::core::Shim;
use super::ends::key;
use super::start::{no_exec, refused};
use super::{failed, refusal, report};
use crate::proto::shim::{events, task};
use crate::sys::process::Handle;
use crate::ttrpc::{Code, Status};

/// The last of the real-time signals (signal(7)).
const MAX_SIGNAL: i32 = 64;

impl Shim {
    /// Sends a signal by pidfd: nobody else's process can be hit.
    pub fn kill(self: &Arc<Self>, request: &task::KillRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|signal| *signal <= MAX_SIGNAL);
        let signal = signal.ok_or_else(|| {
            let message = format!("{} is no signal", request.signal);
            Status::new(Code::InvalidArgument, message)
        })?;
        let (handle, cgroups, own_pids, paused) = {
            let state = container.state();
            let process = state
                .process(&request.exec_id)
                .ok_or_else(|| no_exec(&request.exec_id))?;
            match process.phase {
                Phase::Exited(_) => return Err(Status::new(Code::NotFound, "the process has ended already")),
                Phase::New => return Err(refused("kill", Wrong::NotYet)),
                Phase::Created | Phase::Starting(_) | Phase::Running => {}
            }
            let record = &state.record;
            (
                process.handle.clone(),
                record.cgroups.clone(),
                record.own_pids,
                state.paused,
            )
        };
        // The death of a PID namespace's first process is that of all in it.
        let one_is_all = own_pids && signal == libc::SIGKILL;
        if request.all && request.exec_id.is_empty() && !one_is_all {
            for pid in cgroups.iter().flat_map(|cgroups| cgroups.pids().unwrap_or_default()) {
                Handle::open(pid).and_then(|handle| handle.signal(signal)).ok();
            }
        }
        match handle.map(|handle| handle.signal(signal)) {
            Some(Err(error)) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(failed("send the signal")(error));
            }
            _ => {}
        }
        if paused && signal == libc::SIGKILL {
            // On cgroup v1 what is frozen does not even die.
            let (shim, id) = (Arc::clone(self), request.id.clone());
            self.jobs
                .run(move || drop(shim.resume(&task::ResumeRequest { id }, super::create::PATIENCE)));
        }
        Ok(())
    }

    /// Kills what is left in a container's cgroups.
    pub(super) fn kill_rest(&self, cgroups: Option<&Cgroups>) {
        match cgroups.map(Cgroups::kill_all) {
            Some(Err(error)) => report(&format!("cannot kill the rest of a container: {error}")),
            Some(Ok(false)) => report("the rest of a container does not die"),
            Some(Ok(true)) | None => {}
        }
    }

    pub fn pause(&self, request: &task::PauseRequest, patience: Duration) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let _work = container.work();
        let record = {
            let state = container.state();
            match state.init.phase {
                Phase::Running if !state.paused => state.record.clone(),
                Phase::Exited(_) => return Err(refused("pause", Wrong::Ended)),
                Phase::Running => return Err(Status::new(Code::FailedPrecondition, "the container is paused already")),
                _ => return Err(refused("pause", Wrong::NotYet)),
            }
        };
        let runtime = record.runtime.clone().with_patience(patience);
        let paused = runtime.pause(&self.children, &record.id, &record.bundle);
        paused.map_err(|error| refusal(&error))?;
        container.state().paused = true;
        self.publish(&events::TaskPaused {
            container_id: container.id.clone(),
        });
        Ok(())
    }

    pub fn resume(&self, request: &task::ResumeRequest, patience: Duration) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let _work = container.work();
        let record = {
            let state = container.state();
            if !state.paused {
                return Err(Status::new(Code::FailedPrecondition, "the container is not paused"));
            }
            state.record.clone()
        };
        let runtime = record.runtime.clone().with_patience(patience);
        let resumed = runtime.resume(&self.children, &record.id, &record.bundle);
        resumed.map_err(|error| refusal(&error))?;
        container.state().paused = false;
        self.publish(&events::TaskResumed {
            container_id: container.id.clone(),
        });
        Ok(())
    }

    /// Changes a container's limits. They are OCI's `LinuxResources` as JSON.
    pub fn update(&self, request: &task::UpdateTaskRequest, patience: Duration) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let _work = container.work();
        let record = {
            let state = container.state();
            if state.init.phase.exit().is_some() {
                return Err(refused("update", Wrong::Ended));
            }
            state.record.clone()
        };
        let resources = request.resources.as_ref().map(|any| any.value.as_slice());
        let resources = resources.ok_or_else(|| Status::new(Code::InvalidArgument, "resources: missing"))?;
        let runtime = record.runtime.clone().with_patience(patience);
        let updated = runtime.update(&self.children, &record.id, &record.bundle, resources);
        updated.map_err(|error| refusal(&error))
    }

    /// None of its business where there is no terminal, as with containerd's own shim.
    pub fn resize_pty(&self, request: &task::ResizePtyRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let terminal = {
            let state = container.state();
            let process = state
                .process(&request.exec_id)
                .ok_or_else(|| no_exec(&request.exec_id))?;
            process.io.terminal && process.phase.exit().is_none()
        };
        if !terminal {
            return Ok(());
        }
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let key = key(&request.id, &request.exec_id);
        let resized = self.consoles.resize(&key, side(request.width), side(request.height));
        resized.map(drop).map_err(failed("resize the terminal"))
    }

    /// Lets go of the end of stdin that was kept open, so that the process sees its end when the client's is closed.
    pub fn close_io(&self, request: &task::CloseIoRequest) -> Result<(), Status> {
        let container = self.container(&request.id)?;
        let mut state = container.state();
        if !request.stdin {
            return Ok(());
        }
        if request.exec_id.is_empty() {
            state.record.stdin_closed = true;
            self.save(&state.record);
        }
        let process = state
            .process_mut(&request.exec_id)
            .ok_or_else(|| no_exec(&request.exec_id))?;
        if let Some(kept) = &mut process.kept {
            kept.close_stdin();
        }
        self.consoles.close_stdin(&key(&request.id, &request.exec_id));
        Ok(())
    }
}
