//! The report on execs: a table for people, every sample for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::machine::Machine;
use crate::samples::{Samples, Summary};

/// The samples of a row, and how it is called.
const MEASURES: [(&str, &str); 12] = [
    ("exec", "ExecSync /bin/true"),
    ("nothing", "Version, which does nothing"),
    ("exec-20", "20 ExecSyncs at once, until the last answer"),
    ("nothing-20", "20 Versions at once, until the last answer"),
    ("cpu", "CPU of the machine per exec, beyond idle"),
    ("cpu-client", "– of it the client's own"),
    ("cpu-less-client", "CPU of the machine per exec, beyond idle and client"),
    ("cpu-counted", "the same by control groups of daemons and pods"),
    ("cpu-20", "20 at once: CPU of the machine per exec, beyond idle"),
    ("cpu-client-20", "– of it the client's own"),
    (
        "cpu-less-client-20",
        "20 at once: CPU of the machine per exec, beyond idle and client",
    ),
    ("cpu-counted-20", "the same by control groups of daemons and pods"),
];

/// Of which rows' medians which ones' are taken off.
const DIFFERENCES: [(&str, &str, &str); 2] = [
    ("exec", "nothing", "median of ExecSync less that of Version"),
    ("exec-20", "nothing-20", "20 at once: the same"),
];

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// The one that is judged, and the one it is compared with.
    pub names: [&'static str; 2],
    pub rounds: usize,
    /// Load average before and after.
    pub load: [f64; 2],
    pub samples: Samples,
}

impl Report {
    pub fn markdown(&self) -> Result<String, std::fmt::Error> {
        let [ours, theirs] = self.names;
        let mut text = format!("{}\n\n", self.conditions());
        writeln!(
            text,
            "| milliseconds | {ours}: median | p95 | min | {theirs}: median | p95 | min | ratio of medians |\n\
             |---|---|---|---|---|---|---|---|"
        )?;
        for (measure, title) in MEASURES {
            let Some([our, their]) = self.pair(measure) else {
                continue;
            };
            write!(text, "| {title} ")?;
            for Summary { median, p95, min, .. } in [our, their] {
                write!(text, "| {median:.2} | {p95:.2} | {min:.2} ")?;
            }
            writeln!(text, "| {:.3} |", our.median / their.median)?;
        }
        for (whole, part, title) in DIFFERENCES {
            let Some([our, their]) = self.less(whole, part) else {
                continue;
            };
            writeln!(text, "| {title} | {our:.2} | | | {their:.2} | | | {:.3} |", our / their)?;
        }
        Ok(text)
    }

    fn pair(&self, measure: &str) -> Option<[Summary; 2]> {
        let [our, their] = self.names.map(|name| self.samples.summary(name, measure));
        Some([our?, their?])
    }

    fn less(&self, whole: &str, part: &str) -> Option<[f64; 2]> {
        let (whole, part) = (self.pair(whole)?, self.pair(part)?);
        Some([0, 1].map(|peer| whole[peer].median - part[peer].median))
    }

    fn conditions(&self) -> String {
        let it = &self.machine;
        let [before, after] = self.load;
        format!(
            "{} cores, {} GiB, Linux {}, cgroups {}, containerd {}, runc {}; {} rounds of turns of 0.7 s; load average \
             {before:.1} before, {after:.1} after",
            it.cores, it.memory_gib, it.kernel, it.cgroups, it.containerd, it.runc, self.rounds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_takes_without_an_exec_is_taken_off_both() {
        let mut samples = Samples::default();
        for (peer, exec, nothing) in [("a", 3.0, 1.0), ("b", 21.0, 1.0)] {
            samples.add(peer, 1, &vec![("exec", exec), ("nothing", nothing)]);
        }
        let machine = Machine {
            cores: 1,
            memory_gib: 1,
            kernel: String::new(),
            cgroups: "v2",
            containerd: String::new(),
            runc: String::new(),
        };
        let (names, load) = (["a", "b"], [0.0; 2]);
        let report = Report {
            machine,
            names,
            rounds: 1,
            load,
            samples,
        };
        let text = report.markdown().unwrap();
        let row = "| median of ExecSync less that of Version | 2.00 | | | 20.00 | | | 0.100 |";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("20 at once"), "nothing of it was measured: {text}");
    }
}
