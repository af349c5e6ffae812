//! `berth run`: run a Pod manifest and show what happens to it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{Error, manifest, pods};
use crate::proto::berth::event::What;
use crate::proto::berth::pods_client::PodsClient;
use crate::proto::berth::{DeleteRequest, Event, PodName, RunRequest};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest (YAML or JSON); - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Return once the pod is accepted; it goes on by itself
    #[arg(short, long)]
    detach: bool,
}

/// Runs the pod until it finishes or is deleted. SIGINT and SIGTERM delete it; a second one without a grace period.
/// The exit code is 1 if one of its containers failed for good.
pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let mut client = pods(socket).await?;
    // Heard from here on: a signal that comes before the pod is accepted deletes it all the same.
    let mut signals = Signals::new()?;
    let mut events = client
        .run(RunRequest {
            manifest: manifest(&args.file)?,
        })
        .await?
        .into_inner();
    let mut run = Run {
        client,
        name: None,
        interrupts: 0,
        deletions: Vec::new(),
    };
    loop {
        let event = tokio::select! {
            event = events.message() => event,
            () = signals.next() => {
                run.interrupts += 1;
                run.delete();
                continue;
            }
        };
        let Some(event) = event.map_err(|_| run.lost())? else {
            return Err(run.lost());
        };
        if let Some(What::Accepted(accepted)) = &event.what {
            run.name.clone_from(&accepted.name);
            run.delete();
        }
        if let Some(line) = describe(&event) {
            println!("{line}");
        }
        match event.what {
            Some(What::Accepted(_)) if args.detach => return Ok(ExitCode::SUCCESS),
            Some(What::Finished(finished)) if run.deletions.is_empty() => {
                let name = run.name.unwrap_or_default();
                println!("its logs stay until `berth delete pod {}`", path(&name));
                return Ok(if finished.succeeded {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::FAILURE
                });
            }
            Some(What::Deleted(_)) => return run.deleted().await,
            _ => {}
        }
    }
}

struct Run {
    client: PodsClient<Channel>,
    name: Option<PodName>,
    /// How often the user asked for the end.
    interrupts: usize,
    deletions: Vec<JoinHandle<Result<(), tonic::Status>>>,
}

impl Run {
    /// Asks for the pod's end as often as the user did: kindly the first time, at once the next.
    fn delete(&mut self) {
        let Some(name) = &self.name else { return };
        while self.deletions.len() < self.interrupts {
            let grace_seconds = (!self.deletions.is_empty()).then_some(0);
            if self.deletions.is_empty() {
                println!("deleting the pod (once more to kill it)");
            }
            let request = DeleteRequest {
                name: Some(name.clone()),
                grace_seconds,
            };
            let mut client = self.client.clone();
            self.deletions
                .push(tokio::spawn(async move { client.delete(request).await.map(drop) }));
        }
    }

    async fn deleted(self) -> Result<ExitCode, Error> {
        for deletion in self.deletions {
            match deletion.await {
                // It was gone before this one came.
                Ok(Err(status)) if status.code() == tonic::Code::NotFound => {}
                Ok(result) => result?,
                Err(_) => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The daemon is gone.
    fn lost(&self) -> Error {
        let name = self.name.as_ref().map(path).unwrap_or_default();
        Error::Usage(format!(
            "the daemon went away; pod {name} goes on, and `berth run` is no longer watching it"
        ))
    }
}

fn path(name: &PodName) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let handler = |kind| signal(kind).map_err(Error::io("cannot handle signals"));
        Ok(Self {
            interrupt: handler(SignalKind::interrupt())?,
            terminate: handler(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// An event as a line.
fn describe(event: &Event) -> Option<String> {
    let what = match event.what.as_ref()? {
        What::Accepted(accepted) => format!("pod {} accepted", accepted.name.as_ref().map(path).unwrap_or_default()),
        What::Pulling(pulling) => format!("pulling {}", pulling.image),
        What::Pulled(pulled) if pulled.present => format!("image {} is present", pulled.image),
        What::Pulled(pulled) => format!("pulled {}", pulled.image),
        What::Created(created) if created.attempt > 0 => format!("created (restart {})", created.attempt),
        What::Created(_) => "created".to_owned(),
        What::Started(_) => "started".to_owned(),
        What::Exited(exited) => {
            let message = if exited.message.is_empty() {
                String::new()
            } else {
                format!(": {}", exited.message)
            };
            format!("exited with code {} ({}){message}", exited.code, exited.reason)
        }
        What::BackOff(back_off) => format!("starts again in {}", until(back_off.until)),
        What::Running(running) if running.ips.is_empty() => "running on the node's network".to_owned(),
        What::Running(running) => format!("running, pod IP {}", running.ips.join(", ")),
        What::Failed(failed) => format!("failed: {}; tries again in {}", failed.message, until(failed.retry_at)),
        What::Finished(finished) if finished.succeeded => "finished: Succeeded".to_owned(),
        What::Finished(_) => "finished: Failed".to_owned(),
        What::Lost(_) => "the pod's sandbox is lost; begins anew".to_owned(),
        What::Told(told) => format!("{}: {}", told.reason, told.message),
        What::Deleting(_) => "being deleted".to_owned(),
        What::Deleted(_) => "deleted".to_owned(),
    };
    Some(if event.container.is_empty() {
        what
    } else {
        format!("{}: {what}", event.container)
    })
}

/// The time from now to `time` (nanoseconds since the Unix epoch), to the second.
fn until(time: i64) -> humantime::FormattedDuration {
    let time = UNIX_EPOCH + Duration::from_nanos(u64::try_from(time).unwrap_or(0));
    let left = time.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    humantime::format_duration(Duration::from_secs(left.as_secs_f64().round() as u64))
}
