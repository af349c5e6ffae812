//! What the daemon says to the pump, and the pump answers: a JSON object on a line of its own over a unix socket, one reply
//! for each request, in order. Unknown fields are ignored, so that two versions of berth understand each other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::line::Output;
use crate::model::Id;

/// The longest request, in bytes: a few paths.
pub const MAX_REQUEST: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Read a container's FIFOs from now on. Done already if it is open with the same paths.
    Open(Open),
    /// Open the log file anew, as the kubelet has renamed it.
    Reopen { id: Id },
    /// Wait until all that the container wrote is in the log, at most so long; then forget the container.
    Drain { id: Id, timeout_ms: u64 },
    /// Write what is there now, and forget the container.
    Close { id: Id },
    /// All open containers.
    List,
    /// Who are you?
    Ping,
}

/// Where a container's output comes from and goes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub id: Id,
    /// FIFOs, which exist already.
    pub stdout: PathBuf,
    /// None with a terminal, which has one output only.
    pub stderr: Option<PathBuf>,
    /// None: what is read is thrown away.
    pub log_path: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Done,
    Drained(Drained),
    Containers {
        containers: Vec<Status>,
    },
    Pong(Pong),
    /// The container is not open: never was, or was drained or closed since.
    Unknown {
        id: Id,
    },
    Failed {
        message: String,
    },
}

/// How a container's log ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Every output came to its end and all of it is in the log.
    pub complete: bool,
    /// Otherwise: why not.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(flatten)]
    pub open: Open,
    pub streams: Vec<StreamStatus>,
    /// Why the log cannot be written at present. The container waits once its FIFO is full.
    pub stuck: Option<String>,
    /// Writes that failed since the container was opened.
    pub failures: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    pub output: Output,
    /// Bytes taken from the FIFO since it was opened.
    pub taken: u64,
    /// Bytes that were seen and written but gone when they were to be taken: the container read its own output.
    #[serde(default)]
    pub missing: u64,
    /// The last writer has left, and all is in the log.
    pub ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The version of berth that the pump is of.
    pub version: String,
    /// The process whose thread the pump is.
    pub pid: u32,
}

/// A message as it goes over the wire.
pub fn encode(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_come_back_from_the_wire_as_they_were_sent() {
        let open = Open {
            id: Id::random(),
            stdout: "/run/a".into(),
            stderr: None,
            log_path: Some("/var/log/0.log".into()),
        };
        for request in [
            Request::Open(open.clone()),
            Request::Drain {
                id: Id::random(),
                timeout_ms: 5,
            },
            Request::Ping,
        ] {
            let line = encode(&request).unwrap();
            assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
            assert_eq!(serde_json::from_slice::<Request>(&line).unwrap(), request);
        }
        let stdout = StreamStatus {
            output: Output::Stdout,
            taken: 7,
            missing: 0,
            ended: false,
        };
        let status = Status {
            open,
            streams: vec![stdout],
            stuck: None,
            failures: 0,
        };
        let reply = Reply::Containers {
            containers: vec![status],
        };
        assert_eq!(
            serde_json::from_slice::<Reply>(&encode(&reply).unwrap()).unwrap(),
            reply
        );
    }

    #[test]
    fn a_field_of_a_later_version_is_ignored() {
        let request: Request = serde_json::from_str(r#"{"request":"ping","colour":"blue"}"#).unwrap();
        assert_eq!(request, Request::Ping);
    }
}
