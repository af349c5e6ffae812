//! One connection to the pump's control socket: takes requests one after the other, never waits.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{self, MAX_REQUEST, Reply, Request};

#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    /// Read, but no whole request yet.
    inbox: Vec<u8>,
    /// Replies that the socket did not take yet. No request is taken before they have left, which bounds them.
    outbox: Vec<u8>,
    /// A request was taken whose reply is still to come.
    owes: bool,
}

/// What comes next from the other side.
#[derive(Debug)]
pub enum Incoming {
    Request(Request),
    /// A line that is no request, and why.
    Nonsense(String),
    /// Nothing until the socket's next event or the next [`Connection::send`].
    Nothing,
    /// The other side has left.
    Gone,
}

impl Connection {
    pub fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            inbox: Vec::new(),
            outbox: Vec::new(),
            owes: false,
        })
    }

    /// Sends what is to be sent, then takes the next request. Each request must be answered by [`Connection::send`].
    pub fn next(&mut self) -> Incoming {
        if self.flush().is_err() {
            return Incoming::Gone;
        }
        while !self.owes && self.outbox.is_empty() {
            if let Some(end) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.inbox.drain(..=end).collect();
                self.owes = true;
                return serde_json::from_slice(&line)
                    .map_or_else(|error| Incoming::Nonsense(error.to_string()), Incoming::Request);
            }
            if self.inbox.len() > MAX_REQUEST {
                return Incoming::Gone;
            }
            let mut chunk = [0; 4096];
            match self.socket.read(&mut chunk) {
                Ok(0) => return Incoming::Gone,
                Ok(len) => self.inbox.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Incoming::Gone,
            }
        }
        Incoming::Nothing
    }

    /// Answers the request taken last.
    pub fn send(&mut self, reply: &Reply) {
        self.owes = false;
        match protocol::encode(reply) {
            Ok(line) => self.outbox.extend_from_slice(&line),
            // Only of a path that is not UTF-8, and every path came to us as JSON.
            Err(error) => super::report(&format!("cannot encode a reply: {error}")),
        }
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.socket.write(&self.outbox) {
                Ok(len) => drop(self.outbox.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours, Connection::new(theirs).unwrap())
    }

    #[test]
    fn the_second_request_waits_for_the_answer_to_the_first() {
        let (mut client, mut connection) = pair();
        assert!(matches!(connection.next(), Incoming::Nothing));
        client.write_all(b"{\"request\":\"ping\"}\n{\"request\":\"li").unwrap();
        assert!(matches!(connection.next(), Incoming::Request(Request::Ping)));
        client.write_all(b"st\"}\n").unwrap();
        assert!(matches!(connection.next(), Incoming::Nothing));
        connection.send(&Reply::Done);
        assert!(matches!(connection.next(), Incoming::Request(Request::List)));
    }

    #[test]
    fn nonsense_is_told_and_an_endless_line_ends_the_connection() {
        let (mut client, mut connection) = pair();
        client.write_all(b"hello\n").unwrap();
        assert!(matches!(connection.next(), Incoming::Nonsense(_)));
        connection.send(&Reply::Done);
        client.write_all(&vec![b'x'; MAX_REQUEST + 4096]).unwrap();
        assert!(matches!(connection.next(), Incoming::Gone));
    }

    #[test]
    fn a_client_that_left_is_gone_and_a_slow_one_gets_its_reply_in_pieces() {
        let (mut client, mut connection) = pair();
        client.write_all(b"{\"request\":\"ping\"}\n").unwrap();
        connection.next();
        let message = "x".repeat(4 << 20);
        connection.send(&Reply::Failed { message });
        let mut read = 0;
        while !matches!(connection.next(), Incoming::Gone) {
            let mut chunk = vec![0; 1 << 20];
            read += client.read(&mut chunk).unwrap();
            if chunk[..].contains(&b'\n') {
                client.shutdown(std::net::Shutdown::Both).unwrap();
            }
        }
        assert!(read > 4 << 20);
    }
}
