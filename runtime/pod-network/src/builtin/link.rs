//! The kernel objects of the pod network over rtnetlink: bridge, veth pairs, addresses and routes.
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoBridgePort, InfoData, InfoKind, InfoVeth, LinkAttribute};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteScope};
use node_kit::tasks::essential_thread;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::sync::oneshot;

use super::{BRIDGE, Error, ipam};

/// What the kernel says when a link, address, route or neighbour is there already or gone already.
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

/// The thread that speaks netlink; it ends when this is dropped. A request keeps its sender in the kernel until the kernel's lock on all links is free, which
/// takes it some 10 ms while a link is deleted: nothing else may wait for that.
#[derive(Debug)]
pub struct Speaker {
    runtime: tokio::runtime::Handle,
    _lives: oneshot::Sender<()>,
}

impl Speaker {
    /// Starts the thread.
    ///
    /// # Errors
    /// As epoll_create1(2) and clone(2).
    pub fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.handle().clone();
        let (lives, ended) = oneshot::channel();
        essential_thread("netlink", std::thread::Builder::new(), move || drop(runtime.block_on(ended)))?;
        Ok(Self { runtime: handle, _lives: lives })
    }

    /// A connection to the network namespace of the calling thread; it ends when the handle is dropped.
    ///
    /// # Errors
    /// As socket(2) and bind(2).
    pub fn connect(&self) -> std::io::Result<Handle> {
        connect(&self.runtime)
    }

    /// A connection to the network namespace pinned at `path`.
    async fn connect_in(&self, path: &Path) -> Result<Handle, Error> {
        let (runtime, inside) = (self.runtime.clone(), path.to_owned());
        blocking(&format!("enter the network namespace {}", path.display()), move || {
            sys::netns::run_in(&inside, move || connect(&runtime))
        })
        .await
    }
}

fn connect(runtime: &tokio::runtime::Handle) -> std::io::Result<Handle> {
    let _inside = runtime.enter();
    let (connection, handle, _) = rtnetlink::new_connection()?;
    runtime.spawn(connection);
    Ok(handle)
}

/// Does on another thread what may wait for the kernel.
pub async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other).flatten().map_err(|error| Error::Io(what.to_owned(), error))
}

/// Makes the bridge if need be, gives it the gateway addresses of `ranges`, and returns its index.
pub async fn bridge(handle: &Handle, ranges: &[IpNet], mtu: u32) -> Result<u32, Error> {
    let what = || format!("set up the bridge {BRIDGE}");
    let link = LinkBridge::new(BRIDGE).mtu(mtu).up();
    tolerate(EEXIST, handle.link().add(link.build()).execute().await)
        .map_err(|e| Error::netlink(what(), e))?;
    let index = index(handle, BRIDGE).await?.ok_or_else(|| {
        Error::Io(what(), std::io::Error::other("the bridge vanished while it was made; try again"))
    })?;
    let mut link = LinkUnspec::new_with_index(index).mtu(mtu).up();
    if let Some(range) = ranges.first() {
        link = link.address(ipam::hardware_address(ipam::gateway(range)).to_vec());
    }
    handle.link().set(link.build()).execute().await.map_err(|e| Error::netlink(what(), e))?;
    for range in ranges {
        let address = ipam::gateway(range);
        add_address(handle, index, address, range.prefix_len())
            .await
            .map_err(|e| Error::netlink(format!("give {address} to {BRIDGE}"), e))?;
    }
    Ok(index)
}

/// Makes a pod's veth pair, `host` on the bridge and `eth0` in the namespace at `netns`, and gives it addresses and routes.
pub async fn attach(
    speaker: &Speaker,
    handle: &Handle,
    host: &str,
    netns: &Path,
    bridge: u32,
    mtu: u32,
    addresses: &[(IpAddr, IpAddr)],
) -> Result<(), Error> {
    let namespace =
        std::fs::File::open(netns).map_err(|e| Error::Io(format!("open {}", netns.display()), e))?;
    let hardware = addresses.first().map(|(address, _)| ipam::hardware_address(*address).to_vec());
    let mut peer = LinkMessageBuilder::<LinkUnspec>::default()
        .name("eth0")
        .mtu(mtu)
        .append_extra_attribute(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    if let Some(hardware) = hardware {
        peer = peer.address(hardware);
    }
    let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .name(host)
        .mtu(mtu)
        .controller(bridge)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .up()
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .map_err(|e| Error::netlink(format!("make the veth pair {host}"), e))?;
    without_addresses(host).await?;
    let port = index(handle, host)
        .await?
        .ok_or_else(|| Error::Io(format!("find {host}"), std::io::Error::from_raw_os_error(ENODEV)))?;
    let own: Vec<IpAddr> = addresses.iter().map(|(address, _)| *address).collect();
    pin(handle, (host, port), bridge, &own).await?;
    inside(speaker, netns, addresses).await
}

/// Says once and for all which port of the bridge a pod's hardware address is at, and which hardware address its
/// addresses have. Nothing of it is learned from what pods send: each could say that it is another. A locked port takes
/// no frame from any other hardware address.
pub async fn pin(
    handle: &Handle,
    (host, port): (&str, u32),
    bridge: u32,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let neighbours = handle.neighbours();
    // All of it is on its way before the first answer comes.
    let mut requests: Vec<BoxFuture<'_, Result<(), rtnetlink::Error>>> = Vec::new();
    if let Some(first) = addresses.first() {
        let hardware = ipam::hardware_address(*first);
        let known = neighbours.add_bridge(port, &hardware).flags(NeighbourFlags::Controller);
        requests.push(Box::pin(known.state(NeighbourState::Noarp).replace().execute()));
        for address in addresses {
            let known = neighbours.add(bridge, *address).link_layer_address(&hardware);
            requests.push(Box::pin(known.state(NeighbourState::Permanent).replace().execute()));
        }
    }
    // Isolated: all traffic between pods passes the node's IP layer, where Services' translation of replies happens.
    let settings = LinkBridgePort::new(port)
        .hairpin(true)
        .append_info_data(InfoBridgePort::Isolated(true))
        .append_info_data(InfoBridgePort::Learning(false))
        .append_info_data(InfoBridgePort::Locked(true))
        .build();
    requests.push(Box::pin(handle.link().set_port(settings).execute()));
    let done = futures::future::try_join_all(requests).await;
    done.map(drop).map_err(|error| Error::netlink(format!("set up the bridge port {host}"), error))
}

/// Forgets which hardware address these addresses have. The rest of [`pin`] goes with the port.
pub async fn unpin(handle: &Handle, bridge: u32, addresses: &[IpAddr]) -> Result<(), Error> {
    for address in addresses {
        let entry = handle.neighbours().add(bridge, *address).message_mut().clone();
        tolerate(ENOENT, handle.neighbours().del(entry).execute().await)
            .map_err(|e| Error::netlink(format!("forget the hardware address of {address}"), e))?;
    }
    Ok(())
}

/// A port of the bridge needs no addresses. With them the kernel has IPv6 routes for each, and walks over all of them whenever any link changes.
async fn without_addresses(host: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(host).join("disable_ipv6");
    blocking(&format!("write 1 to {}", path.display()), move || match std::fs::write(path, "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    })
    .await
}

/// Addresses and routes of `eth0`. A pod's address is a single one: its gateway is on the link, everybody else beyond.
async fn inside(speaker: &Speaker, netns: &Path, addresses: &[(IpAddr, IpAddr)]) -> Result<(), Error> {
    let handle = speaker.connect_in(netns).await?;
    let failed = |what: &str, error| Error::netlink(format!("{what} in {}", netns.display()), error);
    let eth0 = index(&handle, "eth0").await?.ok_or_else(|| {
        Error::Io(format!("find eth0 in {}", netns.display()), std::io::Error::from_raw_os_error(ENODEV))
    })?;
    let up = LinkUnspec::new_with_index(eth0).up().build();
    handle.link().set(up).execute().await.map_err(|e| failed("bring up eth0", e))?;
    for (address, gateway) in addresses {
        let host = IpNet::from(*gateway);
        add_address(&handle, eth0, *address, host.prefix_len())
            .await
            .map_err(|e| failed("add the address", e))?;
        add_route(&handle, eth0, host, None).await.map_err(|e| failed("add the gateway's route", e))?;
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
        };
        add_route(&handle, eth0, everything, Some(*gateway))
            .await
            .map_err(|e| failed("add the default route", e))?;
    }
    Ok(())
}

async fn add_address(
    handle: &Handle,
    link: u32,
    address: IpAddr,
    prefix: u8,
) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(link, address, prefix);
    if address.is_ipv6() {
        let message: &mut AddressMessage = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    tolerate(EEXIST, request.execute().await)
}

async fn add_route(
    handle: &Handle,
    link: u32,
    to: IpNet,
    gateway: Option<IpAddr>,
) -> Result<(), rtnetlink::Error> {
    let invalid = |error: rtnetlink::Error| error;
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .map_err(|e| invalid(rtnetlink::Error::InvalidNla(e.to_string())))?
        .output_interface(link);
    builder = match gateway {
        Some(gateway) => {
            builder.gateway(gateway).map_err(|e| invalid(rtnetlink::Error::InvalidNla(e.to_string())))?
        }
        None => builder.scope(RouteScope::Link),
    };
    tolerate(EEXIST, handle.route().add(builder.build()).execute().await)
}

/// Deletes the link `name`, and with it its peer; none of that name is no error.
pub async fn detach(handle: &Handle, name: &str) -> Result<(), Error> {
    if let Some(index) = index(handle, name).await? {
        tolerate(ENODEV, handle.link().del(index).execute().await)
            .map_err(|e| Error::netlink(format!("delete the link {name}"), e))?;
    }
    Ok(())
}

/// The names of all ports of the bridge.
pub async fn ports(handle: &Handle, bridge: u32) -> Result<Vec<String>, Error> {
    let mut links = handle.link().get().execute();
    let mut names = Vec::new();
    while let Some(link) = links.try_next().await.map_err(|e| Error::netlink("list links".into(), e))? {
        let ours =
            link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(index) if *index == bridge));
        if ours {
            names.extend(link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            }));
        }
    }
    Ok(names)
}

/// The index of the link `name`, if it exists.
pub async fn index(handle: &Handle, name: &str) -> Result<Option<u32>, Error> {
    let found = handle.link().get().match_name(name).execute().try_next().await;
    match found {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -ENODEV => Ok(None),
        Err(error) => Err(Error::netlink(format!("look up the link {name}"), error)),
    }
}

/// The MTU of the link that the default route uses; 1500 without one.
pub async fn default_mtu(handle: &Handle) -> Result<u32, Error> {
    let failed = |error| Error::netlink("read the default route".into(), error);
    let mut routes = handle.route().get(RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()).execute();
    let mut link = None;
    while let Some(route) = routes.try_next().await.map_err(failed)? {
        if route.header.destination_prefix_length == 0 && route.header.address_family == AddressFamily::Inet {
            link = link.or_else(|| {
                route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                })
            });
        }
    }
    let Some(link) = link else { return Ok(1500) };
    let found = handle.link().get().match_index(link).execute().try_next().await.map_err(failed)?;
    Ok(found
        .into_iter()
        .flat_map(|link| link.attributes)
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        })
        .unwrap_or(1500))
}

fn tolerate(code: i32, result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -code => Ok(()),
        other => other,
    }
}
