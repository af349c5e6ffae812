//! A connection to task.sock on which anything can be sent.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use berth::ttrpc::frame::{Decoder, Frame, Received};
use berth::ttrpc::{self, Call, Code, Status};
use prost::Message;

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const SERVICE: &str = "containerd.task.v2.Task";

/// All methods of the service.
pub const METHODS: [&str; 17] = [
    "State",
    "Create",
    "Start",
    "Delete",
    "Pids",
    "Pause",
    "Resume",
    "Checkpoint",
    "Kill",
    "Exec",
    "ResizePty",
    "CloseIO",
    "Update",
    "Wait",
    "Stats",
    "Connect",
    "Shutdown",
];

pub struct Wire {
    pub socket: UnixStream,
    decoder: Decoder,
    stream: u32,
}

/// A call of `method`, on the stream to be filled in.
pub fn call(method: &str, request: &impl Message) -> Call {
    Call {
        stream: 1,
        service: SERVICE.to_owned(),
        method: method.to_owned(),
        payload: request.encode_to_vec(),
        timeout: None,
        namespace: None,
    }
}

impl Wire {
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            decoder: Decoder::default(),
            stream: 1,
        }
    }

    /// Sends a call without waiting for its answer. Gives its stream.
    pub fn send(&mut self, call: Call) -> u32 {
        let stream = self.stream;
        self.stream += 2;
        self.socket
            .write_all(&ttrpc::request(Call { stream, ..call }).unwrap())
            .unwrap();
        stream
    }

    /// The next answer of all, or None when the other end closes the connection.
    pub fn next(&mut self) -> Option<(u32, Result<Vec<u8>, Status>)> {
        let begin = Instant::now();
        loop {
            match self.decoder.take() {
                Some(Received::Frame(Frame { stream, body, .. })) => return Some((stream, ttrpc::response(&body))),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            assert!(begin.elapsed() < PATIENCE);
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// The answer to the call on `stream`; others are passed over.
    pub fn answer(&mut self, stream: u32) -> Result<Vec<u8>, Status> {
        loop {
            match self.next() {
                Some((of, answer)) if of == stream => return answer,
                Some(_) => {}
                None => return Err(Status::new(Code::Unavailable, "the connection was closed")),
            }
        }
    }

    pub fn ask<A: Message + Default>(&mut self, method: &str, request: &impl Message) -> Result<A, Status> {
        self.ask_within(method, request, None)
    }

    /// With a timeout for the shim.
    pub fn ask_within<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
        timeout: Option<Duration>,
    ) -> Result<A, Status> {
        let stream = self.send(Call {
            timeout,
            ..call(method, request)
        });
        Ok(A::decode(self.answer(stream)?.as_slice()).unwrap())
    }
}

/// The code of a refusal, which must have words.
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    let status = result.unwrap_err();
    assert!(!status.message.is_empty());
    status.code
}
