//! cri-contract's row of exec, and the probe as a command.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth::dial::{Dialer, Net, Target};
use berth::model::Id;
use berth::model::probe::ProbeKind;
use berth::pod::{Error, Exec, ExecResult};
use berth::probe::{Checks, Report, Verdict, command};
use futures_util::future::BoxFuture;

use crate::ground::{Pod, answer, checks, read};

/// Gives this one result.
struct Once(Mutex<Option<Result<ExecResult, Error>>>);

impl Exec for Once {
    fn run<'a>(
        &'a self,
        _: &'a Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, Error>> {
        assert_eq!(command, ["/bin/sh", "-c", "true"]);
        assert_eq!(timeout, Some(Duration::from_secs(1)));
        let result = self.0.lock().unwrap().take().unwrap();
        Box::pin(async { result })
    }
}

async fn check(result: Result<ExecResult, Error>) -> Report {
    let exec = Once(Mutex::new(Some(result)));
    let checks = Checks::new(Dialer::new().unwrap(), Arc::new(exec));
    let probe = read(
        ProbeKind::Liveness,
        r#"{"exec": {"command": ["/bin/sh", "-c", "true"]}}"#,
    );
    let target = Target {
        net: Net::Host,
        ip: None,
    };
    checks.probe(&Id::random(), &target, &probe).await
}

fn exited(code: i32, stdout: &str, stderr: &str) -> Result<ExecResult, Error> {
    Ok(ExecResult {
        stdout: stdout.into(),
        stderr: stderr.into(),
        code,
    })
}

#[tokio::test]
async fn exec_succeeds_with_exit_0_and_fails_with_another() {
    for (code, verdict) in [(0, Verdict::Success), (1, Verdict::Failure), (137, Verdict::Failure)] {
        let report = check(exited(code, "out", "err")).await;
        assert_eq!((report.verdict, report.output.as_str()), (verdict, "outerr"));
    }
}

#[tokio::test]
async fn exec_fails_with_its_timeout() {
    let report = check(Err(Error::ExecTimeout(Duration::from_secs(1)))).await;
    let expected = "command \"/bin/sh -c true\" timed out";
    assert_eq!((report.verdict, report.output.as_str()), (Verdict::Failure, expected));
}

#[tokio::test]
async fn any_other_runtime_error_of_an_exec_is_unknown() {
    let report = check(Err(Error::Panicked("oh".into()))).await;
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.output.contains("oh"));
}

#[tokio::test]
async fn the_output_of_exec_is_stdout_then_stderr_cut_at_10_kib() {
    let report = check(exited(1, &"o".repeat(10_000), &"e".repeat(1 << 20))).await;
    assert_eq!(report.output, "o".repeat(10_000) + &"e".repeat(240));
}

async fn answered(pod: &Pod, line: &[&str]) -> ExecResult {
    let words: Vec<_> = [command::NAME].iter().chain(line).map(ToString::to_string).collect();
    let answer = command::answer(&checks(), &Id::random(), &pod.target(), &words, None).await;
    answer.unwrap()
}

#[tokio::test]
async fn berth_probe_answers_as_a_program_would() {
    let pod = Pod::new();
    let (listener, port) = pod.listen("127.0.0.1");
    let server = crate::ground::serve(listener, port, |head| {
        answer(
            if head.starts_with("GET /readyz ") {
                "200 OK"
            } else {
                "503 No"
            },
            "",
            "ready",
        )
    });
    let at = |path: &str| format!("http://localhost:{port}{path}");
    let good = answered(&pod, &["http", &at("/readyz"), "--header", "X-From: a kubelet"]).await;
    assert_eq!(
        (good.code, good.stdout.as_slice(), good.stderr.len()),
        (0, b"ready\n".as_slice(), 0)
    );
    assert!(server.requests()[0].contains("X-From: a kubelet\r\n"));
    let bad = answered(&pod, &["http", &at("/other")]).await;
    assert_eq!((bad.code, bad.stdout.len()), (1, 0));
    assert_eq!(bad.stderr, b"HTTP probe failed with statuscode: 503\n");
    assert_eq!(answered(&pod, &["tcp", &format!("localhost:{port}")]).await.code, 0);
    let refused = answered(&pod, &["tcp", &format!(":{port}")]).await;
    assert_eq!(refused.code, 1);
    assert!(
        String::from_utf8(refused.stderr)
            .unwrap()
            .ends_with("connection refused\n")
    );
    let misused = answered(&pod, &["grpc"]).await;
    assert_eq!((misused.code, misused.stdout.len()), (2, 0));
    assert!(
        String::from_utf8(misused.stderr)
            .unwrap()
            .contains("usage: berth-probe")
    );
}

#[tokio::test]
async fn berth_probe_that_cannot_look_gives_no_exit_code() {
    let words = [command::NAME, "tcp", ":80"].map(ToOwned::to_owned);
    let nowhere = Target {
        net: Net::Host,
        ip: None,
    };
    let answer = command::answer(&checks(), &Id::random(), &nowhere, &words, None).await;
    assert_eq!(answer, Err("the pod has no IP address".to_owned()));
}
