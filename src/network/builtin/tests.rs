//! Pods on a real bridge of a real kernel. Each test has an instance and a subnet of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::netns;

/// A network of its own for one test, and its pods; all gone afterwards, whatever happens.
struct Ground {
    dir: TempDir,
    instance: String,
    subnet: Option<Ipv4Net>,
}

impl Ground {
    fn new(subnet: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            instance: Id::random().as_str()[..6].to_owned(),
            subnet: Some(subnet.parse().unwrap()),
        }
    }

    async fn bridge(&self) -> Result<Bridge, Error> {
        Bridge::set_up(Settings {
            instance: self.instance.clone(),
            state_dir: self.dir.path().join("network"),
            subnet: self.subnet,
        })
        .await
    }

    fn pod(&self) -> (Id, Pin) {
        let id = Id::random();
        let request = netns::Request {
            net: Some(self.pin(&id)),
            ..netns::Request::default()
        };
        let pin = netns::make(&request).unwrap().net.unwrap();
        (id, pin)
    }

    fn pin(&self, id: &Id) -> PathBuf {
        self.dir.path().join("pins").join(id.as_str())
    }

    fn leases(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("network/leases")).unwrap();
        files
            .filter(|entry| entry.as_ref().unwrap().file_name() != "last")
            .count()
    }

    fn table(&self) -> Option<String> {
        let output = Command::new("nft")
            .args(["list", "table", "ip", &format!("berth_{}", self.instance)])
            .output();
        let output = output.unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path().join("pins")).into_iter().flatten() {
            netns::release(&entry.unwrap().path()).unwrap();
        }
        let table = format!("berth_{}", self.instance);
        let _gone_is_fine = Command::new("nft").args(["delete", "table", "ip", &table]).output();
        let group = (GROUP | instance_number(&self.instance).unwrap()).to_string();
        let _gone_is_fine = Command::new("ip").args(["link", "del", "group", &group]).output();
        let bridge = bridge_name(&self.instance);
        let _gone_is_fine = Command::new("ip").args(["link", "del", &bridge]).output();
    }
}

/// Answers one connection to port 80 of a pod with the address it came from.
fn serve(pin: &Pin) -> thread::JoinHandle<()> {
    let listener = netns::enter(&pin.path, || TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        write!(stream, "{}", from.ip()).unwrap();
    })
}

fn ask(address: IpAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&(address, 80).into(), Duration::from_secs(5)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

async fn eventually_gone(bridge: &Bridge, id: &Id) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while bridge.links.find(&veth_name(id)).await.unwrap().is_some() {
        assert!(Instant::now() < deadline, "the veth pair stays");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_and_the_node_and_are_reached() {
    let ground = Ground::new("10.251.0.0/24");
    let bridge = ground.bridge().await.unwrap();
    bridge.status().await.unwrap();
    let ((a, a_pin), (b, b_pin)) = (ground.pod(), ground.pod());
    let a_ip = bridge.attach(&a, &a_pin).await.unwrap()[0];
    let b_ip = bridge.attach(&b, &b_pin).await.unwrap()[0];
    assert_eq!(a_ip.to_string(), "10.251.0.2");
    assert_eq!(b_ip.to_string(), "10.251.0.3");

    let server = serve(&a_pin);
    assert_eq!(ask(a_ip), "10.251.0.1");
    server.join().unwrap();

    let server = serve(&a_pin);
    assert_eq!(netns::enter(&b_pin.path, || ask(a_ip)).unwrap(), "10.251.0.3");
    server.join().unwrap();

    let listener = TcpListener::bind("10.251.0.1:0").unwrap();
    let node = listener.local_addr().unwrap();
    netns::enter(&b_pin.path, || {
        TcpStream::connect_timeout(&node, Duration::from_secs(5)).unwrap()
    })
    .unwrap();
    assert_eq!(listener.accept().unwrap().1.ip(), b_ip);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_masquerades_and_goes_with_the_bridge() {
    let ground = Ground::new("10.251.1.0/24");
    let bridge = ground.bridge().await.unwrap();
    let table = ground.table().unwrap();
    assert!(
        table.contains("ip saddr 10.251.1.0/24") && table.contains("masquerade"),
        "{table}"
    );
    let (id, pin) = ground.pod();
    bridge.attach(&id, &pin).await.unwrap();
    bridge.down().await.unwrap();
    bridge.down().await.unwrap();
    assert_eq!(ground.table(), None);
    assert_eq!(bridge.links.find(&bridge_name(&ground.instance)).await.unwrap(), None);
    assert_eq!(bridge.links.find(&veth_name(&id)).await.unwrap(), None);
    assert!(bridge.status().await.unwrap_err().contains("gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_detached_with_and_without_its_namespace() {
    let ground = Ground::new("10.251.2.0/24");
    let bridge = ground.bridge().await.unwrap();
    let ((kept, kept_pin), (gone, gone_pin)) = (ground.pod(), ground.pod());
    let ip = bridge.attach(&kept, &kept_pin).await.unwrap()[0];
    bridge.attach(&gone, &gone_pin).await.unwrap();
    assert_eq!(ground.leases(), 2);
    netns::release(&gone_pin.path).unwrap();
    for id in [&kept, &gone] {
        bridge.detach(id).await.unwrap();
        bridge.detach(id).await.unwrap();
    }
    assert_eq!(ground.leases(), 0);
    let silent = TcpStream::connect_timeout(&(ip, 80).into(), Duration::from_millis(200));
    assert_ne!(silent.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    eventually_gone(&bridge, &kept).await;
    eventually_gone(&bridge, &gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_attached_again_right_away_stays_attached() {
    let ground = Ground::new("10.251.3.0/24");
    let bridge = ground.bridge().await.unwrap();
    let (id, pin) = ground.pod();
    bridge.attach(&id, &pin).await.unwrap();
    bridge.detach(&id).await.unwrap();
    let ip = bridge.attach(&id, &pin).await.unwrap()[0];
    assert_eq!(ip.to_string(), "10.251.3.3");
    sleep(GRACE + Duration::from_millis(200)).await;
    let server = serve(&pin);
    ask(ip);
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_living_and_removes_the_rest() {
    let ground = Ground::new("10.251.4.0/24");
    let bridge = ground.bridge().await.unwrap();
    let ((live, live_pin), (dead, dead_pin), (unplugged, unplugged_pin)) = (ground.pod(), ground.pod(), ground.pod());
    let ip = bridge.attach(&live, &live_pin).await.unwrap()[0];
    bridge.attach(&dead, &dead_pin).await.unwrap();
    bridge.attach(&unplugged, &unplugged_pin).await.unwrap();
    // As if berth had been killed while it detached this one.
    let link = bridge.links.find(&veth_name(&unplugged)).await.unwrap().unwrap();
    bridge.links.unplug(link.index).await.unwrap();
    drop(bridge);

    let bridge = ground.bridge().await.unwrap();
    bridge.reconcile(&HashSet::from([live.clone()])).await.unwrap();
    assert_eq!(ground.leases(), 1);
    for id in [&dead, &unplugged] {
        assert_eq!(bridge.links.find(&veth_name(id)).await.unwrap(), None);
    }
    let server = serve(&live_pin);
    ask(ip);
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_leave_each_other_alone() {
    let (ground, other) = (Ground::new("10.251.5.0/24"), Ground::new("10.251.6.0/24"));
    let (bridge, others) = (ground.bridge().await.unwrap(), other.bridge().await.unwrap());
    let (id, pin) = other.pod();
    others.attach(&id, &pin).await.unwrap();
    bridge.reconcile(&HashSet::new()).await.unwrap();
    bridge.down().await.unwrap();
    assert!(others.links.find(&veth_name(&id)).await.unwrap().is_some());
    others.status().await.unwrap();
    assert!(other.table().is_some());
    let taken = Ground::new("10.251.6.128/25").bridge().await;
    assert!(matches!(taken, Err(Error::SubnetTaken { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_was_removed_comes_back_with_its_pods() {
    let ground = Ground::new("10.251.7.0/24");
    let bridge = ground.bridge().await.unwrap();
    let (id, pin) = ground.pod();
    let ip = bridge.attach(&id, &pin).await.unwrap()[0];
    bridge.links.delete(bridge.index).await.unwrap();
    bridge.status().await.unwrap_err();
    let bridge = ground.bridge().await.unwrap();
    bridge.status().await.unwrap();
    bridge.reconcile(&HashSet::from([id])).await.unwrap();
    let server = serve(&pin);
    ask(ip);
    server.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smallest_subnet_holds_one_pod_and_says_when_it_is_full() {
    let ground = Ground::new("10.251.8.0/30");
    let bridge = ground.bridge().await.unwrap();
    let ((first, first_pin), (second, second_pin)) = (ground.pod(), ground.pod());
    bridge.attach(&first, &first_pin).await.unwrap();
    let error = bridge.attach(&second, &second_pin).await.unwrap_err();
    assert_eq!(error.to_string(), "every pod address of 10.251.8.0/30 is in use");
    bridge.detach(&first).await.unwrap();
    bridge.attach(&second, &second_pin).await.unwrap();
    let too_small = Ground::new("10.251.8.8/31").bridge().await;
    assert!(matches!(too_small, Err(Error::SubnetTooSmall { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_attached_at_once_get_distinct_addresses() {
    let ground = Ground::new("10.251.9.0/24");
    let bridge = std::sync::Arc::new(ground.bridge().await.unwrap());
    let pods: Vec<_> = (0..10).map(|_| ground.pod()).collect();
    let attach = |(id, pin): (Id, Pin)| {
        let bridge = bridge.clone();
        tokio::spawn(async move { bridge.attach(&id, &pin).await.unwrap()[0] })
    };
    let tasks: Vec<_> = pods.into_iter().map(attach).collect();
    let mut addresses = HashSet::new();
    for task in tasks {
        assert!(addresses.insert(task.await.unwrap()));
    }
    assert_eq!(ground.leases(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attach_leaves_nothing() {
    let ground = Ground::new("10.251.10.0/24");
    let bridge = ground.bridge().await.unwrap();
    let (id, pin) = ground.pod();
    netns::release(&pin.path).unwrap();
    bridge.attach(&id, &pin).await.unwrap_err();
    assert_eq!(ground.leases(), 0);
    assert_eq!(bridge.links.find(&veth_name(&id)).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_subnet_keeps_the_gateway_of_older_pods() {
    let mut ground = Ground::new("10.251.11.0/24");
    let bridge = ground.bridge().await.unwrap();
    let ((old, old_pin), (new, new_pin)) = (ground.pod(), ground.pod());
    let old_ip = bridge.attach(&old, &old_pin).await.unwrap()[0];
    ground.subnet = Some("10.251.12.0/24".parse().unwrap());
    let bridge = ground.bridge().await.unwrap();
    let new_ip = bridge.attach(&new, &new_pin).await.unwrap()[0];
    assert_eq!(new_ip.to_string(), "10.251.12.2");
    let server = serve(&old_pin);
    assert_eq!(netns::enter(&new_pin.path, || ask(old_ip)).unwrap(), new_ip.to_string());
    server.join().unwrap();
    bridge.detach(&old).await.unwrap();

    let bridge = ground.bridge().await.unwrap();
    let addresses = bridge.links.addresses().await.unwrap();
    let own: Vec<_> = addresses
        .iter()
        .filter(|address| address.index == bridge.index)
        .collect();
    assert_eq!(own.len(), 1);
    assert_eq!(own[0].address.to_string(), "10.251.12.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subnet_is_chosen_once_and_remembered() {
    let mut ground = Ground::new("10.251.13.0/24");
    ground.subnet = None;
    let mut other = Ground::new("10.251.13.0/24");
    other.subnet = None;
    let (bridge, others) = tokio::join!(ground.bridge(), other.bridge());
    let (bridge, others) = (bridge.unwrap(), others.unwrap());
    assert!(!bridge.subnet.overlaps(&others.subnet));
    assert_eq!(bridge.subnet.prefix(), 16);
    let chosen = bridge.subnet;
    bridge.down().await.unwrap();
    assert_eq!(ground.bridge().await.unwrap().subnet, chosen);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_six_hexadecimal_digits() {
    for instance in ["", "12345", "1234567", "12345G", "ABCDEF"] {
        assert_eq!(instance_number(instance), None, "{instance}");
    }
    assert_eq!(instance_number("00ff00"), Some(0xff00));
}
