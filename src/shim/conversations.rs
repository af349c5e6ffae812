//! The connections to the private socket, and the gate at which their requests wait while the shim hands over.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, PoisonError};

use super::lock;

#[derive(Debug, Default)]
pub struct Conversations {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// How many requests are being answered.
    inside: usize,
    last: u64,
    sockets: BTreeMap<u64, UnixStream>,
}

/// While it lives, a request is being read or answered.
pub struct Pass<'a>(&'a Conversations);

impl Conversations {
    /// Notes a connection, and gives its number.
    pub fn begin(&self, socket: &UnixStream) -> io::Result<u64> {
        let socket = socket.try_clone()?;
        let mut state = lock(&self.state);
        state.last += 1;
        let number = state.last;
        state.sockets.insert(number, socket);
        Ok(number)
    }

    pub fn end(&self, number: u64) {
        lock(&self.state).sockets.remove(&number);
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.state).sockets.is_empty()
    }

    /// To be called before a request is read. Waits while the gate is closed.
    pub fn enter(&self) -> Pass<'_> {
        let state = lock(&self.state);
        let waited = self.opened.wait_while(state, |state| state.closed);
        waited.unwrap_or_else(PoisonError::into_inner).inside += 1;
        Pass(self)
    }

    /// Has further requests wait.
    pub fn close(&self) {
        lock(&self.state).closed = true;
    }

    pub fn open(&self) {
        lock(&self.state).closed = false;
        self.opened.notify_all();
    }

    /// Whether no request is being answered.
    pub fn is_quiet(&self) -> bool {
        lock(&self.state).inside == 0
    }

    /// Does something with each connection.
    pub fn each<T>(&self, mut work: impl FnMut(u64, &UnixStream) -> io::Result<T>) -> io::Result<Vec<T>> {
        let state = lock(&self.state);
        state
            .sockets
            .iter()
            .map(|(number, socket)| work(*number, socket))
            .collect()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).inside -= 1;
    }
}
