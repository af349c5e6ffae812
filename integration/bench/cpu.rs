//! Processor time: of the whole machine, of the client, of a peer.

use std::fs;
use std::ops::Sub;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::Outcome;
use crate::peer::Peer;

/// All clocks at one moment.
pub struct Reading {
    at: Instant,
    machine: f64,
    client: f64,
    daemons: f64,
    pods: f64,
}

/// What passed between two readings, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spent {
    pub wall: f64,
    /// Of every processor of the machine: user, nice, system, irq and softirq of /proc/stat.
    pub machine: f64,
    /// Of this process.
    pub client: f64,
    /// Of the peer's daemons and whatever they start that is not in a pod.
    pub daemons: f64,
    /// Of the peer's pods.
    pub pods: f64,
}

impl Reading {
    pub fn of(peer: &Peer) -> Outcome<Self> {
        Ok(Self {
            at: Instant::now(),
            machine: busy(&fs::read_to_string("/proc/stat")?).ok_or("/proc/stat has no line of all processors")?,
            client: own()?,
            daemons: peer.daemons().cpu_ms()?,
            pods: peer.pods.cpu_ms()?,
        })
    }

    pub fn since(&self, peer: &Peer) -> Outcome<Spent> {
        Ok(&Self::of(peer)? - self)
    }
}

impl Sub for &Reading {
    type Output = Spent;

    fn sub(self, before: &Reading) -> Spent {
        Spent {
            wall: (self.at - before.at).as_secs_f64() * 1e3,
            machine: self.machine - before.machine,
            client: self.client - before.client,
            daemons: self.daemons - before.daemons,
            pods: self.pods - before.pods,
        }
    }
}

impl Spent {
    /// What passes while nobody does anything.
    pub async fn idle(peer: &Peer, time: Duration) -> Outcome<Self> {
        let before = Reading::of(peer)?;
        tokio::time::sleep(time).await;
        before.since(peer)
    }

    /// The machine's time beyond what it would have spent anyway.
    pub fn beyond(&self, idle: &Self) -> f64 {
        self.machine - idle.machine * self.wall / idle.wall
    }

    /// The same without the client's own.
    pub fn beyond_and_client(&self, idle: &Self) -> f64 {
        self.beyond(idle) - self.client
    }

    /// What the control groups of daemons and pods say: exact, but without what the kernel does in nobody's name.
    pub fn counted(&self) -> f64 {
        self.daemons + self.pods
    }
}

/// The milliseconds of the first line of /proc/stat (proc_stat(5)) that were neither idle nor stolen.
fn busy(stat: &str) -> Option<f64> {
    /// USER_HZ is 100 on every architecture of Linux that is built today.
    const TICK_MS: f64 = 10.0;
    let mut words = stat.lines().next()?.split_whitespace();
    let fields: Vec<f64> = match words.next()? {
        "cpu" => words.map_while(|word| word.parse().ok()).collect(),
        _ => return None,
    };
    // user nice system idle iowait irq softirq steal; guests are in user and nice.
    let &[user, nice, system, _, _, irq, softirq, ..] = &fields[..] else {
        return None;
    };
    Some((user + nice + system + irq + softirq) * TICK_MS)
}

fn own() -> Outcome<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(microseconds as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_busy_when_it_neither_idles_nor_waits_nor_is_taken_away() {
        assert_eq!(busy("cpu  10 1 5 1000 300 2 3 77 4 0\ncpu0 1 1 1"), Some(210.0));
        assert_eq!(busy("cpu0 10 1 5 1000 300 2 3 77 4 0"), None);
        assert_eq!(busy("cpu 1 2"), None);
    }

    #[test]
    fn what_the_machine_spends_anyway_and_the_client_are_taken_off() {
        let spent = |wall, machine, client| Spent {
            wall,
            machine,
            client,
            daemons: 0.0,
            pods: 0.0,
        };
        let (idle, busy) = (spent(500.0, 10.0, 0.0), spent(1000.0, 120.0, 30.0));
        assert_eq!(busy.beyond(&idle), 100.0);
        assert_eq!(busy.beyond_and_client(&idle), 70.0);
    }
}
