//! A berth with a containerd of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::peer::{Archives, Daemon, Leaves, Peer, run};
use crate::{Options, Outcome};

/// Starts it and gives it the image.
pub async fn start(options: &Options, directory: &Path, archives: &Archives) -> Outcome<Peer> {
    fs::create_dir_all(directory)?;
    let config = directory.join("config.toml");
    // A port that was free a moment ago.
    let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let text = format!(
        "[containerd]\nbinary = {:?}\n[shim]\nbinary = {:?}\n[network]\nmode = \"builtin\"\nnetns_dir = {:?}\n\
         [metrics]\naddress = \"{metrics}\"\n",
        options.containerd,
        options.shim.canonicalize()?,
        directory.join("netns")
    );
    fs::write(&config, text)?;
    let state = directory.join("state");
    let socket = state.join("berth.sock");
    let client = |words: &[&str]| {
        let mut command = Command::new(&options.berth);
        command.arg("--socket").arg(&socket).args(words);
        command
    };
    let mut command = Command::new(&options.berth);
    command.arg("serve").arg("--config").arg(&config);
    command
        .arg("--root")
        .arg(directory.join("root"))
        .arg("--state")
        .arg(&state);
    let mut daemon = Daemon::start(command, directory, leaves(&directory.canonicalize()?.join("root")))?;
    daemon.down = Some(client(&["down"]));
    let mut peer = Peer::connect("berth", daemon, &socket).await?;
    peer.metrics = Some(metrics);
    run(client(&["image", "import"]).arg(&archives.busybox))?;
    Ok(peer)
}

/// The names that berth derives from its root directory, as docs/configuration.md tells. `berth down` removes what
/// bears them; these are for the case that berth is in no state to.
fn leaves(root: &Path) -> Leaves {
    let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
    let instance: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
    Leaves {
        bridge: format!("berth-{instance}"),
        nft_table: Some(format!("berth_{instance}")),
    }
}
