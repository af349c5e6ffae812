//! One pod's task: look, plan, do, wait for a change, until the pod is deleted.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::watch;

use super::announce::Announcer;
use super::engine::Engine;
use super::events::{Happening, Journal, Trouble};
use super::failures::{Failures, nanos, rest};
use super::observe::Observed;
use super::plan::{Step, Subject, plan};
use super::pod::{Container, Pod, PullPolicy};
use super::store::{self, Store};
use super::{now, request, resolver};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::ContainerState;
use crate::pod;

/// How long events wait to be written, so that many are written at once.
const KEEP_EVENTS_AFTER: Duration = Duration::from_secs(1);
/// A deletion that fails must not rest for minutes.
const DELETION_REST: Duration = Duration::from_secs(10);

pub struct Worker {
    pub pod: Arc<Pod>,
    pub engine: Arc<dyn Engine>,
    pub store: Store,
    pub journal: Arc<Journal>,
    /// Seconds of grace, once the pod is to be deleted.
    pub deletion: watch::Receiver<Option<u32>>,
    /// The node's, in bytes.
    pub memory: i64,
    /// The pods'; None: the node's.
    pub resolv_conf: Option<PathBuf>,
    pub announcer: Announcer,
    pub failures: Arc<Mutex<Failures>>,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Pod(#[from] pod::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Resolver(#[from] resolver::Error),
    #[error("image {0:?} is not present, and imagePullPolicy is Never")]
    NeverPulled(String),
    #[error("cannot pull {image}: {source}")]
    Pull { image: String, source: pod::Error },
    /// The pod is to be deleted: what could wait was given up.
    #[error("the pod is being deleted")]
    Deleted,
}

impl Worker {
    /// Keeps the pod as its manifest says until it is to be deleted, then deletes it.
    pub async fn run(mut self) {
        let keeping = keep_events(self.store.clone(), Arc::clone(&self.pod), Arc::clone(&self.journal));
        tokio::select! {
            () = self.live() => {}
            never = keeping => match never {},
        }
        self.delete().await;
    }

    /// Until the pod is to be deleted.
    async fn live(&mut self) {
        let mut changes = self.engine.changes();
        while self.deletion.borrow().is_none() {
            changes.borrow_and_update();
            let steps = self.look();
            let mut until = None;
            for step in &steps {
                match step {
                    Step::Wait { until: time } => until = Some(*time),
                    step => self.attempt(step).await,
                }
            }
            if steps.iter().any(|step| !matches!(step, Step::Wait { .. })) {
                continue;
            }
            tokio::select! {
                _ = changes.changed() => {}
                _ = self.deletion.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Tells what is new and says what to do.
    fn look(&mut self) -> Vec<Step> {
        let now = now();
        let observed = Observed::of(&self.pod, &*self.engine);
        let mut actual = observed.actual(&self.pod, &self.store);
        let ending = self.deletion.borrow().is_some();
        self.announcer
            .look(&self.pod, &observed, &actual, ending, &self.journal);
        actual.held = self.failures().held();
        plan(&self.pod, &actual, now)
    }

    /// Does a step. One that fails is told and rests for a while.
    async fn attempt(&mut self, step: &Step) {
        if self.deletion.borrow().is_some() {
            return;
        }
        let Some(subject) = step.subject() else { return };
        match self.perform(step).await {
            Ok(()) => self.failures().succeeded(&subject),
            Err(Error::Deleted) => {}
            Err(error) => self.failed(subject, &error),
        }
    }

    fn failed(&self, subject: Subject, error: &Error) {
        tracing::warn!(pod = %self.pod.name, ?subject, %error, "a step of a pod failed");
        let (now, message, trouble) = (now(), error.to_string(), trouble(&subject, error));
        let name = match &subject {
            Subject::Container(name) => Some(name.clone()),
            Subject::Sandbox => None,
        };
        let retry_at = self.failures().failed(subject, trouble.clone(), message.clone(), now);
        let what = Happening::Failed {
            trouble,
            message,
            retry_at,
        };
        self.journal.push(now, name.as_deref(), what);
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn perform(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::RunSandbox => self.run_sandbox().await?,
            Step::StopSandbox(id) => self.engine.stop_sandbox(id).await?,
            Step::RemoveSandbox(id) => {
                self.journal.push(now(), None, Happening::Lost);
                self.engine.remove_sandbox(id).await?;
            }
            Step::Launch {
                sandbox,
                name,
                attempt,
                delay_s,
            } => {
                self.launch(sandbox, name, *attempt, *delay_s).await?;
            }
            Step::Start { id, .. } => self.start(id).await?,
            Step::Forget { id, .. } => self.engine.remove_container(id).await?,
            Step::Wait { .. } => {}
        }
        Ok(())
    }

    async fn run_sandbox(&self) -> Result<(), Error> {
        for container in self.pod.all_containers() {
            self.prepare(container).await?;
        }
        let dns = match self.resolv_conf.clone() {
            Some(path) => Some(blocking(move || resolver::read(&path)).await?),
            None => None,
        };
        let config = request::sandbox(&self.pod, dns, &self.store.logs(&self.pod));
        self.engine.run_sandbox(config).await?;
        Ok(())
    }

    async fn launch(&mut self, sandbox: &Id, name: &str, attempt: u32, delay_s: u64) -> Result<(), Error> {
        let pod = Arc::clone(&self.pod);
        let container = pod.container(name).expect("plans are about the pod's containers");
        self.prepare(container).await?;
        self.image(container).await?;
        let volumes = self.store.volumes(&pod);
        let config = request::container(&pod, container, attempt, delay_s, &volumes, self.memory);
        let id = self.engine.create_container(sandbox, config).await?;
        self.look();
        self.start(&id).await
    }

    /// Starts a container. That its process could not be started, or its postStart hook failed, is its end, which its
    /// restart policy deals with. A pod that is to be deleted waits for no hook; its stop ends that.
    async fn start(&self, id: &Id) -> Result<(), Error> {
        let mut deletion = self.deletion.clone();
        let started = tokio::select! {
            started = self.engine.start_container(id) => started,
            _ = deletion.wait_for(Option::is_some) => return Err(Error::Deleted),
        };
        let ended = |view: pod::ContainerView| view.id == *id && matches!(view.record.state, ContainerState::Exited(_));
        match started {
            Err(error) if self.engine.containers().into_iter().any(ended) => {
                tracing::warn!(pod = %self.pod.name, ?id, %error, "a container could not be started");
                Ok(())
            }
            started => Ok(started?),
        }
    }

    async fn prepare(&self, container: &Container) -> Result<(), Error> {
        let (store, pod, container) = (self.store.clone(), Arc::clone(&self.pod), container.clone());
        let prepared = blocking(move || store.prepare(&pod, &container));
        Ok(effect("manifest.prepare", prepared).await?)
    }

    /// Has the image, by the container's policy. Given up when the pod is to be deleted.
    async fn image(&mut self, container: &Container) -> Result<(), Error> {
        let image = &container.image;
        let tell = |what| self.journal.push(now(), Some(&container.name), what);
        let present = match container.pull {
            PullPolicy::Always => false,
            PullPolicy::IfNotPresent | PullPolicy::Never => self.engine.has_image(image).await?,
        };
        let mut took = None;
        if !present {
            if container.pull == PullPolicy::Never {
                return Err(Error::NeverPulled(image.clone()));
            }
            tell(Happening::Pulling { image: image.clone() });
            let begin = Instant::now();
            let mut deletion = self.deletion.clone();
            tokio::select! {
                pulled = self.engine.pull(image) => {
                    pulled.map_err(|source| Error::Pull { image: image.clone(), source })?;
                }
                _ = deletion.wait_for(Option::is_some) => return Err(Error::Deleted),
            }
            took = Some(begin.elapsed());
        }
        tell(Happening::Pulled {
            image: image.clone(),
            took,
        });
        Ok(())
    }

    async fn delete(&mut self) {
        self.journal.push(now(), None, Happening::Deleting);
        let mut count = 0;
        while let Err(error) = self.try_delete().await {
            let rest = rest(count).min(DELETION_REST);
            tracing::warn!(pod = %self.pod.name, %error, "cannot delete a pod yet");
            let retry_at = now().saturating_add(nanos(rest));
            self.journal.push(
                now(),
                None,
                Happening::Failed {
                    trouble: Trouble::Deletion,
                    message: error.to_string(),
                    retry_at,
                },
            );
            tokio::time::sleep(rest).await;
            count += 1;
        }
    }

    async fn try_delete(&mut self) -> Result<(), Error> {
        self.stop_containers().await?;
        self.look();
        for sandbox in Observed::of(&self.pod, &*self.engine).sandboxes {
            self.engine.remove_sandbox(&sandbox.id).await?;
        }
        let (store, pod) = (self.store.clone(), Arc::clone(&self.pod));
        Ok(effect("manifest.forget", blocking(move || store.forget(&pod))).await?)
    }

    /// Ends the containers, all at once. A grace period that is shortened meanwhile is.
    async fn stop_containers(&mut self) -> Result<(), Error> {
        let observed = Observed::of(&self.pod, &*self.engine);
        let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        let running: Vec<_> = observed
            .containers
            .into_iter()
            .filter(|view| running(&view.record.state))
            .collect();
        loop {
            let grace_s = self.deletion.borrow_and_update().unwrap_or(self.pod.grace_s);
            let grace = Duration::from_secs(grace_s.into());
            let stops = join_all(running.iter().map(|view| self.engine.stop_container(&view.id, grace)));
            tokio::select! {
                results = stops => {
                    for result in results {
                        result?;
                    }
                    return Ok(());
                }
                // The stops go on by themselves; those that come now have less patience.
                Ok(()) = self.deletion.changed() => {}
            }
        }
    }
}

/// What a step that failed so was about.
fn trouble(subject: &Subject, error: &Error) -> Trouble {
    match (subject, error) {
        (Subject::Sandbox, _) => Trouble::Sandbox,
        (_, Error::NeverPulled(image)) => Trouble::NeverPulled { image: image.clone() },
        (_, Error::Pull { image, .. }) => Trouble::Image { image: image.clone() },
        (Subject::Container(_), _) => Trouble::Container,
    }
}

/// Writes what a pod's events come to, a little after each change.
async fn keep_events(store: Store, pod: Arc<Pod>, journal: Arc<Journal>) -> Infallible {
    let mut changes = journal.changes();
    // What was told before this was first polled is to be written, too.
    changes.mark_changed();
    loop {
        // Its sender lives in the journal.
        changes.changed().await.ok();
        tokio::time::sleep(KEEP_EVENTS_AFTER).await;
        changes.borrow_and_update();
        // Small and not synced. Written here and now, it cannot come after the pod's directory is gone.
        if let Err(error) = store.keep_events(&pod, &journal.table()) {
            tracing::warn!(pod = %pod.name, %error, "cannot keep a pod's events");
        }
    }
}

/// Never, without a time.
async fn sleep_until(time: Option<i64>) {
    match time {
        Some(time) => {
            let left = u64::try_from(time.saturating_sub(now())).unwrap_or(0);
            // A little longer, so that the time is past for certain.
            tokio::time::sleep(Duration::from_nanos(left) + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("blocking work does not panic")
}
