//! Shims that containerd has forgotten.
//!
//! A shim ends with its last task. When berth or containerd is killed in the middle of making a task, the shim may be
//! left without one, or even with one that containerd does not know, and waits for ever. It listens where all shims of
//! its kind do, so it can be found, and told to give up its tasks and leave over ttrpc (containerd's RPC for shims: a
//! header of ten bytes, then protobuf).

use std::io;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Client;
use crate::model::Id;

/// Where shims listen, whatever containerd's state directory is (`socketRoot` in containerd's shim library).
const SOCKETS: &str = "/run/containerd/s";
/// How long one may take to answer. It does not before a task that it is making is made.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that leaves may take after its answer.
const LEAVE: Duration = Duration::from_millis(500);
/// The shim's service, as containerd 1.4 to 1.7 and 2.x call it.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(message, repeated, tag = "5")]
    metadata: Vec<Metadata>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// What the requests Delete and Shutdown begin with; all else in them may be missing.
#[derive(Clone, PartialEq, Message)]
struct Subject {
    #[prost(string, tag = "1")]
    id: String,
}

impl Client {
    /// The shim of the group `group`, if one listens.
    pub async fn shim(&self, group: &Id) -> Option<Shim> {
        let socket = socket(self.address(), self.namespace(), group);
        let connection = match UnixStream::connect(&socket).await {
            Ok(connection) => connection,
            Err(error) => {
                // A shim that was killed leaves its socket, and nobody else would ever remove it.
                if error.kind() == ErrorKind::ConnectionRefused {
                    std::fs::remove_file(&socket).ok();
                }
                return None;
            }
        };
        Some(Shim {
            connection,
            group: group.clone(),
            namespace: self.namespace().to_owned(),
            stream: 1,
        })
    }
}

/// A connection to a shim.
pub struct Shim {
    connection: UnixStream,
    group: Id,
    namespace: String,
    /// A client numbers its streams by odd numbers.
    stream: u32,
}

impl Shim {
    /// Has it delete `tasks`, which containerd must not know (any more), and leave. It stays if it has another one.
    pub async fn dismiss(mut self, tasks: &[Id]) {
        let group = self.group.clone();
        tracing::info!(?group, "telling a forgotten shim to leave");
        match tokio::time::timeout(PATIENCE, self.end(tasks)).await {
            Ok(Ok(left)) if !left => tracing::warn!(?group, "a forgotten shim stays: it has a task unknown to berth"),
            // One that leaves may not answer any more.
            Ok(_) => {}
            Err(_) => tracing::warn!(?group, "a forgotten shim does not answer"),
        }
    }

    /// Has it delete one task that containerd does not know; none is fine.
    pub async fn delete(mut self, task: &Id) {
        let deleted = tokio::time::timeout(PATIENCE, async {
            for service in SERVICES {
                self.call(service, "Delete", task).await?;
            }
            io::Result::Ok(())
        });
        if !matches!(deleted.await, Ok(Ok(()))) {
            tracing::warn!(?task, "the shim of a pod does not answer");
        }
    }

    /// Whether it has left.
    async fn end(&mut self, tasks: &[Id]) -> io::Result<bool> {
        let group = self.group.clone();
        for service in SERVICES {
            for task in tasks {
                self.call(service, "Delete", task).await?;
            }
            self.call(service, "Shutdown", &group).await?;
        }
        Ok(tokio::time::timeout(LEAVE, self.connection.read_u8()).await.is_ok())
    }

    /// Calls and waits for the answer, whatever it is: what is not there need not be deleted.
    async fn call(&mut self, service: &str, method: &str, id: &Id) -> io::Result<()> {
        let frame = frame(self.stream, service, method, id, &self.namespace);
        self.stream += 2;
        self.connection.write_all(&frame).await?;
        let mut header = [0; 10];
        self.connection.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        tokio::io::copy(&mut (&mut self.connection).take(length.into()), &mut tokio::io::sink()).await?;
        Ok(())
    }
}

/// A ttrpc request: length, stream, type 1 and no flags, then the message.
fn frame(stream: u32, service: &str, method: &str, id: &Id, namespace: &str) -> Vec<u8> {
    let namespace = Metadata {
        key: "containerd-namespace-ttrpc".to_owned(),
        value: namespace.to_owned(),
    };
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: Subject { id: id.to_string() }.encode_to_vec(),
        metadata: vec![namespace],
    };
    let body = request.encode_to_vec();
    let length = u32::try_from(body.len()).expect("a few dozen bytes");
    let mut frame = Vec::with_capacity(10 + body.len());
    frame.extend(length.to_be_bytes());
    frame.extend(stream.to_be_bytes());
    frame.extend([1, 0]);
    frame.extend(body);
    frame
}

/// The name is made of what the shim was told: containerd's address, the namespace and the group.
fn socket(address: &Path, namespace: &str, group: &Id) -> PathBuf {
    let name = Sha256::digest(
        address
            .join(namespace)
            .join(group.as_str())
            .as_os_str()
            .as_encoded_bytes(),
    );
    let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    Path::new(SOCKETS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_of_a_killed_shim_is_removed() {
        let (client, group) = (Client::new(Path::new("/nowhere/containerd.sock"), "test"), Id::random());
        std::fs::create_dir_all(SOCKETS).unwrap();
        let socket = socket(client.address(), client.namespace(), &group);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        assert!(client.shim(&group).await.is_none());
        assert!(!socket.exists());
        assert!(client.shim(&group).await.is_none());
    }

    #[test]
    fn a_request_is_framed_as_ttrpc_has_it() {
        let id: Id = "a".repeat(64).parse().unwrap();
        let frame = frame(3, SERVICES[0], "Shutdown", &id, "k8s.io");
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        assert_eq!((length, &frame[4..10]), (frame.len() - 10, &[0, 0, 0, 3, 1, 0][..]));
        let request = Request::decode(&frame[10..]).unwrap();
        assert_eq!(
            (request.service.as_str(), request.method.as_str()),
            (SERVICES[0], "Shutdown")
        );
        assert_eq!(request.metadata[0].value, "k8s.io");
        assert_eq!(Subject::decode(&*request.payload).unwrap().id, id.as_str());
    }
}
