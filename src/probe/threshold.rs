//! The rules of a probe: when it is to check, and what a verdict does to its result. Pure; a kubelet's worker has the
//! same.

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::Verdict;
use crate::model::Id;
use crate::model::probe::{Probe, ProbeKind, ProbeResult};

/// How often a check is tried in one tick; again only after an error.
pub const TRIES: u32 = 3;

/// What a worker sees of its container when it may check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    pub container: Id,
    pub running: bool,
    /// Whether the container, having ended, will never run again.
    pub over: bool,
    /// Whether the pod is being deleted.
    pub deleting: bool,
    /// Whether the startup probe, if there is one, has succeeded.
    pub started: bool,
    /// Since the container's start.
    pub elapsed: Duration,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Check,
    /// Nothing, until the initial delay is over.
    Early,
    /// Nothing, until what is seen changes.
    Wait,
    /// Nothing ever again.
    Done,
}

/// What a verdict did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    /// The result has changed.
    Changed,
    /// The container must end; told once.
    End,
}

/// Where one probe of one container stands. Survives a restart of berth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    container: Id,
    result: ProbeResult,
    /// What the last check that counted said.
    last: ProbeResult,
    /// How many said so in a row.
    run: u32,
    /// Waits for another container.
    held: bool,
}

impl Counting {
    pub fn new(kind: ProbeKind, container: Id) -> Self {
        let result = match kind {
            ProbeKind::Readiness => ProbeResult::Failure,
            ProbeKind::Liveness => ProbeResult::Success,
            ProbeKind::Startup => ProbeResult::Unknown,
        };
        Self {
            container,
            result,
            last: ProbeResult::Unknown,
            run: 0,
            held: false,
        }
    }

    /// As the next berth goes on with it: what it has come to stays, a count in progress begins anew. Between the last
    /// check that was kept and now others may have said otherwise.
    pub fn resumed(self) -> Self {
        Self {
            last: ProbeResult::Unknown,
            run: 0,
            ..self
        }
    }

    pub fn result(&self) -> ProbeResult {
        self.result
    }

    /// How many checks in a row have said the same.
    pub fn run(&self) -> u32 {
        self.run
    }

    /// Says what is to be done. A sight of a new container, of one that does not run, and of a pod that is being
    /// deleted have their effects on the result.
    pub fn turn(&mut self, kind: ProbeKind, probe: &Probe, sight: &Sight) -> Turn {
        if sight.container != self.container {
            *self = Self::new(kind, sight.container.clone());
        }
        let readiness = kind == ProbeKind::Readiness;
        if self.held {
            return if sight.over { Turn::Done } else { Turn::Wait };
        }
        if !sight.running {
            self.result = ProbeResult::Failure;
            return if sight.over { Turn::Done } else { Turn::Wait };
        }
        if sight.deleting && !readiness {
            self.result = ProbeResult::Success;
            return Turn::Done;
        }
        if sight.elapsed.as_secs() < u64::from(probe.initial_delay_s) {
            return Turn::Early;
        }
        if sight.started == (kind == ProbeKind::Startup) {
            return Turn::Wait;
        }
        Turn::Check
    }

    /// Counts the verdict of a check.
    pub fn count(&mut self, kind: ProbeKind, probe: &Probe, verdict: Verdict) -> Effect {
        let (said, threshold) = match verdict {
            Verdict::Unknown => return Effect::Nothing,
            Verdict::Success | Verdict::Warning => (ProbeResult::Success, probe.success_threshold),
            Verdict::Failure => (ProbeResult::Failure, probe.failure_threshold),
        };
        self.run = if said == self.last {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = said;
        if self.run < threshold {
            return Effect::Nothing;
        }
        let changed = self.result != said;
        self.result = said;
        let failed = said == ProbeResult::Failure;
        let ends = failed && kind != ProbeKind::Readiness;
        if ends || kind == ProbeKind::Startup {
            (self.held, self.run) = (true, 0);
        }
        match (ends, changed) {
            (true, _) => Effect::End,
            (false, true) => Effect::Changed,
            (false, false) => Effect::Nothing,
        }
    }
}
