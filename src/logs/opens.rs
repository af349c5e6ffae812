//! What the pump has open, a small file for each container, so that a pump that comes after it goes on without being
//! told. On /run: it need not survive the machine, so nothing is synced.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::protocol::{MAX_REQUEST, Open};
use super::report;
use crate::model::Id;

const SUFFIX: &str = ".json";

/// The directory of the files.
#[derive(Debug)]
pub struct Opens {
    directory: PathBuf,
}

impl Opens {
    /// Makes the directory if it is missing, for root alone.
    pub fn at(directory: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Keeps it, whole or not at all.
    pub fn keep(&self, open: &Open) -> io::Result<()> {
        let path = self.path(&open.id);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(open)?)?;
        fs::rename(&new, &path)
    }

    /// What is not there is forgotten.
    pub fn forget(&self, id: &Id) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All that is kept. What cannot be read is reported and stays where it is.
    pub fn all(&self) -> io::Result<Vec<Open>> {
        let mut opens = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match read(&path) {
                None => {}
                Some(Ok(open)) => opens.push(open),
                Some(Err(error)) => report(&format!(
                    "cannot go on with the log that {} names: {error}",
                    path.display()
                )),
            }
        }
        Ok(opens)
    }

    fn path(&self, id: &Id) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", id.as_str()))
    }
}

/// None for a file that is none of these, such as one that was not finished.
fn read(path: &Path) -> Option<io::Result<Open>> {
    let id = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    let parse = || {
        if fs::metadata(path)?.len() > MAX_REQUEST as u64 {
            return Err(io::Error::other("it is too long"));
        }
        let open: Open = serde_json::from_slice(&fs::read(path)?)?;
        if open.id.as_str() == id {
            Ok(open)
        } else {
            Err(io::Error::other("it names another container"))
        }
    };
    Some(parse())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        Open {
            id: Id::random(),
            stdout: "/run/a".into(),
            stderr: Some("/run/b".into()),
            log_path: None,
        }
    }

    #[test]
    fn what_is_kept_comes_back_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let opens = Opens::at(&dir.path().join("a/b")).unwrap();
        let (one, two) = (open(), open());
        for open in [&one, &two, &one] {
            opens.keep(open).unwrap();
        }
        assert_eq!(opens.all().unwrap().len(), 2);
        opens.forget(&two.id).unwrap();
        opens.forget(&two.id).unwrap();
        assert_eq!(opens.all().unwrap(), [one]);
    }

    #[test]
    fn files_that_cannot_be_read_hide_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let opens = Opens::at(dir.path()).unwrap();
        let good = open();
        opens.keep(&good).unwrap();
        let json = serde_json::to_vec(&good).unwrap();
        for (name, content) in [
            (format!("{}.json", Id::random().as_str()), &json[..]),
            (format!("{}.json", Id::random().as_str()), &json[..20]),
            (format!("{}.json", Id::random().as_str()), &[b' '; 100_000]),
            (format!("{}.new", Id::random().as_str()), &json[..5]),
            ("turn".to_owned(), b"\xff\xff"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        fs::create_dir(opens.path(&Id::random())).unwrap();
        assert_eq!(opens.all().unwrap(), [good]);
    }
}
