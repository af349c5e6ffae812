//! `berth down`: end the daemon, its pods and its own containerd.

use std::path::Path;
use std::process::ExitCode;

use super::{Error, connect};
use crate::proto::berth::DownRequest;
use crate::proto::berth::node_client::NodeClient;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// Returns once all is ended.
pub async fn run(_: Args, socket: &Path) -> Result<ExitCode, Error> {
    NodeClient::new(connect(socket).await?).down(DownRequest {}).await?;
    Ok(ExitCode::SUCCESS)
}
