//! The shim's end of the private socket ([`super::control`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use super::container::Phase;
use super::control::{Hello, Line, Reply, Request, Task, TaskState};
use super::core::Shim;
use super::ends::key;
use super::handover::{Order, check};
use super::{create, lock, report};
use crate::proto::shim::task;
use crate::ttrpc::Code;

/// Serves a connection on a thread of its own until it ends.
pub fn converse(shim: &Arc<Shim>, socket: UnixStream) {
    let shim = Arc::clone(shim);
    let number = match shim.conversations.begin(&socket) {
        Ok(number) => number,
        Err(error) => return report(&format!("cannot serve a control connection: {error}")),
    };
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .stack_size(128 << 10);
    let counted = Arc::clone(&shim);
    let spawned = thread.spawn(move || {
        if let Err(error) = answer_all(&shim, number, socket) {
            report(&format!("a control connection was cut off: {error}"));
        }
        shim.conversations.end(number);
        shim.outbox.ring();
    });
    if spawned.is_err() {
        counted.conversations.end(number);
    }
}

fn answer_all(shim: &Arc<Shim>, number: u64, socket: UnixStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut line = Line::over(socket);
    loop {
        // What is not read yet, another program can read.
        line.wait()?;
        let mut pass = shim.conversations.enter();
        let Some((request, fds)) = line.receive()? else {
            return Ok(());
        };
        let (reply, fds) = match request {
            Request::Upgrade { binary } => match check(&shim.children, &binary) {
                Ok(()) => {
                    drop(pass);
                    let message = upgrade(shim, binary, number);
                    pass = shim.conversations.enter();
                    (Reply::Failed { message }, Vec::new())
                }
                Err(message) => (Reply::Failed { message }, Vec::new()),
            },
            request => answer(shim, request, fds),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        line.send(&reply, &fds)?;
        drop(pass);
    }
}

/// Asks the main loop to become another program. Comes back only if nothing comes of it, with the reason.
fn upgrade(shim: &Shim, binary: PathBuf, asker: u64) -> String {
    let (refused, reason) = mpsc::sync_channel(1);
    let order = Order { binary, asker, refused };
    if lock(&shim.order).replace(order).is_some() {
        report("an upgrade that was asked for is given up for another one");
    }
    shim.outbox.ring();
    reason
        .recv()
        .unwrap_or_else(|_| "another upgrade was asked for".to_owned())
}

fn answer(shim: &Arc<Shim>, request: Request, fds: Vec<OwnedFd>) -> (Reply, Vec<OwnedFd>) {
    let failed = |error: &dyn std::fmt::Display| Reply::Failed {
        message: error.to_string(),
    };
    let reply = match request {
        Request::Hello { ttrpc } => {
            if let Some(ttrpc) = ttrpc
                && shim.events.redirect(ttrpc.clone())
            {
                report(&format!("events go to {} from now on", ttrpc.display()));
            }
            Reply::Hello(hello())
        }
        Request::Tasks => Reply::Tasks { tasks: tasks(shim) },
        Request::Hand { id } => {
            let mut fds = fds.into_iter();
            match (shim.find(&id), fds.next()) {
                (None, _) => Reply::Unknown,
                (Some(_), None) => failed(&"no descriptor came with it"),
                (Some(_), Some(pidfd)) => match shim.hand(&id, pidfd, fds.next()) {
                    Ok(()) => Reply::Done,
                    Err(status) => failed(&status),
                },
            }
        }
        Request::Give { id } => return give(shim, &id),
        Request::Disown { id } => match shim.disown(&id) {
            true => Reply::Done,
            false => Reply::Unknown,
        },
        Request::Unbundle { id } => match shim.unbundle(&id) {
            Ok(true) => Reply::Done,
            Ok(false) => Reply::Unknown,
            Err(error) => failed(&error),
        },
        Request::Forget { id } => match forget(shim, id) {
            Ok(true) => Reply::Done,
            Ok(false) => Reply::Unknown,
            Err(message) => failed(&message),
        },
        // Answered before.
        Request::Upgrade { .. } => failed(&"not here"),
        Request::Leave if shim.has_containers() => failed(&"it holds containers"),
        Request::Leave => {
            shim.leaving.store(true, Ordering::Relaxed);
            Reply::Done
        }
    };
    (reply, Vec::new())
}

fn hello() -> Hello {
    let file = std::fs::metadata("/proc/self/exe").map(|file| (file.dev(), file.ino()));
    Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        binary: std::env::current_exe().unwrap_or_default(),
        file: file.unwrap_or_default(),
    }
}

fn tasks(shim: &Shim) -> Vec<Task> {
    let containers = shim.containers().into_iter();
    let described = containers.map(|container| {
        let state = container.state();
        Task {
            id: container.id.clone(),
            pid: state.init.pid,
            state: match state.init.phase {
                Phase::New | Phase::Created | Phase::Starting(_) => TaskState::Created,
                Phase::Running => TaskState::Running,
                Phase::Exited(exit) => TaskState::Exited {
                    code: exit.code,
                    at: exit.at,
                    known: exit.known,
                },
            },
            claimed: state.claimed,
        }
    });
    described.collect()
}

fn give(shim: &Shim, id: &str) -> (Reply, Vec<OwnedFd>) {
    let Some(container) = shim.find(id) else {
        return (Reply::Unknown, Vec::new());
    };
    let handle = container.state().init.handle.clone();
    let Some(pidfd) = handle.and_then(|handle| handle.as_fd().try_clone_to_owned().ok()) else {
        return (Reply::Unknown, Vec::new());
    };
    let terminal = shim.consoles.master(&key(id, "")).ok().flatten();
    (Reply::Given, std::iter::once(pidfd).chain(terminal).collect())
}

/// Ends and removes a container. Whether there was one.
fn forget(shim: &Arc<Shim>, id: String) -> Result<bool, String> {
    let Some(container) = shim.find(&id) else {
        return Ok(false);
    };
    if container.state().claimed {
        return Err("containerd knows it; it is to be deleted there".to_owned());
    }
    let kill = task::KillRequest {
        id: id.clone(),
        signal: libc::SIGKILL.cast_unsigned(),
        all: true,
        ..Default::default()
    };
    shim.kill(&kill).ok();
    let delete = task::DeleteRequest {
        id,
        ..Default::default()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while let Err(status) = shim.delete(&delete, shim.making.latest(), create::PATIENCE) {
        // Given up while it was made.
        if status.code == Code::NotFound {
            return Ok(false);
        }
        if std::time::Instant::now() > deadline {
            return Err(status.to_string());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(true)
}
