//! A shim that is killed, and the next one.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use berth::proto::shim::process::Status;
use berth::proto::shim::task;
use nix::sys::signal::Signal;

use crate::bundle::Bundle;
use crate::ground::{Ground, alive, becomes, signal};

/// Kills the shim, has another one, and has containerd take the container back.
fn another_shim(bundle: &Bundle<'_>, pid: u32) {
    bundle.ground.kill_shim();
    assert!(alive(pid));
    bundle.prepare();
    assert_eq!((bundle.create().unwrap(), bundle.start().unwrap()), (pid, pid));
    assert_eq!(bundle.status(), Status::Running);
}

fn pids(bundle: &Bundle<'_>) -> Vec<u32> {
    let id = bundle.id.clone();
    let answer: task::PidsResponse = bundle.ground.connect().ask("Pids", &task::PidsRequest { id }).unwrap();
    answer.processes.iter().map(|process| process.pid).collect()
}

#[test]
fn an_adopted_container_is_asked_entered_signalled_and_ends_with_its_true_code() {
    let ground = Ground::new();
    let bundle = ground.shell("trap 'exit 42' TERM; while :; do sleep 0.05; done");
    let pid = bundle.run();
    another_shim(&bundle, pid);
    let exec = bundle.exec_run("within", &["sh", "-c", "exit 3"]);
    assert_ne!(exec, pid);
    assert_eq!(bundle.wait_process("within").unwrap().exit_status, 3);
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| bundle.wait().unwrap().exit_status);
        sleep(Duration::from_millis(50));
        bundle.kill(15).unwrap();
        assert_eq!(wait.join().unwrap(), 42);
    });
    assert_eq!(bundle.delete().unwrap().exit_status, 42);
    bundle.is_forgotten();
    ground.end();
}

#[test]
fn output_goes_on_through_the_deaths_of_shims() {
    let ground = Ground::new();
    let mut bundle = ground.shell("i=0; while [ $i -lt 200 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 5");
    let output = bundle.output_to("output");
    let pid = bundle.run();
    for _ in 0..3 {
        another_shim(&bundle, pid);
    }
    assert_eq!(bundle.wait().unwrap().exit_status, 5);
    let expected: String = (0..200).map(|line| format!("{line}\n")).collect();
    assert_eq!(fs::read_to_string(output).unwrap(), expected);
    bundle.delete().unwrap();
    ground.end();
}

#[test]
fn a_container_that_ended_while_no_shim_was_there_has_an_unknown_code() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    ground.kill_shim();
    signal(pid, Signal::SIGKILL);
    becomes("it is dead", || !alive(pid));
    bundle.prepare();
    assert_eq!(bundle.create().unwrap(), pid);
    assert_eq!(bundle.status(), Status::Stopped);
    assert_eq!(bundle.wait().unwrap().exit_status, 255);
    assert_eq!(bundle.delete().unwrap().exit_status, 255);
    ground.end();
}

#[test]
fn its_code_is_known_by_the_handle_that_somebody_kept() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    let (handle, _) = ground.control().give(&bundle.id).unwrap();
    ground.kill_shim();
    signal(pid, Signal::SIGKILL);
    becomes("it is dead", || !alive(pid));
    ground.ensure();
    ground.control().hand(&bundle.id, &[handle.as_fd()]).unwrap();
    assert_eq!(bundle.create().unwrap(), pid);
    assert_eq!(bundle.wait().unwrap().exit_status, 137);
    assert_eq!(bundle.delete().unwrap().exit_status, 137);
    ground.end();
}

#[test]
fn a_container_that_was_created_is_started_by_the_next_shim() {
    let ground = Ground::new();
    let bundle = ground.shell("exit 6");
    bundle.prepare();
    let pid = bundle.create().unwrap();
    ground.kill_shim();
    ground.ensure();
    assert_eq!(bundle.create().unwrap(), pid);
    assert_eq!(bundle.status(), Status::Created);
    assert_eq!(bundle.start().unwrap(), pid);
    assert_eq!(bundle.wait().unwrap().exit_status, 6);
    bundle.delete().unwrap();
    ground.end();
}

#[test]
fn further_processes_end_with_their_shim_and_the_container_lives() {
    let ground = Ground::new();
    let slow = r#"[ "$verb" = exec ] && [ -e "$0.slow" ] && { touch "$0.began"; sleep 0.5; }; exec runc "$@""#;
    let bundle = ground.sleeper().by(slow);
    let pid = bundle.run();
    let runs = bundle.exec_run("runs", &["sleep", "1000"]);
    // And one that is only on its way.
    let file = |name: &str| format!("{}.{name}", bundle.options.binary_name);
    fs::write(file("slow"), "").unwrap();
    bundle.exec("starts", &["sleep", "1000"]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| bundle.start_process("starts").unwrap_err());
        becomes("it has begun", || Path::new(&file("began")).exists());
        ground.kill_shim();
    });
    bundle.prepare();
    assert_eq!(bundle.create().unwrap(), pid);
    becomes("the first one is dead", || !alive(runs));
    sleep(Duration::from_secs(1));
    becomes("the second one is dead", || pids(&bundle) == [pid]);
    bundle.remove();
    ground.end();
}

#[test]
fn a_terminal_goes_on_when_it_is_handed_back() {
    let ground = Ground::new();
    let mut bundle = ground.shell("stty -echo; while read word; do echo got $word; done");
    bundle.spec["process"]["terminal"] = true.into();
    bundle.terminal = true;
    let fifo = |name: &str| {
        let path = ground.path(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut open = OpenOptions::new();
        let file = open
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        (path.display().to_string(), file)
    };
    let ((stdin, mut input), (stdout, mut output)) = (fifo("in"), fifo("out"));
    (bundle.stdin, bundle.stdout) = (stdin, stdout);
    let mut seen = String::new();
    let mut shows = |words: &str| {
        becomes(words, || {
            let mut buffer = [0; 1024];
            if let Ok(count) = output.read(&mut buffer) {
                seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            seen.contains(words)
        });
    };
    let pid = bundle.run();
    input.write_all(b"one\n").unwrap();
    shows("got one");
    let (handle, terminal) = ground.control().give(&bundle.id).unwrap();
    let terminal = terminal.unwrap();
    ground.kill_shim();
    input.write_all(b"two\n").unwrap();
    ground.ensure();
    ground
        .control()
        .hand(&bundle.id, &[handle.as_fd(), terminal.as_fd()])
        .unwrap();
    drop(terminal);
    assert_eq!(bundle.create().unwrap(), pid);
    shows("got two");
    input.write_all(b"three\n").unwrap();
    shows("got three");
    bundle.remove();
    ground.end();
}
