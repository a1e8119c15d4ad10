//! What a machine boots from.
use std::path::PathBuf;

use crate::Image;

/// Kernel command line for the serial console.
pub const SERIAL: &str = "console=ttyS0";

/// A boot medium.
#[derive(Debug, Clone)]
pub enum Boot {
    /// QEMU loads kernel and initramfs itself; the root is a read-only disk.
    Kernel(Image),
    /// A CD.
    Cd(PathBuf),
    /// A whole disk, such as a disk image or an ISO written to a USB stick.
    Disk(PathBuf),
    /// The network card's iPXE: the folder is served over TFTP, the script is its file or a URL.
    Network { folder: PathBuf, script: String },
}

impl Boot {
    /// QEMU's arguments, without those of the network card. `append` goes to the end of the kernel command line where QEMU sets it.
    #[must_use]
    pub fn arguments(&self, append: &str) -> Vec<String> {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        match self {
            Self::Kernel(image) => {
                let mut arguments = list(&[
                    "-kernel",
                    &image.kernel.to_string_lossy(),
                    "-initrd",
                    &image.initramfs.to_string_lossy(),
                ]);
                arguments.extend([
                    "-append".into(),
                    format!("{} {SERIAL} {append}", image.command_line).trim_end().to_owned(),
                ]);
                let drive = format!("if=none,id=root,format=raw,readonly=on,file={}", image.root.display());
                arguments.extend(list(&[
                    "-drive",
                    &drive,
                    "-device",
                    "virtio-blk-pci,drive=root,serial=root",
                ]));
                arguments
            }
            Self::Cd(path) => list(&[
                "-drive",
                &format!("if=ide,media=cdrom,readonly=on,file={}", path.display()),
                "-boot",
                "d",
            ]),
            Self::Disk(path) => list(&[
                "-drive",
                &format!("if=none,id=boot,format=raw,file={}", path.display()),
                "-device",
                "virtio-blk-pci,drive=boot,serial=boot,bootindex=0",
            ]),
            Self::Network { .. } => list(&["-boot", "n"]),
        }
    }

    /// Options of the user-mode network for network boot.
    #[must_use]
    pub fn network_options(&self) -> String {
        match self {
            Self::Network { folder, script } => format!(",tftp={},bootfile={script}", folder.display()),
            _ => String::new(),
        }
    }
}
