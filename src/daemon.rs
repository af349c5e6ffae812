//! The composition root: configuration, containerd, recovery, servers, shutdown.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::api;
use crate::config::{self, Config, LogFormat};
use crate::containerd::{self, Client, RuncOptions, embedded};
use crate::cri;
use crate::image::{self, Images};
use crate::lifecycle::{self, Lifecycle};
use crate::manifest::{self, Manifests};
use crate::model::Id;
use crate::model::sandbox::Owner;
use crate::network::{self, Network};
use crate::pod::paths::Paths;
use crate::pod::{self, Pods};
use crate::proto::berth::images_server::ImagesServer;
use crate::proto::berth::node_server::NodeServer;
use crate::proto::berth::pods_server::PodsServer;
use crate::proto::berth::probes_server::ProbesServer;
use crate::proto::runtime::image_service_server::ImageServiceServer;
use crate::proto::runtime::runtime_service_server::RuntimeServiceServer;
use crate::{netns, oci, probe, sys};

/// How long running calls may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long the lock may outlive a berth that was killed: a program that it was about to start holds it, too, until it
/// is executed.
const UNLOCKED: Duration = Duration::from_secs(2);
/// A kubelet sends and takes messages of up to 16 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// Why the daemon could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("{what} {}: {source}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("another berth uses the root directory {}", .0.display())]
    RootInUse(PathBuf),
    #[error("another berth serves {}", .0.display())]
    SocketInUse(PathBuf),
    #[error("{what}: {source}")]
    Kernel { what: &'static str, source: io::Error },
    #[error(transparent)]
    Embedded(#[from] embedded::Error),
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    #[error(
        "containerd at {} has its CRI plugin loaded, which would react to berth's images in the namespace k8s.io; choose another \
         [containerd] namespace, or set share_k8s_namespace", .0.display()
    )]
    SharedNamespace(PathBuf),
    #[error("containerd at {} is in another mount namespace, so it cannot see the namespaces that berth pins", .0.display())]
    OtherMountNamespace(PathBuf),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Pods(#[from] pod::Error),
    #[error("network.subnet: {0}")]
    Subnet(String),
    #[error("metrics.address: cannot listen on {address}: {source}")]
    Metrics { address: SocketAddr, source: io::Error },
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
    #[error("some pods could not be ended: {0}")]
    Down(String),
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// Runs the daemon until SIGTERM or SIGINT, or until a client says `down`.
pub async fn serve(config: Config) -> Result<(), Error> {
    config.check()?;
    for directory in [&config.root, &config.state] {
        fs::create_dir_all(directory).map_err(file("cannot make", directory))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).map_err(file("cannot protect", directory))?;
    }
    let _lock = lock(&config.root)?;
    let instance = instance(&config.root)?;
    let listener = listen(&config.socket).await?;
    let embedded = match &config.containerd.address {
        Some(_) => None,
        None => Some(embedded::Embedded::new(
            &config.containerd.binary,
            &config.root,
            &config.state,
            &instance,
        )),
    };
    let client = containerd(&config, embedded.as_ref()).await?;
    let metrics = match config.metrics.address {
        Some(address) => Some(listen_metrics(address).await?),
        None => None,
    };
    let (house, reports) = House::build(&config, &instance, client.clone()).await?;
    house.images.end_leftovers().await.map_err(pod::Error::from)?;
    // Below recovery already: whatever it needs may end at any moment.
    let mut keepers = JoinSet::new();
    if let Some(embedded) = embedded.clone() {
        keepers.spawn(keep_containerd(embedded, client));
    }
    house.pods.recover().await?;
    house.lifecycle.recover();
    keepers.spawn(house.lifecycle.clone().keep(reports));
    house.manifests.recover().await;
    if let Some(listener) = metrics {
        keepers.spawn(api::metrics::serve(listener, house.lifecycle.clone()));
    }
    let (down, mut go_down) = mpsc::channel(1);
    tracing::info!(socket = %config.socket.display(), instance, "berth serves");
    let asked = house.serve(&config, listener, down, &mut go_down).await?;
    // Nobody may connect to a daemon that is going.
    fs::remove_file(&config.socket).ok();
    let Some((reply, serving)) = asked else {
        house.manifests.keep_events();
        tracing::info!("berth stops; its pods go on");
        return Ok(());
    };
    // Nobody may start again what is about to end.
    keepers.shutdown().await;
    let ended = house.down(embedded.as_ref()).await;
    reply.send(ended.as_ref().map(drop).map_err(ToString::to_string)).ok();
    // Not before the answer has reached its client.
    serving.end().await;
    ended
}

/// The instance's id: what tells its bridge, table, cgroups and records from another berth's on this host.
fn instance(root: &Path) -> Result<String, Error> {
    let root = root.canonicalize().map_err(file("cannot resolve", root))?;
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    Ok(digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect())
}

fn lock(root: &Path) -> Result<Flock<fs::File>, Error> {
    let path = root.join("lock");
    let mut lock = fs::File::create(&path).map_err(file("cannot make", &path))?;
    let deadline = Instant::now() + UNLOCKED;
    loop {
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err(_) if Instant::now() > deadline => return Err(Error::RootInUse(root.to_owned())),
            Err((again, _)) => lock = again,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn listen(socket: &Path) -> Result<UnixListener, Error> {
    if UnixStream::connect(socket).await.is_ok() {
        return Err(Error::SocketInUse(socket.to_owned()));
    }
    if let Some(directory) = socket.parent() {
        fs::create_dir_all(directory).map_err(file("cannot make", directory))?;
    }
    // Bound under another name and renamed when its mode is right, so that nobody ever meets it open to all.
    let mut hidden = socket.as_os_str().to_owned();
    hidden.push(".new");
    let hidden = PathBuf::from(hidden);
    fs::remove_file(&hidden).ok();
    let listener = UnixListener::bind(&hidden).map_err(file("cannot listen on", socket))?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).map_err(file("cannot protect", &hidden))?;
    fs::rename(&hidden, socket).map_err(file("cannot put in place", socket))?;
    Ok(listener)
}

async fn listen_metrics(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Metrics { address, source })?;
    tracing::info!(%address, "serves metrics");
    Ok(listener)
}

async fn containerd(config: &Config, embedded: Option<&embedded::Embedded>) -> Result<Client, Error> {
    let settings = &config.containerd;
    let namespace = |default: &str| settings.namespace.clone().unwrap_or_else(|| default.to_owned());
    let Some(address) = &settings.address else {
        let embedded = embedded.expect("without an address the containerd is berth's own");
        let client = Client::new(&embedded.address(), &namespace("k8s.io"));
        embedded.ensure(&client).await?;
        return Ok(client);
    };
    let client = Client::new(address, &namespace("berth"));
    let version = client.version().await?;
    if client.namespace() == "k8s.io" && !settings.share_k8s_namespace && client.has_cri_plugin().await? {
        return Err(Error::SharedNamespace(address.clone()));
    }
    if !shares_mounts(address).await {
        return Err(Error::OtherMountNamespace(address.clone()));
    }
    tracing::info!(version, address = %address.display(), namespace = client.namespace(), "containerd answers");
    Ok(client)
}

/// Whether the process behind a socket is in our mount namespace: pins are bind mounts, and it must see them.
async fn shares_mounts(address: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(address).await else {
        return true;
    };
    let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else {
        return true;
    };
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let theirs = namespace(&pid.to_string());
    theirs.is_none() || theirs == namespace("self")
}

/// Starts berth's own containerd again whenever it is gone.
async fn keep_containerd(embedded: embedded::Embedded, client: Client) {
    loop {
        embedded.gone().await;
        tracing::warn!("berth's own containerd is gone; starting it again");
        if let Err(error) = embedded.ensure(&client).await {
            tracing::error!(%error, "cannot start berth's own containerd again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Everything built, nothing served.
struct House {
    pods: Pods,
    images: Images,
    lifecycle: Lifecycle,
    manifests: Manifests,
}

impl House {
    async fn build(config: &Config, instance: &str, client: Client) -> Result<(Self, probe::Reports), Error> {
        netns::prepare_dir(&config.network.netns_dir).map_err(pod::Error::from)?;
        let images = Images::new(client.clone(), image_settings(config, instance));
        let subnet = config.network.subnet.as_deref().map(str::parse).transpose();
        let network = Network::builtin(network::builtin::Settings {
            instance: instance.to_owned(),
            state_dir: config.root.join("network"),
            subnet: subnet.map_err(|error| Error::Subnet(format!("{error}")))?,
        });
        let pods = Pods::new(client, images.clone(), network.await?, pod_settings(config, instance)?);
        let settings = lifecycle::Settings {
            directory: config.state.join("lifecycle"),
            virtual_commands: config.probes.virtual_commands,
        };
        let (lifecycle, reports) = Lifecycle::new(pods.clone(), settings).map_err(|source| Error::Kernel {
            what: "cannot start the threads that make sockets in pods",
            source,
        })?;
        let manifests = Manifests::new(
            lifecycle.clone(),
            pods.clone(),
            images.clone(),
            manifest_settings(config),
        );
        let house = Self {
            pods,
            images,
            lifecycle,
            manifests,
        };
        Ok((house, reports))
    }

    /// Serves until a signal (None) or until somebody asks to go down, and is served until he has his answer.
    async fn serve(
        &self,
        config: &Config,
        listener: UnixListener,
        down: mpsc::Sender<api::DownReply>,
        go_down: &mut mpsc::Receiver<api::DownReply>,
    ) -> Result<Option<(api::DownReply, Serving)>, Error> {
        let runtime = cri::Runtime {
            pods: self.pods.clone(),
            lifecycle: self.lifecycle.clone(),
            info: info(config),
        };
        let images = cri::ImageFace::new(self.images.clone(), snapshotters(config), manifests_images(&self.pods));
        let runtime = RuntimeServiceServer::new(runtime).max_decoding_message_size(MAX_MESSAGE);
        let images = ImageServiceServer::new(images).max_decoding_message_size(MAX_MESSAGE);
        let router = Server::builder()
            .layer(cri::observe::Observe)
            .add_service(runtime)
            .add_service(images)
            .add_service(ImagesServer::new(api::images::ImagesFace::new(self.images.clone())))
            .add_service(PodsServer::new(api::PodsFace::new(
                self.manifests.clone(),
                self.lifecycle.clone(),
            )))
            .add_service(ProbesServer::new(api::ProbesFace::new(
                self.lifecycle.clone(),
                self.pods.clone(),
            )))
            .add_service(NodeServer::new(api::NodeFace::new(down)));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), async { drop(stopped.await) });
        let server = tokio::spawn(async { drop(server.await) });
        let serving = Serving { stop, server };
        let asked = tokio::select! {
            () = stop_signal() => None,
            reply = go_down.recv() => reply,
        };
        match asked {
            Some(reply) => Ok(Some((reply, serving))),
            None => {
                serving.end().await;
                Ok(None)
            }
        }
    }

    /// Ends all pods, the shims, the network and berth's own containerd.
    async fn down(&self, embedded: Option<&embedded::Embedded>) -> Result<(), Error> {
        let mut errors = Vec::new();
        errors.extend(self.manifests.delete_all().await.err().map(|error| error.to_string()));
        for view in self.pods.sandboxes() {
            let removed = self.pods.remove_sandbox(&view.id).await;
            errors.extend(removed.err().map(|error| format!("sandbox {:?}: {error}", view.id)));
        }
        self.lifecycle.attend();
        errors.extend(
            self.pods
                .stop_shims()
                .await
                .err()
                .map(|error| format!("shims: {error}")),
        );
        errors.extend(
            self.pods
                .remove_common_ground()
                .await
                .err()
                .map(|error| error.to_string()),
        );
        if let Some(embedded) = embedded {
            errors.extend(embedded.stop().await.err().map(|error| format!("containerd: {error}")));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Error::Down(errors.join("; ")))
        }
    }
}

/// The running server.
struct Serving {
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// Takes no more calls, and waits for those that run.
    async fn end(self) {
        self.stop.send(()).ok();
        if tokio::time::timeout(GRACE, self.server).await.is_err() {
            tracing::warn!("some calls are cut off");
        }
    }
}

async fn stop_signal() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be handled");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be handled");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The images of `berth run` pods, which CRI does not list.
fn manifests_images(pods: &Pods) -> cri::InUse {
    let pods = pods.clone();
    Box::new(move || {
        let ours = |id: &Id| {
            pods.sandbox(id)
                .is_ok_and(|sandbox| sandbox.record.owner == Owner::Manifest)
        };
        let containers = pods.containers().into_iter();
        containers
            .filter(|view| ours(&view.record.sandbox))
            .map(|view| view.record.image_id)
            .collect()
    })
}

fn manifest_settings(config: &Config) -> manifest::Settings {
    manifest::Settings {
        root: config.root.clone(),
        resolv_conf: config.manifest.resolv_conf.clone(),
    }
}

/// The snapshotter of each runtime handler.
fn snapshotters(config: &Config) -> std::collections::HashMap<String, String> {
    config
        .handlers
        .iter()
        .map(|(name, handler)| (name.clone(), handler.snapshotter.clone()))
        .collect()
}

fn image_settings(config: &Config, instance: &str) -> image::Settings {
    let default = &config.handlers[&config.default_handler];
    image::Settings {
        instance: instance.to_owned(),
        certs_dirs: config.certs_dirs.clone(),
        snapshotter: default.snapshotter.clone(),
        max_parallel_downloads: 3,
    }
}

fn pod_settings(config: &Config, instance: &str) -> Result<pod::Settings, Error> {
    let kernel = |what: &'static str| move |source| Error::Kernel { what, source };
    let cgroups = sys::cgroup::Version::detect().map_err(kernel("cannot find the cgroups"))?;
    let binary = shim_binary(config)?;
    let handler = |handler: &config::Handler| pod::Handler {
        runtime_type: match handler.runtime_type.as_str() {
            config::OWN_SHIM => binary.display().to_string(),
            other => other.to_owned(),
        },
        own_shim: handler.runtime_type == config::OWN_SHIM,
        options: RuncOptions {
            binary_name: handler.binary.clone(),
            root: handler.runtime_root.clone(),
        },
        snapshotter: handler.snapshotter.clone(),
    };
    Ok(pod::Settings {
        instance: instance.to_owned(),
        paths: Paths {
            state: config.state.clone(),
            netns: config.network.netns_dir.clone(),
            holder: config.state.join("holder"),
            shims: config.state.join("shims"),
            cgroup_root: format!("/berth-{instance}"),
        },
        handlers: config
            .handlers
            .iter()
            .map(|(name, value)| (name.clone(), handler(value)))
            .collect(),
        default_handler: config.default_handler.clone(),
        shim: pod::ShimSettings {
            binary: binary.clone(),
            pods_per_process: match config.shim.pods_per_process {
                config::PodsPerProcess::All => None,
                config::PodsPerProcess::AtMost(number) => Some(number.get()),
            },
        },
        host: host(&cgroups).map_err(kernel("cannot read berth's own capabilities"))?,
        cgroups,
    })
}

/// The shim's program. containerd is given its path, so that nothing need be in its PATH.
fn shim_binary(config: &Config) -> Result<PathBuf, Error> {
    let beside = || {
        let own = std::env::current_exe()?;
        Ok(own.with_file_name("containerd-shim-berth-v1"))
    };
    let binary = match &config.shim.binary {
        Some(binary) => binary.clone(),
        None => beside().map_err(|source| Error::Kernel {
            what: "cannot find berth's own program",
            source,
        })?,
    };
    match fs::metadata(&binary) {
        Ok(_) => Ok(binary),
        Err(source) => Err(file("cannot find the shim", &binary)(source)),
    }
}

/// What this host and berth's own privileges allow containers.
fn host(cgroups: &sys::cgroup::Version) -> io::Result<oci::Host> {
    let held = sys::caps::held()?;
    let own_score = fs::read_to_string("/proc/self/oom_score_adj")?
        .trim()
        .parse()
        .unwrap_or(0);
    let cgroup_mount = sys::mount::of(Path::new("/sys/fs/cgroup"))?;
    Ok(oci::Host {
        oom_score_adj_floor: if held.has("CAP_SYS_RESOURCE") { -1000 } else { own_score },
        capabilities: held.bounding.into_iter().map(str::to_owned).collect(),
        kernel: kernel()?,
        cgroup_v2: cgroups.is_v2(),
        cgroup_mount_options: cgroup_mount.options.split(',').map(str::to_owned).collect(),
        hugetlb: cgroups.has("hugetlb"),
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        apparmor: match fs::read_to_string("/sys/module/apparmor/parameters/enabled") {
            Ok(text) if text.starts_with('Y') => oci::AppArmor::On { default: None },
            _ => oci::AppArmor::Off,
        },
    })
}

/// The running kernel's major and minor version.
fn kernel() -> io::Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|word| word.parse().unwrap_or(0));
    Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
}

/// What a verbose Status tells: the configuration, and critest's `stateDir`.
fn info(config: &Config) -> String {
    let mut info = serde_json::to_value(config).expect("a configuration serialises");
    info["stateDir"] = config.root.display().to_string().into();
    info.to_string()
}

/// What is to be done before the first thread is started.
pub fn prepare_process() {
    sys::memory::be_frugal(2);
}

/// Begins to log to standard error.
pub fn log(settings: &config::Log) {
    // A level that does not parse is refused when the configuration is checked.
    let filter = settings
        .level
        .parse()
        .unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry();
    match settings.format {
        LogFormat::Human => {
            let colours = nix::unistd::isatty(io::stderr().as_fd()).unwrap_or(false);
            registry.with(lines.with_ansi(colours).with_filter(filter)).init();
        }
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).init(),
    }
}
