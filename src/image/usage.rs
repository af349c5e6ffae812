//! What images and containers take on disk.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex;

use super::{Error, Images};
use crate::containerd;

/// Containers' layers change, and measuring them walks their files: a figure is kept so long.
const FRESH: Duration = Duration::from_secs(10);

/// All snapshots of the default snapshotter: unpacked images and containers' own layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds since the Unix epoch.
    pub taken_at: i64,
    /// Where the snapshots are.
    pub mountpoint: PathBuf,
    pub used_bytes: u64,
    pub inodes: u64,
}

#[derive(Default)]
pub struct LastUsage(Mutex<Option<(Instant, Usage)>>);

impl Images {
    /// The usage, at most ten seconds old. Callers at the same time share one measurement.
    pub async fn usage(&self) -> Result<Usage, Error> {
        let mut last = self.0.usage.0.lock().await;
        if let Some((at, usage)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(usage.clone());
        }
        let usage = self.measure().await?;
        *last = Some((Instant::now(), usage.clone()));
        Ok(usage)
    }

    async fn measure(&self) -> Result<Usage, Error> {
        let snapshotter = &self.0.settings.snapshotter;
        let layers = self.0.client.layers(snapshotter);
        let mountpoint = layers.root().await?.ok_or_else(|| containerd::Error::Unreadable {
            what: format!("snapshotter {snapshotter}"),
            reason: "it does not say where it keeps its snapshots".to_owned(),
        })?;
        let (used_bytes, inodes) = layers.usage().await?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Usage {
            taken_at: now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)),
            mountpoint,
            used_bytes,
            inodes,
        })
    }
}
