//! The pump's side of the control socket: what each request does.

use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use super::{Pump, Source};
use crate::logs::connection::{Connection, Incoming};
use crate::logs::container::{Container, Drain};
use crate::logs::protocol::{Open, Pong, Reply, Request};
use crate::logs::report;
use crate::model::Id;

/// More connections than this are not taken. Each waiting drain is one.
const MAX_CONNECTIONS: usize = 4096;

impl Pump {
    /// Takes the connections that wait.
    pub(super) fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((_, _)) if self.connections.len() >= MAX_CONNECTIONS => report("too many connections"),
                Ok((socket, _)) => {
                    let number = self.number();
                    if let Err(error) = self.admit(number, socket) {
                        report(&format!("cannot take a connection: {error}"));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, most likely: the connection stays where it is, so do not spin on it.
                    report(&format!("cannot accept a connection: {error}"));
                    std::thread::sleep(Duration::from_millis(10));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, number: u64, socket: UnixStream) -> io::Result<()> {
        let connection = Connection::new(socket)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        self.epoll.add(&connection, Source::Connection(number).event(flags))?;
        self.connections.insert(number, connection);
        Ok(())
    }

    /// Answers what a connection asks, until it asks nothing more.
    pub(super) fn converse(&mut self, number: u64) {
        while let Some(connection) = self.connections.get_mut(&number) {
            let reply = match connection.next() {
                Incoming::Request(request) => self.answer(number, request),
                Incoming::Nonsense(message) => Some(Reply::Failed { message }),
                Incoming::Nothing => return,
                Incoming::Gone => {
                    self.connections.remove(&number);
                    return;
                }
            };
            if let (Some(reply), Some(connection)) = (reply, self.connections.get_mut(&number)) {
                connection.send(&reply);
            }
        }
    }

    /// Sends a reply that came later, if its asker is still there.
    pub(super) fn send(&mut self, number: u64, reply: &Reply) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.send(reply);
            self.converse(number);
        }
    }

    /// The reply, or none if it comes later.
    fn answer(&mut self, asker: u64, request: Request) -> Option<Reply> {
        if self.leaving.is_some() {
            return Some(failed("the log writer is leaving"));
        }
        Some(match request {
            Request::Open(open) => self.open(open),
            Request::Reopen { id } => self.reopen(id),
            Request::Drain { id, timeout_ms } => return self.drain(asker, id, Duration::from_millis(timeout_ms)),
            Request::Close { id } => match self.find(&id).and_then(|number| self.forget(number)) {
                Some(drained) => Reply::Drained(drained),
                None => Reply::Unknown { id },
            },
            Request::List => Reply::Containers {
                containers: self.containers.values().map(Container::status).collect(),
            },
            Request::Ping => Reply::Pong(Pong {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
            }),
        })
    }

    /// Goes on with what the pump before had open.
    pub(super) fn inherit(&mut self) {
        for open in std::mem::take(&mut self.inherited) {
            match self.add(open.clone()) {
                // An output may have come to its end while no pump was there.
                Ok(number) => self.containers.get(&number).into_iter().for_each(Container::rouse),
                Err(message) => {
                    report(&format!("cannot go on with a log of container {}: {message}", open.id));
                    if !open.stdout.exists() {
                        // The container was removed: there is nothing to go on with, ever.
                        let _ = self.opens.forget(&open.id);
                    }
                }
            }
        }
    }

    fn open(&mut self, open: Open) -> Reply {
        if let Some(container) = self.find(&open.id).and_then(|number| self.containers.get(&number)) {
            return match &container.drain {
                Some(_) => failed("the container is being drained"),
                None if container.open == open => Reply::Done,
                None => failed("the container is open with other paths"),
            };
        }
        let kept = self.add(open.clone()).and_then(|number| {
            self.opens.keep(&open).map_err(|error| {
                self.containers.remove(&number);
                format!("cannot remember that the container is open: {error}")
            })
        });
        kept.map_or_else(|message| Reply::Failed { message }, |()| Reply::Done)
    }

    /// Has a container's outputs read from now on, and says its number.
    fn add(&mut self, open: Open) -> Result<u64, String> {
        let number = self.number();
        let mut container = Container::open(open)?;
        for (place, stream) in container.streams.iter().enumerate() {
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            let added = self.epoll.add(stream, Source::Stream((number, place)).event(flags));
            added.map_err(|error| format!("cannot watch the container's output: {error}"))?;
        }
        if let Some(entry) = self.unfinished.take_if(|entry| entry.id == container.open.id) {
            container.resume(&entry, &mut self.bench);
        }
        self.containers.insert(number, container);
        self.make_ready(number);
        Ok(number)
    }

    fn reopen(&mut self, id: Id) -> Reply {
        let Some((number, container)) = self
            .containers
            .iter_mut()
            .find(|(_, container)| container.open.id == id)
        else {
            return Reply::Unknown { id };
        };
        if let Err(message) = container.reopen() {
            return Reply::Failed { message };
        }
        container.retry();
        let number = *number;
        self.make_ready(number);
        Reply::Done
    }

    fn drain(&mut self, asker: u64, id: Id, timeout: Duration) -> Option<Reply> {
        let Some((number, container)) = self
            .containers
            .iter_mut()
            .find(|(_, container)| container.open.id == id)
        else {
            return Some(Reply::Unknown { id });
        };
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400));
        let drain = container.drain.get_or_insert(Drain {
            deadline,
            waiters: Vec::new(),
        });
        drain.deadline = drain.deadline.max(deadline);
        drain.waiters.push(asker);
        container.retry();
        container.rouse();
        let number = *number;
        self.timed.insert(number);
        self.make_ready(number);
        None
    }

    fn find(&self, id: &Id) -> Option<u64> {
        self.containers
            .iter()
            .find(|(_, container)| container.open.id == *id)
            .map(|(number, _)| *number)
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}

fn failed(message: &str) -> Reply {
    Reply::Failed {
        message: message.to_owned(),
    }
}
