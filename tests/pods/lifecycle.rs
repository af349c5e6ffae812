//! examples/lifecycle-demo.yaml: the hooks do what they say, at their times.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::demo::{Demo, greets};

#[tokio::test(flavor = "multi_thread")]
async fn post_start_redirects_8080_and_pre_stop_ends_the_server_before_the_signal() {
    let demo = Demo::run("lifecycle-demo").await;
    for port in [80, 8080] {
        demo.until(10, &format!("{port} answers from outside"), || {
            greets(&demo.get(port, "/"))
        })
        .await;
    }
    assert_eq!(demo.row(), ["1/1", "Running", "0"]);
    let mut log = demo
        .berth
        .command(&["logs", demo.name, "-c", "demo", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let page = demo.describe();
    assert_eq!(demo.count("FailedPostStartHook", ""), 0, "{page}");
    // Of its 30 seconds of grace it needs none: the hook ends the server, which ends the container.
    let took = demo.end().await;
    assert!(took < Duration::from_secs(8), "{took:?}");
    let mut written = String::new();
    log.stdout.take().unwrap().read_to_string(&mut written).unwrap();
    log.wait().unwrap();
    // A signal of berth's comes from outside of the pod, from nobody that the container could name.
    let word = "demoapp: SIGTERM from process ";
    let by = written.split_once(word).map(|(_, rest)| rest.lines().next().unwrap());
    assert!(by.is_some_and(|by| by != "0"), "{by:?}\n{written}");
}
