//! Mounts, devices and the root file system.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use berth::proto::runtime as pb;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pb::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
use tonic::Code;

use crate::client::{ContainerParts, House, container_config, house, shell};

fn bind(host: &Path, container: &str) -> pb::Mount {
    pb::Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        ..pb::Mount::default()
    }
}

fn directory(house: &House, name: &str) -> PathBuf {
    let path = house.berth.path("mounts").join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

#[tokio::test]
async fn a_mount_shows_the_hosts_files_and_read_only_it_cannot_be_written() {
    let house = house().await;
    let (host, pod) = (directory(&house, "plain"), house.pod("mounts").await);
    fs::write(host.join("file"), "from the host\n").unwrap();
    symlink(&host, host.with_file_name("link")).unwrap();
    let mut config = shell(
        "c",
        "cat /a/file /link/file /one; echo back > /a/answer; ! touch /ro/x 2>/dev/null; ! touch /dev/full/x 2>&-",
    );
    let mut readonly = bind(&host, "/ro");
    readonly.readonly = true;
    config.mounts = vec![
        bind(&host, "/a"),
        bind(&host.with_file_name("link"), "/link"),
        bind(&host.join("file"), "/one"),
        readonly,
    ];
    let container = pod.start(config.clone()).await;
    let ended = container.ended().await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, &*"from the host\n".repeat(3)),
        "{ended:?}"
    );
    assert_eq!(fs::read_to_string(host.join("answer")).unwrap(), "back\n");
    assert_eq!(ended.status.mounts, config.mounts);
    pod.remove().await;
}

#[tokio::test]
async fn mounts_that_cannot_be_are_refused_by_their_field() {
    let house = house().await;
    let (host, pod) = (directory(&house, "refused"), house.pod("mounts-refused").await);
    let recursive = |readonly, propagation: pb::MountPropagation| pb::Mount {
        readonly,
        recursive_read_only: true,
        propagation: propagation.into(),
        ..bind(&host, "/x")
    };
    let cases = [
        ("mounts[0].host_path", bind(&host.join("missing"), "/x")),
        ("mounts[0].host_path", bind(Path::new("relative"), "/x")),
        ("mounts[0].container_path", bind(&host, "relative")),
        ("mounts[0].container_path", bind(&host, "")),
        ("mounts[0].recursive_read_only", recursive(false, PropagationPrivate)),
        (
            "mounts[0].recursive_read_only",
            recursive(true, PropagationHostToContainer),
        ),
        (
            "mounts[0].recursive_read_only",
            recursive(true, PropagationBidirectional),
        ),
    ];
    share(&host);
    for (field, mount) in cases {
        let mut config = shell("c", "true");
        config.mounts = vec![mount.clone()];
        let refused = pod.try_create(config).await.err();
        let refused = refused.unwrap_or_else(|| panic!("not refused: {mount:?}"));
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{field}: {refused}");
    }
    umount2(&host, MntFlags::MNT_DETACH).unwrap();
    pod.remove().await;
}

/// Makes a directory of the host a shared mount, so that mounts in it can propagate.
fn share(path: &Path) {
    mount(Some(path), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
}

#[tokio::test]
async fn mounts_propagate_as_far_as_asked() {
    let house = house().await;
    let (host, pod) = (
        directory(&house, "propagation"),
        house.privileged_pod("propagation").await,
    );
    share(&host);
    for directory in ["from-host", "from-private", "from-slave", "from-shared"] {
        fs::create_dir(host.join(directory)).unwrap();
    }
    let mut containers = Vec::new();
    for (name, propagation) in [
        ("private", PropagationPrivate),
        ("slave", PropagationHostToContainer),
        ("shared", PropagationBidirectional),
    ] {
        let mut config = container_config(name, &["sleep", "1000000"]);
        config.security().privileged = true;
        let mut volume = bind(&host, "/v");
        volume.set_propagation(propagation);
        config.mounts = vec![volume];
        let container = pod.start(config).await;
        container
            .sh(&format!("mount -t tmpfs tmpfs /v/from-{name}; touch /v/from-{name}/x"))
            .await;
        containers.push(container);
    }
    let inside = host.join("from-host");
    mount(Some("tmpfs"), &inside, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(inside.join("x"), "").unwrap();
    let mut seen = Vec::new();
    for container in &containers {
        seen.push(container.sh("ls /v/from-host").await);
    }
    let back: Vec<_> = ["private", "slave", "shared"]
        .iter()
        .map(|name| host.join(format!("from-{name}/x")).exists())
        .collect();
    umount2(&inside, MntFlags::MNT_DETACH).unwrap();
    umount2(&host.join("from-shared"), MntFlags::MNT_DETACH).ok();
    umount2(&host, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(seen, ["", "x\n", "x\n"], "what the host mounted");
    assert_eq!(back, [false, false, true], "what the containers mounted");
    pod.remove().await;
}

#[tokio::test]
async fn devices_are_there_with_the_access_asked_for_and_no_others() {
    let house = house().await;
    let pod = house.privileged_pod("devices").await;
    let device = |host: &str, container: &str, permissions: &str| pb::Device {
        host_path: host.to_owned(),
        container_path: container.to_owned(),
        permissions: permissions.to_owned(),
    };
    let mut config = shell(
        "c",
        "head -c 3 /dev/nought | wc -c; ! echo x 2>&- > /dev/nought; ls /dev",
    );
    config.devices = vec![device("/dev/zero", "/dev/nought", "r")];
    let text = pod.succeed(config).await;
    assert!(text.starts_with("3\n"), "{text}");
    for standard in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "shm", "stdin", "fd",
    ] {
        assert!(text.lines().any(|line| line == standard), "{standard}: {text}");
    }
    assert!(!text.contains("kmsg"), "{text}");
    for (field, device) in [
        ("devices[0].host_path", device("/dev/none-such", "/dev/x", "r")),
        ("devices[0].host_path", device("/etc/hostname", "/dev/x", "r")),
        ("devices[0].permissions", device("/dev/zero", "/dev/x", "rx")),
    ] {
        let mut config = shell("refused", "true");
        config.devices = vec![device];
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    let mut privileged = shell("privileged", "ls /dev");
    privileged.security().privileged = true;
    let all = pod.succeed(privileged).await;
    let host: Vec<_> = ["kmsg", "fuse"]
        .into_iter()
        .filter(|name| Path::new("/dev").join(name).exists())
        .collect();
    assert!(
        host.iter().all(|name| all.lines().any(|line| line == *name)),
        "{host:?}: {all}"
    );
    pod.remove().await;
}

#[tokio::test]
async fn a_read_only_root_is_so_but_for_its_mounts_and_shared_memory() {
    let house = house().await;
    let (host, pod) = (directory(&house, "read-only-root"), house.pod("read-only-root").await);
    let mut config = shell(
        "c",
        "touch /v/x /dev/shm/x; for d in / /tmp /etc/hosts; do touch $d/y 2>&1; done; true",
    );
    config.security().readonly_rootfs = true;
    config.mounts = vec![bind(&host, "/v")];
    let text = pod.succeed(config).await;
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    let usual = pod.sh("usual", "touch /x /tmp/x && echo written").await;
    assert_eq!(usual, "written\n");
    pod.remove().await;
}

#[tokio::test]
async fn masked_paths_are_empty_and_read_only_paths_read_only() {
    let house = house().await;
    let pod = house.pod("masked").await;
    let mut config = shell(
        "c",
        "cat /etc/passwd /proc/kallsyms | wc -c; ls /root | wc -l; touch /var/x 2>&1; true",
    );
    let security = config.security();
    security.masked_paths = ["/etc/passwd", "/proc/kallsyms", "/root", "/not/there"]
        .map(str::to_owned)
        .to_vec();
    security.readonly_paths = ["/var", "/also/not/there"].map(str::to_owned).to_vec();
    let text = pod.succeed(config).await;
    assert!(text.starts_with("0\n0\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    pod.remove().await;
}
