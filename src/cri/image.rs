//! CRI's ImageService: each call translated, done, translated back.

use std::collections::{HashMap, HashSet};

use tonic::{Request, Response, Status};

use super::status::{of_image, refused};
use super::translate::image as translate;
use crate::image::Images;
use crate::model::image::Image;
use crate::proto::runtime;
use runtime::image_service_server::ImageService;

/// The service over one image store.
pub struct ImageFace {
    images: Images,
    /// Runtime handlers whose containers are made on another snapshotter than the default.
    snapshotters: HashMap<String, String>,
    in_use: InUse,
}

/// Tells the ids of the images that pods unknown to CRI use. A kubelet sees no container of theirs, so it must see the
/// images as pinned, or it would collect them.
pub type InUse = Box<dyn Fn() -> HashSet<String> + Send + Sync>;

impl ImageFace {
    pub fn new(images: Images, snapshotters: HashMap<String, String>, in_use: InUse) -> Self {
        Self {
            images,
            snapshotters,
            in_use,
        }
    }

    fn messages<'a>(&self, images: impl IntoIterator<Item = &'a Image>) -> Vec<runtime::Image> {
        let in_use = (self.in_use)();
        let message = |image: &Image| runtime::Image {
            pinned: image.pinned || in_use.contains(&image.id),
            ..translate::image(image)
        };
        images.into_iter().map(message).collect()
    }

    async fn find(&self, spec: Option<runtime::ImageSpec>) -> Result<Option<Image>, Status> {
        let spec = translate::reference(spec).map_err(|refusal| refused(&refusal))?;
        self.images.find(&spec.image).await.map_err(|error| of_image(&error))
    }
}

#[tonic::async_trait]
impl ImageService for ImageFace {
    async fn list_images(
        &self,
        request: Request<runtime::ListImagesRequest>,
    ) -> Result<Response<runtime::ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image);
        let images = match wanted.filter(|spec| !spec.image.is_empty()) {
            Some(spec) => self.find(Some(spec)).await?.into_iter().collect(),
            None => self.images.list().await.map_err(|error| of_image(&error))?,
        };
        let images = self.messages(&images);
        Ok(Response::new(runtime::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<runtime::ImageStatusRequest>,
    ) -> Result<Response<runtime::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let found = self.find(request.image).await?;
        let info = match &found {
            Some(image) if request.verbose => HashMap::from([("info".to_owned(), translate::verbose(image))]),
            _ => HashMap::new(),
        };
        let image = self.messages(&found).pop();
        Ok(Response::new(runtime::ImageStatusResponse { image, info }))
    }

    /// Follows its caller: when the client goes, the pull stops and leaves nothing.
    async fn pull_image(
        &self,
        request: Request<runtime::PullImageRequest>,
    ) -> Result<Response<runtime::PullImageResponse>, Status> {
        let request = request.into_inner();
        let spec = translate::reference(request.image).map_err(|refusal| refused(&refusal))?;
        let auth = request
            .auth
            .as_ref()
            .map(translate::auth)
            .transpose()
            .map_err(|refusal| refused(&refusal))?;
        let snapshotter = self.snapshotters.get(&spec.runtime_handler).map(String::as_str);
        let pulled = self
            .images
            .pull(&spec.image, auth.flatten().as_ref(), snapshotter)
            .await;
        let image = pulled.map_err(|error| of_image(&error))?;
        Ok(Response::new(runtime::PullImageResponse { image_ref: image.id }))
    }

    async fn remove_image(
        &self,
        request: Request<runtime::RemoveImageRequest>,
    ) -> Result<Response<runtime::RemoveImageResponse>, Status> {
        let spec = translate::reference(request.into_inner().image).map_err(|refusal| refused(&refusal))?;
        let images = self.images.clone();
        // A removal goes on when its client leaves.
        let removed = tokio::spawn(async move { images.remove(&spec.image).await });
        let removed = removed.await.map_err(|error| Status::internal(error.to_string()))?;
        removed.map_err(|error| of_image(&error))?;
        Ok(Response::new(runtime::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<runtime::ImageFsInfoRequest>,
    ) -> Result<Response<runtime::ImageFsInfoResponse>, Status> {
        let usage = self.images.usage().await.map_err(|error| of_image(&error))?;
        let usage = translate::usage(&usage);
        // Images and containers share one snapshotter, and so one file system.
        Ok(Response::new(runtime::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        }))
    }
}
