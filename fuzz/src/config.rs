//! A machine config taken apart again.
use machine::config::{Document, MachineConfig};

/// The documents of a config.
#[must_use]
pub fn documents(config: MachineConfig) -> Vec<Document> {
    let mut documents = vec![
        Document::Machine(config.machine),
        Document::Runtime(config.runtime),
        Document::NodeAgent(config.node_agent),
    ];
    documents.extend(config.cluster.map(Document::Cluster));
    documents.extend(config.resolver.map(Document::Resolver));
    documents.extend(config.time_sync.map(Document::TimeSync));
    documents.extend(config.install.map(Document::Install));
    documents.extend(config.watchdog.map(Document::Watchdog));
    documents.extend(config.links.into_iter().map(Document::Link));
    documents.extend(config.dhcp.into_iter().map(Document::Dhcp));
    documents.extend(config.addresses.into_iter().map(Document::Address));
    documents.extend(config.routes.into_iter().map(Document::Route));
    documents.extend(config.volumes.into_iter().map(Document::Volume));
    documents.extend(config.registries.into_iter().map(Document::Registry));
    documents.extend(config.static_pods.into_iter().map(Document::StaticPod));
    documents.extend(config.manifests.into_iter().map(Document::Manifest));
    documents.extend(config.sysctls.into_iter().map(Document::Sysctl));
    documents
}
