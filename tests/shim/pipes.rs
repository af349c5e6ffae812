//! The named pipes between a shim and its client.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::node::{Node, PATIENCE};

/// One process's. With a terminal there is no standard error.
pub struct Pipes {
    input: Option<PathBuf>,
    pub out: Reader,
    pub err: Option<Reader>,
    pub terminal: bool,
}

impl Pipes {
    /// Makes them in a new directory of the node's, and reads from then on.
    pub fn new(node: &Node, stdin: bool, terminal: bool) -> Self {
        let directory = node.containerd.scratch();
        let directory = tempfile::Builder::new()
            .prefix("pipes-")
            .tempdir_in(directory)
            .unwrap()
            .keep();
        let fifo = |name: &str| {
            let path = directory.join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            path
        };
        Self {
            input: stdin.then(|| fifo("in")),
            out: Reader::new(fifo("out")),
            err: (!terminal).then(|| Reader::new(fifo("err"))),
            terminal,
        }
    }

    pub fn stdin(&self) -> String {
        text(self.input.as_deref())
    }

    pub fn stdout(&self) -> String {
        text(Some(&self.out.path))
    }

    pub fn stderr(&self) -> String {
        text(self.err.as_ref().map(|err| &*err.path))
    }

    /// The writing end of standard input. Opening it never waits for a reader.
    pub fn input(&self) -> File {
        let path = self.input.as_deref().expect("it has a standard input");
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }
}

fn text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// Reads a pipe until nobody has it open for writing any more.
pub struct Reader {
    path: PathBuf,
    read: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
}

impl Reader {
    fn new(path: PathBuf) -> Self {
        let (read, over) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<AtomicBool>::default());
        let (path_there, read_there, over_there) = (path.clone(), read.clone(), over.clone());
        std::thread::spawn(move || {
            let mut pipe = File::open(path_there).unwrap();
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                read_there.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
            over_there.store(true, Ordering::SeqCst);
        });
        Self { path, read, over }
    }

    /// What has come so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.read.lock().unwrap()).into_owned()
    }

    /// All, once it is over.
    pub async fn all(&self) -> Vec<u8> {
        self.until("its end", |_| self.over.load(Ordering::SeqCst)).await;
        self.read.lock().unwrap().clone()
    }

    pub async fn text(&self) -> String {
        String::from_utf8(self.all().await).unwrap()
    }

    /// Waits until what has come contains `text`.
    pub async fn shows(&self, text: &str) {
        self.until(text, |read| read.windows(text.len()).any(|it| it == text.as_bytes()))
            .await;
    }

    async fn until(&self, what: &str, is_there: impl Fn(&[u8]) -> bool) {
        let begin = Instant::now();
        while !is_there(&self.read.lock().unwrap()) {
            assert!(begin.elapsed() < PATIENCE, "no {what:?} in {:?}", self.so_far());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Reader {
    /// Sets a reader free that waits for a writer that never came.
    fn drop(&mut self) {
        let _ = OpenOptions::new()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&self.path);
    }
}
