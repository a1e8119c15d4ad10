//! Hosts and ports as probes and hooks name them. Pure.
use std::net::SocketAddr;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `host:port`, with brackets for IPv6.
pub(super) fn join(host: &str, port: u16) -> String {
    host.parse().map_or_else(|_| format!("{host}:{port}"), |ip| SocketAddr::new(ip, port).to_string())
}

/// A port by number or by the name of one of the container's ports.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named =
                ports.filter(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            let named = named.into_iter().next();
            Some(named.or_else(|| name.parse().ok()).ok_or_else(|| format!("couldn't find port: {name:?}"))?)
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    number.ok_or_else(|| format!("invalid port number: {port:?}"))
}
