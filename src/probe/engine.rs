//! Which containers are probed, and where each probe stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::check::{Checks, Report};
use super::reports::{Outbox, Reports, channel};
use super::schedule::Schedule;
use super::threshold::{Counting, Effect};
use super::worker::Worker;
use super::{Changed, Checked, End, Saved, Status, Subject, Totals};
use crate::model::Id;
use crate::model::probe::{Health, ProbeKind, ProbeResult};

/// The probes of all containers. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub struct Engine(Arc<Ring>);

/// What workers share with the engine. They hold it weakly, so that they end with it.
pub(super) struct Ring {
    pub(super) checks: Checks,
    /// The moment from which schedules count.
    epoch: Instant,
    /// How many probes have been resumed.
    resumed: AtomicU64,
    watched: Mutex<HashMap<Id, Watched>>,
    outbox: Outbox,
}

struct Watched {
    subject: Arc<Subject>,
    saved: Saved,
    phase: watch::Sender<Phase>,
    notes: [Note; 3],
    workers: Vec<AbortHandle>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.workers.iter().for_each(AbortHandle::abort);
    }
}

/// What is remembered of a probe's checks.
#[derive(Debug, Clone, Default)]
struct Note {
    output: String,
    totals: Totals,
}

/// What workers are told of their container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Phase {
    pub running: bool,
    pub deleting: bool,
    pub started: bool,
    /// Counts up when readiness is to be checked at once.
    pub trigger: u64,
}

/// What a check has come to, as its worker tells it.
pub(super) struct Outcome {
    pub kind: ProbeKind,
    pub counting: Counting,
    pub effect: Effect,
    pub report: Report,
    pub took: Duration,
    pub late: Duration,
    pub missed: u64,
}

impl Engine {
    /// An engine without containers, and what it tells. Must be called within a tokio runtime's context.
    pub fn new(checks: Checks) -> (Self, Reports) {
        let (outbox, reports) = channel();
        let ring = Ring {
            checks,
            epoch: Instant::now(),
            resumed: AtomicU64::new(0),
            watched: Mutex::default(),
            outbox,
        };
        (Self(Arc::new(ring)), reports)
    }

    /// Begins to probe a container that runs. With `saved`, what an earlier berth kept of it: the probes go on from
    /// there, spread over their periods, and an end that was decided is told again. A container that is probed
    /// already is begun anew.
    pub fn start(&self, subject: Subject, saved: Option<Saved>) {
        let subject = Arc::new(subject);
        let resumed = saved.is_some();
        let saved = initial(&subject, saved.unwrap_or_default());
        let health = saved.health();
        let (phase, phases) = watch::channel(Phase {
            running: true,
            deleting: false,
            started: health.started,
            trigger: 0,
        });
        let workers = ProbeKind::ALL.into_iter().filter_map(|kind| {
            let worker = self.worker(&subject, kind, &saved, resumed, phases.clone())?;
            Some(tokio::spawn(worker.run()).abort_handle())
        });
        let watched = Watched {
            workers: workers.collect(),
            subject: Arc::clone(&subject),
            saved: saved.clone(),
            phase,
            notes: Default::default(),
        };
        let told = saved.end.is_some();
        // Workers that have begun already wait for this lock before they tell anything.
        let before = self.0.watched().insert(subject.container.clone(), watched);
        drop(before);
        if told {
            self.0.outbox.changed(Changed { subject, health, saved });
        }
    }

    fn worker(
        &self,
        subject: &Arc<Subject>,
        kind: ProbeKind,
        saved: &Saved,
        resumed: bool,
        phases: watch::Receiver<Phase>,
    ) -> Option<Worker> {
        let probe = subject.probes.get(kind)?.clone();
        let (now, elapsed) = (self.0.now(), age(subject.started_at));
        let delay_left = Duration::from_secs(probe.initial_delay_s.into()).saturating_sub(elapsed);
        let schedule = if resumed {
            let number = self.0.resumed.fetch_add(1, Ordering::Relaxed);
            Schedule::resumed(now, delay_left, probe.period(), number)
        } else {
            Schedule::fresh(now, delay_left, probe.period())
        };
        Some(Worker {
            ring: Arc::downgrade(&self.0),
            subject: Arc::clone(subject),
            kind,
            probe,
            counting: saved.get(kind)?.clone(),
            schedule,
            begins: now + delay_left,
            born: now,
            age: elapsed,
            phases,
            triggered: 0,
        })
    }

    /// Ends a container's probes, a running check too, and forgets them.
    pub fn stop(&self, container: &Id) {
        self.0.watched().remove(container);
        self.0.outbox.forget(container);
    }

    /// The container has ended and will not run again: a running check is given up, all results are failures, and stay
    /// to be asked for until [`Engine::stop`].
    pub fn ended(&self, container: &Id) {
        self.phase(container, |phase| phase.running = false);
    }

    /// The pod is being deleted: liveness and startup are set to success and end, readiness goes on.
    pub fn deleting(&self, container: &Id) {
        self.phase(container, |phase| phase.deleting = true);
    }

    /// Has the readiness of a started container that is not ready checked at once.
    pub fn trigger_readiness(&self, container: &Id) {
        self.phase(container, |phase| phase.trigger += 1);
    }

    fn phase(&self, container: &Id, change: impl FnOnce(&mut Phase)) {
        if let Some(watched) = self.0.watched().get(container) {
            watched.phase.send_modify(change);
        }
    }

    /// None: it is not probed.
    pub fn health(&self, container: &Id) -> Option<Health> {
        self.0.watched().get(container).map(Watched::health)
    }

    /// All that is to be kept of a container's probes, with their counts as they are now.
    pub fn saved(&self, container: &Id) -> Option<Saved> {
        self.0.watched().get(container).map(|watched| watched.saved.clone())
    }

    /// A container's probes; none if it is not probed.
    pub fn results(&self, container: &Id) -> Vec<Status> {
        self.0
            .watched()
            .get(container)
            .map(Watched::statuses)
            .unwrap_or_default()
    }

    /// All containers that are probed, with their probes.
    pub fn all(&self) -> Vec<(Arc<Subject>, Vec<Status>)> {
        let watched = self.0.watched();
        let all = watched
            .values()
            .map(|watched| (Arc::clone(&watched.subject), watched.statuses()));
        all.collect()
    }

    /// How many checks the listener was too slow for.
    pub fn lost(&self) -> u64 {
        self.0.outbox.lost()
    }
}

/// What is saved, completed by the initial results; what belongs to no probe of the container is left out.
fn initial(subject: &Subject, mut saved: Saved) -> Saved {
    let mut completed = Saved {
        end: saved.end.take(),
        ..Saved::default()
    };
    for kind in ProbeKind::ALL {
        if subject.probes.get(kind).is_some() {
            let counting = saved.get(kind).cloned().map(Counting::resumed);
            completed.set(
                kind,
                counting.unwrap_or_else(|| Counting::new(kind, subject.container.clone())),
            );
        }
    }
    completed
}

/// How long ago a time of the wall clock was; zero if it is to come.
fn age(at: i64) -> Duration {
    let at = Duration::from_nanos(u64::try_from(at).unwrap_or_default());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(at)
}

impl Watched {
    fn health(&self) -> Health {
        let running = self.phase.borrow().running;
        let Health { started, ready } = self.saved.health();
        Health {
            started: running && started,
            ready: running && ready,
        }
    }

    fn statuses(&self) -> Vec<Status> {
        let status = |kind| {
            let counting = self.saved.get(kind)?;
            let note = &self.notes[kind as usize];
            Some(Status {
                kind,
                result: counting.result(),
                run: counting.run(),
                output: note.output.clone(),
                totals: note.totals,
            })
        };
        ProbeKind::ALL.into_iter().filter_map(status).collect()
    }

    fn changed(&self) -> Changed {
        Changed {
            subject: Arc::clone(&self.subject),
            health: self.health(),
            saved: self.saved.clone(),
        }
    }

    /// Takes over where a worker's counting has come to. A container that has just started is told to its workers.
    fn take_over(&mut self, kind: ProbeKind, counting: Counting) {
        self.saved.set(kind, counting);
        let started = self
            .saved
            .result(ProbeKind::Startup)
            .is_none_or(|result| result == ProbeResult::Success);
        self.phase.send_if_modified(|phase| {
            let news = started && !phase.started;
            phase.started = started;
            phase.trigger += u64::from(news);
            news
        });
    }
}

impl Ring {
    fn watched(&self) -> MutexGuard<'_, HashMap<Id, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the moment from which schedules count.
    pub(super) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.epoch + at
    }

    /// A result changed without a check.
    pub(super) fn set(&self, subject: &Arc<Subject>, kind: ProbeKind, counting: &Counting) {
        self.update(subject, |watched| {
            watched.take_over(kind, counting.clone());
            self.outbox.changed(watched.changed());
        });
    }

    pub(super) fn checked(&self, subject: &Arc<Subject>, outcome: Outcome) {
        let Outcome { kind, report, .. } = outcome;
        self.update(subject, |watched| {
            let note = &mut watched.notes[kind as usize];
            note.output.clone_from(&report.output);
            note.totals.count(report.verdict);
            note.totals.missed += outcome.missed;
            let result = outcome.counting.result();
            watched.take_over(kind, outcome.counting);
            if outcome.effect == Effect::End {
                let output = report.output.clone();
                watched.saved.end = Some(End { kind, output });
            }
            self.outbox.checked(Checked {
                subject: Arc::clone(subject),
                kind,
                verdict: report.verdict,
                output: report.output,
                result,
                took: outcome.took,
                late: outcome.late,
                missed: outcome.missed,
            });
            if outcome.effect != Effect::Nothing {
                self.outbox.changed(watched.changed());
            }
        });
    }

    /// Only if it is this very start of the container that is watched still.
    fn update(&self, subject: &Arc<Subject>, update: impl FnOnce(&mut Watched)) {
        let mut all = self.watched();
        let watched = all.get_mut(&subject.container);
        if let Some(watched) = watched.filter(|watched| Arc::ptr_eq(&watched.subject, subject)) {
            update(watched);
        }
    }
}
