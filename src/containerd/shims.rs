//! Shims that containerd has forgotten.
//!
//! A shim ends with its last task. When berth or containerd is killed in the middle of making a task, the shim may be
//! left without one, or even with one that containerd does not know, and waits for ever. It listens where all shims of
//! its kind do, so it can be found, and told to give up its tasks and leave over [`ttrpc`].

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
use crate::proto::shim::task::{DeleteRequest, ShutdownRequest};
use crate::ttrpc::{self, Call, frame::Decoder};

/// Where shims listen, whatever containerd's state directory is (`socketRoot` in containerd's shim library).
const SOCKETS: &str = "/run/containerd/s";
/// How long one may take to answer. It does not before a task that it is making is made.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that leaves may take after its answer.
const LEAVE: Duration = Duration::from_millis(500);
/// The shim's service, as containerd 1.4 to 1.7 and 2.x call it.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

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
                self.delete_task(service, task).await?;
            }
            io::Result::Ok(())
        });
        if !matches!(deleted.await, Ok(Ok(()))) {
            tracing::warn!(?task, "the shim of a pod does not answer");
        }
    }

    /// Whether it has left.
    async fn end(&mut self, tasks: &[Id]) -> io::Result<bool> {
        for service in SERVICES {
            for task in tasks {
                self.delete_task(service, task).await?;
            }
            let request = ShutdownRequest {
                id: self.group.to_string(),
                ..Default::default()
            };
            self.call(service, "Shutdown", &request).await?;
        }
        Ok(tokio::time::timeout(LEAVE, self.connection.read_u8()).await.is_ok())
    }

    /// Calls and waits for the answer, whatever it is: what is not there need not be deleted.
    async fn call(&mut self, service: &str, method: &str, request: &impl Message) -> io::Result<()> {
        let stream = self.stream;
        self.stream += 2;
        let call = Call {
            stream,
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout: None,
            namespace: Some(self.namespace.clone()),
        };
        let frame = ttrpc::request(call).expect("a request of a few dozen bytes");
        self.connection.write_all(&frame).await?;
        let mut decoder = Decoder::default();
        let mut chunk = [0; 1024];
        loop {
            let count = self.connection.read(&mut chunk).await?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            decoder.push(&chunk[..count]);
            while let Some(received) = decoder.take() {
                if received.stream() == stream {
                    return Ok(());
                }
            }
        }
    }

    async fn delete_task(&mut self, service: &str, task: &Id) -> io::Result<()> {
        let request = DeleteRequest {
            id: task.to_string(),
            ..Default::default()
        };
        self.call(service, "Delete", &request).await
    }
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

    #[tokio::test]
    async fn a_shim_is_told_to_delete_its_tasks_and_leave_as_either_version() {
        let (connection, mut theirs) = UnixStream::pair().unwrap();
        let shim = Shim {
            connection,
            group: Id::random(),
            namespace: "k8s.io".to_owned(),
            stream: 1,
        };
        let (group, task) = (shim.group.clone(), Id::random());
        let told = tokio::spawn(async move {
            let (mut requests, mut told) = (ttrpc::Requests::default(), Vec::new());
            while told.len() < 4 {
                let mut chunk = [0; 100];
                let count = theirs.read(&mut chunk).await.unwrap();
                requests.push(&chunk[..count]);
                while let Some(call) = requests.take() {
                    let call = call.unwrap();
                    let refused = ttrpc::Status::new(ttrpc::Code::Unimplemented, "service");
                    theirs
                        .write_all(&ttrpc::answer(call.stream, Err(refused)))
                        .await
                        .unwrap();
                    let subject: DeleteRequest = call.decode().unwrap();
                    told.push((call.service, call.method, subject.id, call.namespace.unwrap()));
                }
            }
            told
        });
        shim.dismiss(std::slice::from_ref(&task)).await;
        let expected = SERVICES.map(|service| {
            [("Delete", &task), ("Shutdown", &group)].map(|(method, id)| {
                (
                    service.to_owned(),
                    method.to_owned(),
                    id.to_string(),
                    "k8s.io".to_owned(),
                )
            })
        });
        assert_eq!(told.await.unwrap(), expected.concat());
    }
}
