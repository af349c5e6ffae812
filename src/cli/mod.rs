//! The clients of the command line. They speak to berth's socket and nothing else.

pub mod delete;
pub mod describe;
pub mod down;
pub mod exec;
pub mod get;
pub mod image;
pub mod logs;
pub mod run;
mod sheet;
mod summary;
mod time;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint, Uri};

use crate::proto::berth::PodName;
use crate::proto::berth::pods_client::PodsClient;

/// Why a command failed; printed after `berth: `.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach berth at {}: {source} (is `berth serve` running?)", socket.display())]
    NoDaemon { socket: PathBuf, source: io::Error },
    /// The daemon's refusal, in its own words.
    #[error("{}", .0.message())]
    Refused(#[from] tonic::Status),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// For `map_err`: what was attempted when an I/O error came.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Connects to the daemon's socket. Fails at once when nobody listens there.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_owned();
    let refused = |source| Error::NoDaemon {
        socket: path.clone(),
        source,
    };
    let first = tokio::net::UnixStream::connect(socket).await.map_err(refused)?;
    let mut first = Some(first);
    let again = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (ready, path) = (first.take(), again.clone());
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => tokio::net::UnixStream::connect(path).await?,
            };
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    Ok(Endpoint::from_static("http://berth").connect_with_connector_lazy(connector))
}

/// The client of `berth.v1.Pods`.
async fn pods(socket: &Path) -> Result<PodsClient<Channel>, Error> {
    Ok(PodsClient::new(connect(socket).await?))
}

/// `name` as users give it: `POD`, `pod/POD` or `NAMESPACE/POD`.
fn pod_name(name: &str, namespace: &str) -> PodName {
    let name = name.strip_prefix("pod/").unwrap_or(name);
    let (namespace, name) = name.split_once('/').unwrap_or((namespace, name));
    PodName {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    }
}

/// Pods as users name them after a verb: `pod a b`, `pod/a pod/b`.
fn pod_names(what: &[String], namespace: &str, verb: &str) -> Result<Vec<PodName>, Error> {
    let names = match what.split_first() {
        Some((kind, names)) if matches!(kind.as_str(), "pod" | "pods" | "po") => names,
        _ if what.iter().all(|name| name.starts_with("pod/")) => what,
        _ => return Err(Error::Usage(format!("only pods are known: berth {verb} pod NAME"))),
    };
    if names.is_empty() {
        return Err(Error::Usage(format!("which pod? berth {verb} pod NAME")));
    }
    Ok(names.iter().map(|name| pod_name(name, namespace)).collect())
}

/// The manifest at `path`; `-` is standard input.
fn manifest(path: &Path) -> Result<Vec<u8>, Error> {
    if path == Path::new("-") {
        let mut text = Vec::new();
        io::stdin()
            .read_to_end(&mut text)
            .map_err(Error::io("cannot read standard input"))?;
        return Ok(text);
    }
    std::fs::read(path).map_err(Error::io(format!("cannot read {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(what: &[&str]) -> Result<String, Error> {
        let what: Vec<_> = what.iter().map(|text| (*text).to_owned()).collect();
        let names = pod_names(&what, "ns", "delete")?;
        Ok(names
            .iter()
            .map(|name| format!("{}/{}", name.namespace, name.name))
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn pods_are_named_in_every_usual_way() {
        assert_eq!(named(&["pod", "a", "b"]).unwrap(), "ns/a ns/b");
        assert_eq!(named(&["pod/a", "pod/b"]).unwrap(), "ns/a ns/b");
        assert_eq!(named(&["pod", "other/a"]).unwrap(), "other/a");
        for wrong in [&["a"][..], &["pod"], &["service", "a"], &[]] {
            assert!(wrong.is_empty() || named(wrong).is_err(), "{wrong:?}");
        }
    }
}
