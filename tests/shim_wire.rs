//! What the shim sends, as a real containerd understands it.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use berth::proto::shim::events::{TaskExit, TaskOom};
use berth::shim::events::Publisher;
use berth::ttrpc::Code;
use berth::ttrpc::client::{Client, Error};
use support::{Containerd, wait_for};

/// `ctr events`, ended with the test.
struct Witness(Child);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

#[test]
fn containerd_passes_the_events_of_a_shim_on_with_their_content() {
    let containerd = Containerd::start();
    let heard = containerd.scratch().join("events");
    let _witness = Witness(
        Command::new("ctr")
            .arg("--address")
            .arg(containerd.socket())
            .args(["--namespace", "berth-test", "events"])
            .stdout(File::create(&heard).unwrap())
            .spawn()
            .unwrap(),
    );
    let publisher = Publisher::start(Some(containerd.scratch().join("ttrpc.sock"))).unwrap();
    let said = || fs::read_to_string(&heard).unwrap();
    // Until the witness listens.
    wait_for("an event", || {
        let container_id = "first".to_owned();
        publisher.publish("berth-test", &TaskOom { container_id });
        said().contains("first")
    });
    let exit = TaskExit {
        container_id: "pod".to_owned(),
        id: "exec-7".to_owned(),
        pid: 4711,
        exit_status: 137,
        exited_at: None,
    };
    publisher.publish("berth-test", &exit);
    publisher.publish("elsewhere", &exit);
    assert!(publisher.flush(Instant::now() + Duration::from_secs(10)));
    wait_for("the exit", || said().contains("4711"));
    let said = said();
    let line = said.lines().find(|line| line.contains("4711")).unwrap();
    for part in [
        "berth-test /tasks/exit",
        r#""container_id":"pod""#,
        r#""id":"exec-7""#,
        r#""exit_status":137"#,
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(said.contains(r#"/tasks/oom {"container_id":"first"}"#), "{said}");
    assert_eq!(publisher.lost(), 0);
}

#[test]
fn containerd_refuses_a_method_that_it_does_not_have() {
    let containerd = Containerd::start();
    let mut client = Client::connect(&containerd.scratch().join("ttrpc.sock")).unwrap();
    let mut call = |service, method| {
        let patience = Duration::from_secs(10);
        client.call::<()>(service, method, Some("berth-test"), &(), patience)
    };
    for (service, method) in [
        ("berth.Nobody", "Call"),
        ("containerd.services.events.ttrpc.v1.Events", "Nothing"),
    ] {
        let refused = call(service, method).unwrap_err();
        assert!(
            matches!(&refused, Error::Refused(status) if status.code == Code::Unimplemented),
            "{refused}"
        );
    }
}
