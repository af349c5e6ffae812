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

type Histograms = Family<Took, Histogram, fn() -> Histogram>;

/// The metrics of all probes.
pub struct Metrics {
    registry: Registry,
    totals: Family<Total, Counter>,
    took: Histograms,
}

impl Default for Metrics {
    fn default() -> Self {
        let (mut registry, totals) = (Registry::default(), Family::default());
        let took = Histograms::new_with_constructor(|| Histogram::new(BUCKETS));
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
        Self { registry, totals, took }
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
