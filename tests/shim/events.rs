//! The events that containerd publishes of tasks: each once, in order, and true.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use containerd_client::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused, TaskResumed, TaskStart,
};
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::Message;
use prost_types::Any;
use serde_json::json;

use crate::node::{NAMESPACE, Node, PATIENCE, is_stock};
use crate::process::{Exec, age};

/// Everything that was published since the subscription.
pub struct Events(Arc<Mutex<Vec<Envelope>>>);

impl Events {
    pub async fn of(node: &Node) -> Self {
        let this = Self(Arc::default());
        let (seen, channel) = (this.0.clone(), node.channel());
        // containerd answers with the first event only.
        tokio::spawn(async move {
            let mut events = EventsClient::new(channel);
            let mut stream = events
                .subscribe(SubscribeRequest::default())
                .await
                .unwrap()
                .into_inner();
            while let Ok(Some(envelope)) = stream.message().await {
                seen.lock().unwrap().push(envelope);
            }
        });
        let begin = Instant::now();
        while this.0.lock().unwrap().is_empty() {
            assert!(begin.elapsed() < PATIENCE, "no events");
            let marker = PublishRequest {
                topic: "/marker".to_owned(),
                event: Some(Any {
                    type_url: "containerd.events.TaskOOM".to_owned(),
                    value: Vec::new(),
                }),
            };
            EventsClient::new(node.channel())
                .publish(node.request(marker))
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        this
    }

    /// The topics of tasks so far, without `/tasks/`, and the events.
    pub fn so_far(&self) -> Vec<(String, Vec<u8>)> {
        let seen = self.0.lock().unwrap();
        let tasks = seen
            .iter()
            .filter_map(|it| Some((it.topic.strip_prefix("/tasks/")?, it)));
        tasks
            .map(|(topic, it)| {
                assert_eq!(it.namespace, NAMESPACE);
                assert!(age(it.timestamp) < PATIENCE);
                (topic.to_owned(), it.event.as_ref().unwrap().value.clone())
            })
            .collect()
    }

    /// Waits for that topic, and a little longer for what should not come.
    async fn until(&self, topic: &str) -> Vec<(String, Vec<u8>)> {
        let begin = Instant::now();
        while !self.so_far().iter().any(|(it, _)| it == topic) {
            assert!(begin.elapsed() < PATIENCE, "no {topic}: {:?}", topics(&self.so_far()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.so_far()
    }

    /// Waits for the deletions of `count` tasks. The stock shim of containerd 2 may leave before the last word is out.
    pub async fn until_deleted(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let topic = if is_stock() { "exit" } else { "delete" };
        let begin = Instant::now();
        while topics(&self.so_far()).iter().filter(|it| **it == topic).count() < count {
            assert!(begin.elapsed() < PATIENCE, "no {topic}: {:?}", topics(&self.so_far()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.so_far()
    }
}

fn topics(events: &[(String, Vec<u8>)]) -> Vec<&str> {
    events.iter().map(|(topic, _)| topic.as_str()).collect()
}

fn read<T: Message + Default>(event: &(String, Vec<u8>)) -> T {
    T::decode(&*event.1).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_created_started_exited_and_deleted_once_each_and_in_that_order() {
    let node = Node::start().await;
    let events = Events::of(&node).await;
    let process = node.shell("exit 3").run().await;
    let (id, pid) = (process.id.clone(), process.pid);
    let (stdout, stderr) = (process.pipes.stdout(), process.pipes.stderr());
    assert_eq!(process.ends().await, 3);
    process.remove().await;
    let seen = events.until_deleted(1).await;
    assert_eq!(topics(&seen)[..3], ["create", "start", "exit"]);
    let create: TaskCreate = read(&seen[0]);
    assert_eq!((&create.container_id, create.pid), (&id, pid));
    assert!(create.bundle.ends_with(&format!("{NAMESPACE}/{id}")), "{create:?}");
    assert_eq!(create.rootfs.len(), 1);
    let io = create.io.unwrap();
    assert_eq!(
        (io.stdin.as_str(), io.stdout, io.stderr, io.terminal),
        ("", stdout, stderr, false)
    );
    let start: TaskStart = read(&seen[1]);
    assert_eq!((&start.container_id, start.pid), (&id, pid));
    let exit: TaskExit = read(&seen[2]);
    assert_eq!(
        (&exit.container_id, &exit.id, exit.pid, exit.exit_status),
        (&id, &id, pid, 3)
    );
    assert!(age(exit.exited_at) < PATIENCE);
    for deleted in &seen[3..] {
        assert_eq!((deleted.0.as_str(), seen.len()), ("delete", 4));
        let deleted: TaskDelete = read(deleted);
        assert_eq!((&deleted.container_id, deleted.pid, deleted.exit_status), (&id, pid, 3));
        assert_eq!(deleted.exited_at, exit.exited_at);
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_is_added_started_and_exited_once_each_and_in_that_order() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let events = Events::of(&node).await;
    let exec = process.exec_run("one", Exec::shell("exit 5")).await;
    assert_eq!(exec.ends().await, 5);
    exec.delete().await.unwrap();
    let mut seen = events.until("exit").await;
    // Told some time after the container's start was answered.
    seen.retain(|(topic, _)| topic != "start");
    // The stock shim tells of an exec's deletion too; nothing is known to rely on it.
    let told: Vec<_> = topics(&seen).into_iter().filter(|topic| *topic != "delete").collect();
    assert_eq!(told, ["exec-added", "exec-started", "exit"]);
    let added: TaskExecAdded = read(&seen[0]);
    assert_eq!((&added.container_id, added.exec_id.as_str()), (&process.id, "one"));
    let started: TaskExecStarted = read(&seen[1]);
    assert_eq!(
        (&started.container_id, started.exec_id.as_str(), started.pid),
        (&process.id, "one", exec.pid)
    );
    let exit: TaskExit = read(&seen[2]);
    assert_eq!((&exit.container_id, exit.id.as_str()), (&process.id, "one"));
    assert_eq!((exit.pid, exit.exit_status), (exec.pid, 5));
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_of_every_one_of_many_short_tasks_comes_after_its_start_and_once() {
    let node = Node::start().await;
    let events = Events::of(&node).await;
    for code in 0..10 {
        let process = node.shell(&format!("exit {code}")).run().await;
        assert_eq!(process.ends().await, code);
        process.remove().await;
    }
    let mut seen = events.until_deleted(10).await;
    seen.retain(|(topic, _)| topic != "delete");
    assert_eq!(seen.len(), 30, "{:?}", topics(&seen));
    for (number, life) in seen.chunks(3).enumerate() {
        assert_eq!(topics(life), ["create", "start", "exit"]);
        assert_eq!(read::<TaskExit>(&life[2]).exit_status, u32::try_from(number).unwrap());
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_and_resuming_are_events() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let events = Events::of(&node).await;
    process.pause().await.unwrap();
    process.resume().await.unwrap();
    let mut seen = events.until("resumed").await;
    // Told some time after the start was answered.
    seen.retain(|(topic, _)| topic != "start");
    assert_eq!(topics(&seen), ["paused", "resumed"]);
    assert_eq!(read::<TaskPaused>(&seen[0]).container_id, process.id);
    assert_eq!(read::<TaskResumed>(&seen[1]).container_id, process.id);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_memory_is_an_event_and_the_end_by_sigkill() {
    let node = Node::start().await;
    let events = Events::of(&node).await;
    // The stock shim begins to listen for it after the start.
    let greedy = node.shell("sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=64M count=1");
    let process = greedy
        .limited(json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}}))
        .run()
        .await;
    assert_eq!(process.ends().await, 137);
    let seen = events.until("oom").await;
    let oom = seen.iter().find(|(topic, _)| topic == "oom").unwrap();
    assert_eq!(read::<TaskOom>(oom).container_id, process.id);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_where_containerd_says_whoever_started_the_shim() {
    if is_stock() {
        eprintln!("SKIPPED: a stock shim cannot be started before its first task");
        return;
    }
    let node = Node::start().await;
    assert!(node.ensure().status().unwrap().success());
    let events = Events::of(&node).await;
    let process = node.shell("exit 3").run().await;
    assert_eq!(process.ends().await, 3);
    process.remove().await;
    let seen = events.until_deleted(1).await;
    assert_eq!(topics(&seen), ["create", "start", "exit", "delete"]);
    node.end().await;
}
