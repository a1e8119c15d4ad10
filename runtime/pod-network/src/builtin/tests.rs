//! The whole pod network in a network namespace of its own that plays the node. Needs root; skipped loudly otherwise.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::Protocol;

/// A node: a network namespace, the pods' namespaces and the records.
struct Node {
    folder: PathBuf,
    network: Builtin,
    runtime: tokio::runtime::Runtime,
}

impl Node {
    /// Moves the calling thread into a fresh network namespace (a test's thread ends with the test) and sets the network up there.
    fn new(name: &str, ranges: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED {name}: making network namespaces needs root");
            return None;
        }
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET | nix::sched::CloneFlags::CLONE_NEWNS)
            .unwrap();
        // The pins of this test stay in its own mount namespace.
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        match nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>) {
            // In a chroot the root need not be a mount point; whoever made it has seen to its mounts.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(error) => panic!("make mounts private: {error}"),
        }
        sys::netns::raise_loopback().unwrap();
        let folder = std::env::temp_dir().join(format!("pintle-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let network = Builtin::restore(&folder).unwrap();
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let cluster: Vec<IpNet> = vec!["10.244.0.0/16".parse().unwrap()];
        let node = Self { folder, network, runtime };
        node.runtime.block_on(async {
            // As a node that has just booted: first without ranges.
            node.network.resume(&cluster).await.unwrap();
            assert!(matches!(node.network.ready().await, Err(Error::NotConfigured)));
            node.network.configure(&ranges, &cluster).await.unwrap();
        });
        Some(node)
    }

    fn netns(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.net"))
    }

    fn pod(&self, id: &str, ports: Vec<PortMapping>) -> Result<PodAddresses, Error> {
        let netns = self.netns(id);
        self.runtime.block_on(async {
            sys::netns::create(&netns).unwrap();
            let pod = PodRequest { sandbox_id: id.into(), netns, ports, ..PodRequest::default() };
            self.network.setup(&pod).await
        })
    }

    fn delete(&self, id: &str) {
        self.runtime.block_on(self.network.teardown(id)).unwrap();
        sys::netns::remove(&self.netns(id)).unwrap();
    }

    fn ruleset() -> String {
        let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn links() -> Vec<String> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let names = text.lines().skip(2).filter_map(|line| line.split(':').next());
        names.map(|name| name.trim().to_owned()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "net") {
                let _ = sys::netns::remove(&entry.path());
            }
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const WAIT: Duration = Duration::from_secs(5);

/// Serves one TCP connection in the namespace: answers with the client's address as it sees it.
fn serve(netns: &Path, port: u16) -> std::thread::JoinHandle<()> {
    let listener = sys::netns::run_in(netns, move || TcpListener::bind(("::", port))).unwrap();
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.ip().to_canonical().to_string().as_bytes()).unwrap();
    })
}

fn ask(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&to, WAIT)
}

fn connect_from(netns: &Path, to: SocketAddr) -> io::Result<TcpStream> {
    sys::netns::run_in(netns, move || connect(to))
}

fn port(host_port: u16, protocol: Protocol, host_ip: Option<&str>) -> PortMapping {
    PortMapping { protocol, container_port: 8080, host_port, host_ip: host_ip.map(|ip| ip.parse().unwrap()) }
}

#[test]
fn pods_reach_each_other_and_the_node_and_leave_nothing() {
    let Some(node) = Node::new("pods", &["10.244.7.0/24", "fd00:7::/64"]) else { return };
    let a = node.pod("aaaaaaaaaaaa1", vec![]).unwrap().ips;
    let b = node.pod("bbbbbbbbbbbb1", vec![]).unwrap().ips;
    assert_eq!(a[0].to_string(), "10.244.7.2");
    assert_eq!(b, ["10.244.7.3".parse::<IpAddr>().unwrap(), "fd00:7::3".parse().unwrap()]);
    for family in 0..2 {
        let server = serve(&node.netns("bbbbbbbbbbbb1"), 8080);
        let stream = connect_from(&node.netns("aaaaaaaaaaaa1"), (b[family], 8080).into()).unwrap();
        assert_eq!(ask(stream), a[family].to_string(), "pod to pod keeps the address");
        server.join().unwrap();
        let server = serve(&node.netns("bbbbbbbbbbbb1"), 8080);
        ask(connect((b[family], 8080).into()).unwrap());
        server.join().unwrap();
    }
    let host = TcpListener::bind("10.244.7.1:9000").unwrap();
    let stream = connect_from(&node.netns("aaaaaaaaaaaa1"), host.local_addr().unwrap()).unwrap();
    assert_eq!(host.accept().unwrap().1.ip(), a[0]);
    drop(stream);
    // Of fe80::/64 and of multicasts: as many as there are pods, otherwise.
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let of_ports = routes.lines().filter(|line| line.ends_with("podaaaaaaaaaaa"));
    assert_eq!(of_ports.count(), 0, "{routes}");
    node.delete("aaaaaaaaaaaa1");
    node.delete("bbbbbbbbbbbb1");
    node.delete("bbbbbbbbbbbb1");
    assert_eq!(Node::links().iter().filter(|name| name.starts_with("pod") && *name != BRIDGE).count(), 0);
    let next = node.pod("cccccccccccc1", vec![]).unwrap().ips;
    assert_eq!(next[0].to_string(), "10.244.7.4", "a freed address rests");
}

#[test]
fn host_ports_lead_to_the_pod_from_everywhere_and_go_with_it() {
    let Some(node) = Node::new("ports", &["10.244.7.0/24"]) else { return };
    let ports = vec![
        port(80, Protocol::Tcp, None),
        port(81, Protocol::Tcp, Some("127.0.0.1")),
        port(53, Protocol::Udp, None),
    ];
    let server_ip = node.pod("aaaaaaaaaaaa2", ports).unwrap().ips[0];
    node.pod("bbbbbbbbbbbb2", vec![]).unwrap();
    let (server, client) = (node.netns("aaaaaaaaaaaa2"), node.netns("bbbbbbbbbbbb2"));
    let gateway: IpAddr = "10.244.7.1".parse().unwrap();
    let localhost: IpAddr = "127.0.0.1".parse().unwrap();
    for (from, to, port) in [
        (None, gateway, 80),
        (None, localhost, 80),
        (None, localhost, 81),
        (Some(&client), gateway, 80),
        // The pod itself, through the node.
        (Some(&server), gateway, 80),
    ] {
        let serving = serve(&server, 8080);
        let stream = match from {
            Some(netns) => connect_from(netns, (to, port).into()),
            None => connect((to, port).into()),
        };
        ask(stream.unwrap_or_else(|error| panic!("{from:?} to {to}:{port}: {error}")));
        serving.join().unwrap();
    }
    assert!(connect_from(&client, (gateway, 81).into()).is_err(), "a port of 127.0.0.1 is the node's alone");
    let udp = sys::netns::run_in(&server, || UdpSocket::bind("0.0.0.0:8080")).unwrap();
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(b"hello", "127.0.0.1:53").unwrap();
    udp.set_read_timeout(Some(WAIT)).unwrap();
    let mut buffer = [0; 16];
    let (read, from) = udp.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..read], b"hello");
    udp.send_to(b"hi", from).unwrap();
    sender.set_read_timeout(Some(WAIT)).unwrap();
    assert_eq!(sender.recv_from(&mut buffer).unwrap().0, 2);

    let taken = node.pod("cccccccccccc2", vec![port(80, Protocol::Tcp, None)]).unwrap_err();
    assert!(taken.to_string().contains("80/tcp is taken by the pod sandbox aaaaaaaaaaaa2"), "{taken}");
    node.delete("aaaaaaaaaaaa2");
    assert!(!Node::ruleset().contains(&server_ip.to_string()), "{}", Node::ruleset());
    assert!(connect((localhost, 80).into()).is_err());
    node.runtime
        .block_on(node.network.setup(&PodRequest {
            sandbox_id: "cccccccccccc2".into(),
            netns: node.netns("cccccccccccc2"),
            ports: vec![port(80, Protocol::Tcp, None)],
            ..PodRequest::default()
        }))
        .unwrap();
}

#[test]
fn pods_cannot_reach_the_nodes_loopback() {
    let Some(node) = Node::new("loopback", &["10.244.7.0/24"]) else { return };
    node.pod("aaaaaaaaaaaa3", vec![]).unwrap();
    let secret = TcpListener::bind("127.0.0.1:9001").unwrap();
    secret.set_nonblocking(true).unwrap();
    let netns = node.netns("aaaaaaaaaaaa3");
    // A hostile pod routes 127.0.0.1 to its gateway.
    let result = sys::netns::run_in(&netns, || {
        let run = |arguments: &[&str]| std::process::Command::new("ip").args(arguments).output();
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1")?;
        run(&["route", "del", "local", "127.0.0.0/8", "table", "local"])?;
        run(&["route", "del", "local", "127.0.0.1", "table", "local"])?;
        run(&["route", "add", "127.0.0.1", "via", "10.244.7.1"])?;
        TcpStream::connect_timeout(&"127.0.0.1:9001".parse().unwrap(), Duration::from_secs(2))
    });
    assert!(result.is_err());
    assert!(secret.accept().is_err());
}

#[test]
fn a_restarted_runtime_finds_its_pods_and_collects_the_dead() {
    let Some(mut node) = Node::new("restart", &["10.244.7.0/24"]) else { return };
    let kept = node.pod("aaaaaaaaaaaa4", vec![port(80, Protocol::Tcp, None)]).unwrap();
    node.pod("bbbbbbbbbbbb4", vec![port(81, Protocol::Tcp, None)]).unwrap();
    node.network = Builtin::restore(&node.folder).unwrap();
    assert!(matches!(node.runtime.block_on(node.network.ready()), Err(Error::NotConfigured)));
    // Nobody has to tell it the ranges again.
    node.runtime.block_on(node.network.resume(&["10.244.0.0/16".parse().unwrap()])).unwrap();
    node.runtime.block_on(node.network.ready()).unwrap();
    node.runtime.block_on(node.network.collect(&BTreeSet::from(["aaaaaaaaaaaa4".to_owned()]))).unwrap();
    assert_eq!(node.runtime.block_on(node.network.addresses("aaaaaaaaaaaa4")), Some(kept));
    assert_eq!(node.runtime.block_on(node.network.addresses("bbbbbbbbbbbb4")), None);
    let links = Node::links();
    assert!(
        links.contains(&"podaaaaaaaaaaa".to_owned()) && !links.contains(&"podbbbbbbbbbbb".to_owned()),
        "{links:?}"
    );
    let serving = serve(&node.netns("aaaaaaaaaaaa4"), 8080);
    ask(connect("127.0.0.1:80".parse().unwrap()).unwrap());
    serving.join().unwrap();
}

#[test]
fn connecting_pods_leaks_no_descriptor() {
    let Some(node) = Node::new("leak", &["10.244.7.0/24"]) else { return };
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let cycle = |id: &str| {
        node.pod(id, vec![]).unwrap();
        node.delete(id);
    };
    cycle("aaaaaaaaaaaa5");
    let sockets = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter(|entry| {
                std::fs::read_link(entry.path())
                    .is_ok_and(|to| to.starts_with("socket:") || to.to_string_lossy().contains("net:["))
            })
            .count()
    };
    let before = sockets();
    for turn in 0..20 {
        cycle(&format!("{turn:02}aaaaaaaaaa5"));
    }
    // A connection's task ends on its own thread, some time after its handle is gone.
    let deadline = Instant::now() + Duration::from_secs(10);
    while sockets() > before + 8 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        sockets() <= before + 8,
        "{before} sockets and namespaces before, {} after ({} descriptors)",
        sockets(),
        count()
    );
}

/// A program in the namespace that must succeed.
fn run_in(netns: &Path, command: &str) {
    let command = command.to_owned();
    let output =
        sys::netns::run_in(netns, move || std::process::Command::new("sh").args(["-c", &command]).output());
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the node says about itself.
fn said(command: &str) -> String {
    let output = std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Serves one TCP connection at an address of the namespace, by saying who serves it.
fn serve_as(netns: &Path, at: SocketAddr, who: &'static str) {
    let listener = sys::netns::run_in(netns, move || TcpListener::bind(at)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(who.as_bytes());
        }
    });
}

/// Datagrams from an address of the namespace; what cannot be sent is none.
fn send_from(netns: &Path, from: IpAddr, to: SocketAddr, text: &'static [u8]) {
    let sent = sys::netns::run_in(netns, move || UdpSocket::bind((from, 0))?.send_to(text, to));
    sent.unwrap();
}

/// In the attacker's namespace all is done that root of a pod can: the victim's addresses, asked about aloud so that all
/// who hear it learn who has them, and then its hardware address too.
fn claim(attacker: &Path, victim: &[IpAddr], gateways: &[IpAddr]) {
    let hardware = ipam::hardware_address(victim[0]).map(|byte| format!("{byte:02x}")).join(":");
    for address in victim {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let nodad = if address.is_ipv4() { "" } else { "nodad" };
        run_in(attacker, &format!("ip address add {address}/{bits} dev eth0 {nodad}"));
    }
    for (address, gateway) in victim.iter().zip(gateways) {
        run_in(attacker, "ip neigh flush dev eth0");
        send_from(attacker, *address, (*gateway, 9).into(), b"mine");
    }
    run_in(attacker, &format!("ip link set dev eth0 address {hardware}; ip neigh flush dev eth0"));
    for (address, gateway) in victim.iter().zip(gateways) {
        send_from(attacker, *address, (*gateway, 9).into(), b"mine");
    }
}

fn victim_keeps_its_traffic(node: &Node, victim: (&str, &[IpAddr]), attacker: (&str, &[IpAddr])) {
    let gateways: Vec<IpAddr> = vec!["10.244.7.1".parse().unwrap(), "fd00:7::1".parse().unwrap()];
    let (theirs, ours) = (node.netns(attacker.0), node.netns(victim.0));
    // The node has spoken with both before.
    for (index, address) in victim.1.iter().enumerate() {
        serve_as(&ours, (*address, 8080).into(), "victim");
        assert_eq!(ask(connect((*address, 8080).into()).unwrap()), "victim");
        send_from(&theirs, attacker.1[index], (gateways[index], 9).into(), b"hello");
    }
    claim(&theirs, victim.1, &gateways);
    for address in victim.1 {
        serve_as(&theirs, (*address, 8080).into(), "attacker");
        let answer = connect((*address, 8080).into()).map(ask);
        assert_eq!(answer.ok().as_deref(), Some("victim"), "who is {address}?");
    }
}

const RANGES: [&str; 2] = ["10.244.7.0/24", "fd00:7::/64"];

#[test]
fn no_pod_gets_anothers_traffic() {
    let Some(node) = Node::new("claims", &RANGES) else { return };
    let victim = node.pod("aaaaaaaaaaaa6", vec![]).unwrap().ips;
    let attacker = node.pod("bbbbbbbbbbbb6", vec![]).unwrap().ips;
    victim_keeps_its_traffic(&node, ("aaaaaaaaaaaa6", &victim), ("bbbbbbbbbbbb6", &attacker));
    node.delete("aaaaaaaaaaaa6");
    node.delete("bbbbbbbbbbbb6");
    let left =
        said("ip neigh show dev pods0 nud permanent; bridge fdb show br pods0 | grep 0a:58:0a:f4:07:02");
    assert_eq!(left, "", "what the pods had is forgotten");
    assert!(!Node::ruleset().contains("10.244.7.2"), "{}", Node::ruleset());
}

/// Also where a version connected them that did not yet see to it.
#[test]
fn no_pod_gets_anothers_traffic_after_a_restart() {
    let Some(mut node) = Node::new("claims-later", &RANGES) else { return };
    let victim = node.pod("aaaaaaaaaaaa7", vec![]).unwrap().ips;
    let attacker = node.pod("bbbbbbbbbbbb7", vec![]).unwrap().ips;
    said(
        "for port in podaaaaaaaaaaa podbbbbbbbbbbb; do bridge link set dev $port learning on locked off; done
         for mac in 02 03; do bridge fdb del 0a:58:0a:f4:07:$mac dev podaaaaaaaaaaa master static
         bridge fdb del 0a:58:0a:f4:07:$mac dev podbbbbbbbbbbb master static; done
         ip neigh flush nud permanent dev pods0; nft delete table inet pintle",
    );
    node.network = Builtin::restore(&node.folder).unwrap();
    node.runtime.block_on(node.network.resume(&["10.244.0.0/16".parse().unwrap()])).unwrap();
    victim_keeps_its_traffic(&node, ("aaaaaaaaaaaa7", &victim), ("bbbbbbbbbbbb7", &attacker));
}

#[test]
fn what_a_pod_sends_from_anothers_address_goes_nowhere() {
    let Some(node) = Node::new("spoof", &RANGES) else { return };
    let victim = node.pod("aaaaaaaaaaaa8", vec![]).unwrap().ips;
    let own = node.pod("bbbbbbbbbbbb8", vec![]).unwrap().ips;
    let netns = node.netns("bbbbbbbbbbbb8");
    for (family, (foreign, gateway)) in
        [("192.0.2.9", "10.244.7.1"), ("2001:db8::9", "fd00:7::1")].into_iter().enumerate()
    {
        let gateway: IpAddr = gateway.parse().unwrap();
        let heard = UdpSocket::bind((gateway, 0)).unwrap();
        heard.set_read_timeout(Some(WAIT)).unwrap();
        let to = heard.local_addr().unwrap();
        let first_heard = || {
            let mut buffer = [0; 16];
            let (read, from) = heard.recv_from(&mut buffer).unwrap();
            (String::from_utf8_lossy(&buffer[..read]).into_owned(), from.ip())
        };
        // All on one way, one after the other.
        let foreign: IpAddr = foreign.parse().unwrap();
        for address in [foreign, victim[family]] {
            let (bits, nodad) = if address.is_ipv4() { (32, "") } else { (128, "nodad") };
            run_in(&netns, &format!("ip address add {address}/{bits} dev eth0 {nodad}"));
            send_from(&netns, address, to, b"false");
        }
        send_from(&netns, own[family], to, b"true");
        assert_eq!(first_heard(), ("true".into(), own[family]));
    }
}

#[test]
fn a_udp_client_that_never_stops_reaches_the_pod_that_came() {
    let Some(node) = Node::new("udp", &["10.244.7.0/24"]) else { return };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = UdpSocket::bind("10.244.7.1:0").unwrap();
    let send = |text: &[u8]| {
        // Nobody there is told to whoever sends next.
        let _ = client.send_to(text, "127.0.0.1:5353").or_else(|_| client.send_to(text, "127.0.0.1:5353"));
        let _ =
            gateway.send_to(text, "10.244.7.1:5353").or_else(|_| gateway.send_to(text, "10.244.7.1:5353"));
    };
    send(b"too soon");
    for id in ["aaaaaaaaaaaa9", "bbbbbbbbbbbb9"] {
        node.pod(id, vec![port(5353, Protocol::Udp, None)]).unwrap();
        let server = sys::netns::run_in(&node.netns(id), || UdpSocket::bind("0.0.0.0:8080")).unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        send(id.as_bytes());
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let read = server.recv_from(&mut buffer).map(|(read, _)| read);
            assert_eq!(read.ok().map(|read| &buffer[..read]), Some(id.as_bytes()));
        }
        node.delete(id);
        send(b"nobody there");
    }
}
