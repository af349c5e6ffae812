//! A task's life and its end: codes, waiting, killing and deleting.

use std::time::Duration;

use containerd_client::types::v1::Status as Phase;
use tonic::Code;

use crate::node::{Node, PATIENCE};
use crate::process::{Exec, age, code};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_created_then_running_then_stopped_then_gone() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).create().await.unwrap();
    let state = process.state().await.unwrap();
    assert_eq!((state.status(), state.pid), (Phase::Created, process.pid));
    assert_eq!((state.id, state.stdout), (process.id.clone(), process.pipes.stdout()));
    assert_eq!(process.start().await.unwrap(), process.pid);
    assert_eq!(process.phase().await, Phase::Running);
    assert!(std::path::Path::new(&format!("/proc/{}", process.pid)).exists());
    process.kill(9).await.unwrap();
    assert_eq!(process.ends().await, 137);
    let state = process.state().await.unwrap();
    assert_eq!((state.status(), state.exit_status), (Phase::Stopped, 137));
    assert!(age(state.exited_at) < PATIENCE);
    process.remove().await;
    assert!(node.list().await.is_empty());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_is_the_programs_own_or_128_and_the_signal() {
    let node = Node::start().await;
    for wanted in [0, 1, 77, 255] {
        let process = node.shell(&format!("exit {wanted}")).run().await;
        assert_eq!(process.ends().await, wanted);
        process.remove().await;
    }
    // The first process of a PID namespace has only the signals that it handles, and SIGKILL.
    for (signal, wanted) in [(9, 137), (15, 42)] {
        let process = node
            .shell("trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done")
            .run()
            .await;
        process.pipes.out.shows("ready").await;
        process.kill(signal).await.unwrap();
        assert_eq!(process.ends().await, wanted);
        process.remove().await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_output_and_error_arrive_whole_and_apart() {
    let node = Node::start().await;
    let process = node.shell("echo out; echo err >&2").run().await;
    assert_eq!(process.ends().await, 0);
    assert_eq!(process.pipes.out.text().await, "out\n");
    assert_eq!(process.pipes.err.as_ref().unwrap().text().await, "err\n");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_answered_at_the_end_to_all_and_afterwards_at_once_and_again() {
    let node = Node::start().await;
    let process = node.shell("sleep 0.5; exit 6").run().await;
    let (one, two, three) = tokio::join!(process.wait(), process.wait(), process.wait());
    let first = one.unwrap();
    assert_eq!(first.exit_status, 6);
    assert!(age(first.exited_at) < PATIENCE);
    for later in [two, three, process.wait().await, process.wait().await] {
        assert_eq!(later.unwrap(), first);
    }
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_goes_away_disturbs_no_other() {
    let node = Node::start().await;
    let process = node.shell("sleep 1; exit 8").run().await;
    for _ in 0..5 {
        tokio::time::timeout(Duration::from_millis(50), process.wait())
            .await
            .unwrap_err();
    }
    assert_eq!(process.ends().await, 8);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_task_can_be_waited_for_before_its_start() {
    let node = Node::start().await;
    let process = node.shell("exit 4").create().await.unwrap();
    let (waited, started) = tokio::join!(process.wait(), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        process.start().await
    });
    started.unwrap();
    assert_eq!(waited.unwrap().exit_status, 4);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_created_task_can_be_killed_and_deleted_unstarted() {
    let node = Node::start().await;
    let process = node.shell("echo never").create().await.unwrap();
    process.kill(9).await.unwrap();
    assert_eq!(process.ends().await, 137);
    assert_eq!(process.delete().await.unwrap().exit_status, 137);
    assert_eq!(process.pipes.out.so_far(), "");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_gives_code_pid_and_time_and_a_second_time_finds_nothing() {
    let node = Node::start().await;
    let process = node.shell("exit 9").run().await;
    let waited = process.wait().await.unwrap();
    let deleted = process.delete().await.unwrap();
    assert_eq!((deleted.exit_status, deleted.exited_at), (9, waited.exited_at));
    assert_eq!(deleted.pid, process.pid);
    assert_eq!(code(process.delete().await), Code::NotFound);
    assert_eq!(code(process.state().await), Code::NotFound);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_task_cannot_be_deleted() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    process.delete().await.unwrap_err();
    assert_eq!(process.phase().await, Phase::Running);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_what_has_ended_finds_nothing() {
    let node = Node::start().await;
    let process = node.shell("exit 0").run().await;
    process.ends().await;
    for signal in [0, 9, 15] {
        assert_eq!(code(process.kill(signal).await), Code::NotFound, "signal {signal}");
    }
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_reaches_every_process_of_the_container() {
    let node = Node::start().await;
    // Execs are no children of the first process, but in the same container.
    let process = node.shell("trap '' TERM; while :; do sleep 0.1; done").run().await;
    let exec = process.exec_run("one", Exec::new(&["sleep", "1000"])).await;
    process.signal(15, true).await.unwrap();
    assert_eq!(exec.ends().await, 143);
    assert_eq!(process.phase().await, Phase::Running);
    exec.delete().await.unwrap();
    process.signal(9, true).await.unwrap();
    assert_eq!(process.ends().await, 137);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_of_a_container_in_the_hosts_pid_namespace_leaves_no_process() {
    let node = Node::start().await;
    let mut container = node.shell("sleep 1000 & sleep 1000 & wait");
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let process = container.run().await;
    while process.pids().await.unwrap().len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pids = process.pids().await.unwrap();
    process.kill(9).await.unwrap();
    assert_eq!(process.ends().await, 137);
    process.delete().await.unwrap();
    let begin = std::time::Instant::now();
    while pids
        .iter()
        .any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists())
    {
        assert!(begin.elapsed() < PATIENCE, "processes are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlives_the_first_process_of_a_container_does_not_delay_its_exit() {
    let node = Node::start().await;
    let mut container = node.shell("sleep 1000 & exit 2");
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let process = container.run().await;
    assert_eq!(process.ends().await, 2);
    assert_eq!(process.delete().await.unwrap().exit_status, 2);
    process.remove().await;
    node.end().await;
}
