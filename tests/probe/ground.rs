//! A namespace like a pod's, servers in it, and commands that a test answers.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth::dial::{Dialer, Net, Target};
use berth::model::Id;
use berth::model::probe::{Probe, ProbeKind, parse_probe};
use berth::netns;
use berth::pod::{Error, Exec, ExecResult};
use berth::probe::{Checks, Report};
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stands for the pod's IP: another address of its loopback, to which a localhost-only server does not listen.
pub const POD_IP: &str = "127.0.0.5";

/// A network namespace with nothing but its loopback; released when dropped.
pub struct Pod {
    path: PathBuf,
    _place: TempDir,
}

impl Pod {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("net");
        let request = netns::Request {
            net: Some(path.clone()),
            ..netns::Request::default()
        };
        netns::make(&request).unwrap();
        Self { path, _place: place }
    }

    pub fn target(&self) -> Target {
        Target {
            net: Net::Pinned(self.path.clone()),
            ip: Some(POD_IP.parse().unwrap()),
        }
    }

    /// A listener in the namespace. Gives its port, too.
    pub fn listen(&self, ip: &str) -> (TcpListener, u16) {
        let at = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0);
        let listener = netns::enter(&self.path, || StdListener::bind(at)).unwrap().unwrap();
        listening(listener)
    }

    /// A server in the namespace, on the pod's IP; see [`serve`].
    pub fn serve(&self, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
        let (listener, port) = self.listen(POD_IP);
        serve(listener, port, answer)
    }

    pub async fn check(&self, kind: ProbeKind, probe: &str) -> Report {
        check(&self.target(), kind, probe).await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        netns::release(&self.path).unwrap();
    }
}

pub fn listening(listener: StdListener) -> (TcpListener, u16) {
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (TcpListener::from_std(listener).unwrap(), port)
}

/// One attempt of a readiness probe.
pub async fn checked(pod: &Pod, probe: &str) -> Report {
    pod.check(ProbeKind::Readiness, probe).await
}

pub async fn check(target: &Target, kind: ProbeKind, probe: &str) -> Report {
    let probe = read(kind, probe);
    checks().probe(&Id::random(), target, &probe).await
}

pub fn read(kind: ProbeKind, probe: &str) -> Probe {
    parse_probe(probe, kind, &|_| None).unwrap()
}

pub fn checks() -> Checks {
    Checks::new(Dialer::new().unwrap(), Arc::new(NoCommands))
}

/// For checks that run none.
pub struct NoCommands;

impl Exec for NoCommands {
    fn run<'a>(
        &'a self,
        _: &'a Id,
        command: Vec<String>,
        _: Option<Duration>,
    ) -> BoxFuture<'a, Result<ExecResult, Error>> {
        panic!("{command:?} is run")
    }
}

/// What a server does about a request.
pub enum Answer {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Writes this, and nothing more until the client closes.
    Hang(Vec<u8>),
}

/// A whole answer.
pub fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Bytes(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
}

/// A server that has seen requests.
pub struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    /// Connections that the client has closed.
    closed: watch::Receiver<usize>,
}

impl Server {
    /// The heads of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until the client has closed so many connections.
    pub async fn closed(&mut self, count: usize) {
        let closed = self.closed.wait_for(|closed| *closed >= count);
        let closed = tokio::time::timeout(Duration::from_secs(5), closed).await;
        closed.expect("the client closes").unwrap();
    }
}

/// Answers every connection's one request by what `answer` says of its head.
pub fn serve(listener: TcpListener, port: u16, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
    let requests = Arc::<Mutex<Vec<String>>>::default();
    let (told, closed) = watch::channel(0);
    let (kept, answer) = (Arc::clone(&requests), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (kept, answer, told) = (Arc::clone(&kept), Arc::clone(&answer), told.clone());
            tokio::spawn(async move {
                // A client that goes away early is what some tests are about.
                let _ = converse(stream, &kept, &*answer).await;
                told.send_modify(|closed| *closed += 1);
            });
        }
    });
    Server { port, requests, closed }
}

async fn converse(
    mut stream: TcpStream,
    kept: &Mutex<Vec<String>>,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    kept.lock().unwrap().push(head.clone());
    let (bytes, hang) = match answer(&head) {
        Answer::Bytes(bytes) => (bytes, false),
        Answer::Hang(bytes) => (bytes, true),
    };
    stream.write_all(&bytes).await?;
    if !hang {
        stream.shutdown().await?;
    }
    until_closed(&mut stream).await;
    Ok(())
}

/// Reads on until the peer closes.
pub async fn until_closed(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while let Ok(1..) = stream.read(&mut rest).await {}
}
