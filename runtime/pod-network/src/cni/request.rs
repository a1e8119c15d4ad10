//! What a plugin reads on its standard input (section 3 of the specification, "Deriving request configuration from plugin configuration"). Pure.
use serde_json::{Map, Value, json};

use super::config::{NetworkConfig, Plugin};
use super::result::AddResult;

/// For ADD, DEL and CHECK: with the capability arguments that the plugin declares, and the result so far.
pub fn attachment(
    network: &NetworkConfig,
    plugin: &Plugin,
    capabilities: &Map<String, Value>,
    previous: Option<&AddResult>,
) -> Vec<u8> {
    let mut request = common(network, plugin);
    let wanted: Map<String, Value> = capabilities
        .iter()
        .filter(|(name, _)| plugin.wants(name))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if !wanted.is_empty() {
        request.insert("runtimeConfig".into(), Value::Object(wanted));
    }
    if let Some(previous) = previous {
        request.insert("prevResult".into(), previous.json());
    }
    bytes(request)
}

/// For GC: with the attachments, as (container id, interface), that are still valid.
pub fn collection(network: &NetworkConfig, plugin: &Plugin, valid: &[(String, String)]) -> Vec<u8> {
    let mut request = common(network, plugin);
    let valid: Value =
        valid.iter().map(|(id, interface)| json!({"containerID": id, "ifname": interface})).collect();
    // Plugins built with the first libcni of 1.1 look for the second name, and without it would take every attachment for stale.
    request.insert("cni.dev/valid-attachments".into(), valid.clone());
    request.insert("cni.dev/attachments".into(), valid);
    bytes(request)
}

/// For STATUS.
pub fn status(network: &NetworkConfig, plugin: &Plugin) -> Vec<u8> {
    bytes(common(network, plugin))
}

/// Everything passes through but what is the protocol's own.
fn common(network: &NetworkConfig, plugin: &Plugin) -> Map<String, Value> {
    let mut request = plugin.config.clone();
    request.retain(|key, _| {
        !key.starts_with("cni.dev/") && !matches!(key.as_str(), "capabilities" | "cniVersions" | "prevResult")
    });
    request.insert("name".into(), network.name.as_str().into());
    request.insert("cniVersion".into(), network.version.name().into());
    request
}

fn bytes(request: Map<String, Value>) -> Vec<u8> {
    Value::Object(request).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::config::parse_list;
    use super::super::version::Version;
    use super::*;

    fn network() -> NetworkConfig {
        parse_list(
            br#"{"cniVersion": "1.1.0", "name": "dbnet", "plugins": [
                {"type": "portmap", "capabilities": {"portMappings": true, "mac": false}, "cni.dev/old": 1, "theirs": {"a": 1.5}}]}"#,
        )
        .unwrap()
    }

    fn value(bytes: Vec<u8>) -> Value {
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_plugin_gets_what_it_declares_and_its_own_fields() {
        let capabilities = json!({"portMappings": [{"hostPort": 80}], "mac": "02:00:00:00:00:01", "dns": {}});
        let network = network();
        let previous = AddResult::parse(br#"{"ips": []}"#, Version::V1_1_0).unwrap();
        let request = |previous| {
            value(attachment(&network, &network.plugins[0], capabilities.as_object().unwrap(), previous))
        };
        assert_eq!(
            request(None),
            json!({"type": "portmap", "name": "dbnet", "cniVersion": "1.1.0", "theirs": {"a": 1.5},
                   "runtimeConfig": {"portMappings": [{"hostPort": 80}]}})
        );
        assert_eq!(request(Some(&previous))["prevResult"], json!({"ips": [], "cniVersion": "1.1.0"}));
    }

    #[test]
    fn gc_names_the_valid_attachments_also_when_there_are_none() {
        let network = network();
        let request = |valid: &[_]| value(collection(&network, &network.plugins[0], valid));
        assert_eq!(
            request(&[("a".into(), "eth0".into())])["cni.dev/valid-attachments"],
            json!([{"containerID": "a", "ifname": "eth0"}])
        );
        assert_eq!(request(&[])["cni.dev/attachments"], json!([]));
        assert!(request(&[]).get("runtimeConfig").is_none());
        assert!(value(status(&network, &network.plugins[0])).get("cni.dev/valid-attachments").is_none());
    }
}
