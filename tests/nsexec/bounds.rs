//! What a command may leave behind: nothing.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::Code;

use crate::client::{House, pod_config, until};
use crate::house::{Stock, by_containerd, house, own, pod};
use crate::support::processes;

/// Whether processes whose command lines hold `words` are there.
fn any(words: &str) -> bool {
    processes().iter().any(|(_, line)| line.contains(words))
}

/// The groups of commands in all hierarchies.
fn leaves() -> Vec<String> {
    fn walk(directory: &std::path::Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if entry.file_name().to_string_lossy().starts_with("berth-exec-") {
                    found.push(path.display().to_string());
                }
                walk(&path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk("/sys/fs/cgroup".as_ref(), &mut found);
    found
}

fn leaves_of(house: &House) -> usize {
    let own = format!("berth-{}", house.berth.instance());
    leaves().iter().filter(|leaf| leaf.contains(&own)).count()
}

async fn no_leaves_of(house: &House) {
    until("no group of a command is left", || leaves_of(house) == 0).await;
}

#[tokio::test]
async fn a_timeout_kills_also_what_left_the_session_and_what_holds_the_pipe() {
    let house = house().await;
    for (name, stock) in [("bounds-timeout", false), ("bounds-timeout-stock", true)] {
        let pod = match stock {
            true => house.stock(pod_config(name)).await,
            false => pod(&house, name).await,
        };
        let container = pod.idle("c").await;
        let line = "setsid sh -c 'setsid sleep 77001 & sleep 77002' & (sleep 77003 &); trap '' TERM HUP; sleep 77004; sleep 77005";
        let begin = Instant::now();
        let error = container.exec(&["sh", "-c", line], 1).await.unwrap_err();
        let took = begin.elapsed();
        assert_eq!(error.code(), Code::DeadlineExceeded);
        assert!(
            took >= Duration::from_secs(1) && took < Duration::from_secs(4),
            "{took:?}"
        );
        assert!(!any("sleep 7700"), "all are gone when the answer comes");
        no_leaves_of(&house).await;
        pod.remove().await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_running_goes_on_in_the_container() {
    let house = house().await;
    let pod = pod(&house, "bounds-background").await;
    let container = pod.idle("c").await;
    let answer = container
        .exec(&["sh", "-c", "sleep 77101 >/dev/null 2>&1 & echo done"], 20)
        .await
        .unwrap();
    assert_eq!(answer.stdout, b"done\n");
    assert!(any("sleep 77101"));
    no_leaves_of(&house).await;
    let cgroup = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let (left, _) = processes()
        .into_iter()
        .find(|(_, line)| line.contains("sleep 77101"))
        .unwrap();
    assert_eq!(cgroup(&left.to_string()), cgroup(&container.pid().await.to_string()));
    pod.remove().await;
    assert!(!any("sleep 77101"));
}

#[tokio::test]
async fn a_helper_that_is_killed_costs_the_commands_under_way_and_no_more() {
    let berth = std::sync::Arc::new(own().await);
    let house = House::of(berth).await;
    let pod = pod(&house, "bounds-helper").await;
    let container = pod.idle("c").await;
    assert_eq!(container.exec(&["true"], 20).await.unwrap().exit_code, 0);
    for _ in 0..3 {
        let under_way = {
            let container = container.clone();
            tokio::spawn(async move {
                container
                    .exec(&["sh", "-c", "setsid sleep 77201 & sleep 77202"], 60)
                    .await
            })
        };
        until("the command runs", || any("sleep 77201") && any("sleep 77202")).await;
        let helper = house.berth.exec_helper_pid().unwrap();
        kill(Pid::from_raw(helper.cast_signed()), Signal::SIGKILL).unwrap();
        let error = under_way.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("killed"), "{error}");
        assert_eq!(container.exec(&["echo", "again"], 20).await.unwrap().stdout, b"again\n");
        until("nothing of the command is left", || !any("sleep 7720")).await;
        no_leaves_of(&house).await;
    }
    pod.remove().await;
    house.berth.assert_nothing_left("after deaths of the helper").await;
}

#[tokio::test]
async fn a_berth_that_is_killed_leaves_no_command_behind() {
    let mut berth = own().await;
    let house = berth.runtime().await.unwrap();
    let pods = House {
        berth: crate::house::house().await.berth,
        cri: house,
    };
    let pod = {
        let mut config = pod_config("bounds-berth");
        config.log_directory = berth.path("logs").display().to_string();
        pods.pod_of(config).await
    };
    let container = pod.idle("c").await;
    let under_way = {
        let container = container.clone();
        tokio::spawn(async move { container.exec(&["sleep", "77301"], 60).await })
    };
    until("the command runs", || any("sleep 77301")).await;
    berth.kill();
    under_way.await.unwrap().unwrap_err();
    until("the command is gone", || !any("sleep 77301")).await;
    berth.restart(&[]).await;
    let house = House::of(std::sync::Arc::new(berth)).await;
    assert_eq!(
        house
            .cri
            .clone()
            .list_containers(berth::proto::runtime::ListContainersRequest::default())
            .await
            .unwrap()
            .into_inner()
            .containers
            .len(),
        1
    );
    let pod = crate::client::Pod {
        cri: house.cri.clone(),
        ..pod
    };
    pod.remove().await;
    house.berth.assert_nothing_left("after a death of berth").await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_said_so() {
    let house = house().await;
    let pod = pod(&house, "bounds-missing").await;
    let container = pod.idle("c").await;
    for (command, words) in [
        ("nonesuch", "executable file not found in $PATH"),
        ("/no/such", "no such file or directory"),
        ("/etc", "is a directory"),
    ] {
        let error = container.exec(&[command], 20).await.unwrap_err();
        assert!(error.message().contains(words), "{command}: {error}");
        assert!(error.message().contains(command), "{command}: {error}");
    }
    pod.remove().await;
}

/// Where it is not known that a container can be joined, containerd runs the command, and Status says so.
#[tokio::test]
async fn a_container_of_an_unknown_runtime_has_its_commands_run_by_that_runtime() {
    let house = house().await;
    let status = house
        .cri
        .clone()
        .status(berth::proto::runtime::StatusRequest { verbose: true })
        .await
        .unwrap();
    let ways: serde_json::Value = serde_json::from_str(&status.into_inner().info["execs"]).unwrap();
    let wanted = serde_json::json!({"runc": "nsexec", "stock": "nsexec", "other": "containerd Tasks.Exec"});
    assert_eq!(ways, wanted);
    let pod = house.handled(pod_config("bounds-other"), "other").await;
    let container = pod.idle("c").await;
    let answer = container
        .exec(&["sh", "-c", "cat /proc/self/cgroup; exit 7"], 20)
        .await
        .unwrap();
    assert_eq!(answer.exit_code, 7);
    assert!(!String::from_utf8_lossy(&answer.stdout).contains("berth-exec-"));
    let error = container
        .exec(&["sh", "-c", "sleep 77401 & sleep 77402"], 1)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded);
    until("nothing of the command is left", || !any("sleep 7740")).await;
    pod.remove().await;
}

#[tokio::test]
async fn a_command_longer_than_a_datagram_arrives_whole() {
    let house = house().await;
    let pod = pod(&house, "bounds-long").await;
    let container = pod.idle("c").await;
    let word = "x".repeat(100_000);
    let answer = container.exec(&["echo", &word, &word, &word], 20).await.unwrap();
    assert_eq!(answer.stdout.len(), 300_003);
    pod.remove().await;
}

/// What grows with each command shows after ten thousand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_commands_leave_everything_as_it_was() {
    let berth = std::sync::Arc::new(own().await);
    let house = House::of(berth).await;
    let pod = pod(&house, "bounds-many").await;
    let container = pod.idle("c").await;
    let run = |count: usize| {
        let container = container.clone();
        async move {
            let lanes = (0..16).map(|_| {
                let container = container.clone();
                tokio::spawn(async move {
                    for _ in 0..count / 16 {
                        assert_eq!(container.exec(&["true"], 60).await.unwrap().exit_code, 0);
                    }
                })
            });
            for lane in lanes.collect::<Vec<_>>() {
                lane.await.unwrap();
            }
        }
    };
    run(800).await;
    let before = Sizes::of(&house);
    run(10_000).await;
    no_leaves_of(&house).await;
    let after = Sizes::of(&house);
    assert_eq!((&after.processes, &after.cgroups), (&before.processes, &before.cgroups));
    for (before, after) in before.each.iter().zip(&after.each) {
        let (name, fds, memory) = before;
        assert!(after.1 <= fds + 2, "descriptors of {name}: {fds}, then {}", after.1);
        // A page for each ten commands would be far more.
        assert!(after.2 <= memory + 512, "KiB of {name}: {memory}, then {}", after.2);
    }
    // And one through containerd, to show that both ways lead to the same process.
    assert!(by_containerd(&house, &container.id, &["true"]).status.success());
    pod.remove().await;
    house.berth.assert_nothing_left("after many commands").await;
}

#[derive(Debug)]
struct Sizes {
    /// Of the helper and the shim: how many descendants.
    processes: usize,
    cgroups: usize,
    /// Name, descriptors, and KiB that are theirs alone.
    each: Vec<(&'static str, usize, u64)>,
}

impl Sizes {
    fn of(house: &House) -> Self {
        let (shim, helper) = (house.berth.shim_pid().unwrap(), house.berth.exec_helper_pid().unwrap());
        let each = [("the shim", shim), ("the helper", helper)];
        Self {
            processes: berth::sys::process::descendants(shim).len(),
            cgroups: house.berth.cgroups().len() + leaves_of(house),
            each: each
                .into_iter()
                .map(|(name, pid)| {
                    (
                        name,
                        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
                        private(pid),
                    )
                })
                .collect(),
        }
    }
}

fn private(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
