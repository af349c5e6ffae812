//! What containerd and berth execute: `start`, `delete`, `ensure`.

use std::time::{Duration, Instant};

use berth::proto::shim::task::DeleteResponse;
use berth::shim::control::TaskState;
use nix::sys::signal::Signal;
use prost::Message;

use crate::bundle::Bundle;
use crate::ground::{Ground, alive, becomes, signal, words};

/// What the command `delete` says.
fn delete(bundle: &Bundle<'_>) -> DeleteResponse {
    let output = bundle.command("delete");
    assert!(output.status.success(), "{}", words(&output));
    DeleteResponse::decode(output.stdout.as_slice()).unwrap()
}

#[test]
fn twenty_starts_at_once_have_one_shim() {
    let ground = Ground::new();
    let bundles: Vec<_> = (0..20).map(|_| ground.sleeper()).collect();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(|| bundle.prepare());
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(ground.shims(), [ground.shim()]);
    ground.end();
}

#[test]
fn a_living_container_is_left_alone_by_delete_and_can_be_taken_back() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    let pid = bundle.run();
    for killed in [false, true] {
        if killed {
            ground.kill_shim();
        }
        assert_eq!(delete(&bundle).exit_status, 255);
        assert!(alive(pid) && !ground.control().tasks().unwrap()[0].claimed);
        bundle.prepare();
        assert_eq!((bundle.create().unwrap(), bundle.start().unwrap()), (pid, pid));
    }
    bundle.remove();
    ground.end();
}

#[test]
fn delete_tells_how_a_container_ended_that_its_killed_shim_knew() {
    let ground = Ground::new();
    let bundle = ground.shell("exit 7");
    let pid = bundle.run();
    bundle.wait().unwrap();
    ground.kill_shim();
    let told = delete(&bundle);
    assert_eq!((told.pid, told.exit_status), (pid, 7));
    ground.control().forget(&bundle.id).unwrap();
    bundle.is_forgotten();
    ground.end();
}

#[test]
fn a_container_of_nobodys_that_ended_is_forgotten_by_delete() {
    let mut ground = Ground::new();
    ground.place = berth::shim::place::Place::common(&ground.path("containerd.sock"), &ground.name);
    let mut bundle = ground.shell("exit 8");
    bundle.spec["annotations"] = serde_json::json!({});
    bundle.run();
    bundle.wait().unwrap();
    ground.kill_shim();
    assert_eq!(delete(&bundle).exit_status, 8);
    bundle.is_forgotten();
    // containerd asks twice when it was started again.
    assert_eq!(delete(&bundle).exit_status, 255);
    ground.end();
}

#[test]
fn a_shim_that_is_stopped_makes_start_fail_soon_and_with_words() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.run();
    let shim = ground.shim();
    signal(shim, Signal::SIGSTOP);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        // More than may wait for a connection.
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| bundle.command("start"))).collect();
        for start in starts {
            let output = start.join().unwrap();
            assert!(
                !output.status.success() && words(&output).contains("does not answer"),
                "{}",
                words(&output)
            );
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    signal(shim, Signal::SIGCONT);
    ground.serves();
    assert_eq!(ground.shim(), shim);
    bundle.remove();
    ground.end();
}

#[test]
fn a_shim_that_cannot_be_started_says_why() {
    let ground = Ground::new();
    std::fs::create_dir_all(ground.place.directory()).unwrap();
    // Where its lock belongs.
    std::fs::create_dir(ground.place.lock()).unwrap();
    let begin = Instant::now();
    let output = ground.ensuring().output().unwrap();
    assert!(
        !output.status.success() && words(&output).contains("directory"),
        "{}",
        words(&output)
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
    std::fs::remove_dir(ground.place.lock()).unwrap();
    ground.ensure();
    ground.end();
}

#[test]
fn an_idle_shim_leaves_and_takes_its_place_along() {
    let ground = Ground::new();
    ground.serves();
    let wire = ground.connect();
    becomes("it leaves", || {
        !ground.place.directory().exists() && ground.shims().is_empty()
    });
    drop(wire);
    ground.end();
}

#[test]
fn two_shims_never_live_at_one_place() {
    let ground = Ground::new();
    for round in 0..200 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Ok(mut shim) = berth::shim::control::Client::connect(&ground.place.control_socket()) {
                    std::thread::sleep(Duration::from_micros(300 * (round % 7)));
                    shim.leave().ok();
                }
            });
            for _ in 0..2 {
                scope.spawn(|| ground.ensure());
            }
        });
        // One may still be on its way out.
        ground.ensure();
        let begin = Instant::now();
        while ground.shims().len() > 1 {
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", ground.shims());
        }
    }
    ground.end();
}

#[test]
fn a_creation_that_was_cut_off_by_the_death_of_the_shim_is_undone() {
    let ground = Ground::new();
    for command in ["ensure", "start", "delete"] {
        let slow = r#"[ "$verb" = create ] && { touch "$0.began"; sleep 1; }; exec runc "$@""#;
        let bundle = ground.sleeper().by(slow);
        let began = format!("{}.began", bundle.options.binary_name);
        bundle.prepare();
        std::thread::scope(|scope| {
            let creation = scope.spawn(|| bundle.create());
            becomes("it has begun", || std::path::Path::new(&began).exists());
            ground.kill_shim();
            creation.join().unwrap().unwrap_err();
        });
        match command {
            "ensure" => ground.ensure(),
            "start" => bundle.prepare(),
            _ => assert_eq!(delete(&bundle).exit_status, 255),
        }
        bundle.is_forgotten();
        let tasks = ground.control().tasks().unwrap();
        assert!(
            !tasks.iter().any(|task| matches!(task.state, TaskState::Created)),
            "{tasks:?}"
        );
        // And its id is free.
        bundle.run();
        bundle.remove();
    }
    ground.end();
}
