//! The objects that a control-plane node keeps in its cluster: bootstrap access, kube-proxy, CoreDNS and the config's own manifests.
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

mod bootstrap;
mod dns;
mod proxy;

use crate::input::Input;

/// The most objects that the config's Manifest documents may hold together.
const MANIFEST_OBJECTS: usize = 1000;

/// What the cluster is like, as far as the add-ons depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// Two or more nodes.
    pub several_nodes: bool,
}

/// Every object, in the order of application: namespaces and definitions first. `kubelet_ca` is the certificate of the authority that signs the serving
/// certificates of kubelets.
///
/// # Errors
/// When a Manifest document is no YAML of objects.
pub fn objects(input: &Input, observed: Observed, kubelet_ca: &str) -> Result<Vec<Value>> {
    let mut objects = bootstrap::objects(input, kubelet_ca);
    if !input.cluster.proxy.disabled {
        objects.extend(proxy::objects(input)?);
    }
    if !input.cluster.dns.disabled {
        objects.extend(dns::objects(input, observed));
    }
    objects.extend(manifests(input)?);
    // Stable: within a rank the order is the config's.
    objects.sort_by_key(rank);
    Ok(objects)
}

fn manifests(input: &Input) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for manifest in &input.manifests {
        for document in serde_yaml_ng::Deserializer::from_str(&manifest.content) {
            let object = Value::deserialize(document)
                .with_context(|| format!("the Manifest document {:?} is no YAML", manifest.name))?;
            if object.is_null() {
                continue;
            }
            let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
            if text("/kind").is_none() || text("/apiVersion").is_none() || text("/metadata/name").is_none() {
                bail!(
                    "an object of the Manifest document {:?} lacks apiVersion, kind or metadata.name",
                    manifest.name
                );
            }
            objects.push(object);
        }
    }
    if objects.len() > MANIFEST_OBJECTS {
        bail!(
            "the Manifest documents hold {} objects; at most {MANIFEST_OBJECTS} are applied",
            objects.len()
        );
    }
    Ok(objects)
}

fn rank(object: &Value) -> u8 {
    match object.get("kind").and_then(Value::as_str) {
        Some("Namespace" | "CustomResourceDefinition" | "PriorityClass") => 0,
        Some("ServiceAccount" | "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding") => 1,
        Some("ConfigMap" | "Secret" | "Service") => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests;
