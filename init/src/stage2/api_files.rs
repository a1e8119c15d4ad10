//! The files that the API process may read. PID 1 writes them: the API process may hold no CA's key.
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown, fchown};
use std::path::Path;

use machine::config::{MachineConfig, Role};
use machine::network::NodeNetwork;
use machine::paths::API_UID;
use machine::paths::api_pki::{CA, CERTIFICATE, JOIN_TOKEN, KEY};
use machine::pki::{Leaf, Usage};
use node_kit::files::{self, Durability};

/// What the API process gets.
#[derive(Debug)]
pub struct Files<'a> {
    pub ca: &'a str,
    pub certificate: &'a str,
    pub key: &'a str,
    pub join_token: Option<&'a str>,
}

impl Files<'_> {
    /// Writes them to `folder`, readable by root and the API process.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
        // Without the right to (a test), the files stay with whoever makes them.
        let owner = nix::unistd::geteuid().is_root().then_some(API_UID);
        if owner.is_some() {
            chown(folder, Some(0), owner)?;
        }
        match self.join_token {
            Some(token) => write(&folder.join(JOIN_TOKEN), token, owner)?,
            None => files::remove(&folder.join(JOIN_TOKEN), Durability::Process)?,
        }
        write(&folder.join(KEY), self.key, owner)?;
        write(&folder.join(CA), self.ca, owner)?;
        write(&folder.join(CERTIFICATE), self.certificate, owner)
    }
}

fn write(path: &Path, content: &str, group: Option<u32>) -> io::Result<()> {
    let give = |file: &fs::File| if group.is_some() { fchown(file, Some(0), group) } else { Ok(()) };
    files::replace_if(path, content.as_bytes(), 0o640, Durability::Process, give)?;
    Ok(())
}

/// What the serving certificate speaks for: the node's names and addresses, and on control-plane machines the cluster's endpoint.
pub fn leaf(config: &MachineConfig, network: &NodeNetwork) -> Leaf {
    let mut leaf = Leaf { common_name: network.hostname.clone(), usage: Usage::Server, ..Leaf::default() };
    if leaf.common_name.is_empty() {
        leaf.common_name = "pintle".into();
    }
    leaf.dns_names = vec![leaf.common_name.clone(), "localhost".into()];
    leaf.addresses = network.addresses.iter().map(|address| address.address.addr()).collect();
    leaf.addresses.extend([
        std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    ]);
    let endpoint = (config.machine.role == Role::ControlPlane)
        .then(|| config.cluster.as_ref().and_then(machine::config::Cluster::endpoint_host))
        .flatten();
    for name in config.machine.api_cert_sans.iter().chain(&endpoint) {
        match name.parse() {
            Ok(address) if !leaf.addresses.contains(&address) => leaf.addresses.push(address),
            Err(_) if !leaf.dns_names.contains(name) => leaf.dns_names.push(name.clone()),
            _ => {}
        }
    }
    leaf
}

#[cfg(test)]
mod tests {
    use machine::config::{Cluster, Machine};

    use super::*;

    #[test]
    fn the_certificate_names_the_node_and_the_control_planes_endpoint() {
        let machine = Machine {
            role: Role::ControlPlane,
            api_cert_sans: vec!["api.example".into(), "127.0.0.1".into()],
            ..Machine::default()
        };
        let cluster =
            Cluster { control_plane_endpoint: "https://cp.example:6443".into(), ..Cluster::default() };
        let mut config = MachineConfig { machine, cluster: Some(cluster), ..MachineConfig::default() };
        let network = NodeNetwork { hostname: "w1".into(), ..NodeNetwork::default() };
        assert_eq!(leaf(&config, &network).dns_names, ["w1", "localhost", "api.example", "cp.example"]);
        assert_eq!(leaf(&config, &network).addresses.len(), 2);
        config.machine.role = Role::Worker;
        assert_eq!(leaf(&config, &network).dns_names, ["w1", "localhost", "api.example"]);
    }

    #[test]
    fn the_token_goes_when_the_machine_signs_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files { ca: "A", certificate: "C", key: "K", join_token: Some("T") };
        files.write(folder.path()).unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).ok();
        assert_eq!(read(JOIN_TOKEN).as_deref(), Some("T"));
        files.join_token = None;
        files.write(folder.path()).unwrap();
        assert_eq!(read(JOIN_TOKEN), None);
        assert_eq!(
            (read(CA).as_deref(), read(CERTIFICATE).as_deref(), read(KEY).as_deref()),
            (Some("A"), Some("C"), Some("K"))
        );
    }
}
