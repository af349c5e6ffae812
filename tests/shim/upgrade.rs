//! Upgrades in place: the shim becomes another program, and nobody notices. The stock shim cannot.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth::logs;
use berth::model::Id;
use berth::shim::control::{Client, Hello};
use containerd_client::types::v1::Status as Phase;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::events::Events;
use crate::node::{Node, PATIENCE, is_stock, runtime};
use crate::process::Exec;

/// Whether there is nothing to test. Says so.
fn skipped() -> bool {
    if is_stock() {
        eprintln!("SKIPPED: the stock shim cannot be upgraded in place");
    }
    is_stock()
}

fn client(node: &Node) -> Client {
    Client::connect(&node.place().control_socket()).unwrap()
}

fn hello(node: &Node) -> Hello {
    client(node).hello().unwrap()
}

/// Another file of the same program.
fn copy(node: &Node, name: &str) -> PathBuf {
    let path = node.containerd.scratch().join(format!("containerd-shim-{name}"));
    fs::copy(runtime(), &path).unwrap();
    path
}

fn upgrade(node: &Node, binary: &Path) {
    let upgraded = tokio::task::block_in_place(|| client(node).upgrade(binary));
    upgraded.unwrap_or_else(|error| panic!("{error}\n{}", messages(node)));
}

fn messages(node: &Node) -> String {
    fs::read_to_string(node.place().messages()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_and_who_waits_is_kept_over_an_upgrade() {
    if skipped() {
        return;
    }
    let node = Node::start().await;
    let events = Events::of(&node).await;
    let busy = node
        .shell("i=0; until [ -e /tmp/end-busy ]; do echo line $i; i=$((i + 1)); [ $((i % 50)) != 0 ] || sleep 0.01; done; exit 21")
        .run()
        .await;
    let exec = busy.exec_run("cat", Exec::shell("cat; exit 22").with_stdin()).await;
    let script = "tty; while read line; do $line; done";
    let terminal = node.shell(script).terminal().run().await;
    let paused = node.container(&["sleep", "1000"]).run().await;
    paused.pause().await.unwrap();
    let created = node.shell("exit 24").create().await.unwrap();
    let added = busy.exec("added", Exec::shell("exit 25")).await.unwrap();
    terminal.pipes.out.shows("/dev/pts/").await;
    exec.pipes.input().write_all(b"before\n").unwrap();
    exec.pipes.out.shows("before\n").await;
    let before = hello(&node);
    let next = copy(&node, "next");
    let mut watching = client(&node);

    let waiting = async { tokio::join!(busy.ends(), exec.ends(), terminal.ends()) };
    let act = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        upgrade(&node, &next);
        let after = hello(&node);
        assert_eq!((after.pid, after.binary.as_path()), (before.pid, next.as_path()));
        assert_ne!(after.file, before.file);
        assert_eq!(watching.hello().unwrap().file, after.file, "connections stay");
        drop(watching);
        fs::remove_file(&next).unwrap();
        for (process, phase) in [
            (&busy, Phase::Running),
            (&terminal, Phase::Running),
            (&paused, Phase::Paused),
        ] {
            assert_eq!(process.phase().await, phase);
        }
        assert_eq!(created.phase().await, Phase::Created);
        exec.pipes.input().write_all(b"after\n").unwrap();
        exec.pipes.out.shows("after\n").await;
        exec.close_stdin().await.unwrap();
        terminal.resize(61, 17).await.unwrap();
        terminal.pipes.input().write_all(b"stty size\n").unwrap();
        terminal.pipes.out.shows("17 61\r\n").await;
        terminal.pipes.input().write_all(b"exit 23\n").unwrap();
        let lines = busy.pipes.out.so_far().len();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(busy.pipes.out.so_far().len() > lines);
        added.start().await.unwrap();
        assert_eq!(added.ends().await, 25);
        assert!(events.so_far().iter().filter(|(topic, _)| topic == "exit").count() <= 3);
        fs::write(node.rootfs().join("tmp/end-busy"), "").unwrap();
    };
    let (codes, ()) = tokio::join!(waiting, act);
    assert_eq!(codes, (21, 22, 23), "{}", messages(&node));
    let lines = busy.pipes.out.text().await;
    assert!(
        lines
            .lines()
            .enumerate()
            .all(|(number, line)| line == format!("line {number}"))
    );
    created.start().await.unwrap();
    assert_eq!(created.ends().await, 24);
    paused.resume().await.unwrap();
    for exec in [exec, added] {
        exec.delete().await.unwrap();
    }
    for process in [busy, terminal, paused, created] {
        process.remove().await;
    }
    let seen = events.until_deleted(4).await;
    assert_eq!(seen.iter().filter(|(topic, _)| topic == "exit").count(), 6);
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_take_over_is_refused_and_all_goes_on() {
    if skipped() {
        return;
    }
    let node = Node::start().await;
    let process = node.container(&["cat"]).with_stdin().run().await;
    let before = hello(&node);
    let file = |name: &str, text: &str, mode| {
        let path = node.containerd.scratch().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path
    };
    let answers = "#!/bin/sh\n[ -e $0.gone ] || { echo Handover: 1; chmod 600 $0; }\n";
    for (path, reason) in [
        (PathBuf::from("/nonexistent/shim"), "cannot be run"),
        (PathBuf::from("bin/true"), "no absolute path"),
        (PathBuf::from("/bin/true"), "does not take over"),
        (PathBuf::from("/bin/false"), "exits with 1"),
        (file("text", "no program", 0o755), "cannot be run"),
        (file("data", "no program", 0o600), "cannot be run"),
        (
            file("newer", "#!/bin/sh\necho Handover: 2 3\n", 0o755),
            "does not take over",
        ),
        (file("slow", "#!/bin/sh\nsleep 1000\n", 0o755), "does not say"),
        // Only after all has come to rest.
        (file("fickle", answers, 0o755), "cannot become"),
    ] {
        let error = client(&node).upgrade(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{}: {error}", path.display());
        assert_eq!(hello(&node), before);
        assert_eq!(process.phase().await, Phase::Running);
    }
    let mut input = process.pipes.input();
    input.write_all(b"still there\n").unwrap();
    process.pipes.out.shows("still there\n").await;
    process.close_stdin().await.unwrap();
    drop(input);
    assert_eq!(process.ends().await, 0);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_during_an_upgrade_ends_with_its_true_code() {
    if skipped() {
        return;
    }
    let node = Node::start().await;
    let next = copy(&node, "next");
    for round in 0..3_u32 {
        let mut processes = Vec::new();
        for code in 1..=4_u32 {
            let script = format!("until [ -e /tmp/go-{round} ]; do sleep 0.0$0; done; exit {code}");
            let delay = code.to_string();
            processes.push(node.container(&["sh", "-c", &script, &delay]).run().await);
        }
        let ends = futures_util::future::join_all(processes.iter().map(|process| process.ends()));
        let act = async {
            fs::write(node.rootfs().join(format!("tmp/go-{round}")), "").unwrap();
            upgrade(&node, &next);
        };
        let (codes, ()) = tokio::join!(ends, act);
        assert_eq!(codes, [1, 2, 3, 4]);
        for process in processes {
            process.remove().await;
        }
    }
    node.end().await;
}

/// Runs containers one after the other until `over`, and gives how many there were.
async fn churn(node: &Node, over: impl Fn() -> bool) -> u32 {
    let mut rounds = 0;
    while !over() {
        let process = node.shell("echo one; read line; exit $line").with_stdin().run().await;
        process.pipes.out.shows("one\n").await;
        let exec = process.exec_run("exec", Exec::shell("echo two; exit 8")).await;
        assert_eq!(exec.ends().await, 8);
        assert_eq!(exec.pipes.out.text().await, "two\n");
        process.pipes.input().write_all(b"9\n").unwrap();
        assert_eq!(process.ends().await, 9);
        process.remove().await;
        rounds += 1;
    }
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_upgrades_in_a_row_under_load_lose_nothing() {
    if skipped() {
        return;
    }
    let node = Node::start().await;
    let binaries = [copy(&node, "one"), copy(&node, "two")];
    let keeper = node.container(&["sleep", "1000"]).run().await;
    let before = hello(&node);
    let done = std::sync::atomic::AtomicBool::new(false);
    let over = || done.load(std::sync::atomic::Ordering::SeqCst);
    let upgrades = async {
        for round in 0..20 {
            let binary: &Path = &binaries[round % 2];
            let begin = Instant::now();
            upgrade(&node, binary);
            eprintln!("upgrade {round}: {:?}", begin.elapsed());
            assert_eq!(hello(&node).binary, binary);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (rounds, others, ()) = tokio::time::timeout(PATIENCE * 4, async {
        tokio::join!(churn(&node, over), churn(&node, over), upgrades)
    })
    .await
    .unwrap();
    assert!(rounds > 0 && others > 0);
    let after = hello(&node);
    assert_eq!(after.pid, before.pid);
    let open = fs::read_dir(format!("/proc/{}/fd", after.pid)).unwrap().count();
    assert!(open < 40, "{open} descriptors");
    keeper.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_have_every_line_once_though_their_writer_is_upgraded() {
    if skipped() {
        return;
    }
    const LINES: usize = 20_000;
    let node = Node::start().await;
    let keeper = node.container(&["sleep", "1000"]).run().await;
    let binaries = [copy(&node, "next"), runtime().into()];
    let logs = logs::Client::new(&node.place().log_socket());
    let directory = node.containerd.scratch().to_owned();
    let opens = ["steady", "ended"].map(|name| logs::protocol::Open {
        id: Id::random(),
        stdout: directory.join(name),
        stderr: None,
        log_path: Some(directory.join(format!("{name}.log"))),
    });
    for open in &opens {
        mkfifo(&open.stdout, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        logs.open(open).unwrap();
    }
    let write = |path: &Path, lines: std::ops::Range<usize>, pause: Duration| {
        let mut fifo = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        for number in lines {
            writeln!(fifo, "line {number}").unwrap();
            if number % 1000 == 0 {
                std::thread::sleep(pause);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(&opens[0].stdout, 0..LINES, Duration::from_millis(100)));
        for round in 0..5 {
            // Nobody else has the pipe open when it ends.
            write(&opens[1].stdout, round * 100..(round + 1) * 100, Duration::ZERO);
            client(&node).upgrade(&binaries[round % 2]).unwrap();
        }
    });
    for (open, lines) in opens.iter().zip([LINES, 500]) {
        assert!(logs.drain(&open.id, PATIENCE).unwrap().complete);
        let log = fs::read_to_string(open.log_path.as_ref().unwrap()).unwrap();
        let words = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap());
        for (number, words) in words.clone().enumerate() {
            assert_eq!(words, format!("line {number}"), "in {:?}", log.lines().nth(number));
        }
        assert_eq!(words.count(), lines);
    }
    keeper.remove().await;
    node.end().await;
}
