//! What all of this is for: network rules that an init container sets hold for the containers after it, which have
//! no right to change them.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use berth::proto::runtime as pb;

use crate::client::{ContainerParts, container_config, house, shell, until};

const ADMIN_BOX: &str = "docker.io/ikubernetes/admin-box:latest";

/// The archive of the image with both flavours of iptables, made once if need be.
fn admin_box() -> &'static Path {
    static ARCHIVE: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (script, images) = (root.join("integration/images/build.sh"), root.join("target/images"));
        let built = Command::new(&script).arg(&images).output().unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{}: {said}", script.display());
        images.join("admin-box.tar")
    });
    &ARCHIVE
}

#[tokio::test]
async fn rules_of_an_init_container_hold_with_iptables_nft() {
    redirect("iptables-nft").await;
}

#[tokio::test]
async fn rules_of_an_init_container_hold_with_iptables_legacy() {
    redirect("iptables-legacy").await;
}

async fn redirect(iptables: &str) {
    let house = house().await;
    house.berth.run(&["image", "import", admin_box().to_str().unwrap()]);
    let pod = house.pod(&format!("rules-{iptables}")).await;
    let rule = format!("{iptables} -t nat -A PREROUTING -p tcp --dport 8080 -j REDIRECT --to-port 80");
    let mut init = from_admin_box(shell("init", &format!("{rule} && {iptables} -t nat -S PREROUTING")));
    let capabilities = init.security().capabilities.get_or_insert_default();
    capabilities.add_capabilities.push("NET_ADMIN".to_owned());
    let said = pod.succeed(init).await;
    assert!(said.contains("--to-ports 80"), "{said}");

    let serve = shell("main", "while true; do echo served | nc -l -p 80; done");
    let main = pod.start(from_admin_box(serve)).await;
    let ip = pod.ip().await;
    for port in [80, 8080] {
        let address: SocketAddr = format!("{ip}:{port}").parse().unwrap();
        until(&format!("{address} answers"), || answers(address)).await;
    }
    let refused = [
        format!("{iptables} -t nat -F PREROUTING"),
        format!("{iptables} -t nat -L"),
    ];
    for command in refused {
        let answer = main.exec(&["sh", "-c", &command], 10).await.unwrap();
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert_ne!(answer.exit_code, 0, "{command} is allowed");
        assert!(
            said.contains("ermission denied") || said.contains("not permitted"),
            "{command}: {said}"
        );
    }
    until("8080 still answers", || answers(format!("{ip}:8080").parse().unwrap())).await;
    pod.remove().await;
}

fn from_admin_box(mut config: pb::ContainerConfig) -> pb::ContainerConfig {
    ADMIN_BOX.clone_into(&mut config.image.as_mut().unwrap().image);
    config
}

fn answers(address: SocketAddr) -> bool {
    let patience = Duration::from_secs(1);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else {
        return false;
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).is_ok() && said == "served\n"
}

#[tokio::test]
async fn a_container_without_net_admin_cannot_touch_the_network() {
    let house = house().await;
    let pod = house.pod("no-net-admin").await;
    let container = pod.start(container_config("c", &["sleep", "1000000"])).await;
    let answer = container
        .exec(&["ip", "link", "set", "eth0", "down"], 10)
        .await
        .unwrap();
    assert_ne!(answer.exit_code, 0);
    let links = container
        .sh("ip -o link | cut -d: -f2 | cut -d@ -f1; ip -o -4 addr show eth0; ip route")
        .await;
    let ip = pod.ip().await;
    assert!(
        links.contains(" lo\n") && links.contains(" eth0\n") && links.contains(&ip),
        "{links}"
    );
    assert!(links.contains("default via "), "{links}");
    pod.remove().await;
}
