//! The built-in pod network: one bridge per node, an address per pod and family from the node's podCIDRs, masquerade and host ports.
//!
//! Pods are isolated ports of the bridge `pods0` and route everything through the node (the bridge's address), so traffic between pods of a node
//! passes the same connection tracking as traffic from afar; Services need no bridge netfilter. Nothing here runs while pods run: the kernel
//! holds it all, and a restarted runtime reads its records back.
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use tokio::sync::Mutex;

mod ipam;
mod link;
mod nfnetlink;
mod nft;
mod record;
mod ruleset;
#[cfg(test)]
mod tests;

use super::{PodAddresses, PodRequest, PortMapping, Traffic, traffic};
use record::{Record, Records};

/// The bridge that pods hang on.
pub const BRIDGE: &str = "pods0";

/// What can go wrong; each names what was tried.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the node has no pod address range yet; the agent sets it when the cluster has given the Node a podCIDR"
    )]
    NotConfigured,
    #[error("no free pod address is left in {0}; delete pods or give nodes larger ranges")]
    Exhausted(IpNet),
    #[error("host port {}/{} is taken by the pod sandbox {holder}", port.host_port, port.protocol.name())]
    PortTaken { port: PortMapping, holder: String },
    #[error("{0:?} cannot be a sandbox id: letters and digits, `-`, `_` and `.` only, at most 128")]
    BadId(String),
    #[error("nftables: {0}")]
    Nft(String),
    #[error("{0}: {1}")]
    Netlink(String, Box<rtnetlink::Error>),
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl Error {
    fn netlink(what: String, error: rtnetlink::Error) -> Self {
        Self::Netlink(what, Box::new(error))
    }
}

/// The built-in pod network of this node.
#[derive(Debug)]
pub struct Builtin {
    speaker: link::Speaker,
    handle: rtnetlink::Handle,
    records: Records,
    state: Mutex<State>,
    /// Held while bridge and table are made; taken before `state`.
    making: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    node: Vec<IpNet>,
    cluster: Vec<IpNet>,
    bridge: Option<(u32, u32)>,
    pods: BTreeMap<String, Record>,
    last: Vec<IpAddr>,
}

impl Builtin {
    /// Opens the network with its records below `folder` (on a tmpfs, such as `/run/pintle/runtime/network`). Pods that a former process
    /// connected stay as they are.
    ///
    /// # Errors
    /// When the records cannot be read or no netlink socket or thread can be had.
    pub fn restore(folder: &Path) -> Result<Self, Error> {
        let failed =
            |error| Error::Io(format!("open the pod network's records in {}", folder.display()), error);
        let records = Records::open(folder).map_err(failed)?;
        let state = State { pods: records.load().map_err(failed)?, last: records.last(), ..State::default() };
        let speaker = link::Speaker::start()
            .map_err(|error| Error::Io("start the thread that speaks netlink".into(), error))?;
        let handle = speaker.connect().map_err(|error| Error::Io("open a netlink socket".into(), error))?;
        Ok(Self { speaker, handle, records, state: Mutex::new(state), making: Mutex::default() })
    }

    /// Sets the node's own ranges (`pod_cidrs`, of CRI's UpdateRuntimeConfig) and the whole cluster's (`cluster_cidrs`; traffic to them is not
    /// masqueraded). Makes bridge and table, and may be called again at any time.
    ///
    /// # Errors
    /// When the kernel refuses the bridge, an address or the table.
    pub async fn configure(&self, pod_cidrs: &[IpNet], cluster_cidrs: &[IpNet]) -> Result<(), Error> {
        let _making = self.making.lock().await;
        let mut state = self.state.lock().await;
        if pod_cidrs.is_empty() {
            return Err(Error::NotConfigured);
        }
        let mut cluster = cluster_cidrs.to_vec();
        cluster
            .extend(pod_cidrs.iter().filter(|cidr| !cluster_cidrs.iter().any(|range| range.contains(*cidr))));
        if state.bridge.is_some() && state.node == pod_cidrs && state.cluster == cluster {
            return Ok(());
        }
        let mtu = link::default_mtu(&self.handle).await?;
        let bridge = link::bridge(&self.handle, pod_cidrs, mtu).await?;
        self.pin_all(bridge, &state.pods).await?;
        set_sysctls()?;
        nft::apply(&ruleset::table(pod_cidrs, &cluster, &state.pods)).await?;
        self.records
            .set_ranges(pod_cidrs)
            .map_err(|error| Error::Io("record the node's ranges of pod addresses".into(), error))?;
        state.bridge = Some((bridge, mtu));
        state.node = pod_cidrs.to_vec();
        state.cluster = cluster;
        Ok(())
    }

    /// Whether a former life of this process was told ranges.
    pub fn has_ranges(&self) -> bool {
        !self.records.ranges().is_empty()
    }

    /// Configures it as a former life of this process was told to. When it was told nothing, makes bridge and table without ranges: a kernel takes seconds to load
    /// what they are made of, and the cluster has the node's range only later.
    ///
    /// # Errors
    /// As [`Builtin::configure`].
    pub async fn resume(&self, cluster_cidrs: &[IpNet]) -> Result<(), Error> {
        let ranges = self.records.ranges();
        if !ranges.is_empty() {
            return self.configure(&ranges, cluster_cidrs).await;
        }
        let _making = self.making.lock().await;
        let pods = {
            let state = self.state.lock().await;
            if state.bridge.is_some() {
                return Ok(());
            }
            state.pods.clone()
        };
        link::bridge(&self.handle, &[], link::default_mtu(&self.handle).await?).await?;
        set_sysctls()?;
        nft::apply(&ruleset::table(&[], &[], &pods)).await
    }

    /// Whether pods can be connected: what CRI's Status reports as NetworkReady.
    ///
    /// # Errors
    /// The reason why not.
    pub async fn ready(&self) -> Result<(), Error> {
        if self.state.lock().await.bridge.is_some() { Ok(()) } else { Err(Error::NotConfigured) }
    }

    /// What went over a pod's link; none of a pod that has none.
    pub fn traffic(&self, sandbox_id: &str) -> Option<Traffic> {
        traffic::read(Path::new("/sys/class/net"), &host_name(sandbox_id).ok()?)
    }

    /// Connects a pod. When it fails nothing stays behind.
    ///
    /// # Errors
    /// Without a range, a free address or the host ports; when the kernel refuses.
    pub async fn setup(&self, pod: &PodRequest) -> Result<PodAddresses, Error> {
        let host = host_name(&pod.sandbox_id)?;
        let (record, bridge, mtu, gateways) = self.reserve(pod).await?;
        let result = async {
            let addresses: Vec<_> = record.addresses.iter().copied().zip(gateways).collect();
            link::attach(&self.speaker, &self.handle, &host, &pod.netns, bridge, mtu, &addresses).await?;
            self.allow(&record).await?;
            nft::apply(&ruleset::elements("add", &record)).await?;
            forget_udp(&record).await;
            Ok(())
        };
        if let Err(error) = result.await {
            if let Err(second) = self.release(&pod.sandbox_id, false).await {
                tracing::warn!(sandbox = pod.sandbox_id, %second, "undo a failed pod network setup");
            }
            return Err(error);
        }
        Ok(PodAddresses { ips: record.addresses })
    }

    /// Disconnects a pod and frees its addresses and ports. A pod that is not known is no error.
    ///
    /// # Errors
    /// When the kernel refuses; the addresses then stay taken, and a further call tries again.
    pub async fn teardown(&self, sandbox_id: &str) -> Result<(), Error> {
        self.release(sandbox_id, true).await
    }

    /// The addresses of a connected pod.
    #[cfg(test)]
    pub async fn addresses(&self, sandbox_id: &str) -> Option<PodAddresses> {
        self.state
            .lock()
            .await
            .pods
            .get(sandbox_id)
            .map(|record| PodAddresses { ips: record.addresses.clone() })
    }

    /// Disconnects every pod that is not in `live`, and deletes bridge ports that no record speaks of. Call it when no setup runs.
    ///
    /// # Errors
    /// The first of the kernel's refusals; the rest is tried all the same.
    pub async fn collect(&self, live: &BTreeSet<String>) -> Result<(), Error> {
        let dead: Vec<String> =
            self.state.lock().await.pods.keys().filter(|id| !live.contains(*id)).cloned().collect();
        let mut result = Ok(());
        for id in dead {
            result = result.and(self.teardown(&id).await);
        }
        let known: BTreeSet<String> =
            self.state.lock().await.pods.keys().filter_map(|id| host_name(id).ok()).collect();
        if let Some(bridge) = link::index(&self.handle, BRIDGE).await? {
            for name in link::ports(&self.handle, bridge).await? {
                if name.starts_with("pod") && !known.contains(&name) {
                    result = result.and(link::detach(&self.handle, &name).await);
                }
            }
        }
        result
    }

    /// Takes addresses and ports for a pod, on record before anything is made.
    async fn reserve(&self, pod: &PodRequest) -> Result<(Record, u32, u32, Vec<IpAddr>), Error> {
        let mut state = self.state.lock().await;
        let (bridge, mtu) = state.bridge.ok_or(Error::NotConfigured)?;
        if state.pods.contains_key(&pod.sandbox_id) {
            let error = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(Error::Io(format!("connect the pod sandbox {}", pod.sandbox_id), error));
        }
        if let Some((port, holder)) = ruleset::conflict(&state.pods, &pod.ports) {
            return Err(Error::PortTaken { port, holder: holder.to_owned() });
        }
        let used: BTreeSet<IpAddr> =
            state.pods.values().flat_map(|record| record.addresses.clone()).collect();
        let mut addresses = Vec::new();
        for range in &state.node {
            let last = state.last.iter().copied().find(|last| range.contains(last));
            addresses.push(ipam::allocate(range, &used, last).ok_or(Error::Exhausted(*range))?);
        }
        let gateways = state.node.iter().map(ipam::gateway).collect();
        let record = Record { addresses, ports: pod.ports.clone() };
        let failed = |error| Error::Io(format!("record the addresses of {}", pod.sandbox_id), error);
        self.records.put(&pod.sandbox_id, &record).map_err(failed)?;
        self.records.set_last(&record.addresses).map_err(failed)?;
        state.last.clone_from(&record.addresses);
        state.pods.insert(pod.sandbox_id.clone(), record.clone());
        Ok((record, bridge, mtu, gateways))
    }

    /// Removes what is in the kernel first, then the record, so that an address is free only when nobody has it. `in_table` tells whether
    /// the pod's host ports are in the table.
    async fn release(&self, sandbox_id: &str, in_table: bool) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        let Some(record) = state.pods.get(sandbox_id) else { return Ok(()) };
        let commands = ruleset::elements("delete", record);
        let sources = ruleset::sources(record);
        let forbidden =
            link::blocking("take a pod's addresses out of the table", move || nfnetlink::forbid(&sources));
        let forbidden = forbidden.await;
        let ports = if in_table { nft::apply(&commands).await } else { Ok(()) };
        if forbidden.and(ports).is_err() {
            // Elements of a half-done setup, or a table somebody flushed: write the whole table without this pod.
            let mut rest = state.pods.clone();
            rest.remove(sandbox_id);
            nft::apply(&ruleset::table(&state.node, &state.cluster, &rest)).await?;
        }
        forget_udp(record).await;
        if let Some(bridge) = link::index(&self.handle, BRIDGE).await? {
            link::unpin(&self.handle, bridge, &record.addresses).await?;
        }
        link::detach(&self.handle, &host_name(sandbox_id)?).await?;
        self.records
            .remove(sandbox_id)
            .map_err(|error| Error::Io(format!("forget the addresses of {sandbox_id}"), error))?;
        state.pods.remove(sandbox_id);
        Ok(())
    }
}

impl Builtin {
    /// Lets in what the pod sends from its own addresses.
    async fn allow(&self, record: &Record) -> Result<(), Error> {
        let sources = ruleset::sources(record);
        let allowed =
            link::blocking("put a pod's addresses into the table", move || nfnetlink::allow(&sources));
        match allowed.await {
            // A table somebody deleted: write it anew, with this pod.
            Err(Error::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                let state = self.state.lock().await;
                nft::apply(&ruleset::table(&state.node, &state.cluster, &state.pods)).await
            }
            result => result,
        }
    }

    /// Pods that a former life connected: one that did not pin them, too.
    async fn pin_all(&self, bridge: u32, pods: &BTreeMap<String, Record>) -> Result<(), Error> {
        for (id, record) in pods {
            let host = host_name(id)?;
            if let Some(port) = link::index(&self.handle, &host).await? {
                link::pin(&self.handle, (&host, port), bridge, &record.addresses).await?;
            }
        }
        Ok(())
    }
}

/// A UDP client that never stops keeps conntrack's entry of its first datagram, and with it where that led: to whoever had
/// the host port then, or to nobody. Entries for the pod's host ports go, when they are mapped and when they are not any more.
async fn forget_udp(record: &Record) {
    let wrong = ruleset::udp_destinations(record);
    if wrong.is_empty() {
        return;
    }
    let forget = move || {
        let of_node: BTreeSet<IpAddr> =
            nix::ifaddrs::getifaddrs()?.filter_map(|link| ruleset::address(&link.address?)).collect();
        for (ipv4, port, host_ip) in wrong {
            let is_wrong = |to: IpAddr| match host_ip {
                Some(ip) => to == ip,
                None => to.is_loopback() || of_node.contains(&to),
            };
            nfnetlink::forget_udp(ipv4, port, is_wrong)?;
        }
        Ok(())
    };
    if let Err(error) = link::blocking("make conntrack forget UDP to a pod's host ports", forget).await {
        tracing::warn!(%error, "UDP clients that never stop may not reach the pod that has the host port now");
    }
}

/// The host side's link name: `pod` and the first 11 digits of the id.
fn host_name(sandbox_id: &str) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if sandbox_id.is_empty()
        || sandbox_id.len() > 128
        || sandbox_id.starts_with('.')
        || !sandbox_id.chars().all(plain)
    {
        return Err(Error::BadId(sandbox_id.into()));
    }
    Ok(format!("pod{}", sandbox_id.chars().take(11).collect::<String>()))
}

/// The node routes between pods and the world, answers host ports on 127.0.0.1, and sends no redirects: they would lead pods past it.
fn set_sysctls() -> Result<(), Error> {
    let pods0 = format!("ipv4/conf/{BRIDGE}");
    let settings = [
        ("ipv4/ip_forward".to_owned(), "1"),
        ("ipv4/conf/all/send_redirects".to_owned(), "0"),
        (format!("{pods0}/send_redirects"), "0"),
        (format!("{pods0}/route_localnet"), "1"),
        ("ipv6/conf/all/forwarding".to_owned(), "1"),
        // With bridge netfilter a translated packet would be bridged to its pod, past routing, and stopped there by the port's isolation.
        ("bridge/bridge-nf-call-iptables".to_owned(), "0"),
        ("bridge/bridge-nf-call-ip6tables".to_owned(), "0"),
    ];
    for (name, value) in settings {
        let path = Path::new("/proc/sys/net").join(&name);
        match std::fs::write(&path, value) {
            // A kernel without IPv6 or without bridge netfilter.
            Err(error) if !name.starts_with("ipv4") && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Io(format!("write {value} to {}", path.display()), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}
