use super::cluster::overlap;
use super::{Issue, authority, issue};
use crate::config::{Document, LinkMatch, Role};

/// Checks documents against each other; each issue with the index of the document that it stands in. `complete`: every document of the
/// text could be read, so that one that is not here is missing.
pub fn across(documents: &[&Document], complete: bool) -> Vec<(usize, Issue)> {
    let mut issues = duplicates(documents);
    issues.extend(overlaps(documents));
    issues.extend(secrets(documents, complete));
    issues.extend(machine_ca(documents, complete));
    issues
}

/// What may stand once: by kind, or by kind and the thing it speaks of.
fn duplicates(documents: &[&Document]) -> Vec<(usize, Issue)> {
    let mut issues = Vec::new();
    let keys: Vec<_> = documents.iter().map(|document| key(document)).collect();
    for (i, (kind, field, name)) in keys.iter().enumerate() {
        if *field != "*" && keys[..i].contains(&keys[i]) {
            let message = if field.is_empty() {
                format!("a second {kind} document")
            } else {
                format!("a second {kind} document for {name}")
            };
            issues.push((i, issue(*field, message, "merge the two into one document")));
        }
    }
    issues
}

fn key(document: &Document) -> (&'static str, &'static str, String) {
    match document {
        Document::Machine(_) => ("Machine", "", String::new()),
        Document::Cluster(_) => ("Cluster", "", String::new()),
        Document::Resolver(_) => ("Resolver", "", String::new()),
        Document::TimeSync(_) => ("TimeSync", "", String::new()),
        Document::Install(_) => ("Install", "", String::new()),
        Document::Runtime(_) => ("Runtime", "", String::new()),
        Document::NodeAgent(_) => ("NodeAgent", "", String::new()),
        Document::Watchdog(_) => ("Watchdog", "", String::new()),
        Document::Sysctl(_) => ("Sysctl", "*", String::new()),
        Document::Link(d) => ("Link", "link", link(&d.link)),
        Document::Dhcp(d) => ("Dhcp", "link", link(&d.link)),
        Document::Address(d) => ("Address", "address", d.address.addr().to_string()),
        Document::Route(d) => {
            ("Route", "destination", format!("{} on {} metric {}", d.destination, link(&d.link), d.metric))
        }
        Document::Volume(d) => ("Volume", "name", d.name.clone()),
        Document::Registry(d) => ("Registry", "host", d.host.clone()),
        Document::StaticPod(d) => ("StaticPod", "name", d.name.clone()),
        Document::Manifest(d) => ("Manifest", "name", d.name.clone()),
    }
}

fn link(link: &LinkMatch) -> String {
    let mac = link.mac.as_ref().map(|mac| mac.to_lowercase());
    link.name.clone().or(mac).unwrap_or_default()
}

/// Pods' and Services' ranges must not hold the machine's own networks.
fn overlaps(documents: &[&Document]) -> Vec<(usize, Issue)> {
    let mut issues = Vec::new();
    let cluster = documents.iter().find_map(|d| if let Document::Cluster(c) = d { Some(c) } else { None });
    let Some(cluster) = cluster else { return issues };
    for (i, document) in documents.iter().enumerate() {
        let Document::Address(address) = document else { continue };
        let mut ranges = cluster
            .pod_cidrs
            .iter()
            .map(|r| ("pods'", r))
            .chain(cluster.service_cidrs.iter().map(|r| ("Services'", r)));
        if let Some((whose, range)) = ranges.find(|(_, range)| overlap(range, &address.address)) {
            issues.push((
                i,
                issue(
                    "address",
                    format!("the node's network {} overlaps the {whose} {range}", address.address.trunc()),
                    "give Cluster.podCIDRs and serviceCIDRs ranges that no machine lies in",
                ),
            ));
        }
    }
    issues
}

/// A control-plane machine carries every key.
fn secrets(documents: &[&Document], complete: bool) -> Vec<(usize, Issue)> {
    let mut issues = Vec::new();
    let source = "take it from the control-plane.yaml of `pintle gen config`";
    let machine = documents
        .iter()
        .enumerate()
        .find_map(|(i, d)| if let Document::Machine(m) = d { Some((i, m)) } else { None });
    let Some((at, _)) = machine.filter(|(_, machine)| machine.role == Role::ControlPlane) else {
        return issues;
    };
    let cluster = documents
        .iter()
        .enumerate()
        .find_map(|(i, d)| if let Document::Cluster(c) = d { Some((i, c)) } else { None });
    let Some((at, cluster)) = cluster else {
        let missing = issue("role", "role ControlPlane without a Cluster document", source);
        return if complete { vec![(at, missing)] } else { Vec::new() };
    };
    if cluster.ca.key.is_none() {
        let mut found = Vec::new();
        authority("ca", &cluster.ca, true, &mut found);
        issues.extend(found.into_iter().filter(|issue| issue.field == "ca.key").map(|issue| (at, issue)));
    }
    let missing = [
        ("etcdCA", cluster.etcd_ca.is_none()),
        ("frontProxyCA", cluster.front_proxy_ca.is_none()),
        ("serviceAccount", cluster.service_account.is_none()),
    ];
    for (field, _) in missing.into_iter().filter(|(_, missing)| *missing) {
        issues.push((at, issue(field, "a control-plane machine needs it", source)));
    }
    issues
}

/// Who may hold the machine CA's key: it makes administrators, so no worker of a cluster has it.
fn machine_ca(documents: &[&Document], complete: bool) -> Vec<(usize, Issue)> {
    let source = |file| format!("take it from the {file} of `pintle gen config`");
    let machine = documents
        .iter()
        .enumerate()
        .find_map(|(i, d)| if let Document::Machine(m) = d { Some((i, m)) } else { None });
    let Some((at, machine)) = machine else { return Vec::new() };
    let Some(ca) = &machine.ca else { return Vec::new() };
    let in_cluster = documents.iter().any(|document| matches!(document, Document::Cluster(_)));
    let missing = match (machine.role, ca.key.is_some()) {
        (Role::ControlPlane, false) => issue("ca.key", "the key is missing", source("control-plane.yaml")),
        (Role::Worker, true) if in_cluster => issue(
            "ca.key",
            "a worker must not have the machine CA's key, with which one can make administrators",
            "remove it and set joinToken, as the worker.yaml of `pintle gen config` does",
        ),
        (Role::Worker, false) if machine.join_token.is_none() => issue(
            "joinToken",
            "neither a join token nor the CA's key: nobody signs the machine API's certificate",
            source("worker.yaml"),
        ),
        (Role::Worker, false) if machine.join_endpoints.is_empty() && !in_cluster && complete => issue(
            "joinEndpoints",
            "no control-plane machine is named, neither here nor in a Cluster document",
            "name one, such as 10.5.0.10",
        ),
        _ => return Vec::new(),
    };
    vec![(at, missing)]
}
