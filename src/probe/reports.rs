//! What the engine tells, and how: whoever is slow to listen stops no probe.
//!
//! Checks go through a queue of a fixed length; when it is full they are counted as lost. Changes are never lost: of
//! each container the last one waits. A change is told after the checks that led to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::mpsc;

use super::{Changed, Checked, Told};
use crate::model::Id;

/// Checks that may wait: a second of a thousand probes.
const QUEUE: usize = 1024;

#[derive(Debug, Default)]
struct Shared {
    /// By container, with the number of checks that are to be told before it.
    changes: Mutex<BTreeMap<Id, (u64, Changed)>>,
    changed: Notify,
    sent: AtomicU64,
    lost: AtomicU64,
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, BTreeMap<Id, (u64, Changed)>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change that may be told when `told` checks have been.
    fn take(&self, told: u64) -> Option<Changed> {
        let mut changes = self.changes();
        let ripe = changes.iter().find(|(_, (after, _))| *after <= told);
        let container = ripe.map(|(container, _)| container.clone())?;
        changes.remove(&container).map(|(_, changed)| changed)
    }
}

/// The engine's end.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    checks: mpsc::Sender<Checked>,
}

/// The listener's end.
#[derive(Debug)]
pub struct Reports {
    shared: Arc<Shared>,
    checks: mpsc::Receiver<Checked>,
    told: u64,
}

pub fn channel() -> (Outbox, Reports) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::<Shared>::default();
    let outbox = Outbox {
        shared: Arc::clone(&shared),
        checks: sender,
    };
    let reports = Reports {
        shared,
        checks: receiver,
        told: 0,
    };
    (outbox, reports)
}

impl Outbox {
    pub fn checked(&self, checked: Checked) {
        let Ok(permit) = self.checks.try_reserve() else {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        // Before it can be received.
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        permit.send(checked);
    }

    pub fn changed(&self, changed: Changed) {
        let after = self.shared.sent.load(Ordering::Relaxed);
        let container = changed.subject.container.clone();
        self.shared.changes().insert(container, (after, changed));
        self.shared.changed.notify_one();
    }

    /// Nothing more of this container that has not been fetched.
    pub fn forget(&self, container: &Id) {
        self.shared.changes().remove(container);
    }

    /// How many checks were not told since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Reports {
    /// The next report; None: the engine is gone.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(changed) = self.shared.take(self.told) {
                return Some(Told::Changed(changed));
            }
            tokio::select! {
                () = self.shared.changed.notified() => {}
                checked = self.checks.recv() => {
                    self.told += 1;
                    return checked.map(Told::Checked);
                }
            }
        }
    }
}
