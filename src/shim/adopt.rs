//! Adoption: a new shim takes over what a killed one left.
//!
//! Containers live on when their shim is killed: they hold their own FIFOs, and the kernel gives their processes
//! another parent. The next shim reads the records, finds each process again by its pid and start time, and holds a
//! pidfd of it. containerd has forgotten the tasks by then (it called `delete`, see [`super::front`]); a Create of the
//! same id makes it know them again. What a killed shim was in the middle of making is unmade.
//!
//! An exit code goes to the parent, so that of an adopted container is asked of its pidfd (PIDFD_GET_INFO, Linux
//! 6.15). Of one that ended while no shim was there, only a pidfd that somebody else kept can tell: berth keeps one,
//! and hands it over ([`Shim::hand`]). Otherwise its end is unknown, and its code 255.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::container::{Container, Exit, Phase, Process};
use super::core::Shim;
use super::ends::key;
use super::exit::exit_code;
use super::record::{Life, Record, Recorded};
use super::stdio::Kept;
use super::{failed, report};
use crate::proto::shim::{events, task};
use crate::sys;
use crate::sys::process::{self, Handle};
use crate::ttrpc::{Code, Status};

/// How long runs of the OCI runtime may take to be gone once they are killed.
const RUNS: Duration = Duration::from_secs(1);

impl Shim {
    /// Takes over what the place's records tell of. To be called once, before anybody is served.
    pub fn adopt(self: &Arc<Self>) {
        let (records, complaints) = match Record::load(&self.place) {
            Ok(loaded) => loaded,
            Err(error) => return report(&format!("cannot read what an earlier shim wrote down: {error}")),
        };
        complaints.iter().for_each(|complaint| report(complaint));
        end_runs(&records);
        for record in records {
            match record.state.clone() {
                Recorded::Creating | Recorded::Deleting => self.tidy_later(record),
                Recorded::Created(life) | Recorded::Running(life) => self.adopt_process(record, life),
                Recorded::Exited { pid, code, at, known } => {
                    self.take(record, pid, None, Phase::Exited(Exit { code, at, known }));
                }
            }
        }
    }

    fn adopt_process(self: &Arc<Self>, mut record: Record, life: Life) {
        for (exec_id, life) in std::mem::take(&mut record.execs) {
            report(&format!(
                "ending process {exec_id} in {}, which an earlier shim started",
                record.id
            ));
            end(life);
        }
        self.end_unrecorded(&record);
        // In this order: a pid that is used again between the two shows a later start.
        let handle = Handle::open(life.pid).ok();
        let handle = handle.filter(|_| life.is_alive()).map(Arc::new);
        let phase = match &handle {
            Some(_) if record.runtime.is_waiting(&record.id, life.pid) => Phase::Created,
            Some(_) => Phase::Running,
            // Told by whoever kept a handle of it, if anybody did.
            None => Phase::Exited(Exit::unknown()),
        };
        if let Phase::Exited(exit) = phase {
            record.state = Recorded::Exited {
                pid: life.pid,
                code: exit.code,
                at: exit.at,
                known: exit.known,
            };
        }
        self.save(&record);
        let container = self.take(record, life.pid, handle.clone(), phase);
        if let Some(handle) = handle {
            self.watch_end(&container, handle);
            self.watch_oom(&container);
        }
    }

    /// Ends a process in the container that an earlier shim had started and not written down yet: all that there is of
    /// it is the file with its pid.
    fn end_unrecorded(&self, record: &Record) {
        let files = std::fs::read_dir(self.place.container(&record.id))
            .into_iter()
            .flatten()
            .flatten();
        let files = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|it| it == "pid"));
        let inside = record
            .cgroups
            .as_ref()
            .and_then(|cgroups| cgroups.pids().ok())
            .unwrap_or_default();
        for file in files {
            let pid = std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.filter(|pid| inside.contains(pid)) {
                process::descendants(pid)
                    .into_iter()
                    .chain([pid])
                    .for_each(process::kill);
            }
            std::fs::remove_file(file).ok();
        }
    }

    fn take(self: &Arc<Self>, record: Record, pid: u32, handle: Option<Arc<Handle>>, phase: Phase) -> Arc<Container> {
        report(&format!("took over {} (pid {pid}, {phase:?})", record.id));
        let mut process = Process::new(record.io.clone());
        (process.pid, process.phase) = (pid, phase);
        process.handle = handle;
        if phase.exit().is_none() && !record.stdin_closed && !record.io.terminal {
            process.kept = Some(Kept::adopt(&record.io.stdin));
        }
        let container = Container::new(record, process, false);
        self.add(&container).expect("each record has an id of its own");
        container
    }

    /// Descriptors that somebody else kept of an adopted container: a pidfd of its first process, and its terminal.
    pub fn hand(self: &Arc<Self>, id: &str, pidfd: OwnedFd, terminal: Option<OwnedFd>) -> Result<(), Status> {
        let container = self.container(id)?;
        let handle = Arc::new(Handle::from(pidfd));
        let (record, unknown) = {
            let state = container.state();
            if !state.adopted {
                return Ok(());
            }
            let unknown = matches!(state.init.phase, Phase::Exited(exit) if !exit.known);
            (state.record.clone(), unknown)
        };
        if let Some(terminal) = terminal
            && matches!(self.consoles.master(&key(id, "")), Ok(None))
        {
            self.adopt_terminal(&record, terminal)
                .map_err(failed("serve the terminal"))?;
        }
        if unknown && let Some(code) = exit_code(&handle) {
            let mut state = container.state();
            if let Phase::Exited(exit) = &mut state.init.phase {
                (exit.code, exit.known) = (code, true);
            }
            if let Recorded::Exited { code: kept, known, .. } = &mut state.record.state {
                (*kept, *known) = (code, true);
            }
            self.save(&state.record);
        }
        Ok(())
    }

    /// A Create for an id that is here: containerd takes back what it forgot, or is told that it has it.
    pub(super) fn reclaim(
        &self,
        container: &Container,
        request: &task::CreateTaskRequest,
    ) -> Result<task::CreateTaskResponse, Status> {
        let mut state = container.state();
        if state.claimed {
            return Err(Status::new(
                Code::AlreadyExists,
                format!("container {:?} is here already", container.id),
            ));
        }
        state.claimed = true;
        state.reclaimed = true;
        state.record.bundle = request.bundle.clone().into();
        self.save(&state.record);
        let pid = state.init.pid;
        report(&format!("containerd took {} back (pid {pid})", container.id));
        self.publish(&events::TaskCreate {
            container_id: container.id.clone(),
            bundle: request.bundle.clone(),
            pid,
            ..Default::default()
        });
        if state.init.phase == Phase::Running {
            self.publish(&events::TaskStart {
                container_id: container.id.clone(),
                pid,
            });
        }
        Ok(task::CreateTaskResponse { pid })
    }

    /// Removes the bundle of a container that containerd has given up. Whether there is such a container.
    pub fn unbundle(&self, id: &str) -> io::Result<bool> {
        let Some(container) = self.find(id) else {
            return Ok(false);
        };
        let _work = container.work();
        let (claimed, bundle) = {
            let state = container.state();
            (state.claimed, state.record.bundle.clone())
        };
        if claimed {
            return Err(io::Error::other("containerd has taken it back"));
        }
        sys::mount::unmount(&bundle.join("rootfs"))?;
        match std::fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        }
    }

    /// containerd has given a container up. It stays, so that it can be taken back. Whether there is one.
    pub fn disown(&self, id: &str) -> bool {
        let Some(container) = self.find(id) else { return false };
        container.state().claimed = false;
        true
    }
}

/// Ends runs of the OCI runtime that an earlier shim began, with all that they started: what they make nobody asked us
/// for. Waits a moment for them to be gone, so that they do not meet what is made next.
fn end_runs(records: &[Record]) {
    let is_run = |pid: &u32| {
        let words = process::command_line(*pid);
        records.iter().any(|record| record.runtime.makes(&words, &record.id))
    };
    let end = Instant::now() + RUNS;
    loop {
        let runs: Vec<u32> = process::all().filter(is_run).collect();
        if runs.is_empty() || Instant::now() > end {
            return;
        }
        for run in runs {
            process::pause(run);
            process::descendants(run)
                .into_iter()
                .chain([run])
                .for_each(process::kill);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Kills a process of an earlier shim's if it is that one still.
fn end(life: Life) {
    if let Ok(handle) = Handle::open(life.pid)
        && life.is_alive()
    {
        for pid in process::descendants(life.pid) {
            process::kill(pid);
        }
        handle.signal(libc::SIGKILL).ok();
    }
}
