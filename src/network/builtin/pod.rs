//! The pod's end of its veth pair, set up by a thread inside the pod's network namespace.

use std::io;
use std::net::Ipv4Addr;

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::{AddressMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::subnet::Ipv4Net;
use crate::sys;

/// What the interface is called in the pod.
pub const NAME: &str = "eth0";

/// Brings the interface up and gives it its address and the route to everywhere. To be called in the pod's namespace.
pub fn configure(address: Ipv4Addr, subnet: &Ipv4Net) -> io::Result<()> {
    let index = sys::link::index(c"eth0")?;
    let address = AddressMessageBuilder::<Ipv4Addr>::new()
        .index(index)
        .address(address, subnet.prefix())
        .build();
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(subnet.gateway()).build();
    // A socket stays in the namespace it was made in: neither it nor its answers leave this thread.
    let socket = Socket::new(NETLINK_ROUTE)?;
    let up = LinkUnspec::new_with_index(index).up().build();
    request(&socket, RouteNetlinkMessage::SetLink(up))?;
    request(&socket, RouteNetlinkMessage::NewAddress(address))?;
    request(&socket, RouteNetlinkMessage::NewRoute(route))
}

/// Sends `message` and waits for the kernel's answer, which comes at once.
fn request(socket: &Socket, message: RouteNetlinkMessage) -> io::Result<()> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        other => Err(io::Error::other(format!("netlink answered {other:?}"))),
    }
}
