//! A container and its processes, as the shim knows them: where each is in its life, and who waits for its end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::record::{Io, Record};
use super::stdio::Kept;
use crate::nsexec::{Connection, Setting};
use crate::sys::children::Dead;
use crate::sys::process::Handle;

/// The code of an end that nobody can know any more.
const UNKNOWN: i32 = 255;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// As a shell has it: 128 and the signal's number for one that a signal ended.
    pub code: i32,
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    /// Whether that is how it ended; else nobody can know any more.
    pub known: bool,
}

impl Exit {
    /// The end, at about this moment, of a process whose code nobody can know any more.
    pub fn unknown() -> Self {
        Self {
            code: UNKNOWN,
            at: super::exit::now(),
            known: false,
        }
    }
}

impl From<Dead> for Exit {
    fn from(dead: Dead) -> Self {
        Self {
            code: dead.code,
            at: dead.at,
            known: true,
        }
    }
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Asked for; it has no pid yet.
    New,
    /// Made by the OCI runtime, not started.
    Created,
    /// Being started. If it ends before its start has been told, its end is kept here.
    Starting(Option<Exit>),
    Running,
    Exited(Exit),
}

/// Why a process is not in the phase that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("the process is not there yet")]
    NotYet,
    #[error("the process has been started already")]
    Started,
    #[error("the process has ended")]
    Ended,
    #[error("the process has not ended")]
    Alive,
}

impl Phase {
    /// Before the process is started.
    pub fn start(&mut self) -> Result<(), Wrong> {
        match self {
            Self::New | Self::Created => {
                *self = Self::Starting(None);
                Ok(())
            }
            Self::Starting(_) | Self::Running => Err(Wrong::Started),
            Self::Exited(_) => Err(Wrong::Ended),
        }
    }

    /// After it was started, and that was told. Gives its end if it has ended already, which is to be told now.
    pub fn started(&mut self) -> Option<Exit> {
        let Self::Starting(ended) = *self else {
            return None;
        };
        *self = ended.map_or(Self::Running, Self::Exited);
        ended
    }

    /// It has ended. Whether that is to be told now; else [`Self::started`] will say.
    pub fn end(&mut self, exit: Exit) -> bool {
        match self {
            Self::Starting(ended) => {
                ended.get_or_insert(exit);
                false
            }
            Self::Exited(_) => false,
            Self::New | Self::Created | Self::Running => {
                *self = Self::Exited(exit);
                true
            }
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Exited(exit) => Some(*exit),
            _ => None,
        }
    }

    /// Whether it may be deleted: it has ended, or never was.
    pub fn deletable(&self) -> Result<Option<Exit>, Wrong> {
        match self {
            Self::Exited(exit) => Ok(Some(*exit)),
            Self::New => Ok(None),
            Self::Created | Self::Starting(_) | Self::Running => Err(Wrong::Alive),
        }
    }
}

/// Somebody who waits for the end of a process: a stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    pub connection: u64,
    pub stream: u32,
}

/// A process in a container.
#[derive(Debug)]
pub struct Process {
    pub phase: Phase,
    /// 0 before it has one.
    pub pid: u32,
    pub handle: Option<Arc<Handle>>,
    pub io: Io,
    /// What is held open for it.
    pub kept: Option<Kept>,
    pub waiters: Vec<Waiter>,
    /// OCI's `Process` as JSON, of a further process that has not been started.
    pub spec: Vec<u8>,
    /// Tells the end of a further process that is no child of ours; it ends with this, too.
    pub connection: Option<Arc<Connection>>,
}

impl Process {
    pub fn new(io: Io) -> Self {
        Self {
            phase: Phase::New,
            pid: 0,
            handle: None,
            io,
            kept: None,
            waiters: Vec::new(),
            spec: Vec::new(),
            connection: None,
        }
    }
}

/// A container. Its state is looked at by anybody for a moment; what it is changes only while `work` is held.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    work: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub struct State {
    pub record: Record,
    /// Its first process.
    pub init: Process,
    /// Further ones by exec id.
    pub execs: BTreeMap<String, Process>,
    /// Whether containerd knows it as a task. Not when this shim took it over from one that was killed, or when
    /// containerd gave it up.
    pub claimed: bool,
    /// Whether this shim took it over: its processes are no children of ours.
    pub adopted: bool,
    /// Whether containerd has taken it back, by a Create of what was here.
    pub reclaimed: bool,
    pub paused: bool,
    /// The directory of a checkpoint that it is restored from when it is started.
    pub checkpoint: Option<String>,
    /// Whether the mounts that containerd asked for were made at its root.
    pub mounted: bool,
    /// How commands are run in it, once that is known. None inside: by the OCI runtime.
    pub setting: Option<Option<Arc<Setting>>>,
}

impl Container {
    pub fn new(record: Record, init: Process, claimed: bool) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            work: Mutex::new(()),
            state: Mutex::new(State {
                record,
                init,
                execs: BTreeMap::new(),
                claimed,
                adopted: !claimed,
                reclaimed: false,
                paused: false,
                checkpoint: None,
                mounted: false,
                setting: None,
            }),
        })
    }

    /// Held by whoever changes what the container is made of.
    pub fn work(&self) -> MutexGuard<'_, ()> {
        super::lock(&self.work)
    }

    /// Held for a moment only, never while the OCI runtime runs.
    pub fn state(&self) -> MutexGuard<'_, State> {
        super::lock(&self.state)
    }
}

impl State {
    /// Whether it was taken back while it ran, so that there is nothing to start.
    pub fn runs_already(&self) -> bool {
        self.reclaimed && self.init.phase == Phase::Running
    }

    /// The process `exec_id`; empty: the first one.
    pub fn process(&self, exec_id: &str) -> Option<&Process> {
        match exec_id {
            "" => Some(&self.init),
            id => self.execs.get(id),
        }
    }

    pub fn process_mut(&mut self, exec_id: &str) -> Option<&mut Process> {
        match exec_id {
            "" => Some(&mut self.init),
            id => self.execs.get_mut(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Exit = Exit {
        code: 3,
        at: 7,
        known: true,
    };
    const LATER: Exit = Exit { code: 4, ..FIRST };

    #[test]
    fn a_process_lives_once() {
        let mut phase = Phase::Created;
        assert_eq!(phase.deletable(), Err(Wrong::Alive));
        phase.start().unwrap();
        assert_eq!(phase.start(), Err(Wrong::Started));
        assert_eq!(phase.started(), None);
        assert_eq!((phase, phase.started()), (Phase::Running, None));
        assert!(phase.end(FIRST));
        assert_eq!((phase.start(), phase.deletable()), (Err(Wrong::Ended), Ok(Some(FIRST))));
    }

    #[test]
    fn an_end_before_the_start_was_told_is_told_after_it() {
        let mut phase = Phase::New;
        phase.start().unwrap();
        assert!(!phase.end(FIRST));
        assert_eq!((phase.exit(), phase.deletable()), (None, Err(Wrong::Alive)));
        assert_eq!(phase.started(), Some(FIRST));
        assert_eq!(phase.exit(), Some(FIRST));
    }

    proptest! {
        /// Whatever comes in whatever order: an end is told at most once, and the first one stays the truth.
        #[test]
        fn an_end_is_told_once(steps in proptest::collection::vec(0..4u8, 0..12)) {
            let (mut phase, mut told, mut first) = (Phase::Created, 0, None);
            for step in steps {
                match step {
                    0 => drop(phase.start()),
                    1 => told += u32::from(phase.started().is_some()),
                    2 => { first.get_or_insert(FIRST); told += u32::from(phase.end(*first.as_ref().unwrap())); }
                    _ => { first.get_or_insert(LATER); told += u32::from(phase.end(LATER)); }
                }
                prop_assert!(told <= 1);
                if let Some(exit) = phase.exit() {
                    prop_assert_eq!((Some(exit), told), (first, 1));
                }
            }
        }
    }
}
