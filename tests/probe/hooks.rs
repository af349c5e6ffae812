//! cri-contract's rows of hooks' handlers.

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth::dial::Dialer;
use berth::hook::{Done, Error, Hooks};
use berth::model::Id;
use berth::model::probe::parse_hook;
use berth::pod::{self, Exec, ExecResult};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::ground::{Answer, NoCommands, POD_IP, Pod, answer, until_closed};

/// Exits with what its command says, after having said it.
struct Exits;

impl Exec for Exits {
    fn run<'a>(
        &'a self,
        _: &'a Id,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, pod::Error>> {
        assert_eq!(timeout, None);
        Box::pin(async move {
            let code = command[1]
                .parse()
                .map_err(|_| pod::Error::Panicked(command[1].clone()))?;
            Ok(ExecResult {
                stdout: b"out ".to_vec(),
                stderr: vec![b'e'; 1 << 20],
                code,
            })
        })
    }
}

async fn run_with(exec: Arc<dyn Exec>, pod: &Pod, hook: &str) -> Result<Done, Error> {
    let hook = parse_hook(hook, &|_| None).unwrap();
    let hooks = Hooks::new(Dialer::new().unwrap(), exec);
    hooks.run(&hook, &Id::random(), &pod.target(), pending()).await
}

async fn run(pod: &Pod, hook: &str) -> Result<Done, Error> {
    run_with(Arc::new(NoCommands), pod, hook).await
}

#[tokio::test]
async fn an_exec_hook_has_no_limit_and_gives_its_bounded_output() {
    let pod = Pod::new();
    let exec = |code: &str| {
        let hook = format!(r#"{{"exec": {{"command": ["exit", "{code}"]}}}}"#);
        let pod = &pod;
        async move { run_with(Arc::new(Exits), pod, &hook).await }
    };
    let done = exec("0").await.unwrap();
    assert!(done.output.starts_with("out ee") && done.output.len() == 10 << 10);
    let error = exec("3").await.unwrap_err();
    assert!(matches!(&error, Error::Exit { code: 3, output, .. } if output.len() == 10 << 10));
    let error = exec("not").await.unwrap_err();
    assert!(matches!(error, Error::Exec { .. }), "{error}");
}

#[tokio::test]
async fn any_http_answer_is_a_hooks_success() {
    let pod = Pod::new();
    for status in ["200 OK", "302 Found", "404 No", "500 Broken"] {
        let server = pod.serve(move |_| answer(status, "Location: http://else.test/\r\n", "said"));
        let done = run(
            &pod,
            &format!(r#"{{"httpGet": {{"port": {}, "path": "start"}}}}"#, server.port),
        )
        .await
        .unwrap();
        assert_eq!((done.output.as_str(), done.fallback), ("said", None));
        let requests = server.requests();
        assert!(requests[0].starts_with("GET /start HTTP/1.1\r\n"));
        assert!(
            requests[0].contains("\r\nUser-Agent: kube-lifecycle/1.36\r\n"),
            "{}",
            requests[0]
        );
    }
    let error = run(&pod, r#"{"httpGet": {"port": 9}}"#).await.unwrap_err();
    assert!(error.to_string().ends_with("connection refused"), "{error}");
}

#[tokio::test]
async fn https_that_meets_a_plain_server_is_asked_again_over_http_without_authorization() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.unwrap();
        until_closed(&mut stream).await;
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let count = stream.read(&mut head).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    let hook = format!(
        r#"{{"httpGet": {{"port": {port}, "scheme": "HTTPS", "httpHeaders": [
            {{"name": "Authorization", "value": "secret"}}, {{"name": "X-Kept", "value": "yes"}}]}}}}"#
    );
    let done = run(&pod, &hook).await.unwrap();
    assert_eq!(done.output, "ok");
    assert_eq!(done.fallback, Some(format!("{POD_IP}:{port}")));
    let request = served.await.unwrap();
    assert!(
        request.contains("X-Kept: yes") && !request.contains("Authorization"),
        "{request}"
    );
}

#[tokio::test]
async fn a_tcp_hook_connects() {
    let pod = Pod::new();
    let (_listener, port) = pod.listen("127.0.0.1");
    let hook = |host: &str| format!(r#"{{"tcpSocket": {{"port": {port}, "host": "{host}"}}}}"#);
    assert_eq!(run(&pod, &hook("localhost")).await.unwrap(), Done::default());
    assert!(matches!(run(&pod, &hook("")).await, Err(Error::Tcp(_))));
}

#[tokio::test]
async fn a_sleep_hook_waits_and_fails_when_the_container_ends_first() {
    let pod = Pod::new();
    let begun = Instant::now();
    assert_eq!(
        run(&pod, r#"{"sleep": {"seconds": 0}}"#).await.unwrap(),
        Done::default()
    );
    assert!(begun.elapsed() < Duration::from_millis(500));
    run(&pod, r#"{"sleep": {"seconds": 1}}"#).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let hook = parse_hook(r#"{"sleep": {"seconds": 60}}"#, &|_| None).unwrap();
    let hooks = Hooks::new(Dialer::new().unwrap(), Arc::new(NoCommands));
    let error = hooks
        .run(&hook, &Id::random(), &pod.target(), ready(()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the container ended before the sleep of 60 s was over"
    );
}

#[tokio::test]
async fn to_drop_a_hook_closes_its_connection() {
    let pod = Pod::new();
    let mut server = pod.serve(|_| Answer::Hang(Vec::new()));
    let hook = format!(r#"{{"httpGet": {{"port": {}}}}}"#, server.port);
    let cut = tokio::time::timeout(Duration::from_millis(200), run(&pod, &hook)).await;
    assert!(cut.is_err());
    server.closed(1).await;
}
