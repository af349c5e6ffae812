//! The daemon itself: its configuration, its socket, its neighbours, a full disk, a containerd of somebody else's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use berth::proto::runtime as pb;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tonic::Code;

use crate::client::{House, pod_config, shell, until};
use crate::support::Containerd;
use crate::support::berth::{Berth, binary};

/// Runs a `berth serve` that should refuse to run.
fn serve(arguments: &[&Path], words: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("serve").args(arguments).args(words);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begin = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed().as_secs() > 20 {
            child.kill().unwrap();
            panic!("it serves: {command:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_configuration_with_a_typo_is_refused_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let root = dir.path().join("root");
    let options: [&Path; 6] = [
        "--config".as_ref(),
        &file,
        "--root".as_ref(),
        &root,
        "--state".as_ref(),
        &dir.path().join("state"),
    ];
    for (text, wanted) in [
        (
            "[network]\n\nsubnett = \"10.0.0.0/16\"\n",
            ":3: unknown field `subnett`",
        ),
        ("root = [\n", ":"),
        ("[containerd]\naddress = 7\n", ":2: "),
        ("default_handler = \"kata\"\n", "default_handler: "),
    ] {
        fs::write(&file, text).unwrap();
        let said = said(&serve(&options, &[]));
        assert!(said.starts_with("berth: ") && said.lines().count() == 1, "{said}");
        assert!(said.contains(wanted), "{wanted}: {said}");
        if wanted.starts_with(':') {
            assert!(said.contains(&*file.to_string_lossy()), "{said}");
        }
    }
    let missing = dir.path().join("missing.toml");
    let said = said(&serve(&["--config".as_ref(), &missing], &[]));
    assert!(said.contains("missing.toml"), "{said}");
    assert!(!root.exists(), "nothing is made before the configuration is read");
}

#[tokio::test]
async fn the_socket_is_roots_alone_and_a_root_has_one_berth() {
    let berth = Berth::start().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&berth.socket()), 0o600);
    assert_eq!(mode(&berth.path("root")) & 0o022, 0);
    let (config, root, state) = (berth.path("config.toml"), berth.path("root"), berth.path("other-state"));
    let options: [&Path; 6] = [
        "--config".as_ref(),
        &config,
        "--root".as_ref(),
        &root,
        "--state".as_ref(),
        &state,
    ];
    let refused = said(&serve(&options, &[]));
    assert!(refused.contains("another berth uses the root directory"), "{refused}");
    let (root, state) = (berth.path("other-root"), berth.path("state"));
    let options: [&Path; 6] = [
        "--config".as_ref(),
        &config,
        "--root".as_ref(),
        &root,
        "--state".as_ref(),
        &state,
    ];
    let refused = said(&serve(&options, &[]));
    assert!(refused.contains("another berth serves"), "{refused}");
    // The one that was there goes on.
    let house = House::of(Arc::new(berth)).await;
    house.pod("still-there").await.remove().await;
}

#[tokio::test]
async fn two_berths_live_side_by_side() {
    let (one, other) = tokio::join!(Berth::start(), Berth::start());
    assert_ne!(one.instance(), other.instance());
    let (one, other) = (House::of(Arc::new(one)).await, House::of(Arc::new(other)).await);
    // The same names, at the same time.
    let (first, second) = tokio::join!(one.pod("twin"), other.pod("twin"));
    let (ip, other_ip) = (first.ip().await, second.ip().await);
    let subnet = |ip: &str| ip.rsplit_once('.').unwrap().0.to_owned();
    assert_ne!(subnet(&ip), subnet(&other_ip));
    for house in [&one, &other] {
        assert!(Path::new(&format!("/sys/class/net/berth-{}", house.berth.instance())).exists());
        let listed = house
            .cri
            .clone()
            .list_pod_sandbox(pb::ListPodSandboxRequest::default())
            .await
            .unwrap();
        assert_eq!(listed.into_inner().items.len(), 1);
    }
    assert_eq!(first.sh("c", "echo one").await, "one\n");
    assert_eq!(second.sh("c", "echo other").await, "other\n");
    first.remove().await;
    one.berth.assert_nothing_left("in the one").await;
    assert_eq!(second.sh("d", "echo still").await, "still\n");
    second.remove().await;
    other.berth.assert_nothing_left("in the other").await;
}

/// A file system of `size` bytes at `path`, gone with the value.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn at(path: &'a Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*format!("size={size}")),
        )
        .unwrap();
        Self(path)
    }

    fn fill(&self) {
        let error = std::io::copy(
            &mut std::io::repeat(b'x'),
            &mut fs::File::create(self.0.join("filler")).unwrap(),
        );
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[tokio::test]
async fn a_pod_that_the_disk_has_no_room_for_leaves_nothing_and_says_why() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let sandboxes = house.berth.path("state/sandboxes");
    let small = Small::at(&sandboxes, "64k");
    small.fill();
    let refused = house.try_pod(pod_config("no-room")).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("No space left on device"), "{refused}");
    let listed = house
        .cri
        .clone()
        .list_pod_sandbox(pb::ListPodSandboxRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().items, []);
    small.free();
    let pod = house.pod("no-room").await;
    assert_eq!(pod.sh("c", "echo room").await, "room\n");
    pod.remove().await;
    drop(small);
    house.berth.assert_nothing_left("after a full disk").await;
}

#[tokio::test]
async fn a_container_whose_log_has_no_room_waits_and_goes_on() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let logs = house.berth.path("small-logs");
    let small = Small::at(&logs, "512k");
    let mut config = pod_config("full-log");
    config.log_directory = logs.display().to_string();
    let pod = house.pod_of(config).await;
    let container = pod.start(shell("c", "seq 100000; echo the end")).await;
    until("the disk is full", || {
        nix::sys::statvfs::statvfs(&logs).unwrap().blocks_available() == 0
    })
    .await;
    // The daemon serves, and so do other pods.
    assert_eq!(container.status().await.state(), pb::ContainerState::ContainerRunning);
    let other = house.pod("beside-full-log").await;
    assert_eq!(other.sh("c", "echo fine").await, "fine\n");
    let remount = MsFlags::MS_REMOUNT;
    mount(None::<&str>, &logs, None::<&str>, remount, Some("size=32m")).unwrap();
    let ended = container.ended().await;
    assert_eq!(ended.code, 0);
    let wanted: String = (1..=100_000).map(|number| format!("{number}\n")).collect::<String>() + "the end\n";
    assert!(
        ended.stdout == wanted,
        "lines are lost: {} of {} bytes",
        ended.stdout.len(),
        wanted.len()
    );
    // One that would wait for ever can be stopped.
    mount(None::<&str>, &logs, None::<&str>, remount, Some("size=8m")).unwrap();
    let endless = pod.start(shell("d", "yes")).await;
    until("the disk is full again", || {
        nix::sys::statvfs::statvfs(&logs).unwrap().blocks_available() == 0
    })
    .await;
    endless.stop(1).await;
    assert_eq!(endless.status().await.state(), pb::ContainerState::ContainerExited);
    pod.remove().await;
    other.remove().await;
    drop(small);
    house.berth.assert_nothing_left("after a full log").await;
}

#[tokio::test]
async fn pods_run_on_a_containerd_of_somebody_elses_in_a_namespace_of_berths() {
    let containerd = Containerd::start();
    let address = containerd.socket().display().to_string();
    let house = House::of(Arc::new(Berth::start_with(&["--containerd", &address]).await)).await;
    let pod = house.pod("external").await;
    let container = pod.idle("c").await;
    assert_eq!(container.sh("echo here").await, "here\n");
    assert!(
        containerd
            .ctr("berth", &["tasks", "ls", "--quiet"])
            .contains(&container.id)
    );
    assert_eq!(containerd.ctr("k8s.io", &["containers", "ls", "--quiet"]), "");
    assert!(!house.berth.containerd_socket().exists(), "no containerd of its own");
    pod.remove().await;
    for of in ["containers", "tasks", "leases"] {
        assert_eq!(containerd.ctr("berth", &[of, "ls", "--quiet"]), "", "{of}");
    }
    let snapshots = containerd.ctr("berth", &["snapshots", "ls"]);
    assert!(!snapshots.contains("Active"), "{snapshots}");
}

#[tokio::test]
async fn the_namespace_of_a_loaded_cri_plugin_is_refused_unless_allowed() {
    let containerd = Containerd::with_cri_plugin();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = at("config.toml");
    let text = format!(
        "[containerd]\naddress = {:?}\nnamespace = \"k8s.io\"\n[network]\nnetns_dir = {:?}\n",
        containerd.socket(),
        at("netns")
    );
    fs::write(&config, text).unwrap();
    let (root, state) = (at("root"), at("state"));
    let options: [&Path; 6] = [
        "--config".as_ref(),
        &config,
        "--root".as_ref(),
        &root,
        "--state".as_ref(),
        &state,
    ];
    let refused = said(&serve(&options, &[]));
    assert!(
        refused.contains("CRI plugin") && refused.contains("share_k8s_namespace"),
        "{refused}"
    );
    // In a namespace of berth's it is a fine containerd.
    let address = containerd.socket().display().to_string();
    let house = House::of(Arc::new(Berth::start_with(&["--containerd", &address]).await)).await;
    let pod = house.pod("beside-the-plugin").await;
    assert_eq!(pod.sh("c", "echo fine").await, "fine\n");
    pod.remove().await;
}

#[test]
fn an_address_where_no_containerd_answers_is_refused() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| dir.path().join(name);
    let (config, root, state, address) = (at("config.toml"), at("root"), at("state"), at("none.sock"));
    fs::write(&config, "").unwrap();
    let options: [&Path; 8] = [
        "--config".as_ref(),
        &config,
        "--root".as_ref(),
        &root,
        "--state".as_ref(),
        &state,
        "--containerd".as_ref(),
        &address,
    ];
    let refused = said(&serve(&options, &[]));
    assert!(refused.contains("none.sock"), "{refused}");
}
