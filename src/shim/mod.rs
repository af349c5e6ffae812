//! `containerd-shim-berth-v1`: one small process that holds the containers of many pods.
//!
//! containerd starts a shim for a task and speaks to it from then on; berth names this one, by its absolute path, as
//! the runtime of its containers. It holds each container (its process, its terminal, the write end of its stdin),
//! writes its log, and outlives berth and containerd. It is not in the way of what containers write: they hold their
//! FIFOs themselves.
//!
//! ```text
//!   containerd ──ttrpc──▶ task.sock ─┐                        ┌─▶ runc, crun    create, exec, delete
//!                                    ├─▶ serve ──▶ verbs ─────┤
//!   berth ──lines of JSON──▶ control.sock   (one thread,      ├─▶ container     pidfd, exec.fifo
//!                                           waits for nobody) └─▶ record.json   what the next shim needs to know
//!                                       │
//!   berth ──lines of JSON──▶ log.sock ──┼─▶ log writer (a thread): FIFO ──tee──▶ 0.log
//!   containerd ◀──ttrpc── events ◀──────┘
//! ```
//!
//! * [`front`]: the commands that containerd executes, `start` and `delete`. They find the shim by its [`place`], a
//!   directory; berth says which (an annotation), so it decides how many pods share a process.
//! * [`serve`]: the main loop. [`task`] routes the calls; a verb that runs the OCI runtime is a job ([`jobs`]).
//! * [`core`]: what they share. The verbs: [`create`], [`start`], [`exec`], [`signal`], [`query`], [`delete`], and
//!   [`exit`], the reaping.
//! * [`container`]: the states, pure. [`record`]: what is written down of them. [`adopt`]: how a new shim goes on from
//!   there. [`control`]: the private socket.
//! * [`helper`]: the process that runs commands ([`crate::nsexec`]), for berth and for Tasks.Exec.
//! * [`runtime`], [`stdio`], [`console`], [`stats`], [`oom`], [`events`]: one thing each. [`underway`]: who
//!   waits for what.
//!
//! It keeps no secrets: of containerd's environment it has PATH alone. It knows no tokio.

pub mod adopt;
pub mod cgroups;
pub mod console;
pub mod container;
pub mod control;
mod control_server;
pub mod conversations;
pub mod core;
pub mod create;
pub mod delete;
pub mod ends;
pub mod events;
pub mod exec;
pub mod exit;
pub mod front;
pub mod handover;
pub mod helper;
pub mod jobs;
mod log_thread;
pub mod oom;
pub mod outbox;
pub mod place;
pub mod query;
pub mod record;
pub mod runtime;
pub mod serve;
pub mod signal;
pub mod start;
pub mod stats;
pub mod stdio;
pub mod task;
pub mod underway;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ttrpc::{Code, Status};

/// The main of the binary.
pub fn main() -> ExitCode {
    let done = front::Arguments::parse(std::env::args().skip(1))
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))
        .and_then(|arguments| front::run(&arguments));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// A lock is held for moments only, and what it guards is whole between them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells whoever reads the shim's own messages.
fn report(message: &str) {
    writeln!(io::stderr(), "{} shim: {message}", crate::logs::stamp::now()).ok();
}

/// containerd's error for a failed run of the OCI runtime.
fn refusal(error: &runtime::Error) -> Status {
    let code = match error {
        runtime::Error::Hung { .. } => Code::DeadlineExceeded,
        _ => Code::Unknown,
    };
    Status::new(code, crate::model::causes(error))
}

/// For `map_err`: containerd's error for something that the system refused.
fn failed<E: std::error::Error>(what: &str) -> impl FnOnce(E) -> Status + use<E> {
    let what = what.to_owned();
    move |error| {
        Status::new(
            Code::Unknown,
            format!("cannot {what}: {}", crate::model::causes(&error)),
        )
    }
}
