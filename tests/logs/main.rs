//! The log writer as a thread of a process that can be killed, with real FIFOs, and with writers that hold them as
//! containers and shims do.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only functions marked as tests, and this file is a test"
)]

mod death;
mod hostile;
mod load;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use berth::logs::line::MAX_TEXT;
use berth::logs::protocol::{Drained, Open};
use berth::logs::{self, Client};
use berth::model::Id;
use nix::sys::stat::Mode;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);
const COMPLETE: Drained = Drained {
    complete: true,
    reason: None,
};

/// A pump of its own in a directory of its own; killed at the end.
struct Pump {
    dir: TempDir,
    process: Child,
    client: Client,
}

impl Pump {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&dir.path().join("log.sock"));
        let process = spawn(dir.path());
        let pump = Self { dir, process, client };
        pump.wait();
        pump
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        assert!(self.client.ping().unwrap_err().is_unreachable());
    }

    fn start_again(&mut self) {
        self.process = spawn(self.dir.path());
        self.wait();
    }

    fn wait(&self) {
        wait_for("the pump's answer", || self.client.ping().is_ok());
    }

    /// Makes FIFOs and opens them in the pump, with a log.
    fn container(&self) -> Container {
        let container = Container::make(self.dir.path());
        self.client.open(&container.open()).unwrap();
        container
    }

    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        // Without its text, which in a debug build is many times its data and is paged in bit by bit.
        self.status("RssAnon:")
    }

    fn status(&self, key: &str) -> u64 {
        number(&PathBuf::from(format!("/proc/{}/status", self.process.id())), key)
    }

    /// How often its thread went to sleep.
    fn awoken(&self) -> u64 {
        number(&self.thread().join("status"), "voluntary_ctxt_switches:")
    }

    /// Ticks of processor time that its thread had.
    fn cpu(&self) -> u64 {
        let stat = fs::read_to_string(self.thread().join("stat")).unwrap();
        let fields: Vec<_> = stat.split(' ').collect();
        fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap()
    }

    /// Where /proc tells of the pump's thread.
    fn thread(&self) -> PathBuf {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let mut tasks = tasks.map(|task| task.unwrap().path());
        let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap() == "berth-logs\n";
        tasks.find(is_it).unwrap()
    }
}

fn number(status: &Path, key: &str) -> u64 {
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

impl Drop for Pump {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// This very program, as the process whose thread the pump is.
fn spawn(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "a_process_with_a_pump",
        "--ignored",
        "--nocapture",
        "--quiet",
    ]);
    command
        .env("BERTH_TEST_PUMP", dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the other tests start it"]
fn a_process_with_a_pump() {
    let dir = PathBuf::from(std::env::var_os("BERTH_TEST_PUMP").unwrap());
    logs::allow_many_descriptors().unwrap();
    pump_thread(&dir).1.join().unwrap().unwrap();
}

fn pump_thread(dir: &Path) -> (logs::Handle, thread::JoinHandle<io::Result<()>>) {
    let pump = logs::Pump::bind(&dir.join("log.sock"), &dir.join("open")).unwrap();
    let handle = pump.handle();
    let thread = thread::Builder::new().name("berth-logs".into());
    (handle, thread.spawn(|| pump.run()).unwrap())
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "{what} does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

#[derive(Clone)]
struct Container {
    id: Id,
    dir: PathBuf,
    /// Read ends, as the daemon holds them: what was written stays while no pump is there.
    _keepers: Arc<[File; 2]>,
}

impl Container {
    fn make(parent: &Path) -> Self {
        let id = Id::random();
        let dir = parent.join(id.short());
        fs::create_dir(&dir).unwrap();
        let keepers = ["out", "err"].map(|name| {
            let path = dir.join(name);
            nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
            let fifo = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .unwrap();
            logs::enlarge(&fifo).unwrap();
            fifo
        });
        Self {
            id,
            dir,
            _keepers: Arc::new(keepers),
        }
    }

    fn open(&self) -> Open {
        Open {
            id: self.id.clone(),
            stdout: self.dir.join("out"),
            stderr: Some(self.dir.join("err")),
            log_path: Some(self.log()),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("logs/0.log")
    }

    /// Both ends, as a container or a stock shim has them: writes block when nobody reads, and never fail.
    fn shim(&self, output: &str) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.dir.join(output))
            .unwrap()
    }

    /// (stream, tag, text) of each record.
    fn records(&self) -> Vec<(String, String, String)> {
        records(&self.log())
    }

    /// How many whole records there are by now.
    fn count(&self) -> usize {
        fs::read(self.log())
            .unwrap()
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
    }

    fn texts(&self) -> Vec<String> {
        self.records().into_iter().map(|record| record.2).collect()
    }
}

fn records(log: &Path) -> Vec<(String, String, String)> {
    let log = fs::read_to_string(log).unwrap();
    assert!(log.is_empty() || log.ends_with('\n'));
    let parse = |record: &str| {
        let mut fields = record.splitn(4, ' ').map(str::to_owned);
        let stamp = fields.next().unwrap();
        assert!(stamp.len() == 30 && stamp.ends_with('Z'), "{record:?}");
        (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
    };
    log.lines().map(parse).collect()
}

fn numbered(lines: std::ops::Range<usize>) -> Vec<String> {
    lines.map(|i| format!("line {i}")).collect()
}

#[test]
fn both_streams_are_in_one_log_each_in_its_order() {
    let pump = Pump::start();
    let container = pump.container();
    let (mut out, mut err) = (container.shim("out"), container.shim("err"));
    for i in 0..1000 {
        writeln!(out, "out {i}").unwrap();
        writeln!(err, "err {i}").unwrap();
    }
    write!(out, "the rest").unwrap();
    drop((out, err));
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    let records = container.records();
    for (stream, prefix) in [("stdout", "out"), ("stderr", "err")] {
        let mut expected: Vec<_> = (0..1000).map(|i| format!("{prefix} {i}")).collect();
        if prefix == "out" {
            expected.push("the rest".into());
        }
        let texts: Vec<_> = records.iter().filter(|r| r.0 == stream).map(|r| r.2.clone()).collect();
        assert_eq!(texts, expected);
    }
    assert!(records.iter().all(|record| record.1 == "F"));
    assert!(
        pump.client.drain(&container.id, LONG).unwrap_err().is_unknown(),
        "it is forgotten"
    );
}

#[test]
fn a_long_line_is_split_and_an_unfinished_one_waits() {
    let pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    writeln!(out, "{}", "x".repeat(2 * MAX_TEXT + 10)).unwrap();
    write!(out, "unfin").unwrap();
    wait_for("the long line", || container.count() == 3);
    thread::sleep(Duration::from_millis(50));
    let awoken = pump.awoken();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(pump.awoken(), awoken, "the pump sleeps meanwhile");
    let lengths: Vec<_> = container.records().iter().map(|r| (r.1.clone(), r.2.len())).collect();
    assert_eq!(
        lengths,
        [("P".into(), MAX_TEXT), ("P".into(), MAX_TEXT), ("F".into(), 10)]
    );
    writeln!(out, "ished").unwrap();
    wait_for("the rest", || container.count() == 4);
    assert_eq!(container.texts()[3], "unfinished");
}

#[test]
fn reopening_under_load_loses_nothing_and_repeats_nothing() {
    const LINES: usize = 200_000;
    let pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    let writer = thread::spawn(move || {
        for i in 0..LINES {
            writeln!(out, "line {i}").unwrap();
        }
    });
    let mut texts = Vec::new();
    let mut rotated = Vec::new();
    while !writer.is_finished() {
        let old = container.dir.join(format!("rotated.{}", rotated.len()));
        fs::rename(container.log(), &old).unwrap();
        pump.client.reopen(&container.id).unwrap();
        rotated.push(old);
        thread::sleep(Duration::from_millis(10));
    }
    pump.client.drain(&container.id, LONG).unwrap();
    println!("{} rotations", rotated.len());
    rotated.push(container.log());
    for log in rotated {
        texts.extend(records(&log).into_iter().map(|record| record.2));
    }
    assert!(texts == numbered(0..LINES), "{} lines", texts.len());
}

#[test]
fn a_reopen_without_a_directory_says_so_and_the_old_file_is_still_written() {
    let pump = Pump::start();
    let container = pump.container();
    let moved = container.dir.join("moved");
    fs::rename(container.dir.join("logs"), &moved).unwrap();
    let error = pump.client.reopen(&container.id).unwrap_err().to_string();
    assert!(
        error.contains("is gone") && error.contains(container.log().to_str().unwrap()),
        "{error}"
    );
    let mut out = container.shim("out");
    writeln!(out, "still here").unwrap();
    drop(out);
    pump.client.drain(&container.id, LONG).unwrap();
    assert_eq!(records(&moved.join("0.log"))[0].2, "still here");
    assert!(!container.log().exists());
    assert!(pump.client.reopen(&Id::random()).unwrap_err().is_unknown());
}

#[test]
fn a_drain_waits_for_the_writer_and_holds_up_nobody() {
    let pump = Pump::start();
    let (slow, other) = (pump.container(), pump.container());
    let mut out = slow.shim("out");
    let client = pump.client.clone();
    let id = slow.id.clone();
    let drain = thread::spawn(move || client.drain(&id, LONG).unwrap());
    thread::sleep(Duration::from_millis(50));
    assert!(!drain.is_finished());

    writeln!(other.shim("err"), "meanwhile").unwrap();
    assert_eq!(pump.client.drain(&other.id, LONG).unwrap(), COMPLETE);
    assert_eq!(other.texts(), ["meanwhile"]);

    assert!(pump.client.open(&slow.open()).is_err(), "it is about to be forgotten");
    writeln!(out, "last words").unwrap();
    drop(out);
    assert_eq!(drain.join().unwrap(), COMPLETE);
    assert_eq!(slow.texts(), ["last words"]);
}

#[test]
fn a_drain_that_is_over_says_which_output_is_open_and_writes_what_is_there() {
    let pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("err");
    write!(out, "unfinished").unwrap();
    let drained = pump.client.drain(&container.id, Duration::from_millis(100)).unwrap();
    assert!(!drained.complete);
    assert_eq!(drained.reason.unwrap(), "stderr is still open for writing");
    assert_eq!(container.texts(), ["unfinished"]);
    assert!(pump.client.list().unwrap().is_empty());
}

#[test]
fn closing_writes_what_is_there() {
    let pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    write!(out, "one\ntw").unwrap();
    assert!(!pump.client.close(&container.id).unwrap().complete);
    assert_eq!(container.texts(), ["one", "tw"]);
    assert!(pump.client.close(&container.id).unwrap_err().is_unknown());
}

#[test]
fn opening_twice_is_fine_with_the_same_paths_only() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.open(&container.open()).unwrap();
    let mut other = container.open();
    other.stderr = None;
    let error = pump.client.open(&other).unwrap_err().to_string();
    assert!(error.contains("other paths"), "{error}");
    assert_eq!(pump.client.list().unwrap().len(), 1);
}

#[test]
fn a_path_that_cannot_be_opened_is_named_and_nothing_is_kept() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    fs::write(container.dir.join("file"), "").unwrap();
    let (good, file) = (container.open(), container.dir.join("file"));
    let missing = container.dir.join("missing");
    let bad = [
        (
            Open {
                stdout: missing.clone(),
                ..good.clone()
            },
            missing.clone(),
        ),
        (
            Open {
                stderr: Some(missing.clone()),
                ..good.clone()
            },
            missing,
        ),
        (
            Open {
                stderr: Some(file.clone()),
                ..good.clone()
            },
            file.clone(),
        ),
        (
            Open {
                log_path: Some(file.join("0.log")),
                ..good.clone()
            },
            file,
        ),
        (
            Open {
                log_path: Some(container.dir.clone()),
                ..good
            },
            container.dir.clone(),
        ),
    ];
    for (open, path) in bad {
        let error = pump.client.open(&open).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    assert!(pump.client.list().unwrap().is_empty());
}

#[test]
fn without_a_log_path_output_is_read_and_thrown_away() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    pump.client
        .open(&Open {
            log_path: None,
            ..container.open()
        })
        .unwrap();
    let mut out = container.shim("out");
    out.write_all(&vec![b'x'; 4 << 20]).unwrap();
    drop(out);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(fs::metadata(container.log()).unwrap().len(), 0);
}

#[test]
fn a_pump_that_is_told_to_leave_leaves_what_is_open_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(&dir.path().join("log.sock"));
    let (handle, thread) = pump_thread(dir.path());
    assert_eq!(handle.open(), 0);
    let container = Container::make(dir.path());
    client.open(&container.open()).unwrap();
    let mut out = container.shim("out");
    write!(out, "one\ntw").unwrap();
    wait_for("the count", || handle.open() == 1);
    handle.leave();
    thread.join().unwrap().unwrap();
    assert!(client.ping().unwrap_err().is_unreachable());
    assert!(!dir.path().join("log.sock").exists());
    assert_eq!(container.texts(), ["one"]);

    let (handle, thread) = pump_thread(dir.path());
    assert_eq!(handle.open(), 1, "also before it has begun");
    client.ping().unwrap();
    writeln!(out, "o").unwrap();
    drop(out);
    assert_eq!(client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["one", "two"]);
    wait_for("the count", || handle.open() == 0);
    handle.leave();
    thread.join().unwrap().unwrap();
}

#[test]
fn its_thread_has_few_capabilities_and_takes_no_signals() {
    let pump = Pump::start();
    let bits = |task: PathBuf, key: &str| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let main = PathBuf::from(format!("/proc/{}", pump.process.id()));
    // CAP_DAC_OVERRIDE is 1, CAP_SYS_RESOURCE 24.
    let kept = bits(main.clone(), "CapPrm:") & (1 << 1 | 1 << 24);
    assert!(bits(main, "CapEff:").count_ones() > 10, "the tests run as root");
    for set in ["CapEff:", "CapPrm:"] {
        assert_eq!(bits(pump.thread(), set), kept);
    }
    assert_eq!(bits(pump.thread(), "CapInh:"), 0);
    // All but SIGKILL and SIGSTOP, and the two that the C library keeps.
    assert!(bits(pump.thread(), "SigBlk:").count_ones() >= 60);

    // What it keeps is enough for a log directory and FIFOs that are somebody else's.
    let container = Container::make(pump.dir.path());
    let logs = container.dir.join("logs");
    fs::create_dir(&logs).unwrap();
    for path in [&logs, &container.dir.join("out"), &container.dir.join("err")] {
        std::os::unix::fs::chown(path, Some(4711), Some(4711)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o500)).unwrap();
    }
    pump.client.open(&container.open()).unwrap();
    writeln!(container.shim("out"), "mine").unwrap();
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["mine"]);
}
