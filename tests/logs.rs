//! The log pump as a process, with real FIFOs, and with writers that hold them as containerd's shim does.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only functions marked as tests, and this file is a test"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use berth::logs::Client;
use berth::logs::line::MAX_TEXT;
use berth::logs::protocol::{Drained, Open};
use berth::model::Id;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
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
        let socket = dir.path().join("pump.sock");
        let client = Client::new(&socket);
        let process = spawn(&socket, &client);
        Self { dir, process, client }
    }

    fn kill_and_start_again(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        assert!(self.client.ping().unwrap_err().is_unreachable());
        self.process = spawn(&self.dir.path().join("pump.sock"), &self.client);
    }

    /// Makes FIFOs and opens them in the pump, with a log.
    fn container(&self) -> Container {
        let id = Id::random();
        let dir = self.dir.path().join(id.short());
        fs::create_dir(&dir).unwrap();
        for name in ["out", "err"] {
            nix::unistd::mkfifo(&dir.join(name), Mode::S_IRWXU).unwrap();
        }
        let container = Container { id, dir };
        self.client.open(&container.open()).unwrap();
        container
    }

    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        // Without its text, which in a debug build is many times its data and is paged in bit by bit.
        self.status("RssAnon:")
    }

    /// How often it went to sleep.
    fn awoken(&self) -> u64 {
        self.status("voluntary_ctxt_switches:")
    }

    fn status(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(socket: &Path, client: &Client) -> Child {
    let process = Command::new(env!("CARGO_BIN_EXE_berth"))
        .arg("log-pump")
        .arg("--socket")
        .arg(socket)
        .spawn();
    wait_for("the pump's answer", || client.ping().is_ok());
    process.unwrap()
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
}

impl Container {
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

    /// Both ends, as the shim has them: writes block when nobody reads, and never fail.
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
fn a_fifo_full_of_tiny_packets_does_not_stand_still() {
    let pump = Pump::start();
    let container = pump.container();
    // Packets are not merged (pipe(7), O_DIRECT): 64 of them fill 64 slots, with 64 bytes.
    let mut out = OpenOptions::new().write(true).open(container.dir.join("out")).unwrap();
    fcntl(&out, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
    for _ in 0..1000 {
        out.write_all(b"x").unwrap();
    }
    drop(out);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts().concat(), "x".repeat(1000));
    assert_eq!(container.records().last().unwrap().1, "F");
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
fn killing_the_pump_in_the_middle_of_400_lines_loses_none() {
    let mut pump = Pump::start();
    let (mut repeated, mut kills) = (0, 0);
    for round in 0..10 {
        let container = pump.container();
        let mut out = container.shim("out");
        let writer = thread::spawn(move || {
            for i in 0..400 {
                writeln!(out, "line {i}").unwrap();
                if i % 3 == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            out
        });
        wait_for("some lines", || container.count() > round * 30);
        pump.kill_and_start_again();
        kills += 1;
        pump.client.open(&container.open()).unwrap();
        drop(writer.join().unwrap());
        assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
        let mut texts = container.texts();
        let all = texts.len();
        texts.dedup();
        if texts != numbered(0..400) {
            // More than one line may be repeated: a whole batch.
            let mut seen = Vec::new();
            for text in texts {
                if !seen.contains(&text) {
                    seen.push(text);
                }
            }
            assert_eq!(seen, numbered(0..400));
        }
        repeated += all - 400;
    }
    println!("{kills} kills, {repeated} lines repeated");
}

#[test]
fn a_pump_killed_under_full_load_leaves_whole_records_and_loses_none() {
    const LINES: usize = 300_000;
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    let writer = thread::spawn(move || {
        for chunk in numbered(0..LINES).chunks(100) {
            out.write_all((chunk.join("\n") + "\n").as_bytes()).unwrap();
        }
        out
    });
    let mut kills = 0;
    while !writer.is_finished() {
        thread::sleep(Duration::from_millis(5));
        pump.kill_and_start_again();
        pump.client.open(&container.open()).unwrap();
        kills += 1;
    }
    drop(writer.join().unwrap());
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    let (mut next, mut repeated) = (0, 0);
    for text in container.texts() {
        let number: usize = text.strip_prefix("line ").unwrap().parse().unwrap();
        assert!(number <= next, "line {next} is missing");
        repeated += usize::from(number < next);
        next = next.max(number + 1);
    }
    assert_eq!(next, LINES);
    println!("{kills} kills, {repeated} lines repeated");
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
fn a_fifo_that_nobody_writes_is_at_its_end() {
    let mut pump = Pump::start();
    let never_started = pump.container();
    let begun = Instant::now();
    assert_eq!(pump.client.drain(&never_started.id, LONG).unwrap(), COMPLETE);

    // The container ended while no pump was there; another reader kept what it had written, an unfinished line.
    let container = pump.container();
    writeln!(container.shim("out"), "before").unwrap();
    wait_for("the line", || container.count() == 1);
    pump.process.kill().unwrap();
    pump.process.wait().unwrap();
    let keeper = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(container.dir.join("out"))
        .unwrap();
    write!(
        OpenOptions::new().write(true).open(container.dir.join("out")).unwrap(),
        "after"
    )
    .unwrap();
    pump.process = spawn(&pump.dir.path().join("pump.sock"), &pump.client);
    pump.client.open(&container.open()).unwrap();
    drop(keeper);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["before", "after"]);
    assert!(begun.elapsed() < LONG / 2);
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
fn a_thousand_quiet_containers_need_little_memory_and_one_more_is_served_at_once() {
    let pump = Pump::start();
    let before = pump.resident();
    let containers: Vec<_> = (0..500).map(|_| pump.container()).collect();
    let shims: Vec<_> = containers.iter().map(|c| (c.shim("out"), c.shim("err"))).collect();
    let opened = pump.resident();
    for (mut out, mut err) in shims {
        writeln!(out, "hello").unwrap();
        writeln!(err, "hello").unwrap();
    }
    for container in &containers {
        assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
        assert_eq!(container.texts(), ["hello", "hello"]);
    }
    let after = pump.resident();
    println!("1000 FIFOs: {before} KiB, open {opened} KiB, used and closed {after} KiB");
    assert!(
        opened < before + 2048 && after < before + 2048,
        "{before} {opened} {after}"
    );
}

#[test]
fn two_hundred_megabytes_do_not_grow_the_pump_nor_keep_others_waiting() {
    const MEGABYTES: usize = 200;
    let pump = Pump::start();
    let (loud, quiet) = (pump.container(), pump.container());
    let mut quiet_out = quiet.shim("out");
    writeln!(quiet_out, "warm").unwrap();
    wait_for("the first line", || quiet.count() == 1);
    let before = pump.resident();

    let mut out = loud.shim("out");
    let begun = Instant::now();
    let writer = thread::spawn(move || {
        let chunk = format!("{}\n", "x".repeat(127)).repeat(256);
        for _ in 0..MEGABYTES * 32 {
            out.write_all(chunk.as_bytes()).unwrap();
        }
    });
    let (mut largest, mut longest, mut lines) = (0, Duration::ZERO, 1);
    while !writer.is_finished() {
        let asked = Instant::now();
        writeln!(quiet_out, "quiet").unwrap();
        lines += 1;
        wait_for("the quiet line", || quiet.count() == lines);
        longest = longest.max(asked.elapsed());
        largest = largest.max(pump.resident());
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pump.client.drain(&loud.id, LONG).unwrap(), COMPLETE);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{:.0} MB/s; {before} KiB before, at most {largest} KiB; a quiet container waited at most {longest:?}",
        MEGABYTES as f64 * 1.048_576 / seconds
    );
    let length = fs::metadata(loud.log()).unwrap().len();
    assert_eq!(
        length,
        MEGABYTES as u64 * 32 * 256 * (30 + " stdout F ".len() as u64 + 128)
    );
    assert!(largest < before + 2048, "{before} KiB grew to {largest} KiB");
}

#[test]
fn on_a_full_disk_the_container_waits_and_nothing_is_lost_or_repeated() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    let disk = SmallDisk::mount(container.dir.join("logs"), "256k");
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![0; 192 * 1024]).unwrap();
    pump.client.open(&container.open()).unwrap();

    let mut out = container.shim("out");
    let writer = thread::spawn(move || {
        numbered(0..3000)
            .iter()
            .for_each(|line| writeln!(out, "{line}").unwrap())
    });
    let status = || pump.client.list().unwrap().remove(0);
    wait_for("the full disk", || status().failures > 1);
    let stuck = status().stuck.unwrap();
    assert!(
        stuck.contains("No space left") && stuck.contains(container.log().to_str().unwrap()),
        "{stuck}"
    );
    let texts = container.texts();
    assert_eq!(texts, numbered(0..texts.len()), "what is there is whole");

    fs::remove_file(&ballast).unwrap();
    writer.join().unwrap();
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), numbered(0..3000));
}

#[test]
fn draining_onto_a_full_disk_gives_up_in_time_and_says_why() {
    let pump = Pump::start();
    let container = pump.container();
    pump.client.close(&container.id).unwrap();
    let _disk = SmallDisk::mount(container.dir.join("logs"), "16k");
    pump.client.open(&container.open()).unwrap();
    let mut out = container.shim("out");
    numbered(0..3000)
        .iter()
        .for_each(|line| writeln!(out, "{line}").unwrap());
    drop(out);
    let drained = pump.client.drain(&container.id, Duration::from_millis(300)).unwrap();
    assert!(!drained.complete && drained.reason.unwrap().contains("No space left"));
}

/// A tmpfs for as long as the value lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        let options = format!("size={size}");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), &at, Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_pump_is_started_once_on_its_own_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, messages) = (dir.path().join("pump.sock"), dir.path().join("pump.log"));
    let exe = Path::new(env!("CARGO_BIN_EXE_berth"));
    let client = Client::new(&socket);
    berth::logs::start(exe, &socket, &messages).unwrap();
    let pid = client.ping().unwrap().pid;
    berth::logs::start(exe, &socket, &messages).unwrap();
    assert_eq!(client.ping().unwrap().pid, pid);

    let pump = Pid::from_raw(pid as i32);
    assert_eq!(nix::unistd::getsid(Some(pump)).unwrap(), pump);
    let second = Command::new(exe)
        .arg("log-pump")
        .arg("--socket")
        .arg(&socket)
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("already"));

    client.shutdown().unwrap();
    assert!(!socket.exists());
    wait_for("the pump's end", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(fs::read_to_string(&messages).unwrap().contains("left"));
}

#[test]
fn a_pump_that_cannot_start_is_told_with_where_to_look() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("missing/pump.sock");
    let messages = dir.path().join("pump.log");
    let error = berth::logs::start(Path::new(env!("CARGO_BIN_EXE_berth")), &socket, &messages).unwrap_err();
    assert!(error.to_string().contains(messages.to_str().unwrap()), "{error}");
    assert!(fs::read_to_string(&messages).unwrap().contains("No such file"));
}

#[test]
fn a_pump_that_is_replaced_leaves_an_unfinished_line_whole() {
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    write!(out, "one\ntw").unwrap();
    pump.client.shutdown().unwrap();
    pump.process.wait().unwrap();
    assert_eq!(container.texts(), ["one"]);
    pump.process = spawn(&pump.dir.path().join("pump.sock"), &pump.client);
    pump.client.open(&container.open()).unwrap();
    writeln!(out, "o").unwrap();
    drop(out);
    assert_eq!(pump.client.drain(&container.id, LONG).unwrap(), COMPLETE);
    assert_eq!(container.texts(), ["one", "two"]);
}

#[test]
fn a_dismissed_pump_leaves_when_the_last_container_has_ended() {
    let mut pump = Pump::start();
    let container = pump.container();
    let mut out = container.shim("out");
    let pid = Pid::from_raw(pump.process.id() as i32);
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(pid, signal).unwrap();
    }
    thread::sleep(Duration::from_millis(50));
    writeln!(out, "still pumped").unwrap();
    wait_for("the line", || container.count() == 1);
    drop(out);
    assert!(pump.process.wait().unwrap().success());
}
