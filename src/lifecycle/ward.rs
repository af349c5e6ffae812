//! What is known of one container's probes and hooks, in memory and, as far as a restart must not lose it, in a file.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::metrics::Subject;
use super::stop::Stop;
use crate::model::Id;
use crate::model::container::Ending;
use crate::model::event::Event;
use crate::model::probe::ProbeKind;
use crate::pod::ContainerView;
use crate::probe;

/// The events that are kept of a container.
const EVENTS: usize = 50;

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookKind {
    PostStart,
    PreStop,
}

impl HookKind {
    /// Kubernetes' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }
}

/// How a hook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookOutcome {
    /// It runs, or did when its berth ended.
    Running,
    Succeeded,
    Failed,
    /// It was cut off: its time was over, or the container was to be stopped.
    Cancelled,
    /// Its container ended while it ran.
    Ended,
}

/// The last run of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    pub outcome: HookOutcome,
    /// Nanoseconds since the Unix epoch.
    pub began_at: i64,
    /// 0 while it runs.
    pub ended_at: i64,
    /// What it wrote, or why it failed; bounded.
    pub output: String,
    /// How often it was begun, counting those that a death of berth cut off.
    pub runs: u32,
}

/// A stop that is under way, for the next berth to go on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopIntent {
    /// None: a client's.
    pub cause: Option<Ending>,
    pub grace_ms: u64,
    /// When the grace period ends, nanoseconds since the Unix epoch.
    pub until: i64,
    pub hook_done: bool,
}

/// What is kept in the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The postStart hook has not succeeded yet.
    pub post_start_due: bool,
    pub stop: Option<StopIntent>,
    pub hooks: BTreeMap<HookKind, HookRun>,
    pub probes: probe::Saved,
}

/// Whether a container's probes are asked. Each follows the one before it, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probing {
    NotYet,
    On,
    Over,
}

/// What a probe last found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended, nanoseconds since the Unix epoch.
    pub at: i64,
    pub output: String,
}

/// One container under lifecycle's care.
pub struct Ward {
    pub id: Id,
    pub sandbox: Id,
    /// The container's name.
    pub name: String,
    file: PathBuf,
    kept: Mutex<Kept>,
    events: Mutex<VecDeque<Event>>,
    /// The last check of each probe that has made one.
    checks: Mutex<BTreeMap<ProbeKind, LastCheck>>,
    pub subject: Subject,
    probing: Mutex<Probing>,
    pub(super) stop: Mutex<Option<Arc<Stop>>>,
    /// Turns true when a stop begins.
    pub(super) stopping: watch::Sender<bool>,
}

impl Ward {
    pub fn new(view: &ContainerView, subject: Subject, directory: &Path) -> Self {
        let file = directory.join(format!("{}.json", view.id));
        Self {
            id: view.id.clone(),
            sandbox: view.record.sandbox.clone(),
            name: view.record.config.name.clone(),
            kept: Mutex::new(read(&file)),
            file,
            events: Mutex::default(),
            checks: Mutex::default(),
            subject,
            probing: Mutex::new(Probing::NotYet),
            stop: Mutex::default(),
            stopping: watch::Sender::new(false),
        }
    }

    pub fn kept(&self) -> Kept {
        lock(&self.kept).clone()
    }

    /// Changes what is kept, and the file with it. That the file could not be written is told once here: a restart
    /// would know less, and nothing else depends on it.
    pub fn keep(&self, change: impl FnOnce(&mut Kept)) {
        let mut kept = lock(&self.kept);
        let before = kept.clone();
        change(&mut kept);
        if *kept == before {
            return;
        }
        if let Err(error) = write(&self.file, &kept) {
            tracing::warn!(id = ?self.id, %error, "cannot keep what a container's probes and hooks have come to");
        }
    }

    /// Goes on to `next`; whether that is new.
    pub fn set_probing(&self, next: Probing) -> bool {
        let mut probing = lock(&self.probing);
        let is_new = *probing < next;
        *probing = next.max(*probing);
        is_new
    }

    pub fn checked(&self, kind: ProbeKind, check: LastCheck) {
        lock(&self.checks).insert(kind, check);
    }

    /// What a probe last found; None: this berth has not asked yet.
    pub fn last_check(&self, kind: ProbeKind) -> Option<LastCheck> {
        lock(&self.checks).get(&kind).cloned()
    }

    /// Removes the file. To be called when the container is gone.
    pub fn forget(&self) {
        std::fs::remove_file(&self.file).ok();
    }

    pub fn remember(&self, event: Event) {
        let mut events = lock(&self.events);
        if events.len() == EVENTS {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// The last events, the oldest first.
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events).iter().cloned().collect()
    }
}

/// What an earlier berth kept. A file that cannot be read is as good as none: probes begin anew.
fn read(file: &Path) -> Kept {
    let Ok(text) = std::fs::read(file) else {
        return Kept::default();
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "cannot read what probes and hooks had come to");
        Kept::default()
    })
}

fn write(file: &Path, kept: &Kept) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let text = serde_json::to_vec(kept).expect("what is kept serialises");
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}

/// A poisoned lock guards plain data that is replaced whole, so it is still right.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_rubbish_is_as_good_as_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("below/c.json");
        assert_eq!(read(&file), Kept::default());
        let run = HookRun {
            outcome: HookOutcome::Running,
            began_at: 7,
            ended_at: 0,
            output: "so far".to_owned(),
            runs: 1,
        };
        let kept = Kept {
            post_start_due: true,
            hooks: BTreeMap::from([(HookKind::PostStart, run)]),
            ..Kept::default()
        };
        write(&file, &kept).unwrap();
        assert_eq!(read(&file), kept);
        for rubbish in ["", "{", "[]", r#"{"hooks": 3}"#] {
            std::fs::write(&file, rubbish).unwrap();
            assert_eq!(read(&file), Kept::default(), "{rubbish}");
        }
    }
}
