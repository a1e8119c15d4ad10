//! Which certificates a control-plane node has, in kubeadm's places, and which of them are due.
use std::net::IpAddr;
use std::time::SystemTime;

use machine::config::CertificateAuthority;
use machine::pki::{self, Issued, Leaf, PkiError, Usage};

use crate::input::{Input, endpoint_host_port};

/// Which CA signs a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    Cluster,
    Etcd,
    FrontProxy,
}

/// A leaf certificate with the base name of its files, such as `etcd/server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub name: &'static str,
    pub signer: Signer,
    pub leaf: Leaf,
}

/// The group whose members may do everything, even before RBAC is there.
pub const MASTERS: &str = "system:masters";

/// The certificates that lie as pairs of `.crt` and `.key`.
#[must_use]
pub fn wanted(input: &Input) -> Vec<Wanted> {
    let client = |name, signer, common_name: &str, organization: Option<&str>| Wanted {
        name,
        signer,
        leaf: Leaf {
            common_name: common_name.into(),
            organization: organization.map(Into::into),
            usage: Usage::Client,
            ..Leaf::default()
        },
    };
    let member = |name| Wanted { name, signer: Signer::Etcd, leaf: etcd_member(input) };
    vec![
        Wanted { name: "apiserver", signer: Signer::Cluster, leaf: api_server(input) },
        client("apiserver-kubelet-client", Signer::Cluster, KUBELET_CLIENT, None),
        client("front-proxy-client", Signer::FrontProxy, "front-proxy-client", None),
        member("etcd/server"),
        member("etcd/peer"),
        client("etcd/healthcheck-client", Signer::Etcd, "kube-etcd-healthcheck-client", None),
        client("apiserver-etcd-client", Signer::Etcd, "kube-apiserver-etcd-client", None),
    ]
}

/// The user that the API server is to kubelets; the add-ons give it the role it needs.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// The certificates that lie in kubeconfigs, by the kubeconfig's name.
#[must_use]
pub fn wanted_kubeconfigs() -> Vec<Wanted> {
    let client = |name, common_name: &str, organization: Option<&str>| Wanted {
        name,
        signer: Signer::Cluster,
        leaf: Leaf {
            common_name: common_name.into(),
            organization: organization.map(Into::into),
            usage: Usage::Client,
            ..Leaf::default()
        },
    };
    vec![
        client("admin", "kubernetes-admin", Some(MASTERS)),
        client("controller-manager", "system:kube-controller-manager", None),
        client("scheduler", "system:kube-scheduler", None),
    ]
}

/// The CA that signs a leaf.
#[must_use]
pub const fn authority(input: &Input, signer: Signer) -> &CertificateAuthority {
    match signer {
        Signer::Cluster => &input.cluster.ca,
        Signer::Etcd => &input.secrets.etcd_ca,
        Signer::FrontProxy => &input.secrets.front_proxy_ca,
    }
}

/// Whether an existing certificate may stay: it says what is wanted, is signed by the CA and not due.
#[must_use]
pub fn may_stay(certificate: &str, wanted: &Leaf, ca: &CertificateAuthority, now: SystemTime) -> bool {
    let facts = pki::facts(certificate);
    facts.is_ok_and(|facts| facts.leaf == *wanted && !facts.due(now))
        && pki::signed_by(certificate, &ca.certificate).unwrap_or(false)
}

/// Issues a wanted certificate.
///
/// # Errors
/// When the CA has no key or a name cannot stand in a certificate.
pub fn issue(input: &Input, wanted: &Wanted, now: SystemTime) -> Result<Issued, PkiError> {
    pki::issue(authority(input, wanted.signer), &wanted.leaf, now)
}

fn api_server(input: &Input) -> Leaf {
    let domain = &input.cluster.dns_domain;
    let mut leaf = Leaf { common_name: "kube-apiserver".into(), usage: Usage::Server, ..Leaf::default() };
    let mut names = Names(&mut leaf);
    for name in [&*input.node_name, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    {
        names.add(name);
    }
    names.add(&format!("kubernetes.default.svc.{domain}"));
    for address in input.api_service_address().into_iter().chain([input.address, input.loopback()]) {
        names.add(&address.to_string());
    }
    if let Some((host, _)) = endpoint_host_port(&input.cluster.control_plane_endpoint) {
        names.add(host);
    }
    for name in &input.cluster.api_server_cert_sans {
        names.add(name);
    }
    leaf
}

fn etcd_member(input: &Input) -> Leaf {
    let mut leaf =
        Leaf { common_name: input.node_name.clone(), usage: Usage::ServerAndClient, ..Leaf::default() };
    let mut names = Names(&mut leaf);
    names.add(&input.node_name);
    names.add("localhost");
    for address in [input.address, input.loopback()] {
        names.add(&address.to_string());
    }
    leaf
}

/// Adds names once each, addresses as addresses.
struct Names<'a>(&'a mut Leaf);

impl Names<'_> {
    fn add(&mut self, name: &str) {
        match name.parse::<IpAddr>() {
            Ok(address) if !self.0.addresses.contains(&address) => self.0.addresses.push(address),
            Err(_) if !self.0.dns_names.iter().any(|known| known == name) => {
                self.0.dns_names.push(name.into())
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::input;

    #[test]
    fn the_api_server_answers_to_every_name_it_is_called_by() {
        let input = input();
        let leaf = &wanted(&input)[0].leaf;
        for name in ["cp1", "kubernetes.default.svc.cluster.local", "localhost", "k8s.example"] {
            assert!(leaf.dns_names.iter().any(|n| n == name), "{name}");
        }
        for address in ["10.96.0.1", "10.5.0.10", "127.0.0.1", "192.0.2.1"] {
            assert!(leaf.addresses.contains(&address.parse().unwrap()), "{address}");
        }
        assert_eq!(leaf.addresses.len(), 4, "the endpoint is the node: named once");
    }

    #[test]
    fn a_certificate_stays_until_names_ca_or_age_say_otherwise() {
        let (input, now) = (input(), SystemTime::now());
        let first = &wanted(&input)[0];
        let issued = issue(&input, first, now).unwrap();
        let ca = &input.cluster.ca;
        assert!(may_stay(&issued.certificate, &first.leaf, ca, now));
        assert!(!may_stay(&issued.certificate, &first.leaf, ca, now + Duration::from_secs(336 * 86_400)));
        assert!(!may_stay(&issued.certificate, &first.leaf, &input.secrets.etcd_ca, now));
        let mut other = first.leaf.clone();
        other.dns_names.push("new.example".into());
        assert!(!may_stay(&issued.certificate, &other, ca, now));
        assert!(!may_stay("", &first.leaf, ca, now));
    }

    #[test]
    fn every_wanted_certificate_can_be_issued() {
        let (input, now) = (input(), SystemTime::now());
        for wanted in wanted(&input).iter().chain(&wanted_kubeconfigs()) {
            let issued = issue(&input, wanted, now).unwrap();
            assert!(may_stay(&issued.certificate, &wanted.leaf, authority(&input, wanted.signer), now));
        }
    }
}
