//! The hosts file that containers see (pkg/kubelet/kubelet_pods.go).
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::HostAlias;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The whole file. `node_hosts` is the node's own file for host-network pods and `None` for the others.
#[must_use]
pub fn hosts_file(
    node_hosts: Option<&str>,
    pod_ips: &[String],
    hostname: &str,
    domain: &str,
    aliases: &[HostAlias],
) -> String {
    let mut file = match node_hosts {
        Some(node) => format!("{HEADER_HOST_NETWORK}{node}"),
        None => format!("{HEADER}{LOCAL}"),
    };
    // Writing to a String cannot fail.
    if node_hosts.is_none() {
        for ip in pod_ips {
            let _ = if domain.is_empty() {
                writeln!(file, "{ip}\t{hostname}")
            } else {
                writeln!(file, "{ip}\t{hostname}.{domain}\t{hostname}")
            };
        }
    }
    if !aliases.is_empty() {
        file.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            let _ = writeln!(file, "{}\t{names}", alias.ip);
        }
    }
    file
}
