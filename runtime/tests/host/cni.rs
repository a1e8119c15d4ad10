//! Pods on the network of real CNI plugins: bridge with host-local, portmap, tuning and bandwidth.
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use machine::config::{Cluster, Document, PodNetworkKind};
use machine::cri::{self, NamespaceMode};
use machine::paths;

use crate::ring::{Outcome, Ring, check, config_with, sandbox_config, text};

/// Where the plugins lie that the stories use.
pub fn plugins() -> Option<PathBuf> {
    std::env::var_os("PINTLE_CNI_PLUGINS").map(PathBuf::from)
}

const CONFLIST: &str = "/etc/cni/net.d/10-ring.conflist";
const RECORDS: &str = "/var/lib/pintle/runtime/cni/pods";
const WAIT: Duration = Duration::from_secs(5);

/// `first` is the plugin that makes the interface, with its capabilities; limits need kernel modules that a host may lack.
fn conflist(name: &str, first: &str, further: &str) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"], "name": "{name}", "plugins": [
            {{"type": "bridge", "bridge": "{name}0", "isGateway": true, "hairpinMode": true, {first}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}},
            {{"type": "tuning", "sysctl": {{"net.core.somaxconn": "567"}}}},
            {{"type": "bandwidth", "capabilities": {{"bandwidth": true}}}}{further}]}}"#
    )
}

const BY_RANGE: &str =
    r#""capabilities": {"ipRanges": true}, "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}]}"#;
const BY_FILE: &str = r#""ipam": {"type": "host-local", "ranges": [[{"subnet": "10.97.0.0/24"}]]}"#;
/// Says that it has begun, and takes its time.
const SLOW: &str =
    "#!/bin/sh\ncat > /run/slow-input\n[ $CNI_COMMAND = ADD ] || exit 0\ntouch /run/slow-begun\nsleep 1000\n";

/// Folders of our own where the runtime looks for configurations and plugins.
fn places() -> Outcome {
    if Path::new("/run/upper-etc").exists() {
        return Ok(());
    }
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).status().map_err(text)?;
        check(status.success(), format!("mount {arguments:?}: {status}"))
    };
    mount(&["-t", "tmpfs", "tmpfs", "/opt"])?;
    for folder in ["/run/upper-etc", "/run/work-etc", "/opt/cni/bin"] {
        fs::create_dir_all(folder).map_err(text)?;
    }
    mount(&[
        "-t",
        "overlay",
        "-o",
        "lowerdir=/etc,upperdir=/run/upper-etc,workdir=/run/work-etc",
        "overlay",
        "/etc",
    ])?;
    fs::create_dir_all("/etc/cni/net.d").map_err(text)?;
    for entry in fs::read_dir(plugins().unwrap_or_default()).map_err(text)?.flatten() {
        fs::copy(entry.path(), Path::new("/opt/cni/bin").join(entry.file_name())).map_err(text)?;
    }
    fs::write("/opt/cni/bin/slow", SLOW).map_err(text)?;
    fs::set_permissions("/opt/cni/bin/slow", fs::Permissions::from_mode(0o755)).map_err(text)?;
    sys::netns::raise_loopback().map_err(text)
}

/// A cluster whose pods are connected so.
pub fn cluster(kind: PodNetworkKind) -> Result<Document, String> {
    Ok(Document::Cluster(Cluster {
        name: "ring".into(),
        control_plane_endpoint: "https://10.5.0.10:6443".into(),
        pod_cidrs: vec!["10.96.0.0/16".parse().map_err(text)?],
        service_cidrs: vec!["10.112.0.0/12".parse().map_err(text)?],
        dns_domain: "cluster.local".into(),
        ca: machine::pki::new_ca("ring", SystemTime::now()).map_err(text)?,
        bootstrap_token: "abcdef.0123456789abcdef".into(),
        pod_network: kind,
        ..Cluster::default()
    }))
}

/// Has a runtime that connects pods so.
async fn switch(ring: &mut Ring, kind: PodNetworkKind) -> Outcome {
    fs::write(paths::ACTIVE_CONFIG, config_with(Some(cluster(kind)?))?).map_err(text)?;
    ring.kill_runtime().await
}

async fn network_ready(ring: &mut Ring) -> Result<Result<(), String>, String> {
    let request = cri::StatusRequest { verbose: false };
    let status = ring.client.status(request).await.map_err(text)?.into_inner().status.unwrap_or_default();
    let found = status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady");
    let condition = found.ok_or("no condition NetworkReady")?;
    Ok(if condition.status { Ok(()) } else { Err(condition.message) })
}

async fn ranges(ring: &mut Ring, pod_cidr: &str) -> Outcome {
    let network_config = Some(cri::NetworkConfig { pod_cidr: pod_cidr.into() });
    let request =
        cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
    ring.client.update_runtime_config(request).await.map(drop).map_err(text)
}

/// A pod with the host port 18080, and with limits if wanted.
fn pod(name: &str, limited: bool) -> cri::PodSandboxConfig {
    let options = cri::NamespaceOption { network: NamespaceMode::Pod as i32, ..Default::default() };
    let mut config = sandbox_config(name, options);
    config.port_mappings =
        vec![cri::PortMapping { container_port: 8080, host_port: 18080, ..Default::default() }];
    if limited {
        for direction in ["ingress", "egress"] {
            config.annotations.insert(format!("kubernetes.io/{direction}-bandwidth"), "100M".into());
        }
    }
    config
}

/// The pod's address, and what CNI has on record of it.
async fn inspect(ring: &mut Ring, id: &str) -> Result<(IpAddr, serde_json::Value), String> {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
    let answer = ring.client.pod_sandbox_status(request).await.map_err(text)?.into_inner();
    let ip = answer.status.unwrap_or_default().network.unwrap_or_default().ip.parse().map_err(text)?;
    let cni = answer.info.get("cni").ok_or("nothing of CNI in the verbose status")?;
    Ok((ip, serde_json::from_str(cni).map_err(text)?))
}

/// Serves a connection in the pod, and asks for it at `to`.
async fn answers(id: &str, to: SocketAddr) -> Outcome {
    let netns = PathBuf::from(format!("/run/pintle/runtime/ns/{id}/net"));
    let ask = move || -> std::io::Result<String> {
        let listener = sys::netns::run_in(&netns, || TcpListener::bind("0.0.0.0:8080"))?;
        let server = std::thread::spawn(move || listener.accept()?.0.write_all(b"pod"));
        let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        server.join().map_err(|_| std::io::Error::other("the server panicked"))??;
        // The loopback is up, as everywhere.
        let listener = sys::netns::run_in(&netns, || TcpListener::bind("127.0.0.1:9000"))?;
        let inner = listener.local_addr()?;
        sys::netns::run_in(&netns, move || TcpStream::connect_timeout(&inner, WAIT))?;
        Ok(answer)
    };
    let answer = tokio::task::spawn_blocking(ask).await.map_err(text)?.map_err(|e| format!("{to}: {e}"))?;
    check(answer == "pod", answer)
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Links that plugins made for pods, translations for them, their addresses and our records.
fn left() -> Vec<String> {
    let links = output("ip", &["-o", "link"]);
    let pods = |line: &&str| line.contains(": veth") || line.contains(": bwp");
    let mut left: Vec<String> = links.lines().filter(pods).map(str::to_owned).collect();
    // The built-in network's own rules stay; its pods are in maps.
    let translates = |line: &&str| line.contains("dnat") && !line.contains(" map @");
    left.extend(output("nft", &["list", "ruleset"]).lines().filter(translates).map(str::to_owned));
    for network in fs::read_dir("/var/lib/cni/networks").into_iter().flatten().flatten() {
        let names =
            fs::read_dir(network.path()).into_iter().flatten().flatten().map(|entry| entry.file_name());
        left.extend(
            names.filter_map(|name| name.into_string().ok()).filter(|name| name.parse::<IpAddr>().is_ok()),
        );
    }
    let records = fs::read_dir(RECORDS).into_iter().flatten().flatten();
    left.extend(records.map(|entry| entry.path().display().to_string()));
    left
}

/// What goes on after a restart takes a moment.
async fn nothing_left() -> Outcome {
    for _ in 0..200 {
        if left().is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(left().join("\n"))
}

/// Whether the kernel can do what limits need.
fn can_limit() -> bool {
    let made = Command::new("ip").args(["link", "add", "ringifb", "type", "ifb"]).status();
    let shaped = Command::new("tc")
        .args([
            "qdisc", "add", "dev", "ringifb", "root", "tbf", "rate", "1mbit", "burst", "10kb", "latency",
            "50ms",
        ])
        .status();
    let _ = Command::new("ip").args(["link", "del", "ringifb"]).status();
    let able = [made, shaped].into_iter().all(|status| status.is_ok_and(|status| status.success()));
    if !able {
        println!("SKIPPED: bandwidth limits of CNI need the kernel modules ifb and sch_tbf");
    }
    able
}

pub async fn cni_plugins_connect_pods_and_leave_nothing(ring: &mut Ring) -> Outcome {
    places()?;
    let limited = can_limit();
    switch(ring, PodNetworkKind::Cni).await?;
    let message = network_ready(ring).await?.err().unwrap_or_default();
    check(message.contains("no network configuration") && message.contains("/etc/cni/net.d"), message)?;
    fs::write(CONFLIST, conflist("ring", BY_RANGE, "")).map_err(text)?;
    let message = network_ready(ring).await?.err().unwrap_or_default();
    check(message.contains("ipRanges"), message)?;
    ranges(ring, "10.98.7.0/24").await?;
    network_ready(ring).await?.map_err(|message| format!("not ready: {message}"))?;

    let first = ring.sandbox_of(pod("cni-first", limited)).await?;
    let (ip, cni) = inspect(ring, &first.0).await?;
    check(ip.to_string().starts_with("10.98.7."), format!("{ip}"))?;
    check(cni["check"] == "ok" && cni["cniVersion"] == "1.1.0", cni.to_string())?;
    answers(&first.0, (ip, 8080).into()).await?;
    answers(&first.0, "127.0.0.1:18080".parse().map_err(text)?).await?;
    let limits = output("tc", &["qdisc"]).matches("qdisc tbf").count();
    check(limits == if limited { 2 } else { 0 }, format!("{limits} limits"))?;
    let id = ring.run(&first, "main", &["cat", "/proc/sys/net/core/somaxconn"]).await?;
    ring.exited(&id).await?;
    let log = fs::read_to_string("/var/log/pods/cni-first/main.log").map_err(text)?;
    check(log.contains("F 567"), log)?;
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: first.0.clone() };
    let stats = ring.client.pod_sandbox_stats(request).await.map_err(text)?.into_inner().stats;
    let network = stats.and_then(|stats| stats.linux?.network?.default_interface).unwrap_or_default();
    let counted = |value: &Option<cri::UInt64Value>| value.as_ref().is_some_and(|value| value.value > 0);
    check(counted(&network.rx_bytes) && counted(&network.tx_bytes), format!("{network:?}"))?;

    // The next pod's network is another, without anybody having been told.
    fs::write(CONFLIST, conflist("other", BY_FILE, "")).map_err(text)?;
    let mut config = pod("cni-second", false);
    config.port_mappings.clear();
    let second = ring.sandbox_of(config).await?;
    let (other, cni) = inspect(ring, &second.0).await?;
    check(other.to_string().starts_with("10.97.0.") && cni["network"] == "other", format!("{other} {cni}"))?;

    // Neither a broken configuration nor a death of the runtime matters to pods that are there.
    fs::write(CONFLIST, "{").map_err(text)?;
    ring.kill_runtime().await?;
    let message = network_ready(ring).await?.err().unwrap_or_default();
    check(message.contains("10-ring.conflist") && message.contains("not valid JSON"), message)?;
    answers(&first.0, "127.0.0.1:18080".parse().map_err(text)?).await?;
    check(inspect(ring, &first.0).await?.1["check"] == "ok", "CHECK after a kill")?;
    fs::remove_file(CONFLIST).map_err(text)?;
    check(!left().is_empty(), "the stories see nothing of what plugins make")?;
    ring.remove(&first.0).await?;
    ring.remove(&second.0).await?;
    nothing_left().await?;
    switch(ring, PodNetworkKind::Builtin).await
}

pub async fn a_kill_during_add_leaves_nothing(ring: &mut Ring) -> Outcome {
    places()?;
    fs::write(CONFLIST, conflist("killed", BY_FILE, r#", {"type": "slow"}"#)).map_err(text)?;
    switch(ring, PodNetworkKind::Cni).await?;
    let mut client = ring.client.clone();
    let request =
        cri::RunPodSandboxRequest { config: Some(pod("cni-killed", false)), runtime_handler: String::new() };
    let adding = tokio::task::spawn_local(async move { client.run_pod_sandbox(request).await.is_ok() });
    for _ in 0..400 {
        if Path::new("/run/slow-begun").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    check(
        Path::new("/run/slow-begun").exists() && !left().is_empty(),
        "ADD has not come to the last plugin",
    )?;
    ring.stop_runtime().await?;
    check(!adding.await.map_err(text)?, "the sandbox was made")?;
    fs::remove_file(CONFLIST).map_err(text)?;
    ring.start_runtime().await?;
    nothing_left().await?;
    for _ in 0..200 {
        let request = cri::ListPodSandboxRequest { filter: None };
        if ring.client.list_pod_sandbox(request).await.map_err(text)?.into_inner().items.is_empty() {
            return switch(ring, PodNetworkKind::Builtin).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("half a sandbox is listed for ever".into())
}

pub async fn a_pod_of_one_kind_of_network_is_taken_down_under_the_other(ring: &mut Ring) -> Outcome {
    places()?;
    fs::write(CONFLIST, conflist("switched", BY_FILE, "")).map_err(text)?;
    switch(ring, PodNetworkKind::Cni).await?;
    let by_plugins = ring.sandbox_of(pod("cni-switched", false)).await?;
    switch(ring, PodNetworkKind::Builtin).await?;
    ranges(ring, "10.96.7.0/24").await?;
    let builtin = ring.sandbox_on("builtin-switched", NamespaceMode::Container, NamespaceMode::Pod).await?;
    ring.remove(&by_plugins.0).await?;
    nothing_left().await?;
    switch(ring, PodNetworkKind::Cni).await?;
    let links = output("ip", &["-o", "link"]);
    check(links.contains("pods0"), links)?;
    ring.remove(&builtin.0).await?;
    let links = output("ip", &["-o", "link"]);
    check(!links.contains("master pods0"), links)?;
    fs::write(paths::ACTIVE_CONFIG, config_with(None)?).map_err(text)?;
    ring.kill_runtime().await
}
