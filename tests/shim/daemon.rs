//! Tasks and their containerd: many at once, restarts, and `ctr`.

use std::process::Output;
use std::time::Duration;

use containerd_client::types::v1::Status as Phase;

use crate::node::{self, Node, is_stock};
use crate::process::Exec;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_containers_live_and_end_at_once() {
    let node = Node::start().await;
    let lives = (0..20).map(|number| {
        let node = &node;
        async move {
            let process = node
                .shell(&format!("echo {number}; sleep 0.2; exit {number}"))
                .run()
                .await;
            assert_eq!(process.ends().await, number);
            assert_eq!(process.pipes.out.text().await, format!("{number}\n"));
            assert_eq!(process.delete().await.unwrap().exit_status, number);
            process.remove().await;
        }
    });
    futures_util::future::join_all(lives).await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_outlive_their_containerd_and_their_codes_are_true_afterwards() {
    let mut node = Node::start().await;
    let script = "until [ -e /tmp/end-$0 ]; do sleep 0.05; done; echo bye; exit $1";
    let args = |name: &'static str, code: &'static str| ["sh", "-c", script, name, code];
    let (meanwhile, later) = (
        node.container(&args("a", "21")).run().await,
        node.container(&args("b", "22")).run().await,
    );
    let idle = later
        .exec_run(
            "idle",
            Exec::shell("until [ -e /tmp/end-c ]; do sleep 0.05; done; exit 23"),
        )
        .await;
    let ids = [meanwhile.id.clone(), later.id.clone()];
    let signs = node.rootfs().join("tmp");
    let sign = |name: &str| std::fs::write(signs.join(format!("end-{name}")), "").unwrap();
    let (meanwhile, later, idle) = (meanwhile.detach(), later.detach(), idle.detach());

    node.containerd.kill();
    sign("a");
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.start_again().await;

    let (meanwhile, later, idle) = (meanwhile.attach(&node), later.attach(&node), idle.attach(&node));
    let mut listed: Vec<_> = node.list().await.into_iter().map(|task| task.id).collect();
    listed.sort();
    assert_eq!(meanwhile.pipes.out.text().await, "bye\n");
    // A containerd 2 takes a task away whose shim tells it no process of, and the stock shim tells none of an ended one.
    if !is_stock() || listed.len() == 2 {
        assert_eq!(listed, ids);
        assert_eq!(meanwhile.phase().await, Phase::Stopped);
        assert_eq!(meanwhile.ends().await, 21);
        assert_eq!(meanwhile.delete().await.unwrap().exit_status, 21);
    }
    assert_eq!(later.phase().await, Phase::Running);
    assert_eq!(idle.phase().await, Phase::Running);
    sign("c");
    assert_eq!(idle.ends().await, 23);
    idle.delete().await.unwrap();
    sign("b");
    assert_eq!(later.ends().await, 22);
    assert_eq!(later.pipes.out.text().await, "bye\n");
    for process in [meanwhile, later] {
        process.remove().await;
    }
    node.end().await;
}

fn said(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctr_lists_tasks_and_runs_programs_in_them() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let list = said(&node.ctr(&["tasks", "ls"]));
    let line = list
        .lines()
        .find(|line| line.contains(&process.id))
        .expect("it is listed");
    assert!(
        line.contains("RUNNING") && line.contains(&process.pid.to_string()),
        "{line}"
    );
    let pids = said(&node.ctr(&["tasks", "ps", &process.id]));
    assert!(pids.contains(&process.pid.to_string()), "{pids}");
    let exec = node.ctr(&["tasks", "exec", "--exec-id", "one", &process.id, "echo", "hello"]);
    assert_eq!(said(&exec), "hello\n");
    let exec = node.ctr(&["tasks", "exec", "--exec-id", "two", &process.id, "sh", "-c", "exit 9"]);
    assert_eq!(exec.status.code(), Some(9));
    assert!(said(&node.ctr(&["tasks", "metrics", &process.id])).contains("pids.current"));
    said(&node.ctr(&["tasks", "pause", &process.id]));
    assert_eq!(process.phase().await, Phase::Paused);
    said(&node.ctr(&["tasks", "resume", &process.id]));
    said(&node.ctr(&["tasks", "kill", "--signal", "SIGKILL", &process.id]));
    process.reaches(Phase::Stopped).await;
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctr_runs_a_container_from_its_creation_to_its_removal() {
    let node = Node::start().await;
    let (id, rootfs, runtime) = (
        node.container(&[]).id,
        node.rootfs().display().to_string(),
        node::runtime(),
    );
    let cgroup = format!("{}/{id}", node.cgroup());
    let words = [
        "run",
        "--rm",
        "--cgroup",
        &cgroup,
        "--runtime",
        &runtime,
        "--rootfs",
        &rootfs,
        &id,
    ];
    let output = node.ctr(&[&words[..], &["/bin/sh", "-c", "echo hello; exit 5"]].concat());
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!((&*stdout, output.status.code()), ("hello\n", Some(5)), "{stderr}");
    assert!(!said(&node.ctr(&["containers", "ls"])).contains(&id));
    node.end().await;
}
