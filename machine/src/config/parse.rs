//! From bytes to documents, with every fault at once.
use serde_yaml_ng::Value;

use super::{API_VERSION, Document, MachineConfig};

/// One thing wrong with a machine config, said so that its author can mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File, URL or other name of the input.
    pub file: String,
    /// 1-based; 0 where no place in the text is to blame.
    pub line: u32,
    /// 1-based; 0 where no place in the text is to blame.
    pub column: u32,
    /// Such as `Cluster.podCIDRs[0]`.
    pub field: String,
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}: {}; {}",
            self.file, self.line, self.column, self.field, self.message, self.remedy
        )
    }
}

/// Parses and validates a machine config: YAML, kinds and fields, then what the fields mean together.
///
/// # Errors
/// Every fault found, in the order of the text.
pub fn parse(file: &str, text: &str) -> Result<MachineConfig, Vec<Fault>> {
    let mut config = MachineConfig::default();
    let mut faults = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let result = <Value as serde::Deserialize>::deserialize(document).and_then(|mut value| {
            if value.is_null() {
                return Ok(None);
            }
            if let Some(map) = value.as_mapping_mut() {
                map.remove("apiVersion");
            }
            serde_yaml_ng::from_value::<Document>(value).map(Some)
        });
        match result {
            Ok(Some(document)) => config.add(document),
            Ok(None) => {}
            Err(error) => {
                let location = error.location();
                faults.push(Fault {
                    file: file.into(),
                    line: location.as_ref().map_or(0, |l| l.line() as u32),
                    column: location.as_ref().map_or(0, |l| l.column() as u32),
                    field: String::new(),
                    message: error.to_string(),
                    remedy: "correct the document; `pintle validate` checks it".into(),
                });
            }
        }
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

impl MachineConfig {
    fn add(&mut self, document: Document) {
        match document {
            Document::Machine(d) => self.machine = d,
            Document::Cluster(d) => self.cluster = Some(d),
            Document::Link(d) => self.links.push(d),
            Document::Dhcp(d) => self.dhcp.push(d),
            Document::Address(d) => self.addresses.push(d),
            Document::Route(d) => self.routes.push(d),
            Document::Resolver(d) => self.resolver = Some(d),
            Document::TimeSync(d) => self.time_sync = Some(d),
            Document::Install(d) => self.install = Some(d),
            Document::Volume(d) => self.volumes.push(d),
            Document::Registry(d) => self.registries.push(d),
            Document::NodeAgent(d) => self.node_agent = d,
            Document::StaticPod(d) => self.static_pods.push(d),
            Document::Manifest(d) => self.manifests.push(d),
            Document::Sysctl(d) => self.sysctls.push(d),
        }
    }
}

/// Writes documents as multi-document YAML, `apiVersion` and `kind` first.
///
/// # Errors
/// When a document cannot be represented as YAML.
pub fn to_yaml(documents: &[Document]) -> Result<String, serde_yaml_ng::Error> {
    let mut text = String::new();
    for document in documents {
        let value = serde_yaml_ng::to_value(document)?;
        let mut map = serde_yaml_ng::Mapping::new();
        map.insert("apiVersion".into(), API_VERSION.into());
        if let Value::Mapping(fields) = value {
            map.extend(fields);
        }
        text.push_str("---\n");
        text.push_str(&serde_yaml_ng::to_string(&map)?);
    }
    Ok(text)
}
