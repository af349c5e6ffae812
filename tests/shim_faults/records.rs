//! Records that do not say what is.

use std::fs;

use berth::proto::shim::process::Status;
use berth::shim::control::TaskState;
use berth::ttrpc::Code;

use crate::bundle::Bundle;
use crate::ground::{Ground, alive, becomes, edit};
use crate::wire::code;

/// A process that is none of a shim's.
struct Stranger(std::process::Child);

impl Stranger {
    fn new() -> Self {
        Self(std::process::Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_pid_that_another_process_has_now_is_neither_adopted_nor_signalled() {
    let ground = Ground::new();
    let stranger = Stranger::new();
    let bundle = ground.sleeper();
    bundle.run();
    ground.kill_shim();
    edit(&bundle.record(), |record| {
        record["state"]["running"]["pid"] = stranger.0.id().into();
        record["execs"]["e"] = serde_json::json!({"pid": stranger.0.id(), "start_time": 5});
    });
    ground.ensure();
    let tasks = ground.control().tasks().unwrap();
    assert!(
        matches!(tasks[0].state, TaskState::Exited { code: 255, .. }),
        "{tasks:?}"
    );
    bundle.create().unwrap();
    assert_eq!(bundle.status(), Status::Stopped);
    assert_eq!(code(bundle.kill(9)), Code::NotFound);
    assert_eq!(bundle.delete().unwrap().exit_status, 255);
    bundle.is_forgotten();
    assert!(alive(stranger.0.id()));
    ground.end();
}

#[test]
fn records_that_cannot_be_read_are_told_and_left_alone() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    ground.kill_shim();
    let record = fs::read_to_string(bundle.record()).unwrap();
    let newer = record
        .replace(&bundle.id, "newer")
        .replace(r#""version":1"#, r#""version":2"#);
    let bad = [
        ("newer", newer.as_str()),
        ("garbage", "\u{1}{"),
        ("other", &record),
        ("empty", ""),
    ];
    for (id, text) in bad {
        fs::create_dir(ground.place.container(id)).unwrap();
        fs::write(ground.place.container(id).join("record.json"), text).unwrap();
    }
    ground.ensure();
    assert_eq!(bundle.create().unwrap(), pid);
    for (id, text) in bad {
        let another = Bundle::new(&ground, id.to_owned(), &["true"]);
        another.prepare();
        assert_eq!(code(another.create()), Code::FailedPrecondition, "{id}");
        assert!(another.command("delete").status.success());
        assert_eq!(fs::read_to_string(another.record()).unwrap(), text);
        assert!(ground.messages().contains(&format!("the record of {id}")), "{id}");
    }
    bundle.remove();
    // A place with records stays when its shim leaves.
    ground.leave();
    assert!(ground.place.container("newer").exists());
    for (id, _) in bad {
        fs::remove_dir_all(ground.place.container(id)).unwrap();
    }
    ground.ensure();
    ground.end();
}

#[test]
fn records_of_another_boot_are_forgotten() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    ground.kill_shim();
    edit(&bundle.record(), |record| record["boot_id"] = "another".into());
    ground.ensure();
    assert!(ground.control().tasks().unwrap().is_empty() && alive(pid));
    assert!(!bundle.record().exists());
    let runc = std::process::Command::new("runc")
        .arg("--root")
        .arg(ground.state())
        .args(["delete", "-f", &bundle.id])
        .status();
    assert!(runc.unwrap().success());
    becomes("it is dead", || !alive(pid));
    berth::sys::mount::unmount(&bundle.path.join("rootfs")).unwrap();
    ground.end();
}
