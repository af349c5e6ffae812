//! What a client may ask of the runtime: its binary and state directory, root file systems, user namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use containerd_client::types::Mount;
use serde_json::json;

use crate::node::{NAMESPACE, Node, PATIENCE};
use crate::process::Exec;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_named_runtime_runs_with_the_named_state_directory() {
    let node = Node::start().await;
    let (runtime, root) = (
        node.containerd.scratch().join("runtime"),
        node.containerd.scratch().join("runtime-root"),
    );
    let calls = node.containerd.scratch().join("calls");
    let script = format!("#!/bin/sh\necho \"$@\" >>{}\nexec runc \"$@\"\n", calls.display());
    fs::write(&runtime, script).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let mut container = node.container(&["sleep", "1000"]);
    container.options.binary_name = runtime.display().to_string();
    container.options.root = root.display().to_string();
    let process = container.run().await;
    let state = root.join(NAMESPACE).join(&process.id);
    assert!(state.is_dir(), "{} is missing", state.display());
    let exec = process.exec_run("one", Exec::shell("exit 3")).await;
    assert_eq!(exec.ends().await, 3);
    exec.delete().await.unwrap();
    process.remove().await;
    let begin = std::time::Instant::now();
    while state.exists() {
        assert!(begin.elapsed() < PATIENCE, "{} is left", state.display());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.lines().any(|call| call.contains(" create ")), "{calls}");
    // What it is may be asked, too, which takes no state.
    let rooted = |call: &str| call.contains(&*root.to_string_lossy()) || call == "--version";
    assert!(calls.lines().all(rooted), "{calls}");
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overlay_is_mounted_for_the_task_and_unmounted_after_it() {
    let node = Node::start().await;
    let at = |name: &str| node.containerd.scratch().join(name);
    for directory in ["upper", "work"] {
        fs::create_dir(at(directory)).unwrap();
    }
    let mut container = node.shell("echo hello >/tmp/greeting; echo there; sleep 1000");
    let options = [
        ("lowerdir", node.rootfs()),
        ("upperdir", at("upper")),
        ("workdir", at("work")),
    ];
    container.rootfs = vec![Mount {
        r#type: "overlay".to_owned(),
        source: "overlay".to_owned(),
        options: options
            .map(|(name, path)| format!("{name}={}", path.display()))
            .to_vec(),
        ..Default::default()
    }];
    let process = container.run().await;
    process.pipes.out.shows("there").await;
    let mounted = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts
            .lines()
            .any(|line| line.contains(&process.id) && line.contains(" overlay "))
    };
    assert!(mounted());
    assert_eq!(fs::read_to_string(at("upper/tmp/greeting")).unwrap(), "hello\n");
    process.kill(9).await.unwrap();
    process.ends().await;
    process.delete().await.unwrap();
    assert!(!mounted(), "it is still mounted after the deletion");
    process.remove().await;
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_file_system_in_the_spec_needs_no_mount() {
    let node = Node::start().await;
    let mut container = node.shell("exit 11");
    container.rootfs.clear();
    container.spec["root"]["path"] = node.rootfs().display().to_string().into();
    let process = container.run().await;
    assert_eq!(process.ends().await, 11);
    process.remove().await;
    assert!(node.rootfs().join("bin/busybox").exists());
    node.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_in_a_user_namespace_is_another_user_outside() {
    const OUTSIDE: u32 = 100_000;
    let node = Node::start().await;
    let mut container = node.shell("id -u; cat /proc/self/uid_map; sleep 1000");
    let mapping = json!([{"containerID": 0, "hostID": OUTSIDE, "size": 65536}]);
    container.spec["linux"]["uidMappings"] = mapping.clone();
    container.spec["linux"]["gidMappings"] = mapping;
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let process = container.run().await;
    process.pipes.out.shows("100000").await;
    assert!(process.pipes.out.so_far().starts_with("0\n"));
    let owner = fs::metadata(Path::new("/proc").join(process.pid.to_string()))
        .unwrap()
        .uid();
    assert_eq!(owner, OUTSIDE);
    let exec = process.exec_run("one", Exec::shell("id -u")).await;
    assert_eq!(exec.ends().await, 0);
    assert_eq!(exec.pipes.out.text().await, "0\n");
    exec.delete().await.unwrap();
    // A command is where the container is, and as mighty: no namespace differs, no capability is of the node's.
    let script = "for n in user mnt pid net ipc uts; do \
                  [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo differs: $n; done; \
                  grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | sort >/tmp/own; \
                  grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/1/status | sort | diff - /tmp/own; \
                  stat -c '%u %g' /tmp/own; cat /proc/self/uid_map | tr -s ' '";
    let exec = process.exec_run("two", Exec::shell(script)).await;
    assert_eq!(exec.ends().await, 0);
    assert_eq!(exec.pipes.out.text().await, "0 0\n 0 100000 65536\n");
    exec.delete().await.unwrap();
    let mut other = Exec::shell("id -u; id -g; id -G; touch /proc/self/comm && echo mine");
    other.spec["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7]});
    let exec = process.exec_run("three", other).await;
    assert_eq!(exec.ends().await, 0);
    assert_eq!(exec.pipes.out.text().await, "1000\n1001\n1001 7\nmine\n");
    exec.delete().await.unwrap();
    process.remove().await;
    node.end().await;
}
