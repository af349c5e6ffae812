//! The parts of `berth.v1.Pod`.

use std::collections::HashMap;

use crate::manifest::{Amounts, Condition, Container, ContainerStatus, Port, Source, State, Volume, VolumeMount};
use crate::model::container::Exit;
use crate::model::probe::ProbeKind;
use crate::model::sandbox::Protocol;
use crate::proto::berth;
use crate::proto::berth::container::{self, Ended};

/// How containers are, and what they were wanted to be, in the same order.
pub fn containers(statuses: &[ContainerStatus], wanted: &[Container]) -> Vec<berth::Container> {
    let pairs = statuses.iter().zip(wanted);
    pairs.map(|(status, wanted)| self::container(status, wanted)).collect()
}

fn container(status: &ContainerStatus, wanted: &Container) -> berth::Container {
    let probe = |kind| wanted.probes.get(kind).map(ToString::to_string).unwrap_or_default();
    let variable = |(name, value): &(String, String)| container::Variable {
        name: name.clone(),
        value: value.clone(),
    };
    let mut container = berth::Container {
        name: status.name.clone(),
        image: status.image.clone(),
        image_id: status.image_id.clone(),
        id: status.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        restarts: status.restarts,
        started: status.health.started,
        ready: status.health.ready,
        last: status.last.as_ref().map(ended),
        command: wanted.command.clone(),
        args: wanted.args.clone(),
        ports: wanted.ports.iter().map(port).collect(),
        limits: amounts(&wanted.limits),
        requests: amounts(&wanted.requests),
        liveness: probe(ProbeKind::Liveness),
        readiness: probe(ProbeKind::Readiness),
        startup: probe(ProbeKind::Startup),
        env: wanted.env.iter().map(variable).collect(),
        mounts: wanted.mounts.iter().map(mount).collect(),
        ..berth::Container::default()
    };
    set_state(&mut container, &status.state);
    container
}

fn set_state(container: &mut berth::Container, state: &State) {
    match state {
        State::Waiting { reason, message } => {
            container.set_state(container::State::Waiting);
            container.reason = (*reason).to_owned();
            container.message.clone_from(message);
        }
        State::Running { started_at } => {
            container.set_state(container::State::Running);
            container.started_at = *started_at;
        }
        State::Exited(exit) => {
            container.set_state(container::State::Exited);
            container.exit_code = exit.code;
            container.reason = exit.reason.as_str().to_owned();
            container.message.clone_from(&exit.message);
            container.started_at = exit.started_at;
            container.finished_at = exit.finished_at;
        }
    }
}

fn ended(exit: &Exit) -> Ended {
    Ended {
        reason: exit.reason.as_str().to_owned(),
        message: exit.message.clone(),
        exit_code: exit.code,
        started_at: exit.started_at,
        finished_at: exit.finished_at,
    }
}

fn port(port: &Port) -> container::Port {
    let protocol = match port.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    };
    container::Port {
        number: port.number.into(),
        protocol: protocol.to_owned(),
    }
}

fn mount(mount: &VolumeMount) -> container::Mount {
    container::Mount {
        path: mount.path.clone(),
        volume: mount.volume.clone(),
        read_only: mount.read_only,
    }
}

fn amounts(amounts: &Amounts) -> HashMap<String, String> {
    let cpu = amounts.cpu_milli.map(|milli| ("cpu", milli_cores(milli)));
    let memory = amounts.memory.map(|bytes| ("memory", memory(bytes)));
    let all = cpu.into_iter().chain(memory);
    all.map(|(name, amount)| (name.to_owned(), amount)).collect()
}

/// Whole cores where they are whole.
fn milli_cores(milli: i64) -> String {
    match milli % 1000 {
        0 => (milli / 1000).to_string(),
        _ => format!("{milli}m"),
    }
}

/// In the largest binary unit of which it is a whole number.
fn memory(bytes: i64) -> String {
    let units = [("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let whole = |(_, shift): &(&str, u32)| bytes > 0 && bytes % (1 << shift) == 0;
    match units.into_iter().find(whole) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

pub fn condition(condition: &Condition) -> berth::Condition {
    berth::Condition {
        r#type: condition.kind.to_owned(),
        met: condition.met,
    }
}

pub fn volume(volume: &Volume) -> berth::Volume {
    let host_path = match &volume.source {
        Source::EmptyDir => String::new(),
        Source::HostPath { path, .. } => path.display().to_string(),
    };
    berth::Volume {
        name: volume.name.clone(),
        host_path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_quantities() {
        assert_eq!([500, 1000, 2500, 0].map(milli_cores), ["500m", "1", "2500m", "0"]);
        let bytes = [64 << 20, 3 << 30, 1 << 40, 1000, 0].map(memory);
        assert_eq!(bytes, ["64Mi", "3Gi", "1Ti", "1000", "0"]);
    }
}
