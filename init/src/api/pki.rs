//! The files that the API process may read, made by PID 1, which alone has the machine CA's key.
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use machine::config::MachineConfig;
use machine::network::NodeNetwork;
use machine::paths::API_UID;
use machine::pki::{self, Leaf, Usage};

/// The machine CA's certificate, which client certificates are checked against.
pub const CA: &str = "ca.crt";
pub const CERTIFICATE: &str = "server.crt";
pub const KEY: &str = "server.key";

/// Issues a serving certificate for the node's names and addresses and writes it, with the CA's certificate, to `folder`.
/// PID 1 calls it before each start of the API, and when the config or the network has changed.
///
/// # Errors
/// When no machine CA with its key is configured, or a file cannot be written.
pub fn prepare(config: &MachineConfig, network: &NodeNetwork, folder: &Path) -> Result<()> {
    let ca = config
        .machine
        .ca
        .as_ref()
        .context("the Machine document has no `ca`, so the machine API serves nobody")?;
    let issued =
        pki::issue(ca, &leaf(config, network), SystemTime::now()).context("issue the API's certificate")?;
    write_all(folder, &[(CA, &ca.certificate), (CERTIFICATE, &issued.certificate), (KEY, &issued.key)])
        .with_context(|| format!("write the API's certificates to {}", folder.display()))
}

fn leaf(config: &MachineConfig, network: &NodeNetwork) -> Leaf {
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
    for name in &config.machine.api_cert_sans {
        match name.parse() {
            Ok(address) => leaf.addresses.push(address),
            Err(_) => leaf.dns_names.push(name.clone()),
        }
    }
    leaf
}

fn write_all(folder: &Path, files: &[(&str, &String)]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    // Without the right to (a test), the files stay with whoever makes them.
    let owner = nix::unistd::geteuid().is_root();
    if owner {
        chown(folder, Some(0), Some(API_UID))?;
    }
    for (name, content) in files {
        let temporary = folder.join(format!(".{name}.new"));
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
        if owner {
            chown(&temporary, Some(0), Some(API_UID))?;
        }
        file.write_all(content.as_bytes())?;
        fs::rename(&temporary, folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use machine::config::Machine;

    use super::*;

    #[test]
    fn the_certificate_names_the_node_and_the_ca_key_stays_behind() {
        let ca = pki::new_ca("pintle", SystemTime::now()).unwrap();
        let key = ca.key.clone().unwrap();
        let machine =
            Machine { ca: Some(ca.clone()), api_cert_sans: vec!["api.example".into()], ..Machine::default() };
        let config = MachineConfig { machine, ..MachineConfig::default() };
        let network = NodeNetwork { hostname: "w1".into(), ..NodeNetwork::default() };
        let folder = tempfile::tempdir().unwrap();
        prepare(&config, &network, folder.path()).unwrap();
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        assert!(pki::signed_by(&read(CERTIFICATE), &ca.certificate).unwrap());
        assert!(pki::is_key_of(&read(KEY), &read(CERTIFICATE)));
        assert_eq!(
            pki::facts(&read(CERTIFICATE)).unwrap().leaf.dns_names,
            ["w1", "localhost", "api.example"]
        );
        for entry in fs::read_dir(folder.path()).unwrap() {
            assert_ne!(fs::read_to_string(entry.unwrap().path()).unwrap(), key);
        }
        assert!(prepare(&MachineConfig::default(), &network, folder.path()).is_err());
    }
}
