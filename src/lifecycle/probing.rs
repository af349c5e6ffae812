//! Probes of running containers: begun, ended, and what they find acted upon.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use super::metrics::Checked as Counted;
use super::texts;
use super::ward::{LastCheck, Probing, Ward, lock};
use super::{Lifecycle, grace, now};
use crate::dial::{Net, Target};
use crate::model::Id;
use crate::model::container::{ContainerState, Ending, Reason};
use crate::model::probe::ProbeKind;
use crate::model::sandbox::SandboxState;
use crate::pod::ContainerView;
use crate::probe::{self, Saved, Told, Verdict};

/// How long an end that could not be brought about rests before it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

impl Lifecycle {
    /// Looks after the probes of all containers, for ever. To be spawned once, after recovery.
    pub async fn keep(self, mut reports: probe::Reports) {
        let mut changes = self.0.pods.changes();
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.attend(),
                    Err(_) => return,
                },
                told = reports.next() => match told {
                    Some(told) => self.heed(told),
                    None => return,
                },
            }
        }
    }

    /// Begins the probes of containers that run now, ends those of containers that do not, and forgets containers that
    /// are gone.
    pub fn attend(&self) {
        // One at a time, so that nobody acts on an older look at containers than somebody before.
        let _attending = lock(&self.0.attending);
        // Before the containers are looked at: one that was known and is not seen is gone, one that comes is not.
        let known: Vec<Id> = lock(&self.0.wards).keys().cloned().collect();
        let views = self.0.pods.containers();
        for view in &views {
            match (&view.record.state, self.known(&view.id)) {
                (ContainerState::Running { .. }, _) => self.begin_probes(view),
                (ContainerState::Exited(_), Some(ward)) => self.end_probes(&ward),
                // One that is still to be started has no probes to end.
                _ => {}
            }
        }
        let there: BTreeSet<_> = views.iter().map(|view| &view.id).collect();
        let gone: Vec<_> = {
            let mut wards = lock(&self.0.wards);
            let ids = known.iter().filter(|id| !there.contains(id));
            ids.filter_map(|id| wards.remove(id)).collect()
        };
        for ward in gone {
            self.0.engine.stop(&ward.id);
            ward.forget();
            self.changed();
            let wards = lock(&self.0.wards);
            // A container's next attempt has the same series.
            if wards.values().all(|other| other.subject != ward.subject) {
                self.0.metrics.forget(&ward.subject);
            }
        }
    }

    fn begin_probes(&self, view: &ContainerView) {
        if view.record.config.probes.is_empty() {
            return;
        }
        let ward = self.ward(view);
        let ContainerState::Running { started_at, .. } = view.record.state else {
            return;
        };
        let kept = ward.kept();
        if kept.post_start_due || !ward.set_probing(Probing::On) {
            return;
        }
        let subject = probe::Subject {
            container: view.id.clone(),
            sandbox: view.record.sandbox.clone(),
            name: ward.name.clone(),
            started_at,
            target: self.target(&view.record.sandbox),
            probes: view.record.config.probes.clone(),
        };
        let saved = kept.probes;
        self.0
            .engine
            .start(subject, (saved != Saved::default()).then_some(saved));
        if *ward.stopping.borrow() {
            self.0.engine.deleting(&view.id);
        }
        self.changed();
    }

    fn end_probes(&self, ward: &Ward) {
        if ward.set_probing(Probing::Over) {
            self.0.engine.ended(&ward.id);
            self.changed();
        }
    }

    /// A container that is to end need not be found alive; whether it is ready still shows.
    pub(super) fn probe_only_readiness(&self, ward: &Ward) {
        self.0.engine.deleting(&ward.id);
        self.changed();
    }

    /// Where checks of a pod begin and, when no host is named, go.
    pub(super) fn target(&self, sandbox: &Id) -> Target {
        let state = self.0.pods.sandbox(sandbox).map(|view| view.record.state);
        let Ok(SandboxState::Ready(ready) | SandboxState::Stopping(ready)) = state else {
            return Target {
                net: Net::Host,
                ip: None,
            };
        };
        match ready.pins.net {
            Some(pin) => Target {
                net: Net::Pinned(pin.path),
                ip: ready.ips.first().copied(),
            },
            // A pod on the node's network has the node's address.
            None => Target {
                net: Net::Host,
                ip: Some(node_ip()),
            },
        }
    }

    fn heed(&self, told: Told) {
        match told {
            Told::Changed(changed) => {
                let Some(ward) = self.known(&changed.subject.container) else {
                    return;
                };
                let end = changed.saved.end.clone();
                ward.keep(|kept| kept.probes = changed.saved);
                self.changed();
                if let Some(end) = end {
                    self.end_for_probe(ward, end);
                }
            }
            Told::Checked(checked) => {
                if let Some(ward) = self.known(&checked.subject.container) {
                    self.note(&ward, checked);
                }
            }
        }
    }

    fn note(&self, ward: &Ward, checked: probe::Checked) {
        let probe::Checked {
            kind,
            verdict,
            output,
            took,
            late,
            missed,
            ..
        } = checked;
        let (counted, text) = match verdict {
            Verdict::Success => (Counted::Successful, None),
            Verdict::Warning => (Counted::Successful, Some(texts::probe_warned(kind, &output))),
            Verdict::Failure => (Counted::Failed, Some(texts::probe_failed(kind, &output))),
            Verdict::Unknown => (Counted::Unknown, Some(texts::probe_errored(kind, &output))),
        };
        self.0.metrics.count(&ward.subject, kind, counted, took);
        self.0.metrics.punctuality(kind, late, missed);
        ward.checked(kind, LastCheck { at: now(), output });
        if let Some(text) = text {
            self.tell(ward, text);
        }
    }

    /// Ends a container whose probe has failed, in a task of the daemon's.
    pub(super) fn end_for_probe(&self, ward: Arc<Ward>, end: probe::End) {
        let this = self.clone();
        tokio::spawn(async move {
            let reason = match end.kind {
                ProbeKind::Startup => Reason::StartupProbeFailed,
                ProbeKind::Liveness | ProbeKind::Readiness => Reason::LivenessProbeFailed,
            };
            let message = texts::bounded(&end.output);
            while let Ok(view) = this.0.pods.container(&ward.id) {
                let config = &view.record.config;
                let own = config.probes.get(end.kind).and_then(|probe| probe.grace_s);
                let cause = Ending {
                    reason,
                    message: message.clone(),
                };
                match this.end(&ward.id, cause, grace::of(&config.annotations, own)).await {
                    Ok(()) => break,
                    Err(error) => tracing::error!(id = ?ward.id, %error, "cannot end a container; trying again"),
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

/// The address that this node would speak to others from. Nothing is sent: connecting a datagram socket only asks the
/// kernel for a route, here to an address that documentation reserves (RFC 5737).
fn node_ip() -> IpAddr {
    let asked = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    };
    asked().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}
