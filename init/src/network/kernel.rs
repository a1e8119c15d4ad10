//! rtnetlink: reads the kernel's network, applies steps to it, and tells of changes. The only writer.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};

use super::observed::{Link, Observed, Route};
use super::plan::Step;
use super::spec::RouteSpec;

const EEXIST: i32 = 17;
const ESRCH: i32 = 3;
const EADDRNOTAVAIL: i32 = 99;
/// The routing table of ordinary routes.
const MAIN_TABLE: u8 = 254;

/// Changes of links and addresses as the kernel tells them.
pub type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>;

/// Opens a connection for requests and one for changes.
pub fn connect() -> std::io::Result<(Handle, Changes)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, _, changes) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    Ok((handle, changes))
}

/// Waits for a change of a link that is ours: pods come and go on links of their own, which do not concern us.
///
/// # Errors
/// When the connection is gone; whoever begins anew opens another.
pub async fn changed(changes: &mut Changes, ours: &BTreeSet<u32>) -> std::io::Result<()> {
    loop {
        match changes.next().await {
            Some((message, _)) if concerns(&message, ours) => break,
            Some(_) => {}
            None => {
                return Err(std::io::Error::other("the netlink connection that tells of changes is gone"));
            }
        }
    }
    // What is there already belongs to the same look.
    while changes.try_recv().is_ok() {}
    Ok(())
}

fn concerns(message: &NetlinkMessage<RouteNetlinkMessage>, ours: &BTreeSet<u32>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            ours.contains(&link.header.index) || is_physical(link)
        }
        // The kernel dropped messages: any of them may have been ours.
        NetlinkPayload::Overrun(_) => true,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => ours.contains(&link.header.index),
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
        ) => ours.contains(&address.header.index),
        _ => false,
    }
}

/// Reads links, addresses and main routes. `named` tells links that the machine config names.
pub async fn observe(
    handle: &Handle,
    named: &(dyn Fn(&str, &str) -> bool + Sync),
) -> Result<Observed, rtnetlink::Error> {
    let mut observed = Observed::default();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await? {
        let link = read_link(&message, named);
        observed.links.insert(link.index, link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        if let (Some(link), Some(address)) =
            (observed.links.get_mut(&message.header.index), read_address(&message))
        {
            link.addresses.push(address);
        }
    }
    for request in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let mut routes = handle.route().get(request).execute();
        while let Some(message) = routes.try_next().await? {
            observed.routes.extend(read_route(&message));
        }
    }
    Ok(observed)
}

fn read_link(message: &LinkMessage, named: &(dyn Fn(&str, &str) -> bool + Sync)) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: String::new(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        physical: is_physical(message),
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                link.mac = mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
            }
            _ => {}
        }
    }
    link.physical |= named(&link.name, &link.mac);
    link
}

/// An Ethernet device that no driver of virtual links made.
fn is_physical(message: &LinkMessage) -> bool {
    let virtual_kind = message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| matches!(info, LinkInfo::Kind(_))),
        _ => false,
    });
    message.header.link_layer_type == LinkLayerType::Ether && !virtual_kind
}

fn read_address(message: &AddressMessage) -> Option<IpNet> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // On point-to-point links the address attribute is the peer's.
    IpNet::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    if message.header.table != MAIN_TABLE || message.header.kind != RouteType::Unicast {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::from(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::from(*ip)),
        _ => None,
    };
    let unspecified: IpAddr = match message.header.address_family {
        netlink_packet_route::AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let (mut link, mut to, mut via, mut metric) = (None, unspecified, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let to = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    Some(Route { link: link?, to, via, metric })
}

/// Carries out one step.
pub async fn apply(handle: &Handle, step: &Step) -> Result<(), rtnetlink::Error> {
    match step {
        Step::SetLink { link, name, up, mtu } => {
            if *up {
                accept_router_advertisements(name);
            }
            let mut message = LinkUnspec::new_with_index(*link);
            message = if *up { message.up() } else { message.down() };
            if let Some(mtu) = mtu {
                message = message.mtu(*mtu);
            }
            handle.link().set(message.build()).execute().await
        }
        Step::AddAddress { link, address } => {
            let request = handle.address().add(*link, address.addr(), address.prefix_len());
            tolerate(&[EEXIST], request.execute().await)
        }
        Step::DeleteAddress { link, address } => {
            let message = address_message(*link, *address);
            tolerate(&[EADDRNOTAVAIL], handle.address().del(message).execute().await)
        }
        Step::AddRoute { link, route } => {
            tolerate(&[EEXIST], handle.route().add(route_message(*link, route)?).execute().await)
        }
        Step::DeleteRoute { link, route } => {
            tolerate(&[ESRCH], handle.route().del(route_message(*link, route)?).execute().await)
        }
    }
}

/// A node forwards for its pods, and a forwarding host heeds routers only when told so (2). A kernel without IPv6 lacks the file.
fn accept_router_advertisements(link: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "2");
}

fn address_message(link: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(net.addr(), net.prefix_len()).build()
        }
        IpNet::V6(net) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(link).address(net.addr(), net.prefix_len()).build()
        }
    }
}

fn route_message(link: u32, route: &RouteSpec) -> Result<RouteMessage, rtnetlink::Error> {
    let invalid = |error: &dyn std::fmt::Display| rtnetlink::Error::InvalidNla(error.to_string());
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to.addr(), route.to.prefix_len())
        .map_err(|error| invalid(&error))?
        .output_interface(link)
        .priority(route.metric)
        .protocol(RouteProtocol::Static);
    builder = match route.via {
        Some(via) => builder.gateway(via).map_err(|error| invalid(&error))?,
        None => builder.scope(RouteScope::Link),
    };
    Ok(builder.build())
}

fn tolerate(codes: &[i32], result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if codes.contains(&-error.raw_code()) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_connection_fails_instead_of_waiting_for_ever() {
        let (sender, mut changes) = futures::channel::mpsc::unbounded();
        drop(sender);
        let ours = BTreeSet::new();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), changed(&mut changes, &ours));
        assert!(waited.await.expect("it waits for what cannot come").is_err());
    }
}
