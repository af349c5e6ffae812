//! Connections that begin inside a pod's network namespace: what probes and hooks speak through.
//!
//! A socket belongs for its life to the namespace in which it was made, wherever the thread is that uses it. So a few
//! threads make the sockets ([`sockets`]), and everything else is the runtime's. To drop what a function here gives is
//! to close the connection.

mod connection;
pub mod http;
mod sockets;
mod tls;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;

use crate::model::probe::Endpoint;

pub use connection::Connection;
use sockets::Sockets;

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Net {
    /// berth's own.
    Host,
    /// The one pinned at this path.
    Pinned(PathBuf),
}

/// Where connections begin, and where they go when no host is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub net: Net,
    /// The pod's; None: it has none (yet).
    pub ip: Option<IpAddr>,
}

impl Target {
    /// The host of `endpoint` as it stands in a URL's place, without brackets: the named one, or the pod's IP.
    pub fn host(&self, endpoint: &Endpoint) -> Result<String, Error> {
        match (&endpoint.host, self.ip) {
            (Some(host), _) => Ok(host.clone()),
            (None, Some(ip)) => Ok(ip.to_string()),
            (None, None) => Err(Error::NoAddress),
        }
    }
}

/// Why there is no connection; the texts are those of Go's net package, which people know from the kubelet's events.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the pod has no IP address")]
    NoAddress,
    #[error("dial tcp: lookup {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("dial tcp {address}: connect: {}", reason(source))]
    Connect { address: SocketAddr, source: io::Error },
    #[error("cannot make a socket in the network namespace {net:?}: {}", reason(source))]
    Socket { net: Net, source: io::Error },
}

impl Error {
    /// Whether this says something about berth, not about what it would connect to.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::NoAddress | Self::Socket { .. })
    }
}

/// The kernel's words for an error, in lower case as Go has them.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// Makes connections. Cheap to clone; its threads end with the last clone.
#[derive(Debug, Clone)]
pub struct Dialer(Sockets);

impl Dialer {
    /// Starts the threads that enter namespaces.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Sockets::start()?))
    }

    /// Connects from `target`'s namespace to `endpoint`. `localhost` is 127.0.0.1, then ::1; other names are looked up
    /// on the node, as a kubelet does. There is no deadline but the caller's.
    pub async fn connect(&self, target: &Target, endpoint: &Endpoint) -> Result<Connection, Error> {
        let host = target.host(endpoint)?;
        let mut last = None;
        for address in addresses(&host, endpoint.port).await? {
            match self.connect_to(&target.net, address).await {
                Err(error @ Error::Connect { .. }) => last = Some(error),
                settled => return settled,
            }
        }
        Err(last.unwrap_or_else(|| Error::Lookup {
            host,
            source: io::Error::new(io::ErrorKind::NotFound, "no such host"),
        }))
    }

    async fn connect_to(&self, net: &Net, address: SocketAddr) -> Result<Connection, Error> {
        let no_socket = |source| Error::Socket {
            net: net.clone(),
            source,
        };
        let socket = match net {
            Net::Host => sockets::make(address),
            Net::Pinned(path) => self.0.make_in(path, address).await,
        };
        let socket = socket.map_err(no_socket)?;
        let connected = tokio::net::TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await;
        connected
            .map(Connection::new)
            .map_err(|source| Error::Connect { address, source })
    }
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let all = |ips: &[IpAddr]| Ok(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
    if let Ok(ip) = host.parse::<IpAddr>() {
        return all(&[ip]);
    }
    if host.eq_ignore_ascii_case("localhost") {
        return all(&[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let failed = |source| Error::Lookup {
        host: host.to_owned(),
        source,
    };
    // A lookup goes on when nobody waits for it any more, for as long as the resolver is patient; so there are few at
    // once, or probes of dead names would take all the threads that other work blocks in.
    static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MOST_LOOKUPS)));
    let permit = Arc::clone(&LOOKUPS)
        .acquire_owned()
        .await
        .map_err(|error| failed(io::Error::other(error)))?;
    let name = host.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
        drop(permit);
        found
    });
    looked
        .await
        .map_err(|error| failed(io::Error::other(error)))?
        .map_err(failed)
}

/// Names that are looked up at once.
const MOST_LOOKUPS: usize = 8;
