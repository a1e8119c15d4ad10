use std::net::IpAddr;

use super::{Cluster, Machine};
use crate::paths::JOIN_PORT;

/// Splits `host`, `host:port`, `[v6]:port` or a bare IPv6 address; `None` when it is none of them.
#[must_use]
pub fn host_and_port(text: &str, default: u16) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, default),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let good = bare.parse::<IpAddr>().is_ok() || super::names::is_dns_name(&bare.to_lowercase());
    (good && port > 0).then(|| (bare.to_owned(), port))
}

impl Cluster {
    /// The host of the control-plane endpoint, without brackets.
    #[must_use]
    pub fn endpoint_host(&self) -> Option<String> {
        let rest = self.control_plane_endpoint.strip_prefix("https://")?;
        host_and_port(rest.strip_suffix('/').unwrap_or(rest), 443).map(|(host, _)| host)
    }
}

impl Machine {
    /// Hosts and ports where a worker has its serving certificate signed.
    #[must_use]
    pub fn join_targets(&self, cluster: Option<&Cluster>) -> Vec<(String, u16)> {
        if self.join_endpoints.is_empty() {
            return cluster
                .and_then(Cluster::endpoint_host)
                .map(|host| (host, JOIN_PORT))
                .into_iter()
                .collect();
        }
        self.join_endpoints.iter().filter_map(|endpoint| host_and_port(endpoint, JOIN_PORT)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_hosts_with_an_optional_port() {
        for (text, host, port) in [
            ("10.5.0.10", "10.5.0.10", 7),
            ("cp1.example:50001", "cp1.example", 50001),
            ("[fd00::1]:50001", "fd00::1", 50001),
            ("fd00::1", "fd00::1", 7),
        ] {
            assert_eq!(host_and_port(text, 7), Some((host.to_owned(), port)));
        }
        for bad in ["", ":1", "a:b", "a/b", "a b", "a:0", "*.example"] {
            assert_eq!(host_and_port(bad, 7), None, "{bad}");
        }
    }

    #[test]
    fn a_worker_asks_where_the_control_plane_is_unless_it_is_told() {
        let cluster =
            Cluster { control_plane_endpoint: "https://[fd00::10]:6443".into(), ..Cluster::default() };
        let mut machine = Machine::default();
        assert_eq!(machine.join_targets(None), []);
        assert_eq!(machine.join_targets(Some(&cluster)), [("fd00::10".to_owned(), JOIN_PORT)]);
        machine.join_endpoints = vec!["cp1".into(), "cp2:1".into()];
        assert_eq!(
            machine.join_targets(Some(&cluster)),
            [("cp1".to_owned(), JOIN_PORT), ("cp2".to_owned(), 1)]
        );
    }
}
