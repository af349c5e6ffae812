//! Container logs in the format that a kubelet reads, written by one thread of the shim: the **log writer** ([`Pump`]).
//!
//! A container's stdout and stderr are FIFOs. Under our own shim its processes hold them directly, open for reading and
//! writing; under a stock shim that shim does, and copies into them. Either way they outlive the pump, which is
//! therefore free to die: bytes wait in the FIFO, and the pump of the next shim goes on where this one was.
//!
//! ```text
//!   container ───────────────FIFO──▶ pump ──append──▶ 0.log
//!   container ──pipe──▶ stock shim ──FIFO──▶ ▲
//!                                            │ log.sock
//!   daemon ──open, reopen, drain, close, list┘
//! ```
//!
//! **What its death costs: nothing**, no line lost and none repeated, as three things outlive it. The FIFO: a line is
//! copied out of it, written to the log, and only then taken out (`stream`). A page of shared memory that says which
//! turn was under way and whether its bytes were taken (`journal`). A file for each open container, from which the
//! next pump opens them again without being told (`opens`).
//!
//! From the bottom: [`stamp`] and [`line`] say what a record looks like (pure); [`writer`] appends records to a file
//! that is never left with half of one; `stream` moves one FIFO's bytes; `pump` is the loop over all of them;
//! [`protocol`] and [`client`] are how the daemon speaks to it. Nothing here knows tokio, the daemon or the shim.
//!
//! **A full disk** makes the container wait rather than lose its words: the line stays in the FIFO, the write is tried
//! again after 100 ms, then ever more rarely down to every 5 s, for as long as the container lives. `list` shows the
//! reason and counts the failures. Only [`Client::drain`] and [`Client::close`] give up, and say so. **A disk that
//! hangs** makes all logs of this pump wait, and requests to it time out; nothing else of its process waits.
//!
//! The process: three descriptors for each container ([`allow_many_descriptors`]), one thread, buffers of a
//! megabyte that do not grow. [`Pump::bind`] on any thread, [`Pump::run`] as the whole of another, and a [`Handle`] to
//! ask whether logs are open and to make it leave.

pub mod client;
mod connection;
mod container;
mod journal;
pub mod line;
mod opens;
pub mod protocol;
mod pump;
pub mod stamp;
mod stream;
pub mod writer;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::iter;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use client::{Client, Error};
pub use pump::{Handle, KEPT, Pump};
pub use stream::enlarge;

/// The FIFOs that the pump whose state is in `state` has open, opened for reading once more: as long as somebody has them
/// open, what is in them stays. Such as are gone are left out.
pub fn open_fifos(state: &Path) -> io::Result<Vec<File>> {
    let opens = opens::Opens::at(state)?.all()?;
    let paths = opens
        .into_iter()
        .flat_map(|open| iter::once(open.stdout).chain(open.stderr));
    let open = |path| {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK).open(path)
    };
    Ok(paths.filter_map(|path| open(path).ok()).collect())
}

/// Raises this process' limit of open files to what it may have, as every container takes three, and gives back the
/// soft limit that there was: programs that the process starts should get that one again.
pub fn allow_many_descriptors() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(soft)
}

/// Tells whoever reads the process' own messages. A message that cannot be written is no reason to stop pumping.
fn report(message: &str) {
    let _ = writeln!(io::stderr(), "{} logs: {message}", stamp::now());
}
