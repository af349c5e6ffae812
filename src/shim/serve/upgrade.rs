//! The main loop's part of an upgrade in place ([`crate::shim::handover`]).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{Connection, FLUSH, Loop, block_signals};
use crate::shim::control::{Line, Reply};
use crate::shim::core::{Shim, Watch};
use crate::shim::handover::{self, Bag, Fd, Handover, Held, Order};
use crate::shim::log_thread::LogThread;
use crate::shim::place::Place;
use crate::shim::{control_server, lock, report};
use crate::{logs, sys};

/// How long what is under way may take to be done.
const REST: Duration = Duration::from_secs(10);
/// How often it is looked at, should nobody tell.
const LOOK_MS: u16 = 20;

impl Loop {
    /// Becomes another program if that was asked for. Comes back when nothing came of it; an error then means that
    /// we cannot go on either.
    pub(super) fn upgrade(&mut self) -> io::Result<()> {
        let Some(order) = lock(&self.shim.order).take() else {
            return Ok(());
        };
        report(&format!("to go on as {}", order.binary.display()));
        let shim = Arc::clone(&self.shim);
        shim.conversations.close();
        let refused = match self.come_to_rest() {
            Err(reason) => reason,
            Ok(()) => {
                shim.events.flush(Instant::now() + FLUSH);
                if let Some(logs) = self.logs.take() {
                    logs.leave();
                }
                let error = self.hand_over(&order);
                self.logs = Some(LogThread::start(&shim.place)?);
                error
            }
        };
        report(&format!("going on as it was: {refused}"));
        shim.conversations.open();
        order.refused.send(refused).ok();
        Ok(())
    }

    /// Takes no further calls, and waits until those under way are done.
    fn come_to_rest(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + REST;
        loop {
            self.on_signal();
            self.take_watches();
            // A command that is under way may wait for its helper.
            if self.execs.is_awaited() {
                self.start_execs();
            }
            let shim = &self.shim;
            let resting = shim.jobs.is_idle() && shim.tidying.is_idle() && shim.conversations.is_quiet();
            self.deliver();
            if resting {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("calls are still being carried out after {} s", REST.as_secs()));
            }
            self.shim.jobs.nudge();
            self.shim.tidying.nudge();
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut poll = [readable(self.signals.as_fd()), readable(self.shim.outbox.as_fd())];
            nix::poll::poll(&mut poll, PollTimeout::from(LOOK_MS)).ok();
        }
    }

    /// Says why it did not become the other program.
    fn hand_over(&self, order: &Order) -> String {
        let consoles = self.shim.consoles.pause();
        let mut bag = Bag::default();
        let replaced = self
            .pack(order.asker, &mut bag)
            .and_then(|mut handover| {
                handover.terminals = consoles.pack(&mut bag)?;
                bag.put(handover.write()?)
            })
            .and_then(|file| sys::exec::become_program(&order.binary, &arguments(file), bag.fds()));
        match replaced {
            Err(error) => format!("cannot become {}: {error}", order.binary.display()),
            Ok(never) => match never {},
        }
    }

    fn pack(&self, asker: u64, bag: &mut Bag) -> io::Result<Handover> {
        let shim = &self.shim;
        let connections = self.connections.iter();
        let pipes = logs::open_fifos(&shim.place.logs())?;
        Ok(Handover {
            version: handover::VERSION,
            namespace: shim.namespace.clone(),
            files: shim.children.files_limit(),
            leaving: shim.leaving.load(Ordering::Relaxed),
            events: shim.events.pending(),
            lock: bag.put(&self.lock)?,
            tasks: bag.put(&self.tasks)?,
            control: bag.put(&self.control)?,
            connections: connections
                .map(|(number, connection)| connection.pack(*number, bag))
                .collect::<io::Result<_>>()?,
            last_number: self.next,
            conversations: shim.conversations.each(|number, socket| {
                Ok(handover::Conversation {
                    socket: bag.put(socket)?,
                    asked: number == asker,
                })
            })?,
            pipes: pipes.iter().map(|pipe| bag.put(pipe)).collect::<io::Result<_>>()?,
            terminals: Vec::new(),
            shim: Held::pack(shim, self.ooms(), bag)?,
        })
    }

    fn ooms(&self) -> BTreeMap<String, u64> {
        let ooms = self.watches.values().filter_map(|watch| match watch {
            Watch::Oom(id, watch) => Some((id.clone(), watch.told())),
            Watch::End(..) | Watch::Command(..) => None,
        });
        ooms.collect()
    }
}

/// Our own words, with the new handover's descriptor.
fn arguments(file: Fd) -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(old) = words.iter().position(|word| word == "-handover") {
        words.drain(old..words.len().min(old + 2));
    }
    // The command is the last one.
    let number = file.number().to_string();
    let command = words.len().saturating_sub(1);
    words.splice(command..command, ["-handover".into(), number.into()]);
    words
}

impl Connection {
    fn pack(&self, number: u64, bag: &mut Bag) -> io::Result<handover::Connection> {
        Ok(handover::Connection {
            number,
            socket: bag.put(&self.socket)?,
            requests: self.requests.clone(),
            unsent: self.unsent.clone(),
        })
    }
}

/// Goes on with what the program before us in this process handed over, and serves.
///
/// # Errors
/// It cannot be understood, or the process lacks something. The containers are as after a SIGKILL then.
pub fn go_on(place: Place, file: Fd) -> io::Result<()> {
    let handed = Handover::read(file)?;
    let signals = block_signals()?;
    let address = handed.events.address.clone();
    let shim = Shim::new(place.clone(), handed.namespace, address, handed.files)?;
    shim.leaving.store(handed.leaving, Ordering::Relaxed);
    shim.events.resume(handed.events);
    handed.shim.unpack(&shim)?;
    for terminal in handed.terminals {
        shim.consoles.resume(terminal)?;
    }
    let pipes = handed.pipes.into_iter().map(Fd::take).collect::<io::Result<_>>()?;
    let logs = LogThread::start_holding(&place, pipes)?;
    let sockets = (
        UnixListener::from(handed.tasks.take()?),
        UnixListener::from(handed.control.take()?),
    );
    let mut served = Loop::new(shim, sockets, signals, logs, handed.lock.take()?.into())?;
    served.next = handed.last_number;
    for connection in handed.connections {
        served.take_connection(connection)?;
    }
    report(&format!(
        "berth {} goes on as {}",
        env!("CARGO_PKG_VERSION"),
        std::env::current_exe().unwrap_or_default().display()
    ));
    for conversation in handed.conversations {
        resume(&served.shim, conversation.socket.take()?, conversation.asked);
    }
    served.run()
}

impl Loop {
    fn take_connection(&mut self, handed: handover::Connection) -> io::Result<()> {
        let connection = Connection {
            socket: UnixStream::from(handed.socket.take()?),
            requests: handed.requests,
            unsent: handed.unsent,
        };
        self.epoll.add(&connection.socket, connection.wanted(handed.number))?;
        self.connections.insert(handed.number, connection);
        Ok(())
    }
}

/// Goes on with a connection to the private socket.
fn resume(shim: &Arc<Shim>, socket: OwnedFd, asked: bool) {
    let socket = UnixStream::from(socket);
    if asked && let Ok(copy) = socket.try_clone() {
        // Whoever asked may have left; the upgrade is done all the same.
        Line::over(copy).send(&Reply::Done, &[]).ok();
    }
    control_server::converse(shim, socket);
}
