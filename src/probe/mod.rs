//! When a container is well: Kubernetes' probes, run where the container lives.
//!
//! One task per container and kind of probe ([`Engine`]) sleeps until its tick ([`schedule`]), asks the rules whether
//! there is something to do ([`threshold`]), checks ([`check`]) and has the verdict counted. What comes of it is told
//! in [`Reports`]; this module ends no container itself.
//!
//! [`command`] answers `berth-probe …` with the same checks.

pub mod check;
pub mod command;
mod engine;
mod reports;
pub mod schedule;
#[cfg(test)]
mod tests;
pub mod threshold;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::dial::Target;
use crate::model::Id;
use crate::model::probe::{Health, ProbeKind, ProbeResult, Probes};

pub use check::{Checks, Report, Verdict};
pub use engine::Engine;
pub use reports::Reports;
use threshold::Counting;

/// A running container that is to be probed.
#[derive(Debug, Clone)]
pub struct Subject {
    pub container: Id,
    pub sandbox: Id,
    /// The container's name.
    pub name: String,
    /// Nanoseconds since the Unix epoch.
    pub started_at: i64,
    pub target: Target,
    pub probes: Probes,
}

/// What is kept of a container's probes so that a later berth goes on from there: one for each probe it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    pub liveness: Option<Counting>,
    pub readiness: Option<Counting>,
    pub startup: Option<Counting>,
    /// What the probe said that ends the container, until that has been done.
    pub end: Option<End>,
}

impl Saved {
    pub fn get(&self, kind: ProbeKind) -> Option<&Counting> {
        match kind {
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Startup => self.startup.as_ref(),
        }
    }

    fn set(&mut self, kind: ProbeKind, counting: Counting) {
        let place = match kind {
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Startup => &mut self.startup,
        };
        *place = Some(counting);
    }

    fn result(&self, kind: ProbeKind) -> Option<ProbeResult> {
        self.get(kind).map(Counting::result)
    }

    /// Of a container that runs.
    fn health(&self) -> Health {
        let succeeds = |kind| self.result(kind).is_none_or(|result| result == ProbeResult::Success);
        let started = succeeds(ProbeKind::Startup);
        let ready = started && succeeds(ProbeKind::Readiness);
        Health { started, ready }
    }
}

/// A probe has found that the container must end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Liveness or startup.
    pub kind: ProbeKind,
    /// What the last check wrote.
    pub output: String,
}

/// A check has been done.
#[derive(Debug, Clone)]
pub struct Checked {
    pub subject: Arc<Subject>,
    pub kind: ProbeKind,
    pub verdict: Verdict,
    /// At most 10 KiB; of an unknown verdict, why.
    pub output: String,
    /// Where the probe stands after it.
    pub result: ProbeResult,
    /// All tries together.
    pub took: Duration,
    /// How much later it began than it was due.
    pub late: Duration,
    /// Ticks that passed during the check and are left out.
    pub missed: u64,
}

/// What has become of a container's probes. Of several changes that are not fetched in time the last is told.
#[derive(Debug, Clone)]
pub struct Changed {
    pub subject: Arc<Subject>,
    pub health: Health,
    /// To be kept. If its `end` is there, the container is to be ended.
    pub saved: Saved,
}

/// What the engine tells.
#[derive(Debug, Clone)]
pub enum Told {
    Changed(Changed),
    Checked(Checked),
}

/// One probe of a container as it is now.
#[derive(Debug, Clone)]
pub struct Status {
    pub kind: ProbeKind,
    pub result: ProbeResult,
    /// How many checks in a row have said the last verdict.
    pub run: u32,
    /// What the last check wrote; empty before.
    pub output: String,
    pub totals: Totals,
}

/// How many checks ended how; a warning is successful.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub successful: u64,
    pub failed: u64,
    pub unknown: u64,
    /// Ticks that were left out because the check before took too long.
    pub missed: u64,
}

impl Totals {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Success | Verdict::Warning => self.successful += 1,
            Verdict::Failure => self.failed += 1,
            Verdict::Unknown => self.unknown += 1,
        }
    }
}
