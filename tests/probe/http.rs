//! cri-contract's rows of httpGet and its headers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth::model::Id;
use berth::model::probe::ProbeKind;
use berth::probe::Verdict;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::ground::{Answer, POD_IP, Pod, answer, checked, checks, read};

fn get(port: u16, more: &str) -> String {
    format!(r#"{{"httpGet": {{"port": {port}, "path": "/livez"{more}}}}}"#)
}

fn within_half_a_second(port: u16) -> String {
    format!(r#"{{"httpGet": {{"port": {port}}}, "timeoutMilliseconds": 500}}"#)
}

#[tokio::test]
async fn http_succeeds_with_status_200_to_299_and_gives_the_body() {
    let pod = Pod::new();
    for status in ["200 OK", "204 No Content", "299 Odd"] {
        let server = pod.serve(move |_| answer(status, "", if status.starts_with("204") { "" } else { "fine" }));
        let report = checked(&pod, &get(server.port, "")).await;
        assert_eq!(report.verdict, Verdict::Success, "{status}: {}", report.output);
        assert_eq!(report.output.is_empty(), status.starts_with("204"));
    }
}

#[tokio::test]
async fn http_fails_with_any_other_status_and_the_text_has_no_body() {
    let pod = Pod::new();
    for status in [400, 404, 500, 503, 599] {
        let server = pod.serve(move |_| answer(&format!("{status} Bad"), "", "a secret"));
        let report = checked(&pod, &get(server.port, "")).await;
        let expected = format!("HTTP probe failed with statuscode: {status}");
        assert_eq!((report.verdict, report.output), (Verdict::Failure, expected));
    }
}

#[tokio::test]
async fn http_fails_with_a_transport_error_and_says_which() {
    let pod = Pod::new();
    let report = checked(&pod, &get(9, "")).await;
    let expected = format!("Get \"http://{POD_IP}:9/livez\": dial tcp {POD_IP}:9: connect: connection refused");
    assert_eq!((report.verdict, report.output), (Verdict::Failure, expected));
    let server = pod.serve(|_| Answer::Bytes(Vec::new()));
    let report = checked(&pod, &get(server.port, "")).await;
    assert_eq!(
        report.output,
        format!("Get \"http://{POD_IP}:{}/livez\": EOF", server.port)
    );
    let server = pod.serve(|_| Answer::Bytes(b"SSH-2.0-berth\r\n\r\n".to_vec()));
    assert_eq!(checked(&pod, &get(server.port, "")).await.verdict, Verdict::Failure);
}

#[tokio::test]
async fn the_request_has_a_kubelets_headers_and_no_keep_alive_compression_or_proxy_form() {
    let pod = Pod::new();
    let server = pod.serve(|_| answer("200 OK", "", ""));
    checked(&pod, &get(server.port, "")).await;
    let requests = server.requests();
    let mut lines: Vec<_> = requests[0].trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "GET /livez HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: {POD_IP}:{}", server.port);
    assert_eq!(
        lines,
        ["Accept: */*", "Connection: close", &host, "User-Agent: kube-probe/1.36"]
    );
}

#[tokio::test]
async fn user_agent_and_accept_give_way_to_the_probes_own_and_an_empty_one_removes_them() {
    let pod = Pod::new();
    let server = pod.serve(|_| answer("200 OK", "", ""));
    let headers = |agent: &str, accept: &str| {
        format!(
            r#", "httpHeaders": [{{"name": "user-agent", "value": "{agent}"}}, {{"name": "Accept", "value": "{accept}"}},
                {{"name": "X-Twice", "value": "1"}}, {{"name": "X-Twice", "value": "2"}}]"#
        )
    };
    checked(&pod, &get(server.port, &headers("mine", "text/plain"))).await;
    checked(&pod, &get(server.port, &headers("", ""))).await;
    let requests = server.requests();
    for line in ["User-Agent: mine", "Accept: text/plain", "X-Twice: 1", "X-Twice: 2"] {
        assert!(requests[0].contains(&format!("\r\n{line}\r\n")), "{}", requests[0]);
    }
    assert!(
        !requests[1].contains("User-Agent") && !requests[1].contains("Accept"),
        "{}",
        requests[1]
    );
}

#[tokio::test]
async fn a_host_header_sets_the_requests_host() {
    let pod = Pod::new();
    let server = pod.serve(|_| answer("200 OK", "", ""));
    checked(
        &pod,
        &get(
            server.port,
            r#", "httpHeaders": [{"name": "host", "value": "shop.test"}]"#,
        ),
    )
    .await;
    let request = &server.requests()[0];
    assert!(request.contains("\r\nHost: shop.test\r\n"), "{request}");
    assert_eq!(request.to_lowercase().matches("host:").count(), 1);
}

#[tokio::test]
async fn a_path_with_a_query_is_sent_as_it_is() {
    let pod = Pod::new();
    let server = pod.serve(|_| answer("200 OK", "", ""));
    checked(
        &pod,
        &format!(r#"{{"httpGet": {{"port": {}, "path": "a b?c=/../d"}}}}"#, server.port),
    )
    .await;
    assert!(server.requests()[0].starts_with("GET /a%20b?c=/../d HTTP/1.1\r\n"));
}

#[tokio::test]
async fn host_localhost_reaches_a_localhost_only_server_and_ipv6_stands_in_brackets() {
    let pod = Pod::new();
    for (ip, host, written) in [("127.0.0.1", "localhost", "localhost"), ("::1", "::1", "[::1]")] {
        let (listener, port) = pod.listen(ip);
        let server = crate::ground::serve(listener, port, |_| answer("200 OK", "", "here"));
        assert_eq!(checked(&pod, &get(port, "")).await.verdict, Verdict::Failure);
        let report = checked(&pod, &get(port, &format!(r#", "host": "{host}""#))).await;
        assert_eq!((report.verdict, report.output.as_str()), (Verdict::Success, "here"));
        assert!(server.requests()[0].contains(&format!("\r\nHost: {written}:{port}\r\n")));
    }
}

#[tokio::test]
async fn the_body_is_read_up_to_10_kib() {
    let pod = Pod::new();
    let mut server = pod.serve(|_| answer("200 OK", "", &"x".repeat(16 << 20)));
    let report = checked(&pod, &get(server.port, "")).await;
    assert_eq!((report.verdict, report.output.len()), (Verdict::Success, 10 << 10));
    server.closed(1).await;
}

#[tokio::test]
async fn the_timeout_covers_a_server_that_never_answers() {
    let pod = Pod::new();
    let mut server = pod.serve(|_| Answer::Hang(Vec::new()));
    let begun = Instant::now();
    let report = checked(&pod, &within_half_a_second(server.port)).await;
    assert_eq!(report.verdict, Verdict::Failure);
    let text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(
        report.output,
        format!("Get \"http://{POD_IP}:{}/\": {text}", server.port)
    );
    assert!((500..1500).contains(&begun.elapsed().as_millis()));
    server.closed(1).await;
}

#[tokio::test]
async fn the_timeout_covers_headers_that_trickle_and_a_body_that_does_not_end() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(b"H").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let begun = Instant::now();
    assert_eq!(
        checked(&pod, &within_half_a_second(port)).await.verdict,
        Verdict::Failure
    );
    assert!(begun.elapsed() < Duration::from_millis(1500));
    let server = pod.serve(|_| Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()));
    let report = checked(&pod, &within_half_a_second(server.port)).await;
    assert_eq!(report.verdict, Verdict::Failure);
    assert!(
        report.output.ends_with("exceeded while reading body)"),
        "{}",
        report.output
    );
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let pod = Pod::new();
    let server = pod.serve(|_| {
        let line = format!("X-Long: {}\r\n", "x".repeat(1000));
        Answer::Bytes(format!("HTTP/1.1 200 OK\r\n{}", line.repeat(5000)).into_bytes())
    });
    assert_eq!(checked(&pod, &get(server.port, "")).await.verdict, Verdict::Failure);
}

#[tokio::test]
async fn to_drop_a_check_closes_its_connection() {
    let pod = Pod::new();
    let mut server = pod.serve(|_| Answer::Hang(Vec::new()));
    let (checks, target, id) = (checks(), pod.target(), Id::random());
    let probe = format!(r#"{{"httpGet": {{"port": {}}}, "timeoutSeconds": 60}}"#, server.port);
    let probe = read(ProbeKind::Readiness, &probe);
    let running = tokio::spawn(async move { checks.probe(&id, &target, &probe).await });
    while server.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.abort();
    server.closed(1).await;
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["nobody.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

#[tokio::test]
async fn tls_is_not_verified() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    let acceptor = acceptor();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut head = [0; 1024];
        let count = stream.read(&mut head).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsafe")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    let report = checked(&pod, &get(port, r#", "scheme": "HTTPS""#)).await;
    assert_eq!((report.verdict, report.output.as_str()), (Verdict::Success, "safe"));
    assert!(served.await.unwrap().starts_with("GET /livez HTTP/1.1\r\n"));
}

#[tokio::test]
async fn https_that_meets_a_plain_server_says_so() {
    let pod = Pod::new();
    let (listener, port) = pod.listen(POD_IP);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        crate::ground::until_closed(&mut stream).await;
    });
    let report = checked(&pod, &get(port, r#", "scheme": "HTTPS""#)).await;
    let why = "http: server gave HTTP response to HTTPS client";
    assert_eq!(report.output, format!("Get \"https://{POD_IP}:{port}/livez\": {why}"));
    assert_eq!(report.verdict, Verdict::Failure);
}
