//! The two processes that an exec goes through.
//!
//! The **first** is a fork of the helper's, in the node's PID namespace. It reads the request, does what has to be
//! done by the node's means (labels, the OOM score, control groups, limits), and joins the container's namespaces. The
//! **second** is the first one's in the container's PID namespace, a sibling of it, so that the helper learns its end.
//! It shares the memory of the first, which waits (vfork(2)), and becomes the program. In it there is nothing left of
//! the node but that memory, which nobody in the container may look into, and the socket on which its terminal goes
//! out; that is closed before anything of the container's is looked up.

pub mod first;
mod second;
mod terminal;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::CloneFlags;

use super::request::{Failure, Report};
use crate::sys::fds;
use crate::sys::process::Handle;

/// What the first child has of the helper's.
pub struct Given<'a> {
    pub message: &'a [u8],
    pub init: &'a Handle,
    /// A control group of version 1 to join.
    pub leaf: Option<BorrowedFd<'a>>,
    pub report: &'a OwnedFd,
    /// The soft limit of open files, where the request says nothing of it.
    pub files: u64,
    /// The kinds of namespaces that this kernel has.
    pub namespaces: CloneFlags,
}

/// The life of the first child.
pub fn main(given: &Given<'_>, fds: Vec<OwnedFd>) -> ! {
    let done = catch_unwind(AssertUnwindSafe(|| first::run(given, fds)));
    let report = match done {
        Ok(Ok(pid)) => Report::Started { pid },
        Ok(Err(failure)) => Report::Failed(failure),
        Err(_) => Report::Failed(Failure::new("berth failed inside")),
    };
    if let Ok(text) = serde_json::to_vec(&report) {
        fds::send(given.report, &text, &[]).ok();
    }
    crate::sys::fork::end(0)
}
