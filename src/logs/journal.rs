//! What the pump is about to do, for the pump after it: so that SIGKILL at any instant makes no line lost or repeated.
//!
//! A turn appends records to a log and then takes from the FIFO what they cover. A pump that dies in between leaves
//! two questions. *How much was appended?* The log's length before the turn stands here ([`Entry`]), and the log tells
//! the rest. *Was it taken?* The take is one readv(2) whose last byte **lands in this page**, where before stood
//! another value: the kernel takes bytes away and lets that byte land in one call, which no signal divides.
//!
//! Streams have their turns one after the other, so one entry serves all of them, and writing it is a few stores into
//! memory. The file stands on a tmpfs: its purpose ends with the machine's.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use super::line::Output;
use super::writer::Place;
use crate::model::Id;
use crate::sys::shared::Page;

/// "berthlog", of the form below.
const MAGIC: u64 = u64::from_be_bytes(*b"berthlg1");

/// Words of the page. `STATE` is `MAGIC` while a turn is under way.
const STATE: usize = 0;
const LANDING: usize = 1;
const LAST: usize = 2;
const OUTPUT: usize = 3;
const DEVICE: usize = 4;
const INODE: usize = 5;
const LENGTH: usize = 6;
const RECORDS: usize = 7;
const MIDLINE: usize = 8;
const ID: usize = 9;

const _: () = assert!(Id::LEN.is_multiple_of(8), "an id is whole words");

/// A turn that is about to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: Id,
    pub output: Output,
    /// The log before the turn.
    pub place: Place,
    /// Bytes of records to be appended.
    pub records: u64,
    /// Whether the stream was in the middle of a line before them.
    pub midline: bool,
}

/// The page, and its only writer.
#[derive(Debug)]
pub struct Journal {
    page: Page,
}

impl Journal {
    /// Opens the journal at `path`, or makes it. The second value is the turn that the last pump did not come to the
    /// end of: what it appended is still in its FIFO.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Entry>)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file: File = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
        let journal = Self {
            page: Page::map(&file)?,
        };
        let entry = journal.entry();
        Ok((journal, entry))
    }

    /// A turn begins whose records cover input that ends with the byte `last`.
    pub fn begin(&self, entry: &Entry, last: u8) {
        self.settle();
        // A killed process leaves memory as its stores came; only the compiler must keep their order.
        compiler_fence(Ordering::SeqCst);
        self.set(LANDING, u64::from_ne_bytes([!last; 8]));
        self.set(LAST, last.into());
        self.set(OUTPUT, matches!(entry.output, Output::Stderr).into());
        self.set(DEVICE, entry.place.device);
        self.set(INODE, entry.place.inode);
        self.set(LENGTH, entry.place.length);
        self.set(RECORDS, entry.records);
        self.set(MIDLINE, entry.midline.into());
        for (word, digits) in entry.id.as_str().as_bytes().chunks_exact(8).enumerate() {
            self.set(ID + word, u64::from_be_bytes(digits.try_into().expect("a chunk of 8")));
        }
        compiler_fence(Ordering::SeqCst);
        self.set(STATE, MAGIC);
    }

    /// Takes up to `into.len() + 1` bytes from a FIFO. If it is all of them, the last lands in the page.
    pub fn take(&self, fifo: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
        self.page.read(fifo, into, LANDING)
    }

    /// The turn is over.
    pub fn settle(&self) {
        self.set(STATE, 0);
    }

    fn entry(&self) -> Option<Entry> {
        let landed = self.get(LANDING).to_ne_bytes()[0];
        if self.get(STATE) != MAGIC || u64::from(landed) == self.get(LAST) {
            return None;
        }
        let words = self.words()[ID..].iter().take(Id::LEN / 8);
        let digits: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Acquire).to_be_bytes())
            .collect();
        Some(Entry {
            id: String::from_utf8(digits).ok()?.parse().ok()?,
            output: if self.get(OUTPUT) == 0 {
                Output::Stdout
            } else {
                Output::Stderr
            },
            place: Place {
                device: self.get(DEVICE),
                inode: self.get(INODE),
                length: self.get(LENGTH),
            },
            records: self.get(RECORDS),
            midline: self.get(MIDLINE) != 0,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        self.page.words()
    }

    fn get(&self, word: usize) -> u64 {
        self.words()[word].load(Ordering::Acquire)
    }

    fn set(&self, word: usize, value: u64) {
        self.words()[word].store(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn entry() -> Entry {
        Entry {
            id: Id::random(),
            output: Output::Stderr,
            place: Place {
                device: 1,
                inode: 2,
                length: 3,
            },
            records: 4,
            midline: true,
        }
    }

    #[test]
    fn a_turn_is_told_to_the_next_pump_until_its_bytes_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        let (journal, before) = Journal::open(&path).unwrap();
        assert_eq!(before, None);
        let next = || Journal::open(&path).unwrap().1;
        let (fifo, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"abab\n").unwrap();

        journal.begin(&entry(), b'b');
        assert_eq!(next().unwrap().place, entry().place);
        assert_eq!(journal.take(fifo.as_fd(), &mut [0; 1]).unwrap(), 2);
        assert_eq!(next(), None, "taken, though not yet settled");

        let second = entry();
        journal.begin(&second, b'\n');
        assert_eq!(next(), Some(second));
        journal.settle();
        assert_eq!(next(), None);
    }

    #[test]
    fn a_page_of_anything_is_no_turn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("turn");
        for content in [vec![0xff; 4096], vec![b'x'; 10], MAGIC.to_ne_bytes().repeat(512)] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(Journal::open(&path).unwrap().1, None);
        }
    }
}
