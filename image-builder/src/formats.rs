//! The formats an image is shipped in.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::build::Image;
use crate::{disk, initramfs, iso, uki};

/// systemd's EFI stub, from Debian's systemd-boot-efi.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Little on the screen, and both kinds of console; the last one that exists is /dev/console.
const CONSOLES: &str = "quiet console=tty0 console=ttyS0,115200";

/// What is made of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `vmlinuz`, `initramfs` and `root.img` only, for `qemu -kernel`.
    Parts,
    /// `pintle.img`: write it to a disk; boots under UEFI.
    Disk,
    /// `pintle.iso`: CD and USB stick, BIOS and UEFI.
    Iso,
    /// `vmlinuz`, `initramfs-pxe` and `boot.ipxe`: serve them over TFTP or HTTP.
    Pxe,
    /// `pintle.efi`: one file with everything, for UEFI network boot or a boot loader of your own.
    Uki,
}

/// Makes `format` in `out`; `append` goes to the end of the kernel command line. Returns what was made.
///
/// # Errors
/// When a tool is missing or a file cannot be written.
pub fn write(format: Format, image: &Image, append: &str, out: &Path) -> Result<Vec<PathBuf>> {
    let command_line = format!("{} {CONSOLES} {append}", image.command_line).trim_end().to_owned();
    let seed: [u8; 32] =
        Sha256::new().chain_update(&image.root_info.hash).chain_update(&command_line).finalize().into();
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let made = |name: &str| out.join(name);
    match format {
        Format::Parts => Ok(vec![image.kernel.clone(), image.initramfs.clone(), image.root.clone()]),
        Format::Disk => {
            disk::build(
                &made("pintle.img"),
                &unified(image, &image.initramfs, &command_line)?,
                &image.root,
                &seed,
            )?;
            Ok(vec![made("pintle.img")])
        }
        Format::Iso => {
            let uki = unified(image, &image.initramfs, &command_line)?;
            iso::build(&made("pintle.iso"), image, &command_line, &uki, &seed)?;
            Ok(vec![made("pintle.iso")])
        }
        Format::Pxe => {
            let packed = made("initramfs-pxe");
            initramfs::with_root(&packed, &image.initramfs, &image.root)?;
            std::fs::write(made("boot.ipxe"), ipxe_script(&command_line))?;
            let kernel = std::fs::read(&image.kernel).context("read the kernel")?;
            if std::fs::read(made("vmlinuz")).ok().as_ref() != Some(&kernel) {
                std::fs::write(made("vmlinuz"), kernel).context("copy the kernel")?;
            }
            Ok(vec![made("vmlinuz"), packed, made("boot.ipxe")])
        }
        Format::Uki => {
            let packed = made("initramfs-uki");
            initramfs::with_root(&packed, &image.initramfs, &image.root)?;
            std::fs::write(made("pintle.efi"), unified(image, &packed, &command_line)?)?;
            std::fs::remove_file(packed)?;
            Ok(vec![made("pintle.efi")])
        }
    }
}

fn unified(image: &Image, initramfs: &Path, command_line: &str) -> Result<Vec<u8>> {
    let stub = std::fs::read(STUB).with_context(|| format!("read {STUB}; is systemd-boot-efi installed?"))?;
    let release = format!("ID=pintle\nNAME=Pintle\nVERSION_ID={}\n", env!("CARGO_PKG_VERSION"));
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    uki::append(
        &stub,
        &[
            (".osrel", release.as_bytes()),
            (".uname", image.release.as_bytes()),
            (".cmdline", command_line.as_bytes()),
            (".initrd", &read(initramfs)?),
            (".linux", &read(&image.kernel)?),
        ],
    )
    .context("build the unified kernel image")
}

/// Paths are relative to where the script came from, so the folder can be served from anywhere.
fn ipxe_script(command_line: &str) -> String {
    format!(
        "#!ipxe\nkernel vmlinuz initrd=initramfs-pxe {command_line}\ninitrd --name initramfs-pxe initramfs-pxe\nboot\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_the_initramfs_for_the_efi_stub_too() {
        let script = ipxe_script("quiet");
        assert!(script.starts_with("#!ipxe\n") && script.contains("initrd=initramfs-pxe quiet\n"));
    }
}
