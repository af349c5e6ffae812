//! What a verbose ContainerStatus tells of probes, hooks and events: JSON for people and tools.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::lifecycle::{HookReport, Lifecycle, ProbeReport};
use crate::model::event::Event;
use crate::pod::ContainerView;

/// `probes`, `hooks` and `events`, each one JSON text. Times are nanoseconds since the Unix epoch, as CRI's are.
pub fn info(lifecycle: &Lifecycle, view: &ContainerView) -> HashMap<String, String> {
    let report = lifecycle.report(view);
    let probes: serde_json::Map<_, _> = report
        .probes
        .iter()
        .map(|it| (it.kind.name().to_owned(), probe(it)))
        .collect();
    let hooks = lifecycle.hooks(&view.id);
    let hooks: serde_json::Map<_, _> = hooks.iter().map(|it| (it.kind.name().to_owned(), hook(it))).collect();
    let events: Vec<_> = lifecycle.events_of(&view.id).iter().map(event).collect();
    let mut health = json!({ "started": report.health.started, "ready": report.health.ready });
    for (kind, probe) in probes {
        health[kind] = probe;
    }
    HashMap::from([
        ("probes".to_owned(), health.to_string()),
        ("hooks".to_owned(), Value::Object(hooks).to_string()),
        ("events".to_owned(), Value::Array(events).to_string()),
    ])
}

fn probe(report: &ProbeReport) -> Value {
    json!({
        "result": report.result,
        "inARow": report.run,
        "output": report.output,
        "checkedAt": report.checked_at,
        "successful": report.totals.successful,
        "failed": report.totals.failed,
        "unknown": report.totals.unknown,
        "missed": report.totals.missed,
    })
}

fn hook(report: &HookReport) -> Value {
    let run = &report.run;
    json!({
        "outcome": run.outcome,
        "beganAt": run.began_at,
        "endedAt": run.ended_at,
        "runs": run.runs,
        "output": run.output,
    })
}

fn event(event: &Event) -> Value {
    json!({
        "at": event.at,
        "type": event.severity.as_str(),
        "reason": event.reason,
        "message": event.message,
    })
}
