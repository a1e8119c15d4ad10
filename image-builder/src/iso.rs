//! The hybrid ISO: CD and USB stick, BIOS (isolinux) and UEFI (a unified kernel image in an appended EFI system partition).
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::Image;
use crate::run::run;
use crate::tree::Tree;

const ISOLINUX: &str = "/usr/lib/ISOLINUX/isolinux.bin";
const HYBRID_MBR: &str = "/usr/lib/ISOLINUX/isohdpfx.bin";
const LDLINUX: &str = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
/// Volume label of the ISO.
const LABEL: &str = "PINTLE";
/// Of everything in the ISO, as xorriso writes it: year, month, day, hour, minute, second and hundredths.
const DATE: &str = "1980010100000000";
/// Room of FAT's own structures.
const FAT_OVERHEAD: usize = 2 << 20;

/// Writes the ISO to `path`.
///
/// # Errors
/// When xorriso or a file of isolinux is missing.
pub fn build(path: &Path, image: &Image, command_line: &str, uki: &[u8], seed: &[u8]) -> Result<()> {
    let work =
        tempfile::Builder::new().prefix("iso-").tempdir_in(path.parent().context("the ISO's folder")?)?;
    let tree = Tree::new(work.path().join("tree"))?;
    tree.copy(Path::new(ISOLINUX), "isolinux/isolinux.bin", 0o644).context("is isolinux installed?")?;
    tree.copy(Path::new(LDLINUX), "isolinux/ldlinux.c32", 0o644).context("is syslinux-common installed?")?;
    let menu = format!(
        "SERIAL 0 115200\nDEFAULT pintle\nLABEL pintle\n  KERNEL /pintle/vmlinuz\n  INITRD /pintle/initramfs\n  APPEND {command_line}\n"
    );
    tree.file("isolinux/isolinux.cfg", 0o644, menu.as_bytes())?;
    tree.copy(&image.kernel, "pintle/vmlinuz", 0o644)?;
    tree.copy(&image.initramfs, "pintle/initramfs", 0o644)?;
    tree.copy(&image.root, "pintle/root.img", 0o644)?;

    let esp = work.path().join("esp.img");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&esp)?;
    file.set_len((uki.len() + uki.len() / 64 + FAT_OVERHEAD).next_multiple_of(1 << 20) as u64)?;
    let id = u32::from_le_bytes(seed.first_chunk::<4>().copied().unwrap_or_default());
    crate::fat::format(fscommon::BufStream::new(file), id, &[("EFI/BOOT/BOOTX64.EFI", uki)])?;

    let guid = crate::digest::uuid(seed, "iso").simple().to_string();
    let mut xorriso = Command::new("xorriso");
    // The dates are in local time.
    xorriso.env("TZ", "UTC").args(["-as", "mkisofs", "-quiet", "-V", LABEL, "-R", "-J"]);
    xorriso
        .args(["--set_all_file_dates", DATE, &format!("--modification-date={DATE}")])
        .args(["-gid", "0", "-uid", "0"])
        .arg("--gpt_disk_guid")
        .arg(guid);
    xorriso.args([
        "-c",
        "isolinux/boot.cat",
        "-b",
        "isolinux/isolinux.bin",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]);
    xorriso.args(["-isohybrid-mbr", HYBRID_MBR, "-append_partition", "2", "0xef"]).arg(&esp);
    xorriso.args(["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]);
    run(xorriso.arg("-o").arg(path).arg(tree.root())).context("make the ISO")
}
