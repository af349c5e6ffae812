//! Real terminals and FIFOs, with shells at them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};

use nix::pty::OpenptyResult;

use super::*;
use crate::shim::stdio::{self, Streams};
use crate::sys::children::Children;

const SOON: Duration = Duration::from_secs(20);

/// A terminal with FIFOs at its far ends.
struct Place {
    dir: tempfile::TempDir,
    consoles: Consoles,
    slave: Option<OwnedFd>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["in", "out"] {
            nix::unistd::mkfifo(&dir.path().join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
        let consoles = Consoles::new().unwrap();
        let place = Self {
            dir,
            consoles,
            slave: Some(slave),
        };
        let (stdin, stdout) = (place.path("in"), place.path("out"));
        let streams = Streams {
            id: "container",
            namespace: "tests",
            stdin: stdin.to_str().unwrap(),
            stdout: stdout.to_str().unwrap(),
            stderr: "",
            uid: 0,
            gid: 0,
        };
        let (ends, _) = stdio::open_terminal(&Children::default(), &streams).unwrap();
        place.consoles.attach("c", master, ends).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A shell with the terminal as its three ends.
    fn shell(&self, script: &str) -> Child {
        let end = || self.slave.as_ref().unwrap().try_clone().unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(end()).stdout(end()).stderr(end());
        command.spawn().unwrap()
    }

    /// The process has ended, as the reaper would tell.
    fn end(&mut self, mut child: Child) {
        child.wait().unwrap();
        self.slave = None;
        self.consoles.finished("c");
    }

    /// A reader of the output.
    fn output(&self) -> File {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(self.path("out"))
            .unwrap();
        let flags = nix::fcntl::OFlag::empty();
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        file
    }
}

fn read_until(file: &mut File, end: &str) -> String {
    let mut text = String::new();
    let begin = Instant::now();
    while !text.ends_with(end) {
        assert!(begin.elapsed() < SOON, "{text}");
        let mut buffer = [0; 4096];
        let count = file.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    text
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !until() {
        assert!(begin.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Milliseconds of CPU that the threads of that name in this process have used.
fn cpu_of(name: &str) -> u64 {
    let tasks = fs::read_dir("/proc/self/task")
        .unwrap()
        .flatten()
        .map(|task| task.path());
    let ours = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let used = |task: PathBuf| -> Option<u64> {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks.filter(ours).filter_map(used).sum::<u64>() / 1_000_000
}

#[test]
fn what_is_typed_arrives_and_is_answered_at_the_size_that_was_set() {
    let mut place = Place::new();
    assert!(place.consoles.resize("c", 91, 23).unwrap());
    assert!(!place.consoles.resize("other", 1, 1).unwrap());
    let mut output = place.output();
    let shell = place.shell("stty -echo; stty size; read line; echo got $line");
    assert_eq!(read_until(&mut output, "\r\n"), "23 91\r\n");
    fs::write(place.path("in"), "hello\n").unwrap();
    assert_eq!(read_until(&mut output, "\r\n"), "got hello\r\n");
    place.end(shell);
    assert!(place.consoles.wait_closed("c", SOON));
    assert_eq!(output.read(&mut [0; 8]).unwrap(), 0, "readers see the end");
    assert!(place.consoles.master("c").unwrap().is_none());
}

#[test]
fn nothing_is_lost_when_the_reader_is_late_and_the_process_gone() {
    let mut place = Place::new();
    // More than the terminal, the FIFO and a chunk hold.
    let mut shell = place.shell("stty -opost; seq 1 100000");
    std::thread::sleep(Duration::from_millis(300));
    assert!(shell.try_wait().unwrap().is_none(), "it waits for a reader");
    let mut output = place.output();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    });
    place.end(shell);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    let text = reader.join().unwrap();
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert!(place.consoles.wait_closed("c", SOON));
}

#[test]
fn the_tail_waits_for_its_reader_after_the_end() {
    let mut place = Place::new();
    let shell = place.shell("stty -opost; head -c 66000 /dev/zero | tr '\\0' x");
    std::thread::sleep(Duration::from_millis(100));
    place.end(shell);
    assert!(
        !place.consoles.wait_closed("c", Duration::from_millis(500)),
        "the FIFO is full"
    );
    let mut text = String::new();
    place.output().read_to_string(&mut text).unwrap();
    assert_eq!(text.len(), 66000);
    assert!(place.consoles.wait_closed("c", SOON));
}

#[test]
fn a_terminal_that_all_have_closed_may_be_opened_again() {
    let mut place = Place::new();
    let mut output = place.output();
    let name = nix::unistd::ttyname(place.slave.as_ref().unwrap()).unwrap();
    place.shell("echo first").wait().unwrap();
    place.slave = None;
    assert_eq!(read_until(&mut output, "\r\n"), "first\r\n");
    std::thread::sleep(Duration::from_millis(50));
    // O_NOCTTY: not to become ours.
    let mut options = OpenOptions::new();
    let mut again = options.write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    again.write_all(b"second\n").unwrap();
    assert_eq!(read_until(&mut output, "\r\n"), "second\r\n");
    place.consoles.detach("c");
    assert!(place.consoles.wait_closed("c", Duration::ZERO));
    place.consoles.detach("c");
}

#[test]
fn a_finished_terminal_that_a_straggler_holds_is_closed_when_it_is_silent() {
    let place = Place::new();
    let mut output = place.output();
    place.shell("echo done").wait().unwrap();
    let begin = Instant::now();
    place.consoles.finished("c");
    assert!(place.consoles.wait_closed("c", SOON));
    assert!(begin.elapsed() >= LINGER && begin.elapsed() < SOON);
    assert_eq!(read_until(&mut output, "\r\n"), "done\r\n");
}

#[test]
fn input_ends_after_what_was_written_and_idle_ends_cost_nothing() {
    let place = Place::new();
    let mut output = place.output();
    let mut shell = place.shell("stty -echo; echo ready; cat");
    read_until(&mut output, "ready\r\n");
    // Its writer comes and goes.
    fs::write(place.path("in"), "one\n").unwrap();
    assert_eq!(read_until(&mut output, "\r\n"), "one\r\n");
    let before = cpu_of("console");
    std::thread::sleep(Duration::from_millis(500));
    // Other tests' terminals are in the sum, and none of them is busy for long.
    assert!(cpu_of("console") - before < 250, "it does not spin");
    fs::write(place.path("in"), "two\n").unwrap();
    place.consoles.close_stdin("c");
    assert_eq!(read_until(&mut output, "\r\n"), "two\r\n");
    let mut options = OpenOptions::new();
    wait("nobody reads the input", || {
        options
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(place.path("in"))
            .is_err()
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn typing_at_a_terminal_that_nobody_reads_neither_spins_nor_blocks_the_others() {
    let place = Place::new();
    let mut shell = place.shell("stty raw -echo; exec sleep 600");
    std::thread::sleep(Duration::from_millis(100));
    let path = place.path("in");
    let typist = std::thread::spawn(move || fs::write(path, vec![b'x'; 300_000]));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!typist.is_finished(), "the typist waits");

    let pty = nix::pty::openpty(None, None).unwrap();
    let log = place.path("log");
    let stdout = OpenOptions::new().append(true).create(true).open(&log).unwrap();
    let ends = Terminal {
        stdin: None,
        stdout: Some(stdout),
    };
    place.consoles.attach("file", pty.master, ends).unwrap();
    nix::unistd::write(&pty.slave, b"to a file\n").unwrap();
    wait("the other is copied", || fs::read(&log).unwrap() == b"to a file\r\n");
    shell.kill().unwrap();
    shell.wait().unwrap();
    place.consoles.detach("c");
    // Whoever opens it last lets the typist's write fail or end.
    drop(
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(place.path("in")),
    );
    let _ = typist.join().unwrap();
}

#[test]
fn a_terminal_without_far_ends_never_makes_its_process_wait() {
    let consoles = Consoles::new().unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    consoles.attach("c", pty.master, Terminal::default()).unwrap();
    let mut shell = Command::new("/bin/sh")
        .args(["-c", "head -c 1000000 /dev/zero"])
        .stdout(pty.slave)
        .spawn()
        .unwrap();
    wait("it ends", || shell.try_wait().unwrap().is_some());
    consoles.finished("c");
    assert!(consoles.wait_closed("c", SOON));
}
