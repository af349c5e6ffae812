//! What a container's life is made of beside its process: its hooks, and its probes with what they call for. The one
//! door to starting and stopping containers, for CRI and for manifests.
//!
//! * start = [`Pods::start_container`], then postStart ([`start`]); then its probes begin ([`probing`]);
//! * stop = preStop, then [`Pods::stop_container`], all in one grace period ([`stop`], [`grace`]);
//! * a liveness or startup probe that fails ends its container in the same way, with the cause recorded first.
//!
//! The forced ends (StopPodSandbox, RemoveContainer, RemovePodSandbox) are not here: they kill, as they always did, and
//! what runs for the container ends with it. A kubelet stops containers before it comes to them.
//!
//! What happens is told in events in the kubelet's words ([`texts`]), in metrics under its names ([`metrics`]) and in
//! [`Lifecycle::report`]. What a restart of berth must not lose is in one file per container ([`ward`]), which
//! [`recovery`] goes on from.

mod exec;
mod grace;
mod hooks;
pub mod metrics;
mod probing;
mod recovery;
mod report;
mod start;
mod stop;
pub mod texts;
mod ward;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};

use crate::dial::Dialer;
use crate::hook::Hooks;
use crate::model::Id;
use crate::model::event::Event;
use crate::pod::{ContainerView, Error, Operations, Pods};
use crate::probe::{Checks, Engine, Reports};
use metrics::{Metrics, Subject};
use texts::Text;
use ward::{Ward, lock};

pub use report::{HookReport, ProbeReport, Report};
pub use ward::{HookKind, HookOutcome, HookRun};

/// Events that wait for a slow reader; it is told how many it missed.
const EVENTS: usize = 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Lifecycle(Arc<House>);

struct House {
    pods: Pods,
    engine: Engine,
    checks: Checks,
    hooks: Hooks,
    settings: Settings,
    wards: Mutex<BTreeMap<Id, Arc<Ward>>>,
    /// Held while containers are looked at and their probes begun and ended.
    attending: Mutex<()>,
    /// Starts whose postStart hook others can wait for.
    starts: Operations<Id>,
    events: broadcast::Sender<Event>,
    /// Counts what an observer may see change.
    changes: watch::Sender<u64>,
    metrics: Metrics,
}

/// What the composition root decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where each container has its file.
    pub directory: PathBuf,
    /// Whether `berth-probe` is answered.
    pub virtual_commands: bool,
}

impl Lifecycle {
    /// Nothing is probed before [`Self::recover`] and [`Self::keep`]. Must be called within a tokio runtime's context.
    ///
    /// # Errors
    /// The threads that make sockets in pods' namespaces cannot be started.
    pub fn new(pods: Pods, settings: Settings) -> io::Result<(Self, Reports)> {
        let (dialer, exec) = (Dialer::new()?, Arc::new(pods.clone()));
        let checks = Checks::new(dialer.clone(), exec.clone());
        let (engine, reports) = Engine::new(checks.clone());
        let house = House {
            pods,
            engine,
            checks,
            hooks: Hooks::new(dialer, exec),
            settings,
            wards: Mutex::default(),
            attending: Mutex::default(),
            starts: Operations::default(),
            events: broadcast::Sender::new(EVENTS),
            changes: watch::Sender::new(0),
            metrics: Metrics::default(),
        };
        Ok((Self(Arc::new(house)), reports))
    }

    /// Events of all containers from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// Changes whenever a container's health, a hook or a probe's result does. Containers themselves come and go by
    /// [`Pods::changes`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// All metrics, in OpenMetrics' text format.
    pub fn metrics(&self) -> String {
        self.0.metrics.text()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What is known of a container, which begins here if nothing is.
    fn ward(&self, view: &ContainerView) -> Arc<Ward> {
        let mut wards = lock(&self.0.wards);
        let ward = wards.entry(view.id.clone());
        Arc::clone(ward.or_insert_with(|| {
            let ward = Ward::new(view, self.subject(view), &self.0.settings.directory);
            Arc::new(ward)
        }))
    }

    fn known(&self, id: &Id) -> Option<Arc<Ward>> {
        lock(&self.0.wards).get(id).cloned()
    }

    /// Its metrics' labels. A sandbox is listed as long as its containers are.
    fn subject(&self, view: &ContainerView) -> Subject {
        let sandbox = self.0.pods.sandbox(&view.record.sandbox);
        let pod = sandbox.map(|sandbox| sandbox.record.config.name).unwrap_or_default();
        Subject {
            container: view.record.config.name.clone(),
            pod: pod.name,
            namespace: pod.namespace,
            pod_uid: pod.uid,
        }
    }

    /// Tells an event of a container. Nobody need listen.
    fn tell(&self, ward: &Ward, text: Text) {
        let Text {
            severity,
            reason,
            message,
        } = text;
        tracing::info!(id = ?ward.id, reason, message, "container event");
        let event = Event {
            at: now(),
            sandbox: ward.sandbox.clone(),
            container: ward.id.clone(),
            name: ward.name.clone(),
            severity,
            reason,
            message,
        };
        ward.remember(event.clone());
        self.0.events.send(event).ok();
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> i64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// An instant as nanoseconds since the Unix epoch.
fn at(instant: Instant) -> i64 {
    let left = instant.saturating_duration_since(Instant::now());
    now().saturating_add(nanos(left))
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
