//! What the main loop and the jobs share: the containers, whose pid is whose, and the ways out.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::console::Consoles;
use super::container::{Container, Exit, Process, State, Waiter};
use super::conversations::Conversations;
use super::events::{Event, Publisher};
use super::handover::Order;
use super::jobs::Jobs;
use super::outbox::Outbox;
use super::place::Place;
use super::underway::Underway;
use super::{lock, oom, report};
use crate::nsexec::Connection;
use crate::proto::shim::events;
use crate::sys::children::{Children, Dead};
use crate::sys::process::Handle;
use crate::ttrpc::{Code, Status};

/// How many verbs run the OCI runtime at once.
const AT_ONCE: usize = 32;
/// How many tidy up after deleted containers at once.
const TIDYING: usize = 4;
/// Ends of processes that are kept for a start that is not done yet.
const MAX_UNCLAIMED: usize = 4096;

/// The shim. Its verbs are in one file each: `create`, `start`, `exec`, `signal`, `query`, `delete`, `exit`, `adopt`.
pub struct Shim {
    pub place: Place,
    /// containerd's namespace, and its ttrpc socket, where events go.
    pub namespace: String,
    pub events: Publisher,
    pub children: Children,
    pub consoles: Consoles,
    pub outbox: Outbox,
    /// Verbs that may take their time.
    pub jobs: Arc<Jobs>,
    /// What is left to do once a deletion was told.
    pub tidying: Arc<Jobs>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    /// Containers whose Create has come and is not answered.
    pub making: Underway,
    /// Deleted ones that the OCI runtime still tidies up after.
    pub tidied: Underway,
    /// How many calls that take their time each connection has under way.
    calls: Mutex<HashMap<u64, usize>>,
    pids: Mutex<Pids>,
    /// What the main loop is to watch from now on.
    watches: Mutex<Vec<Watch>>,
    /// Connections to the private socket.
    pub conversations: Conversations,
    /// What the main loop is to become.
    pub order: Mutex<Option<Order>>,
    /// Told to leave as soon as nothing is held any more.
    pub leaving: AtomicBool,
}

/// Something about a container that shows by a descriptor.
pub enum Watch {
    Oom(String, oom::Watch),
    /// The end of a process that is not our child.
    End(Arc<Container>, Arc<Handle>),
    /// The end of a further process, by its exec id.
    Command(Arc<Container>, String, Arc<Connection>),
}

/// Who has which pid.
#[derive(Default)]
struct Pids {
    known: HashMap<u32, (String, String)>,
    /// Starts under way: a child that ends meanwhile and is not known may be the one that is being started.
    starting: usize,
    unclaimed: HashMap<u32, Dead>,
}

/// While it lives, no end of an unknown child is forgotten.
pub struct Starting<'a>(&'a Shim);

impl Shim {
    /// `files` is the soft limit of open files that the programs get which it starts; None: its own.
    pub fn new(
        place: Place,
        namespace: String,
        ttrpc: Option<PathBuf>,
        files: Option<u64>,
    ) -> std::io::Result<Arc<Self>> {
        let children = Children::default();
        if let Some(files) = files {
            children.limit_files(files);
        }
        Ok(Arc::new(Self {
            place,
            events: Publisher::start(ttrpc)?,
            namespace,
            children,
            consoles: Consoles::new()?,
            outbox: Outbox::new()?,
            jobs: Jobs::new("verb", AT_ONCE),
            tidying: Jobs::new("tidy", TIDYING),
            containers: Mutex::default(),
            making: Underway::default(),
            tidied: Underway::default(),
            calls: Mutex::default(),
            pids: Mutex::default(),
            watches: Mutex::default(),
            conversations: Conversations::default(),
            order: Mutex::default(),
            leaving: AtomicBool::new(false),
        }))
    }

    /// The container `id`, or containerd's NotFound.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.find(id)
            .ok_or_else(|| Status::new(Code::NotFound, format!("container {id:?} is not here")))
    }

    pub fn find(&self, id: &str) -> Option<Arc<Container>> {
        lock(&self.containers).get(id).cloned()
    }

    pub fn containers(&self) -> Vec<Arc<Container>> {
        lock(&self.containers).values().cloned().collect()
    }

    pub fn has_containers(&self) -> bool {
        !lock(&self.containers).is_empty() || !self.tidied.is_empty()
    }

    /// Adds a container, or gives the one that has its id already.
    pub fn add(&self, container: &Arc<Container>) -> Result<(), Arc<Container>> {
        let mut containers = lock(&self.containers);
        if let Some(other) = containers.get(&container.id) {
            return Err(Arc::clone(other));
        }
        containers.insert(container.id.clone(), Arc::clone(container));
        Ok(())
    }

    /// Takes a container off the list. Whoever still waits for the end of a process that never was is told so.
    pub fn drop_container(&self, id: &str) {
        let Some(container) = lock(&self.containers).remove(id) else {
            return;
        };
        let mut state = container.state();
        let State { init, execs, .. } = &mut *state;
        for process in std::iter::once(init).chain(execs.values_mut()) {
            self.dismiss(process);
        }
    }

    /// Answers all who wait for the end of a process that will not come.
    pub fn dismiss(&self, process: &mut Process) {
        let exit = process.phase.exit().unwrap_or_else(Exit::unknown);
        self.answer_waiters(std::mem::take(&mut process.waiters), exit);
    }

    /// A connection is closed: nobody waits there any more.
    pub fn forget_waiters(&self, connection: u64) {
        for container in self.containers() {
            let mut state = container.state();
            let State { init, execs, .. } = &mut *state;
            for process in std::iter::once(init).chain(execs.values_mut()) {
                process.waiters.retain(|waiter| waiter.connection != connection);
            }
        }
    }

    // ---- calls

    /// Counts a call of a connection that takes its time. False: there are `most` already.
    pub fn begin_call(&self, connection: u64, most: usize) -> bool {
        let mut calls = lock(&self.calls);
        let count = calls.entry(connection).or_default();
        let fits = *count < most;
        *count += usize::from(fits);
        fits
    }

    pub fn end_call(&self, connection: u64) {
        if let Entry::Occupied(mut count) = lock(&self.calls).entry(connection) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    // ---- pids

    /// To be held from before a process is started until its pid is [`Shim::claim`]ed.
    pub fn starting(&self) -> Starting<'_> {
        lock(&self.pids).starting += 1;
        Starting(self)
    }

    /// Says whose `pid` is. Gives its end if it has ended already.
    pub fn claim(&self, pid: u32, id: &str, exec_id: &str) -> Option<Dead> {
        let mut pids = lock(&self.pids);
        // Unless the pid was used again since. What was not buried yet is still there.
        if let Some(dead) = pids.unclaimed.remove(&pid)
            && (crate::sys::process::is_zombie(pid) || crate::sys::process::start_time(pid).is_err())
        {
            return Some(dead);
        }
        pids.known.insert(pid, (id.to_owned(), exec_id.to_owned()));
        None
    }

    /// Whether `pid` is a process that was started here, perhaps one that has ended already. To be asked between
    /// [`Shim::starting`] and [`Shim::claim`].
    pub fn is_ours(&self, pid: u32) -> bool {
        // In this order: what is reaped between the two is found by the second.
        crate::sys::process::is_child(pid) || lock(&self.pids).unclaimed.contains_key(&pid)
    }

    /// Forgets a pid whose process ended or is no child of ours.
    pub fn disclaim(&self, pid: u32) {
        lock(&self.pids).known.remove(&pid);
    }

    /// All children that are known, with their containers and exec ids.
    pub fn known_pids(&self) -> Vec<(u32, String, String)> {
        let pids = lock(&self.pids);
        let known = pids.known.iter();
        known
            .map(|(pid, (id, exec_id))| (*pid, id.clone(), exec_id.clone()))
            .collect()
    }

    /// Whose process it was that ended. None: nobody's that we know, or not yet.
    pub(super) fn owner(&self, dead: &Dead) -> Option<(String, String)> {
        let mut pids = lock(&self.pids);
        let owner = pids.known.remove(&dead.pid);
        if owner.is_none() && pids.starting > 0 && pids.unclaimed.len() < MAX_UNCLAIMED {
            pids.unclaimed.insert(dead.pid, *dead);
        }
        owner
    }

    // ---- what is watched

    /// Has the main loop tell containerd when the kernel kills a process of the container for memory.
    pub(super) fn watch_oom(&self, container: &Container) {
        if let Some(watch) = self.oom_watch(container) {
            self.watch(Watch::Oom(container.id.clone(), watch));
        }
    }

    /// The same, and tells at once of kills that came after the first `told`.
    pub(super) fn watch_oom_after(self: &Arc<Self>, container: &Container, told: u64) {
        if let Some(watch) = self.oom_watch(container) {
            let mut watch = Watch::Oom(container.id.clone(), watch.after(told));
            if self.on_watch(&mut watch) {
                self.watch(watch);
            }
        }
    }

    fn oom_watch(&self, container: &Container) -> Option<oom::Watch> {
        let cgroups = container.state().record.cgroups.clone()?;
        oom::Watch::start(&cgroups).unwrap_or_else(|error| {
            report(&format!("cannot watch the memory of {}: {error}", container.id));
            None
        })
    }

    pub(super) fn watch_end(&self, container: &Arc<Container>, handle: Arc<Handle>) {
        self.watch(Watch::End(Arc::clone(container), handle));
    }

    pub(super) fn watch_command(&self, container: &Arc<Container>, exec_id: &str, connection: &Arc<Connection>) {
        let (container, connection) = (Arc::clone(container), Arc::clone(connection));
        self.watch(Watch::Command(container, exec_id.to_owned(), connection));
    }

    fn watch(&self, watch: Watch) {
        lock(&self.watches).push(watch);
        self.outbox.ring();
    }

    pub fn take_watches(&self) -> Vec<Watch> {
        std::mem::take(&mut lock(&self.watches))
    }

    /// What a watch's descriptor announced. Whether it is to be watched further.
    pub fn on_watch(self: &Arc<Self>, watch: &mut Watch) -> bool {
        match watch {
            Watch::Oom(id, watch) => match watch.fired().unwrap_or(oom::Fired::Gone) {
                oom::Fired::Oom => {
                    self.publish(&events::TaskOom {
                        container_id: id.clone(),
                    });
                    true
                }
                oom::Fired::Nothing => true,
                oom::Fired::Gone => false,
            },
            Watch::End(container, _) => {
                let (shim, container) = (Arc::clone(self), Arc::clone(container));
                self.jobs.run(move || shim.adopted_ended(&container));
                false
            }
            Watch::Command(container, exec_id, connection) => self.on_command(container, exec_id, connection),
        }
    }

    // ---- answers and complaints

    /// Sends an event to containerd, some time soon and in order.
    pub fn publish<E: Event>(&self, event: &E) {
        self.events.publish(&self.namespace, event);
    }

    /// Answers all who waited for an end.
    pub fn answer_waiters(&self, waiters: Vec<Waiter>, exit: Exit) {
        for waiter in waiters {
            self.outbox
                .answer(waiter.connection, waiter.stream, Ok(super::query::waited(exit)));
        }
    }

    /// Writes a container's record down. A full disk must not keep a container from ending: then it is only said.
    pub fn save(&self, record: &super::record::Record) {
        if let Err(error) = record.save(&self.place) {
            report(&format!("cannot write down what became of {}: {error}", record.id));
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Oom(_, watch) => watch.as_fd(),
            Self::End(_, handle) => handle.as_fd(),
            Self::Command(_, _, connection) => connection.as_fd(),
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        let mut pids = lock(&self.0.pids);
        pids.starting -= 1;
        if pids.starting == 0 {
            pids.unclaimed = HashMap::new();
        }
    }
}
