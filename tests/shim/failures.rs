//! What cannot be made leaves nothing, and a reason.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use containerd_client::services::v1::{CreateTaskRequest, DeleteTaskRequest, GetRequest, WaitRequest};
use tonic::Code;

use crate::container::bind;
use crate::node::{Node, is_stock};
use crate::process::code;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_exist_is_named_in_the_refusal() {
    let node = Node::start().await;
    let refusal = node.container(&["/no/such/program"]).create().await.err().unwrap();
    assert!(refusal.message().contains("/no/such/program"), "{refusal}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_does_not_exist_is_named_in_the_refusal() {
    let node = Node::start().await;
    let mut container = node.container(&["true"]);
    container.options.binary_name = "/no/such/runtime".to_owned();
    let refusal = container.create().await.err().unwrap();
    assert!(refusal.message().contains("/no/such/runtime"), "{refusal}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_that_fails_is_quoted_in_the_refusal() {
    let node = Node::start().await;
    let runtime = node.containerd.scratch().join("runtime");
    // A shim learns a runtime's reason from its log: `--log FILE`, JSON.
    let script = r#"#!/bin/sh
        while [ "$1" != --log ]; do shift; done
        echo '{"level": "error", "msg": "the moon is full", "time": "2026-01-01T00:00:00Z"}' >>"$2"
        exit 1"#;
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let mut container = node.container(&["true"]);
    container.options.binary_name = runtime.display().to_string();
    let refusal = container.create().await.err().unwrap();
    assert!(refusal.message().contains("the moon is full"), "{refusal}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_no_runtime_accepts_is_refused() {
    let node = Node::start().await;
    let mut nothing_to_run = node.container(&["true"]);
    nothing_to_run.spec["process"]["args"] = serde_json::json!([]);
    let mut unknown_namespace = node.container(&["true"]);
    unknown_namespace.spec["linux"]["namespaces"][0]["type"] = "fairy tale".into();
    for container in [nothing_to_run, unknown_namespace] {
        let refusal = container.create().await.err().expect("it is refused");
        assert!(!refusal.message().is_empty());
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_file_system_that_cannot_be_mounted_is_refused() {
    let node = Node::start().await;
    let mut container = node.container(&["true"]);
    container.rootfs.push(bind("/no/such/directory".as_ref()));
    let refusal = container.create().await.err().unwrap();
    assert!(refusal.message().to_lowercase().contains("no such file"), "{refusal}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_task_of_one_id_is_refused_and_the_first_one_lives() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let request = CreateTaskRequest {
        container_id: process.id.clone(),
        rootfs: vec![bind(&node.rootfs())],
        ..Default::default()
    };
    let refused = node.tasks().create(node.request(request)).await;
    assert_eq!(code(refused), Code::AlreadyExists);
    let exec = process.exec_run("alive", crate::process::Exec::shell("exit 3")).await;
    assert_eq!(exec.ends().await, 3);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_task_can_be_made_again_under_its_id() {
    let node = Node::start().await;
    let mut broken = node.container(&["true"]);
    let id = broken.id.clone();
    broken.options.binary_name = "/no/such/runtime".to_owned();
    assert!(broken.create().await.is_err());
    let mut again = node.shell("exit 5");
    again.id = id;
    let process = again.run().await;
    assert_eq!(process.ends().await, 5);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_can_be_made_again_after_its_deletion() {
    let node = Node::start().await;
    let id = node.container(&[]).id;
    for round in 0..3 {
        let mut container = node.shell(&format!("exit {round}"));
        container.id = id.clone();
        let process = container.run().await;
        assert_eq!(process.ends().await, round);
        process.remove().await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_tasks_are_not_found() {
    let node = Node::start().await;
    // With a shim that runs, and that has another task.
    let process = node.container(&["sleep", "1000"]).run().await;
    let container_id = "nobody".to_owned();
    let get = GetRequest {
        container_id: container_id.clone(),
        exec_id: String::new(),
    };
    assert_eq!(code(node.tasks().get(node.request(get)).await), Code::NotFound);
    let wait = WaitRequest {
        container_id: container_id.clone(),
        exec_id: String::new(),
    };
    assert_eq!(code(node.tasks().wait(node.request(wait)).await), Code::NotFound);
    let delete = DeleteTaskRequest { container_id };
    assert_eq!(code(node.tasks().delete(node.request(delete)).await), Code::NotFound);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_started_once() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    process.start().await.unwrap_err();
    assert_eq!(process.pids().await.unwrap(), [process.pid]);
    process.kill(9).await.unwrap();
    process.ends().await;
    process.start().await.unwrap_err();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_client_goes_away_while_it_is_made_is_whole_or_gone() {
    if is_stock() {
        eprintln!("SKIPPED: the stock shim stays without a task, or leaves cgroups (1.6.20 and 2.4.2)");
        return;
    }
    let node = Node::start().await;
    for delay in (0..60).step_by(6) {
        let container = node.container(&["sleep", "1000"]);
        let (id, patience) = (container.id.clone(), std::time::Duration::from_millis(delay));
        match tokio::time::timeout(patience, container.create()).await {
            Ok(created) => created.unwrap().remove().await,
            Err(_) => node.settle(&id).await,
        }
    }
    node.end().await;
}
