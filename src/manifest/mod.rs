//! Kubernetes Pod manifests without Kubernetes: `berth run -f pod.yaml`.
//!
//! ```text
//!   YAML ─ parse ─▶ Pod ─ plan(Pod, what is there) ─▶ steps ─ worker ─▶ the core
//!                    ▲                  ▲                                │
//!               kept on disk            └────────── records ◀────────────┘
//! ```
//!
//! [`parse`](mod@parse) checks a manifest whole and refuses by name what is not covered. [`plan`] is the pure
//! decision. One task per pod ([`worker`]) does what it says. A pod is kept on disk ([`store`]) before anything of it
//! is made and until everything of it is gone; what has come of it is in the core's records alone. So a berth that
//! was killed at any instant goes on where it was.
//!
//! What happens is streamed to whoever runs the pod and counted in the kubelet's words ([`events`], [`words`],
//! [`table`]); what its probes and hooks do comes from the lifecycle, through the [`engine`].
//!
//! Deliberately absent: a Succeeded container of an `OnFailure` pod runs again when the whole sandbox is lost (a boot
//! of the node), and logs are not rotated.

mod announce;
mod check;
mod engine;
mod events;
mod failures;
mod fields;
mod log;
mod names;
mod observe;
mod parse;
mod plan;
mod pod;
mod problem;
mod quantity;
mod request;
mod resolver;
mod status;
mod store;
mod table;
mod tree;
mod wire;
mod words;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use tokio::sync::{broadcast, watch};

use crate::failpoint::effect;
use crate::image::Images;
use crate::lifecycle::Lifecycle;
use crate::model::{Id, event};
use crate::pod::Pods;
use announce::Announcer;
use engine::{Engine, House};
use events::Journal;
use failures::Failures;
use observe::Observed;
use store::{Kept, Store};
use worker::Worker;

pub use events::{Event, Follower, Happening};
pub use log::LogReader;
pub use parse::parse;
pub use plan::Phase;
pub use pod::{Amounts, Container, Pod, PodName, Port, Source, Volume, VolumeMount};
pub use problem::{Problem, Problems, What};
pub use status::{Condition, ContainerStatus, PodStatus, State};
pub use table::{Line, Table};

/// The pods of this berth's manifests. Cheap to clone.
#[derive(Clone)]
pub struct Manifests(Arc<Shared>);

/// What the composition root decides.
pub struct Settings {
    /// What must survive a boot is below it.
    pub root: PathBuf,
    /// The resolv.conf that pods get; None: the node's.
    pub resolv_conf: Option<PathBuf>,
}

struct Shared {
    engine: Arc<dyn Engine>,
    store: Store,
    resolv_conf: Option<PathBuf>,
    /// The node's memory in bytes.
    memory: i64,
    pods: Mutex<BTreeMap<PodName, Entry>>,
    /// What probes and hooks do; taken by whoever listens.
    events: Mutex<Option<broadcast::Receiver<event::Event>>>,
}

/// A pod that is there until nothing of it is left.
#[derive(Clone)]
struct Entry {
    pod: Arc<Pod>,
    journal: Arc<Journal>,
    failures: Arc<Mutex<Failures>>,
    /// Seconds of grace, once it is to be deleted.
    deletion: watch::Sender<Option<u32>>,
}

/// Why something could not be done with manifests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Wrong(#[from] Problems),
    #[error("pod {name} exists already{}", if *deleting { " and is still being deleted" } else { "; delete it first" })]
    Exists { name: PodName, deleting: bool },
    #[error("there is no pod {0}")]
    NoPod(PodName),
    #[error("pod {pod} has no container {container:?}, only {}", known.join(", "))]
    NoContainer {
        pod: PodName,
        container: String,
        known: Vec<String>,
    },
    #[error("pod {pod} has several containers; name one of {}", known.join(", "))]
    WhichContainer { pod: PodName, known: Vec<String> },
    #[error("container {container} of pod {pod} is not running")]
    NotRunning { pod: PodName, container: String },
    #[error("container {container} of pod {pod} has not been started yet")]
    NotStarted { pod: PodName, container: String },
    #[error("cannot read the log of container {container}: {source}")]
    Log { container: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A container's log, and how to know that its end is the end.
pub struct Log {
    pub reader: LogReader,
    manifests: Manifests,
    id: Id,
}

impl Log {
    /// The next part; None: the end of the log, with `follow` that of the container's life.
    pub async fn next(&mut self, follow: bool) -> std::io::Result<Option<Vec<u8>>> {
        if !follow {
            return self.reader.next().await;
        }
        let engine = &self.manifests.0.engine;
        self.reader.follow(|| !status::is_running(&**engine, &self.id)).await
    }
}

impl Manifests {
    pub fn new(lifecycle: Lifecycle, pods: Pods, images: Images, settings: Settings) -> Self {
        let house = House {
            lifecycle,
            pods,
            images,
        };
        Self::with(Arc::new(house), settings)
    }

    fn with(engine: Arc<dyn Engine>, settings: Settings) -> Self {
        let (store, memory, pods) = (Store::new(&settings.root), node_memory(), Mutex::default());
        let events = Mutex::new(Some(engine.events()));
        Self(Arc::new(Shared {
            engine,
            store,
            resolv_conf: settings.resolv_conf,
            events,
            memory,
            pods,
        }))
    }

    /// Goes on with the pods that are kept on disk, and tells from now on what their probes and hooks do. To be called
    /// once, after the core has recovered.
    pub async fn recover(&self) {
        let store = self.0.store.clone();
        let loaded = tokio::task::spawn_blocking(move || store.load())
            .await
            .expect("loading does not panic");
        let (kept, errors) = loaded.unwrap_or_else(|error| (Vec::new(), vec![error]));
        for error in errors {
            tracing::error!(%error, "left alone a pod that cannot be read");
        }
        for Kept { pod, deleting, events } in kept {
            tracing::info!(pod = %pod.name, uid = pod.uid, "goes on");
            let entry = Entry::new(pod, deleting, events);
            self.lock().insert(entry.pod.name.clone(), entry.clone());
            self.spawn(entry);
        }
        let events = self.0.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(events) = events {
            tokio::spawn(self.clone().listen(events));
        }
    }

    /// Writes what would be written a moment later: berth is about to stop.
    pub fn keep_events(&self) {
        for entry in self.lock().values() {
            let kept = self.0.store.keep_events(&entry.pod, &entry.journal.table());
            if let Err(error) = kept {
                tracing::warn!(pod = %entry.pod.name, %error, "cannot keep a pod's events");
            }
        }
    }

    /// Passes on to the pods what their probes and hooks do.
    async fn listen(self, mut events: broadcast::Receiver<event::Event>) {
        loop {
            match events.recv().await {
                Ok(event) => self.tell(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "events of probes and hooks came too fast; pods do not show all");
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn tell(&self, event: event::Event) {
        let sandboxes = self.0.engine.sandboxes();
        let Some(sandbox) = sandboxes.iter().find(|view| view.id == event.sandbox) else {
            return;
        };
        let uid = &sandbox.record.config.name.uid;
        let journal = self
            .lock()
            .values()
            .find(|entry| entry.pod.uid == *uid)
            .map(|entry| Arc::clone(&entry.journal));
        // One made over CRI is nobody's here.
        let Some(journal) = journal else { return };
        let told = Happening::Told {
            severity: event.severity,
            reason: event.reason,
            message: event.message,
        };
        journal.push(event.at, Some(&event.name), told);
    }

    /// Makes the pod that `text` describes and gives its events. Once this has answered the pod is kept.
    pub async fn run(&self, text: &str) -> Result<(Arc<Pod>, Follower), Error> {
        let entry = Entry::new(parse(text, now())?, None, Table::default());
        let pod = Arc::clone(&entry.pod);
        self.reserve(&entry)?;
        let (manifests, kept) = (self.clone(), entry.clone());
        // A task of the daemon's: a client that leaves now does not leave half a pod.
        let keeping = tokio::spawn(async move {
            let (store, pod) = (manifests.0.store.clone(), Arc::clone(&kept.pod));
            let keep = tokio::task::spawn_blocking(move || store.keep(&pod));
            let result = effect("manifest.keep", keep).await.expect("keeping does not panic");
            match result {
                Ok(()) => manifests.spawn(kept),
                Err(_) => drop(manifests.lock().remove(&kept.pod.name)),
            }
            result
        });
        keeping.await.expect("keeping does not panic")?;
        Ok((pod, entry.journal.follow()))
    }

    /// By namespace and name.
    pub fn list(&self) -> Vec<PodStatus> {
        let entries: Vec<_> = self.lock().values().cloned().collect();
        entries.iter().map(|entry| self.status(entry)).collect()
    }

    pub fn get(&self, name: &PodName) -> Result<PodStatus, Error> {
        Ok(self.status(&self.entry(name)?))
    }

    /// What was told of a pod in the kubelet's words.
    pub fn events(&self, name: &PodName) -> Result<Table, Error> {
        Ok(self.entry(name)?.journal.table())
    }

    /// Ends a pod and removes all it had; answers when that is done. `grace_s`: what its containers get, instead of
    /// what the manifest says.
    pub async fn delete(&self, name: &PodName, grace_s: Option<u32>) -> Result<(), Error> {
        let entry = self.entry(name)?;
        let follower = entry.journal.follow();
        let manifests = self.clone();
        let marking = tokio::spawn(async move { manifests.mark(&entry, grace_s).await });
        marking.await.expect("marking does not panic")?;
        follower.end().await;
        Ok(())
    }

    /// Ends all pods.
    pub async fn delete_all(&self) -> Result<(), Error> {
        let names: Vec<_> = self.lock().keys().cloned().collect();
        let deleted = join_all(names.iter().map(|name| self.delete(name, None))).await;
        deleted
            .into_iter()
            .filter(|result| !matches!(result, Err(Error::NoPod(_))))
            .collect()
    }

    /// The id of a container that runs. An empty name: the pod's first.
    pub fn running(&self, pod: &PodName, container: &str) -> Result<Id, Error> {
        let status = self.get(pod)?;
        let container = if container.is_empty() {
            &status.pod.containers[0].name
        } else {
            container
        };
        let found = self.container(&status, container)?;
        let running = found.id.as_ref().filter(|id| status::is_running(&*self.0.engine, id));
        let refused = || Error::NotRunning {
            pod: pod.clone(),
            container: container.to_owned(),
        };
        running.cloned().ok_or_else(refused)
    }

    /// Opens the log of a container's latest life. An empty name: the pod's only container.
    pub async fn log(&self, pod: &PodName, container: &str, tail: Option<u32>) -> Result<Log, Error> {
        let status = self.get(pod)?;
        let container = match (container, status.pod.containers.as_slice()) {
            ("", [only]) => &only.name,
            ("", several) => {
                let known = several.iter().map(|container| container.name.clone()).collect();
                return Err(Error::WhichContainer {
                    pod: pod.clone(),
                    known,
                });
            }
            (name, _) => name,
        };
        let found = self.container(&status, container)?;
        let path = found.log.clone().filter(|path| path.exists());
        let (Some(id), Some(path)) = (found.id.clone(), path) else {
            return Err(Error::NotStarted {
                pod: pod.clone(),
                container: container.to_owned(),
            });
        };
        let failed = |source| Error::Log {
            container: container.to_owned(),
            source,
        };
        let reader = LogReader::open(&path, tail).await.map_err(failed)?;
        Ok(Log {
            reader,
            manifests: self.clone(),
            id,
        })
    }

    fn container<'a>(&self, status: &'a PodStatus, name: &str) -> Result<&'a ContainerStatus, Error> {
        status
            .containers
            .iter()
            .find(|container| container.name == name)
            .ok_or_else(|| Error::NoContainer {
                pod: status.pod.name.clone(),
                container: name.to_owned(),
                known: status
                    .pod
                    .all_containers()
                    .map(|container| container.name.clone())
                    .collect(),
            })
    }

    /// Takes the pod's name.
    fn reserve(&self, entry: &Entry) -> Result<(), Error> {
        let mut pods = self.lock();
        let name = &entry.pod.name;
        if let Some(there) = pods.get(name) {
            return Err(Error::Exists {
                name: name.clone(),
                deleting: there.deletion.borrow().is_some(),
            });
        }
        pods.insert(name.clone(), entry.clone());
        Ok(())
    }

    /// Records that a pod is to be deleted, then tells its task.
    async fn mark(&self, entry: &Entry, grace_s: Option<u32>) -> Result<(), Error> {
        let grace_s = grace_s.unwrap_or(entry.pod.grace_s);
        let patience = entry.deletion.borrow().map_or(grace_s, |before| before.min(grace_s));
        let (store, pod) = (self.0.store.clone(), Arc::clone(&entry.pod));
        let marking = tokio::task::spawn_blocking(move || store.mark_deleted(&pod, patience));
        let marked = effect("manifest.delete", marking)
            .await
            .expect("marking does not panic");
        // One that is being deleted already may have lost its directory meanwhile.
        if entry.deletion.borrow().is_none() {
            marked?;
        }
        entry.deletion.send_replace(Some(patience));
        Ok(())
    }

    /// Starts the pod's task.
    fn spawn(&self, entry: Entry) {
        let worker = Worker {
            pod: Arc::clone(&entry.pod),
            engine: Arc::clone(&self.0.engine),
            store: self.0.store.clone(),
            journal: Arc::clone(&entry.journal),
            deletion: entry.deletion.subscribe(),
            memory: self.0.memory,
            resolv_conf: self.0.resolv_conf.clone(),
            announcer: Announcer::new(entry.journal.table().last()),
            failures: Arc::clone(&entry.failures),
        };
        let manifests = self.clone();
        tokio::spawn(async move {
            worker.run().await;
            manifests.lock().remove(&entry.pod.name);
            // Only now: who was told of the end may run a pod of this name again.
            entry.journal.push(now(), None, Happening::Deleted);
        });
    }

    fn status(&self, entry: &Entry) -> PodStatus {
        let observed = Observed::of(&entry.pod, &*self.0.engine);
        let look = status::Look {
            pod: &entry.pod,
            observed: &observed,
            actual: &observed.actual(&entry.pod, &self.0.store),
            failures: &entry.failures.lock().unwrap_or_else(PoisonError::into_inner),
            engine: &*self.0.engine,
            deleting: entry.deletion.borrow().is_some(),
            now: now(),
        };
        look.status()
    }

    fn entry(&self, name: &PodName) -> Result<Entry, Error> {
        self.lock().get(name).cloned().ok_or_else(|| Error::NoPod(name.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PodName, Entry>> {
        self.0.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(pod: Pod, deleting: Option<u32>, told: Table) -> Self {
        let pod = Arc::new(pod);
        let journal = Arc::new(Journal::new(Arc::clone(&pod), told));
        journal.push(now(), None, Happening::Accepted);
        Self {
            pod,
            journal,
            failures: Arc::default(),
            deletion: watch::Sender::new(deleting),
        }
    }
}

/// Nanoseconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The node's memory in bytes, as /proc/meminfo (proc(5)) has it.
fn node_memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|number| number.trim().parse::<i64>().ok())
        .unwrap_or(i64::MAX / 1024)
        * 1024
}

#[cfg(test)]
mod tests;
