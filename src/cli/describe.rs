//! `berth describe pod`: show all there is to know of a pod, as `kubectl describe pod` lays it out.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::ExitCode;

use super::sheet::{Sheet, table};
use super::time::{date, now, span};
use super::{Error, pods, summary};
use crate::proto::berth::container::{Ended, State};
use crate::proto::berth::events_response::Line;
use crate::proto::berth::{Container, EventsRequest, GetRequest, Pod};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod NAME…, or pod/NAME…
    #[arg(required = true, value_name = "pod NAME")]
    what: Vec<String>,
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
}

pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let names = super::pod_names(&args.what, &args.namespace, "describe")?;
    let mut client = pods(socket).await?;
    for (i, name) in names.into_iter().enumerate() {
        let name = Some(name);
        let pod = client.get(GetRequest { name: name.clone() }).await?.into_inner();
        let events = client.events(EventsRequest { name }).await?.into_inner();
        let parting = if i == 0 { "" } else { "\n\n" };
        print!("{parting}{}", describe(&pod, &events.lines, now()));
    }
    Ok(ExitCode::SUCCESS)
}

/// `now`: nanoseconds since the Unix epoch.
fn describe(pod: &Pod, events: &[Line], now: i64) -> String {
    let mut sheet = Sheet::default();
    identity(&mut sheet, pod);
    containers(&mut sheet, "Init Containers", &pod.init_containers);
    containers(&mut sheet, "Containers", &pod.containers);
    sheet.line(0, "Conditions:");
    let mut text = sheet.to_string();
    let conditions = pod.conditions.iter();
    let conditions = conditions.map(|condition| vec![format!("  {}", condition.r#type), truth(condition.met)]);
    let head = vec!["  Type".to_owned(), "Status".to_owned()];
    text += &table(&[head].into_iter().chain(conditions).collect::<Vec<_>>(), 2);
    let mut sheet = Sheet::default();
    volumes(&mut sheet, pod);
    sheet.pair(0, "QoS Class", &pod.qos_class);
    sheet.pair(0, "Restart Policy", &pod.restart_policy);
    text += &sheet.to_string();
    text + &event_table(events, now)
}

fn identity(sheet: &mut Sheet, pod: &Pod) {
    let name = pod.name.clone().unwrap_or_default();
    sheet.pair(0, "Name", name.name);
    sheet.pair(0, "Namespace", name.namespace);
    sheet.pair(0, "UID", &pod.uid);
    sheet.pair(0, "Start Time", date(pod.created_at));
    sheet.list(0, "Labels", sorted(&pod.labels, "="));
    sheet.list(0, "Annotations", sorted(&pod.annotations, ": "));
    sheet.pair(0, "Status", &pod.phase);
    sheet.pair(0, "Termination Grace Period", format!("{}s", pod.grace_seconds));
    if !pod.sandbox_id.is_empty() {
        sheet.pair(0, "Sandbox ID", &pod.sandbox_id);
    }
    sheet.pair(0, "IP", summary::ip(pod));
    if !pod.ips.is_empty() {
        sheet.line(0, "IPs:");
        pod.ips.iter().for_each(|ip| sheet.pair(1, "IP", ip));
    }
}

fn sorted(map: &HashMap<String, String>, between: &str) -> Vec<String> {
    let map: BTreeMap<_, _> = map.iter().collect();
    map.into_iter()
        .map(|(key, value)| format!("{key}{between}{value}"))
        .collect()
}

fn containers(sheet: &mut Sheet, title: &str, containers: &[Container]) {
    if containers.is_empty() {
        return;
    }
    sheet.line(0, format!("{title}:"));
    for container in containers {
        sheet.line(1, format!("{}:", container.name));
        origin(sheet, container);
        state(sheet, container);
        for (key, amounts) in [("Limits", &container.limits), ("Requests", &container.requests)] {
            if !amounts.is_empty() {
                sheet.line(2, format!("{key}:"));
                let amounts: BTreeMap<_, _> = amounts.iter().collect();
                amounts
                    .into_iter()
                    .for_each(|(name, amount)| sheet.pair(3, name, amount));
            }
        }
        for (key, probe) in [
            ("Liveness", &container.liveness),
            ("Readiness", &container.readiness),
            ("Startup", &container.startup),
        ] {
            if !probe.is_empty() {
                sheet.pair(2, key, probe);
            }
        }
        surroundings(sheet, container);
    }
}

/// What it is made of.
fn origin(sheet: &mut Sheet, container: &Container) {
    sheet.pair(2, "Container ID", &container.id);
    sheet.pair(2, "Image", &container.image);
    sheet.pair(2, "Image ID", &container.image_id);
    let ports = container.ports.iter();
    let ports: Vec<_> = ports.map(|port| format!("{}/{}", port.number, port.protocol)).collect();
    let key = if ports.len() > 1 { "Ports" } else { "Port" };
    sheet.list(2, key, (!ports.is_empty()).then(|| ports.join(", ")));
    for (key, words) in [("Command", &container.command), ("Args", &container.args)] {
        if !words.is_empty() {
            sheet.line(2, format!("{key}:"));
            let lines = words.iter().flat_map(|word| word.split('\n'));
            lines.for_each(|line| sheet.line(3, line));
        }
    }
}

fn state(sheet: &mut Sheet, container: &Container) {
    match container.state() {
        State::Waiting => {
            sheet.pair(2, "State", "Waiting");
            sheet.pair(3, "Reason", &container.reason);
            if !container.message.is_empty() {
                sheet.pair(3, "Message", &container.message);
            }
        }
        State::Running => {
            sheet.pair(2, "State", "Running");
            sheet.pair(3, "Started", date(container.started_at));
        }
        State::Exited => ended(
            sheet,
            "State",
            &Ended {
                reason: container.reason.clone(),
                message: container.message.clone(),
                exit_code: container.exit_code,
                started_at: container.started_at,
                finished_at: container.finished_at,
            },
        ),
    }
    if let Some(last) = &container.last {
        ended(sheet, "Last State", last);
    }
    sheet.pair(2, "Ready", truth(container.ready));
    sheet.pair(2, "Restart Count", container.restarts);
}

fn ended(sheet: &mut Sheet, key: &str, end: &Ended) {
    sheet.pair(2, key, "Terminated");
    sheet.pair(3, "Reason", &end.reason);
    if !end.message.is_empty() {
        sheet.list(3, "Message", end.message.trim().lines().map(str::to_owned));
    }
    sheet.pair(3, "Exit Code", end.exit_code);
    if end.started_at > 0 {
        sheet.pair(3, "Started", date(end.started_at));
    }
    sheet.pair(3, "Finished", date(end.finished_at));
}

fn surroundings(sheet: &mut Sheet, container: &Container) {
    match container.env.as_slice() {
        [] => sheet.pair(2, "Environment", "<none>"),
        env => {
            sheet.line(2, "Environment:");
            for variable in env {
                sheet.list(3, &variable.name, variable.value.split('\n').map(str::to_owned));
            }
        }
    }
    match container.mounts.as_slice() {
        [] => sheet.pair(2, "Mounts", "<none>"),
        mounts => {
            sheet.line(2, "Mounts:");
            for mount in mounts {
                let mode = if mount.read_only { "ro" } else { "rw" };
                sheet.line(3, format!("{} from {} ({mode})", mount.path, mount.volume));
            }
        }
    }
}

fn volumes(sheet: &mut Sheet, pod: &Pod) {
    if pod.volumes.is_empty() {
        return;
    }
    sheet.line(0, "Volumes:");
    for volume in &pod.volumes {
        sheet.line(1, format!("{}:", volume.name));
        match volume.host_path.as_str() {
            "" => sheet.pair(2, "Type", "EmptyDir (a directory that goes with the pod)"),
            path => {
                sheet.pair(2, "Type", "HostPath (a path of the node)");
                sheet.pair(2, "Path", path);
            }
        }
    }
}

fn event_table(events: &[Line], now: i64) -> String {
    if events.is_empty() {
        return "Events:  <none>\n".to_owned();
    }
    let row = |cells: [&str; 5]| cells.map(str::to_owned).to_vec();
    let mut rows = vec![
        row(["  Type", "Reason", "Age", "From", "Message"]),
        row(["  ----", "------", "----", "----", "-------"]),
    ];
    for event in events {
        let since = |at| span(at, now);
        let age = match event.count {
            0 | 1 => since(event.first),
            count => format!("{} (x{count} over {})", since(event.last), since(event.first)),
        };
        let kind = format!("  {}", event.r#type);
        rows.push(row([&kind, &event.reason, &age, "berth", event.message.trim()]));
    }
    format!("Events:\n{}", table(&rows, 2))
}

fn truth(truth: bool) -> String {
    if truth { "True" } else { "False" }.to_owned()
}

#[cfg(test)]
mod tests;
