//! rtnetlink(7).
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::decide::PodRoute;

/// Marks our routes; none of the numbers that rtnetlink.h gives away.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(80);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Our routes as the kernel has them.
pub(super) async fn list(handle: &Handle) -> Result<BTreeSet<PodRoute>, String> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes = BTreeSet::new();
    for query in [v4, v6] {
        let listed =
            within("list routes", handle.route().get(query).execute().try_collect::<Vec<_>>()).await?;
        routes.extend(listed.iter().filter(|route| route.header.protocol == PROTOCOL).filter_map(parse));
    }
    Ok(routes)
}

/// Adds a route, in place of one to the same pods.
pub(super) async fn add(handle: &Handle, route: PodRoute) -> Result<(), String> {
    let what = format!("add route {} via {}", route.pods, route.via);
    within(&what, handle.route().add(message(route)?).replace().execute()).await
}

/// Removes a route.
pub(super) async fn remove(handle: &Handle, route: PodRoute) -> Result<(), String> {
    let what = format!("remove route {} via {}", route.pods, route.via);
    within(&what, handle.route().del(message(route)?).execute()).await
}

async fn within<T>(what: &str, work: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, work).await {
        Ok(done) => done.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no answer from the kernel within {} s", ANSWER_WITHIN.as_secs())),
    }
}

fn message(route: PodRoute) -> Result<RouteMessage, String> {
    match (route.pods, route.via) {
        (IpNet::V4(pods), IpAddr::V4(via)) => Ok(RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(pods.network(), pods.prefix_len())
            .gateway(via)
            .protocol(PROTOCOL)
            .build()),
        (IpNet::V6(pods), IpAddr::V6(via)) => Ok(RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(pods.network(), pods.prefix_len())
            .gateway(via)
            .protocol(PROTOCOL)
            .build()),
        _ => Err(format!("route {} via {}: two address families", route.pods, route.via)),
    }
}

fn parse(message: &RouteMessage) -> Option<PodRoute> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let find = |want: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        message.attributes.iter().find_map(want).and_then(address)
    };
    let destination = find(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    })?;
    let via = find(|attribute| match attribute {
        RouteAttribute::Gateway(address) => Some(address),
        _ => None,
    })?;
    let pods = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(PodRoute { pods, via })
}
