//! One probe of one container: sleeps until its tick, checks, and has the verdict counted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::Subject;
use super::check::{Report, Verdict};
use super::engine::{Outcome, Phase, Ring};
use super::schedule::Schedule;
use super::threshold::{Counting, Sight, TRIES, Turn};
use crate::model::probe::{Probe, ProbeKind, ProbeResult};

pub(super) struct Worker {
    pub ring: Weak<Ring>,
    pub subject: Arc<Subject>,
    pub kind: ProbeKind,
    pub probe: Probe,
    pub counting: Counting,
    pub schedule: Schedule,
    /// When the initial delay is over.
    pub begins: Duration,
    /// When this worker began, and how old the container was then.
    pub born: Duration,
    pub age: Duration,
    pub phases: watch::Receiver<Phase>,
    /// The last trigger that was heeded.
    pub triggered: u64,
}

impl Worker {
    pub async fn run(mut self) {
        while let Some(due) = self.due().await {
            if self.check(due).await.is_none() {
                return;
            }
        }
    }

    /// Waits until the next check is due, and gives when that was; None: there will be none.
    async fn due(&mut self) -> Option<Duration> {
        loop {
            let turn = self.look()?;
            let ring = self.ring.upgrade()?;
            let (now, due) = (ring.now(), self.schedule.due().max(self.begins));
            let until = ring.instant(due);
            // While it waits, nothing keeps the engine.
            drop(ring);
            match turn {
                Turn::Done => return None,
                Turn::Check if now >= due => return Some(due),
                Turn::Wait => {
                    self.phases.changed().await.ok()?;
                    // What was not to be done was not missed.
                    self.schedule.skip(self.ring.upgrade()?.now());
                }
                Turn::Check | Turn::Early => tokio::select! {
                    () = tokio::time::sleep_until(until) => {}
                    changed = self.phases.changed() => changed.ok()?,
                },
            }
        }
    }

    /// Asks the rules, and tells what a change of the container alone has done to the result.
    fn look(&mut self) -> Option<Turn> {
        let ring = self.ring.upgrade()?;
        let phase = *self.phases.borrow_and_update();
        let before = self.counting.result();
        if phase.trigger != self.triggered {
            self.triggered = phase.trigger;
            if self.kind == ProbeKind::Readiness && before != ProbeResult::Success {
                self.schedule.trigger(ring.now());
            }
        }
        let sight = Sight {
            container: self.subject.container.clone(),
            running: phase.running,
            // Each start of a container has an id of its own.
            over: !phase.running,
            deleting: phase.deleting,
            started: phase.started,
            elapsed: self.age + ring.now().saturating_sub(self.born),
        };
        let turn = self.counting.turn(self.kind, &self.probe, &sight);
        if self.counting.result() != before {
            ring.set(&self.subject, self.kind, &self.counting);
        }
        Some(turn)
    }

    /// Checks once; given up when the container's phase takes the reason for it away.
    async fn check(&mut self, due: Duration) -> Option<()> {
        let ring = self.ring.upgrade()?;
        let began = ring.now();
        let checks = ring.checks.clone();
        drop(ring);
        let readiness = self.kind == ProbeKind::Readiness;
        let mut phases = self.phases.clone();
        let pointless = phases.wait_for(|phase| !phase.running || (phase.deleting && !readiness));
        let tries = async {
            let (container, target) = (&self.subject.container, &self.subject.target);
            let mut report = Report::unknown("not tried");
            for _ in 0..TRIES {
                report = checks.probe(container, target, &self.probe).await;
                if report.verdict != Verdict::Unknown {
                    break;
                }
            }
            report
        };
        let report = tokio::select! {
            biased;
            _ = pointless => return Some(()),
            report = tries => report,
        };
        let ring = self.ring.upgrade()?;
        let ended = ring.now();
        let effect = self.counting.count(self.kind, &self.probe, report.verdict);
        let outcome = Outcome {
            kind: self.kind,
            counting: self.counting.clone(),
            effect,
            report,
            took: ended.saturating_sub(began),
            late: began.saturating_sub(due),
            missed: self.schedule.advance(ended),
        };
        ring.checked(&self.subject, outcome);
        Some(())
    }
}
