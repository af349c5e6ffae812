//! Further processes in a task.

use containerd_client::types::v1::Status as Phase;
use tonic::Code;

use crate::node::{Node, PATIENCE};
use crate::process::{Exec, age, code};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_has_a_life_of_its_own() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process
        .exec(
            "one",
            Exec::shell("echo out; echo err >&2; read line; exit 7").with_stdin(),
        )
        .await
        .unwrap();
    assert_eq!(exec.phase().await, Phase::Created);
    let pid = exec.start().await.unwrap();
    let state = exec.state().await.unwrap();
    assert_eq!(
        (state.status(), state.pid, state.id.as_str()),
        (Phase::Running, pid, "one")
    );
    exec.pipes.out.shows("out\n").await;
    std::io::Write::write_all(&mut exec.pipes.input(), b"go\n").unwrap();
    let waited = exec.wait().await.unwrap();
    assert_eq!(waited.exit_status, 7);
    assert!(age(waited.exited_at) < PATIENCE);
    assert_eq!(exec.pipes.out.text().await, "out\n");
    assert_eq!(exec.pipes.err.as_ref().unwrap().text().await, "err\n");
    let state = exec.state().await.unwrap();
    assert_eq!((state.status(), state.exit_status), (Phase::Stopped, 7));
    let deleted = exec.delete().await.unwrap();
    assert_eq!(
        (deleted.exit_status, deleted.pid, deleted.exited_at),
        (7, pid, waited.exited_at)
    );
    assert_eq!(code(exec.delete().await), Code::NotFound);
    assert_eq!(process.phase().await, Phase::Running);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execs_code_is_the_programs_own_or_128_and_the_signal() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    for wanted in [0, 1, 200] {
        let exec = process.exec_run("code", Exec::shell(&format!("exit {wanted}"))).await;
        assert_eq!(exec.ends().await, wanted);
        exec.delete().await.unwrap();
    }
    for signal in [2, 9, 15] {
        let exec = process.exec_run("signal", Exec::new(&["sleep", "1000"])).await;
        exec.kill(signal).await.unwrap();
        assert_eq!(exec.ends().await, 128 + signal);
        assert_eq!(code(exec.kill(signal).await), Code::NotFound);
        exec.delete().await.unwrap();
    }
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_has_the_directory_environment_and_user_of_its_own() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let mut exec =
        Exec::shell("pwd; id -u; id -g; echo $GREETING; hostname 2>/dev/null || readlink /proc/self/ns/pid >/dev/null");
    exec.spec["cwd"] = "/tmp".into();
    exec.spec["env"] = serde_json::json!(["PATH=/bin", "GREETING=hello"]);
    exec.spec["user"] = serde_json::json!({"uid": 12, "gid": 34});
    let exec = process.exec_run("own", exec).await;
    assert_eq!(exec.ends().await, 0, "{}", exec.pipes.err.as_ref().unwrap().so_far());
    assert!(exec.pipes.out.text().await.starts_with("/tmp\n12\n34\nhello\n"));
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_id_is_taken_until_it_is_deleted() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    for round in 0..3 {
        let exec = process.exec_run("again", Exec::shell(&format!("exit {round}"))).await;
        assert_eq!(
            code(process.exec("again", Exec::new(&["true"])).await),
            Code::AlreadyExists
        );
        assert_eq!(exec.ends().await, round);
        assert_eq!(
            code(process.exec("again", Exec::new(&["true"])).await),
            Code::AlreadyExists
        );
        exec.delete().await.unwrap();
    }
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_exec_is_not_found() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let nobody = process.named("nobody");
    assert_eq!(code(nobody.start().await), Code::NotFound);
    assert_eq!(code(nobody.state().await), Code::NotFound);
    assert_eq!(code(nobody.wait().await), Code::NotFound);
    assert_eq!(code(nobody.kill(9).await), Code::NotFound);
    assert_eq!(code(nobody.delete().await), Code::NotFound);
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_of_no_such_program_fails_to_start_and_can_be_deleted() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process.exec("none", Exec::new(&["/no/such/program"])).await.unwrap();
    let refusal = exec.start().await.unwrap_err();
    assert!(refusal.message().contains("no such file"), "{refusal}");
    exec.delete().await.unwrap();
    let exec = process.exec_run("none", Exec::new(&["true"])).await;
    assert_eq!(exec.ends().await, 0);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_in_an_ended_container_is_refused() {
    let node = Node::start().await;
    let process = node.shell("exit 0").run().await;
    process.ends().await;
    let refused = match process.exec("late", Exec::new(&["true"])).await {
        Ok(exec) => exec.start().await.err(),
        Err(status) => Some(status),
    };
    assert!(refused.is_some(), "it ran in an ended container");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exec_ends_with_its_container() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process.exec_run("one", Exec::new(&["sleep", "1000"])).await;
    process.kill(9).await.unwrap();
    assert_eq!(process.ends().await, 137);
    assert_eq!(exec.ends().await, 137);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_exec_cannot_be_deleted() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let exec = process.exec_run("one", Exec::new(&["sleep", "1000"])).await;
    exec.delete().await.unwrap_err();
    assert_eq!(exec.phase().await, Phase::Running);
    exec.kill(9).await.unwrap();
    assert_eq!(exec.ends().await, 137);
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_execs_at_once_keep_their_codes_and_outputs() {
    let node = Node::start().await;
    let process = node.container(&["sleep", "1000"]).run().await;
    let execs = (0..20).map(|number| {
        let process = &process;
        async move {
            let script = format!("echo {number}; exit {number}");
            let exec = process.exec_run(&format!("exec-{number}"), Exec::shell(&script)).await;
            assert_eq!(exec.ends().await, number);
            assert_eq!(exec.pipes.out.text().await, format!("{number}\n"));
            exec.delete().await.unwrap();
        }
    });
    futures_util::future::join_all(execs).await;
    process.remove().await;
    node.end().await;
}
