//! The report on probes: a table for people, the same figures for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cpu::Spent;
use crate::exposition::Probed;
use crate::machine::Machine;

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// How long each load was on.
    pub seconds: u64,
    /// Load average before and after.
    pub load: [f64; 2],
    pub rows: Vec<Row>,
}

/// One load on one peer. Processor time is in milliseconds per second.
#[derive(Serialize)]
pub struct Row {
    pub peer: &'static str,
    pub title: &'static str,
    /// Checks a second that were wanted, and that were made.
    pub wanted: f64,
    pub done: f64,
    pub probed: Probed,
    /// Of the machine, beyond idle and the client's own.
    pub cpu: f64,
    pub client: f64,
    pub daemons: f64,
    pub pods: f64,
}

impl Row {
    pub fn new(
        peer: &'static str,
        title: &'static str,
        wanted: f64,
        probed: Probed,
        spent: &Spent,
        idle: &Spent,
    ) -> Self {
        let seconds = spent.wall / 1e3;
        Self {
            peer,
            title,
            wanted,
            done: (probed.successful + probed.others) as f64 / seconds,
            probed,
            cpu: spent.beyond_and_client(idle) / seconds,
            client: spent.client / seconds,
            daemons: spent.daemons / seconds,
            pods: spent.pods / seconds,
        }
    }

    /// Milliseconds of processor time for one check.
    fn each(&self) -> f64 {
        self.cpu / self.done
    }
}

impl Report {
    pub fn markdown(&self) -> Result<String, std::fmt::Error> {
        let mut text = format!("{}\n\n", self.conditions());
        writeln!(
            text,
            "| {} s of | on | checks a second | not successful | missed | began late by: p50 | p99 | CPU ms a second \
             | of it daemons | pods | CPU ms a check |\n|---|---|---|---|---|---|---|---|---|---|---|",
            self.seconds
        )?;
        let late = |bound: Option<f64>| bound.map_or("–".to_owned(), |ms| format!("≤ {ms} ms"));
        for row in &self.rows {
            writeln!(
                text,
                "| {} | {} | {:.0} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {:.2} |",
                row.title,
                row.peer,
                row.done,
                row.probed.others,
                row.probed.missed,
                late(row.probed.p50),
                late(row.probed.p99),
                row.cpu,
                row.daemons,
                row.pods,
                row.each()
            )?;
        }
        if let [ours, theirs, ..] = &self.rows[..] {
            writeln!(
                text,
                "\nCPU for a check, {} to {}: {:.3}; by control groups {:.3}",
                ours.peer,
                theirs.peer,
                ours.each() / theirs.each(),
                (ours.daemons + ours.pods) / ours.done / ((theirs.daemons + theirs.pods) / theirs.done)
            )?;
        }
        Ok(text)
    }

    fn conditions(&self) -> String {
        let it = &self.machine;
        let [before, after] = self.load;
        format!(
            "{} cores, {} GiB, Linux {}, cgroups {}, containerd {}, runc {}; load average {before:.1} before, \
             {after:.1} after",
            it.cores, it.memory_gib, it.kernel, it.cgroups, it.containerd, it.runc
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_per_second_and_without_idle_and_client() {
        let spent = |wall, machine, client| Spent {
            wall,
            machine,
            client,
            daemons: 40.0,
            pods: 20.0,
        };
        let probed = Probed {
            successful: 198,
            others: 2,
            missed: 0,
            p50: Some(1.0),
            p99: Some(5.0),
        };
        let row = Row::new(
            "berth",
            "a load",
            100.0,
            probed,
            &spent(2000.0, 300.0, 40.0),
            &spent(1000.0, 30.0, 0.0),
        );
        assert_eq!((row.done, row.cpu, row.daemons, row.pods), (100.0, 100.0, 20.0, 10.0));
        assert_eq!(row.each(), 1.0);
    }
}
