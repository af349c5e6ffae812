//! `berth get pods`: show pods.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::sheet::table;
use super::time::{now, span};
use super::{Error, pods, summary};
use crate::proto::berth::container::State;
use crate::proto::berth::{Container, ListRequest, Pod};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show
    #[arg(value_parser = ["pods", "pod", "po"])]
    kind: String,
    /// Only the pod of this name
    name: Option<String>,
    /// Only pods of this namespace [default: all]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// How to show them
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Wide,
    Json,
}

pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let request = ListRequest {
        namespace: args.namespace.unwrap_or_default(),
    };
    let mut listed = pods(socket).await?.list(request).await?.into_inner().pods;
    if let Some(name) = &args.name {
        listed.retain(|pod| pod.name.as_ref().is_some_and(|known| known.name == *name));
        if listed.is_empty() {
            return Err(Error::Usage(format!("there is no pod {name}")));
        }
    }
    match args.output {
        Output::Json => {
            let pods: Vec<_> = listed.iter().map(as_json).collect();
            println!("{:#}", json!({ "pods": pods }));
        }
        output => print!("{}", table(&rows(&listed, output == Output::Wide), 3)),
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(pods: &[Pod], wide: bool) -> Vec<Vec<String>> {
    let mut head = vec!["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP"];
    if wide {
        head.extend(["SANDBOX", "IMAGES"]);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    for pod in pods {
        let name = pod.name.clone().unwrap_or_default();
        let mut row = vec![
            name.namespace,
            name.name,
            summary::ready(pod),
            summary::status(pod),
            summary::restarts(pod, now()),
            span(pod.created_at, now()),
            summary::ip(pod).to_owned(),
        ];
        if wide {
            row.push(pod.sandbox_id.get(..13).unwrap_or("-").to_owned());
            row.push(
                pod.containers
                    .iter()
                    .map(|container| container.image.as_str())
                    .collect::<Vec<_>>()
                    .join(","),
            );
        }
        rows.push(row);
    }
    rows
}

fn as_json(pod: &Pod) -> Value {
    let name = pod.name.clone().unwrap_or_default();
    let containers = |containers: &[Container]| -> Value { containers.iter().map(container_as_json).collect() };
    json!({
        "name": name.name,
        "namespace": name.namespace,
        "uid": pod.uid,
        "createdAt": pod.created_at,
        "phase": pod.phase,
        "status": summary::status(pod),
        "ready": pod.containers.iter().all(|container| container.ready),
        "ips": pod.ips,
        "sandboxId": pod.sandbox_id,
        "hostNetwork": pod.host_network,
        "initContainers": containers(&pod.init_containers),
        "containers": containers(&pod.containers),
    })
}

fn container_as_json(container: &Container) -> Value {
    let state = match container.state() {
        State::Waiting => "Waiting",
        State::Running => "Running",
        State::Exited => "Exited",
    };
    let mut value = json!({
        "name": container.name,
        "image": container.image,
        "id": container.id,
        "restarts": container.restarts,
        "state": state,
        "started": container.started,
        "ready": container.ready,
        "startedAt": container.started_at,
    });
    if container.state() != State::Running {
        value["reason"] = container.reason.clone().into();
        value["message"] = container.message.clone().into();
    }
    if container.state() == State::Exited {
        value["exitCode"] = container.exit_code.into();
        value["finishedAt"] = container.finished_at.into();
    }
    if let Some(last) = &container.last {
        value["last"] = json!({
            "exitCode": last.exit_code,
            "reason": last.reason,
            "message": last.message,
            "startedAt": last.started_at,
            "finishedAt": last.finished_at,
        });
    }
    value
}
