//! Bundles that are not what they should be, or no more.

use std::fs;

use berth::proto::shim::types;
use berth::ttrpc::Code;

use crate::bundle::Bundle;
use crate::ground::{Ground, words};
use crate::wire::code;

/// Removes a bundle as containerd does.
pub fn vanish(bundle: &Bundle<'_>) {
    berth::sys::mount::unmount(&bundle.path.join("rootfs")).unwrap();
    fs::remove_dir_all(&bundle.path).unwrap();
}

#[test]
fn a_bundle_that_vanishes_before_its_creation_is_named() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.prepare();
    vanish(&bundle);
    let refused = bundle.create().unwrap_err();
    assert!(
        refused.code == Code::Unknown && refused.message.contains("config.json"),
        "{refused}"
    );
    bundle.is_forgotten();
    ground.serves();
    ground.end();
}

#[test]
fn a_bundle_that_vanishes_later_is_missed_by_nobody() {
    let ground = Ground::new();
    for when in ["created", "running", "ended"] {
        let bundle = ground.sleeper();
        bundle.prepare();
        let pid = bundle.create().unwrap();
        if when == "created" {
            vanish(&bundle);
        }
        assert_eq!(bundle.start().unwrap(), pid, "{when}");
        if when == "running" {
            vanish(&bundle);
            bundle.exec("late", &["true"]).unwrap();
            // The runtime has nowhere to read its orders from.
            assert_eq!(code(bundle.start_process("late")), Code::Unknown);
            assert_eq!(bundle.wait_process("late").unwrap().exit_status, 255);
        }
        bundle.kill(9).unwrap();
        assert_eq!(bundle.wait().unwrap().exit_status, 137);
        if when == "ended" {
            vanish(&bundle);
        }
        assert_eq!(bundle.delete().unwrap().exit_status, 137);
        bundle.is_forgotten();
    }
    ground.end();
}

#[test]
fn a_spec_that_cannot_be_read_is_refused() {
    let ground = Ground::new();
    let bundle = ground.sleeper();
    bundle.prepare();
    let path = bundle.path.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bad in [
        "",
        &text[..text.len() / 2],
        "\0\0\0",
        r#"{"linux": 7, "annotations": 7}"#,
        &deep,
    ] {
        fs::write(&path, bad).unwrap();
        assert_eq!(code(bundle.create()), Code::InvalidArgument);
        let started = bundle.command("start");
        // What is wrong elsewhere is not for `start` to find.
        assert!(started.status.success() || !words(&started).is_empty());
    }
    // Where nobody here looks, it is the OCI runtime that finds it too deep.
    fs::write(&path, format!(r#"{{"linux": {{"more": {deep}}}}}"#)).unwrap();
    assert_eq!(code(bundle.create()), Code::Unknown);
    fs::remove_file(&path).unwrap();
    assert_eq!(code(bundle.create()), Code::Unknown);
    assert!(!bundle.command("start").status.success());
    bundle.is_forgotten();
    ground.serves();
    ground.end();
}

#[test]
fn a_spec_of_ten_megabytes_is_a_spec() {
    let ground = Ground::new();
    let mut bundle = ground.shell("exit 4");
    bundle.spec["annotations"]["long"] = "x".repeat(10 << 20).into();
    bundle.run();
    assert_eq!(bundle.wait().unwrap().exit_status, 4);
    bundle.delete().unwrap();
    ground.end();
}

#[test]
fn a_root_that_cannot_be_mounted_leaves_nothing_mounted() {
    let ground = Ground::new();
    let mut bundle = ground.sleeper();
    bundle.rootfs.push(types::Mount {
        r#type: "ext4".to_owned(),
        source: "/no/such/device".to_owned(),
        ..Default::default()
    });
    bundle.prepare();
    let refused = bundle.create().unwrap_err();
    assert!(
        refused.code == Code::Unknown && refused.message.contains("/no/such/device"),
        "{refused}"
    );
    // containerd removes the bundle at once.
    fs::remove_dir_all(&bundle.path).unwrap();
    bundle.is_forgotten();
    ground.end();
}
