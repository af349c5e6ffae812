//! Whether what berth lists is what there is: compared with containerd, the kernel and the disk.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use berth::model::Id;
use berth::proto::runtime as cri;
use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};

use crate::life::Runtime;
use crate::support::berth::{Berth, is_ours};
use crate::support::{cgroup_pids, containerd};

/// What was killed, and so what may have been lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// berth alone: every exit code is to be known, and every line is there once.
    Berth,
    /// Something below: a code may be unknown, never wrong.
    Below,
}

/// Waits until all is as listed, or tells what is not.
pub async fn check(berth: &Berth, victim: Victim, when: &str) {
    let begin = Instant::now();
    loop {
        let lies = lies(berth, victim).await;
        if lies.is_empty() {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{when}: {lies:#?}\n{}",
            berth.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until containerd has a task for each of these containers, and berth says that they run; at most 2 s.
pub async fn agree(berth: &Berth, containers: &[(String, String)], when: &str) {
    let begin = Instant::now();
    loop {
        let mut runtime = berth.runtime().await.expect("berth answers");
        let listed = runtime
            .list_containers(cri::ListContainersRequest::default())
            .await
            .unwrap();
        let listed = listed.into_inner().containers;
        let held = containerd::contents(&berth.containerd_socket()).await;
        let dead = containers
            .iter()
            .find(|(_, id)| !listed.iter().any(|it| it.id == *id && it.state() == ContainerRunning));
        assert!(dead.is_none(), "{when}: {dead:?} has died\n{}", berth.log());
        let lost = containers
            .iter()
            .find(|(_, id)| !held.iter().any(|line| line.starts_with(&format!("task {id}"))));
        match lost {
            None => return,
            Some(_) if begin.elapsed() < Duration::from_secs(2) => tokio::time::sleep(Duration::from_millis(5)).await,
            Some((name, _)) => panic!("{when}: containerd has lost {name}\n{}", berth.log()),
        }
    }
}

async fn lies(berth: &Berth, victim: Victim) -> Vec<String> {
    let mut runtime = berth.runtime().await.expect("berth answers");
    let (sandboxes, containers) = listed(&mut runtime).await;
    let mut lies = Vec::new();
    let ready: Vec<_> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.state() == cri::PodSandboxState::SandboxReady)
        .collect();
    let of = |state: cri::ContainerState| containers.iter().filter(move |container| container.state() == state);

    // containerd
    let running = of(ContainerRunning).map(|container| container.id.clone());
    let shared = ready.iter().filter(|sandbox| is_shared(sandbox));
    let tasks = running.chain(shared.map(|sandbox| sandbox.id.clone())).collect();
    let held = containerd::contents(&berth.containerd_socket()).await;
    let held = |kind: &str| -> BTreeSet<String> {
        let ids = held
            .iter()
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
        ids.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
    };
    let ids =
        |sandboxes: &[cri::PodSandboxStatus]| -> BTreeSet<_> { sandboxes.iter().map(|it| it.id.clone()).collect() };
    let container_ids: BTreeSet<_> = containers.iter().map(|it| it.id.clone()).collect();
    let all = container_ids.union(&ids(&sandboxes)).cloned().collect();
    // A sandbox whose stop or undoing needed containerd while it was away keeps what it has until it is removed.
    let with_unready = |ids_now: &BTreeSet<String>| match victim {
        Victim::Berth => ids_now.clone(),
        Victim::Below => ids_now.union(&ids(&sandboxes)).cloned().collect(),
    };
    let may_have_tasks = with_unready(&tasks);
    between(&mut lies, "tasks", (&tasks, &may_have_tasks), &held("task"));
    compare(&mut lies, "records", &all, &held("record"));
    compare(&mut lies, "snapshots", &container_ids, &held("snapshot"));
    compare(&mut lies, "leases", &ids(&sandboxes), &held("lease"));
    let pods: BTreeSet<_> = tasks.iter().map(|id| pod_of(id, &containers)).collect();
    let (ours, stock): (Vec<_>, Vec<_>) = berth.shims().into_values().partition(|line| is_ours(line));
    let (least, most) = match crate::support::berth::handler_is_stock() {
        // A shim whose first task was cut off while berth lived may wait for the pod's next one.
        true => (pods.len(), sandboxes.len()),
        false => (0, 0),
    };
    if stock.len() < least || stock.len() > most {
        lies.push(format!(
            "not {least} to {most} stock shims of {} pods: {stock:?}",
            pods.len()
        ));
    }
    // All pods share one of ours; one that is being replaced is still there for a moment.
    if ours.len() > 1 || (ours.is_empty() && !sandboxes.is_empty()) {
        lies.push(format!(
            "{} shims of ours for {} pods: {ours:?}",
            ours.len(),
            sandboxes.len()
        ));
    }

    // The kernel
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for sandbox in &ready {
        let id: Id = sandbox.id.parse().unwrap();
        let own = berth.path("state/sandboxes").join(&sandbox.id);
        let net = berth.path("netns").join(format!("cni-{}", id.uuid()));
        for (pin, kind) in [
            (net, "nsfs"),
            (own.join("ipc"), "nsfs"),
            (own.join("uts"), "nsfs"),
            (own.join("shm"), "tmpfs"),
        ] {
            if !is_mounted(&mounts, &pin, kind) {
                lies.push(format!("{} is not mounted", pin.display()));
            }
        }
        let ip = sandbox
            .network
            .as_ref()
            .map(|network| network.ip.clone())
            .unwrap_or_default();
        if let Err(lie) = answers(&ip).await {
            lies.push(lie);
        }
    }
    let least: BTreeSet<_> = ready.iter().map(|sandbox| sandbox.id.clone()).collect();
    let most = with_unready(&least);
    let pin = |id: &String| format!("cni-{}", id.parse::<Id>().unwrap().uuid());
    let port = |id: &String| format!("bt{}", &id[..12]);
    let ports = names(Path::new(&format!("/sys/class/net/berth-{}/brif", berth.instance())));
    for (what, found, name) in [
        ("pins", names(&berth.path("netns")), &pin as &dyn Fn(&String) -> String),
        ("directories", names(&berth.path("state/sandboxes")), &String::clone),
        ("ports", ports, &port),
    ] {
        let named = |ids: &BTreeSet<String>| ids.iter().map(name).collect::<BTreeSet<_>>();
        between(&mut lies, what, (&named(&least), &named(&most)), &found);
    }
    let mut leases = names(&berth.path("root/network/leases"));
    leases.retain(|name| name.parse::<std::net::IpAddr>().is_ok());
    if leases.len() < least.len() || leases.len() > most.len() {
        lies.push(format!(
            "addresses of {} to {} pods: {leases:?}",
            least.len(),
            most.len()
        ));
    }
    for cgroup in berth.cgroups() {
        for process in processes(&cgroup) {
            if !may_have_tasks.contains(&process.0) {
                lies.push(format!("process {} runs in the cgroup of {}", process.1, process.0));
            }
        }
    }
    for container in of(ContainerRunning) {
        let of_it = |(id, _): &(String, u32)| *id == container.id;
        if !berth.cgroups().iter().any(|cgroup| processes(cgroup).iter().any(of_it)) {
            lies.push(format!("no process runs in {}", name(container)));
        }
    }

    // What is told
    for container in of(ContainerExited) {
        lies.extend(wrong_exit(container, victim));
    }
    for container in &containers {
        if container.state() != ContainerCreated && victim == Victim::Berth {
            lies.extend(wrong_log(container));
        }
    }
    lies
}

async fn listed(runtime: &mut Runtime) -> (Vec<cri::PodSandboxStatus>, Vec<cri::ContainerStatus>) {
    let (mut sandboxes, mut containers) = (Vec::new(), Vec::new());
    let list = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await
        .unwrap();
    for sandbox in list.into_inner().items {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id,
            verbose: false,
        };
        let status = runtime.pod_sandbox_status(request).await.unwrap().into_inner();
        sandboxes.extend(status.status);
    }
    let list = runtime
        .list_containers(cri::ListContainersRequest::default())
        .await
        .unwrap();
    for container in list.into_inner().containers {
        let request = cri::ContainerStatusRequest {
            container_id: container.id,
            verbose: false,
        };
        let status = runtime.container_status(request).await.unwrap().into_inner().status;
        containers.extend(status);
    }
    (sandboxes, containers)
}

fn compare(lies: &mut Vec<String>, what: &str, told: &BTreeSet<String>, found: &BTreeSet<String>) {
    between(lies, what, (told, told), found);
}

fn between(
    lies: &mut Vec<String>,
    what: &str,
    (least, most): (&BTreeSet<String>, &BTreeSet<String>),
    found: &BTreeSet<String>,
) {
    for id in least.difference(found) {
        lies.push(format!("{what}: {id} should be there"));
    }
    for id in found.difference(most) {
        lies.push(format!("{what}: {id} should not be there"));
    }
}

/// Nobody listens there, so a living pod refuses at once; a dead address is silent.
async fn answers(ip: &str) -> Result<(), String> {
    let address = SocketAddr::new(ip.parse().map_err(|_| format!("{ip:?} is no address"))?, 9);
    let connected = tokio::time::timeout(Duration::from_secs(3), tokio::net::TcpStream::connect(address)).await;
    match connected {
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{ip}: {other:?}")),
    }
}

/// A wrong exit code, if it is.
fn wrong_exit(container: &cri::ContainerStatus, victim: Victim) -> Option<String> {
    let scripted: &[i32] = match name(container) {
        "quitter" => &[3],
        // SIGKILL is what the stop of its sandbox sends.
        _ => &[7, 137],
    };
    let (code, reason) = (container.exit_code, container.reason.as_str());
    let right = match reason {
        "Unknown" => victim == Victim::Below && code == 255,
        "StartError" => victim == Victim::Below && code == 128,
        "Error" => scripted.contains(&code) || (victim == Victim::Below && code == 137),
        _ => false,
    };
    (!right).then(|| format!("{} ended with {code}, {reason}: {}", name(container), container.message))
}

/// Lines that are not there, or not in their order.
fn wrong_log(container: &cri::ContainerStatus) -> Option<String> {
    let lines = log(Path::new(&container.log_path));
    let ended = container.state() == ContainerExited;
    if name(container) == "quitter" {
        return (ended && lines != ["bye"]).then(|| format!("the quitter said {lines:?}"));
    }
    let mut lines = lines.as_slice();
    if ended && container.exit_code == 7 {
        match lines {
            [rest @ .., last] if last == "end" => lines = rest,
            _ => return Some(format!("the last words of {} are not in its log", name(container))),
        }
    }
    let wrong = lines
        .iter()
        .enumerate()
        .find(|(number, line)| **line != format!("line {number}"));
    wrong.map(|(number, line)| format!("{}: {line:?} in the place of line {number}", name(container)))
}

/// What a container said, by its log and the one that was rotated away before.
pub fn log(path: &Path) -> Vec<String> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let text = read(&path.with_extension("log.1")) + &read(path);
    let whole = text
        .rsplit_once('\n')
        .map(|(lines, _)| lines.to_owned())
        .unwrap_or_default();
    let said = whole
        .lines()
        .map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line).to_owned());
    said.collect()
}

/// The processes below a pod's cgroup, each with the name of its cgroup: the id of a container or the holder.
fn processes(pod: &Path) -> Vec<(String, u32)> {
    let own = |name: String| {
        cgroup_pids(&pod.join(&name))
            .into_iter()
            .map(move |pid| (name.clone(), pid))
    };
    names(pod)
        .into_iter()
        .filter(|name| pod.join(name).is_dir())
        .flat_map(own)
        .collect()
}

fn name(container: &cri::ContainerStatus) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str())
}

fn is_shared(sandbox: &cri::PodSandboxStatus) -> bool {
    sandbox
        .metadata
        .as_ref()
        .is_some_and(|metadata| metadata.name == "shared")
}

/// The pod of a task: the sharer's has a holder too.
fn pod_of(task: &str, containers: &[cri::ContainerStatus]) -> bool {
    let container = containers.iter().find(|container| container.id == task);
    container.is_none_or(|container| name(container) == "sharer")
}

fn is_mounted(mounts: &str, point: &Path, kind: &str) -> bool {
    let is_it = |line: &str| line.split(' ').nth(4) == point.to_str() && line.contains(&format!(" - {kind} "));
    mounts.lines().any(is_it)
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
