//! The lease of one pull, import or unpack.

use std::collections::HashMap;
use std::time::Duration;

use super::{Error, Images};
use crate::containerd::Client;
use crate::model::Id;
use crate::sys;

/// A work that takes longer than this loses what it has; one whose berth died leaves its things no longer than this.
const EXPIRE: Duration = Duration::from_secs(24 * 3600);

/// Marks the leases of a berth's works on images; the value is its instance.
const LABEL: &str = "berth.dev/image-work";

/// Holds what a work brings into containerd until the image's record does. Dropped before its end, the work was
/// cancelled: the lease is ended all the same, and containerd's collector takes the things.
pub struct Lease {
    client: Client,
    id: String,
    over: bool,
}

impl Images {
    /// A lease for the work named `work`.
    pub(super) async fn lease(&self, work: &str) -> Result<Lease, Error> {
        // The guard is there before the lease, so that a cancellation between the two leaves nothing.
        let lease = Lease {
            client: self.0.client.clone(),
            id: format!("berth-{work}-{}", Id::random().short()),
            over: false,
        };
        let labels = HashMap::from([(LABEL.to_owned(), self.0.settings.instance.clone())]);
        lease.client.leases().create(&lease.id, labels, Some(EXPIRE)).await?;
        Ok(lease)
    }

    /// Ends the leases of works that a berth before this one left. To be called before any work begins.
    pub async fn end_leftovers(&self) -> Result<(), Error> {
        let leases = self.0.client.leases();
        for lease in leases
            .list(&[format!("labels.\"{LABEL}\"=={}", self.0.settings.instance)])
            .await?
        {
            leases.delete(&lease.id, false).await?;
        }
        Ok(())
    }
}

impl Lease {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Ends the work with its result. After a failure nothing of it is left when this returns.
    pub async fn end<T>(mut self, result: Result<T, Error>) -> Result<T, Error> {
        let ended = self.client.leases().delete(&self.id, result.is_err()).await;
        self.over = ended.is_ok();
        // Works on images need more memory than all else that the daemon does.
        tokio::task::spawn_blocking(sys::memory::give_back);
        match result {
            Ok(value) => Ok(ended.map(|()| value)?),
            // A lease that could not be ended is tried again by drop, and expires.
            Err(error) => Err(error),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let (client, id) = (self.client.clone(), std::mem::take(&mut self.id));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = client.leases().delete(&id, true).await {
                    tracing::warn!(%error, lease = id, "the lease of a cancelled work is left to expire");
                }
            });
        }
    }
}
