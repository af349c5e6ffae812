//! The logs of containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{Container, container_config, house, shell, until};

async fn reopen(container: &Container) -> Result<(), tonic::Status> {
    let container_id = container.id.clone();
    let request = pb::ReopenContainerLogRequest { container_id };
    container.cri.clone().reopen_container_log(request).await.map(drop)
}

#[tokio::test]
async fn every_line_has_a_time_a_stream_and_a_tag() {
    let house = house().await;
    let pod = house.pod("log-format").await;
    let begin = std::time::SystemTime::now();
    let container = pod
        .start(shell(
            "c",
            "echo one; sleep 0.1; echo two >&2; sleep 0.1; echo; printf unfinished",
        ))
        .await;
    container.ended().await;
    let text = fs::read_to_string(&container.log).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    let rest: Vec<_> = lines.iter().map(|parts| parts[1..].join(" ")).collect();
    assert_eq!(rest[..3], ["stdout F one", "stderr F two", "stdout F "], "{text}");
    assert!(
        rest[3].starts_with("stdout ") && rest[3].ends_with(" unfinished"),
        "{text}"
    );
    let mut last = begin;
    for parts in &lines {
        let time = humantime::parse_rfc3339(parts[0]).unwrap_or_else(|error| panic!("{}: {error}", parts[0]));
        assert!(time >= last, "{text}");
        last = time;
    }
    assert_eq!(
        fs::metadata(&container.log).unwrap().permissions().mode() & 0o137,
        0,
        "not for everybody"
    );
    pod.remove().await;
    assert!(container.log.exists(), "logs are the client's");
}

#[tokio::test]
async fn a_line_longer_than_16_kibibytes_is_split_into_parts() {
    let house = house().await;
    let pod = house.pod("log-long").await;
    let container = pod
        .start(shell(
            "c",
            "head -c 40000 /dev/zero | tr '\\000' a; echo end; echo short",
        ))
        .await;
    let ended = container.ended().await;
    assert_eq!(ended.stdout, format!("{}end\nshort\n", "a".repeat(40_000)));
    let text = fs::read_to_string(&container.log).unwrap();
    let parts: Vec<_> = text
        .lines()
        .map(|line| line.splitn(4, ' ').skip(2).collect::<Vec<_>>())
        .collect();
    let shape: Vec<_> = parts.iter().map(|parts| (parts[0], parts[1].len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 40_003 - 2 * 16384), ("F", 5)]);
    pod.remove().await;
}

#[tokio::test]
async fn a_renamed_log_goes_on_in_a_new_file_once_reopened() {
    let house = house().await;
    let pod = house.pod("log-reopen").await;
    let line = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.01; done";
    let container = pod.start(shell("c", line)).await;
    container.says("line 5\n").await;
    let old = container.log.with_extension("old");
    fs::rename(&container.log, &old).unwrap();
    assert!(!container.log.exists());
    reopen(&container).await.unwrap();
    assert!(container.log.exists());
    until("the new file grows", || {
        fs::metadata(&container.log).unwrap().len() > 500
    })
    .await;
    container.stop(0).await;
    container.ended().await;
    let read = |path| fs::read_to_string(path).unwrap();
    let numbers: Vec<u32> = (read(&old) + &read(&container.log))
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert!(
        numbers.iter().copied().eq(0..numbers.len().try_into().unwrap()),
        "a line is lost: {numbers:?}"
    );

    let error = reopen(&container).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    pod.remove().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_reopened_stays_open_and_no_new_file_is_made() {
    let house = house().await;
    let pod = house.pod("log-reopen-fails").await;
    let mut config = shell("c", "while true; do echo tick; sleep 0.05; done");
    config.log_path = "below/c.log".to_owned();
    let container = pod.start(config).await;
    container.says("tick").await;
    let directory = container.log.parent().unwrap().to_owned();
    let aside = directory.with_file_name("aside");
    fs::rename(&directory, &aside).unwrap();
    // A file where the directory was.
    fs::write(&directory, "").unwrap();
    assert!(reopen(&container).await.is_err());
    let old = aside.join("c.log");
    let before = fs::metadata(&old).unwrap().len();
    until("the old file goes on", || fs::metadata(&old).unwrap().len() > before).await;
    pod.remove().await;
}

#[tokio::test]
async fn a_terminals_output_is_one_stream() {
    let house = house().await;
    let pod = house.pod("log-tty").await;
    let mut config = shell("c", "test -t 0 && test -t 1 && echo a terminal $TERM; echo err >&2");
    config.tty = true;
    let container = pod.start(config).await;
    let ended = container.ended().await;
    assert_eq!(ended.stderr, "");
    let lines: Vec<_> = ended.stdout.lines().map(str::trim_end).collect();
    assert_eq!(lines, ["a terminal xterm", "err"]);
    pod.remove().await;
}

#[tokio::test]
async fn a_container_without_a_log_path_runs_and_is_not_blocked_by_its_output() {
    let house = house().await;
    let pod = house.pod("no-log").await;
    let mut config = shell("c", "head -c 3000000 /dev/zero");
    config.log_path = String::new();
    let container = pod.start(config).await;
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.status.log_path), (0, ""));
    pod.remove().await;
}

#[tokio::test]
async fn what_a_container_wrote_at_its_very_end_is_in_its_log_when_it_has_ended() {
    let house = house().await;
    let pod = house.pod("log-end").await;
    for number in 0..5 {
        let container = container_config(&format!("c{number}"), &["sh", "-c", "seq 20000; echo last >&2"]);
        let ended = pod.run(container).await;
        assert!(ended.stdout.ends_with("\n20000\n"), "{}", ended.stdout.len());
        assert_eq!(ended.stderr, "last\n");
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_log_path_out_of_the_log_directory_is_refused() {
    let house = house().await;
    let pod = house.pod("log-escape").await;
    for path in ["/etc/x.log", "../x.log", "a/../../x.log"] {
        let mut config = shell("c", "true");
        config.log_path = path.to_owned();
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("log_path"), "{refused}");
    }
    pod.remove().await;
}
