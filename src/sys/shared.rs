//! A page of memory that is a file's too, so that it says after a SIGKILL what a process was about to do.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Bytes of a page, whatever the machine's own pages are.
const LEN: usize = 4096;

/// The first 4096 bytes of a file, mapped. What was stored survives the process, though not the machine.
#[derive(Debug)]
pub struct Page(NonNull<AtomicU64>);

// SAFETY: it owns its mapping, and all access to that is atomic.
unsafe impl Send for Page {}

impl Page {
    /// Makes the file at least a page long, of blocks that are really there: a store must not meet a full disk, which
    /// would be SIGBUS. Nobody may cut the file shorter, for the same reason.
    pub fn map(file: &File) -> io::Result<Self> {
        nix::fcntl::posix_fallocate(file, 0, LEN as libc::off_t)?;
        // SAFETY: a new mapping, at a place of the kernel's choice, of an open file that is long enough.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(NonNull::new(at.cast()).expect("the kernel maps nothing at 0")))
    }

    /// The words of the page.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped as long as `self` lives, aligned as pages are, initialized by the file, and never accessed
        // but atomically (or by the kernel).
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), LEN / size_of::<AtomicU64>()) }
    }

    /// Reads from `from`: first `into` full, then one byte more into the first byte of word `word`. So that byte
    /// arrives in the same call that takes the others away: there is no instant at which a SIGKILL comes between.
    pub fn read(&self, from: BorrowedFd<'_>, into: &mut [u8], word: usize) -> io::Result<usize> {
        let last = (&raw const self.words()[word]).cast_mut();
        let vectors = [
            libc::iovec {
                iov_base: into.as_mut_ptr().cast(),
                iov_len: into.len(),
            },
            libc::iovec {
                iov_base: last.cast(),
                iov_len: 1,
            },
        ];
        // SAFETY: both pieces are ours to write for the length of the call: `into` is borrowed mutably, and the word
        // is an atomic in shared memory, which may change at any time.
        let read = unsafe { libc::readv(from.as_raw_fd(), vectors.as_ptr(), 2) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_is_stored_is_in_the_file_and_in_the_next_mapping() {
        let file = tempfile::tempfile().unwrap();
        let page = Page::map(&file).unwrap();
        page.words()[511].store(7, Ordering::Release);
        assert_eq!(Page::map(&file).unwrap().words()[511].load(Ordering::Acquire), 7);
        drop(page);
        assert_eq!(Page::map(&file).unwrap().words()[511].load(Ordering::Acquire), 7);
        assert_eq!(file.metadata().unwrap().len(), LEN as u64);
    }

    #[test]
    fn the_last_byte_of_a_read_lands_in_the_page() {
        let (from, write) = nix::unistd::pipe().unwrap();
        let page = Page::map(&tempfile::tempfile().unwrap()).unwrap();
        nix::unistd::write(&write, b"abcde").unwrap();
        let mut bytes = [0; 3];
        assert_eq!(page.read(from.as_fd(), &mut bytes, 2).unwrap(), 4);
        let landed = page.words()[2].load(Ordering::Acquire).to_ne_bytes()[0];
        assert_eq!((&bytes, landed), (b"abc", b'd'));
        assert_eq!(page.read(from.as_fd(), &mut bytes, 2).unwrap(), 1);
        let landed = page.words()[2].load(Ordering::Acquire).to_ne_bytes()[0];
        assert_eq!((bytes[0], landed), (b'e', b'd'), "a short read does not touch it");
    }
}
