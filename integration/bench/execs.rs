//! ExecSync of `/bin/true` on both, in turns of equal time, one sleeping pod each: how long it takes and what
//! processor time everything on the machine spends on it.
//!
//! Before each execs come as many calls of Version, which do nothing: what the client, the socket and gRPC take of a
//! call's time. The client's own processor time is known from getrusage(2), the machine's from /proc/stat, and what it
//! spends anyway from a moment of rest at the beginning of each round.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::cpu::{Reading, Spent};
use crate::execs_report::Report;
use crate::peer::{Archives, Peer};
use crate::samples::{Samples, Turn};
use crate::workload::{Clock, Pod, Workload, ask_nothing, exec_true};
use crate::{Options, Outcome, machine, progress, start};

/// How many run at once in a batch.
pub const AT_ONCE: usize = 20;
/// How long each kind of call is made in one turn.
const TURN: Duration = Duration::from_millis(700);
const REST: Duration = Duration::from_millis(700);
/// What is left for later is done then.
const SETTLE: Duration = Duration::from_millis(100);

/// Measures, with the peers that it starts.
pub async fn measure(options: &Options, directory: &Path, peers: &mut Vec<Peer>) -> Outcome<Report> {
    let archives = Archives::make(directory)?;
    start(options, directory, &archives, peers).await?;
    let mut pods = Vec::new();
    for peer in peers.iter() {
        let workload = Workload::new(directory, peer.pods.name().to_owned());
        let pod = workload.up(&peer.runtime, 1).await?.remove(0);
        for _ in 0..AT_ONCE {
            exec_true(peer.runtime.clone(), &pod).await?;
        }
        pods.push(pod);
    }
    let load = machine::load()?;
    let mut samples = Samples::default();
    for round in 1..=options.rounds {
        progress("execs", round, options.rounds);
        let idle = Spent::idle(&peers[0], REST).await?;
        for (peer, pod) in peers.iter().zip(&pods) {
            let mut turn = Turn::new();
            one_at_a_time(peer, pod, &idle, &mut turn).await?;
            many_at_once(peer, pod, &idle, &mut turn).await?;
            samples.add(peer.name, round, &turn);
        }
    }
    Ok(Report {
        machine: machine::describe(&options.containerd)?,
        names: [peers[0].name, peers[1].name],
        rounds: options.rounds,
        load: [load, machine::load()?],
        samples,
    })
}

async fn one_at_a_time(peer: &Peer, pod: &Pod, idle: &Spent, turn: &mut Turn) -> Outcome<()> {
    let end = Instant::now() + TURN / 2;
    while Instant::now() < end {
        let clock = Clock::start();
        ask_nothing(peer.runtime.clone()).await?;
        turn.push(("nothing", clock.total()));
    }
    let (before, end, mut count) = (Reading::of(peer)?, Instant::now() + TURN, 0);
    while Instant::now() < end {
        let clock = Clock::start();
        exec_true(peer.runtime.clone(), pod).await?;
        turn.push(("exec", clock.total()));
        count += 1;
    }
    tokio::time::sleep(SETTLE).await;
    turn.extend(ONE.of(&before.since(peer)?, idle, count));
    Ok(())
}

async fn many_at_once(peer: &Peer, pod: &Pod, idle: &Spent, turn: &mut Turn) -> Outcome<()> {
    let end = Instant::now() + TURN / 2;
    while Instant::now() < end {
        let clock = Clock::start();
        try_join_all((0..AT_ONCE).map(|_| ask_nothing(peer.runtime.clone()))).await?;
        turn.push(("nothing-20", clock.total()));
    }
    let (before, end, mut count) = (Reading::of(peer)?, Instant::now() + TURN, 0);
    while Instant::now() < end {
        let clock = Clock::start();
        try_join_all((0..AT_ONCE).map(|_| exec_true(peer.runtime.clone(), pod))).await?;
        turn.push(("exec-20", clock.total()));
        count += AT_ONCE;
    }
    tokio::time::sleep(SETTLE).await;
    turn.extend(MANY.of(&before.since(peer)?, idle, count));
    Ok(())
}

/// The names of the shares of one exec's processor time.
struct Shares {
    machine: &'static str,
    client: &'static str,
    less_client: &'static str,
    counted: &'static str,
}

const ONE: Shares = Shares {
    machine: "cpu",
    client: "cpu-client",
    less_client: "cpu-less-client",
    counted: "cpu-counted",
};

const MANY: Shares = Shares {
    machine: "cpu-20",
    client: "cpu-client-20",
    less_client: "cpu-less-client-20",
    counted: "cpu-counted-20",
};

impl Shares {
    fn of(&self, spent: &Spent, idle: &Spent, execs: usize) -> Turn {
        let each = |time: f64| time / execs as f64;
        vec![
            (self.machine, each(spent.beyond(idle))),
            (self.client, each(spent.client)),
            (self.less_client, each(spent.beyond_and_client(idle))),
            (self.counted, each(spent.counted())),
        ]
    }
}
