//! `berth.v1.Probes`: how containers fare.

use std::collections::BTreeMap;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::stream::{Gone, Sender, stream};
use crate::lifecycle::{Lifecycle, ProbeReport, Report};
use crate::model::Id;
use crate::model::event::Event;
use crate::model::probe::ProbeResult;
use crate::pod::Pods;
use crate::proto::berth::watch_probes_response::{Synced, What};
use crate::proto::berth::{self, probe_health, probes_server};

/// The service.
pub struct ProbesFace {
    lifecycle: Lifecycle,
    pods: Pods,
}

impl ProbesFace {
    pub fn new(lifecycle: Lifecycle, pods: Pods) -> Self {
        Self { lifecycle, pods }
    }
}

#[tonic::async_trait]
impl probes_server::Probes for ProbesFace {
    async fn list(
        &self,
        request: Request<berth::ListProbesRequest>,
    ) -> Result<Response<berth::ListProbesResponse>, Status> {
        let filter = Filter(request.into_inner().filter.unwrap_or_default());
        let reports = self.lifecycle.reports();
        let wanted = reports.iter().filter(|report| filter.wants(report));
        Ok(Response::new(berth::ListProbesResponse {
            containers: wanted.map(health).collect(),
        }))
    }

    async fn watch(
        &self,
        request: Request<berth::WatchProbesRequest>,
    ) -> Result<Response<BoxStream<berth::WatchProbesResponse>>, Status> {
        let request = request.into_inner();
        let watcher = Watcher {
            events: request.events.then(|| self.lifecycle.events()),
            lifecycle: self.lifecycle.clone(),
            pods: self.pods.clone(),
            filter: Filter(request.filter.unwrap_or_default()),
            sent: BTreeMap::new(),
        };
        Ok(stream(|sender| watcher.run(sender)))
    }
}

/// Which containers a client wants to see.
struct Filter(berth::ProbesFilter);

impl Filter {
    fn wants(&self, report: &Report) -> bool {
        let wanted = &self.0;
        let matches = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        matches(&wanted.sandbox_id, report.sandbox.as_str())
            && matches(&wanted.container_id, report.container.as_str())
            && matches(&wanted.name, &report.pod.name)
            && matches(&wanted.namespace, &report.pod.namespace)
    }
}

/// One client that watches. It compares what it has sent last with what is now, so nothing of states is queued for it.
struct Watcher {
    lifecycle: Lifecycle,
    pods: Pods,
    filter: Filter,
    sent: BTreeMap<Id, berth::ContainerHealth>,
    events: Option<broadcast::Receiver<Event>>,
}

type Out = Sender<berth::WatchProbesResponse>;

impl Watcher {
    async fn run(mut self, sender: Out) -> Result<(), Gone> {
        let (mut pods, mut probes) = (self.pods.changes(), self.lifecycle.changes());
        self.send_changes(&sender).await?;
        send(&sender, What::Synced(Synced {})).await?;
        loop {
            tokio::select! {
                Ok(()) = pods.changed() => self.send_changes(&sender).await?,
                Ok(()) = probes.changed() => self.send_changes(&sender).await?,
                event = next(&mut self.events) => self.send_event(&sender, event).await?,
                () = sender.gone() => return Ok(()),
            }
        }
    }

    async fn send_changes(&mut self, sender: &Out) -> Result<(), Gone> {
        let reports = self.lifecycle.reports();
        let wanted = reports.iter().filter(|report| self.filter.wants(report));
        let now: BTreeMap<Id, _> = wanted
            .map(|report| (report.container.clone(), health(report)))
            .collect();
        for (id, health) in &now {
            if self.sent.get(id).is_none_or(|sent| differs(sent, health)) {
                send(sender, What::Container(health.clone())).await?;
                self.sent.insert(id.clone(), health.clone());
            }
        }
        let gone: Vec<Id> = self.sent.keys().filter(|id| !now.contains_key(*id)).cloned().collect();
        for id in gone {
            self.sent.remove(&id);
            send(sender, What::Removed(id.to_string())).await?;
        }
        Ok(())
    }

    async fn send_event(&self, sender: &Out, event: Result<Event, RecvError>) -> Result<(), Gone> {
        match event {
            Ok(event) if self.sent.contains_key(&event.container) => send(sender, What::Event(of_event(event))).await,
            Ok(_) => Ok(()),
            Err(RecvError::Lagged(lost)) => send(sender, What::LostEvents(lost)).await,
            // The daemon ends.
            Err(RecvError::Closed) => Err(Gone),
        }
    }
}

/// Whether a watcher wants to know: not for every check that says the same as the one before it.
fn differs(before: &berth::ContainerHealth, after: &berth::ContainerHealth) -> bool {
    let results = |health: &berth::ContainerHealth| -> Vec<_> {
        health
            .probes
            .iter()
            .map(|probe| (probe.kind.clone(), probe.result))
            .collect()
    };
    let state = |health: &berth::ContainerHealth| (health.running, health.started, health.ready, health.stopping);
    state(before) != state(after) || before.ips != after.ips || results(before) != results(after)
}

async fn send(sender: &Out, what: What) -> Result<(), Gone> {
    sender.send(berth::WatchProbesResponse { what: Some(what) }).await
}

/// The next event; never without a receiver.
async fn next(events: &mut Option<broadcast::Receiver<Event>>) -> Result<Event, RecvError> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

fn health(report: &Report) -> berth::ContainerHealth {
    berth::ContainerHealth {
        container_id: report.container.to_string(),
        sandbox_id: report.sandbox.to_string(),
        container: report.name.clone(),
        name: report.pod.name.clone(),
        namespace: report.pod.namespace.clone(),
        uid: report.pod.uid.clone(),
        ips: report.ips.iter().map(ToString::to_string).collect(),
        running: report.running,
        started: report.health.started,
        ready: report.health.ready,
        stopping: report.stopping,
        probes: report.probes.iter().map(probe).collect(),
    }
}

fn probe(report: &ProbeReport) -> berth::ProbeHealth {
    let result = match report.result {
        ProbeResult::Unknown => probe_health::Result::Unknown,
        ProbeResult::Success => probe_health::Result::Success,
        ProbeResult::Failure => probe_health::Result::Failure,
    };
    berth::ProbeHealth {
        kind: report.kind.name().to_owned(),
        result: result.into(),
        output: report.output.clone(),
        checked_at: report.checked_at,
    }
}

fn of_event(event: Event) -> berth::ContainerEvent {
    berth::ContainerEvent {
        at: event.at,
        sandbox_id: event.sandbox.to_string(),
        container_id: event.container.to_string(),
        container: event.name,
        r#type: event.severity.as_str().to_owned(),
        reason: event.reason.to_owned(),
        message: event.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_hears_of_results_and_not_of_every_check() {
        let probe = berth::ProbeHealth {
            kind: "readiness".to_owned(),
            ..Default::default()
        };
        let before = berth::ContainerHealth {
            running: true,
            probes: vec![probe],
            ..Default::default()
        };
        let mut after = before.clone();
        after.probes[0].output = "ok".to_owned();
        after.probes[0].checked_at = 7;
        assert!(!differs(&before, &after));
        after.probes[0].set_result(probe_health::Result::Success);
        assert!(differs(&before, &after));
        let ready = berth::ContainerHealth {
            ready: true,
            ..before.clone()
        };
        assert!(differs(&before, &ready));
    }
}
