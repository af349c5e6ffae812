//! What a Service would do, in a hundred lines: keeps a proxy's list of backends to the pods that are ready.
//!
//! ```text
//! cargo run --example probes-watch -- /run/berth/berth.sock web- 80 /etc/nginx/backends.conf nginx -s reload
//! ```
//!
//! Every pod whose name begins with `web-` and whose containers are all ready is one line `server ADDRESS:80;` of the
//! file, which an nginx `upstream` block includes. When the lines change the file is replaced and the command is run.
//! It watches `berth.v1.Probes` (proto/berth/v1/probes.proto) and tries again when berth is away, leaving the backends
//! as they are meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use berth::proto::berth::probes_client::ProbesClient;
use berth::proto::berth::watch_probes_response::What;
use berth::proto::berth::{ContainerHealth, WatchProbesRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

struct Proxy {
    socket: PathBuf,
    prefix: String,
    port: String,
    file: PathBuf,
    reload: Vec<String>,
    lines: Option<BTreeSet<String>>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let mut next = || {
        words.next().unwrap_or_else(|| {
            eprintln!("usage: probes-watch SOCKET POD-PREFIX PORT FILE RELOAD-COMMAND...");
            std::process::exit(2);
        })
    };
    let mut proxy = Proxy {
        socket: next().into(),
        prefix: next(),
        port: next(),
        file: next().into(),
        reload: vec![next()],
        lines: None,
    };
    proxy.reload.extend(words);
    loop {
        if let Err(error) = proxy.follow().await {
            eprintln!("probes-watch: {error}; trying again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Proxy {
    /// Watches until berth goes away.
    async fn follow(&mut self) -> Result<(), Box<dyn Error>> {
        let channel = connect(self.socket.clone()).await?;
        let mut probes = ProbesClient::new(channel);
        let mut stream = probes.watch(WatchProbesRequest::default()).await?.into_inner();
        let (mut containers, mut synced) = (BTreeMap::new(), false);
        while let Some(message) = stream.message().await? {
            match message.what {
                Some(What::Container(health)) => drop(containers.insert(health.container_id.clone(), health)),
                Some(What::Removed(id)) => drop(containers.remove(&id)),
                Some(What::Synced(_)) => synced = true,
                _ => continue,
            }
            // Not before all is known: a proxy must not lose its backends because berth has been restarted.
            if synced {
                self.apply(&containers)?;
            }
        }
        Ok(())
    }

    fn apply(&mut self, containers: &BTreeMap<String, ContainerHealth>) -> Result<(), Box<dyn Error>> {
        // Of a pod's containers those that have ended (init containers, earlier attempts) do not count.
        let ours = containers
            .values()
            .filter(|it| it.name.starts_with(&self.prefix) && it.running);
        let mut pods: BTreeMap<&str, (bool, &str)> = BTreeMap::new();
        for health in ours {
            let address = health.ips.first().map(String::as_str).unwrap_or_default();
            let pod = pods.entry(&health.sandbox_id).or_insert((true, address));
            pod.0 &= health.ready && !health.stopping;
        }
        let ready = pods.values().filter(|(ready, address)| *ready && !address.is_empty());
        let lines: BTreeSet<_> = ready
            .map(|(_, address)| format!("server {address}:{};\n", self.port))
            .collect();
        if self.lines.as_ref() == Some(&lines) {
            return Ok(());
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, lines.iter().map(String::as_str).collect::<String>())?;
        std::fs::rename(&new, &self.file)?;
        let status = Command::new(&self.reload[0]).args(&self.reload[1..]).status()?;
        println!("{} backends, {status}", lines.len());
        self.lines = Some(lines);
        Ok(())
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connect = move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    // The address of a unix socket stands in no URL.
    let endpoint = Endpoint::from_static("http://berth.sock");
    endpoint.connect_with_connector(tower::service_fn(connect)).await
}
