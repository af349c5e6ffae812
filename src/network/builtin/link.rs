//! The node's side over rtnetlink: the bridge, the veth pairs, addresses and routes.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use futures_util::future::ready;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::pod;
use super::subnet::Ipv4Net;

/// A connection to the kernel's routing tables, in the daemon's own network namespace.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

/// An interface of the node, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// The bridge that the link is a port of.
    pub bridge: Option<u32>,
    /// The link group, a number of the administrator's choice (ip-link(8)).
    pub group: u32,
    pub mtu: u32,
}

/// A veth pair to make.
pub struct Veth<'a> {
    pub name: &'a str,
    pub bridge: u32,
    pub group: u32,
    pub mtu: u32,
    /// The pod's network namespace, where the other end goes.
    pub netns: BorrowedFd<'a>,
    /// The hardware address of the pod's end.
    pub mac: [u8; 6],
}

/// An IPv4 address of an interface.
pub struct Address {
    pub index: u32,
    pub address: Ipv4Addr,
    pub subnet: Ipv4Net,
    message: AddressMessage,
}

/// An IPv4 route.
pub struct Route {
    pub to: Ipv4Net,
    pub index: Option<u32>,
}

impl Links {
    /// Must be called in a tokio runtime, which then drives the connection.
    pub fn connect() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface `name`. None: there is none.
    pub async fn find(&self, name: &str) -> io::Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(to_io) {
            Ok(message) => Ok(message.map(|message| Link::from(&message))),
            Err(error) if is(&error, Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every interface.
    pub async fn list(&self) -> io::Result<Vec<Link>> {
        let stream = self.handle.link().get().execute();
        let links: Vec<LinkMessage> = stream.try_collect().await.map_err(to_io)?;
        Ok(links.iter().map(Link::from).collect())
    }

    /// Makes the bridge `name` if it is missing, and brings it up.
    pub async fn bridge(&self, name: &str, mac: [u8; 6]) -> io::Result<Link> {
        // A bridge without a fixed address takes its lowest port's, and pods would have to learn it anew each time.
        let bridge = LinkBridge::new(name).address(mac.to_vec()).up().build();
        match self.handle.link().add(bridge).execute().await.map_err(to_io) {
            Err(error) if !is(&error, Errno::EEXIST) => return Err(error),
            _ => {}
        }
        let link = self.find(name).await?.ok_or(Errno::ENODEV)?;
        self.change(LinkUnspec::new_with_index(link.index).up().build()).await?;
        Ok(link)
    }

    /// Makes a veth pair, one end a port of the bridge and up, one in the pod, in one request.
    pub async fn veth(&self, veth: &Veth<'_>) -> io::Result<()> {
        let peer = LinkUnspec::new_with_index(0)
            .name(pod::NAME)
            .address(veth.mac.to_vec())
            .mtu(veth.mtu)
            .setns_by_fd(veth.netns.as_raw_fd());
        let pair = LinkVeth::new(veth.name, pod::NAME)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .link_group(veth.group)
            .mtu(veth.mtu)
            .controller(veth.bridge)
            .up();
        self.handle.link().add(pair.build()).execute().await.map_err(to_io)
    }

    /// Makes the link a port of `bridge` and brings it up.
    pub async fn plug(&self, index: u32, bridge: u32) -> io::Result<()> {
        self.change(LinkUnspec::new_with_index(index).controller(bridge).up().build())
            .await
    }

    /// Takes the link down and off its bridge, which needs no waiting in the kernel as a deletion does. Fine when it
    /// is gone.
    pub async fn unplug(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).nocontroller().down().build();
        gone_is_fine(self.change(message).await)
    }

    /// Deletes the link; of a veth pair, both ends. Fine when it is gone.
    pub async fn delete(&self, index: u32) -> io::Result<()> {
        gone_is_fine(self.handle.link().del(index).execute().await.map_err(to_io))
    }

    /// The IPv4 addresses of all interfaces.
    pub async fn addresses(&self) -> io::Result<Vec<Address>> {
        let stream = self.handle.address().get().execute();
        let addresses = stream.try_filter_map(|message| ready(Ok(address(message))));
        addresses.try_collect().await.map_err(to_io)
    }

    /// Gives the interface the gateway address of `subnet`.
    pub async fn add_gateway(&self, index: u32, subnet: &Ipv4Net) -> io::Result<()> {
        let gateway = IpAddr::V4(subnet.gateway());
        let add = self.handle.address().add(index, gateway, subnet.prefix());
        add.execute().await.map_err(to_io)
    }

    pub async fn remove_address(&self, address: Address) -> io::Result<()> {
        let del = self.handle.address().del(address.message);
        gone_is_fine(del.execute().await.map_err(to_io))
    }

    /// The IPv4 routes of all tables.
    pub async fn routes(&self) -> io::Result<Vec<Route>> {
        let every = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let stream = self.handle.route().get(every).execute();
        let routes: Vec<RouteMessage> = stream.try_collect().await.map_err(to_io)?;
        Ok(routes.iter().map(route).collect())
    }

    async fn change(&self, message: LinkMessage) -> io::Result<()> {
        self.handle.link().change(message).execute().await.map_err(to_io)
    }
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            up: message.header.flags.contains(LinkFlags::Up),
            bridge: None,
            group: 0,
            mtu: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Controller(bridge) => link.bridge = Some(*bridge),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        link
    }
}

fn address(message: AddressMessage) -> Option<Address> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(Address {
        index: message.header.index,
        address: local,
        subnet: Ipv4Net::around(local, message.header.prefix_len),
        message,
    })
}

fn route(message: &RouteMessage) -> Route {
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let index = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let to = to.unwrap_or(Ipv4Addr::UNSPECIFIED);
    Route {
        to: Ipv4Net::around(to, message.header.destination_prefix_length),
        index,
    }
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if is(&error, Errno::ENODEV) || is(&error, Errno::EADDRNOTAVAIL) => Ok(()),
        other => other,
    }
}

pub fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(error) => error.to_io(),
        other => io::Error::other(other),
    }
}
