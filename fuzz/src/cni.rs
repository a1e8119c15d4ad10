//! CNI, seen from both sides of it: what a plugin may print, and what it may be told.
use std::net::IpAddr;

use pod_network::fuzzing::{AddResult, Attachment, NetworkConfig, Phase, attachment_request};
use serde_json::{Map, Value};

/// A pod on a network, as it goes on record.
#[must_use]
pub fn attachment(network: NetworkConfig, result: Option<AddResult>) -> Attachment {
    Attachment {
        phase: Phase::Added,
        container_id: "pod".into(),
        interface: "eth0".into(),
        netns: "/run/netns/pod".into(),
        arguments: String::new(),
        capabilities: Map::new(),
        network,
        result,
    }
}

/// What each plugin of an attachment is told.
///
/// # Panics
/// When that is no JSON.
#[must_use]
pub fn requests(attachment: &Attachment) -> Vec<Value> {
    let Attachment { network, capabilities, result, .. } = attachment;
    let request = |plugin| attachment_request(network, plugin, capabilities, result.as_ref());
    network
        .plugins
        .iter()
        .map(|plugin| serde_json::from_slice(&request(plugin)).expect("a request"))
        .collect()
}

/// Whether a plugin says that it failed (section 5 of the specification, "Error").
#[must_use]
pub fn is_error(printed: &Value) -> bool {
    let said = |field| printed[field].as_str().is_some_and(|text| !text.is_empty());
    printed["code"].as_u64().is_some_and(|code| code > 0) && (said("msg") || said("details"))
}

/// The addresses that stand in a result, whomever they belong to.
#[must_use]
pub fn listed(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let address = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    ips.iter().filter_map(address).collect()
}
