//! ttrpc, containerd's RPC for shims: protobuf over a unix stream, without HTTP.
//!
//! A client sends requests on streams that it numbers 1, 3, 5, …; the server answers each once, in any order. All here
//! is pure but [`client`]: a server pushes what it reads into [`Requests`], takes calls out, and writes what
//! [`answer`] makes.

pub mod client;
pub mod frame;
mod status;

use std::time::Duration;

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::proto::shim::{rpc, ttrpc as wire};
use frame::{Decoder, Frame, Kind, Received};
pub use status::{Code, Status};

/// The metadata that carries containerd's namespace (`TTRPCHeader` in containerd's namespaces package).
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// The most characters of an error's message: callers may have part in what it says.
const MAX_WORDS: usize = 4096;

/// A request for a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// To be given to [`answer`].
    pub stream: u32,
    /// Such as `containerd.task.v2.Task`.
    pub service: String,
    pub method: String,
    /// The method's request, encoded.
    pub payload: Vec<u8>,
    /// How long the caller waits; None: for ever.
    pub timeout: Option<Duration>,
    /// containerd's namespace, if the caller says one.
    pub namespace: Option<String>,
}

impl Call {
    /// The method's request.
    pub fn decode<M: Message + Default>(&self) -> Result<M, Status> {
        M::decode(self.payload.as_slice())
            .map_err(|error| Status::new(Code::InvalidArgument, format!("unmarshal request error: {error}")))
    }
}

/// A frame that must be answered with an error, and is no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub stream: u32,
    pub status: Status,
}

/// The calls of one connection, refused by the rules of containerd's own server (ttrpc's server.go). It can be written
/// down, so that another program goes on with the connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Requests {
    decoder: Decoder,
    /// The highest stream so far: one is not used twice.
    last: u32,
}

impl Requests {
    /// Takes what was read. Then [`Requests::take`] is to be called until it says None.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The next call or refusal.
    pub fn take(&mut self) -> Option<Result<Call, Refused>> {
        loop {
            let received = self.decoder.take()?;
            let stream = received.stream();
            match self.accept(received) {
                Ok(None) => {}
                Ok(Some(call)) => return Some(Ok(call)),
                Err(status) => return Some(Err(Refused { stream, status })),
            }
        }
    }

    /// The call in a frame; None when the frame is to be ignored.
    fn accept(&mut self, received: Received) -> Result<Option<Call>, Status> {
        let invalid = |message: &str| Err(Status::new(Code::InvalidArgument, message));
        let frame = match received {
            Received::Frame(frame) => frame,
            Received::Oversized { length, .. } => {
                let reason = format!("message length {length} exceeds the maximum of {}", frame::MAX_BODY);
                return Err(Status::new(Code::ResourceExhausted, reason));
            }
        };
        if frame.stream % 2 != 1 {
            return invalid("StreamID must be odd for client initiated streams");
        }
        match frame.kind {
            Kind::Request if frame.stream <= self.last => invalid("StreamID cannot be re-used and must increment"),
            Kind::Request => {
                self.last = frame.stream;
                parse(&frame).map(Some)
            }
            // No method here takes a stream of data.
            Kind::Data => invalid("StreamID is no longer active"),
            Kind::Response | Kind::Unknown(_) => Ok(None),
        }
    }
}

fn parse(frame: &Frame) -> Result<Call, Status> {
    let request = wire::Request::decode(frame.body.as_slice())
        .map_err(|error| Status::new(Code::InvalidArgument, format!("unmarshal request error: {error}")))?;
    let timeout = match request.timeout_nano {
        0 => None,
        // A negative one has passed.
        nanos => Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))),
    };
    let mut metadata = request.metadata.into_iter();
    Ok(Call {
        stream: frame.stream,
        service: request.service,
        method: request.method,
        payload: request.payload,
        timeout,
        namespace: metadata.find(|pair| pair.key == NAMESPACE).map(|pair| pair.value),
    })
}

/// The frame that answers the call on `stream` with an encoded response or an error.
pub fn answer(stream: u32, result: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match result {
        Ok(payload) => wire::Response { status: None, payload },
        Err(status) => refusal(status),
    };
    frame::encode(stream, Kind::Response, &response.encode_to_vec()).unwrap_or_else(|| {
        let too_long = Status::new(Code::ResourceExhausted, "the response is longer than a message may be");
        frame::encode(stream, Kind::Response, &refusal(too_long).encode_to_vec()).expect("a short message")
    })
}

fn refusal(status: Status) -> wire::Response {
    let mut message = status.message;
    if let Some((end, _)) = message.char_indices().nth(MAX_WORDS) {
        message.truncate(end);
        message.push('…');
    }
    let status = rpc::Status {
        code: status.code.to_wire(),
        message,
        details: Vec::new(),
    };
    wire::Response {
        status: Some(status),
        payload: Vec::new(),
    }
}

/// The frame of a call. None when it is longer than a message may be.
pub fn request(call: Call) -> Option<Vec<u8>> {
    let namespace = call.namespace.map(|value| wire::KeyValue {
        key: NAMESPACE.to_owned(),
        value,
    });
    let nanos = |timeout: Duration| i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX);
    let request = wire::Request {
        service: call.service,
        method: call.method,
        payload: call.payload,
        timeout_nano: call.timeout.map_or(0, nanos),
        metadata: namespace.into_iter().collect(),
    };
    frame::encode(call.stream, Kind::Request, &request.encode_to_vec())
}

/// What the body of a response says: the method's encoded response, or why there is none.
pub fn response(body: &[u8]) -> Result<Vec<u8>, Status> {
    let response = wire::Response::decode(body)
        .map_err(|error| Status::new(Code::Internal, format!("unmarshal response error: {error}")))?;
    match response.status {
        Some(status) if status.code != 0 => Err(Status::new(Code::from_wire(status.code), status.message)),
        _ => Ok(response.payload),
    }
}

#[cfg(test)]
mod tests;
