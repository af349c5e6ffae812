//! Standard input, terminals and much output.

use std::io::Write;
use std::time::Duration;

use containerd_client::types::v1::Status as Phase;

use crate::node::Node;
use crate::process::Exec;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_stays_open_until_it_is_closed() {
    let node = Node::start().await;
    let process = node.container(&["cat"]).with_stdin().run().await;
    let mut input = process.pipes.input();
    for word in ["one\n", "two\n"] {
        input.write_all(word.as_bytes()).unwrap();
        process.pipes.out.shows(word).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(process.phase().await, Phase::Running);
    }
    process.close_stdin().await.unwrap();
    drop(input);
    assert_eq!(process.ends().await, 0);
    assert_eq!(process.pipes.out.text().await, "one\ntwo\n");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execs_standard_input_stays_open_until_it_is_closed() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process.exec_run("cat", Exec::new(&["cat"]).with_stdin()).await;
    let mut input = exec.pipes.input();
    input.write_all(b"hello\n").unwrap();
    exec.pipes.out.shows("hello\n").await;
    exec.close_stdin().await.unwrap();
    drop(input);
    assert_eq!(exec.ends().await, 0);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_pipe_standard_input_is_empty() {
    let node = Node::start().await;
    let process = node.shell("cat; echo end").run().await;
    assert_eq!(process.ends().await, 0);
    assert_eq!(process.pipes.out.text().await, "end\n");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_one_has_a_size_and_obeys_control_c() {
    let node = Node::start().await;
    let script = "trap 'echo interrupted; exit 3' INT; tty; while read line; do $line; done";
    let process = node.shell(script).terminal().run().await;
    process.pipes.out.shows("/dev/pts/").await;
    process.resize(93, 41).await.unwrap();
    let mut input = process.pipes.input();
    input.write_all(b"stty size\n").unwrap();
    process.pipes.out.shows("41 93\r\n").await;
    process.resize(20, 10).await.unwrap();
    input.write_all(b"stty size\n").unwrap();
    process.pipes.out.shows("10 20\r\n").await;
    input.write_all(b"\x03").unwrap();
    process.pipes.out.shows("interrupted\r\n").await;
    assert_eq!(process.ends().await, 3);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execs_terminal_is_its_own() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process
        .exec_run("tty", Exec::shell("tty; read line; stty size").terminal())
        .await;
    exec.pipes.out.shows("/dev/pts/").await;
    exec.resize(77, 33).await.unwrap();
    exec.pipes.input().write_all(b"\n").unwrap();
    exec.pipes.out.shows("33 77\r\n").await;
    assert_eq!(exec.ends().await, 0);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_on_a_terminal_arrive() {
    let node = Node::start().await;
    for _ in 0..5 {
        let process = node.shell("seq 1 2000; echo last words").terminal().run().await;
        assert_eq!(process.ends().await, 0);
        process.pipes.out.shows("2000\r\nlast words\r\n").await;
        process.remove().await;
    }
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_arrive_unchanged() {
    const SIZE: usize = 100 << 20;
    let node = Node::start().await;
    let process = node.shell(&format!("yes abcdefg | head -c {SIZE}")).run().await;
    assert_eq!(process.ends().await, 0);
    let read = process.pipes.out.all().await;
    assert_eq!(read.len(), SIZE);
    assert!(read.chunks(8).all(|line| line == b"abcdefg\n"));
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_megabyte_through_standard_input_arrives_unchanged() {
    const SIZE: usize = 1 << 20;
    let node = Node::start().await;
    let process = node.container(&["cat"]).with_stdin().run().await;
    let mut input = process.pipes.input();
    let input = tokio::task::spawn_blocking(move || input.write_all(&[b'x'; SIZE]).map(|()| input))
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    while process.pipes.out.so_far().len() < SIZE {
        assert!(begin.elapsed() < crate::node::PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.close_stdin().await.unwrap();
    drop(input);
    assert_eq!(process.ends().await, 0);
    assert_eq!(process.pipes.out.all().await.len(), SIZE);
    process.remove().await;
    node.end().await;
}
