//! The kubelet's words for what probes and hooks do (pkg/kubelet/events, prober.go, kuberuntime_container.go), and
//! berth's own where a kubelet says nothing.

use std::time::Duration;

use crate::model::container::Reason;
use crate::model::event::Severity;
use crate::model::probe::ProbeKind;
use crate::pod::cut;

/// An event before it is known when and of which container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
}

/// Of a hook's or probe's output, what an event and a status hold at most, in bytes: the kubelet's cap for probes.
pub const MAX_OUTPUT: usize = 10 << 10;

fn warning(reason: &'static str, message: String) -> Text {
    Text {
        severity: Severity::Warning,
        reason,
        message,
    }
}

fn normal(reason: &'static str, message: String) -> Text {
    Text {
        severity: Severity::Normal,
        reason,
        message,
    }
}

pub fn probe_failed(kind: ProbeKind, output: &str) -> Text {
    warning("Unhealthy", format!("{} probe failed: {output}", kind.title()))
}

/// A check that could not be made says nothing about the container; the kubelet's state for it is Unknown.
pub fn probe_errored(kind: ProbeKind, error: &str) -> Text {
    warning(
        "Unhealthy",
        format!("{} probe errored and resulted in unknown state: {error}", kind.title()),
    )
}

pub fn probe_warned(kind: ProbeKind, output: &str) -> Text {
    warning("ProbeWarning", format!("{} probe warning: {output}", kind.title()))
}

/// A container is about to be ended: for a cause of berth's, or because a client wants it so.
pub fn killing(name: &str, cause: Option<Reason>) -> Text {
    let message = match cause {
        Some(Reason::LivenessProbeFailed) => format!("Container {name} failed liveness probe, will be restarted"),
        Some(Reason::StartupProbeFailed) => format!("Container {name} failed startup probe, will be restarted"),
        Some(Reason::FailedPostStartHook) => "FailedPostStartHook".to_owned(),
        _ => format!("Stopping container {name}"),
    };
    normal("Killing", message)
}

/// Unlike the kubelet, which leaves the details out: a hook is never silent here. Who may read these events may run
/// commands in the container anyway.
pub fn post_start_failed(output: &str) -> Text {
    warning("FailedPostStartHook", with("PostStartHook failed", output))
}

pub fn pre_stop_failed(output: &str) -> Text {
    warning("FailedPreStopHook", with("PreStopHook failed", output))
}

pub fn pre_stop_overran(grace: Duration) -> Text {
    let message = format!(
        "PreStopHook cancelled: it did not end within the grace period of {} s",
        grace.as_secs_f64()
    );
    warning("FailedPreStopHook", message)
}

pub fn post_start_cancelled() -> Text {
    let message = "PostStartHook cancelled: the container is being stopped".to_owned();
    warning("FailedPostStartHook", message)
}

/// What an HTTPS hook found at `host` was a plain HTTP server.
pub fn fell_back(host: &str) -> Text {
    let message = format!("request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded");
    warning("LifecycleHTTPFallback", message)
}

fn with(what: &str, output: &str) -> String {
    match output.trim_end() {
        "" => what.to_owned(),
        output => format!("{what}: {}", bounded(output)),
    }
}

/// The beginning of a text.
pub fn bounded(text: &str) -> String {
    cut(text.to_owned(), MAX_OUTPUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_in_the_kubelets_words() {
        let said = |text: Text| format!("{} {}: {}", text.severity.as_str(), text.reason, text.message);
        assert_eq!(
            said(probe_failed(
                ProbeKind::Readiness,
                "HTTP probe failed with statuscode: 500"
            )),
            "Warning Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 500"
        );
        assert_eq!(
            said(probe_errored(ProbeKind::Startup, "no shim")),
            "Warning Unhealthy: Startup probe errored and resulted in unknown state: no shim"
        );
        assert_eq!(
            said(probe_warned(ProbeKind::Liveness, "Probe terminated redirects")),
            "Warning ProbeWarning: Liveness probe warning: Probe terminated redirects"
        );
        assert_eq!(
            said(killing("web", Some(Reason::LivenessProbeFailed))),
            "Normal Killing: Container web failed liveness probe, will be restarted"
        );
        assert_eq!(
            said(killing("web", Some(Reason::StartupProbeFailed))),
            "Normal Killing: Container web failed startup probe, will be restarted"
        );
        assert_eq!(
            said(killing("web", Some(Reason::FailedPostStartHook))),
            "Normal Killing: FailedPostStartHook"
        );
        assert_eq!(said(killing("web", None)), "Normal Killing: Stopping container web");
    }

    #[test]
    fn a_hooks_output_is_in_its_event_and_bounded() {
        assert_eq!(post_start_failed("").message, "PostStartHook failed");
        assert_eq!(
            pre_stop_failed("no such file\n").message,
            "PreStopHook failed: no such file"
        );
        let long = "é".repeat(MAX_OUTPUT);
        let message = pre_stop_failed(&long).message;
        assert!(message.len() <= MAX_OUTPUT + 40 && message.ends_with('é'));
    }
}
