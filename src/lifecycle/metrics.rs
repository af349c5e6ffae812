//! What probes come to in numbers, named and labelled as the kubelet's (pkg/kubelet/prober, prober_manager.go).

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::model::probe::ProbeKind;

/// The kubelet's are Prometheus' default ones, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Delays of starts are mostly far below a probe's shortest period, 10 ms; in seconds.
const DELAYS: [f64; 15] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0,
];

/// How one check ended, in the kubelet's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Successful,
    Failed,
    /// It could not be made.
    Unknown,
}

impl Checked {
    const ALL: [Self; 3] = [Self::Successful, Self::Failed, Self::Unknown];

    fn as_str(self) -> &'static str {
        match self {
            Self::Successful => "successful",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Whose probe it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub container: String,
    pub pod: String,
    pub namespace: String,
    pub pod_uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Total {
    probe_type: &'static str,
    result: &'static str,
    container: String,
    pod: String,
    namespace: String,
    pod_uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Took {
    probe_type: &'static str,
    container: String,
    pod: String,
    namespace: String,
}

/// The kinds alone: how punctual this berth is depends on no container.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    probe_type: &'static str,
}

type Histograms<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// The metrics of all probes.
pub struct Metrics {
    registry: Registry,
    totals: Family<Total, Counter>,
    took: Histograms<Took>,
    delays: Histograms<Kind>,
    missed: Family<Kind, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let (totals, missed) = (Family::default(), Family::default());
        let took = Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
        let delays = Histograms::new_with_constructor(|| Histogram::new(DELAYS));
        registry.register(
            // Counters are written with the suffix _total.
            "prober_probe",
            "Cumulative number of a liveness, readiness or startup probe for a container by result",
            totals.clone(),
        );
        registry.register(
            "prober_probe_duration_seconds",
            "Duration in seconds for a probe response",
            took.clone(),
        );
        registry.register(
            "berth_probe_start_delay_seconds",
            "How much later than it was due a probe began",
            delays.clone(),
        );
        registry.register(
            "berth_probe_missed",
            "Cumulative number of times that a probe was due while the one before it still ran",
            missed.clone(),
        );
        Self {
            registry,
            totals,
            took,
            delays,
            missed,
        }
    }
}

impl Metrics {
    /// Counts a check. Its time counts unless it failed, which is the kubelet's way, too.
    pub fn count(&self, subject: &Subject, kind: ProbeKind, checked: Checked, took: Duration) {
        self.totals.get_or_create(&total(subject, kind, checked)).inc();
        if checked != Checked::Failed {
            self.took
                .get_or_create(&duration(subject, kind))
                .observe(took.as_secs_f64());
        }
    }

    /// Counts how punctual a check was: by how much it began late, and how many were left out because of it.
    pub fn punctuality(&self, kind: ProbeKind, late: Duration, missed: u64) {
        let kind = Kind {
            probe_type: kind.title(),
        };
        self.delays.get_or_create(&kind).observe(late.as_secs_f64());
        self.missed.get_or_create(&kind).inc_by(missed);
    }

    /// Takes the series of a container that is gone away.
    pub fn forget(&self, subject: &Subject) {
        for kind in ProbeKind::ALL {
            for checked in Checked::ALL {
                self.totals.remove(&total(subject, kind, checked));
            }
            self.took.remove(&duration(subject, kind));
        }
    }

    /// All of them in OpenMetrics' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to memory does not fail");
        text
    }
}

fn total(subject: &Subject, kind: ProbeKind, checked: Checked) -> Total {
    let subject = subject.clone();
    Total {
        probe_type: kind.title(),
        result: checked.as_str(),
        container: subject.container,
        pod: subject.pod,
        namespace: subject.namespace,
        pod_uid: subject.pod_uid,
    }
}

fn duration(subject: &Subject, kind: ProbeKind) -> Took {
    let subject = subject.clone();
    Took {
        probe_type: kind.title(),
        container: subject.container,
        pod: subject.pod,
        namespace: subject.namespace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(pod: &str) -> Subject {
        Subject {
            container: "app".to_owned(),
            pod: pod.to_owned(),
            namespace: "default".to_owned(),
            pod_uid: format!("uid-of-{pod}"),
        }
    }

    #[test]
    fn checks_are_counted_under_the_kubelets_names() {
        let metrics = Metrics::default();
        let took = Duration::from_millis(3);
        metrics.count(&subject("web"), ProbeKind::Readiness, Checked::Successful, took);
        metrics.count(&subject("web"), ProbeKind::Readiness, Checked::Failed, took);
        let text = metrics.text();
        for line in [
            "prober_probe_total{probe_type=\"Readiness\",result=\"successful\",container=\"app\",pod=\"web\",namespace=\"default\",pod_uid=\"uid-of-web\"} 1",
            "prober_probe_total{probe_type=\"Readiness\",result=\"failed\",container=\"app\",pod=\"web\",namespace=\"default\",pod_uid=\"uid-of-web\"} 1",
            "prober_probe_duration_seconds_count{probe_type=\"Readiness\",container=\"app\",pod=\"web\",namespace=\"default\"} 1",
            "prober_probe_duration_seconds_bucket{le=\"0.005\",probe_type=\"Readiness\",container=\"app\",pod=\"web\",namespace=\"default\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn how_late_checks_begin_and_how_many_are_left_out_is_told_by_kind() {
        let metrics = Metrics::default();
        metrics.punctuality(ProbeKind::Liveness, Duration::from_micros(700), 0);
        metrics.punctuality(ProbeKind::Liveness, Duration::from_millis(40), 2);
        let text = metrics.text();
        for line in [
            "berth_probe_start_delay_seconds_bucket{le=\"0.0005\",probe_type=\"Liveness\"} 0",
            "berth_probe_start_delay_seconds_bucket{le=\"0.001\",probe_type=\"Liveness\"} 1",
            "berth_probe_start_delay_seconds_count{probe_type=\"Liveness\"} 2",
            "berth_probe_missed_total{probe_type=\"Liveness\"} 2",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_series_of_a_container_that_is_gone_disappear_and_no_others() {
        let metrics = Metrics::default();
        for pod in ["web", "other"] {
            metrics.count(&subject(pod), ProbeKind::Liveness, Checked::Successful, Duration::ZERO);
        }
        metrics.forget(&subject("web"));
        let text = metrics.text();
        assert!(
            !text.contains("pod=\"web\"") && text.contains("pod=\"other\""),
            "{text}"
        );
    }
}
