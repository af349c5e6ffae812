//! The adapter to containerd's native gRPC API. containerd's errors become ours here, and no type of its API leaves.
//!
//! One [`Client`] serves the whole daemon: it is cheap to clone, connects when first used and again after containerd
//! was restarted, and puts every call into its containerd namespace.

mod containers;
pub mod content;
pub mod embedded;
pub mod images;
pub mod layers;
pub mod leases;
mod node;
mod shims;
mod snapshots;
mod tasks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use containerd_client::tonic;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

pub use containers::{New, Record, RuncOptions};
pub use shims::Shim;
pub use tasks::{Ended, Stdio, Task};

/// No answer of containerd's may exceed this many bytes: a few thousand records with their specs.
const MAX_MESSAGE: usize = 64 << 20;

/// A connection to containerd, bound to one of its namespaces.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    address: PathBuf,
}

/// What containerd answered, or that it did not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: not found")]
    NotFound { what: String },
    #[error("{what}: exists already")]
    AlreadyExists { what: String },
    /// containerd cannot be reached; it may come back.
    #[error("{what}: containerd at {} does not answer: {message}", address.display())]
    Unavailable {
        what: String,
        address: PathBuf,
        message: String,
    },
    /// The shim that would have done it has died, and containerd is about to notice, or it is stuck.
    #[error("{what}: the task's shim does not answer")]
    ShimLost { what: String },
    #[error("{what}: containerd answered: {message} ({code:?})")]
    Failed { what: String, code: Code, message: String },
    /// A record of ours in containerd that this berth cannot read.
    #[error("{what}: {reason}")]
    Unreadable { what: String, reason: String },
}

impl Error {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub fn is_shim_lost(&self) -> bool {
        matches!(self, Self::ShimLost { .. })
    }

    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// `Ok` of a removal whose object was gone already.
pub fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

impl Client {
    /// A client of the containerd at `address` (a unix socket). Does not connect yet.
    pub fn new(address: &Path, namespace: &str) -> Self {
        let socket = address.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        let channel = Endpoint::from_static("http://containerd")
            .connect_timeout(Duration::from_secs(10))
            .connect_with_connector_lazy(connector);
        let namespace = namespace.parse().expect("a containerd namespace is ASCII");
        Self {
            channel,
            namespace,
            address: address.to_owned(),
        }
    }

    pub fn address(&self) -> &Path {
        &self.address
    }

    pub fn namespace(&self) -> &str {
        self.namespace.to_str().expect("a containerd namespace is ASCII")
    }

    /// The channel, to make one of containerd's generated clients with.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// `message` as a request in our namespace.
    pub fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// `message` as a request whose new content and snapshots belong to the lease `lease`.
    pub fn leased<T>(&self, message: T, lease: &str) -> tonic::Request<T> {
        let mut request = self.request(message);
        request
            .metadata_mut()
            .insert("containerd-lease", lease.parse().expect("a lease id is ASCII"));
        request
    }

    /// containerd's refusal to do `what` as an error of ours.
    pub fn error(&self, what: impl Into<String>, status: &Status) -> Error {
        let what = what.into();
        let message = status.message().to_owned();
        match status.code() {
            // The same words in every version, with one code or another.
            _ if message.contains("ttrpc: closed") || message.contains("dial unix") => Error::ShimLost { what },
            Code::NotFound => Error::NotFound { what },
            Code::AlreadyExists => Error::AlreadyExists { what },
            Code::Unavailable => Error::Unavailable {
                what,
                address: self.address.clone(),
                message,
            },
            // hyper reports a connection that broke in the middle of a call as one of these two, with no word of
            // containerd's own.
            Code::Unknown | Code::Cancelled if std::error::Error::source(status).is_some() => Error::Unavailable {
                what,
                address: self.address.clone(),
                message,
            },
            code => Error::Failed { what, code, message },
        }
    }
}
