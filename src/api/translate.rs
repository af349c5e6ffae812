//! Between `berth.v1`'s messages and the words of [`crate::manifest`].

use crate::manifest::{ContainerStatus, Event, Happening, PodName, PodStatus};
use crate::model::container::ContainerState;
use crate::proto::berth::{self, container, event};

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
        init_containers: init.iter().map(of_container).collect(),
        containers: main.iter().map(of_container).collect(),
        sandbox_id: status.sandbox.as_ref().map(ToString::to_string).unwrap_or_default(),
        host_network: pod.host_network,
    }
}

fn of_name(name: &PodName) -> berth::PodName {
    berth::PodName {
        name: name.name.clone(),
        namespace: name.namespace.clone(),
    }
}

fn of_container(status: &ContainerStatus) -> berth::Container {
    let mut container = berth::Container {
        name: status.name.clone(),
        image: status.image.clone(),
        id: status.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        restarts: status.restarts,
        ..berth::Container::default()
    };
    match &status.state {
        None | Some(ContainerState::Created) => container.set_state(container::State::Waiting),
        Some(ContainerState::Running { started_at, .. }) => {
            container.set_state(container::State::Running);
            container.started_at = *started_at;
        }
        Some(ContainerState::Exited(exit)) => {
            container.set_state(container::State::Exited);
            container.exit_code = exit.code;
            container.reason = exit.reason.as_str().to_owned();
            container.started_at = exit.started_at;
            container.finished_at = exit.finished_at;
        }
    }
    container
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
        Happening::Pulled { image, present } => What::Pulled(event::Pulled { image, present }),
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
        Happening::Failed { message, retry_at } => What::Failed(event::Failed { message, retry_at }),
        Happening::Finished { succeeded } => What::Finished(event::Finished { succeeded }),
        Happening::Lost => What::Lost(event::Lost {}),
        Happening::Deleting => What::Deleting(event::Deleting {}),
        Happening::Deleted => What::Deleted(event::Deleted {}),
    };
    berth::Event {
        at: event.at,
        container: event.container.unwrap_or_default(),
        what: Some(what),
    }
}
