//! Serving certificates of the machine API for other machines: what fits is signed, what is the control plane's own is left out.
use std::net::IpAddr;
use std::time::SystemTime;

use machine::config::{MachineConfig, Role};
use machine::pki::{self, Leaf, Usage};
use machine::socket::{NetworkStatus, SignServing, Signed, error::Code, reply};

use super::{Outcome, error};
use crate::node::Machine;

/// The most names and addresses of one machine.
const NAMES: usize = 64;

/// Signs, on control-plane machines.
pub fn answer(machine: &Machine, actor: &str, request: &SignServing) -> Outcome {
    let active = machine.active_config();
    let config = active.as_ref().map(|active| &active.config);
    let Some((config, ca)) = config.and_then(|config| Some((config, signer(config)?))) else {
        return Err(error(Code::Denied, "this machine signs for nobody; ask a control-plane machine"));
    };
    let reserved = Reserved::of(config, &machine.network.borrow());
    let (leaf, left_out) = fit(request, &reserved).map_err(|why| error(Code::Invalid, &why))?;
    let certificate = pki::sign_serving(ca, &leaf, &request.public_key, SystemTime::now())
        .map_err(|why| error(Code::Invalid, &why.to_string()))?;
    let said = format!("serving certificate for {} signed, asked by {actor}", leaf.common_name);
    machine.events.note("init", "Audit", &said);
    Ok((reply::Result::Signed(Signed { certificate, left_out }), Vec::new()))
}

/// The CA with its key, where others may have certificates signed.
fn signer(config: &MachineConfig) -> Option<&machine::config::CertificateAuthority> {
    let own = &config.machine;
    own.ca
        .as_ref()
        .filter(|ca| own.role == Role::ControlPlane && own.join_token.is_some() && ca.key.is_some())
}

/// Names and addresses that are the control plane's: no other machine may answer for them.
#[derive(Debug, Default)]
struct Reserved {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Reserved {
    fn of(config: &MachineConfig, network: &NetworkStatus) -> Self {
        let endpoint = config.cluster.as_ref().and_then(machine::config::Cluster::endpoint_host);
        let named =
            config.machine.api_cert_sans.iter().cloned().chain(endpoint).chain([network.hostname.clone()]);
        let mut reserved = Self::default();
        for name in named.filter(|name| !name.is_empty() && name != "localhost") {
            match name.parse() {
                Ok(address) => reserved.addresses.push(address),
                Err(_) => reserved.names.push(name.to_lowercase()),
            }
        }
        let own = network.links.iter().flat_map(|link| &link.addresses);
        let own = own.filter_map(|address| address.split('/').next()?.parse::<IpAddr>().ok());
        reserved.addresses.extend(own);
        reserved.addresses.retain(|address: &IpAddr| !address.is_loopback());
        reserved
    }
}

/// What the certificate may say of what was asked for, and what is left out of it.
fn fit(request: &SignServing, reserved: &Reserved) -> Result<(Leaf, Vec<String>), String> {
    if request.dns_names.len() + request.addresses.len() > NAMES {
        return Err(format!("more than {NAMES} names and addresses"));
    }
    let mut leaf = Leaf { common_name: name(&request.common_name)?, usage: Usage::Server, ..Leaf::default() };
    if leaf.common_name.len() > 64 || reserved.names.contains(&leaf.common_name) {
        return Err(format!("{} is too long for a host name, or the control plane's", leaf.common_name));
    }
    let mut left_out = Vec::new();
    for text in &request.dns_names {
        let name = name(text)?;
        if reserved.names.contains(&name) { left_out.push(name) } else { leaf.dns_names.push(name) }
    }
    for text in &request.addresses {
        let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is no address"))?;
        if !usable(address) {
            return Err(format!("{address} is no machine's address"));
        }
        if reserved.addresses.contains(&address) {
            left_out.push(address.to_string());
        } else {
            leaf.addresses.push(address);
        }
    }
    let outside = leaf.dns_names.iter().any(|name| name != "localhost")
        || leaf.addresses.iter().any(|address| !address.is_loopback());
    if outside {
        Ok((leaf, left_out))
    } else {
        Err("nothing is left that the certificate could speak for".into())
    }
}

fn name(text: &str) -> Result<String, String> {
    let name = text.to_lowercase();
    let good = machine::net::is_dns_name(&name) && name.parse::<IpAddr>().is_err();
    good.then_some(name)
        .ok_or_else(|| format!("{:?} is no host name", text.chars().take(80).collect::<String>()))
}

fn usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast())
                && (!v4.is_loopback() || v4 == std::net::Ipv4Addr::LOCALHOST)
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use machine::config::{CertificateAuthority, Cluster};
    use machine::socket::Link;

    use super::*;

    fn asked(names: &[&str], addresses: &[&str]) -> SignServing {
        let own = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        SignServing {
            common_name: "w1".into(),
            dns_names: own(names),
            addresses: own(addresses),
            public_key: vec![4; 65],
        }
    }

    fn reserved() -> Reserved {
        let cluster =
            Cluster { control_plane_endpoint: "https://10.5.0.10:6443".into(), ..Cluster::default() };
        let mut config = MachineConfig { cluster: Some(cluster), ..MachineConfig::default() };
        config.machine.api_cert_sans = vec!["API.example".into(), "127.0.0.1".into()];
        let link = Link { addresses: vec!["10.0.2.15/24".into(), "127.0.0.1/8".into()], ..Link::default() };
        let network = NetworkStatus { hostname: "cp1".into(), links: vec![link], ..NetworkStatus::default() };
        Reserved::of(&config, &network)
    }

    #[test]
    fn a_machine_gets_its_own_names_and_not_the_control_planes() {
        let names = ["w1", "localhost", "api.example", "CP1"];
        let addresses = ["10.0.2.15", "10.5.0.11", "10.5.0.10", "127.0.0.1", "::1"];
        let (leaf, left_out) = fit(&asked(&names, &addresses), &reserved()).unwrap();
        assert_eq!(leaf.dns_names, ["w1", "localhost"]);
        let kept: Vec<_> = leaf.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(kept, ["10.5.0.11", "127.0.0.1", "::1"]);
        assert_eq!(left_out, ["api.example", "cp1", "10.0.2.15", "10.5.0.10"]);
        assert_eq!((leaf.organization, leaf.usage), (None, Usage::Server));
    }

    #[test]
    fn what_no_machine_is_called_is_refused() {
        let bad: [(&[&str], &[&str]); 10] = [
            (&["*.example"], &[]),
            (&["a b"], &[]),
            (&["w1\n"], &[]),
            (&["10.5.0.12"], &[]),
            (&["w1"], &["0.0.0.0"]),
            (&["w1"], &["224.0.0.1"]),
            (&["w1"], &["127.0.0.53"]),
            (&["w1"], &["x"]),
            (&["localhost"], &["10.5.0.10", "127.0.0.1"]),
            (&["w1"; 65], &[]),
        ];
        for (names, addresses) in bad {
            assert!(fit(&asked(names, addresses), &reserved()).is_err(), "{names:?} {addresses:?}");
        }
        let own = SignServing { common_name: "cp1".into(), ..asked(&["w1"], &[]) };
        assert!(fit(&own, &reserved()).is_err());
    }

    #[test]
    fn only_a_control_plane_machine_with_key_and_token_signs() {
        let mut config = MachineConfig::default();
        config.machine.ca = Some(CertificateAuthority { certificate: "C".into(), key: Some("K".into()) });
        config.machine.join_token = Some("T".into());
        assert!(signer(&config).is_none());
        config.machine.role = Role::ControlPlane;
        assert!(signer(&config).is_some());
        config.machine.join_token = None;
        assert!(signer(&config).is_none());
    }
}
