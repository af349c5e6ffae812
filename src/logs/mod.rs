//! Container logs in the format that a kubelet reads, written by a small process of its own.
//!
//! containerd's shim copies what a container writes into two FIFOs. The shim holds both ends of each while it copies,
//! so a reader that dies makes the container wait and costs nothing; but once the copy has ended nobody holds the
//! FIFO, and what is still in it is gone. The reader must therefore outlive the daemon: it is the **log pump**
//! ([`serve`], the main of `berth log-pump`), which a daemon starts once ([`start`]), the next daemon finds again, and
//! `berth down` ends. Its own death loses nothing while the shim holds the FIFOs: a line is copied out of its FIFO,
//! written to the log, and only then taken out (see `stream`). A line may be written twice by that, never not
//! at all.
//!
//! ```text
//!   container ──pipe──▶ shim ──FIFO──▶ pump ──append──▶ 0.log
//!                                       ▲
//!   daemon ──open, reopen, drain, …─────┘ control socket
//! ```
//!
//! From the bottom: [`stamp`] and [`line`] say what a record looks like (pure); [`writer`] appends records to a file
//! that is never left with half of one; `stream` moves one FIFO's bytes; `pump` is the loop over all of them;
//! [`protocol`] and [`client`] are how the daemon speaks to it. Nothing here knows tokio or the daemon.
//!
//! **A full disk** makes the container wait rather than lose its words: the line stays in the FIFO, the write is tried
//! again after 100 ms, then ever more rarely down to every 5 s, for as long as the container lives. `list` shows the
//! reason and counts the failures. Only [`Client::drain`] and [`Client::close`] give up, and say so.

pub mod client;
mod connection;
mod container;
pub mod line;
mod process;
pub mod protocol;
mod pump;
pub mod stamp;
mod stream;
pub mod writer;

pub use client::{Client, Error};
use process::report;
pub use process::{serve, start};
