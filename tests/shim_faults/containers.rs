//! Containers that do not want to end.

use std::fs;
use std::time::Duration;

use berth::proto::shim::process::Status;
use serde_json::json;

use crate::ground::{Ground, becomes};

#[test]
fn a_container_that_ignores_all_signals_is_ended_by_the_one_that_none_can_ignore() {
    let ground = Ground::new();
    let mut bundle = ground.shell("trap '' 1 2 3 6 10 12 15; echo deaf; while :; do sleep 0.1; done");
    let output = bundle.output_to("output");
    bundle.run();
    // Up to there it may still be the OCI runtime's own process, which ignores nothing.
    becomes("it is deaf", || {
        fs::read_to_string(&output).is_ok_and(|said| said == "deaf\n")
    });
    for signal in [1, 2, 3, 15] {
        bundle.kill(signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(bundle.status(), Status::Running);
    ground.serves();
    assert_eq!(bundle.remove(), 137);
    ground.end();
}

#[test]
fn a_fork_bomb_within_its_limit_is_put_out() {
    let ground = Ground::new();
    let bomb = || {
        let mut bundle = ground.shell("f() { f | f & }; f; while :; do sleep 1; done");
        bundle.spec["linux"]["resources"] = json!({"pids": {"limit": 50}});
        bundle
    };
    for bundle in [bomb(), bomb().in_host_pids()] {
        bundle.run();
        std::thread::sleep(Duration::from_millis(500));
        ground.serves();
        assert_eq!(bundle.remove(), 137);
        bundle.is_forgotten();
    }
    ground.end();
}
