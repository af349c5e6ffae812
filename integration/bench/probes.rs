//! Pods that are probed: what that costs, and how punctual it is.
//!
//! berth is given the probes by annotations and makes them itself. containerd's CRI plugin makes none, so there the
//! client asks for as many ExecSyncs, as a kubelet would; its own processor time is taken off.

use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde_json::json;

use crate::cpu::{Reading, Spent};
use crate::exposition::{self, Probed};
use crate::peer::{Archives, Peer};
use crate::probes_report::{Report, Row};
use crate::workload::{Pod, Workload, down, exec_true};
use crate::{Options, Outcome, machine, start};

/// How long the machine rests before a load, and how long a load settles.
const REST: Duration = Duration::from_secs(4);
/// How many pods are started and ended at once.
const AT_ONCE: usize = 10;
/// Where the servers of HTTP probes listen.
const PORT: u16 = 8080;

/// So many pods, each checked once a period.
struct Load {
    title: &'static str,
    pods: usize,
    period: Duration,
    http: bool,
}

const EXECS: [Load; 2] = [
    Load {
        title: "100 exec probes a second in 50 pods",
        pods: 50,
        period: Duration::from_millis(500),
        http: false,
    },
    Load {
        title: "500 exec probes a second in 50 pods",
        pods: 50,
        period: Duration::from_millis(100),
        http: false,
    },
];

const HTTP: Load = Load {
    title: "1000 HTTP probes a second in 100 pods",
    pods: 100,
    period: Duration::from_millis(100),
    http: true,
};

/// Measures, with the peers that it starts.
pub async fn measure(options: &Options, directory: &Path, peers: &mut Vec<Peer>) -> Outcome<Report> {
    let archives = Archives::make(directory)?;
    start(options, directory, &archives, peers).await?;
    let time = Duration::from_secs(options.seconds);
    let load = machine::load()?;
    let mut rows = vec![
        probed(&peers[0], directory, &EXECS[0], time).await?,
        asked(&peers[1], directory, &EXECS[0], time).await?,
    ];
    for load in [&EXECS[1], &HTTP] {
        rows.push(probed(&peers[0], directory, load, time).await?);
    }
    Ok(Report {
        machine: machine::describe(&options.containerd)?,
        seconds: options.seconds,
        load: [load, machine::load()?],
        rows,
    })
}

/// berth probes.
async fn probed(peer: &Peer, directory: &Path, load: &Load, time: Duration) -> Outcome<Row> {
    eprintln!("{}: {}", peer.name, load.title);
    let metrics = peer.metrics.ok_or("the peer has no metrics")?;
    let mut workload = Workload::new(directory, peer.pods.name().to_owned());
    workload.annotations = [("berth.dev/liveness-probe".to_owned(), load.probe())].into();
    if load.http {
        let port = PORT.to_string();
        workload.command = ["/bin/busybox", "httpd", "-f", "-p", &port, "-h", "/bin"]
            .map(str::to_owned)
            .to_vec();
    }
    let idle = Spent::idle(peer, REST).await?;
    let pods = up(&workload, peer, load.pods).await?;
    tokio::time::sleep(REST).await;
    let (counts, before) = (exposition::Reading::of(metrics).await?, Reading::of(peer)?);
    tokio::time::sleep(time).await;
    let (spent, after) = (before.since(peer)?, exposition::Reading::of(metrics).await?);
    gone(peer, pods).await?;
    Ok(Row::new(
        peer.name,
        load.title,
        load.rate(),
        after.since(&counts),
        &spent,
        &idle,
    ))
}

/// The client asks: one loop for each pod, which leaves ticks out that come while it waits for an answer.
async fn asked(peer: &Peer, directory: &Path, load: &Load, time: Duration) -> Outcome<Row> {
    eprintln!("{}: {}", peer.name, load.title);
    let workload = Workload::new(directory, peer.pods.name().to_owned());
    let pods = up(&workload, peer, load.pods).await?;
    tokio::time::sleep(REST).await;
    let idle = Spent::idle(peer, REST).await?;
    let before = Reading::of(peer)?;
    let end = tokio::time::Instant::now() + time;
    let loops = (0..).zip(&pods).map(|(number, pod)| async move {
        let phase = load.period * number / u32::try_from(load.pods)?;
        ask(peer, pod, load.period, phase, end).await
    });
    let done: u64 = try_join_all(loops).await?.into_iter().sum();
    let spent = before.since(peer)?;
    gone(peer, pods).await?;
    let wanted = (load.rate() * time.as_secs_f64()).round() as u64;
    let probed = Probed {
        successful: done,
        others: 0,
        missed: wanted.saturating_sub(done),
        p50: None,
        p99: None,
    };
    Ok(Row::new(peer.name, load.title, load.rate(), probed, &spent, &idle))
}

async fn ask(peer: &Peer, pod: &Pod, period: Duration, phase: Duration, end: tokio::time::Instant) -> Outcome<u64> {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + phase, period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut done = 0;
    while ticks.tick().await < end && tokio::time::Instant::now() < end {
        exec_true(peer.runtime.clone(), pod).await?;
        done += 1;
    }
    Ok(done)
}

async fn up(workload: &Workload, peer: &Peer, count: usize) -> Outcome<Vec<Pod>> {
    let mut pods = Vec::new();
    while pods.len() < count {
        pods.extend(workload.up(&peer.runtime, AT_ONCE.min(count - pods.len())).await?);
    }
    Ok(pods)
}

async fn gone(peer: &Peer, mut pods: Vec<Pod>) -> Outcome<()> {
    while !pods.is_empty() {
        let some = pods.split_off(pods.len().saturating_sub(AT_ONCE));
        down(&peer.runtime, some).await?;
    }
    Ok(())
}

impl Load {
    /// Checks a second.
    fn rate(&self) -> f64 {
        self.pods as f64 / self.period.as_secs_f64()
    }

    /// As the annotation has it. Nothing ends for it: one check that fails is told, not acted upon.
    fn probe(&self) -> String {
        let mut probe = match self.http {
            true => json!({"httpGet": {"port": PORT, "path": "/busybox", "scheme": "HTTP"}}),
            false => json!({"exec": {"command": ["/bin/true"]}}),
        };
        probe["periodMilliseconds"] = json!(self.period.as_millis());
        probe["failureThreshold"] = json!(1_000_000);
        probe.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loads_are_as_many_checks_a_second_as_their_titles_say() {
        for (load, rate) in EXECS.iter().chain([&HTTP]).zip([100.0, 500.0, 1000.0]) {
            assert_eq!(load.rate(), rate, "{}", load.title);
            assert!(load.title.starts_with(&format!("{rate} ")), "{}", load.title);
        }
    }

    #[test]
    fn a_probe_is_the_annotation_that_berth_reads() {
        let probe: serde_json::Value = serde_json::from_str(&HTTP.probe()).unwrap();
        assert_eq!(probe["periodMilliseconds"], 100);
        assert_eq!(probe["httpGet"]["port"], 8080);
    }
}
