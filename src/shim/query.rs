//! What is asked and not changed: State, Pids, Stats, Wait, Connect.

use prost::Message;
use prost_types::Timestamp;

use super::container::{Exit, Phase, Waiter};
use super::core::Shim;
use super::failed;
use super::start::no_exec;
use super::stats;
use crate::proto::shim::{self as proto, process, runc, task};
use crate::ttrpc::{Code, Status};

/// How many calls may wait for the end of one process.
const MAX_WAITERS: usize = 4096;

impl Shim {
    pub fn state(&self, request: &task::StateRequest) -> Result<task::StateResponse, Status> {
        let container = self.container(&request.id)?;
        let state = container.state();
        let process = state
            .process(&request.exec_id)
            .ok_or_else(|| no_exec(&request.exec_id))?;
        let status = match process.phase {
            Phase::Exited(_) => process::Status::Stopped,
            _ if state.paused => process::Status::Paused,
            Phase::New | Phase::Created | Phase::Starting(_) => process::Status::Created,
            Phase::Running => process::Status::Running,
        };
        let exit = process.phase.exit();
        Ok(task::StateResponse {
            id: if request.exec_id.is_empty() {
                &request.id
            } else {
                &request.exec_id
            }
            .clone(),
            bundle: state.record.bundle.display().to_string(),
            pid: process.pid,
            status: status.into(),
            stdin: process.io.stdin.clone(),
            stdout: process.io.stdout.clone(),
            stderr: process.io.stderr.clone(),
            terminal: process.io.terminal,
            exit_status: exit.map_or(0, |exit| exit.code.cast_unsigned()),
            exited_at: exit.map(|exit| timestamp(exit.at)),
            exec_id: request.exec_id.clone(),
        })
    }

    pub fn pids(&self, request: &task::PidsRequest) -> Result<task::PidsResponse, Status> {
        let container = self.container(&request.id)?;
        let (cgroups, execs, init) = {
            let state = container.state();
            let execs = state.execs.iter().map(|(id, process)| (process.pid, id.clone()));
            let init = state.init.pid;
            (state.record.cgroups.clone(), execs.collect::<Vec<_>>(), init)
        };
        let pids = cgroups.map_or(Ok(Vec::new()), |cgroups| cgroups.pids());
        let mut pids = pids.map_err(failed("list the container's processes"))?;
        // containerd 2 that starts again takes a task without processes for a shim's leftover, and cleans it away: one
        // that has ended is not to be lost with its code (core/runtime/v2/shim_load.go).
        if pids.is_empty() && init != 0 {
            pids.push(init);
        }
        let describe = |pid| {
            let exec = execs.iter().find(|(of, _)| *of == pid);
            let details = exec.map(|(_, id)| proto::pack(&runc::ProcessDetails { exec_id: id.clone() }));
            process::ProcessInfo { pid, info: details }
        };
        Ok(task::PidsResponse {
            processes: pids.into_iter().map(describe).collect(),
        })
    }

    pub fn stats(&self, request: &task::StatsRequest) -> Result<task::StatsResponse, Status> {
        let container = self.container(&request.id)?;
        let cgroups = container.state().record.cgroups.clone();
        let cgroups = cgroups.ok_or_else(|| Status::new(Code::NotFound, "the container has no cgroup"))?;
        let metrics = stats::metrics(&cgroups).map_err(failed("read the container's cgroup"))?;
        Ok(task::StatsResponse { stats: Some(metrics) })
    }

    /// The end of a process. None: it has not ended; the waiter is answered when it does.
    pub fn wait(&self, request: &task::WaitRequest, waiter: Waiter) -> Result<Option<Vec<u8>>, Status> {
        let container = self.container(&request.id)?;
        let mut state = container.state();
        let process = state
            .process_mut(&request.exec_id)
            .ok_or_else(|| no_exec(&request.exec_id))?;
        if let Some(exit) = process.phase.exit() {
            return Ok(Some(waited(exit)));
        }
        if process.waiters.len() >= MAX_WAITERS {
            let message = format!("{MAX_WAITERS} calls wait for the process already");
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        process.waiters.push(waiter);
        Ok(None)
    }

    pub fn connect(&self, request: &task::ConnectRequest) -> Result<task::ConnectResponse, Status> {
        let task_pid = self.container(&request.id)?.state().init.pid;
        Ok(task::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// The answer to Wait.
pub fn waited(exit: Exit) -> Vec<u8> {
    let response = task::WaitResponse {
        exit_status: exit.code.cast_unsigned(),
        exited_at: Some(timestamp(exit.at)),
    };
    response.encode_to_vec()
}

/// From nanoseconds since the Unix epoch.
pub fn timestamp(at: i64) -> Timestamp {
    Timestamp {
        seconds: at.div_euclid(1_000_000_000),
        nanos: i32::try_from(at.rem_euclid(1_000_000_000)).expect("less than a second"),
    }
}
