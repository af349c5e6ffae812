//! Exec: a further process in a container. Added first, started by Start: without the OCI runtime ([`direct`]) where
//! that can be.

mod direct;

use std::sync::Arc;
use std::time::Duration;

use super::container::{Container, Phase, Process};
use super::core::Shim;
use super::ends::Ends;
use super::record::{self, Io, Record};
use super::refusal;
use super::runtime::Make;
use crate::proto::shim::{events, task};
use crate::sys::process::Handle;
use crate::ttrpc::{Code, Status};

impl Shim {
    /// Adds a process to a running container.
    pub fn exec(&self, request: task::ExecProcessRequest) -> Result<(), Status> {
        if !record::is_id(&request.exec_id) {
            let message = format!("{:?} is no id of a process", request.exec_id);
            return Err(Status::new(Code::InvalidArgument, message));
        }
        let container = self.container(&request.id)?;
        let mut state = container.state();
        let refuse = |why: &str| {
            Err(Status::new(
                Code::FailedPrecondition,
                format!("cannot exec in a container that {why}"),
            ))
        };
        match state.init.phase {
            _ if state.paused => return refuse("is paused"),
            Phase::Exited(_) => return refuse("has ended"),
            Phase::New => return refuse("is not there yet"),
            Phase::Created | Phase::Starting(_) | Phase::Running => {}
        }
        if state.execs.contains_key(&request.exec_id) {
            return Err(Status::new(
                Code::AlreadyExists,
                format!("process {:?} is there already", request.exec_id),
            ));
        }
        let mut process = Process::new(Io {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        });
        process.spec = request.spec.map(|any| any.value).unwrap_or_default();
        state.execs.insert(request.exec_id.clone(), process);
        self.publish(&events::TaskExecAdded {
            container_id: container.id.clone(),
            exec_id: request.exec_id,
        });
        Ok(())
    }

    pub(super) fn run_exec(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        record: &Record,
        io: &Io,
        spec: &[u8],
        patience: Duration,
    ) -> Result<u32, Status> {
        let ends = Ends::open(self, record, io)?;
        match direct::Command::of(container, record, spec) {
            Some(command) => self.run_directly(container, exec_id, &command, ends, patience),
            None => self.run_by_runtime(container, exec_id, record, ends, spec, patience),
        }
    }

    fn run_by_runtime(
        self: &Arc<Self>,
        container: &Arc<Container>,
        exec_id: &str,
        record: &Record,
        ends: Ends,
        spec: &[u8],
        patience: Duration,
    ) -> Result<u32, Status> {
        let _starting = self.starting();
        let make = Make {
            id: &record.id,
            bundle: &record.bundle,
            ends: ends.for_runtime(),
            pid_file: &self.place.container(&record.id).join(format!("{exec_id}.pid")),
        };
        let runtime = record.runtime.clone().with_patience(patience);
        let started = runtime.exec(&self.children, &make, spec);
        std::fs::remove_file(make.pid_file).ok();
        let pid = started.map_err(|error| refusal(&error))?;
        self.refuse_foreign(pid)?;
        {
            let mut state = container.state();
            let process = state
                .process_mut(exec_id)
                .expect("what is being started is not deleted");
            process.pid = pid;
            process.handle = Handle::open(pid).ok().map(Arc::new);
        }
        if let Some(dead) = self.claim(pid, &record.id, exec_id) {
            self.ended(container, exec_id, dead.into());
        }
        let kept = ends.settle(self, &record.id, exec_id)?;
        if let Some(process) = container.state().process_mut(exec_id) {
            process.kept = Some(kept);
        }
        self.exec_started(container, exec_id, pid);
        Ok(pid)
    }
}
