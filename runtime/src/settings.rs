//! What the runtime takes from the machine config.
use machine::config::{MachineConfig, PodNetworkKind, Registry};

/// The active config; on a host without one, nothing is set.
fn config() -> MachineConfig {
    let Ok(text) = std::fs::read_to_string(machine::paths::ACTIVE_CONFIG) else {
        return MachineConfig::default();
    };
    match machine::config::parse(machine::paths::ACTIVE_CONFIG, &text) {
        Ok(config) => config,
        Err(faults) => {
            tracing::error!(
                faults = faults.len(),
                "the active machine config cannot be understood; registries and networks are not set"
            );
            MachineConfig::default()
        }
    }
}

/// The registries to pull from.
pub fn registries() -> Vec<Registry> {
    config().registries
}

/// The loopback TCP port for streams, where one is configured.
pub fn stream_port() -> Option<u16> {
    config().runtime.stream_port
}

/// Who connects pods.
pub fn pod_network() -> PodNetworkKind {
    config().cluster.map(|cluster| cluster.pod_network).unwrap_or_default()
}

/// The whole cluster's pod ranges: traffic to them keeps its source address.
pub fn cluster_cidrs() -> Vec<ipnet::IpNet> {
    config().cluster.map(|cluster| cluster.pod_cidrs).unwrap_or_default()
}
