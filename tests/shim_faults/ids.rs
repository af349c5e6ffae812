//! Ids that nobody has, and ids that nobody may have.

use berth::proto::shim::task;
use berth::ttrpc::Code;

use crate::ground::{Ground, words};
use crate::wire::{METHODS, SERVICE, call, code};

#[test]
fn no_method_knows_an_unknown_id() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    let mut wire = ground.connect();
    for method in METHODS {
        let expected = match method {
            // No request but that for a bundle names one; Shutdown is about no container.
            "Create" | "Shutdown" => continue,
            "Checkpoint" => Code::Unimplemented,
            // Its exec id is missing, too.
            "Exec" => Code::InvalidArgument,
            _ => Code::NotFound,
        };
        // The id is field 1 of them all.
        let request = task::StateRequest {
            id: "nobody".to_owned(),
            ..Default::default()
        };
        let refused = wire.ask::<()>(method, &request);
        assert_eq!(code(refused), expected, "{method}");
    }
    bundle.remove();
    ground.end();
}

#[test]
fn no_method_knows_an_unknown_process_of_a_container() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    let mut wire = ground.connect();
    for method in ["State", "Start", "Delete", "Wait"] {
        // The exec id is field 2 of these.
        let request = task::StateRequest {
            id: bundle.id.clone(),
            exec_id: "nobody".to_owned(),
        };
        assert_eq!(code(wire.ask::<()>(method, &request)), Code::NotFound, "{method}");
    }
    bundle.remove();
    ground.end();
}

#[test]
fn what_cannot_be_an_id_is_refused_everywhere_and_touches_no_file() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    let long = "x".repeat(77);
    for id in ["", ".", "..", "a/b", "../../escaped", "/etc", "a b", "ä", &long] {
        let started = ground.command("start", id, &bundle.path).output().unwrap();
        assert!(
            !started.status.success() && words(&started).contains("is no id"),
            "{id:?}"
        );
        let deleted = ground.command("delete", id, &bundle.path).output().unwrap();
        assert!(deleted.status.success(), "{id:?}: {}", words(&deleted));
        let request = task::CreateTaskRequest {
            id: id.to_owned(),
            ..bundle.request()
        };
        let created = ground.connect().ask::<()>("Create", &request);
        assert_eq!(code(created), Code::InvalidArgument, "{id:?}");
        assert_eq!(code(bundle.exec(id, &["true"])), Code::InvalidArgument, "{id:?}");
    }
    assert!(!ground.path("escaped").exists() && !ground.path("shims/escaped").exists());
    bundle.remove();
    ground.end();
}

#[test]
fn what_nobody_serves_is_unimplemented() {
    let ground = Ground::new();
    ground.ensure();
    let mut wire = ground.connect();
    for (service, method) in [
        (SERVICE, "Explode"),
        (SERVICE, ""),
        ("", "State"),
        ("containerd.task.v9.Task", "State"),
    ] {
        let mut call = call(method, &());
        call.service = service.to_owned();
        let stream = wire.send(call);
        assert_eq!(code(wire.answer(stream)), Code::Unimplemented, "{service}.{method}");
    }
    ground.serves();
    ground.end();
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    for signal in [65, 1000, u32::MAX] {
        assert_eq!(code(bundle.kill(signal)), Code::InvalidArgument);
    }
    bundle.remove();
    ground.end();
}
