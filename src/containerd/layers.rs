//! Layers of images as snapshots: applying them, and what all snapshots take on disk.

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
    UsageRequest,
};
use containerd_client::types::Mount;
use std::path::PathBuf;
use tonic::transport::Channel;

use super::{Client, Error, gone_is_fine};
use crate::model::Id;
use crate::model::image::Descriptor;

/// The layers that one snapshotter holds.
pub struct Layers<'a> {
    client: &'a Client,
    snapshotter: &'a str,
}

/// A layer to be applied.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Chain id of the layers below; empty for the lowest.
    pub parent: &'a str,
    /// Chain id of this layer and all below it: the name of its snapshot.
    pub chain_id: &'a str,
    pub blob: &'a Descriptor,
    /// Digest of the uncompressed layer.
    pub diff_id: &'a str,
}

impl Client {
    pub fn layers<'a>(&'a self, snapshotter: &'a str) -> Layers<'a> {
        Layers {
            client: self,
            snapshotter,
        }
    }
}

impl Layers<'_> {
    /// Whether the snapshot named `chain_id` is there.
    pub async fn exists(&self, chain_id: &str) -> Result<bool, Error> {
        let request = self.client.request(StatSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: chain_id.to_owned(),
        });
        match self.snapshots().stat(request).await {
            Ok(_) => Ok(true),
            Err(status) => match self.error(chain_id, &status) {
                Error::NotFound { .. } => Ok(false),
                error => Err(error),
            },
        }
    }

    /// Unpacks one layer onto its parent under a lease. A layer whose content is not what its diff id says is
    /// refused, and nothing of it stays.
    pub async fn apply(&self, layer: Layer<'_>, lease: &str) -> Result<(), Error> {
        let key = format!("berth-unpack-{} {}", Id::random().short(), layer.chain_id);
        let mounts = self.prepare(&key, layer.parent, lease).await?;
        let applied = async {
            self.extract(layer, mounts).await?;
            self.commit(&key, layer.chain_id, lease).await
        };
        match applied.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let removed = self.remove(&key).await;
                match error {
                    // Somebody else has made the same snapshot.
                    Error::AlreadyExists { .. } => removed,
                    error => Err(error),
                }
            }
        }
    }

    /// Where on disk the snapshotter keeps its snapshots; None if it does not say.
    pub async fn root(&self) -> Result<Option<PathBuf>, Error> {
        let filter = format!("type==io.containerd.snapshotter.v1,id=={}", self.snapshotter);
        let request = self.client.request(PluginsRequest { filters: vec![filter] });
        let answer = IntrospectionClient::new(self.client.channel()).plugins(request).await;
        let plugins = answer.map_err(|status| self.error("", &status))?.into_inner().plugins;
        let root = plugins.into_iter().find_map(|mut plugin| plugin.exports.remove("root"));
        Ok(root.map(PathBuf::from))
    }

    /// Bytes and inodes of all snapshots together.
    pub async fn usage(&self) -> Result<(u64, u64), Error> {
        let (mut bytes, mut inodes) = (0, 0);
        for name in self.names().await? {
            let request = self.client.request(UsageRequest {
                snapshotter: self.snapshotter.to_owned(),
                key: name.clone(),
            });
            match self.snapshots().usage(request).await.map(tonic::Response::into_inner) {
                Ok(usage) => {
                    bytes += u64::try_from(usage.size).unwrap_or_default();
                    inodes += u64::try_from(usage.inodes).unwrap_or_default();
                }
                // It went since it was listed.
                Err(status) => gone_is_fine(Err(self.error(&name, &status)))?,
            }
        }
        Ok((bytes, inodes))
    }

    async fn names(&self) -> Result<Vec<String>, Error> {
        let request = self.client.request(ListSnapshotsRequest {
            snapshotter: self.snapshotter.to_owned(),
            filters: Vec::new(),
        });
        let refused = |status| self.error("", &status);
        let mut stream = self.snapshots().list(request).await.map_err(refused)?.into_inner();
        let mut names = Vec::new();
        while let Some(part) = stream.message().await.map_err(refused)? {
            names.extend(part.info.into_iter().map(|info| info.name));
        }
        Ok(names)
    }

    async fn prepare(&self, key: &str, parent: &str, lease: &str) -> Result<Vec<Mount>, Error> {
        let message = PrepareSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..PrepareSnapshotRequest::default()
        };
        let prepared = self.snapshots().prepare(self.client.leased(message, lease)).await;
        match prepared {
            Ok(answer) => Ok(answer.into_inner().mounts),
            Err(status) => Err(self.error(key, &status)),
        }
    }

    async fn extract(&self, layer: Layer<'_>, mounts: Vec<Mount>) -> Result<(), Error> {
        let request = self.client.request(ApplyRequest {
            diff: Some(layer.blob.into()),
            mounts,
            ..ApplyRequest::default()
        });
        let what = || format!("layer {}", layer.blob.digest);
        let answer = DiffClient::new(self.client.channel()).apply(request).await;
        let answer = answer
            .map_err(|status| self.client.error(what(), &status))?
            .into_inner();
        let found = answer.applied.map(|applied| applied.digest).unwrap_or_default();
        if found == layer.diff_id {
            return Ok(());
        }
        let reason = format!("its content is {found}, and the image's config says {}", layer.diff_id);
        Err(Error::Unreadable { what: what(), reason })
    }

    async fn commit(&self, key: &str, chain_id: &str, lease: &str) -> Result<(), Error> {
        let message = CommitSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            name: chain_id.to_owned(),
            key: key.to_owned(),
            ..CommitSnapshotRequest::default()
        };
        let committed = self.snapshots().commit(self.client.leased(message, lease)).await;
        committed.map(drop).map_err(|status| self.error(chain_id, &status))
    }

    async fn remove(&self, key: &str) -> Result<(), Error> {
        let request = self.client.request(RemoveSnapshotRequest {
            snapshotter: self.snapshotter.to_owned(),
            key: key.to_owned(),
        });
        let removed = self.snapshots().remove(request).await;
        gone_is_fine(removed.map(drop).map_err(|status| self.error(key, &status)))
    }

    fn error(&self, key: &str, status: &tonic::Status) -> Error {
        self.client
            .error(format!("snapshot {key} of {}", self.snapshotter), status)
    }

    fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.client.channel())
    }
}
