//! Image records: a name and the descriptor it stands for.

use std::collections::HashMap;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types;
use prost_types::FieldMask;
use tonic::transport::Channel;

use super::{Client, Error, gone_is_fine};
use crate::model::image::Descriptor;

/// The image records of our namespace.
pub struct Images<'a>(&'a Client);

/// One name for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    pub name: String,
    /// A manifest, or an index of manifests for many platforms.
    pub target: Descriptor,
    pub labels: HashMap<String, String>,
}

impl Client {
    pub fn images(&self) -> Images<'_> {
        Images(self)
    }
}

impl Images<'_> {
    pub async fn list(&self) -> Result<Vec<ImageRecord>, Error> {
        let request = self.0.request(ListImagesRequest { filters: Vec::new() });
        let answer = self.service().list(request).await;
        let images = answer
            .map_err(|status| self.0.error("images", &status))?
            .into_inner()
            .images;
        Ok(images
            .into_iter()
            .filter_map(|image| {
                Some(ImageRecord {
                    name: image.name,
                    target: Descriptor::from(image.target?),
                    labels: image.labels,
                })
            })
            .collect())
    }

    /// Lets `name` stand for `target`, whatever it stood for before. Labels of an existing record stay.
    pub async fn point(&self, name: &str, target: &Descriptor) -> Result<(), Error> {
        let image = Image {
            name: name.to_owned(),
            target: Some(target.into()),
            ..Image::default()
        };
        let request = self.0.request(CreateImageRequest {
            image: Some(image.clone()),
            source_date_epoch: None,
        });
        let created = self.service().create(request).await;
        match created.map_err(|status| self.0.error(format!("image {name}"), &status)) {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. }) => self.repoint(image).await,
            Err(error) => Err(error),
        }
    }

    async fn repoint(&self, image: Image) -> Result<(), Error> {
        let name = image.name.clone();
        let request = self.0.request(UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask {
                paths: vec!["target".to_owned()],
            }),
            source_date_epoch: None,
        });
        let updated = self.service().update(request).await;
        updated
            .map(drop)
            .map_err(|status| self.0.error(format!("image {name}"), &status))
    }

    /// Forgets a name; one that is unknown is fine. With `sync`, returns after the garbage collector has run.
    pub async fn delete(&self, name: &str, sync: bool) -> Result<(), Error> {
        let request = self.0.request(DeleteImageRequest {
            name: name.to_owned(),
            sync,
            target: None,
        });
        let deleted = self.service().delete(request).await;
        gone_is_fine(
            deleted
                .map(drop)
                .map_err(|status| self.0.error(format!("image {name}"), &status)),
        )
    }

    fn service(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.0.channel())
    }
}

impl From<types::Descriptor> for Descriptor {
    fn from(wire: types::Descriptor) -> Self {
        Self {
            media_type: wire.media_type,
            digest: wire.digest,
            size: u64::try_from(wire.size).unwrap_or_default(),
        }
    }
}

impl From<&Descriptor> for types::Descriptor {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.clone(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            ..Self::default()
        }
    }
}
