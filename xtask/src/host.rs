//! What the build host must have.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Every Debian package that building, booting and testing need, with a file that shows it is installed.
const PACKAGES: &[(&str, &str)] = &[
    ("gcc", "/usr/bin/gcc"),
    ("g++", "/usr/bin/g++"),
    ("make", "/usr/bin/make"),
    ("pkg-config", "/usr/bin/pkg-config"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("erofs-utils", "/usr/bin/mkfs.erofs"),
    ("cryptsetup-bin", "/usr/sbin/veritysetup"),
    ("qemu-system-x86", "/usr/bin/qemu-system-x86_64"),
    ("qemu-utils", "/usr/bin/qemu-img"),
    ("ipxe-qemu", "/usr/lib/ipxe/qemu/efi-virtio.rom"),
    ("ovmf", "/usr/share/OVMF/OVMF_CODE_4M.fd"),
    ("xorriso", "/usr/bin/xorriso"),
    ("isolinux", "/usr/lib/ISOLINUX/isolinux.bin"),
    ("syslinux-common", "/usr/lib/syslinux/modules/bios/ldlinux.c32"),
    ("systemd-boot-efi", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
    ("e2fsprogs", "/usr/sbin/mkfs.ext4"),
    ("dosfstools", "/usr/sbin/mkfs.vfat"),
    ("nftables", "/usr/sbin/nft"),
    ("iproute2", "/usr/bin/ip"),
    ("dbus", "/usr/bin/dbus-daemon"),
    ("busybox-static", "/bin/busybox"),
];

/// Packages of [`PACKAGES`] that are not installed.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    // Before the merged /usr, some of the paths lay elsewhere.
    let there = |path: &str| Path::new(path).exists() || Path::new(path.trim_start_matches("/usr")).exists();
    PACKAGES.iter().filter(|(_, path)| !there(path)).map(|(name, _)| *name).collect()
}

/// Installs what is missing (as root), or says which command does.
///
/// # Errors
/// When something is missing and cannot be installed.
pub fn prepare() -> Result<()> {
    for tool in ["go", "apt-get"] {
        let found = Command::new(tool).arg(if tool == "go" { "version" } else { "--version" }).output();
        ensure!(
            found.is_ok_and(|done| done.status.success()),
            "{tool} is not installed; Pintle builds on Debian 12 with cargo and go"
        );
    }
    let missing = missing();
    let lists = std::fs::read_dir("/var/lib/apt/lists").is_ok_and(|mut folder| {
        folder.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("Packages")))
    });
    if missing.is_empty() && lists {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        let update = if lists { "" } else { "apt-get update && " };
        bail!(
            "packages are missing; run this once:\n  sudo sh -c '{update}apt-get install -y {}'",
            missing.join(" ")
        );
    }
    println!("installing {}", if missing.is_empty() { "package lists".into() } else { missing.join(" ") });
    apt(&["update"])?;
    if !missing.is_empty() {
        apt(&[["install", "-y", "--no-install-recommends"].as_slice(), &missing].concat())?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let done = Command::new("apt-get")
        .arg("-q")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("run apt-get")?;
    if !done.status.success() {
        bail!("apt-get {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

/// The workspace's folder.
#[must_use]
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where the cluster of `up` lies: `target/up`.
#[must_use]
pub fn cluster_folder() -> PathBuf {
    target().join("up")
}

/// Where downloads and slow builds are kept for every checkout.
///
/// # Errors
/// When there is neither `XDG_CACHE_HOME` nor `HOME`.
pub fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("pintle"))
}
