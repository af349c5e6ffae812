//! Threads that leave the process's namespaces: each runs one closure and ends, so nobody else ever stands there.

use std::fs::File;
use std::path::Path;
use std::{io, panic, thread};

use nix::sched::{CloneFlags, setns};

/// Runs `work` in the network namespace that `path` shows, on a thread of its own, and waits for it.
pub fn enter_net<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_a_thread(|| {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })?
}

/// Runs `work` on a new thread and waits for it. Fails when no thread can be started.
pub fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("namespace".into())
            .spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
    })
}
