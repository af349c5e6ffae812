//! Between `berth.v1`'s messages and the words of [`crate::manifest`].

use super::describe;
use crate::manifest::{Event, Happening, PodName, PodStatus, Table};
use crate::model::event::Severity;
use crate::proto::berth::{self, event};

/// An absent name is an empty one, which no pod has.
pub fn name_of(name: Option<berth::PodName>) -> PodName {
    let name = name.unwrap_or_default();
    let namespace = if name.namespace.is_empty() {
        "default".to_owned()
    } else {
        name.namespace
    };
    PodName {
        namespace,
        name: name.name,
    }
}

pub fn pod(status: &PodStatus) -> berth::Pod {
    let pod = &status.pod;
    let (init, main) = status.containers.split_at(pod.init.len());
    berth::Pod {
        name: Some(of_name(&pod.name)),
        uid: pod.uid.clone(),
        created_at: pod.created_at,
        phase: if status.deleting {
            "Terminating"
        } else {
            status.phase.as_str()
        }
        .to_owned(),
        ips: status.ips.iter().map(ToString::to_string).collect(),
        init_containers: describe::containers(init, &pod.init),
        containers: describe::containers(main, &pod.containers),
        sandbox_id: status.sandbox.as_ref().map(ToString::to_string).unwrap_or_default(),
        host_network: pod.host_network,
        labels: pod.labels.clone().into_iter().collect(),
        annotations: pod.annotations.clone().into_iter().collect(),
        conditions: status.conditions.iter().map(describe::condition).collect(),
        volumes: pod.volumes.iter().map(describe::volume).collect(),
        qos_class: pod.quality().as_str().to_owned(),
        restart_policy: pod.restart.as_str().to_owned(),
        grace_seconds: pod.grace_s,
    }
}

fn of_name(name: &PodName) -> berth::PodName {
    berth::PodName {
        name: name.name.clone(),
        namespace: name.namespace.clone(),
    }
}

/// An event of the pod `name`, `uid`.
pub fn event(name: &PodName, uid: &str, event: Event) -> berth::Event {
    use event::What;
    let what = match event.what {
        Happening::Accepted => What::Accepted(event::Accepted {
            name: Some(of_name(name)),
            uid: uid.to_owned(),
        }),
        Happening::Pulling { image } => What::Pulling(event::Pulling { image }),
        Happening::Pulled { image, took } => What::Pulled(event::Pulled {
            image,
            present: took.is_none(),
        }),
        Happening::Created { id, attempt } => What::Created(event::Created {
            id: id.to_string(),
            attempt,
        }),
        Happening::Started => What::Started(event::Started {}),
        Happening::Exited { code, reason, message } => What::Exited(event::Exited {
            code,
            reason: reason.as_str().to_owned(),
            message,
        }),
        Happening::BackOff { until } => What::BackOff(event::BackOff { until }),
        Happening::Running { ips } => What::Running(event::Running {
            ips: ips.iter().map(ToString::to_string).collect(),
        }),
        Happening::Failed { message, retry_at, .. } => What::Failed(event::Failed { message, retry_at }),
        Happening::Finished { succeeded } => What::Finished(event::Finished { succeeded }),
        Happening::Lost => What::Lost(event::Lost {}),
        Happening::Told {
            severity,
            reason,
            message,
        } => What::Told(event::Told {
            warning: severity == Severity::Warning,
            reason: reason.to_owned(),
            message,
        }),
        Happening::Deleting => What::Deleting(event::Deleting {}),
        Happening::Deleted => What::Deleted(event::Deleted {}),
    };
    berth::Event {
        at: event.at,
        container: event.container.unwrap_or_default(),
        what: Some(what),
    }
}

/// The events of a pod.
pub fn lines(table: Table) -> berth::EventsResponse {
    let mut lines = table.lines;
    lines.sort_by_key(|line| line.last);
    let line = |line: crate::manifest::Line| berth::events_response::Line {
        container: line.container.unwrap_or_default(),
        r#type: line.severity.as_str().to_owned(),
        reason: line.reason,
        message: line.message,
        first: line.first,
        last: line.last,
        count: line.count,
    };
    berth::EventsResponse {
        lines: lines.into_iter().map(line).collect(),
    }
}
