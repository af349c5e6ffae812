//! The shims of berth's own: which pod belongs to which, that each lives, and what is kept for a new one should it be
//! killed.
//!
//! A **group** of pods shares a shim process, which also writes the logs of pods whose handler has another shim. One
//! task per group ([`keep`]) holds a connection to the shim. When that breaks, it has a new shim started, which takes
//! the containers over, and hands it what berth kept of each: a handle of its process, by which the kernel tells the
//! exit code of one that ended meanwhile, and its terminal. What was written to a container's pipes stays in them as
//! berth has them open, too. Then whoever waits for a task makes containerd know it again ([`Core::reclaim`]).

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio as Standard;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::error::Error;
use super::paths::Pipes;
use super::registry::{Sandbox, lock};
use super::{Core, Pods, blocking};
use crate::containerd::{Ended, Stdio};
use crate::model::names::annotation;
use crate::model::record::ShimUse;
use crate::model::{Id, Signal};
use crate::oci;
use crate::shim::control::{self, Client, Task, TaskState};
use crate::shim::place::Place;
use crate::sys::process::Handle;

/// How long a shim may take to come (back).
const COME: Duration = Duration::from_secs(20);
/// How long containerd may take to see that it has lost a task, and to take it back.
const RECLAIM: Duration = Duration::from_secs(30);
/// How long containerd may be busy with the loss of a task (its timeout for a shim's cleanup is 5 s).
const BUSY: Duration = Duration::from_secs(6);

/// What the composition root decides about shims.
#[derive(Debug, Clone)]
pub struct ShimSettings {
    /// `containerd-shim-berth-v1`.
    pub binary: PathBuf,
    /// How many pods share a process; None: all.
    pub pods_per_process: Option<usize>,
}

/// All groups, and what is kept of running tasks.
#[derive(Default)]
pub(super) struct Shims {
    groups: Mutex<HashMap<String, Arc<Group>>>,
    kept: Mutex<HashMap<Id, Kept>>,
}

/// A group of pods and its shim process.
pub(super) struct Group {
    pub place: Place,
    /// Whether its shim is there.
    lives: watch::Sender<bool>,
    keeper: tokio::task::AbortHandle,
}

/// What berth holds of a task whose shim is its own.
#[derive(Default)]
struct Kept {
    group: String,
    /// Only held, never read: what is in the pipes outlives both ends.
    _pipes: Vec<File>,
    process: Option<Handle>,
    terminal: Option<OwnedFd>,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Group {
    /// Waits until its shim is there.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut lives = self.lives.subscribe();
        let ready = tokio::time::timeout(COME, lives.wait_for(|lives| *lives));
        match ready.await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::NoShim {
                place: self.place.directory().to_owned(),
                after: COME,
            }),
        }
    }
}

impl Pods {
    /// Ends all shims of this berth. Only when nothing runs any more.
    pub async fn stop_shims(&self) -> Result<(), Error> {
        lock(&self.0.shims.groups).clear();
        for place in self.0.places() {
            blocking(move || end(&place)).await.map_err(Error::Shim)?;
        }
        super::sandbox_stop::remove_directory(self.0.paths.shims.clone())
    }
}

/// Has the shim at a place leave, and waits until it has. One that is not there is fine.
fn end(place: &Place) -> Result<(), control::Error> {
    let mut client = match Client::connect(&place.control_socket()) {
        Ok(client) => client,
        Err(_) => return Ok(()),
    };
    match client.leave() {
        Ok(()) => client.until_end(),
        Err(error) if error.is_unreachable() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

impl Core {
    /// The group for a new pod: the first with room.
    pub(super) fn choose_shim(&self, own: bool) -> ShimUse {
        let group = first_with_room(&self.registry.shim_groups(), self.settings.shim.pods_per_process);
        ShimUse { group, own }
    }

    /// The group `name`; from then on its shim is kept running.
    pub(super) fn group(self: &Arc<Self>, name: &str) -> Arc<Group> {
        let mut groups = lock(&self.shims.groups);
        if let Some(group) = groups.get(name) {
            return Arc::clone(group);
        }
        let lives = watch::Sender::new(false);
        let keeper = tokio::spawn(keep(Arc::downgrade(self), name.to_owned(), lives.clone()));
        let group = Arc::new(Group {
            place: self.place(name),
            lives,
            keeper: keeper.abort_handle(),
        });
        groups.insert(name.to_owned(), Arc::clone(&group));
        group
    }

    pub(super) fn place(&self, group: &str) -> Place {
        Place::new(self.paths.shims.join(group)).expect("the state directory was checked")
    }

    /// Lets a group's shim go if no pod needs it any more. It leaves by itself then.
    pub(super) fn release_group(&self, name: &str) {
        if !self.registry.shim_groups().iter().any(|used| used == name) {
            lock(&self.shims.groups).remove(name);
        }
    }

    /// The spec of a container of a pod, which tells the shim's program which process is to hold it.
    pub(super) fn placed(&self, mut spec: oci::Spec, shim: &ShimUse) -> oci::Spec {
        if shim.own {
            let mut annotations = spec.annotations().clone().unwrap_or_default();
            let place = self.place(&shim.group).directory().display().to_string();
            annotations.insert(annotation::SHIM_PLACE.to_owned(), place);
            spec.set_annotations(Some(annotations));
        }
        spec
    }

    // ---- what is kept

    /// Keeps a container's pipes open, so that what is in them stays whoever dies.
    pub(super) fn keep_pipes(&self, sandbox: &Sandbox, id: &Id, pipes: &Pipes, stdin: bool) -> Result<(), Error> {
        let open = |path: &Path, write: bool| {
            let mut options = OpenOptions::new();
            options.read(true).write(write).custom_flags(libc::O_NONBLOCK);
            options.open(path).map_err(Error::file("cannot open the pipe", path))
        };
        let mut files = vec![open(&pipes.stdout, false)?, open(&pipes.stderr, false)?];
        if stdin {
            files.push(open(&pipes.stdin, true)?);
        }
        let mut kept = lock(&self.shims.kept);
        let kept = kept.entry(id.clone()).or_default();
        kept.group = sandbox.shim().group;
        kept._pipes = files;
        Ok(())
    }

    /// Keeps a handle of a task's process and its terminal. A shim that died meanwhile is no error: there will be
    /// another chance when the next one is there.
    pub(super) async fn keep_process(self: &Arc<Self>, sandbox: &Sandbox, id: &Id) {
        let ShimUse { group, own } = sandbox.shim();
        if !own {
            return;
        }
        let given = self
            .ask_shim(&group, {
                let id = id.clone();
                move |shim| shim.give(id.as_str())
            })
            .await;
        match given {
            Ok((process, terminal)) => {
                let mut kept = lock(&self.shims.kept);
                let kept = kept.entry(id.clone()).or_default();
                kept.group = group;
                kept.process = Some(Handle::from(process));
                kept.terminal = terminal;
            }
            Err(error) => tracing::debug!(?id, %error, "cannot keep a handle of a container"),
        }
    }

    pub(super) fn unkeep(&self, id: &Id) {
        lock(&self.shims.kept).remove(id);
    }

    /// Sends a signal by the handle that is kept. False: there is none.
    pub(super) fn signal_kept(&self, id: &Id, signal: Signal) -> bool {
        let kept = lock(&self.shims.kept);
        let process = kept.get(id).and_then(|kept| kept.process.as_ref());
        process.is_some_and(|process| {
            // One that has ended is as good as told.
            process.signal(signal.number().cast_signed()).ok();
            true
        })
    }

    // ---- asking

    /// Asks a group's shim, and the next one should it die meanwhile.
    pub(super) async fn ask_shim<T: Send + 'static>(
        self: &Arc<Self>,
        group: &str,
        ask: impl Fn(&mut Client) -> Result<T, control::Error> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let group = self.group(group);
        let is_lost = |error: &Error| matches!(error, Error::Shim(error) if error.is_unreachable());
        while_lost(COME, is_lost, || async {
            group.ready().await?;
            let (socket, ask) = (group.place.control_socket(), ask.clone());
            let answer = blocking(move || Client::connect(&socket).and_then(|mut shim| ask(&mut shim))).await;
            answer.map_err(Error::Shim)
        })
        .await
    }

    async fn shim_task(self: &Arc<Self>, group: &str, id: &Id) -> Result<Option<Task>, Error> {
        let tasks = self.ask_shim(group, Client::tasks).await?;
        Ok(tasks.into_iter().find(|task| task.id == id.as_str()))
    }

    /// How a task really ended of which containerd says that it did so with 255, which is also what it says of an end
    /// that nobody knows. None: nobody does.
    pub(super) async fn surely(self: &Arc<Self>, sandbox: &Sandbox, id: &Id, ended: Ended) -> Option<Ended> {
        let shim = sandbox.shim();
        if !shim.own || ended.code != 255 {
            return Some(ended);
        }
        match self.shim_task(&shim.group, id).await {
            Ok(Some(Task {
                state: TaskState::Exited { known: false, .. },
                ..
            })) => None,
            _ => Some(ended),
        }
    }

    /// Makes containerd know a task again that it lost when its shim was killed. False: the shim has none either.
    pub(super) async fn reclaim(self: &Arc<Self>, sandbox: &Sandbox, id: &Id) -> Result<bool, Error> {
        let shim = sandbox.shim();
        if !shim.own {
            return Ok(false);
        }
        let options = self
            .handler(&sandbox.record().handler)
            .map(|handler| handler.options.clone());
        let options = options.unwrap_or_default();
        let begin = Instant::now();
        let deadline = begin + RECLAIM;
        loop {
            let Some(task) = self.shim_task(&shim.group, id).await? else {
                return Ok(false);
            };
            if self.until_containerd(|| self.containerd.task(id)).await?.is_some() {
                return Ok(true);
            }
            if task.claimed {
                self.ask_shim(&shim.group, {
                    let id = id.clone();
                    move |shim| shim.disown(id.as_str())
                })
                .await?;
            }
            let create = || self.containerd.create_task(id, &[], Stdio::default(), &options);
            match self.until_containerd(create).await {
                Ok(pid) => {
                    tracing::info!(?id, pid, "containerd knows a task again");
                    self.keep_process(sandbox, id).await;
                    return Ok(true);
                }
                // It is still busy with the loss: the bundle is there. If it stays, containerd failed to remove it.
                Err(error) if Instant::now() < deadline => {
                    tracing::debug!(?id, %error, "containerd does not take a task back yet");
                    if begin.elapsed() > BUSY {
                        let id = id.clone();
                        let unbundle = move |shim: &mut Client| shim.unbundle(id.as_str());
                        self.ask_shim(&shim.group, unbundle).await.ok();
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has a shim end and forget a task that containerd does not know; none is fine.
    pub(super) async fn forget_in_shim(self: &Arc<Self>, group: &str, id: &Id) -> Result<(), Error> {
        self.ask_shim(group, {
            let id = id.clone();
            move |shim| match shim.forget(id.as_str()) {
                Err(error) if error.is_unknown() => Ok(()),
                other => other,
            }
        })
        .await
    }

    // ---- recovery

    /// The places of shims that are there, used or not.
    fn places(&self) -> Vec<Place> {
        let entries = std::fs::read_dir(&self.paths.shims).into_iter().flatten().flatten();
        entries.filter_map(|entry| Place::new(entry.path()).ok()).collect()
    }

    /// Has the shims end what no record explains.
    pub(super) async fn sweep_shims(self: &Arc<Self>) -> Result<(), Error> {
        for place in self.places() {
            let Some(name) = place
                .directory()
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
            else {
                continue;
            };
            let tasks = self.ask_shim(&name, Client::tasks).await?;
            for task in tasks {
                let Ok(id) = task.id.parse::<Id>() else { continue };
                let known = self.registry.ids().contains(&id);
                let tasked = self.until_containerd(|| self.containerd.task(&id)).await?.is_some();
                if tasked && known {
                    continue;
                }
                tracing::info!(?id, "ending a task that no record explains");
                if tasked {
                    self.until_containerd(|| self.containerd.kill_task(&id, Signal::KILL, true))
                        .await?;
                    self.until_containerd(|| self.containerd.wait_task(&id)).await.ok();
                    self.until_containerd(|| self.containerd.delete_task(&id)).await?;
                }
                self.forget_in_shim(&name, &id).await?;
            }
            self.release_group(&name);
        }
        Ok(())
    }
}

/// Attempts something again while it fails because a shim is gone, for `patience` at most: the next one comes.
pub(super) async fn while_lost<T, E, F: Future<Output = Result<T, E>>>(
    patience: Duration,
    is_lost: impl Fn(&E) -> bool,
    attempt: impl Fn() -> F,
) -> Result<T, E> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt().await {
            Err(error) if is_lost(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            answer => return answer,
        }
    }
}

/// Keeps the shim of a group running, and gives each new one what is kept. Never returns while berth is there.
async fn keep(core: std::sync::Weak<Core>, name: String, lives: watch::Sender<bool>) {
    loop {
        let Some(core) = core.upgrade() else { return };
        match core.raise(&name).await {
            Ok(shim) => {
                lives.send_replace(true);
                drop(core);
                until_end(shim).await;
                lives.send_replace(false);
                tracing::warn!(group = name, "a shim ended; starting another");
            }
            Err(error) => {
                tracing::error!(group = name, %error, "cannot start a shim; no container can start, and no log is written");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

impl Core {
    /// Has a shim at the group's place, with all that is kept handed to it. Gives the connection that ends with it.
    async fn raise(&self, name: &str) -> Result<Client, Error> {
        let place = self.place(name);
        let ttrpc = {
            let mut address = self.containerd.address().as_os_str().to_owned();
            address.push(".ttrpc");
            address
        };
        let ensured = tokio::process::Command::new(&self.settings.shim.binary)
            .arg("-namespace")
            .arg(self.containerd.namespace())
            .arg("-address")
            .arg(self.containerd.address())
            .arg("-place")
            .arg(place.directory())
            .arg("-ttrpc")
            .arg(ttrpc)
            .arg("ensure")
            .stdin(Standard::null())
            .output()
            .await;
        let failed = |reason: String| Error::ShimStart {
            binary: self.settings.shim.binary.clone(),
            reason,
        };
        let output = ensured.map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let kept: Vec<(Id, OwnedFd, Option<OwnedFd>)> = {
            let kept = lock(&self.shims.kept);
            let ours = kept.iter().filter(|(_, kept)| kept.group == name);
            let copied = ours.filter_map(|(id, kept)| {
                let process = kept.process.as_ref()?.as_fd().try_clone_to_owned().ok()?;
                let terminal = kept.terminal.as_ref().and_then(|terminal| terminal.try_clone().ok());
                Some((id.clone(), process, terminal))
            });
            copied.collect()
        };
        let binary = self.settings.shim.binary.clone();
        let handed = blocking(move || {
            let mut shim = Client::connect(&place.control_socket())?;
            renew(&mut shim, &binary)?;
            for (id, process, terminal) in kept {
                let fds: Vec<_> = std::iter::once(process.as_fd())
                    .chain(terminal.as_ref().map(AsFd::as_fd))
                    .collect();
                match shim.hand(id.as_str(), &fds) {
                    Err(error) if !error.is_unknown() => {
                        tracing::warn!(?id, %error, "a new shim does not take what was kept")
                    }
                    _ => {}
                }
            }
            Ok(shim)
        });
        handed.await.map_err(Error::Shim)
    }
}

/// Has a shim that runs another file than `binary`, as after an installation, go on as that one. One that cannot goes on
/// as it is.
fn renew(shim: &mut Client, binary: &Path) -> Result<(), control::Error> {
    let hello = shim.hello()?;
    if std::fs::metadata(binary).is_ok_and(|file| (file.dev(), file.ino()) == hello.file) {
        return Ok(());
    }
    let old = hello.binary.display();
    match shim.upgrade(binary) {
        Ok(()) => tracing::info!(pid = hello.pid, %old, new = %binary.display(), "upgraded a shim in place"),
        Err(error) if error.is_unreachable() => return Err(error),
        Err(error) => tracing::warn!(pid = hello.pid, %old, %error, "a shim goes on as the program that it was"),
    }
    Ok(())
}

/// Waits for the end of the shim at the other end, which says nothing unasked.
async fn until_end(shim: Client) {
    let connection = shim.into_connection();
    let connection = connection
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(connection));
    if let Ok(mut connection) = connection {
        while matches!(connection.read(&mut [0; 16]).await, Ok(1..)) {}
    }
}

fn first_with_room(used: &[String], pods_per_process: Option<usize>) -> String {
    let full = |name: &String| {
        let members = used.iter().filter(|group| *group == name).count();
        pods_per_process.is_some_and(|most| members >= most)
    };
    let mut names = (0..).map(|number: usize| number.to_string());
    names.find(|name| !full(name)).expect("there are more names than pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_fill_one_group_after_the_other() {
        let used = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(first_with_room(&used(&["0", "0", "0"]), None), "0");
        assert_eq!(first_with_room(&[], Some(1)), "0");
        assert_eq!(first_with_room(&used(&["0", "1"]), Some(1)), "2");
        assert_eq!(first_with_room(&used(&["0", "2"]), Some(1)), "1");
        assert_eq!(first_with_room(&used(&["0", "0", "1"]), Some(2)), "1");
    }
}
