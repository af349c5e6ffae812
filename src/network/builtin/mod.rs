//! berth's own network: a bridge on the node, a veth pair for each pod, IPv4 addresses leased on disk.
//!
//! ```text
//! pod: eth0 10.210.0.7/16 ─── bt1a2b3c4d5e6f ┐
//! pod: eth0 10.210.0.8/16 ─── bt0f1e2d3c4b5a ┴ bridge berth-<instance> 10.210.0.1/16 ── masquerade ── world
//! ```
//!
//! The lease is the intent: its file is there before the veth pair and goes after it. What is this instance's on the
//! node shows in the names of the bridge and of the nftables table, and in the link group of its veth pairs.

mod lease;
mod link;
mod nft;
mod pod;
mod subnet;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use self::lease::Leases;
use self::link::{Link, Links, Veth};
use super::{Error, failed};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::sandbox::Pin;
use crate::sys;

pub use self::subnet::{Ipv4Net, NotASubnet};

/// How the bridge is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// 6 hexadecimal digits that no other berth on this node has.
    pub instance: String,
    /// Where leases and the chosen subnet are kept.
    pub state_dir: PathBuf,
    /// None: the one chosen before, or the first of 10.210.0.0/16 to 10.219.0.0/16 that is free here.
    pub subnet: Option<Ipv4Net>,
}

/// The bridge, set up.
pub struct Bridge {
    instance: String,
    /// The link group of our veth pairs.
    group: u32,
    index: u32,
    subnet: Ipv4Net,
    mtu: u32,
    links: Links,
    leases: Leases,
}

/// How long a veth pair may outlive its pod's namespace before it is deleted by name.
const GRACE: Duration = Duration::from_millis(500);

impl Bridge {
    /// Makes what is missing of bridge, address, forwarding and masquerading.
    pub async fn set_up(settings: Settings) -> Result<Self, Error> {
        let instance = settings.instance;
        let number = instance_number(&instance).ok_or_else(|| Error::NotAnInstance {
            instance: instance.clone(),
        })?;
        let links = Links::connect().map_err(failed("connect to the kernel's rtnetlink"))?;
        let dir = settings.state_dir;
        let leases = Leases::open(dir.join("leases")).map_err(failed(format!("read leases in {}", dir.display())))?;
        // Between finding a subnet free and taking it, no other berth may do the same.
        let _lock = lock_namespace().await.map_err(failed("lock the network namespace"))?;
        let name = bridge_name(&instance);
        let subnets = decide(&links, &name, &dir, settings.subnet, &leases).await?;
        // Intent before effect: what the bridge has is on disk.
        remember(&dir, &subnets).map_err(failed(format!("write the subnet to {}", dir.display())))?;
        let bridge = links.bridge(&name, mac(number)).await;
        let index = bridge.map_err(failed(format!("make the bridge {name}")))?.index;
        assign(&links, index, &subnets)
            .await
            .map_err(failed(format!("give {name} its address")))?;
        forward().map_err(failed("turn on net.ipv4.ip_forward"))?;
        nft::masquerade(&instance, &subnets).await?;
        let mtu = uplink_mtu(&links).await.map_err(failed("find the default route"))?;
        Ok(Self {
            group: GROUP | number,
            subnet: subnets[0],
            instance,
            index,
            mtu,
            links,
            leases,
        })
    }

    pub async fn attach(&self, id: &Id, netns: &Pin) -> Result<Vec<IpAddr>, Error> {
        let attached = self.try_attach(id, netns).await;
        if attached.is_err() {
            // The first error tells more than one of this.
            let _ = self.detach(id).await;
        }
        attached.map(|address| vec![IpAddr::V4(address)])
    }

    async fn try_attach(&self, id: &Id, netns: &Pin) -> Result<Ipv4Addr, Error> {
        let lease = effect("network.lease", async { self.leases.lease(&self.subnet, id) });
        let lease = lease.await.map_err(failed("lease an address"))?;
        let address = lease.ok_or(Error::Exhausted { subnet: self.subnet })?;
        effect("network.veth", self.make_veth(id, netns, address))
            .await
            .map_err(failed("make the pod's veth pair"))?;
        effect("network.address", self.configure_pod(netns, address))
            .await
            .map_err(failed(format!("give the pod its address {address}")))?;
        Ok(address)
    }

    async fn make_veth(&self, id: &Id, netns: &Pin, address: Ipv4Addr) -> io::Result<()> {
        let name = veth_name(id);
        let netns = File::open(&netns.path)?;
        let veth = Veth {
            name: &name,
            bridge: self.index,
            group: self.group,
            mtu: self.mtu,
            netns: netns.as_fd(),
            mac: pod_mac(address),
        };
        match self.links.veth(&veth).await {
            // Left of an attempt before this one.
            Err(error) if link::is(&error, Errno::EEXIST) => {
                if let Some(link) = self.links.find(&name).await? {
                    self.links.delete(link.index).await?;
                }
                self.links.veth(&veth).await
            }
            result => result,
        }
    }

    async fn configure_pod(&self, netns: &Pin, address: Ipv4Addr) -> io::Result<()> {
        let (path, subnet) = (netns.path.clone(), self.subnet);
        let work = move || sys::namespace::enter_net(&path, || pod::configure(address, &subnet)).flatten();
        spawn_blocking(work).await.map_err(io::Error::other)?
    }

    pub async fn detach(&self, id: &Id) -> Result<(), Error> {
        effect("network.unplug", self.unplug(id))
            .await
            .map_err(failed("take the pod off the bridge"))?;
        effect("network.release", async { self.leases.release(id) })
            .await
            .map_err(failed("free the pod's address"))
    }

    /// Silences the pod at once and leaves the deletion of its veth pair, which takes the kernel some 30 ms, to the
    /// end of its namespace or, if that does not come, to a later moment. Should berth die before, the link group
    /// tells [`Bridge::reconcile`] whose it is.
    async fn unplug(&self, id: &Id) -> io::Result<()> {
        let Some(found) = self.links.find(&veth_name(id)).await? else {
            return Ok(());
        };
        self.links.unplug(found.index).await?;
        let links = self.links.clone();
        tokio::spawn(async move {
            sleep(GRACE).await;
            if let Err(error) = delete_if_same(&links, &found).await {
                tracing::warn!(link = found.name, %error, "cannot delete the veth pair of a stopped pod");
            }
        });
        Ok(())
    }

    pub async fn reconcile(&self, live: &HashSet<Id>) -> Result<(), Error> {
        self.reconcile_links(live)
            .await
            .map_err(failed("remove the veth pairs of lost pods"))?;
        self.leases
            .retain(live)
            .map_err(failed("free the addresses of lost pods"))
    }

    async fn reconcile_links(&self, live: &HashSet<Id>) -> io::Result<()> {
        let names: HashSet<String> = live.iter().map(veth_name).collect();
        for link in self.own_links().await? {
            let mended = if !names.contains(&link.name) {
                self.links.delete(link.index).await
            } else if link.bridge != Some(self.index) {
                // Somebody has removed the bridge, and it has been made anew.
                self.links.plug(link.index, self.index).await
            } else {
                Ok(())
            };
            match mended {
                // The kernel removes the links of a namespace that has ended, in its own time.
                Err(error) if link::is(&error, Errno::ENODEV) => {}
                mended => mended?,
            }
        }
        Ok(())
    }

    /// Every veth pair of this instance.
    async fn own_links(&self) -> io::Result<Vec<Link>> {
        let mut links = self.links.list().await?;
        links.retain(|link| link.name.starts_with(PREFIX) && link.group == self.group);
        Ok(links)
    }

    pub async fn status(&self) -> Result<(), String> {
        let name = bridge_name(&self.instance);
        match self.links.find(&name).await {
            Ok(Some(bridge)) if bridge.index != self.index => Err(format!("the bridge {name} is not the one we made")),
            Ok(Some(bridge)) if bridge.up => Ok(()),
            Ok(Some(_)) => Err(format!("the bridge {name} is down")),
            Ok(None) => Err(format!("the bridge {name} is gone")),
            Err(error) => Err(format!("cannot look at the bridge {name}: {error}")),
        }
    }

    pub async fn down(&self) -> Result<(), Error> {
        let removed = self.remove_links().await.map_err(failed("remove the bridge"));
        nft::remove(&self.instance).await.and(removed)
    }

    async fn remove_links(&self) -> io::Result<()> {
        for link in self.own_links().await? {
            self.links.delete(link.index).await?;
        }
        match self.links.find(&bridge_name(&self.instance)).await? {
            Some(bridge) => self.links.delete(bridge.index).await,
            None => Ok(()),
        }
    }
}

const PREFIX: &str = "bt";
/// The upper byte of the link groups that berth's instances use; the rest is the instance. `ip` takes a group for a
/// signed number, so the uppermost bit stays clear.
const GROUP: u32 = 0x6200_0000;

fn bridge_name(instance: &str) -> String {
    format!("berth-{instance}")
}

/// The node's end of a pod's veth pair: 14 characters of at most 15.
fn veth_name(id: &Id) -> String {
    format!("{PREFIX}{}", &id.as_str()[..12])
}

fn instance_number(instance: &str) -> Option<u32> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let plain = instance.len() == 6 && instance.bytes().all(hex);
    plain.then(|| u32::from_str_radix(instance, 16).ok()).flatten()
}

/// A hardware address for the bridge (locally administered).
fn mac(instance: u32) -> [u8; 6] {
    let [_, a, b, c] = instance.to_be_bytes();
    [0x02, 0xbe, a, b, c, 0x01]
}

/// A hardware address made from the pod's, so that what neighbours have learned stays right when the address is
/// leased again.
fn pod_mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x06, 0xbe, a, b, c, d]
}

/// Deletes a veth pair that is still off its bridge: the same pod may have been attached again.
async fn delete_if_same(links: &Links, unplugged: &Link) -> io::Result<()> {
    match links.find(&unplugged.name).await? {
        Some(link) if link.index == unplugged.index && link.bridge.is_none() => links.delete(link.index).await,
        _ => Ok(()),
    }
}

/// The subnets of the bridge: first the one that new pods get addresses of, then older ones that still have leases.
async fn decide(
    links: &Links,
    bridge: &str,
    dir: &Path,
    configured: Option<Ipv4Net>,
    leases: &Leases,
) -> Result<Vec<Ipv4Net>, Error> {
    let remembered = recall(dir).map_err(failed(format!("read the subnet in {}", dir.display())))?;
    let subnet = match (configured, remembered.first()) {
        (Some(subnet), _) => subnet,
        (None, Some(subnet)) => *subnet,
        (None, None) => choose_free(links).await?,
    };
    if !subnet.has_room() {
        return Err(Error::SubnetTooSmall { subnet });
    }
    refuse_overlap(links, bridge, subnet).await?;
    let older = remembered
        .into_iter()
        .filter(|other| *other != subnet && leases.any_in(other));
    Ok([subnet].into_iter().chain(older).collect())
}

async fn choose_free(links: &Links) -> Result<Ipv4Net, Error> {
    let addresses = links.addresses().await.map_err(failed("list the node's addresses"))?;
    let routes = links.routes().await.map_err(failed("list the node's routes"))?;
    let taken: Vec<Ipv4Net> = addresses
        .iter()
        .map(|address| address.subnet)
        .chain(routes.iter().map(|route| route.to).filter(|to| to.prefix() > 0))
        .collect();
    subnet::choose(&taken).ok_or(Error::NoFreeSubnet)
}

/// Refuses a subnet that another interface has an address in. Routes are the administrator's own affair here.
async fn refuse_overlap(links: &Links, bridge: &str, subnet: Ipv4Net) -> Result<(), Error> {
    let bridge = links.find(bridge).await.map_err(failed("look for the bridge"))?;
    let addresses = links.addresses().await.map_err(failed("list the node's addresses"))?;
    let taken = addresses.iter().find(|other| {
        other.subnet.overlaps(&subnet) && bridge.as_ref().is_none_or(|bridge| bridge.index != other.index)
    });
    match taken {
        Some(other) => Err(Error::SubnetTaken {
            subnet,
            taken: other.subnet,
        }),
        None => Ok(()),
    }
}

/// The subnets that the bridge had when berth was last started; none at first.
fn recall(dir: &Path) -> io::Result<Vec<Ipv4Net>> {
    match fs::read_to_string(dir.join("subnets")) {
        Ok(text) => text
            .lines()
            .map(|line| line.parse().map_err(io::Error::other))
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remember(dir: &Path, subnets: &[Ipv4Net]) -> io::Result<()> {
    let text: String = subnets.iter().map(|subnet| format!("{subnet}\n")).collect();
    let new = dir.join("subnets.new");
    fs::write(&new, text)?;
    fs::rename(new, dir.join("subnets"))
}

/// Gives the bridge the gateway addresses of `subnets` and no others.
async fn assign(links: &Links, bridge: u32, subnets: &[Ipv4Net]) -> io::Result<()> {
    let mut missing = subnets.to_vec();
    for address in links.addresses().await? {
        if address.index != bridge {
            continue;
        }
        let wanted = |subnet: &Ipv4Net| *subnet == address.subnet && subnet.gateway() == address.address;
        match missing.iter().position(wanted) {
            Some(place) => drop(missing.remove(place)),
            None => links.remove_address(address).await?,
        }
    }
    for subnet in missing {
        links.add_gateway(bridge, &subnet).await?;
    }
    Ok(())
}

fn forward() -> io::Result<()> {
    let file = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(file)?.trim() == "1" {
        return Ok(());
    }
    fs::write(file, "1")
}

/// The largest packet that the interface of the default route takes: a pod's should not have to be cut.
async fn uplink_mtu(links: &Links) -> io::Result<u32> {
    const ETHERNET: u32 = 1500;
    let routes = links.routes().await?;
    let uplink = routes
        .iter()
        .find(|route| route.to.prefix() == 0)
        .and_then(|route| route.index);
    let list = links.list().await?;
    let mtu = list.iter().find(|link| Some(link.index) == uplink).map(|link| link.mtu);
    // 576: what every IPv4 network carries (RFC 791); loopback's 65536 would not fit a bridge of others.
    Ok(mtu.unwrap_or(ETHERNET).clamp(576, 9000))
}

/// A lock that every process in this network namespace sees, for as long as the value lives: on the inode of the
/// namespace itself.
async fn lock_namespace() -> io::Result<Flock<File>> {
    let lock = || {
        let namespace = File::open("/proc/self/ns/net")?;
        Flock::lock(namespace, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    };
    spawn_blocking(lock).await.map_err(io::Error::other)?
}
