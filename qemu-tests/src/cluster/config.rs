//! The machine configs of a cluster's nodes: `pintle gen`, and what a node of this network needs on top.
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use machine::config::{Address, Dhcp, Document, LinkMatch, MachineConfig, Registry, parse, to_yaml};

use super::Layout;
use crate::command::command_output;
use crate::network::{lan_address, lan_mac, user_mac};

/// Prefix of node names.
pub const NAME: &str = "pintle";
/// The cluster's API server, as nodes reach it.
pub const ENDPOINT: &str = "https://10.5.0.10:6443";
/// Metric of the user-mode network's route.
const ROUTE_METRIC: u32 = 1024;

/// Secrets and configs of a new cluster, in the cluster's folder; secrets that are there are kept.
///
/// # Errors
/// When `pintle gen` fails.
pub fn generate(pintle: &Path, folder: &Path, layout: &Layout) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let secrets = folder.join("secrets.yaml");
    if !secrets.exists() {
        command_output(Command::new(pintle).args(["gen", "secrets", "--output"]).arg(&secrets))?;
    }
    let mut command = Command::new(pintle);
    command
        .args(["gen", "config", NAME, ENDPOINT, "--force", "--san", "127.0.0.1", "--secrets"])
        .arg(&secrets);
    command.arg("--output").arg(folder);
    if layout.nodes == 1 || layout.schedule_on_control_planes {
        command.arg("--schedule-on-control-plane");
    }
    command_output(&mut command).map(drop)
}

/// The config of node `number`.
///
/// # Errors
/// When the generated config is not valid.
pub fn node_config(folder: &Path, number: u8, layout: &Layout) -> Result<String> {
    let control_plane = number <= layout.control_planes;
    let name = if control_plane { "control-plane.yaml" } else { "worker.yaml" };
    on_lan(generated(folder, name)?, number, layout.mirror.as_deref())
}

/// A config that [`generate`] has written.
///
/// # Errors
/// When it is not valid.
pub fn generated(folder: &Path, name: &str) -> Result<MachineConfig> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    match parse(name, &text) {
        Ok(config) => Ok(config),
        Err(faults) => bail!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// The config with the name, the addresses and the mirror of every registry that a node of this network has.
///
/// # Errors
/// When it cannot be written as YAML.
pub fn on_lan(mut config: MachineConfig, number: u8, mirror: Option<&str>) -> Result<String> {
    config.machine.hostname = Some(format!("{NAME}-{number}"));
    config.machine.api_cert_sans.push(Ipv4Addr::LOCALHOST.to_string());
    let lan = Ipv4Net::new(lan_address(number), 24)?;
    config.node_agent.node_ip_subnets = vec![IpNet::V4(lan.trunc())];
    let by_mac = |mac: String| LinkMatch { name: None, mac: Some(mac) };
    let dhcp = Dhcp {
        link: by_mac(user_mac(number)),
        ipv4: true,
        route_metric: ROUTE_METRIC,
        use_resolvers: true,
        use_hostname: false,
    };
    let mut documents = vec![
        Document::Machine(config.machine),
        Document::Runtime(config.runtime),
        Document::NodeAgent(config.node_agent),
        Document::Dhcp(dhcp),
        Document::Address(Address { link: by_mac(lan_mac(number)), address: IpNet::V4(lan) }),
    ];
    documents.extend(config.cluster.map(Document::Cluster));
    documents.extend(config.static_pods.into_iter().map(Document::StaticPod));
    documents.extend(mirror.map(|url| {
        Document::Registry(Registry { host: "*".into(), mirrors: vec![url.into()], ..Registry::default() })
    }));
    Ok(to_yaml(&documents)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_own_name_and_address() -> Result<()> {
        let text = on_lan(MachineConfig::default(), 2, Some("http://10.0.2.2:5000"))?;
        let config = parse("node", &text).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
        assert_eq!(config.machine.hostname.as_deref(), Some("pintle-2"));
        assert_eq!(config.addresses[0].address.to_string(), "10.5.0.11/24");
        assert_eq!(config.dhcp[0].link.mac.as_deref(), Some("52:54:00:00:00:02"));
        assert_eq!(config.registries[0].mirrors, ["http://10.0.2.2:5000"]);
        Ok(())
    }
}
