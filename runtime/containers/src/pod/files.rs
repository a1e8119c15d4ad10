//! A pod's own files: /etc/hostname, /etc/hosts and /etc/resolv.conf as its containers see them, and
//! /dev/shm. Containers may write to them without any privilege, so they lie on small file systems of the
//! pod's own and never on the node's /run: however much is written, the node loses nothing but that, and the
//! memory is the writer's as the cgroup counts it.
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use machine::cri;
use nix::mount::{MsFlags, mount};

use crate::state::SandboxRecord;
use crate::state::folder;

/// Room for the three files with what a pod may add to them.
const FILES: &str = "mode=0711,size=256k,nr_inodes=16";
/// As every runtime has it.
const SHM: &str = "mode=1777,size=65536k";

/// Where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodFiles(PathBuf);

impl PodFiles {
    /// Those of a sandbox.
    pub(crate) fn of(sandbox: &str) -> Self {
        Self(folder("sandboxes", sandbox).join("files"))
    }

    /// A file, or `shm`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes them.
    ///
    /// # Errors
    /// As mount(2) and write(2).
    pub(super) fn make(&self, record: &SandboxRecord, hostname: &str, host_ipc: bool) -> io::Result<()> {
        DirBuilder::new().mode(0o711).create(&self.0)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("pod-files"), &self.0, Some("tmpfs"), flags, Some(FILES))?;
        self.write("hostname", format!("{hostname}\n").as_bytes())?;
        let hosts =
            fs::read("/etc/hosts").unwrap_or_else(|_| b"127.0.0.1 localhost\n::1 localhost\n".to_vec());
        self.write("hosts", &hosts)?;
        let resolver = match &record.config.dns_config {
            Some(dns) if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) => {
                resolv_conf(dns).into_bytes()
            }
            _ => fs::read("/etc/resolv.conf").unwrap_or_default(),
        };
        self.write("resolv.conf", &resolver)?;
        if !host_ipc {
            let shm = self.path("shm");
            fs::create_dir(&shm)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM))?;
        }
        Ok(())
    }

    /// Removes them with the mounts that they lie on; none there is no error.
    ///
    /// # Errors
    /// As umount2(2).
    pub(crate) fn remove(&self) -> io::Result<()> {
        // With what is mounted on it.
        crate::namespaces::unmount(&self.0)
    }

    /// Every user of the pod may read it, whatever the umask here.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(bytes).map_err(|error| named(&path, &error))
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("write {}: {error}", path.display()))
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_what_the_pod_asks_for() {
        let dns = cri::DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(resolv_conf(&dns), "search default.svc svc\nnameserver 10.96.0.10\noptions ndots:5\n");
    }
}
