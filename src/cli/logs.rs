//! `berth logs`: print what a container wrote.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{Error, pod_name, pods};
use crate::proto::berth::LogsRequest;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pod
    pod: String,
    /// The container; needed when the pod has several
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "NAME")]
    container: String,
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let request = LogsRequest {
        name: Some(pod_name(&args.pod, &args.namespace)),
        container: args.container,
        follow: args.follow,
        tail: args.tail,
    };
    let mut parts = pods(socket).await?.logs(request).await?.into_inner();
    let mut out = io::stdout();
    while let Some(part) = parts.message().await? {
        match out.write_all(&part.data).and_then(|()| out.flush()) {
            // As with `berth logs … | head`.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(Error::io("cannot write"))?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
