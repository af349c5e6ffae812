//! The end of a process: written down, told, and only then is its pid given back to the kernel.

use std::sync::Arc;

use super::container::{Container, Exit, State};
use super::core::Shim;
use super::ends::key;
use super::query::timestamp;
use super::record::Recorded;
use super::report;
use super::stdio::Kept;
use crate::proto::shim::events;
use crate::sys::children;
use crate::sys::process::Handle;

/// How long the kernel may take from a process' end to its exit status, which whoever inherited it must collect.
const COLLECTED: std::time::Duration = std::time::Duration::from_secs(1);

impl Shim {
    /// Takes note of all children that have ended.
    pub fn reap(self: &Arc<Self>) {
        loop {
            match self.children.next_dead() {
                Ok(None) => return,
                Ok(Some(dead)) => {
                    if let Some((id, exec_id)) = self.owner(&dead)
                        && let Some(container) = self.find(&id)
                    {
                        self.ended(&container, &exec_id, dead.into());
                    }
                    // Not before: killed up to here, the next shim finds a zombie's code.
                    children::bury(dead.pid).ok();
                }
                Err(error) => return report(&format!("cannot wait for children: {error}")),
            }
        }
    }

    /// A process of a container has ended.
    pub(super) fn ended(self: &Arc<Self>, container: &Arc<Container>, exec_id: &str, exit: Exit) {
        let mut state = container.state();
        if exec_id.is_empty() {
            state.record.state = Recorded::Exited {
                pid: state.init.pid,
                code: exit.code,
                at: exit.at,
                known: exit.known,
            };
        } else {
            state.record.execs.remove(exec_id);
        }
        self.save(&state.record);
        let tell = state
            .process_mut(exec_id)
            .is_some_and(|process| process.phase.end(exit));
        if tell {
            self.tell_exit(&mut state, &container.id, exec_id, exit);
        }
        if exec_id.is_empty() && !state.record.own_pids {
            let (shim, cgroups) = (Arc::clone(self), state.record.cgroups.clone());
            // As containerd's own shim: what shares its PID namespace with others does not outlive its first process.
            self.jobs.run(move || shim.kill_rest(cgroups.as_ref()));
        }
    }

    /// Tells the end of a process to all who want to know.
    pub(super) fn tell_exit(&self, state: &mut State, id: &str, exec_id: &str, exit: Exit) {
        let Some(process) = state.process_mut(exec_id) else {
            return;
        };
        let kept = process.kept.take();
        let (pid, waiters) = (process.pid, std::mem::take(&mut process.waiters));
        self.consoles.finished(&key(id, exec_id));
        if let Some(kept) = kept.filter(Kept::has_logger) {
            // It may have something to write still.
            self.tidying.run(move || kept.finish());
        }
        self.publish(&events::TaskExit {
            container_id: id.to_owned(),
            id: if exec_id.is_empty() { id } else { exec_id }.to_owned(),
            pid,
            exit_status: exit.code.cast_unsigned(),
            exited_at: Some(timestamp(exit.at)),
        });
        self.answer_waiters(waiters, exit);
    }

    /// The first process of a container that we took over has ended. It is not our child: the kernel may tell how it
    /// ended (Linux 6.15), or nobody can.
    pub(super) fn adopted_ended(self: &Arc<Self>, container: &Arc<Container>) {
        let handle = container.state().init.handle.clone();
        let exit = match handle.and_then(|handle| exit_code(&handle)) {
            Some(code) => Exit {
                code,
                at: now(),
                known: true,
            },
            None => Exit::unknown(),
        };
        self.ended(container, "", exit);
    }
}

/// The code of a process that has ended, if it can still be known. Waits a moment for it to be collected.
pub fn exit_code(handle: &Handle) -> Option<i32> {
    let deadline = std::time::Instant::now() + COLLECTED;
    loop {
        match handle.exit_info() {
            Ok(Some(code)) => return Some(code),
            Ok(None) if std::time::Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}
