//! What the runtime takes from the machine config.
use machine::config::{MachineConfig, PodNetworkKind};

use images::Settings;

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

/// The registries to pull from, and what is taken of them.
pub fn images() -> Settings {
    let MachineConfig { registries, runtime, cluster, .. } = config();
    let ranges = cluster.map(|cluster| [cluster.pod_cidrs, cluster.service_cidrs].concat());
    Settings { cluster: ranges.unwrap_or_default(), ..Settings::new(registries, &runtime) }
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

#[cfg(test)]
mod tests {
    #[test]
    fn without_a_config_images_are_bounded_as_the_reference_says() {
        let (ours, documented) = (images::Limits::default(), machine::config::Runtime::default());
        assert_eq!((ours.bytes, ours.entries), (documented.max_layer_bytes, documented.max_layer_entries));
        assert_eq!(ours.layers, documented.max_image_layers as usize);
        let patience = images::Settings::default().patience;
        assert_eq!(patience.as_secs(), u64::from(documented.image_pull_progress_timeout_seconds));
    }
}
