//! The whole pod network in a network namespace of its own that plays the node. Needs root; skipped loudly otherwise.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::*;
use crate::network::Protocol;

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
