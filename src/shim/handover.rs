//! Upgrade in place: a running shim becomes another program (execve(2)), which goes on with all that it held.
//!
//! The process stays: so do its pid, its children and with them their true exit codes, containerd's connections and the
//! place's lock. What the next program must know besides, it reads from a file in memory: JSON, in which a descriptor
//! is its number. While that is written nothing moves: no call is being carried out, no log is written, no terminal is
//! copied. What arrives meanwhile waits in sockets, pipes and terminals, and children that end are zombies until the
//! next program asks.
//!
//! ```text
//!   ask: NEW -v ──▶ the main loop comes to rest ──▶ Handover ──▶ execve ──▶ take over ──▶ answer, serve
//!         │ refused          │ not in time                         │ fails
//!         └──────────────────┴───────────▶ goes on as it was ◀─────┘
//! ```
//!
//! A program that cannot take over what it is given ends. Then it is as if the shim had been killed ([`super::adopt`]).

mod check;
mod containers;
mod fds;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

pub use self::check::check;
pub use self::containers::Held;
pub use self::fds::{Bag, Fd};
use super::console;
use super::events;
use crate::ttrpc::Requests;

/// The version of what is handed over. A program is asked for those it knows (`-v`) before it is executed.
pub const VERSION: u32 = 1;

/// Who is to become what.
#[derive(Debug)]
pub struct Order {
    pub binary: PathBuf,
    /// The conversation that asked, which the next program answers.
    pub asker: u64,
    /// Where the reason goes if nothing comes of it.
    pub refused: std::sync::mpsc::SyncSender<String>,
}

/// All that lives on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    pub version: u32,
    pub namespace: String,
    /// The soft limit of open files for programs that the shim starts.
    pub files: Option<u64>,
    pub leaving: bool,
    pub events: events::Pending,
    pub lock: Fd,
    /// The sockets that are listened on.
    pub tasks: Fd,
    pub control: Fd,
    pub connections: Vec<Connection>,
    pub last_number: u64,
    pub conversations: Vec<Conversation>,
    /// The FIFOs of open logs, so that what is in them stays although nobody else may have them open.
    pub pipes: Vec<Fd>,
    pub terminals: Vec<console::Handed>,
    pub shim: Held,
}

/// A connection of containerd's. Waiters are known by its number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connection {
    pub number: u64,
    pub socket: Fd,
    pub requests: Requests,
    pub unsent: Vec<u8>,
}

/// A connection to the private socket, between two requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Conversation {
    pub socket: Fd,
    /// Whether it asked for the upgrade, and waits for the answer.
    pub asked: bool,
}

impl Handover {
    /// Writes it to a file in memory.
    pub fn write(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create(c"handover", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        file.rewind()?;
        Ok(file)
    }

    /// Reads what the program before wrote to the file that it handed over.
    pub fn read(file: Fd) -> io::Result<Self> {
        let mut text = Vec::new();
        File::from(file.take()?).read_to_end(&mut text)?;
        let handover: Self = serde_json::from_slice(&text)?;
        match handover.version {
            VERSION => Ok(handover),
            other => Err(io::Error::other(format!("a handover of version {other}"))),
        }
    }
}
