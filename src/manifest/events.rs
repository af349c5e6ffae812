//! What happens to a pod, told to whoever listens, and counted for whoever asks later.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::pod::Pod;
use super::table::Table;
use super::words;
use crate::model::Id;
use crate::model::container::Reason;
use crate::model::event::Severity;

/// The most events that are kept of a pod; older ones are forgotten.
const KEPT: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    /// None: it concerns the pod as a whole.
    pub container: Option<String>,
    pub what: Happening,
}

/// Times are nanoseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The manifest is kept.
    Accepted,
    Pulling {
        image: String,
    },
    /// `took`: how long the registry took; None: it was there, and no registry was asked.
    Pulled {
        image: String,
        took: Option<Duration>,
    },
    Created {
        id: Id,
        attempt: u32,
    },
    Started,
    Exited {
        code: i32,
        reason: Reason,
        message: String,
    },
    BackOff {
        until: i64,
    },
    /// All containers run.
    Running {
        ips: Vec<IpAddr>,
    },
    /// A step failed and is tried again.
    Failed {
        trouble: Trouble,
        message: String,
        retry_at: i64,
    },
    /// All containers ended for good.
    Finished {
        succeeded: bool,
    },
    /// The sandbox is gone; everything begins anew.
    Lost,
    /// What probes, hooks and stops do, in the kubelet's words.
    Told {
        severity: Severity,
        reason: &'static str,
        message: String,
    },
    Deleting,
    /// The last event.
    Deleted,
}

/// What a failed step was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    Sandbox,
    /// The image cannot be pulled.
    Image {
        image: String,
    },
    /// The image is not present, and must not be pulled.
    NeverPulled {
        image: String,
    },
    /// The container cannot be created or started.
    Container,
    Deletion,
}

/// The events of one pod.
pub struct Journal {
    pod: Arc<Pod>,
    events: Mutex<Kept>,
    count: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    last: VecDeque<Event>,
    /// How many were forgotten.
    forgotten: u64,
    table: Table,
}

impl Journal {
    /// That of `pod`, of which `table` was told by an earlier berth.
    pub fn new(pod: Arc<Pod>, table: Table) -> Self {
        let events = Mutex::new(Kept {
            table,
            ..Kept::default()
        });
        let count = watch::Sender::default();
        Self { pod, events, count }
    }

    pub fn push(&self, at: i64, container: Option<&str>, what: Happening) {
        let words = words::of(&self.pod, container, &what);
        let mut kept = self.lock();
        for (severity, reason, message) in words {
            kept.table.add(at, container, severity, reason, &message);
        }
        kept.last.push_back(Event {
            at,
            container: container.map(str::to_owned),
            what,
        });
        if kept.last.len() > KEPT {
            kept.last.pop_front();
            kept.forgotten += 1;
        }
        drop(kept);
        self.count.send_modify(|count| *count += 1);
    }

    /// What was told in the kubelet's words.
    pub fn table(&self) -> Table {
        self.lock().table.clone()
    }

    /// Changes with every event.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// Reads from the oldest event that is kept.
    pub fn follow(self: &Arc<Self>) -> Follower {
        Follower {
            journal: Arc::clone(self),
            next: 0,
            count: self.count.subscribe(),
            ended: false,
        }
    }

    /// The event number `next`, or the oldest kept one after it, and its number.
    fn get(&self, next: u64) -> Option<(u64, Event)> {
        let kept = self.lock();
        let index = next.saturating_sub(kept.forgotten);
        let event = kept.last.get(usize::try_from(index).ok()?)?;
        Some((index + kept.forgotten, event.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of a pod's events. One that is too slow misses the oldest.
pub struct Follower {
    journal: Arc<Journal>,
    next: u64,
    count: watch::Receiver<u64>,
    ended: bool,
}

impl Follower {
    /// The next event, once there is one. None: the pod is deleted.
    pub async fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        loop {
            self.count.borrow_and_update();
            if let Some((number, event)) = self.journal.get(self.next) {
                self.next = number + 1;
                self.ended = event.what == Happening::Deleted;
                return Some(event);
            }
            self.count.changed().await.ok()?;
        }
    }

    /// Waits for the pod's last event.
    pub async fn end(mut self) {
        while self.next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    fn journal() -> Arc<Journal> {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: i}]\n";
        Arc::new(Journal::new(Arc::new(parse(text, 0).unwrap()), Table::default()))
    }

    #[tokio::test]
    async fn a_follower_reads_all_from_the_beginning_to_the_end() {
        let journal = journal();
        journal.push(1, None, Happening::Accepted);
        let mut follower = journal.follow();
        journal.push(2, Some("c"), Happening::Started);
        journal.push(3, None, Happening::Deleted);
        let mut times = Vec::new();
        while let Some(event) = follower.next().await {
            times.push(event.at);
        }
        assert_eq!(times, [1, 2, 3]);
    }

    #[test]
    fn what_a_kubelet_would_tell_is_counted() {
        let journal = journal();
        for at in [1, 2] {
            journal.push(at, Some("c"), Happening::Started);
            journal.push(at, None, Happening::Running { ips: Vec::new() });
        }
        let lines = journal.table().lines;
        assert_eq!((lines.len(), lines[0].count, lines[0].last), (1, 2, 2));
    }

    #[tokio::test]
    async fn what_is_too_old_is_forgotten() {
        let journal = journal();
        let mut follower = journal.follow();
        for at in 0..KEPT as i64 + 10 {
            journal.push(at, None, Happening::Started);
        }
        assert_eq!(follower.next().await.unwrap().at, 10);
        assert_eq!(follower.next().await.unwrap().at, 11);
    }
}
