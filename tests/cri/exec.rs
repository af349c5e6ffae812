//! ExecSync.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::client::{container_config, house, shell};
use crate::support::{cgroup_pids, processes};

#[tokio::test]
async fn an_exec_gives_its_code_and_both_streams_apart() {
    let house = house().await;
    let pod = house.pod("exec").await;
    let mut config = container_config("c", &["sleep", "1000000"]);
    config.working_dir = "/var".to_owned();
    let container = pod.start(config).await;
    let answer = container
        .exec(&["sh", "-c", "echo out; echo err >&2; pwd; exit 42"], 10)
        .await
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8(answer.stdout).unwrap(),
        String::from_utf8(answer.stderr).unwrap(),
    );
    assert_eq!((answer.exit_code, &*stdout, &*stderr), (42, "out\n/var\n", "err\n"));
    let answer = container.exec(&["sh", "-c", "kill -9 $$"], 10).await.unwrap();
    assert_eq!(answer.exit_code, 137);
    // Bytes are bytes.
    let answer = container.exec(&["printf", "\\377\\000x"], 0).await.unwrap();
    assert_eq!(answer.stdout, b"\xff\0x");
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_has_nothing_to_read() {
    let house = house().await;
    let pod = house.pod("exec-stdin").await;
    let container = pod.idle("c").await;
    let answer = container.exec(&["wc", "-c"], 10).await.unwrap();
    assert_eq!((answer.exit_code, answer.stdout), (0, b"0\n".to_vec()));
    pod.remove().await;
}

#[tokio::test]
async fn of_a_long_output_the_first_16_mebibytes_of_each_stream_come() {
    let house = house().await;
    let pod = house.pod("exec-long").await;
    let container = pod.idle("c").await;
    let line = "head -c 18000000 /dev/zero; head -c 17000000 /dev/zero | tr '\\000' e >&2; exit 5";
    let mut cri = house.cri.clone().max_decoding_message_size(64 << 20);
    let request = berth::proto::runtime::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: ["sh", "-c", line].map(str::to_owned).to_vec(),
        timeout: 60,
    };
    let answer = cri.exec_sync(request).await.unwrap().into_inner();
    assert_eq!(
        (answer.exit_code, answer.stdout.len(), answer.stderr.len()),
        (5, 16 << 20, 16 << 20)
    );
    assert!(answer.stdout.iter().all(|byte| *byte == 0));
    assert!(answer.stderr.iter().all(|byte| *byte == b'e'));
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_out_of_time_is_killed_with_all_that_it_started() {
    let house = house().await;
    let pod = house.pod("exec-timeout").await;
    let container = pod.idle("c").await;
    let begin = Instant::now();
    let line = "trap '' TERM; sleep 4242001 & (sleep 4242002 & sleep 4242003)";
    let error = container.exec(&["sh", "-c", line], 1).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let took = begin.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(8)).contains(&took),
        "{took:?}"
    );
    let left: Vec<_> = processes()
        .into_iter()
        .filter(|(_, line)| line.contains("424200"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    // Nothing of it but the container's own process is in its cgroup.
    let cgroups = house.berth.cgroups();
    let own = cgroups.iter().filter(|cgroup| cgroup.ends_with(&pod.id));
    for cgroup in own {
        let pids = cgroup_pids(&cgroup.join(&container.id));
        assert!(pids.len() <= 1, "{pids:?} in {}", cgroup.display());
    }
    assert_eq!(container.sh("echo fine").await, "fine\n");
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_ends_with_its_command_though_a_child_of_it_lives_on() {
    let house = house().await;
    let pod = house.pod("exec-daemon").await;
    let container = pod.idle("c").await;
    let begin = Instant::now();
    let answer = container
        .exec(&["sh", "-c", "sleep 1000 & echo started"], 20)
        .await
        .unwrap();
    assert_eq!((answer.exit_code, answer.stdout), (0, b"started\n".to_vec()));
    // The stock shim waits for the pipes that the child holds: 2 s in containerd 1.6, 10 s in containerd 2.
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_that_cannot_be_is_refused() {
    let house = house().await;
    let pod = house.pod("exec-refused").await;
    let container = pod.idle("c").await;
    for command in [&[] as &[&str], &[""]] {
        let error = container.exec(command, 1).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains("cmd"), "{error}");
    }
    let error = container.exec(&["true"], -1).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert!(error.message().contains("timeout"), "{error}");
    let error = container.exec(&["/no/such/program"], 5).await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    let error = container.exec(&["sh", "a\0b"], 5).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");

    let created = pod.create(shell("created", "true")).await;
    let error = created.exec(&["true"], 5).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    container.stop(0).await;
    let error = container.exec(&["true"], 5).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    pod.remove().await;
}

#[tokio::test]
async fn an_exec_whose_container_ends_ends_too() {
    let house = house().await;
    let pod = house.pod("exec-orphan").await;
    let container = pod.idle("c").await;
    let exec = tokio::spawn({
        let container = container.clone();
        async move { container.exec(&["sleep", "1000"], 0).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    container.stop(0).await;
    let answer = tokio::time::timeout(Duration::from_secs(10), exec)
        .await
        .expect("it ends")
        .unwrap();
    assert!(
        answer.is_err() || answer.as_ref().is_ok_and(|answer| answer.exit_code == 137),
        "{answer:?}"
    );
    container.remove().await;
    pod.remove().await;
}

#[tokio::test]
async fn many_execs_run_at_once() {
    let house = house().await;
    let pod = house.pod("exec-many").await;
    let container = pod.idle("c").await;
    let execs = (0..16).map(|number| {
        let container = container.clone();
        tokio::spawn(async move { (number, container.sh(&format!("echo {number}")).await) })
    });
    for exec in execs.collect::<Vec<_>>() {
        let (number, text) = exec.await.unwrap();
        assert_eq!(text, format!("{number}\n"));
    }
    pod.remove().await;
}
