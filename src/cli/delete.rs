//! `berth delete pod`: end pods and remove all they had.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{Error, manifest, pod_names, pods};
use crate::proto::berth::{DeleteRequest, PodName};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// pod NAME…, or pod/NAME…
    #[arg(required_unless_present = "file", value_name = "pod NAME")]
    what: Vec<String>,
    /// The pod of this manifest; - for standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "what")]
    file: Option<PathBuf>,
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// Seconds that containers get to end by themselves [default: what the manifest says]
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
}

pub async fn run(args: Args, socket: &Path) -> Result<ExitCode, Error> {
    let names = match &args.file {
        Some(file) => vec![name_in(&manifest(file)?)?],
        None => pod_names(&args.what, &args.namespace, "delete")?,
    };
    let mut client = pods(socket).await?;
    for name in names {
        let shown = format!("{}/{}", name.namespace, name.name);
        let request = DeleteRequest {
            name: Some(name),
            grace_seconds: args.grace_period,
        };
        client.delete(request).await?;
        println!("pod {shown} deleted");
    }
    Ok(ExitCode::SUCCESS)
}

/// The name in a manifest, of which nothing else matters here.
fn name_in(text: &[u8]) -> Result<PodName, Error> {
    #[derive(serde::Deserialize)]
    struct Manifest {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        name: String,
        namespace: Option<String>,
    }
    let unreadable = |error: serde_saphyr::Error| Error::Usage(format!("the manifest has no name: {error}"));
    let Manifest { metadata } = serde_saphyr::from_slice(text).map_err(unreadable)?;
    Ok(PodName {
        name: metadata.name,
        namespace: metadata.namespace.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_needs_only_a_name() {
        let name = name_in(b"kind: Pod\nmetadata: {name: a, labels: {b: c}}\nspec: {}\n").unwrap();
        assert_eq!((name.name.as_str(), name.namespace.as_str()), ("a", ""));
        name_in(b"kind: Pod\n").unwrap_err();
    }
}
