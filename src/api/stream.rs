//! Answers that are streams.

use std::future::Future;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Response, Status};

/// Messages that wait for a slow client.
pub const QUEUE: usize = 16;

/// Sends to a client that may be gone.
pub struct Sender<T>(mpsc::Sender<Result<T, Status>>);

/// The client is gone.
pub struct Gone;

impl<T> Sender<T> {
    pub async fn send(&self, message: T) -> Result<(), Gone> {
        self.0.send(Ok(message)).await.map_err(|_| Gone)
    }

    pub async fn fail(&self, status: Status) -> Result<(), Gone> {
        self.0.send(Err(status)).await.map_err(|_| Gone)
    }

    /// Waits until the client is gone.
    pub async fn gone(&self) {
        self.0.closed().await;
    }
}

/// Answers with what `work` sends. It ends early when the client is gone.
pub fn stream<T, F>(work: impl FnOnce(Sender<T>) -> F) -> Response<BoxStream<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let work = work(Sender(sender));
    tokio::spawn(async move {
        // That the client is gone is nobody's error.
        work.await.ok();
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}
