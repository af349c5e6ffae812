//! Content into snapshots, and the labels that keep them together.

use std::collections::HashMap;

use super::catalog::Content;
use super::document::chain_ids;
use super::lease::Lease;
use super::{Error, Images};
use crate::containerd::layers::Layer;

/// containerd's collector follows labels that begin so from one piece of content to another.
const REFERS_TO: &str = "containerd.io/gc.ref.content";
/// The same to a snapshot, followed by the snapshotter's name.
const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot";

impl Images {
    /// Unpacks what is not unpacked yet, lowest layer first, and ties the result to the image's config.
    pub(super) async fn unpack_all(&self, content: &Content, snapshotter: &str, lease: &Lease) -> Result<(), Error> {
        let chain = chain_ids(&content.config.diff_ids);
        for index in 0..chain.len() {
            self.unpack_layer(content, &chain, index, snapshotter, lease).await?;
        }
        self.tie_snapshot(content, snapshotter).await
    }

    /// Unpacks the layer `index`; those below it are unpacked already.
    pub(super) async fn unpack_layer(
        &self,
        content: &Content,
        chain: &[String],
        index: usize,
        snapshotter: &str,
        lease: &Lease,
    ) -> Result<(), Error> {
        let shared = &self.0;
        let layer = Layer {
            parent: index.checked_sub(1).map_or("", |below| &chain[below]),
            chain_id: &chain[index],
            blob: &content.layers[index],
            diff_id: &content.config.diff_ids[index],
        };
        let kind = format!("snapshots/{snapshotter}");
        let _turn = shared.turns.wait(&format!("{kind}/{}", layer.chain_id)).await;
        // First under the lease, then the look: what is found cannot be collected any more.
        shared
            .client
            .leases()
            .add_resource(lease.id(), &kind, layer.chain_id)
            .await?;
        let layers = shared.client.layers(snapshotter);
        if !layers.exists(layer.chain_id).await? {
            layers.apply(layer, lease.id()).await?;
        }
        Ok(())
    }

    /// Ties all content of an image together: whoever holds its target holds it all.
    pub(super) async fn tie_content(&self, content: &Content) -> Result<(), Error> {
        let store = self.0.client.content();
        for step in content.path.windows(2) {
            let label = (format!("{REFERS_TO}.berth"), step[1].digest.clone());
            store.label(&step[0].digest, HashMap::from([label])).await?;
        }
        let mut labels = HashMap::from([(format!("{REFERS_TO}.config"), content.config_blob.digest.clone())]);
        for (index, layer) in content.layers.iter().enumerate() {
            labels.insert(format!("{REFERS_TO}.l.{index}"), layer.digest.clone());
        }
        let manifest = content.path.last().expect("the path ends with the manifest");
        Ok(store.label(&manifest.digest, labels).await?)
    }

    /// Ties the unpacked layers to the image's config.
    pub(super) async fn tie_snapshot(&self, content: &Content, snapshotter: &str) -> Result<(), Error> {
        let top = content.config.image.chain_id.clone();
        if top.is_empty() {
            return Ok(());
        }
        let labels = HashMap::from([(format!("{REFERS_TO_SNAPSHOT}.{snapshotter}"), top)]);
        Ok(self
            .0
            .client
            .content()
            .label(&content.config_blob.digest, labels)
            .await?)
    }
}
