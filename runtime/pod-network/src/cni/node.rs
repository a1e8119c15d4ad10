//! What CNI plugins expect of a node, as the documentation of container runtimes has it, and no plugin sets itself.
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use super::Error;

/// Bridged packets of pods pass the packet filter, where Services' addresses are translated; the built-in network needs the opposite.
const SETTINGS: [(&str, &str); 4] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("bridge/bridge-nf-call-iptables", "1"),
    ("bridge/bridge-nf-call-ip6tables", "1"),
];

/// Has the node forward packets, and bridges filtered.
///
/// # Errors
/// When the kernel refuses IPv4 forwarding.
pub async fn prepare() -> Result<(), Error> {
    load_bridge_filter().await;
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(name);
        match std::fs::write(&path, value) {
            // A kernel without IPv6 or without bridge netfilter.
            Err(error) if !name.starts_with("ipv4") && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::Io(format!("write {value} to {}", path.display()), error)),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Nothing asks the kernel for this module, so PID 1's program, which loads modules, is told to. Elsewhere than on Pintle it is the host's affair.
async fn load_bridge_filter() {
    let program = Path::new(machine::paths::BIN).join("pintle-init");
    if !program.exists() {
        return;
    }
    let run = tokio::process::Command::new(program)
        .args(["-q", "--", "br_netfilter"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status();
    match tokio::time::timeout(Duration::from_secs(30), run).await {
        Ok(Ok(status)) if status.success() => {}
        other => tracing::warn!(
            ?other,
            "load the kernel module br_netfilter; Services may not be reached from pods of one bridge"
        ),
    }
}
