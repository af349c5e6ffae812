//! The report: a table for people, every sample for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::Outcome;
use crate::machine::{Machine, Memory};
use crate::samples::{MEASURES, Samples, Summary};

#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    /// The one that is judged, and the one it is compared with.
    pub names: [&'static str; 2],
    /// Pods of each, one at a time; batches of each.
    pub pods: (usize, usize),
    /// Load average before and after.
    pub load: [f64; 2],
    /// When, and what was held then.
    pub memory: [(&'static str, Vec<Memory>); 3],
    pub samples: Samples,
}

/// One line of the table.
struct Row {
    title: &'static str,
    ours: Summary,
    theirs: Summary,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours.median / self.theirs.median
    }
}

impl Report {
    pub fn print(&self) {
        println!("{}\n", self.conditions());
        println!(
            "{:<46}{:>26}  {:>26}  ratio",
            "milliseconds: median, p95, min", self.names[0], self.names[1]
        );
        let cells = |s: Summary| format!("{:>8.1} {:>8.1} {:>8.1}", s.median, s.p95, s.min);
        for row in self.rows() {
            println!(
                "{:<46}{}  {}  {:>5.2}",
                row.title,
                cells(row.ours),
                cells(row.theirs),
                row.ratio()
            );
        }
        println!();
        for (when, memory) in &self.memory {
            for held in memory {
                let [rss, pss] = [held.rss_kib, held.pss_kib].map(mib);
                println!(
                    "{:<46}RSS {rss:>5.1} MiB, PSS {pss:>5.1} MiB",
                    format!("{when}: {}", held.title())
                );
            }
        }
    }

    /// Writes `<time>.json` and `<time>.md`.
    pub fn write(&self, directory: &Path) -> Outcome<()> {
        fs::create_dir_all(directory)?;
        let time = timestamp();
        let (json, markdown) = (
            directory.join(format!("{time}.json")),
            directory.join(format!("{time}.md")),
        );
        fs::write(&json, serde_json::to_vec_pretty(self)?)?;
        fs::write(&markdown, self.markdown()?)?;
        println!(
            "\nevery sample: {}\nas Markdown: {}",
            json.display(),
            markdown.display()
        );
        Ok(())
    }

    fn conditions(&self) -> String {
        let Machine {
            cores,
            memory_gib,
            kernel,
            cgroups,
            containerd,
            runc,
        } = &self.machine;
        let (rounds, batches) = self.pods;
        let [before, after] = self.load;
        format!(
            "{cores} cores, {memory_gib} GiB, Linux {kernel}, cgroups {cgroups}, containerd {containerd}, runc {runc}; \
             {rounds} pods one at a time and {batches} batches of eight on each, in turns; \
             load average {before:.1} before, {after:.1} after"
        )
    }

    fn rows(&self) -> Vec<Row> {
        let row = |&(measure, title): &(&'static str, &'static str)| {
            let [ours, theirs] = self.names.map(|name| self.samples.summary(name, measure));
            Some(Row {
                title,
                ours: ours?,
                theirs: theirs?,
            })
        };
        MEASURES.iter().filter_map(row).collect()
    }

    fn markdown(&self) -> Result<String, std::fmt::Error> {
        let [ours, theirs] = self.names;
        let mut text = String::from("# Benchmarks\n\n");
        writeln!(
            text,
            "Written by `make bench`, which runs {ours} and {theirs}'s own CRI plugin in turns on one machine"
        )?;
        writeln!(
            text,
            "(the same containerd, image and requests: a pod of one sleeping container, network POD, PID mode"
        )?;
        writeln!(
            text,
            "CONTAINER, seccomp Unconfined, stopped without grace). Other machines and busy ones give other"
        )?;
        writeln!(text, "times: compare within a run.\n\n{}.\n", self.conditions())?;
        writeln!(
            text,
            "| milliseconds | {ours}: median | p95 | min | {theirs}: median | p95 | min | ratio of medians |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|---|---|")?;
        for row in self.rows() {
            write!(text, "| {} ", row.title)?;
            for Summary { median, p95, min, .. } in [row.ours, row.theirs] {
                write!(text, "| {median:.1} | {p95:.1} | {min:.1} ")?;
            }
            writeln!(text, "| {:.2} |", row.ratio())?;
        }
        writeln!(text, "\n| memory, MiB | RSS | PSS |\n|---|---|---|")?;
        for (when, memory) in &self.memory {
            for held in memory {
                let [rss, pss] = [held.rss_kib, held.pss_kib].map(mib);
                writeln!(text, "| {when}: {} | {rss:.1} | {pss:.1} |", held.title())?;
            }
        }
        Ok(text)
    }
}

impl Memory {
    fn title(&self) -> String {
        match self.processes {
            1 => format!("{}, {}", self.peer, self.kind),
            many => format!("{}, {many} {}", self.peer, self.kind),
        }
    }
}

/// Prints a table and writes `<time>-<name>.json` and `<time>-<name>.md`.
pub fn publish(name: &str, table: &str, figures: &impl Serialize, directory: &Path) -> Outcome<()> {
    println!("{table}");
    fs::create_dir_all(directory)?;
    let time = timestamp();
    let at = |extension| directory.join(format!("{time}-{name}.{extension}"));
    let (json, markdown) = (at("json"), at("md"));
    fs::write(&json, serde_json::to_vec_pretty(figures)?)?;
    fs::write(&markdown, table)?;
    println!("every sample: {}\nthis table: {}", json.display(), markdown.display());
    Ok(())
}

/// The time now, as names of files have it.
fn timestamp() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.replace(['-', ':'], "")
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
