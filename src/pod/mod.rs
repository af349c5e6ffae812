//! The core: sandboxes and containers, made, ended and remembered.
//!
//! One file per verb. Each verb checks everything first, then acts step by step; every effect is named (see
//! [`crate::failpoint`]) and has an idempotent inverse, and everything it makes is named after the sandbox's or
//! container's id alone (see [`paths`]). So undoing is one thing, whether a step failed, a client asked, or
//! [`recovery`] found a half-made sandbox after `kill -9`: the inverses, backwards.
//!
//! * A mutating verb runs as a task that the daemon owns ([`operation`]): a client that goes away changes nothing,
//!   and a repeat while it runs joins it.
//! * A sandbox's `claim` is held by whoever changes what the sandbox is made of, never while waiting for an exit.
//! * One task per running container waits for its end ([`exit`]); what containerd's Tasks.Wait says is the truth.

mod command;
mod container_create;
mod container_remove;
mod container_start;
mod container_stop;
mod container_update;
mod error;
mod exec;
mod exit;
mod host_paths;
mod log;
mod operation;
pub mod paths;
mod recovery;
mod registry;
mod sandbox_remove;
mod sandbox_run;
mod sandbox_stop;
mod shims;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::containerd::{self, RuncOptions};
use crate::image::Images;
use crate::model::Id;
use crate::model::record::{ContainerRecord, SandboxRecord};
use crate::network::Network;
use crate::{oci, sys};

pub use command::{Exec, cut};
pub use error::{Error, Kind};
pub use exec::{ExecOutput, ExecResult, MAX_OUTPUT};
use operation::Key;
pub use operation::{Operations, owned};
use paths::Paths;
use registry::Registry;
pub use shims::ShimSettings;
use shims::Shims;

/// The pods of this berth. Cheap to clone.
#[derive(Clone)]
pub struct Pods(Arc<Core>);

/// Everything the verbs work with.
struct Core {
    containerd: containerd::Client,
    images: Images,
    network: Network,
    settings: Settings,
    paths: Paths,
    registry: Registry,
    operations: Operations<Key>,
    shims: Shims,
}

/// What the composition root decides.
pub struct Settings {
    /// Six hexadecimal digits that no other berth on this host has.
    pub instance: String,
    pub paths: Paths,
    pub handlers: BTreeMap<String, Handler>,
    pub default_handler: String,
    pub shim: ShimSettings,
    /// What the host allows.
    pub host: oci::Host,
    pub cgroups: sys::cgroup::Version,
}

/// A runtime handler, ready for containerd.
#[derive(Clone)]
pub struct Handler {
    pub runtime_type: String,
    /// Whether the shim is berth's own.
    pub own_shim: bool,
    pub options: RuncOptions,
    pub snapshotter: String,
}

/// A sandbox as it is now.
#[derive(Debug, Clone)]
pub struct SandboxView {
    pub id: Id,
    pub record: SandboxRecord,
}

/// A container as it is now.
#[derive(Debug, Clone)]
pub struct ContainerView {
    pub id: Id,
    pub record: ContainerRecord,
    /// Where its log is; None: no log is kept.
    pub log_path: Option<PathBuf>,
}

impl Pods {
    pub fn new(containerd: containerd::Client, images: Images, network: Network, settings: Settings) -> Self {
        let paths = settings.paths.clone();
        let (registry, operations) = (Registry::default(), Operations::default());
        Self(Arc::new(Core {
            containerd,
            images,
            network,
            settings,
            paths,
            registry,
            operations,
            shims: Shims::default(),
        }))
    }

    /// The sandbox `id`.
    pub fn sandbox(&self, id: &Id) -> Result<SandboxView, Error> {
        let sandbox = self.0.registry.sandbox(id)?;
        Ok(SandboxView {
            id: id.clone(),
            record: sandbox.record(),
        })
    }

    /// All sandboxes, the oldest first.
    pub fn sandboxes(&self) -> Vec<SandboxView> {
        let views = self.0.registry.sandboxes().into_iter();
        let mut views: Vec<_> = views
            .map(|s| SandboxView {
                id: s.id.clone(),
                record: s.record(),
            })
            .collect();
        views.sort_by_key(|view| view.record.created_at);
        views
    }

    /// The container `id`.
    pub fn container(&self, id: &Id) -> Result<ContainerView, Error> {
        self.0.registry.container(id).map(|container| self.0.view(&container))
    }

    /// All containers, the oldest first.
    pub fn containers(&self) -> Vec<ContainerView> {
        let mut views: Vec<_> = self.0.registry.containers().iter().map(|c| self.0.view(c)).collect();
        views.sort_by_key(|view| view.record.created_at);
        views
    }

    /// The one sandbox whose id is, or starts with, `text`.
    pub fn resolve_sandbox(&self, text: &str) -> Result<Id, Error> {
        self.0.registry.resolve_sandbox(text)
    }

    /// The one container whose id is, or starts with, `text`.
    pub fn resolve_container(&self, text: &str) -> Result<Id, Error> {
        self.0.registry.resolve_container(text)
    }

    /// Changes whenever a sandbox or container does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.registry.changes()
    }

    /// Whether pods can have a network; the reason why not.
    pub async fn network_status(&self) -> Result<(), String> {
        self.0.network.status().await
    }

    /// Removes what this berth's pods had in common: the network and the root of their cgroups. To be called when no
    /// sandbox is left.
    pub async fn remove_common_ground(&self) -> Result<(), Error> {
        let network = self.0.network.down().await;
        self.0.remove_cgroup(self.0.paths.cgroup_root.clone()).await?;
        Ok(network?)
    }

    /// Whether containerd answers: its version, or why not.
    pub async fn containerd_status(&self) -> Result<String, containerd::Error> {
        self.0.containerd.version().await
    }

    /// The names of the runtime handlers, the default one first.
    pub fn handlers(&self) -> Vec<String> {
        let default = &self.0.settings.default_handler;
        let others = self.0.settings.handlers.keys().filter(|name| *name != default);
        std::iter::once(default).chain(others).cloned().collect()
    }

    /// The OCI runtime spec of a container, JSON, for a verbose status.
    pub async fn spec(&self, id: &Id) -> Result<Vec<u8>, Error> {
        Ok(self.0.containerd.spec(id).await?)
    }
}

impl Core {
    fn handler(&self, name: &str) -> Option<&Handler> {
        let name = if name.is_empty() {
            &self.settings.default_handler
        } else {
            name
        };
        self.settings.handlers.get(name)
    }

    fn view(&self, container: &registry::Container) -> ContainerView {
        let record = container.record();
        let log_path = self.log_path(&record);
        ContainerView {
            id: container.id.clone(),
            record,
            log_path,
        }
    }

    fn log_path(&self, record: &ContainerRecord) -> Option<PathBuf> {
        let sandbox = self.registry.sandbox(&record.sandbox).ok()?.record();
        let directory = sandbox.config.log_directory?;
        (!record.config.log_path.is_empty()).then(|| directory.join(&record.config.log_path))
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Runs blocking work (system calls that may wait) off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("blocking work does not panic")
}
