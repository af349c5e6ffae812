//! cri-contract's row of redirects.

use std::sync::Mutex;

use berth::probe::Verdict;

use crate::ground::{POD_IP, Pod, answer, checked};

fn to(location: &str) -> String {
    format!("Location: {location}\r\n")
}

fn get(port: u16) -> String {
    format!(r#"{{"httpGet": {{"port": {port}, "httpHeaders": [{{"name": "Host", "value": "shop.test"}}]}}}}"#)
}

#[tokio::test]
async fn a_redirect_to_the_same_hostname_is_followed_on_a_connection_of_its_own() {
    let pod = Pod::new();
    let other = pod.serve(|head| {
        answer(
            if head.starts_with("GET /c?d ") {
                "200 OK"
            } else {
                "404 No"
            },
            "",
            "end",
        )
    });
    let port = other.port;
    let first = pod.serve(move |head| match head.split(' ').nth(1).unwrap() {
        "/" => answer("301 Moved", &to("b#part"), ""),
        "/b" => answer("307 Again", &to(&format!("http://{POD_IP}:{port}/c?d")), ""),
        _ => answer("404 No", "", ""),
    });
    let report = checked(&pod, &get(first.port)).await;
    assert_eq!((report.verdict, report.output.as_str()), (Verdict::Success, "end"));
    assert_eq!(first.requests().len(), 2);
    // As in Go, the probe's Host goes along within the server, and not to an address that is named.
    assert!(first.requests()[1].contains("Host: shop.test\r\n"));
    assert!(other.requests()[0].contains(&format!("Host: {POD_IP}:{port}\r\n")));
}

#[tokio::test]
async fn a_redirect_to_another_hostname_is_not_followed_and_is_a_warning() {
    let pod = Pod::new();
    for location in ["http://127.0.0.1/", "//shop.test/x", "https://shop.test"] {
        let server = pod.serve(move |_| answer("302 Found", &to(location), "over there"));
        let report = checked(&pod, &get(server.port)).await;
        let expected = "Probe terminated redirects, Response body: over there";
        assert_eq!((report.verdict, report.output.as_str()), (Verdict::Warning, expected));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn more_than_10_redirects_are_a_failure() {
    let pod = Pod::new();
    let count = Mutex::new(0);
    let server = pod.serve(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        answer("302 Found", &to(&format!("/{count}")), "")
    });
    let report = checked(&pod, &get(server.port)).await;
    assert_eq!(report.verdict, Verdict::Failure);
    assert_eq!(
        report.output,
        format!("Get \"http://{POD_IP}:{}/10\": stopped after 10 redirects", server.port)
    );
    assert_eq!(server.requests().len(), 10);
}

#[tokio::test]
async fn a_redirect_without_a_place_or_to_no_url_is_judged() {
    let pod = Pod::new();
    let server = pod.serve(|_| answer("304 Not Modified", "", ""));
    assert_eq!(checked(&pod, &get(server.port)).await.verdict, Verdict::Warning);
    let server = pod.serve(move |_| answer("301 Moved", &to(&format!("ftp://{POD_IP}/")), ""));
    let report = checked(&pod, &get(server.port)).await;
    assert_eq!(report.verdict, Verdict::Failure);
    assert!(
        report.output.contains("unsupported protocol scheme \"ftp\""),
        "{}",
        report.output
    );
}
