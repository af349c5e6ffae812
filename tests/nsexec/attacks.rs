//! What a container may try against whoever comes in to run a command.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use berth::nsexec;
use berth::proto::runtime as pb;
use berth::sys::process::Handle;
use sha2::{Digest, Sha256};
use tonic::Code;

use crate::client::{container_config, shell};
use crate::house::{house, own, pod};

/// CVE-2019-5736: what `/proc/self/exe` leads to, from the container or from the helper, cannot be written, and is no
/// file of the node.
#[tokio::test]
async fn the_program_that_comes_in_cannot_be_overwritten() {
    let house = house().await;
    let pod = pod(&house, "attack-exe").await;
    // Whoever comes in is looked at again and again, and written to where that is possible.
    let watch = "while :; do for p in /proc/[0-9]*; do \
                 l=$(readlink $p/exe 2>/dev/null); case \"$l\" in ''|/bin/*) ;; *) \
                 echo \"$l\" >>/seen; (echo x >$p/exe) 2>/dev/null && echo \"$l\" >>/written; esac; done; done";
    let container = pod.start(shell("c", watch)).await;
    let program = fs::read(binary(&house)).map(Sha256::digest).unwrap();
    for _ in 0..100 {
        assert_eq!(container.exec(&["true"], 20).await.unwrap().exit_code, 0);
        // It finds the container's loader missing, or itself without a word to obey.
        let answer = container.exec(&["/proc/self/exe"], 20).await;
        assert!(answer.is_err() || answer.unwrap().exit_code != 0);
    }
    assert_eq!(
        container.sh("cat /written 2>/dev/null || echo nothing").await,
        "nothing\n"
    );
    let seen = container.sh("sort -u /seen 2>/dev/null || true").await;
    assert!(
        seen.lines()
            .all(|line| line.starts_with("/memfd:berth-exec") || !line.contains("shim")),
        "{seen}"
    );
    assert_eq!(fs::read(binary(&house)).map(Sha256::digest).unwrap(), program);
    let helper = house.berth.exec_helper_pid().unwrap();
    let exe = format!("/proc/{helper}/exe");
    assert_eq!(
        fs::read_link(&exe).unwrap().to_str(),
        Some("/memfd:berth-exec (deleted)")
    );
    // Not even by the node's root, whether it runs or not.
    assert!(OpenOptions::new().write(true).open(&exe).is_err());
    let opened = File::open(&exe).unwrap();
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
    assert!(OpenOptions::new().write(true).open(again).is_err());
    let seals = nix::fcntl::fcntl(&opened, nix::fcntl::FcntlArg::F_GET_SEALS).unwrap();
    assert!(nix::fcntl::SealFlag::from_bits_retain(seals).contains(nix::fcntl::SealFlag::F_SEAL_WRITE));
    pod.remove().await;
}

fn binary(house: &crate::client::House) -> String {
    let shim = house.berth.shim_pid().unwrap();
    fs::read_link(format!("/proc/{shim}/exe"))
        .unwrap()
        .display()
        .to_string()
}

/// CVE-2024-21626: no descriptor of the node's is there to be a working directory.
#[tokio::test]
async fn a_working_directory_that_is_a_descriptor_of_the_nodes_is_none() {
    let house = house().await;
    let pod = pod(&house, "attack-cwd").await;
    let mut config = container_config("c", &["sleep", "1000000"]);
    config.working_dir = "/w".to_owned();
    let container = pod.start(config).await;
    for number in 0..40 {
        for target in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../../.."),
        ] {
            let root = format!("/proc/{}/root/w", container.pid().await);
            fs::remove_dir(&root).or_else(|_| fs::remove_file(&root)).unwrap();
            std::os::unix::fs::symlink(&target, &root).unwrap();
            let answer = container.exec(&["pwd"], 20).await;
            let error = answer.unwrap_err();
            assert!(
                error.message().contains("cannot change to the directory"),
                "{target}: {error}"
            );
        }
    }
    pod.remove().await;
}

/// What the container says of its users is read by root on the way in: it must not make that wait or grow.
#[tokio::test]
async fn an_etc_passwd_that_is_a_trap_is_not_waited_for() {
    let house = house().await;
    let pod = pod(&house, "attack-passwd").await;
    let container = pod.idle("c").await;
    container.sh("cp /etc/passwd /saved 2>/dev/null; true").await;
    for trap in [
        "mkfifo /etc/passwd",
        "ln -s /dev/zero /etc/passwd",
        "mkdir /etc/passwd",
        "ln -s /proc/self/fd /etc/passwd",
    ] {
        container
            .sh(&format!("mkdir -p /etc; rm -rf /etc/passwd; {trap}"))
            .await;
        let begin = Instant::now();
        let answer = container.exec(&["sh", "-c", "echo $HOME"], 20).await.unwrap();
        assert_eq!((answer.exit_code, &*answer.stdout), (0, &b"/\n"[..]), "{trap}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{trap}");
    }
    pod.remove().await;
}

/// A pid that another process has by now leads nowhere: it is the process that is named, not its number.
#[tokio::test]
async fn a_process_that_has_ended_is_not_joined_whoever_has_its_pid() {
    let house = house().await;
    let pod = pod(&house, "attack-pid").await;
    let container = pod.idle("c").await;
    assert_eq!(container.exec(&["true"], 20).await.unwrap().exit_code, 0);
    let mut ended = Command::new("sleep").arg("1000").spawn().unwrap();
    let init = Handle::open(ended.id()).unwrap();
    ended.kill().unwrap();
    ended.wait().unwrap();
    let groups = groups(container.pid().await);
    let home = File::open(&groups.home).unwrap();
    let null = File::open("/dev/null").unwrap();
    let spec = r#"{"ociVersion":"1.0.2","root":{"path":"/"},"process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["true"],"env":["PATH=/bin"]}}"#;
    let spec: berth::oci::Spec = serde_json::from_str(spec).unwrap();
    let setting = nsexec::Setting::of(&spec, None).unwrap();
    let exec = nsexec::Exec {
        program: &setting.program(setting.process()).unwrap(),
        groups: &groups,
        home: home.as_fd(),
        init: init.as_fd(),
        stdio: Some([null.as_fd(); 3]),
        filter: None,
    };
    let connection = nsexec::begin(&house.berth.path("state/shims/0/exec.sock"), &exec).unwrap();
    let answer = connection.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(answer.unwrap_err().to_string(), "the container has ended");
    pod.remove().await;
}

fn groups(pid: u32) -> nsexec::Groups {
    let groups = berth::shim::cgroups::Cgroups::of(pid).unwrap().unwrap();
    groups.for_execs().unwrap()
}

/// Nothing that a request brought stays where a later child, which a container might look into, inherits it.
#[tokio::test]
async fn the_helper_forgets_what_it_was_told() {
    let house = house().await;
    let pod = pod(&house, "attack-memory").await;
    let secret = format!("secret-{}", berth::model::Id::random());
    let mut config = container_config("c", &["sleep", "1000000"]);
    config.envs = vec![pb::KeyValue {
        key: "TOKEN".to_owned(),
        value: secret.clone().into_bytes(),
    }];
    let container = pod.start(config).await;
    assert_eq!(container.sh("echo $TOKEN").await, format!("{secret}\n"));
    let helper = house.berth.exec_helper_pid().unwrap();
    assert!(!holds(helper, secret.as_bytes()), "the helper still has it");
    // That this looks at all: the container's own process has it.
    assert!(holds(container.pid().await, secret.as_bytes()));
    pod.remove().await;
}

/// Whether the bytes are somewhere in what a process may write to.
fn holds(pid: u32, bytes: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut page = vec![0; (to - from) as usize];
        let read = memory
            .seek(SeekFrom::Start(from))
            .and_then(|_| memory.read_exact(&mut page));
        read.is_ok() && page.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// Who came in before the program is that one is no help: nobody without power over the whole node may look into it.
#[tokio::test]
async fn the_one_who_comes_in_shows_nothing_of_itself() {
    let house = house().await;
    let pod = pod(&house, "attack-look").await;
    let watch = "while :; do for p in /proc/[0-9]*; do e=$(tr '\\0' ' ' <$p/cmdline 2>/dev/null); \
                 case \"$e\" in containerd-shim*) cat $p/environ $p/maps >>/seen 2>/dev/null; ls -l $p/fd >>/seen 2>/dev/null; esac; done; done";
    let mut config = shell("c", watch);
    config.linux.get_or_insert_default();
    let container = pod.start(config).await;
    for _ in 0..200 {
        assert_eq!(container.exec(&["true"], 20).await.unwrap().exit_code, 0);
    }
    // What shows is the command itself, once it has come so far: nothing of our program, of its sockets, of the node's.
    let seen = container.sh("cat /seen 2>/dev/null || true").await;
    for word in ["berth-exec", "libseccomp", "socket:", "anon_inode", "cgroup", "/proc/"] {
        assert!(!seen.contains(word), "{word}: {seen}");
    }
    pod.remove().await;
}

/// The v1 freezer, or cgroup.freeze.
fn freeze(pid: u32, frozen: bool) {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |name: &str| {
        let line = cgroup.lines().find(|line| line.split(':').nth(1) == Some(name));
        line.map(|line| line.splitn(3, ':').nth(2).unwrap().to_owned())
    };
    let written = match path("freezer") {
        Some(path) => fs::write(
            format!("/sys/fs/cgroup/freezer{path}/freezer.state"),
            if frozen { "FROZEN" } else { "THAWED" },
        ),
        None => fs::write(
            format!("/sys/fs/cgroup{}/cgroup.freeze", path("").unwrap()),
            if frozen { "1" } else { "0" },
        ),
    };
    written.unwrap();
}

#[tokio::test]
async fn a_frozen_container_is_refused_and_hangs_nobody() {
    let berth = std::sync::Arc::new(own().await);
    let house = crate::client::House::of(berth).await;
    let pod = pod(&house, "attack-frozen").await;
    let (frozen, other) = (pod.idle("frozen").await, pod.idle("other").await);
    assert_eq!(frozen.exec(&["true"], 20).await.unwrap().exit_code, 0);
    let pid = frozen.pid().await;
    freeze(pid, true);
    let begin = Instant::now();
    let refused = frozen.exec(&["true"], 20).await.unwrap_err();
    assert!(refused.message().contains("paused"), "{refused}");
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(other.exec(&["true"], 20).await.unwrap().exit_code, 0);
    freeze(pid, false);
    // Frozen under way: the caller is answered in time, others do not notice, and what is left dies with the thaw.
    let under_way = {
        let frozen = frozen.clone();
        tokio::spawn(async move { frozen.exec(&["sleep", "4242"], 2).await })
    };
    tokio::time::sleep(Duration::from_millis(700)).await;
    freeze(pid, true);
    let answer = tokio::time::timeout(Duration::from_secs(8), under_way)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(other.exec(&["true"], 20).await.unwrap().exit_code, 0);
    freeze(pid, false);
    crate::client::until("the command is gone", || {
        crate::support::processes()
            .iter()
            .all(|(_, line)| !line.contains("sleep 4242"))
    })
    .await;
    pod.remove().await;
    house.berth.assert_nothing_left("after a freeze").await;
}
