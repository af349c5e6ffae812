//! `berth exec`: a command lasts as long as somebody waits for it.

use crate::demo::Demo;
use crate::support::processes;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_says_nothing_ends_with_the_client_that_waits_for_it() {
    let demo = Demo::run("liveness-httpget-demo").await;
    let line = "setsid sh -c 'sleep 88801 & sleep 88802' & sleep 88803";
    let mut client = demo
        .berth
        .command(&["exec", demo.name, "--", "sh", "-c", line])
        .spawn()
        .unwrap();
    let running = || {
        processes()
            .iter()
            .filter(|(_, line)| line.starts_with("sleep 8880"))
            .count()
    };
    demo.until(10, "the command runs", || running() == 3).await;
    client.kill().unwrap();
    client.wait().unwrap();
    demo.until(5, "nothing of the command is left", || running() == 0).await;
    demo.end().await;
}
