//! One FIFO of a container, and one turn of moving its bytes to the log.
//!
//! A turn looks at what is in the FIFO by duplicating it into a private pipe (tee(2)), writes the records of its whole
//! lines, and then takes from the FIFO exactly what those records cover. So whatever the pump dies of, and whenever,
//! the bytes are in the FIFO or in the log, or in both. A line without its end stays in the FIFO: the next edge of
//! epoll comes with more bytes or with the end.
//!
//! **A full FIFO without a whole line.** A FIFO is full when its slots (pages) are, and small writes may fill them
//! with little. Its writer then waits for us and we for it. So the private pipe always has as many slots as the FIFO:
//! when the copy fills it, the FIFO is full, and what is there becomes a partial record.
//!
//! The writer must not be in packet mode (pipe(7), `O_DIRECT`), where the rest of a packet that is read in part is
//! gone. containerd's shim is not, and a container does not get at the FIFO, only at a pipe of the shim's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::line::{self, MAX_RECORD, MAX_TEXT, Output, Then};
use super::stamp;
use super::writer::{self, LogFile};
use crate::sys::pipe;

/// What a FIFO holds, and so the most that one turn takes. Larger ones cost fewer turns, but a killed node as much
/// kernel memory for each container that is ahead of the pump.
const CAPACITY: usize = 256 * 1024;

/// The most bytes of records that one turn writes: short lines grow more than twofold by their heads.
const MAX_RECORDS: usize = 2 * CAPACITY;

const _: () = assert!(MAX_RECORDS > MAX_RECORD, "every turn makes progress");

/// The read end of a FIFO.
#[derive(Debug)]
pub struct Stream {
    fifo: File,
    output: Output,
    /// Bytes that the FIFO holds when all its slots are full.
    capacity: usize,
    midline: bool,
    /// The last writer has left, and as far as we know none has come since.
    hung_up: bool,
    ended: bool,
    /// Bytes taken from the FIFO since it was opened.
    taken: u64,
}

/// What a turn came to.
#[derive(Debug)]
pub enum Turn {
    /// Nothing more to do until the next event.
    Idle,
    /// There may be more at once.
    More,
    /// The log could not be written: the bytes are still in the FIFO.
    Stuck(writer::Error),
}

/// The buffers of a turn: one set for all streams, as they work one after the other.
#[derive(Debug)]
pub struct Bench {
    peek: File,
    peek_write: OwnedFd,
    /// Bytes that the private pipe holds.
    capacity: usize,
    input: Box<[u8]>,
    records: Vec<u8>,
}

/// What is in a FIFO.
enum Peek {
    /// Nothing, but somebody may write.
    Silence,
    /// Nothing, and nobody has it open for writing.
    Nobody,
    /// The first `len` bytes stand in [`Bench::input`].
    Bytes { len: usize, full: bool },
}

impl Stream {
    /// Opens the FIFO at `path`. It need not have a writer yet.
    pub fn open(path: &Path, output: Output) -> io::Result<Self> {
        let fifo = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !fifo.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a FIFO"));
        }
        // Smaller or larger is as right: only the count of turns differs.
        let capacity = pipe::set_capacity(fifo.as_fd(), CAPACITY).or_else(|_| pipe::capacity(fifo.as_fd()))?;
        Ok(Self {
            fifo,
            output,
            capacity,
            midline: false,
            hung_up: false,
            ended: false,
            taken: 0,
        })
    }

    pub fn output(&self) -> Output {
        self.output
    }

    /// Whether the last writer has left and all that was written is in the log.
    pub fn ended(&self) -> bool {
        self.ended
    }

    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The kernel said that the last writer has left.
    pub fn hang_up(&mut self) {
        self.hung_up = true;
    }

    /// Makes the kernel say so if there is no writer. It is silent about a FIFO that had none since it was opened
    /// (fifo(7), poll(2)): a container that never started, or that ended while no pump was there. So come and go as
    /// a writer ourselves. Only for a FIFO that nobody is about to open.
    pub fn rouse(&self) -> io::Result<()> {
        let again = format!("/proc/self/fd/{}", self.fifo.as_raw_fd());
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(again)?;
        let mut events = [PollFd::new(self.fifo.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::ZERO)?;
        Ok(())
    }

    /// Moves what is in the FIFO into `log`, or to nowhere without one; a bounded piece of it.
    pub fn turn(&mut self, bench: &mut Bench, log: Option<&mut LogFile>) -> io::Result<Turn> {
        let Some(log) = log else {
            return self.discard(bench);
        };
        let (len, then) = match bench.peek(self)? {
            Peek::Silence => {
                self.hung_up = false;
                self.ended = false;
                return Ok(Turn::Idle);
            }
            Peek::Nobody if self.hung_up => (0, Then::End),
            Peek::Nobody => return Ok(Turn::Idle),
            Peek::Bytes { len, full: true } => (len, Then::Full),
            Peek::Bytes { len, .. } if self.hung_up && len <= MAX_TEXT => (len, Then::End),
            Peek::Bytes { len, .. } => (len, Then::More),
        };
        let stamp = stamp::now();
        let (midline, output) = (self.midline, self.output);
        let split = |bench: &mut Bench, limit| {
            bench.records.clear();
            line::split(
                &bench.input[..len],
                then,
                midline,
                &stamp,
                output,
                &mut bench.records,
                limit,
            )
        };
        let mut done = split(bench, MAX_RECORDS);
        let result = log.append(&bench.records);
        if let Err(writer::Error::Write { written, .. }) = &result {
            done = split(bench, *written);
        }
        self.midline = done.midline;
        self.take(bench, done.used)?;
        match result {
            Err(error) => Ok(Turn::Stuck(error)),
            Ok(()) if done.used > 0 => Ok(Turn::More),
            Ok(()) => {
                self.ended = then == Then::End;
                Ok(Turn::Idle)
            }
        }
    }

    /// Takes `len` bytes out of the FIFO that were seen in it. Nobody else reads it, so they are there.
    fn take(&mut self, bench: &mut Bench, len: usize) -> io::Result<()> {
        self.fifo.read_exact(&mut bench.input[..len])?;
        self.taken += len as u64;
        Ok(())
    }

    fn discard(&mut self, bench: &mut Bench) -> io::Result<Turn> {
        match self.fifo.read(&mut bench.input) {
            Ok(0) => {
                self.ended = self.hung_up;
                Ok(Turn::Idle)
            }
            Ok(len) => {
                self.taken += len as u64;
                Ok(Turn::More)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.hung_up = false;
                self.ended = false;
                Ok(Turn::Idle)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

impl Bench {
    pub fn new() -> io::Result<Self> {
        let (peek, peek_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = pipe::set_capacity(peek.as_fd(), CAPACITY).or_else(|_| pipe::capacity(peek.as_fd()))?;
        Ok(Self {
            peek: peek.into(),
            peek_write,
            capacity,
            input: vec![0; CAPACITY].into(),
            records: Vec::with_capacity(MAX_RECORDS),
        })
    }

    /// Copies what is in the stream's FIFO into `input`.
    fn peek(&mut self, stream: &Stream) -> io::Result<Peek> {
        let wanted = stream.capacity.min(CAPACITY);
        if self.capacity != wanted {
            // If it stays smaller than the FIFO, it is full too early: more partial records, none lost.
            self.capacity = pipe::set_capacity(self.peek.as_fd(), wanted).unwrap_or(self.capacity);
        }
        let len = match pipe::tee(stream.fifo.as_fd(), self.peek_write.as_fd(), CAPACITY) {
            Ok(0) => return Ok(Peek::Nobody),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Peek::Silence),
            Err(error) => return Err(error),
        };
        // With more than one record's worth there is something to write, full or not.
        let full = len <= MAX_TEXT && self.is_full()?;
        self.peek.read_exact(&mut self.input[..len])?;
        Ok(Peek::Bytes { len, full })
    }

    fn is_full(&self) -> io::Result<bool> {
        let mut events = [PollFd::new(self.peek_write.as_fd(), PollFlags::POLLOUT)];
        Ok(poll(&mut events, PollTimeout::ZERO)? == 0)
    }
}
