//! A pod in a few words, as kubectl's table of pods has it.

use super::time::span;
use crate::proto::berth::container::State;
use crate::proto::berth::{Container, Pod};

/// READY: how many of the containers are, and how many there are.
pub fn ready(pod: &Pod) -> String {
    let ready = pod.containers.iter().filter(|container| container.ready).count();
    format!("{ready}/{}", pod.containers.len())
}

/// STATUS: the phase, or what says more: how far the init containers are, why a container does not run.
pub fn status(pod: &Pod) -> String {
    if pod.phase == "Terminating" {
        return pod.phase.clone();
    }
    if let Some(initializing) = initializing(pod) {
        return initializing;
    }
    // The first container has the last word.
    let reasons = pod.containers.iter().filter(|container| !container.reason.is_empty());
    match reasons.map(|container| container.reason.as_str()).next() {
        Some("Completed") if pod.containers.iter().any(|container| container.ready) => {
            let all = pod.containers.iter().all(|container| container.ready);
            if all { "Running" } else { "NotReady" }.to_owned()
        }
        Some(reason) => reason.to_owned(),
        None => pod.phase.clone(),
    }
}

/// Of the first init container that has not succeeded.
fn initializing(pod: &Pod) -> Option<String> {
    let done = |container: &Container| container.state() == State::Exited && container.exit_code == 0;
    let at = pod.init_containers.iter().position(|container| !done(container))?;
    let container = &pod.init_containers[at];
    Some(match container.state() {
        State::Exited => format!("Init:{}", container.reason),
        State::Waiting if container.reason != "PodInitializing" => format!("Init:{}", container.reason),
        _ => format!("Init:{at}/{}", pod.init_containers.len()),
    })
}

/// RESTARTS: how many, and how long ago the last was. `now`: nanoseconds since the Unix epoch.
pub fn restarts(pod: &Pod, now: i64) -> String {
    // Those of init containers count as long as it is their turn.
    let containers = match initializing(pod) {
        Some(_) => &pod.init_containers,
        None => &pod.containers,
    };
    let count: u32 = containers.iter().map(|container| container.restarts).sum();
    let ends = containers.iter().filter_map(|container| container.last.as_ref());
    match ends.map(|last| last.finished_at).max() {
        Some(last) if count > 0 => format!("{count} ({} ago)", span(last, now)),
        _ => count.to_string(),
    }
}

/// The pod's first address.
pub fn ip(pod: &Pod) -> &str {
    match pod.ips.first() {
        Some(ip) => ip,
        None if pod.host_network => "(node)",
        None => "-",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::berth::container::Ended;

    fn container(state: State, reason: &str) -> Container {
        let mut container = Container {
            exit_code: i32::from(reason != "Completed"),
            reason: reason.to_owned(),
            ready: state == State::Running,
            ..Container::default()
        };
        container.set_state(state);
        container
    }

    fn running() -> Container {
        container(State::Running, "")
    }

    fn pod(phase: &str, init_containers: Vec<Container>, containers: Vec<Container>) -> Pod {
        Pod {
            phase: phase.to_owned(),
            init_containers,
            containers,
            ..Pod::default()
        }
    }

    #[test]
    fn the_status_says_what_keeps_a_pod_from_running() {
        let waiting = |reason| container(State::Waiting, reason);
        let exited = |reason| container(State::Exited, reason);
        let done = || exited("Completed");
        let unready = Container {
            ready: false,
            ..running()
        };
        for (phase, init, main, expected) in [
            (
                "Pending",
                vec![],
                vec![waiting("ContainerCreating")],
                "ContainerCreating",
            ),
            (
                "Pending",
                vec![done(), running()],
                vec![waiting("PodInitializing")],
                "Init:1/2",
            ),
            (
                "Pending",
                vec![waiting("PodInitializing")],
                vec![waiting("PodInitializing")],
                "Init:0/1",
            ),
            (
                "Pending",
                vec![exited("Error")],
                vec![waiting("PodInitializing")],
                "Init:Error",
            ),
            (
                "Pending",
                vec![waiting("CrashLoopBackOff")],
                vec![],
                "Init:CrashLoopBackOff",
            ),
            (
                "Pending",
                vec![done()],
                vec![waiting("PodInitializing")],
                "PodInitializing",
            ),
            ("Pending", vec![], vec![waiting("ImagePullBackOff")], "ImagePullBackOff"),
            ("Running", vec![done()], vec![running()], "Running"),
            ("Running", vec![], vec![unready.clone()], "Running"),
            (
                "Running",
                vec![],
                vec![running(), waiting("CrashLoopBackOff")],
                "CrashLoopBackOff",
            ),
            ("Running", vec![], vec![exited("Error"), exited("OOMKilled")], "Error"),
            ("Running", vec![], vec![running(), done()], "NotReady"),
            ("Succeeded", vec![], vec![done()], "Completed"),
            ("Failed", vec![], vec![exited("Error")], "Error"),
            ("Terminating", vec![], vec![exited("Error")], "Terminating"),
        ] {
            assert_eq!(status(&pod(phase, init, main)), expected);
        }
        assert_eq!(ready(&pod("Running", vec![], vec![running(), unready])), "1/2");
    }

    #[test]
    fn restarts_are_counted_and_the_last_is_dated() {
        let restarted = |restarts, finished_at: i64| Container {
            restarts,
            last: Some(Ended {
                finished_at: finished_at * 1_000_000_000,
                ..Ended::default()
            }),
            ..running()
        };
        let now = 100 * 1_000_000_000;
        assert_eq!(restarts(&pod("Running", vec![], vec![running()]), now), "0");
        let both = pod("Running", vec![], vec![restarted(1, 50), restarted(2, 85)]);
        assert_eq!(restarts(&both, now), "3 (15s ago)");
        let first = Container {
            restarts: 0,
            ..restarted(0, 90)
        };
        assert_eq!(restarts(&pod("Running", vec![], vec![first]), now), "0");
        let init = pod("Pending", vec![restarted(4, 90)], vec![running()]);
        assert_eq!(restarts(&init, now), "4 (10s ago)");
    }
}
