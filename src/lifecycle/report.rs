//! How a container fares, for whoever asks.

use std::net::IpAddr;

use super::Lifecycle;
use super::ward::{HookKind, HookRun, lock};
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::model::event::Event;
use crate::model::probe::{Health, ProbeKind, ProbeResult};
use crate::model::sandbox::{SandboxName, SandboxState};
use crate::pod::ContainerView;
use crate::probe::{self, threshold::Counting};

/// A container and its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub container: Id,
    pub sandbox: Id,
    /// The container's name.
    pub name: String,
    pub pod: SandboxName,
    pub ips: Vec<IpAddr>,
    pub running: bool,
    pub stopping: bool,
    pub health: Health,
    pub probes: Vec<ProbeReport>,
}

/// One of its probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    pub kind: ProbeKind,
    pub result: ProbeResult,
    /// How many checks in a row have said the same.
    pub run: u32,
    pub output: String,
    /// When the last check ended, nanoseconds since the Unix epoch; 0: this berth has made none.
    pub checked_at: i64,
    pub totals: probe::Totals,
}

/// One of its hooks, once it has been begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookReport {
    pub kind: HookKind,
    pub run: HookRun,
}

/// What the engine says, else what an earlier berth kept, else what every probe begins with.
fn result(kind: ProbeKind, asked: Option<ProbeResult>, kept: Option<&Counting>) -> ProbeResult {
    let initial = match kind {
        ProbeKind::Liveness => ProbeResult::Success,
        ProbeKind::Readiness => ProbeResult::Failure,
        ProbeKind::Startup => ProbeResult::Unknown,
    };
    let kept = kept.map(Counting::result);
    asked.or(kept).unwrap_or(initial)
}

impl Lifecycle {
    /// Whether a container is started and ready. One that does not run is neither; one that nobody knows, too.
    pub fn health(&self, id: &Id) -> Health {
        const NEITHER: Health = Health {
            started: false,
            ready: false,
        };
        match self.0.pods.container(id) {
            Ok(view) => self.health_of(&view),
            Err(_) => NEITHER,
        }
    }

    fn health_of(&self, view: &ContainerView) -> Health {
        let ward = self.known(&view.id);
        let starting = ward.as_ref().is_some_and(|ward| ward.kept().post_start_due);
        if !matches!(view.record.state, ContainerState::Running { .. }) || starting {
            return Health {
                started: false,
                ready: false,
            };
        }
        if view.record.config.probes.is_empty() {
            return Health {
                started: true,
                ready: true,
            };
        }
        // Until the engine has taken it up, it is as at its start.
        let unknown = || Health {
            started: view.record.config.probes.startup.is_none(),
            ready: false,
        };
        self.0.engine.health(&view.id).unwrap_or_else(unknown)
    }

    /// How one container fares.
    pub fn report(&self, view: &ContainerView) -> Report {
        let sandbox = self.0.pods.sandbox(&view.record.sandbox).ok().map(|view| view.record);
        let ips = match sandbox.as_ref().map(|sandbox| &sandbox.state) {
            Some(SandboxState::Ready(ready) | SandboxState::Stopping(ready)) => ready.ips.clone(),
            _ => Vec::new(),
        };
        let ward = self.known(&view.id);
        Report {
            container: view.id.clone(),
            sandbox: view.record.sandbox.clone(),
            name: view.record.config.name.clone(),
            pod: sandbox.map(|sandbox| sandbox.config.name).unwrap_or_default(),
            ips,
            running: matches!(view.record.state, ContainerState::Running { .. }),
            stopping: ward.is_some_and(|ward| lock(&ward.stop).is_some()),
            health: self.health_of(view),
            probes: self.probes_of(view),
        }
    }

    /// How all containers fare, the oldest first.
    pub fn reports(&self) -> Vec<Report> {
        self.0.pods.containers().iter().map(|view| self.report(view)).collect()
    }

    fn probes_of(&self, view: &ContainerView) -> Vec<ProbeReport> {
        let statuses = self.0.engine.results(&view.id);
        let ward = self.known(&view.id);
        let has = ProbeKind::ALL
            .into_iter()
            .filter(|kind| view.record.config.probes.get(*kind).is_some());
        has.map(|kind| {
            let status = statuses.iter().find(|status| status.kind == kind);
            let kept = ward.as_ref().map(|ward| ward.kept().probes).unwrap_or_default();
            let last = ward.as_ref().and_then(|ward| ward.last_check(kind));
            ProbeReport {
                kind,
                result: result(kind, status.map(|status| status.result), kept.get(kind)),
                run: status.map_or(0, |status| status.run),
                output: last.as_ref().map(|last| last.output.clone()).unwrap_or_default(),
                checked_at: last.map_or(0, |last| last.at),
                totals: status.map(|status| status.totals).unwrap_or_default(),
            }
        })
        .collect()
    }

    /// What became of a container's hooks.
    pub fn hooks(&self, id: &Id) -> Vec<HookReport> {
        let kept = self.known(id).map(|ward| ward.kept().hooks).unwrap_or_default();
        kept.into_iter().map(|(kind, run)| HookReport { kind, run }).collect()
    }

    /// The last events of a container, the oldest first.
    pub fn events_of(&self, id: &Id) -> Vec<Event> {
        self.known(id).map(|ward| ward.events()).unwrap_or_default()
    }
}
