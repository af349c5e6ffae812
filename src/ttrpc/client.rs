//! A small blocking client: one call at a time.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use prost::{DecodeError, Message};

use super::frame::{Decoder, Frame, Kind, Received};
use super::{Call, Status};

/// How long a connection may take: a server whose backlog is full makes it wait.
const CONNECT: i64 = 5;

/// Why a call has no response. After any but [`Error::Refused`] the connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection failed")]
    Connection(#[from] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer in {0:?}")]
    TimedOut(Duration),
    #[error("the request is longer than a message may be")]
    TooLong,
    #[error("the response cannot be read")]
    Unreadable(#[from] DecodeError),
    #[error(transparent)]
    Refused(#[from] Status),
}

/// A connection to a server.
#[derive(Debug)]
pub struct Client {
    connection: UnixStream,
    decoder: Decoder,
    /// The next call's.
    stream: u32,
}

impl Client {
    /// Connects to the socket at `path`, within 5 s.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::over(dial(path)?))
    }

    /// A client on a connection that was made before.
    pub fn over(connection: UnixStream) -> Self {
        Self {
            connection,
            decoder: Decoder::default(),
            stream: 1,
        }
    }

    /// Calls `method` of `service` in containerd's namespace `namespace`, and waits up to `timeout`.
    pub fn call<R: Message + Default>(
        &mut self,
        service: &str,
        method: &str,
        namespace: Option<&str>,
        request: &impl Message,
        timeout: Duration,
    ) -> Result<R, Error> {
        let deadline = Instant::now() + timeout;
        let stream = self.stream;
        self.stream += 2;
        let call = Call {
            stream,
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout: Some(timeout),
            namespace: namespace.map(str::to_owned),
        };
        let bytes = super::request(call).ok_or(Error::TooLong)?;
        let timed = |error: io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::TimedOut(timeout),
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Closed,
            _ => Error::Connection(error),
        };
        self.connection
            .set_write_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        self.connection.write_all(&bytes).map_err(timed)?;
        loop {
            while let Some(received) = self.decoder.take() {
                if let Some(body) = body_for(stream, received) {
                    return Ok(R::decode(super::response(&body?)?.as_slice())?);
                }
            }
            self.read(deadline).map_err(timed)?.then_some(()).ok_or(Error::Closed)?;
        }
    }

    /// Reads once; false at the end of the stream.
    fn read(&mut self, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.connection.set_read_timeout(Some(left))?;
        let mut chunk = [0; 4096];
        match self.connection.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) => Err(error),
            Ok(count) => {
                self.decoder.push(&chunk[..count]);
                Ok(count > 0)
            }
        }
    }
}

/// Connects to the socket at `path`, within 5 s.
pub fn dial(path: &Path) -> io::Result<UnixStream> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Bounds connect(2), too (socket(7)).
    socket::setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(CONNECT, 0))?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// The body of the response on `stream`; None for anything else, such as an answer that came too late.
fn body_for(stream: u32, received: Received) -> Option<Result<Vec<u8>, Error>> {
    match received {
        Received::Frame(Frame {
            stream: of,
            kind: Kind::Response,
            body,
            ..
        }) if of == stream => Some(Ok(body)),
        Received::Oversized { stream: of, .. } if of == stream => Some(Err(Error::TooLong)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::super::{Code, Requests, answer};
    use super::*;
    use crate::proto::shim::task::{ConnectRequest, ConnectResponse};

    const SECOND: Duration = Duration::from_secs(1);

    /// A server at the other end of a connection that answers each call with what `reply` makes of it.
    fn serve(
        reply: impl Fn(&Call) -> Option<Result<Vec<u8>, Status>> + Send + 'static,
    ) -> (Client, thread::JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut requests = Requests::default();
            let mut chunk = [0; 100];
            while let Ok(count @ 1..) = theirs.read(&mut chunk) {
                requests.push(&chunk[..count]);
                while let Some(call) = requests.take() {
                    let call = call.unwrap();
                    if let Some(result) = reply(&call) {
                        theirs.write_all(&answer(call.stream, result)).unwrap();
                    }
                }
            }
        });
        (Client::over(ours), server)
    }

    fn connect(client: &mut Client, id: &str, timeout: Duration) -> Result<ConnectResponse, Error> {
        let request = ConnectRequest { id: id.to_owned() };
        client.call("containerd.task.v2.Task", "Connect", Some("k8s.io"), &request, timeout)
    }

    #[test]
    fn a_call_is_answered_or_refused_and_the_next_one_works() {
        let (mut client, server) = serve(|call| {
            assert_eq!(call.namespace.as_deref(), Some("k8s.io"));
            let request: ConnectRequest = call.decode().unwrap();
            Some(match request.id.as_str() {
                "none" => Err(Status::new(Code::NotFound, "container not created")),
                id => Ok(ConnectResponse {
                    shim_pid: 7,
                    task_pid: 8,
                    version: id.to_owned(),
                }
                .encode_to_vec()),
            })
        });
        let long = "x".repeat(10_000);
        assert_eq!(connect(&mut client, &long, SECOND).unwrap().version, long);
        let refused = connect(&mut client, "none", SECOND).unwrap_err();
        assert!(matches!(refused, Error::Refused(status) if status.code == Code::NotFound));
        assert_eq!(connect(&mut client, "a", SECOND).unwrap().shim_pid, 7);
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn a_late_answer_is_not_taken_for_the_next_calls() {
        let (mut client, _server) = serve(|call| {
            let request: ConnectRequest = call.decode().unwrap();
            if request.id == "slow" {
                thread::sleep(Duration::from_millis(100));
            }
            Some(Ok(ConnectResponse {
                version: request.id,
                ..Default::default()
            }
            .encode_to_vec()))
        });
        let slow = connect(&mut client, "slow", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(slow, Error::TimedOut(_)), "{slow}");
        assert_eq!(connect(&mut client, "quick", SECOND).unwrap().version, "quick");
    }

    #[test]
    fn a_server_that_goes_away_or_is_not_there_is_an_error_at_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut client = Client::over(ours);
        drop(theirs);
        assert!(matches!(connect(&mut client, "a", SECOND), Err(Error::Closed)));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert_eq!(Client::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(Client::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_request_that_is_too_long_is_not_sent() {
        let (mut client, server) = serve(|_| None);
        let error = connect(&mut client, &"x".repeat(5 << 20), SECOND).unwrap_err();
        assert!(matches!(error, Error::TooLong));
        drop(client);
        server.join().unwrap();
    }
}
