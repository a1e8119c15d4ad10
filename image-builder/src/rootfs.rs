//! The root file system's tree (see "The root file system" in ARCHITECTURE.md).
use std::path::Path;

use anyhow::Result;
use machine::paths::{API_UID, BIN, CONFIG_UID, KUBERNETES_VERSION, NET_UID};

use crate::debian::Packages;
use crate::layout::{GROUP, MERGED, PASSWD, TOOL_NFT, sticky};
use crate::libraries::{LIBRARY_FOLDER, LOADER, closure};
use crate::modules::Subset;
use crate::tree::Tree;

/// Our executables.
const BINARIES: &[&str] = &["pintle-init", "pintle-launch", SERVICES];
/// The one of all that init starts.
const SERVICES: &str = "pintle-services";
/// Its further names, by which it knows what it is to do.
const SERVICE_NAMES: &[&str] =
    &["pintle-net", "pintle-api", "pintle-config", "pintle-runtime", "pintle-agent", "pintle-control-plane"];
/// Debian's executables and their places.
const TOOLS: &[(&str, &str)] = &[
    ("usr/sbin/nft", TOOL_NFT),
    ("usr/sbin/mke2fs", "usr/sbin/mkfs.ext4"),
    ("usr/sbin/e2fsck", "usr/sbin/e2fsck"),
    ("usr/sbin/resize2fs", "usr/sbin/resize2fs"),
];
const MOUNT_POINTS: &[&str] = &[
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "var",
    "etc/kubernetes",
    "etc/cni",
    "opt",
    "mnt",
    "root",
    "home",
    "usr/bin",
];
/// Files that init writes at run time.
const RUNTIME_LINKS: &[&str] = &["resolv.conf", "hosts", "hostname", "machine-id"];

const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n";
const PORTS: &str = "domain 53/tcp\ndomain 53/udp\nhttp 80/tcp\nntp 123/udp\nhttps 443/tcp\n";
const PROTOCOLS: &str =
    "ip 0 IP\nicmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\nipv6-icmp 58 IPv6-ICMP\nsctp 132 SCTP\n";

/// What goes into the root.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Folder with our static executables, and `pintle-demo`.
    pub binaries: &'a Path,
    /// The Go binary; without it the image cannot be a control plane (for quick builds).
    pub kubernetes: Option<&'a Path>,
    pub packages: &'a Packages,
    pub release: &'a str,
    /// `lib/modules/<release>` of the kernel package.
    pub module_folder: &'a Path,
    pub modules: &'a Subset,
}

/// Fills `tree`.
///
/// # Errors
/// When a part is missing or cannot be copied.
pub fn fill(tree: &Tree, parts: &Parts<'_>) -> Result<()> {
    for (link, target) in MERGED {
        tree.directory(target)?;
        tree.link(target, link)?;
    }
    for folder in MOUNT_POINTS {
        tree.directory(folder)?;
    }
    sticky(tree, "tmp")?;
    for name in BINARIES {
        let source = parts.binaries.join(name);
        tree.copy(&source, &executable(name), 0o755)?;
    }
    for name in SERVICE_NAMES {
        tree.hard_link(&executable(SERVICES), &executable(name))?;
    }
    add_modules(tree, parts)?;
    let libraries = add_tools(tree, parts.packages)?;
    add_settings(tree, parts.packages)?;
    crate::bundle::add(tree, parts.kubernetes, &parts.binaries.join("pintle-demo"), &libraries)
}

/// Where an executable of ours lies in the tree.
fn executable(name: &str) -> String {
    format!("{}/{name}", BIN.trim_start_matches('/'))
}

fn add_modules(tree: &Tree, parts: &Parts<'_>) -> Result<()> {
    let folder = format!("usr/lib/modules/{}", parts.release);
    for file in &parts.modules.files {
        tree.copy(&parts.module_folder.join(file), &format!("{folder}/{file}"), 0o644)?;
    }
    for (name, content) in &parts.modules.indexes {
        tree.file(&format!("{folder}/{name}"), 0o644, content.as_bytes())?;
    }
    Ok(())
}

/// Adds Debian's executables; returns the libraries that nft needs.
fn add_tools(tree: &Tree, packages: &Packages) -> Result<Vec<String>> {
    let sources: Vec<&str> = TOOLS.iter().map(|(source, _)| *source).collect();
    for (source, path) in TOOLS {
        tree.copy(&packages.find(source)?, path, 0o755)?;
    }
    for library in closure(packages, &sources)? {
        tree.copy(
            &packages.find(&format!("{LIBRARY_FOLDER}/{library}"))?,
            &format!("{LIBRARY_FOLDER}/{library}"),
            0o644,
        )?;
    }
    tree.copy(&packages.find(&format!("{LIBRARY_FOLDER}/ld-linux-x86-64.so.2"))?, LOADER, 0o755)?;
    tree.copy(&packages.find("etc/mke2fs.conf")?, "etc/mke2fs.conf", 0o644)?;
    Ok(closure(packages, &["usr/sbin/nft"])?.into_iter().collect())
}

fn add_settings(tree: &Tree, packages: &Packages) -> Result<()> {
    let passwd = format!(
        "{PASSWD}pintle-api:x:{API_UID}:{API_UID}:machine API:/nonexistent:/sbin/nologin\n\
         pintle-net:x:{NET_UID}:{NET_UID}:network helper:/nonexistent:/sbin/nologin\n\
         pintle-config:x:{CONFIG_UID}:{CONFIG_UID}:reader of machine config:/nonexistent:/sbin/nologin\n"
    );
    let group =
        format!("{GROUP}pintle-api:x:{API_UID}:\npintle-net:x:{NET_UID}:\npintle-config:x:{CONFIG_UID}:\n");
    let version = env!("CARGO_PKG_VERSION");
    let release = format!(
        "NAME=Pintle\nID=pintle\nVERSION_ID={version}\nPRETTY_NAME=\"Pintle {version} (Kubernetes {KUBERNETES_VERSION})\"\n"
    );
    tree.file("etc/passwd", 0o644, passwd.as_bytes())?;
    tree.file("etc/group", 0o644, group.as_bytes())?;
    tree.file("etc/nsswitch.conf", 0o644, NSSWITCH.as_bytes())?;
    tree.file("etc/services", 0o644, PORTS.as_bytes())?;
    tree.file("etc/protocols", 0o644, PROTOCOLS.as_bytes())?;
    tree.file("usr/lib/os-release", 0o644, release.as_bytes())?;
    tree.link("../usr/lib/os-release", "etc/os-release")?;
    for name in RUNTIME_LINKS {
        tree.link(&format!("/run/pintle/etc/{name}"), &format!("etc/{name}"))?;
    }
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, &certificates(packages)?)
}

/// The CA bundle, as update-ca-certificates would write it: all certificates one after another.
fn certificates(packages: &Packages) -> Result<Vec<u8>> {
    let mut bundle = Vec::new();
    for path in crate::digest::walk(&packages.find("usr/share/ca-certificates/mozilla")?)? {
        if path.extension().is_some_and(|extension| extension == "crt") {
            bundle.extend(std::fs::read(&path)?);
        }
    }
    Ok(bundle)
}
