//! `berth get pods`: show pods.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::{Error, pods};
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
        output => print!("{}", table(&rows(&listed, output == Output::Wide))),
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
        let ready = pod
            .containers
            .iter()
            .filter(|container| container.state() == State::Running)
            .count();
        let restarts: u32 = pod.containers.iter().map(|container| container.restarts).sum();
        let mut row = vec![
            name.namespace,
            name.name,
            format!("{ready}/{}", pod.containers.len()),
            status(pod),
            restarts.to_string(),
            age(pod.created_at),
            ip(pod),
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

/// The phase, or what says more: how far the init containers are, why a container does not run.
fn status(pod: &Pod) -> String {
    if !matches!(pod.phase.as_str(), "Pending" | "Running") {
        return pod.phase.clone();
    }
    let failed = |container: &&Container| container.state() == State::Exited && container.exit_code != 0;
    let succeeded = |container: &&Container| container.state() == State::Exited && container.exit_code == 0;
    let done = pod.init_containers.iter().filter(succeeded).count();
    if let Some(init) = pod.init_containers.iter().find(failed) {
        return format!("Init:{}", init.reason);
    }
    if done < pod.init_containers.len() {
        return format!("Init:{done}/{}", pod.init_containers.len());
    }
    match pod
        .containers
        .iter()
        .find(|container| container.state() == State::Exited)
    {
        Some(container) => container.reason.clone(),
        None => pod.phase.clone(),
    }
}

fn ip(pod: &Pod) -> String {
    match pod.ips.first() {
        Some(ip) => ip.clone(),
        None if pod.host_network => "(node)".to_owned(),
        None => "-".to_owned(),
    }
}

/// The time since `created_at` in its largest unit, as in `5m`.
fn age(created_at: i64) -> String {
    let since = UNIX_EPOCH + Duration::from_nanos(u64::try_from(created_at).unwrap_or(0));
    let seconds = SystemTime::now().duration_since(since).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Columns as wide as their widest cell, three blanks apart.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .enumerate()
            .map(|(i, cell)| format!("{cell:width$}", width = width(i)));
        text += cells.collect::<Vec<_>>().join("   ").trim_end();
        text.push('\n');
    }
    text
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
        "startedAt": container.started_at,
    });
    if container.state() == State::Exited {
        value["exitCode"] = container.exit_code.into();
        value["reason"] = container.reason.clone().into();
        value["finishedAt"] = container.finished_at.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: State, exit_code: i32, reason: &str) -> Container {
        let mut container = Container {
            exit_code,
            reason: reason.to_owned(),
            ..Container::default()
        };
        container.set_state(state);
        container
    }

    #[test]
    fn the_status_says_what_keeps_a_pod_from_running() {
        let pod = |phase: &str, init_containers: Vec<Container>, containers: Vec<Container>| {
            status(&Pod {
                phase: phase.to_owned(),
                init_containers,
                containers,
                ..Pod::default()
            })
        };
        let (waiting, running) = (container(State::Waiting, 0, ""), container(State::Running, 0, ""));
        let (done, failed) = (
            container(State::Exited, 0, "Completed"),
            container(State::Exited, 1, "Error"),
        );
        assert_eq!(
            pod("Pending", vec![done.clone(), running.clone()], vec![waiting.clone()]),
            "Init:1/2"
        );
        assert_eq!(pod("Pending", vec![failed.clone()], vec![waiting]), "Init:Error");
        assert_eq!(pod("Running", vec![done.clone()], vec![running.clone()]), "Running");
        assert_eq!(pod("Running", vec![], vec![running, failed]), "Error");
        assert_eq!(pod("Succeeded", vec![], vec![done]), "Succeeded");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "B"], ["longer", ""], ["x", "y"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "A        B\nlonger\nx        y\n");
    }
}
