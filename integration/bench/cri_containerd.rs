//! A containerd with its own CRI plugin, and the CNI network that is usual beside it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::peer::{Archives, BUSYBOX, Daemon, Leaves, PAUSE, Peer, run};
use crate::{Options, Outcome};

/// Starts it and gives it the images.
pub async fn start(name: &'static str, options: &Options, directory: &Path, archives: &Archives) -> Outcome<Peer> {
    let cni = directory.join("cni");
    fs::create_dir_all(&cni)?;
    let bridge = format!(
        "bb{}-{}",
        std::process::id(),
        directory.file_name().unwrap_or_default().display()
    );
    fs::write(
        cni.join("10-bench.conflist"),
        network(&bridge, &free_subnet(name)?, &directory.join("leases")),
    )?;
    let socket = directory.join("containerd.sock");
    let config = directory.join("config.toml");
    fs::write(&config, configuration(directory, &socket, &cni, &options.cni_bin_dir))?;
    let mut command = Command::new(&options.containerd);
    command.arg("--config").arg(&config);
    let leaves = Leaves {
        bridge,
        nft_table: None,
    };
    let daemon = Daemon::start(command, directory, leaves)?;
    let peer = Peer::connect(name, daemon, &socket).await?;
    for archive in [&archives.pause, &archives.busybox] {
        let mut import = Command::new("ctr");
        run(import
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(archive))?;
    }
    wait_for(&peer, BUSYBOX).await?;
    Ok(peer)
}

/// The defaults, in a directory of its own. `restrict_oom_score_adj` is for hosts that lack CAP_SYS_RESOURCE, where
/// berth does the same by itself.
fn configuration(directory: &Path, socket: &Path, cni: &Path, cni_bin_dir: &Path) -> String {
    let ttrpc = directory.join("containerd.sock.ttrpc");
    let (root, state) = (directory.join("root"), directory.join("state"));
    format!(
        r#"version = 2
root = {root:?}
state = {state:?}
[grpc]
  address = {socket:?}
[ttrpc]
  address = {ttrpc:?}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {PAUSE:?}
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {cni_bin_dir:?}
    conf_dir = {cni:?}
"#
    )
}

/// Bridge, addresses, masquerade and host ports: what containerd's own installation script sets up.
fn network(bridge: &str, subnet: &str, leases: &Path) -> String {
    serde_json::json!({
        "cniVersion": "0.4.0",
        "name": bridge,
        "plugins": [
            {
                "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": leases,
                    "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}

/// A range in 10.230 to 10.249 that no route of this host touches. Two containerds get two ranges.
fn free_subnet(name: &str) -> Outcome<String> {
    let routes = fs::read_to_string("/proc/net/route")?;
    // The kernel prints addresses as hexadecimal numbers of this machine's byte order.
    let destinations = routes
        .lines()
        .filter_map(|line| u32::from_str_radix(line.split('\t').nth(1)?, 16).ok());
    let taken: Vec<[u8; 4]> = destinations.map(u32::to_ne_bytes).collect();
    let mut free = (230..250).filter(|&second| !taken.iter().any(|ip| ip[0] == 10 && ip[1] == second));
    let second = if name == "containerd" { free.next() } else { free.nth(1) };
    Ok(format!(
        "10.{}.0.0/24",
        second.ok_or("no free range in 10.230 to 10.249")?
    ))
}

/// The CRI plugin learns of an imported image from an event, a moment after the import.
async fn wait_for(peer: &Peer, image: &str) -> Outcome<()> {
    use berth::proto::runtime as cri;
    for _ in 0..100 {
        let spec = cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        };
        let request = cri::ImageStatusRequest {
            image: Some(spec),
            verbose: false,
        };
        if peer.images().image_status(request).await?.into_inner().image.is_some() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(format!("{} does not list {image} after its import", peer.name).into())
}
