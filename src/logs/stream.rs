//! One FIFO of a container, and one turn of moving its bytes to the log.
//!
//! A turn looks at what is in the FIFO by duplicating it into a private pipe (tee(2)), writes the records of its whole
//! lines, and then takes from the FIFO exactly what those records cover. So whatever the pump dies of, and whenever,
//! the bytes are in the FIFO or in the log, or in both, and then the [`Journal`] tells it: the next pump takes what
//! was written ([`Stream::resume`]). A line without its end stays in the FIFO: the next edge of epoll comes with more
//! bytes or with the end.
//!
//! **A full FIFO without a whole line.** A FIFO is full when its slots (pages) are, and small writes may fill them
//! with little. Its writer then waits for us and we for it. So an unfinished line is written as a partial record
//! when the FIFO is full, or when the private pipe is, should somebody have made the FIFO larger than that.
//!
//! **The container holds the other end, and may be hostile.** It can read what it wrote before we take it, so a take
//! may find less than was seen, or other bytes: what is missing is counted, its own log alone is wrong. It can make the
//! FIFO smaller or larger, which is why its size is asked for and never remembered. It can switch to packet mode
//! (pipe(7), `O_DIRECT`), where the rest of a packet that is taken in part is gone: lines may lose their beginnings.
//! Flags of its descriptor (`O_NONBLOCK`) are not flags of ours. Nothing of a stream stays in the private pipe
//! after a turn, whatever fails, or it would end up in another container's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::journal::{Entry, Journal};
use super::line::{self, MAX_RECORD, MAX_TEXT, Output, Split, Then};
use super::stamp;
use super::writer::{self, LogFile};
use crate::model::Id;
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
    id: Id,
    output: Output,
    midline: bool,
    /// The last writer has left, and as far as we know none has come since.
    hung_up: bool,
    ended: bool,
    taken: u64,
    missing: u64,
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
    peek: Private,
    journal: Journal,
    input: Box<[u8]>,
    records: Vec<u8>,
}

/// A pipe that nobody else has.
#[derive(Debug)]
struct Private {
    read: File,
    write: OwnedFd,
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

/// Makes a FIFO hold as much as one turn takes. Best done by whoever makes it, at either end, with the capabilities that
/// the pump's thread may not have: past 64 MiB in all, others get FIFOs of 8 KiB (pipe(7)).
pub fn enlarge(fifo: &File) -> io::Result<()> {
    pipe::set_capacity(fifo.as_fd(), CAPACITY).map(drop)
}

impl Stream {
    /// Opens the FIFO at `path`, an output of container `id`. It need not have a writer yet.
    pub fn open(path: &Path, id: &Id, output: Output) -> io::Result<Self> {
        let fifo = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if !fifo.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a FIFO"));
        }
        // Smaller or larger is as right: only the count of turns differs.
        let _ = enlarge(&fifo);
        Ok(Self {
            fifo,
            id: id.clone(),
            output,
            midline: false,
            hung_up: false,
            ended: false,
            taken: 0,
            missing: 0,
        })
    }

    pub fn output(&self) -> Output {
        self.output
    }

    /// Whether the last writer has left and all that was written is in the log.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes taken from the FIFO since it was opened.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that are in the log, but were gone from the FIFO when they were to be taken: somebody else read there.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// What the kernel said: the last writer has left, or there is one (or was none yet).
    pub fn hang_up(&mut self, hung_up: bool) {
        self.hung_up = hung_up;
    }

    /// Makes the kernel say so if there is no writer. It is silent about a FIFO that had none since it was opened
    /// (fifo(7), poll(2)): a container that never started, or that ended while no pump was there. So come and go as
    /// a writer ourselves. A writer that comes later makes it go on.
    pub fn rouse(&self) -> io::Result<()> {
        drop(self.writer()?);
        let mut events = [PollFd::new(self.fifo.as_fd(), PollFlags::POLLIN)];
        poll(&mut events, PollTimeout::ZERO)?;
        Ok(())
    }

    fn writer(&self) -> io::Result<File> {
        let again = format!("/proc/self/fd/{}", self.fifo.as_raw_fd());
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK).open(again)
    }

    /// Whether a writer would have to wait. Only a writer is told.
    fn is_full(&self) -> io::Result<bool> {
        is_full(self.writer()?.as_fd())
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
        let midline = self.midline;
        let mut done = self.records(bench, len, then);
        if bench.records.is_empty() {
            self.ended = then == Then::End;
            return Ok(Turn::Idle);
        }
        let result = self.begin(bench, log, done.used, midline);
        let result = result.and_then(|()| log.append(&bench.records));
        if let Err(writer::Error::Write { written, .. }) = &result {
            done = line::covered(&bench.records[..*written], &bench.input[..len], midline, self.output)
                .expect("they were made of it");
        }
        self.midline = done.midline;
        self.take(bench, done.used)?;
        Ok(result.map_or_else(Turn::Stuck, |()| Turn::More))
    }

    /// Makes the records of the first `len` bytes of the bench's input.
    fn records(&self, bench: &mut Bench, len: usize, then: Then) -> Split {
        let (stamp, input) = (stamp::now(), &bench.input[..len]);
        bench.records.clear();
        line::split(
            input,
            then,
            self.midline,
            &stamp,
            self.output,
            &mut bench.records,
            MAX_RECORDS,
        )
    }

    /// Tells the journal that the bench's records are about to be appended.
    fn begin(&self, bench: &Bench, log: &mut LogFile, used: usize, midline: bool) -> Result<(), writer::Error> {
        let entry = Entry {
            id: self.id.clone(),
            output: self.output,
            place: log.place()?,
            records: bench.records.len() as u64,
            midline,
        };
        let last = used.checked_sub(1).map_or(0, |last| bench.input[last]);
        bench.journal.begin(&entry, last);
        Ok(())
    }

    /// Finishes the turn in which the last pump died: takes what it had appended. True if there was something.
    pub fn resume(&mut self, bench: &mut Bench, log: &LogFile, entry: &Entry) -> io::Result<bool> {
        self.midline = entry.midline;
        let limit = usize::try_from(entry.records).map_or(MAX_RECORDS, |records| records.min(MAX_RECORDS));
        let appended = log.appended_at(&entry.place, limit)?;
        let len = match bench.peek(self)? {
            Peek::Bytes { len, .. } => len,
            Peek::Silence | Peek::Nobody => 0,
        };
        let Some(done) = line::covered(&appended, &bench.input[..len], entry.midline, self.output) else {
            return Ok(false);
        };
        self.midline = done.midline;
        if done.used == 0 {
            return Ok(false);
        }
        let again = Entry {
            records: appended.len() as u64,
            ..entry.clone()
        };
        bench.journal.begin(&again, bench.input[done.used - 1]);
        self.take(bench, done.used)?;
        Ok(true)
    }

    /// Takes `len` bytes out of the FIFO that were seen in it, if they are still there, and ends the turn.
    fn take(&mut self, bench: &mut Bench, len: usize) -> io::Result<()> {
        let mut left = len;
        let mut result = Ok(());
        while left > 0 && result.is_ok() {
            match bench.journal.take(self.fifo.as_fd(), &mut bench.input[..left - 1]) {
                Ok(0) => break,
                Ok(taken) => left -= taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        bench.journal.settle();
        self.taken += (len - left) as u64;
        self.missing += left as u64;
        result
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
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

impl Bench {
    pub fn new(journal: Journal) -> io::Result<Self> {
        Ok(Self {
            peek: Private::new()?,
            journal,
            input: vec![0; CAPACITY].into(),
            records: Vec::with_capacity(MAX_RECORDS),
        })
    }

    /// Copies what is in the stream's FIFO into `input`.
    fn peek(&mut self, stream: &Stream) -> io::Result<Peek> {
        let len = match pipe::tee(stream.fifo.as_fd(), self.peek.write.as_fd(), CAPACITY) {
            Ok(0) => return Ok(Peek::Nobody),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Peek::Silence),
            Err(error) => return Err(error),
        };
        // With more than one record's worth there is something to write, full or not.
        let filled = len <= MAX_TEXT && is_full(self.peek.write.as_fd())?;
        if let Err(error) = self.peek.read.read_exact(&mut self.input[..len]) {
            // A page that the container had spliced in and that is lost, perhaps. Leave nothing for the next stream.
            self.peek = Private::new()?;
            return Err(error);
        }
        // Asked only when the answer counts. Out of descriptors, there is none, and the line waits.
        let unfinished = len <= MAX_TEXT && !self.input[..len].contains(&b'\n');
        let full = filled || unfinished && stream.is_full().unwrap_or(false);
        Ok(Peek::Bytes { len, full })
    }
}

impl Private {
    fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // If it stays smaller than a FIFO, it is full too early: more partial records, none lost.
        let _ = pipe::set_capacity(read.as_fd(), CAPACITY);
        Ok(Self {
            read: read.into(),
            write,
        })
    }
}

/// Whether a write to this end of a pipe would wait.
fn is_full(write: BorrowedFd<'_>) -> io::Result<bool> {
    let mut events = [PollFd::new(write, PollFlags::POLLOUT)];
    Ok(poll(&mut events, PollTimeout::ZERO)? == 0)
}
