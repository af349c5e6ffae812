//! What a pod is made with: the core and the images, as far as manifests need them. A seam for tests.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, watch};

use crate::image::Images;
use crate::lifecycle::Lifecycle;
use crate::model::Id;
use crate::model::container::ContainerConfig;
use crate::model::event::Event;
use crate::model::probe::Health;
use crate::model::sandbox::{Owner, SandboxConfig};
use crate::pod::{self, ContainerView, Pods, SandboxView};

/// Work on a pod. What changes something goes on when it is dropped; a pull is ended by that.
pub type Work<'a, T> = BoxFuture<'a, Result<T, pod::Error>>;

pub trait Engine: Send + Sync {
    /// The oldest first.
    fn sandboxes(&self) -> Vec<SandboxView>;
    /// The oldest first.
    fn containers(&self) -> Vec<ContainerView>;
    /// Changes whenever a sandbox or container does.
    fn changes(&self) -> watch::Receiver<u64>;
    /// What probes and hooks do, of all pods.
    fn events(&self) -> broadcast::Receiver<Event>;
    /// A container as its probes have it; of one that is not there, nothing.
    fn health(&self, id: &Id) -> Health;
    fn has_image<'a>(&'a self, reference: &'a str) -> Work<'a, bool>;
    fn pull<'a>(&'a self, reference: &'a str) -> Work<'a, ()>;
    fn run_sandbox(&self, config: SandboxConfig) -> Work<'_, Id>;
    fn stop_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()>;
    fn remove_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()>;
    fn create_container<'a>(&'a self, sandbox: &'a Id, config: ContainerConfig) -> Work<'a, Id>;
    fn start_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()>;
    fn stop_container<'a>(&'a self, id: &'a Id, grace: Duration) -> Work<'a, ()>;
    fn remove_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()>;
}

/// The real one.
pub struct House {
    pub lifecycle: Lifecycle,
    pub pods: Pods,
    pub images: Images,
}

impl Engine for House {
    fn sandboxes(&self) -> Vec<SandboxView> {
        self.pods.sandboxes()
    }

    fn containers(&self) -> Vec<ContainerView> {
        self.pods.containers()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.pods.changes()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.lifecycle.events()
    }

    fn health(&self, id: &Id) -> Health {
        self.lifecycle.health(id)
    }

    fn has_image<'a>(&'a self, reference: &'a str) -> Work<'a, bool> {
        Box::pin(async move { Ok(self.images.find(reference).await?.is_some()) })
    }

    fn pull<'a>(&'a self, reference: &'a str) -> Work<'a, ()> {
        Box::pin(async move { Ok(self.images.pull(reference, None, None).await.map(drop)?) })
    }

    fn run_sandbox(&self, config: SandboxConfig) -> Work<'_, Id> {
        Box::pin(self.pods.run_sandbox(config, "", Owner::Manifest))
    }

    fn stop_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(self.pods.stop_sandbox(id))
    }

    fn remove_sandbox<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(self.pods.remove_sandbox(id))
    }

    fn create_container<'a>(&'a self, sandbox: &'a Id, config: ContainerConfig) -> Work<'a, Id> {
        Box::pin(self.pods.create_container(sandbox, config))
    }

    fn start_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(self.lifecycle.start_container(id))
    }

    fn stop_container<'a>(&'a self, id: &'a Id, grace: Duration) -> Work<'a, ()> {
        Box::pin(self.lifecycle.stop_container(id, grace))
    }

    fn remove_container<'a>(&'a self, id: &'a Id) -> Work<'a, ()> {
        Box::pin(self.pods.remove_container(id))
    }
}
