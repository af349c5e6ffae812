//! `berth.v1.Images`: pulls that tell how they go, and archives.

use std::io::{self, Read};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::cri::of_image;
use crate::image::{Auth, Images, Import, Progress};
use crate::model;
use crate::proto::berth;
use berth::images_server;
use berth::import_images_request::Part;
use berth::pull_image_response::{self, Event};

/// The service over one image store.
pub struct ImagesFace(Images);

/// Messages that wait for a slow client. What does not fit is left out: the next one says more.
const PROGRESS_QUEUE: usize = 64;
/// Parts of an archive that wait for containerd.
const ARCHIVE_QUEUE: usize = 4;

impl ImagesFace {
    pub fn new(images: Images) -> Self {
        Self(images)
    }
}

#[tonic::async_trait]
impl images_server::Images for ImagesFace {
    async fn import(
        &self,
        request: Request<Streaming<berth::ImportImagesRequest>>,
    ) -> Result<Response<berth::ImportImagesResponse>, Status> {
        let mut parts = request.into_inner();
        let options = match parts.message().await?.and_then(|first| first.part) {
            Some(Part::Options(options)) => options,
            _ => return Err(Status::invalid_argument("options: they are to be the first message")),
        };
        let import = Import {
            tag: Some(options.tag).filter(|tag| !tag.is_empty()),
            snapshotter: None,
        };
        let (sender, receiver) = mpsc::channel(ARCHIVE_QUEUE);
        let reader = PartReader {
            parts: receiver,
            current: Vec::new(),
            read: 0,
        };
        let feed = async move {
            loop {
                let part = match parts.message().await {
                    Ok(Some(message)) => message.part,
                    Ok(None) => break Ok(()),
                    Err(status) => break Err(status),
                };
                match part {
                    Some(Part::Data(data)) => {
                        if sender.send(data).await.is_err() {
                            break Ok(());
                        }
                    }
                    _ => break Err(Status::invalid_argument("data: every message after the first has some")),
                }
            }
        };
        let (fed, imported) = tokio::join!(feed, self.0.import(reader, &import));
        fed?;
        let images = imported.map_err(|error| of_image(&error))?;
        let images = images.into_iter().map(wire).collect();
        Ok(Response::new(berth::ImportImagesResponse { images }))
    }

    async fn pull(
        &self,
        request: Request<berth::PullImageRequest>,
    ) -> Result<Response<BoxStream<berth::PullImageResponse>>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(PROGRESS_QUEUE);
        let images = self.0.clone();
        tokio::spawn(async move {
            let tell = |progress| drop(sender.try_send(Ok(message(event(progress)))));
            let auth = request
                .credentials
                .map(|who| Auth::password(&who.username, &who.password));
            let pull = images.pull_with(&request.reference, auth.as_ref(), None, &tell);
            let last = tokio::select! {
                pulled = pull => match pulled {
                    Ok(image) => Ok(message(Event::Done(wire(image)))),
                    Err(error) => Err(of_image(&error)),
                },
                // The client has gone: the pull stops.
                () = sender.closed() => return,
            };
            let _ = sender.send(last).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list(&self, _: Request<berth::ListImagesRequest>) -> Result<Response<berth::ListImagesResponse>, Status> {
        let images = self.0.list().await.map_err(|error| of_image(&error))?;
        let images = images.into_iter().map(wire).collect();
        Ok(Response::new(berth::ListImagesResponse { images }))
    }

    async fn remove(
        &self,
        request: Request<berth::RemoveImageRequest>,
    ) -> Result<Response<berth::RemoveImageResponse>, Status> {
        let (images, image) = (self.0.clone(), request.into_inner().image);
        // A removal goes on when its client leaves.
        let removed = tokio::spawn(async move { images.remove(&image).await });
        let removed = removed.await.map_err(|error| Status::internal(error.to_string()))?;
        removed.map_err(|error| of_image(&error))?;
        Ok(Response::new(berth::RemoveImageResponse {}))
    }
}

fn message(event: Event) -> berth::PullImageResponse {
    berth::PullImageResponse { event: Some(event) }
}

fn event(progress: Progress) -> Event {
    match progress {
        Progress::Resolved { digest } => Event::Resolved(digest),
        Progress::Fetching { digest, done, size } => {
            Event::Fetching(pull_image_response::Fetching { digest, done, size })
        }
        Progress::Unpacked { layers, of } => Event::Unpacked(pull_image_response::Unpacked {
            layers: u32::try_from(layers).unwrap_or(u32::MAX),
            of: u32::try_from(of).unwrap_or(u32::MAX),
        }),
    }
}

fn wire(image: model::image::Image) -> berth::Image {
    berth::Image {
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size: image.size,
    }
}

/// The archive's parts as the reader that an import wants; lives on the import's own thread.
struct PartReader {
    parts: mpsc::Receiver<Vec<u8>>,
    current: Vec<u8>,
    /// Bytes of `current` that are read.
    read: usize,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.current.len() {
            let Some(next) = self.parts.blocking_recv() else {
                return Ok(0);
            };
            (self.current, self.read) = (next, 0);
        }
        let rest = &self.current[self.read..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.read += count;
        Ok(count)
    }
}
