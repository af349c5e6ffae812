//! Events for containerd: what became of a task, told over containerd's ttrpc socket, in order.
//!
//! A thread of its own sends them, so that no caller ever waits for containerd. While containerd is away the next event
//! is tried again and again; one that is a minute old is given up after a last try (the stock shim's
//! RemoteEventsPublisher gives up after six tries, 15 s). An event may arrive twice if the connection breaks between
//! containerd's taking it and saying so.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use prost::{Message, Name};
use serde::{Deserialize, Serialize};

use crate::proto::shim::events::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskOom, TaskPaused,
    TaskResumed, TaskStart,
};
use crate::proto::shim::types::Envelope;
use crate::proto::shim::{ForwardRequest, pack};
use crate::ttrpc::Code;
use crate::ttrpc::client::{Client, Error};

/// How many events wait for containerd; when there are more, the oldest is dropped.
const QUEUE: usize = 2048;
/// How old an event may get before it is tried a last time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long containerd may take for one (as the stock shim has it).
const ANSWER: Duration = Duration::from_secs(5);
/// The pauses between tries, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
const STACK: usize = 64 << 10;

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";

/// An event and where subscribers find it (runtime/events.go of containerd).
pub trait Event: Message + Name {
    const TOPIC: &'static str;
}

macro_rules! topics {
    ($($event:ty: $topic:literal,)*) => {
        $(impl Event for $event {
            const TOPIC: &'static str = $topic;
        })*
    };
}

topics! {
    TaskCreate: "/tasks/create",
    TaskStart: "/tasks/start",
    TaskOom: "/tasks/oom",
    TaskExit: "/tasks/exit",
    TaskDelete: "/tasks/delete",
    TaskExecAdded: "/tasks/exec-added",
    TaskExecStarted: "/tasks/exec-started",
    TaskPaused: "/tasks/paused",
    TaskResumed: "/tasks/resumed",
    TaskCheckpointed: "/tasks/checkpointed",
}

/// Where events are given up. Dropping it ends its thread; what was not sent by then is lost.
#[derive(Debug)]
pub struct Publisher(Arc<Shared>);

/// What a publisher has not sent, for the next program ([`super::handover`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub address: Option<PathBuf>,
    /// Envelopes, encoded, and their ages.
    waiting: Vec<(Vec<u8>, Duration)>,
}

impl Publisher {
    /// One for the containerd whose ttrpc socket is `address` (containerd says it in TTRPC_ADDRESS), or, without one,
    /// for nobody. The error is that of starting a thread.
    pub fn start(address: Option<PathBuf>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().address = address;
        let theirs = shared.clone();
        thread::Builder::new()
            .name("events".to_owned())
            .stack_size(STACK)
            .spawn(move || Sender::default().run(&theirs))?;
        Ok(Self(shared))
    }

    /// Sends all that is not sent yet, and what comes, to another address of containerd's. Whether it is another.
    pub fn redirect(&self, address: PathBuf) -> bool {
        let mut queue = self.0.lock();
        let other = queue.address.as_ref() != Some(&address);
        queue.address = Some(address);
        other
    }

    /// Tells of `event`, which happened now in containerd's namespace `namespace`. Never waits.
    pub fn publish<E: Event>(&self, namespace: &str, event: &E) {
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: namespace.to_owned(),
            topic: E::TOPIC.to_owned(),
            event: Some(pack(event)),
        };
        self.queue(envelope, Instant::now());
    }

    fn queue(&self, envelope: Envelope, since: Instant) {
        let mut queue = self.0.lock();
        if queue.address.is_none() {
            return;
        }
        if queue.waiting.len() >= QUEUE {
            // The first one is perhaps being sent.
            queue.waiting.remove(1);
            queue.lost += 1;
        }
        queue.waiting.push_back(Waiting { envelope, since });
        self.0.changed.notify_all();
    }

    /// What is not sent. One that is being sent is among it, and so may arrive twice.
    pub fn pending(&self) -> Pending {
        let queue = self.0.lock();
        let encoded = |waiting: &Waiting| (waiting.envelope.encode_to_vec(), waiting.since.elapsed());
        Pending {
            address: queue.address.clone(),
            waiting: queue.waiting.iter().map(encoded).collect(),
        }
    }

    /// Sends what another program did not. What cannot be read is left out.
    pub fn resume(&self, pending: Pending) {
        for (envelope, age) in pending.waiting {
            let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            if let Ok(envelope) = Envelope::decode(&*envelope) {
                self.queue(envelope, since);
            }
        }
    }

    /// Waits until everything is sent or given up, up to `deadline`. Whether it is.
    pub fn flush(&self, deadline: Instant) -> bool {
        let mut queue = self.0.lock();
        while !queue.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            queue = self.0.wait(queue, left);
        }
        true
    }

    /// How many events were dropped or given up.
    pub fn lost(&self) -> u64 {
        self.0.lock().lost
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

#[derive(Debug, Clone)]
struct Waiting {
    envelope: Envelope,
    since: Instant,
}

#[derive(Debug, Default)]
struct Queue {
    /// None: there is nobody to tell.
    address: Option<PathBuf>,
    /// The first one stays until it is sent.
    waiting: VecDeque<Waiting>,
    lost: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    /// A panic elsewhere leaves the queue whole: nothing under the lock is done by halves.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>, time: Duration) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_timeout(queue, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The next event; None when the publisher is gone.
    fn next(&self) -> Option<Waiting> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(next) = queue.waiting.front() {
                return Some(next.clone());
            }
            if queue.waiting.capacity() > 64 {
                queue.waiting.shrink_to_fit();
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, sent: bool) {
        let mut queue = self.lock();
        queue.waiting.pop_front();
        queue.lost += u64::from(!sent);
        self.changed.notify_all();
    }

    /// Sleeps, but not longer than the publisher lives.
    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut queue = self.lock();
        while !queue.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.wait(queue, left);
        }
    }
}

/// The thread's side: the connection, which stays open between events, and to where.
#[derive(Default)]
struct Sender {
    client: Option<Client>,
    address: PathBuf,
}

impl Sender {
    fn run(&mut self, shared: &Shared) {
        while let Some(Waiting { envelope, since }) = shared.next() {
            let request = ForwardRequest {
                envelope: Some(envelope),
            };
            let sent = self.deliver(&request, since, shared);
            shared.done(sent);
        }
    }

    /// Tries until containerd has taken it, will not have it, or it is too old.
    fn deliver(&mut self, request: &ForwardRequest, since: Instant, shared: &Shared) -> bool {
        let mut pause = PAUSES.0;
        loop {
            let address = shared.lock().address.clone().unwrap_or_default();
            if address != self.address {
                (self.client, self.address) = (None, address);
            }
            match self.forward(request) {
                Ok(()) => return true,
                Err(Error::Refused(status)) if status.code != Code::Unavailable => return false,
                Err(_) if since.elapsed() >= PATIENCE || shared.lock().closed => return false,
                Err(_) => shared.pause(pause),
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sends it over the connection that is there, and if that one is broken over a new one: containerd may have been
    /// restarted since the last event.
    fn forward(&mut self, request: &ForwardRequest) -> Result<(), Error> {
        if let Some(mut client) = self.client.take() {
            match self.keep(forward(&mut client, request), client) {
                Err(Error::Closed | Error::Connection(_)) => {}
                result => return result,
            }
        }
        let mut client = connect(&self.address)?;
        self.keep(forward(&mut client, request), client)
    }

    /// Keeps the connection unless it failed.
    fn keep(&mut self, result: Result<(), Error>, client: Client) -> Result<(), Error> {
        if matches!(result, Ok(()) | Err(Error::Refused(_))) {
            self.client = Some(client);
        }
        result
    }
}

fn connect(address: &Path) -> Result<Client, Error> {
    Ok(Client::connect(address)?)
}

fn forward(client: &mut Client, request: &ForwardRequest) -> Result<(), Error> {
    let namespace = request.envelope.as_ref().map(|envelope| envelope.namespace.as_str());
    client.call(SERVICE, "Forward", namespace, request, ANSWER)
}

#[cfg(test)]
mod tests;
