//! Start: the process of a container, or a further one, runs.

use std::sync::Arc;
use std::time::Duration;

use super::container::{Container, Exit, Phase, Wrong};
use super::core::Shim;
use super::ends::Ends;
use super::record::{Life, Record, Recorded};
use super::refusal;
use super::runtime::Make;
use crate::proto::shim::{events, task};
use crate::ttrpc::{Code, Status};

impl Shim {
    /// Starts a process that was created or, with an exec id, added.
    pub fn start(
        self: &Arc<Self>,
        request: task::StartRequest,
        patience: Duration,
    ) -> Result<task::StartResponse, Status> {
        let container = self.container(&request.id)?;
        let _work = container.work();
        let pid = match request.exec_id.as_str() {
            "" => self.start_init(&container, patience)?,
            exec_id => self.start_exec(&container, exec_id, patience)?,
        };
        Ok(task::StartResponse { pid })
    }

    fn start_init(self: &Arc<Self>, container: &Arc<Container>, patience: Duration) -> Result<u32, Status> {
        let (record, checkpoint) = {
            let mut state = container.state();
            // What was taken back for containerd runs already; whoever starts it has what they want.
            if state.runs_already() {
                return Ok(state.init.pid);
            }
            state.init.phase.start().map_err(|wrong| refused("start", wrong))?;
            (state.record.clone(), state.checkpoint.clone())
        };
        let started = match checkpoint {
            Some(checkpoint) => self.restore(container, &checkpoint, patience),
            None => self.let_go(container, &record, patience),
        };
        let mut state = container.state();
        if let Err(status) = started {
            let ended = state.init.phase.started();
            match ended {
                Some(exit) => self.tell_exit(&mut state, &container.id, "", exit),
                None => state.init.phase = Phase::Created,
            }
            return Err(status);
        }
        let pid = state.init.pid;
        if let Recorded::Created(life) = state.record.state {
            state.record.state = Recorded::Running(life);
            self.save(&state.record);
        }
        self.publish(&events::TaskStart {
            container_id: container.id.clone(),
            pid,
        });
        if let Some(exit) = state.init.phase.started() {
            self.tell_exit(&mut state, &container.id, "", exit);
        }
        Ok(pid)
    }

    /// Opening the FIFO at which a created process waits is all that a start is, where there are no hooks.
    fn let_go(&self, container: &Container, record: &Record, patience: Duration) -> Result<(), Status> {
        let runtime = record.runtime.clone().with_patience(patience);
        let handle = container.state().init.handle.clone();
        if let Some(handle) = handle.filter(|_| !record.hooks)
            && runtime
                .release(&self.children, &record.id, &handle)
                .map_err(|error| refusal(&error))?
        {
            return Ok(());
        }
        let started = runtime.start(&self.children, &record.id, &record.bundle);
        started.map_err(|error| refusal(&error))
    }

    fn restore(
        self: &Arc<Self>,
        container: &Arc<Container>,
        checkpoint: &str,
        patience: Duration,
    ) -> Result<(), Status> {
        let record = container.state().record.clone();
        let ends = Ends::open(self, &record, &record.io)?;
        let _starting = self.starting();
        let make = Make {
            id: &record.id,
            bundle: &record.bundle,
            ends: ends.for_runtime(),
            pid_file: &record.bundle.join("init.pid"),
        };
        let runtime = record.runtime.clone().with_patience(patience);
        let restored = runtime.restore(&self.children, &make, checkpoint.as_ref());
        let pid = restored.map_err(|error| refusal(&error))?;
        self.own(container, pid)?;
        container.state().init.kept = Some(ends.settle(self, &record.id, "")?);
        // Owning it says that it is created.
        let mut state = container.state();
        if state.init.phase == Phase::Created {
            state.init.phase = Phase::Starting(None);
        }
        Ok(())
    }

    fn start_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        patience: Duration,
    ) -> Result<u32, Status> {
        let (record, io, spec) = {
            let mut state = container.state();
            let record = state.record.clone();
            let process = state.process_mut(exec_id).ok_or_else(|| no_exec(exec_id))?;
            process.phase.start().map_err(|wrong| refused("start", wrong))?;
            (record, process.io.clone(), std::mem::take(&mut process.spec))
        };
        match self.run_exec(container, exec_id, &record, &io, &spec, patience) {
            Ok(pid) => Ok(pid),
            Err(status) => {
                let mut state = container.state();
                // For containerd, which asks for its state and deletes it, it is one that ended.
                if let Some(process) = state.process_mut(exec_id) {
                    if let Some(handle) = &process.handle {
                        handle.signal(libc::SIGKILL).ok();
                    }
                    process.connection = None;
                    process.phase.started();
                    process.phase.end(Exit::unknown());
                    self.dismiss(process);
                }
                Err(status)
            }
        }
    }

    /// Tells that a further process runs, and its end if that has come already.
    pub(super) fn exec_started(self: &Arc<Self>, container: &Arc<Container>, exec_id: &str, pid: u32) {
        let mut state = container.state();
        let life = Life::of(pid).unwrap_or(Life { pid, start_time: 0 });
        state.record.execs.insert(exec_id.to_owned(), life);
        self.save(&state.record);
        self.publish(&events::TaskExecStarted {
            container_id: container.id.clone(),
            exec_id: exec_id.to_owned(),
            pid,
        });
        let ended = state.process_mut(exec_id).and_then(|process| process.phase.started());
        if let Some(exit) = ended {
            self.tell_exit(&mut state, &container.id, exec_id, exit);
        }
    }
}

/// containerd's error for a verb that does not fit the state.
pub fn refused(verb: &str, wrong: Wrong) -> Status {
    Status::new(Code::FailedPrecondition, format!("cannot {verb}: {wrong}"))
}

pub fn no_exec(exec_id: &str) -> Status {
    Status::new(Code::NotFound, format!("process {exec_id:?} is not here"))
}
