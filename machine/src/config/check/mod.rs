//! What fields mean: small pure checks of one document each ([`document`]), then of all together ([`across`]).
use super::names::{is_dns_name, is_label};
use super::{Document, LinkMatch};
use crate::pki;
pub use node::EVICTION_SIGNALS;

mod across;
mod cluster;
mod network;
mod node;

pub use across::across;

/// Something wrong with a field of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Path inside the document, such as `podCIDRs[0]`.
    pub field: String,
    pub message: String,
    pub remedy: String,
}

pub fn issue(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Issue {
    Issue { field: field.into(), message: message.into(), remedy: remedy.into() }
}

/// Checks one document by itself.
pub fn document(document: &Document) -> Vec<Issue> {
    let mut issues = Vec::new();
    match document {
        Document::Machine(d) => node::machine(d, &mut issues),
        Document::Cluster(d) => cluster::cluster(d, &mut issues),
        Document::Link(d) => network::link(d, &mut issues),
        Document::Dhcp(d) => link_match(&d.link, &mut issues),
        Document::Address(d) => network::address(d, &mut issues),
        Document::Route(d) => network::route(d, &mut issues),
        Document::Resolver(_) | Document::TimeSync(_) => {}
        Document::Install(d) => node::disk(&d.disk, false, &mut issues),
        Document::Volume(d) => node::volume(d, &mut issues),
        Document::Registry(d) => node::registry(d, &mut issues),
        Document::Runtime(d) => node::runtime(d, &mut issues),
        Document::NodeAgent(d) => node::node_agent(d, &mut issues),
        Document::StaticPod(d) => node::static_pod(d, &mut issues),
        Document::Manifest(d) => node::manifest(d, &mut issues),
        Document::Sysctl(d) => node::sysctl(d, &mut issues),
        Document::Watchdog(d) => node::watchdog(d, &mut issues),
    }
    issues
}

fn link_match(link: &LinkMatch, issues: &mut Vec<Issue>) {
    match (&link.name, &link.mac) {
        (Some(name), None) => {
            if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) || name == "." || name == ".."
            {
                issues.push(issue(
                    "link.name",
                    format!("{name:?} is no name of a link"),
                    "use 1 to 15 characters without `/` and spaces, such as eth0",
                ));
            }
        }
        (None, Some(mac)) => {
            let octets: Vec<_> = mac.split(':').collect();
            let octet = |o: &&str| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit());
            if octets.len() != 6 || !octets.iter().all(octet) {
                issues.push(issue(
                    "link.mac",
                    format!("{mac:?} is no hardware address"),
                    "write six octets, such as 52:54:00:12:34:56",
                ));
            }
        }
        _ => issues.push(issue(
            "link",
            "it must say exactly one of name and mac",
            "set `name: eth0`, or `mac: …`",
        )),
    }
}

fn label(field: &str, text: &str, issues: &mut Vec<Issue>) {
    if !is_label(text) {
        issues.push(issue(
            field,
            format!("{text:?} is no DNS label"),
            "use at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends",
        ));
    }
}

/// A CA of ours: certificate and, where given, key, in PEM and fitting.
fn authority(field: &str, ca: &super::CertificateAuthority, key_needed: bool, issues: &mut Vec<Issue>) {
    let source = "take it from the file of `pintle gen config`";
    match pki::facts(&ca.certificate) {
        Err(_) => issues.push(issue(format!("{field}.certificate"), "no PEM certificate", source)),
        Ok(facts) if !facts.is_ca => {
            issues.push(issue(format!("{field}.certificate"), "the certificate is no CA's", source));
        }
        Ok(_) => {}
    }
    match &ca.key {
        Some(key) if !pki::is_key_of(key, &ca.certificate) => {
            issues.push(issue(format!("{field}.key"), "the key is not the certificate's", source));
        }
        None if key_needed => issues.push(issue(format!("{field}.key"), "the key is missing", source)),
        _ => {}
    }
}
