//! The content store: blobs by digest.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    AbortRequest, Info, ReadContentRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::{Client, Error, gone_is_fine};
use crate::model::Id;
use crate::model::image::Descriptor;

/// Bytes put into one message to containerd.
const CHUNK: usize = 1 << 20;

/// The content of our namespace.
pub struct Content<'a>(&'a Client);

/// A blob on its way into the store. Dropped without [`Writer::commit`], what was written stays under its lease and
/// goes with it.
pub struct Writer {
    client: Client,
    /// containerd's name of this write.
    name: String,
    what: String,
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    offset: u64,
    buffer: BytesMut,
}

impl Client {
    pub fn content(&self) -> Content<'_> {
        Content(self)
    }
}

impl Content<'_> {
    /// Reads a whole blob of at most `limit` bytes.
    pub async fn read(&self, digest: &str, limit: usize) -> Result<Vec<u8>, Error> {
        let what = format!("content {digest}");
        let request = self.0.request(ReadContentRequest {
            digest: digest.to_owned(),
            offset: 0,
            size: 0,
        });
        let refused = |status: Status| self.0.error(what.clone(), &status);
        let mut stream = self.service().read(request).await.map_err(refused)?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await.map_err(refused)? {
            bytes.extend_from_slice(&chunk.data);
            if bytes.len() > limit {
                let reason = format!("larger than {limit} bytes");
                return Err(Error::Unreadable { what, reason });
            }
        }
        Ok(bytes)
    }

    /// Begins to write a blob under a lease. None: `expected` is in the store already (and now under the lease too).
    pub async fn begin(&self, lease: &str, expected: Option<&Descriptor>) -> Result<Option<Writer>, Error> {
        let name = format!("berth-{}", Id::random().short());
        let what = match expected {
            Some(blob) => format!("content {}", blob.digest),
            None => "content".to_owned(),
        };
        // containerd sends its answer's headers with the first message, which comes after our first.
        let (requests, queue) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: name.clone(),
            total: expected.map_or(0, |blob| i64::try_from(blob.size).unwrap_or(i64::MAX)),
            expected: expected.map(|blob| blob.digest.clone()).unwrap_or_default(),
            ..WriteContentRequest::default()
        };
        requests.try_send(first).expect("the queue takes one request");
        let request = self.0.leased(ReceiverStream::new(queue), lease);
        let begun = async {
            let mut answers = self.service().write(request).await?.into_inner();
            answers.message().await?;
            Ok::<_, Status>(answers)
        };
        match begun.await {
            Ok(answers) => Ok(Some(Writer {
                client: self.0.clone(),
                name,
                what,
                requests,
                answers,
                offset: 0,
                buffer: BytesMut::new(),
            })),
            Err(status) if status.code() == Code::AlreadyExists => Ok(None),
            Err(status) => Err(self.0.error(what, &status)),
        }
    }

    /// Writes a small blob whole.
    pub async fn put(&self, lease: &str, blob: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
        if let Some(mut writer) = self.begin(lease, Some(blob)).await? {
            writer.write(bytes).await?;
            writer.commit(blob).await?;
        }
        Ok(())
    }

    /// Sets labels on a blob, leaving its others.
    pub async fn label(&self, digest: &str, labels: HashMap<String, String>) -> Result<(), Error> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info {
            digest: digest.to_owned(),
            labels,
            ..Info::default()
        };
        let request = self.0.request(UpdateRequest {
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
        });
        match self.service().update(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(self.0.error(format!("content {digest}"), &status)),
        }
    }

    fn service(&self) -> ContentClient<Channel> {
        ContentClient::new(self.0.channel())
    }
}

impl Writer {
    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    /// Appends to the blob.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = CHUNK - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == CHUNK {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the blob. containerd compares its size and digest with `expected` and refuses one that differs.
    pub async fn commit(mut self, expected: &Descriptor) -> Result<(), Error> {
        self.flush().await?;
        let request = WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: i64::try_from(expected.size).unwrap_or(i64::MAX),
            expected: expected.digest.clone(),
            ..self.message()
        };
        match self.send(request).await {
            Ok(_) => Ok(()),
            // Somebody else was faster; the blob is under our lease as well.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(self.client.error(self.what.clone(), &status)),
        }
    }

    /// Gives the blob up and frees what was written.
    pub async fn abort(self) -> Result<(), Error> {
        let Self {
            client,
            name,
            what,
            requests,
            mut answers,
            ..
        } = self;
        drop(requests);
        // containerd closes the write when it sees the end of our side, and must not while the files go.
        while let Ok(Some(_)) = answers.message().await {}
        let request = client.request(AbortRequest { r#ref: name });
        let aborted = client.content().service().abort(request).await;
        gone_is_fine(aborted.map(drop).map_err(|status| client.error(what, &status)))
    }

    async fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let data: Bytes = self.buffer.split().freeze();
        let length = data.len() as u64;
        let request = WriteContentRequest {
            action: WriteAction::Write.into(),
            data: data.into(),
            ..self.message()
        };
        match self.send(request).await {
            Ok(_) => {
                self.offset += length;
                Ok(())
            }
            Err(status) => Err(self.client.error(self.what.clone(), &status)),
        }
    }

    fn message(&self) -> WriteContentRequest {
        WriteContentRequest {
            r#ref: self.name.clone(),
            offset: i64::try_from(self.offset).unwrap_or(i64::MAX),
            ..WriteContentRequest::default()
        }
    }

    async fn send(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // When the call is over nobody takes requests any more; the answer stream says why.
        let _ = self.requests.send(request).await;
        match self.answers.message().await? {
            Some(answer) => Ok(answer),
            None => Err(Status::unavailable("the stream ended early")),
        }
    }
}
