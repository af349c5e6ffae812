//! The report on shims: a table for people, every sample for programs.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Outcome;
use crate::machine::Machine;
use crate::report;
use crate::samples::Samples;

const MEASURES: [(&str, &str); 4] = [
    ("start", "snapshot + create + start, ms"),
    ("stop", "kill, wait, delete, remove, ms"),
    ("start-cpu", "CPU of the start, ms"),
    ("stop-cpu", "CPU of the end, ms"),
];

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// The one that is judged, and the one it is compared with.
    pub names: [&'static str; 2],
    pub rounds: usize,
    /// Load average before and after.
    pub load: [f64; 2],
    pub held: Vec<Held>,
    pub samples: Samples,
}

/// Memory of all shims while so many containers sleep.
#[derive(Serialize)]
pub struct Held {
    pub shim: &'static str,
    pub containers: usize,
    pub processes: usize,
    pub pss_kib: u64,
}

impl Report {
    /// Prints the table and writes `<time>-shims.json` and `<time>-shims.md`.
    pub fn publish(&self, directory: &Path) -> Outcome<()> {
        report::publish("shims", &self.markdown()?, self, directory)
    }

    fn markdown(&self) -> Result<String, std::fmt::Error> {
        let [ours, theirs] = self.names;
        let mut text = format!("{}\n\n", self.conditions());
        writeln!(
            text,
            "| median (best) of {} | {ours} | {theirs} | ratio |\n|---|---|---|---|",
            self.rounds
        )?;
        for (measure, title) in MEASURES {
            let [Some(our), Some(their)] = self.names.map(|name| self.samples.summary(name, measure)) else {
                continue;
            };
            writeln!(
                text,
                "| {title} | {:.1} ({:.1}) | {:.1} ({:.1}) | {:.2} |",
                our.median,
                our.min,
                their.median,
                their.min,
                our.median / their.median
            )?;
        }
        for pair in self.held.chunks(2) {
            let [our, their] = pair else { continue };
            let cell = |held: &Held| format!("{:.2} in {}", held.pss_kib as f64 / 1024.0, held.processes);
            writeln!(
                text,
                "| PSS of the shims of {} sleeping, MiB in processes | {} | {} | {:.3} |",
                our.containers,
                cell(our),
                cell(their),
                our.pss_kib as f64 / their.pss_kib as f64
            )?;
        }
        Ok(text)
    }

    fn conditions(&self) -> String {
        let it = &self.machine;
        let [before, after] = self.load;
        format!(
            "{} cores, {} GiB, Linux {}, cgroups {}, containerd {}, runc {}; {} containers of each, in turns; load average \
             {before:.1} before, {after:.1} after",
            it.cores, it.memory_gib, it.kernel, it.cgroups, it.containerd, it.runc, self.rounds
        )
    }
}
