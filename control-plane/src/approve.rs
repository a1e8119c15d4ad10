//! Approval of kubelets' serving certificates (signer `kubernetes.io/kubelet-serving`), which upstream leaves to people. What a node says of itself is not
//! enough: it may name itself and its own addresses, and nothing that somebody else is called by.
mod reserved;

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

pub use reserved::Reserved;

/// Kubernetes' name of the signer.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";
/// The largest request that is looked at, in bytes.
const MAX_REQUEST: usize = 64 << 10;

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Approve,
    /// Not ours, decided already, or the Node is not there yet.
    Leave,
    /// Why it is not approved; it stays pending, so that a person may.
    Refuse(String),
}

/// What a request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked {
    common_name: String,
    organizations: Vec<String>,
    dns_names: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Kinds of names that a kubelet has no use for.
    other_names: bool,
}

/// Looks at every pending request once and approves those that may be.
///
/// # Errors
/// When the API server does not answer.
pub async fn approve_pending(client: &Client, reserved: &Reserved) -> Result<()> {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("spec.signerName={SIGNER}")).limit(500);
    let list = requests.list(&params).await.context("list certificate signing requests")?;
    let pending: Vec<_> = list.into_iter().filter(|request| !decided(request)).collect();
    if pending.is_empty() {
        return Ok(());
    }
    // All of them: an address is only a node's own when no other node has it.
    let nodes =
        Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("list Nodes")?.items;
    for request in pending {
        let name = request.name_any();
        let user = request.spec.username.clone().unwrap_or_default();
        match decide(&request, &nodes, reserved) {
            Decision::Approve => {
                approve(&requests, &name).await.with_context(|| format!("approve {name} of {user}"))?;
                tracing::info!(request = name, user, "approved the serving certificate");
            }
            Decision::Leave => {}
            Decision::Refuse(reason) => {
                tracing::warn!(request = name, user, reason, "the serving certificate is not approved");
            }
        }
    }
    Ok(())
}

fn decided(request: &CertificateSigningRequest) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|c| matches!(&*c.type_, "Approved" | "Denied" | "Failed")))
}

async fn approve(requests: &Api<CertificateSigningRequest>, name: &str) -> Result<(), kube::Error> {
    let now = jiff::Timestamp::now().to_string();
    let patch = json!({"status": {"conditions": [{
        "type": "Approved",
        "status": "True",
        "reason": "PintleApproved",
        "message": "names and addresses are the Node's",
        "lastUpdateTime": now,
    }]}});
    requests.patch_approval(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(|_| ())
}

/// Decides on one request, given every Node of the cluster and the names that are nobody's.
#[must_use]
pub fn decide(request: &CertificateSigningRequest, nodes: &[Node], reserved: &Reserved) -> Decision {
    let spec = &request.spec;
    let user = spec.username.as_deref().unwrap_or_default();
    let Some(node_name) = user.strip_prefix("system:node:").filter(|_| spec.signer_name == SIGNER) else {
        return Decision::Leave;
    };
    let Some(node) = nodes.iter().find(|node| node.name_any() == node_name) else { return Decision::Leave };
    if decided(request) {
        return Decision::Leave;
    }
    let asked = match read(&spec.request.0) {
        Ok(asked) => asked,
        Err(reason) => return Decision::Refuse(reason),
    };
    let groups = spec.groups.as_deref().unwrap_or_default();
    let usages = spec.usages.as_deref().unwrap_or_default();
    let fault = subject_fault(user, groups, usages, &asked)
        .or_else(|| name_fault(node_name, &asked, reserved))
        .or_else(|| address_fault(node, nodes, &asked, reserved));
    fault.map_or(Decision::Approve, Decision::Refuse)
}

/// What is wrong with who asks for what kind of certificate.
fn subject_fault(user: &str, groups: &[String], usages: &[String], asked: &Asked) -> Option<String> {
    if !groups.iter().any(|group| group == "system:nodes") {
        return Some("the requester is not in the group system:nodes".into());
    }
    if asked.common_name != user || asked.organizations != ["system:nodes"] {
        return Some(format!("the subject is not CN={user}, O=system:nodes"));
    }
    let known = ["digital signature", "key encipherment", "server auth"];
    if !usages.iter().any(|u| u == "server auth") || usages.iter().any(|u| !known.contains(&&**u)) {
        return Some(format!("the usages {usages:?} are not a server's"));
    }
    if asked.other_names || (asked.dns_names.is_empty() && asked.addresses.is_empty()) {
        return Some("it asks for names that are neither DNS names nor addresses, or for none".into());
    }
    None
}

/// What is wrong with the DNS names: a node has one, its own, which the API server knows without asking the node.
fn name_fault(node_name: &str, asked: &Asked, reserved: &Reserved) -> Option<String> {
    if let Some(name) = asked.dns_names.iter().find(|name| *name != node_name) {
        return Some(format!("the DNS name {name} is not the Node's"));
    }
    if asked.dns_names.is_empty() { None } else { reserved.name(node_name) }
}

/// What is wrong with the addresses: each is in the Node's status, which the node writes itself, so it must also be nobody else's.
fn address_fault(node: &Node, nodes: &[Node], asked: &Asked, reserved: &Reserved) -> Option<String> {
    let own = addresses(node);
    for ip in &asked.addresses {
        if !own.contains(ip) {
            return Some(format!("the address {ip} is not the Node's"));
        }
        if let Some(reason) = reserved.address(*ip, node) {
            return Some(reason);
        }
        let others = nodes.iter().filter(|other| other.metadata.name != node.metadata.name);
        for other in others {
            if addresses(other).contains(ip) {
                return Some(format!("the address {ip} is Node {}'s too", other.name_any()));
            }
        }
    }
    None
}

/// The addresses in a Node's status.
fn addresses(node: &Node) -> Vec<IpAddr> {
    let list = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    list.iter()
        .filter(|address| matches!(&*address.type_, "InternalIP" | "ExternalIP"))
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

fn read(pem: &[u8]) -> Result<Asked, String> {
    if pem.len() > MAX_REQUEST {
        return Err("the request is too large".into());
    }
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem).map_err(|e| format!("the request is no PEM: {e}"))?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|e| format!("the request is no PKCS#10: {e}"))?;
    let info = &request.certification_request_info;
    let text =
        |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_owned();
    let mut asked = Asked {
        common_name: info.subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: info.subject.iter_organization().map(text).collect(),
        ..Asked::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match (name, address(name)) {
                (GeneralName::DNSName(name), _) => asked.dns_names.push((*name).to_owned()),
                (_, Some(address)) => asked.addresses.push(address),
                _ => asked.other_names = true,
            }
        }
    }
    Ok(asked)
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    <[u8; 4]>::try_from(*bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests;
