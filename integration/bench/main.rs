//! Pods and execs on berth and on containerd's own CRI plugin, side by side on one machine.
//!
//! Both run the same containerd binary, the same image and the same requests. Turns alternate (berth, containerd,
//! berth, containerd, ...), so that whatever else the machine does falls on both alike: compare figures within one run,
//! never across runs. [`shims`] does the same to shims, [`execs`] to execs alone, and [`probes`] to pods that are probed.
//! Everything lives in one temporary directory and is removed at the end, also after a failure.

mod cgroup;
mod cpu;
mod cri_containerd;
mod execs;
mod execs_report;
mod exposition;
#[allow(clippy::unwrap_used, dead_code)]
#[path = "../../tests/support/image.rs"]
mod image;
mod machine;
mod own_berth;
mod peer;
mod probes;
mod probes_report;
mod report;
mod samples;
mod shims;
mod shims_report;
mod sweep;
mod workload;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tempfile::TempDir;

use machine::Memory;
use peer::{Archives, Peer};
use report::Report;
use samples::Samples;
use workload::Workload;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How many pods, and how many execs, run at once in a batch.
const AT_ONCE: usize = 8;
/// Quiet time after every turn: containerd collects garbage and the kernel takes links apart a moment later.
const SETTLE: Duration = Duration::from_millis(200);

/// Until a shim that has nothing to do has left.
const LEAVE: Duration = Duration::from_secs(5);

/// Measure berth and containerd's CRI plugin, in turns.
#[derive(Parser)]
struct Options {
    /// The berth to measure
    #[arg(long, default_value = "target/release/berth")]
    berth: PathBuf,
    /// The containerd that both use
    #[arg(long, default_value = "containerd")]
    containerd: PathBuf,
    /// The CNI plugins that containerd uses
    #[arg(long, default_value = "/usr/lib/cni")]
    cni_bin_dir: PathBuf,
    /// Pods that each brings up and down, one at a time
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Batches of eight at once for each
    #[arg(long, default_value_t = 10)]
    batches: usize,
    /// Execs in each pod
    #[arg(long, default_value_t = 5)]
    execs: usize,
    /// Where the report goes: <time>.json with every sample, <time>.md with the table
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Measure our shim and containerd's stock one instead, in turns on one containerd
    #[arg(long)]
    shims: bool,
    /// Our shim
    #[arg(long, default_value = "target/release/containerd-shim-berth-v1")]
    shim: PathBuf,
    /// Measure ExecSync and what it costs instead
    #[arg(long, conflicts_with = "shims")]
    exec_sync: bool,
    /// Measure pods that are probed instead; on containerd the client asks for the execs
    #[arg(long, conflicts_with_all = ["shims", "exec_sync", "null"])]
    probes: bool,
    /// How long each load of probes is on
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Measure containerd, or the stock shim, against a second one: every ratio should then be about 1
    #[arg(long)]
    null: bool,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = Options::parse();
    let directory = tempfile::Builder::new().prefix("berth-bench-").tempdir_in("/var/tmp")?;
    if options.shims {
        return shims(&options, &directory).await;
    }
    let mut peers = Vec::new();
    let outcome = tokio::select! {
        outcome = chosen(&options, &directory, &mut peers) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    if let Err(error) = &outcome {
        for peer in &peers {
            eprintln!("{}'s log ends:\n{}", peer.name, peer.log_end());
        }
        eprintln!("bench: {error}; removing what was made");
    }
    for peer in peers {
        peer.end().await;
    }
    sweep::cgroups(&cgroup_parent());
    outcome?.publish(&options.out)
}

/// What was measured.
enum Measured {
    Pods(Report),
    Execs(execs_report::Report),
    Probes(probes_report::Report),
}

impl Measured {
    fn publish(&self, out: &Path) -> Outcome<()> {
        match self {
            Self::Pods(report) => {
                report.print();
                report.write(out)
            }
            Self::Execs(report) => report::publish("execs", &report.markdown()?, report, out),
            Self::Probes(report) => report::publish("probes", &report.markdown()?, report, out),
        }
    }
}

async fn chosen(options: &Options, directory: &TempDir, peers: &mut Vec<Peer>) -> Outcome<Measured> {
    Ok(match options {
        Options { exec_sync: true, .. } => Measured::Execs(execs::measure(options, directory.path(), peers).await?),
        Options { probes: true, .. } => Measured::Probes(probes::measure(options, directory.path(), peers).await?),
        _ => Measured::Pods(measure(options, directory, peers).await?),
    })
}

async fn shims(options: &Options, directory: &TempDir) -> Outcome<()> {
    let outcome = tokio::select! {
        outcome = shims::measure(options, directory.path()) => outcome,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    sweep::cgroups(&cgroup_parent());
    outcome?.publish(&options.out)
}

/// The cgroup that the requests name as the parent of every pod, as a kubelet would.
fn cgroup_parent() -> String {
    format!("/berth-bench-{}", std::process::id())
}

async fn measure(options: &Options, directory: &TempDir, peers: &mut Vec<Peer>) -> Outcome<Report> {
    let archives = Archives::make(directory.path())?;
    start(options, directory.path(), &archives, peers).await?;
    // What start-up allocated for a moment is given back, or not, by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let fresh = memory(peers)?;
    let workload = Workload::new(directory.path(), cgroup_parent());
    let busy = crowd(peers, &workload).await?;
    let mut samples = Samples::default();
    let load = machine::load()?;
    one_at_a_time(options, peers, &workload, &mut samples).await?;
    many_at_once(options, peers, &workload, &mut samples).await?;
    let load = [load, machine::load()?];
    tokio::time::sleep(LEAVE).await;
    Ok(Report {
        machine: machine::describe(&options.containerd)?,
        names: [peers[0].name, peers[1].name],
        pods: (options.rounds, options.batches),
        load,
        memory: [
            ("no pods, fresh", fresh),
            ("eight pods", busy),
            ("no pods, afterwards", memory(peers)?),
        ],
        samples,
    })
}

async fn start(options: &Options, directory: &Path, archives: &Archives, peers: &mut Vec<Peer>) -> Outcome<()> {
    let other = if options.null {
        cri_containerd::start("containerd-2", options, &directory.join("b"), archives).await?
    } else {
        own_berth::start(options, &directory.join("b"), archives).await?
    };
    peers.push(other);
    peers.push(cri_containerd::start("containerd", options, &directory.join("a"), archives).await?);
    Ok(())
}

async fn one_at_a_time(options: &Options, peers: &[Peer], workload: &Workload, samples: &mut Samples) -> Outcome<()> {
    // The first round warms caches and is not kept.
    for round in 0..=options.rounds {
        progress("one at a time", round, options.rounds);
        for peer in peers {
            let turn = workload.one(&peer.runtime, options.execs).await?;
            if round > 0 {
                samples.add(peer.name, round, &turn);
            }
            tokio::time::sleep(SETTLE).await;
        }
    }
    Ok(())
}

async fn many_at_once(options: &Options, peers: &[Peer], workload: &Workload, samples: &mut Samples) -> Outcome<()> {
    for batch in 1..=options.batches {
        progress("eight at once", batch, options.batches);
        for peer in peers {
            let turn = workload.many(&peer.runtime, AT_ONCE, options.execs).await?;
            samples.add(peer.name, batch, &turn);
            tokio::time::sleep(SETTLE).await;
        }
    }
    Ok(())
}

/// What each holds while eight pods sleep on it.
async fn crowd(peers: &[Peer], workload: &Workload) -> Outcome<Vec<Memory>> {
    let mut held = Vec::new();
    for peer in peers {
        let pods = workload.up(&peer.runtime, AT_ONCE).await?;
        tokio::time::sleep(SETTLE).await;
        held.extend(peer.memory()?);
        workload::down(&peer.runtime, pods).await?;
    }
    Ok(held)
}

fn memory(peers: &[Peer]) -> Outcome<Vec<Memory>> {
    let mut found = Vec::new();
    for peer in peers {
        found.extend(peer.memory()?);
    }
    Ok(found)
}

fn progress(what: &str, done: usize, of: usize) {
    if done.is_multiple_of(5) {
        eprintln!("{what}: {done} of {of}");
    }
}
