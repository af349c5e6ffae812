//! containerd's snapshots: the root file systems of containers.

use std::collections::HashMap;

use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};
use containerd_client::types;

use super::{Client, Error, gone_is_fine};
use crate::model::Id;
use crate::model::names::label::INSTANCE;
use crate::sys::rootfs::Mount;

pub(super) fn to_wire(mount: &Mount) -> types::Mount {
    let (r#type, source, options) = (mount.fs_type.clone(), mount.source.clone(), mount.options.clone());
    types::Mount {
        r#type,
        source,
        target: String::new(),
        options,
    }
}

fn from_wire(mount: types::Mount) -> Mount {
    Mount {
        fs_type: mount.r#type,
        source: mount.source,
        options: mount.options,
    }
}

impl Client {
    /// Prepares the writable root file system of container `id` on top of the image's layers.
    pub async fn prepare_snapshot(
        &self,
        (instance, lease): (&str, &str),
        snapshotter: &str,
        id: &Id,
        chain_id: &str,
    ) -> Result<Vec<Mount>, Error> {
        let request = PrepareSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: id.to_string(),
            parent: chain_id.to_owned(),
            labels: HashMap::from([(INSTANCE.to_owned(), instance.to_owned())]),
        };
        let answer = self.snapshots().prepare(self.leased(request, lease)).await;
        let what = || format!("prepare the root file system of {id} on {chain_id} in {snapshotter}");
        let mounts = answer
            .map_err(|status| self.error(what(), &status))?
            .into_inner()
            .mounts;
        Ok(mounts.into_iter().map(from_wire).collect())
    }

    /// How the root file system of container `id` is mounted.
    pub async fn snapshot_mounts(&self, snapshotter: &str, id: &Id) -> Result<Vec<Mount>, Error> {
        let request = MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: id.to_string(),
        };
        let answer = self.snapshots().mounts(self.request(request)).await;
        let mounts = answer
            .map_err(|s| self.error(format!("find the root file system of {id}"), &s))?
            .into_inner()
            .mounts;
        Ok(mounts.into_iter().map(from_wire).collect())
    }

    /// Removes the writable root file system of container `id`; none is fine.
    pub async fn remove_snapshot(&self, snapshotter: &str, id: &Id) -> Result<(), Error> {
        let request = RemoveSnapshotRequest {
            snapshotter: snapshotter.to_owned(),
            key: id.to_string(),
        };
        let answer = self.snapshots().remove(self.request(request)).await;
        gone_is_fine(
            answer
                .map(drop)
                .map_err(|s| self.error(format!("remove the root file system of {id}"), &s)),
        )
    }

    /// The containers of this instance that have a writable root file system.
    pub async fn container_snapshots(&self, instance: &str, snapshotter: &str) -> Result<Vec<Id>, Error> {
        let filters = vec![format!("labels.\"{INSTANCE}\"=={instance}")];
        let request = self.request(ListSnapshotsRequest {
            snapshotter: snapshotter.to_owned(),
            filters,
        });
        let what = || format!("list the snapshots of {snapshotter}");
        let answer = self.snapshots().list(request).await;
        let mut pages = answer.map_err(|status| self.error(what(), &status))?.into_inner();
        let mut ids = Vec::new();
        while let Some(page) = pages.message().await.map_err(|status| self.error(what(), &status))? {
            let active = page.info.into_iter().filter(|info| info.kind() == Kind::Active);
            ids.extend(active.filter_map(|info| info.name.parse().ok()));
        }
        Ok(ids)
    }

    fn snapshots(&self) -> SnapshotsClient<tonic::transport::Channel> {
        SnapshotsClient::new(self.channel())
    }
}
