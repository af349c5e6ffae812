//! The log file of a container: whole records are appended, and it is opened anew when the kubelet has renamed it.
//!
//! The file never keeps half a record: one that a full disk, or the death of the writer in the middle of write(2),
//! cut short is cut off again ([`LogFile::append`] after a failure, [`LogFile::open`] after a death). Its text is
//! still where it came from, for it is taken from there only after it was written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::line::MAX_RECORD;

/// An open log file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// Whether the file is known to end with a whole record.
    whole: bool,
}

/// Where the next record goes: a file, by whatever name, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub device: u64,
    pub inode: u64,
    pub length: u64,
}

/// Why a log file could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make the directory of the log file {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Only for [`LogFile::reopen`], which makes no directories.
    #[error("the directory of the log file {} is gone", path.display())]
    DirectoryGone { path: PathBuf },
    #[error("cannot open the log file {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the log path {} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    /// `written` bytes of the records stand in the file, all of them whole records.
    #[error("cannot write to the log file {}", path.display())]
    Write {
        path: PathBuf,
        written: usize,
        source: io::Error,
    },
}

impl LogFile {
    /// Opens the file for appending, and makes it (mode 0640) and its parent directories where they are missing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })?;
        let file = open(path)?;
        mend(&file).map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            whole: true,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path anew: the records to come go to a new file if the old one was renamed or removed. After an
    /// error all is as before: the old file is still written to, and no new one was made.
    pub fn reopen(&mut self) -> Result<(), Error> {
        let file = open(&self.path).map_err(|error| match error {
            Error::Open { path, source } if source.kind() == io::ErrorKind::NotFound => Error::DirectoryGone { path },
            error => error,
        })?;
        if !self.whole {
            // The old file is about to be out of reach. If this fails it ends in half a record: a flaw in what was
            // a broken file already, and no reason to stay with it.
            let _ = mend(&self.file);
        }
        self.file = file;
        // Unknown: the file may be the same as before.
        self.whole = false;
        Ok(())
    }

    /// Where the records to come will stand, if they are appended next. Makes the file whole first.
    pub fn place(&mut self) -> Result<Place, Error> {
        self.mend()
            .and_then(|()| place(&self.file))
            .map_err(|source| Error::Write {
                path: self.path.clone(),
                written: 0,
                source,
            })
    }

    /// What was appended at a former `place`, at most `limit` bytes of it, whole records. Nothing when its file cannot
    /// be found: it is this one, or one beside it that was this one before it was renamed.
    pub fn appended_at(&self, at: &Place, limit: usize) -> io::Result<Vec<u8>> {
        let holds = |file: &File| place(file).is_ok_and(|it| (it.device, it.inode) == (at.device, at.inode));
        let mut file = self.file.try_clone()?;
        if !holds(&file) {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            let is_it = |entry: &fs::DirEntry| entry.metadata().is_ok_and(|it| it.ino() == at.inode && it.is_file());
            let Some(renamed) = fs::read_dir(directory)?.flatten().find(is_it) else {
                return Ok(Vec::new());
            };
            file = open(&renamed.path()).map_err(io::Error::other)?;
            if !holds(&file) {
                return Ok(Vec::new());
            }
            mend(&file)?;
        }
        let length = place(&file)?.length.saturating_sub(at.length);
        let mut bytes = vec![0; limit.min(usize::try_from(length).unwrap_or(limit))];
        file.read_exact_at(&mut bytes, at.length)?;
        Ok(bytes)
    }

    fn mend(&mut self) -> io::Result<()> {
        if !self.whole {
            mend(&self.file)?;
            self.whole = true;
        }
        Ok(())
    }

    /// Appends `records`, each of which ends with a newline. [`Error::Write`] says how many of them are in.
    pub fn append(&mut self, records: &[u8]) -> Result<(), Error> {
        let failed = |path: &Path, written, source| Error::Write {
            path: path.to_owned(),
            written,
            source,
        };
        self.mend().map_err(|source| failed(&self.path, 0, source))?;
        let (written, result) = write(&mut self.file, records);
        let Err(source) = result else { return Ok(()) };
        let whole = records[..written]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        self.whole = whole == written || mend(&self.file).is_ok();
        Err(failed(&self.path, whole, source))
    }
}

fn place(file: &File) -> io::Result<Place> {
    let metadata = file.metadata()?;
    Ok(Place {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
    })
}

/// Writes all of `bytes`, or says how many went in before it failed.
fn write(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// Never follows a link that somebody put in the file's place, and never waits for the reader of a FIFO.
fn open(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| Ok((file.metadata()?.is_file(), file)));
    match opened {
        Ok((true, file)) => Ok(file),
        Ok((false, _)) => Err(Error::NotAFile { path: path.to_owned() }),
        Err(source) if source.raw_os_error() == Some(libc::ELOOP) => Err(Error::NotAFile { path: path.to_owned() }),
        Err(source) => Err(Error::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Cuts off a record without its end. A file without any newline near its end is none that was written here: its
/// content stays, and gets a newline.
fn mend(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut tail = vec![0; MAX_RECORD.min(usize::try_from(length).unwrap_or(MAX_RECORD))];
    let from = length - tail.len() as u64;
    file.read_exact_at(&mut tail, from)?;
    match tail.iter().rposition(|byte| *byte == b'\n') {
        _ if tail.is_empty() => Ok(()),
        Some(last) if last + 1 == tail.len() => Ok(()),
        Some(last) => file.set_len(from + last as u64 + 1),
        None => (&*file).write_all(b"\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_file_and_its_directories_are_made_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/0.log");
        for _ in 0..2 {
            LogFile::open(&path).unwrap().append(b"one\ntwo\n").unwrap();
        }
        assert_eq!(read(&path), "one\ntwo\none\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn after_a_rename_reopen_writes_to_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        log.append(b"two\n").unwrap();
        log.reopen().unwrap();
        log.append(b"three\n").unwrap();
        assert_eq!((read(&old), read(&path)), ("one\ntwo\n".into(), "three\n".into()));
    }

    #[test]
    fn what_was_appended_is_found_also_after_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"one\n").unwrap();
        let at = log.place().unwrap();
        assert!(log.appended_at(&at, 100).unwrap().is_empty());
        log.append(b"two\nthree\n").unwrap();
        fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"ha")
            .unwrap();
        let log = LogFile::open(&path).unwrap();
        assert_eq!(log.appended_at(&at, 100).unwrap(), b"two\nthree\n");
        assert_eq!(log.appended_at(&at, 4).unwrap(), b"two\n");
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        let log = LogFile::open(&path).unwrap();
        assert_eq!(log.appended_at(&at, 100).unwrap(), b"two\nthree\n");
        fs::remove_file(dir.path().join("0.log.1")).unwrap();
        assert!(log.appended_at(&at, 100).unwrap().is_empty());
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_old_file_and_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        let mut log = LogFile::open(&logs.join("0.log")).unwrap();
        fs::rename(&logs, &moved).unwrap();
        let error = log.reopen().unwrap_err();
        assert!(matches!(error, Error::DirectoryGone { .. }), "{error}");
        assert!(error.to_string().contains(logs.to_str().unwrap()));
        log.append(b"still here\n").unwrap();
        assert_eq!(read(&moved.join("0.log")), "still here\n");
        assert!(!logs.exists());
    }

    #[test]
    fn a_link_a_directory_and_a_fifo_are_no_log_files() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/etc/hostname", &link).unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&link, &fifo] {
            assert!(matches!(LogFile::open(path), Err(Error::NotAFile { .. })));
        }
        assert!(LogFile::open(dir.path()).is_err());
    }

    #[test]
    fn half_a_record_is_cut_off_when_the_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for (before, after) in [
            ("", ""),
            ("a\n", "a\n"),
            ("a\nb\nhalf", "a\nb\n"),
            ("foreign", "foreign\n"),
        ] {
            fs::write(&path, before).unwrap();
            LogFile::open(&path).unwrap();
            assert_eq!(read(&path), after);
        }
        let long = format!("a\n{}", "x".repeat(MAX_RECORD - 1));
        fs::write(&path, &long).unwrap();
        LogFile::open(&path).unwrap();
        assert_eq!(read(&path), "a\n");
    }

    #[test]
    fn a_limit_on_the_file_leaves_only_whole_records_and_says_how_many() {
        // RLIMIT_FSIZE would hit the whole test process; a file of its own on a small tmpfs is hit alone.
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(dir.path(), "64k");
        let path = disk.0.join("0.log");
        let mut log = LogFile::open(&path).unwrap();
        let record = format!("{}\n", "x".repeat(999));
        let records = record.repeat(100);
        let Err(Error::Write { written, source, .. }) = log.append(records.as_bytes()) else {
            panic!("100 kB do not fit into 64 KiB")
        };
        assert_eq!(source.raw_os_error(), Some(libc::ENOSPC));
        assert_eq!((written, read(&path).len()), (65_000, 65_000));
        assert!(matches!(
            log.append(record.as_bytes()),
            Err(Error::Write { written: 0, .. })
        ));
        assert_eq!(read(&path).len(), 65_000);
    }

    /// A tmpfs for as long as the value lives.
    struct SmallDisk(PathBuf);

    impl SmallDisk {
        fn mount(at: &Path, size: &str) -> Self {
            let options = format!("size={size}");
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
            Self(at.to_owned())
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}
