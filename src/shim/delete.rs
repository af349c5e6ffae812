//! Delete: what has ended is forgotten. Where the OCI runtime has something to tidy up, it does so in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::container::{Container, Exit, Phase};
use super::core::Shim;
use super::create::PATIENCE;
use super::ends::key;
use super::query::timestamp;
use super::record::{Record, Recorded};
use super::report;
use super::start::{no_exec, refused};
use super::underway::Beginning;
use crate::proto::shim::{events, task};
use crate::sys;
use crate::ttrpc::{Code, Status};

/// How long the OCI runtime may take to remove a container. runc itself gives one ten seconds to die.
const REMOVAL: Duration = Duration::from_secs(30);

impl Shim {
    /// Deletes a container, or with an exec id a process, that has ended. `latest` is the last creation that was asked
    /// for before.
    pub fn delete(
        self: &Arc<Self>,
        request: &task::DeleteRequest,
        latest: Beginning,
        patience: Duration,
    ) -> Result<task::DeleteResponse, Status> {
        // One whose caller went away: containerd deletes it at once, and asks only once.
        if !self.making.wait(&request.id, latest, PATIENCE) {
            return Err(Status::new(Code::DeadlineExceeded, "the container is still being made"));
        }
        let container = self.container(&request.id)?;
        if !request.exec_id.is_empty() {
            return self.delete_exec(&container, &request.exec_id);
        }
        let _work = container.work();
        // Two deletions at once: the second finds nothing any more.
        self.container(&request.id)?;
        self.end_created(&container, patience)?;
        let (record, pid, exit) = {
            let mut state = container.state();
            let exit = state.init.phase.deletable().map_err(|wrong| refused("delete", wrong))?;
            state.record.state = Recorded::Deleting;
            self.save(&state.record);
            (state.record.clone(), state.init.pid, exit.unwrap_or_else(Exit::unknown))
        };
        self.publish(&events::TaskDelete {
            container_id: record.id.clone(),
            pid,
            exit_status: exit.code.cast_unsigned(),
            exited_at: Some(timestamp(exit.at)),
            id: String::new(),
        });
        if record.hooks {
            // They may want the bundle, which is containerd's to remove once this is answered.
            self.tidy(&record);
        } else if !self.tidy_at_once(&record) {
            self.tidy_later(record);
        }
        self.drop_container(&container.id);
        self.outbox.ring();
        Ok(deleted(pid, exit))
    }

    fn delete_exec(&self, container: &Container, exec_id: &str) -> Result<task::DeleteResponse, Status> {
        let mut state = container.state();
        let process = state.process_mut(exec_id).ok_or_else(|| no_exec(exec_id))?;
        let exit = process.phase.deletable().map_err(|wrong| refused("delete", wrong))?;
        let pid = process.pid;
        self.dismiss(process);
        state.execs.remove(exec_id);
        self.consoles.detach(&key(&container.id, exec_id));
        Ok(deleted(pid, exit.unwrap_or_else(Exit::unknown)))
    }

    /// What was created and never started is killed, as the OCI runtimes' own `delete` does.
    fn end_created(&self, container: &Container, patience: Duration) -> Result<(), Status> {
        let deadline = Instant::now() + patience;
        loop {
            let state = container.state();
            match (state.init.phase, &state.init.handle) {
                (Phase::Created, Some(handle)) => drop(handle.signal(libc::SIGKILL)),
                // Restored from a checkpoint when it is started: there is no process yet.
                (Phase::Created, None) => {
                    drop(state);
                    container.state().init.phase = Phase::New;
                    return Ok(());
                }
                _ => return Ok(()),
            }
            drop(state);
            if Instant::now() > deadline {
                return Err(Status::new(Code::DeadlineExceeded, "the container does not die"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn unmount(&self, record: &Record) {
        let rootfs = record.bundle.join("rootfs");
        if let Err(error) = sys::mount::unmount(&rootfs) {
            report(&format!("cannot unmount {}: {error}", rootfs.display()));
        }
    }

    /// Removes all that is left without running the OCI runtime, where that is possible.
    fn tidy_at_once(&self, record: &Record) -> bool {
        self.unmount(record);
        if let Some(cgroups) = &record.cgroups {
            cgroups.remove();
        }
        record.runtime.forget(&self.children, &record.id) && Record::remove(&self.place, &record.id).is_ok()
    }

    pub(super) fn tidy_later(self: &Arc<Self>, record: Record) {
        let tidying = self.tidied.begin(&record.id);
        let shim = Arc::clone(self);
        self.tidying.run(move || {
            shim.tidy(&record);
            shim.tidied.end(&record.id, tidying);
            shim.outbox.ring();
        });
    }

    /// Removes all that is left of a container: processes, cgroups, the OCI runtime's and our own files.
    pub(super) fn tidy(&self, record: &Record) {
        if let Some(cgroups) = &record.cgroups
            && cgroups.pids().is_ok_and(|pids| !pids.is_empty())
        {
            self.kill_rest(Some(cgroups));
        }
        if record.runtime.knows(&record.id) {
            // In our own directory: containerd removes the bundle meanwhile.
            let directory = self.place.container(&record.id);
            let runtime = record.runtime.clone().with_patience(REMOVAL);
            let deleted = runtime.delete(&self.children, &record.id, &directory, true);
            if let Err(error) = deleted {
                report(&format!("cannot tidy up after {}: {error}", record.id));
            }
        }
        if record.cgroups.is_none() {
            remove_half_made(&record.cgroups_path);
        }
        self.unmount(record);
        if let Err(error) = Record::remove(&self.place, &record.id) {
            report(&format!("cannot forget {}: {error}", record.id));
        }
    }
}

/// Removes the cgroups of a container whose making was cut off, in cgroupfs syntax (systemd removes its own units).
fn remove_half_made(path: &str) {
    if path.trim_matches('/').is_empty() || path.contains(':') {
        return;
    }
    let removed = sys::cgroup::Version::detect().and_then(|cgroups| cgroups.remove(path));
    if let Err(error) = removed {
        report(&format!("cannot remove the cgroup {path}: {error}"));
    }
}

fn deleted(pid: u32, exit: Exit) -> task::DeleteResponse {
    task::DeleteResponse {
        pid,
        exit_status: exit.code.cast_unsigned(),
        exited_at: Some(timestamp(exit.at)),
    }
}
