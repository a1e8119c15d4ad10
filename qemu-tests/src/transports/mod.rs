//! Each way of shipping the OS, booted to a Ready control-plane node: ISO as CD and as disk under BIOS and UEFI, network boot over TFTP and
//! HTTP, unified kernel image, disk image; with the config from a URL or from a labelled volume.
pub mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cluster::{API_SERVER_PORT, Cluster, Layout, NAME, Programs, State, generate, node_config};
use crate::command::command_output;
use crate::network::{Forward, free_tcp_port, free_udp_port};
use crate::{Accel, Boot, Progress, Spec, Vm};
use server::FileServer;

/// Size of a disk that the disk image is written to, in bytes (sparse).
const DISK: u64 = 10 << 30;
/// MiB: the control plane's, and the root for transports that keep it in memory.
const MEMORY: u32 = 3584;

/// What the cases need.
#[derive(Debug, Clone)]
pub struct Tools {
    pub image_builder: PathBuf,
    /// Folder of a built image with the control plane in it.
    pub parts: PathBuf,
    pub programs: Programs,
}

/// Where the machine finds its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConfigFrom {
    /// `pintle.config=http://…` on the kernel command line.
    Url,
    /// A volume labelled PINTLE-CONFIG.
    Volume,
}

/// How the machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Medium {
    IsoCd,
    IsoDisk,
    PxeTftp,
    PxeHttp,
    Uki,
    Disk,
}

/// One way.
#[derive(Debug)]
pub struct Transport {
    pub name: &'static str,
    medium: Medium,
    uefi: bool,
    config: ConfigFrom,
}

const fn way(name: &'static str, medium: Medium, uefi: bool, config: ConfigFrom) -> Transport {
    Transport { name, medium, uefi, config }
}

/// All of them.
pub const TRANSPORTS: &[Transport] = &[
    way("iso_as_cd_under_bios", Medium::IsoCd, false, ConfigFrom::Url),
    way("iso_as_cd_under_uefi", Medium::IsoCd, true, ConfigFrom::Volume),
    way("iso_as_disk_under_bios", Medium::IsoDisk, false, ConfigFrom::Volume),
    way("iso_as_disk_under_uefi", Medium::IsoDisk, true, ConfigFrom::Url),
    way("ipxe_over_tftp", Medium::PxeTftp, false, ConfigFrom::Url),
    way("ipxe_over_http", Medium::PxeHttp, false, ConfigFrom::Volume),
    way("unified_kernel_image", Medium::Uki, true, ConfigFrom::Url),
    way("disk_image_takes_the_state_too", Medium::Disk, true, ConfigFrom::Volume),
];

impl Transport {
    /// Makes the medium, boots it and waits until kubectl sees the node Ready. Files lie in `folder`.
    ///
    /// # Errors
    /// What failed, or what was not there in time.
    pub fn run(&self, tools: &Tools, folder: &Path) -> Result<()> {
        let served = folder.join("served");
        std::fs::create_dir_all(&served)?;
        let layout = Layout::default();
        generate(&tools.programs.pintle, folder, &layout)?;
        let config = node_config(folder, 1, &layout)?;
        let server = FileServer::start(&served)?;
        let append = match self.config {
            ConfigFrom::Url => {
                crate::secret_file::write(&served.join("config.yaml"), &config)?;
                format!("pintle.config={}", server.url("config.yaml"))
            }
            ConfigFrom::Volume => String::new(),
        };
        let mut spec = Spec::new(&format!("{NAME}-1"), self.boot(tools, &served, &append, &server)?);
        spec.uefi = self.uefi;
        spec.memory = MEMORY;
        spec.state = self.medium != Medium::Disk;
        spec.lan = Some(free_udp_port()?);
        for guest in [machine::paths::API_PORT, API_SERVER_PORT] {
            spec.forwards.push(Forward { host: free_tcp_port()?, guest });
        }
        if self.config == ConfigFrom::Volume {
            spec.extra = config_volume(folder, &config)?;
        }
        let vm = Vm::start(&spec, &folder.join(&spec.name))?;
        let ready = wait(folder, tools, &vm);
        vm.power_cut()?;
        ready
    }

    fn boot(&self, tools: &Tools, served: &Path, append: &str, server: &FileServer) -> Result<Boot> {
        let build = |format: &str| build(tools, format, append, served);
        Ok(match self.medium {
            Medium::IsoCd => {
                build("iso")?;
                Boot::Cd(served.join("pintle.iso"))
            }
            Medium::IsoDisk => {
                build("iso")?;
                Boot::Disk(served.join("pintle.iso"))
            }
            Medium::PxeTftp => {
                build("pxe")?;
                Boot::Network { folder: served.into(), script: "boot.ipxe".into() }
            }
            Medium::PxeHttp => {
                build("pxe")?;
                Boot::Network { folder: served.into(), script: server.url("boot.ipxe") }
            }
            Medium::Uki => {
                build("uki")?;
                // QEMU shows a folder as a FAT disk: an EFI system partition with one file.
                let esp = served.join("esp/EFI/BOOT");
                std::fs::create_dir_all(&esp)?;
                std::fs::rename(served.join("pintle.efi"), esp.join("BOOTX64.EFI"))?;
                Boot::Disk(format!("fat:rw:{}", served.join("esp").display()).into())
            }
            Medium::Disk => {
                build("disk")?;
                let image = served.join("pintle.img");
                std::fs::File::options().write(true).open(&image)?.set_len(DISK)?;
                Boot::Disk(image)
            }
        })
    }
}

fn build(tools: &Tools, format: &str, append: &str, out: &Path) -> Result<()> {
    let mut command = Command::new(&tools.image_builder);
    command.arg("--parts").arg(&tools.parts).args(["--format", format, "--append", append]);
    command_output(command.arg("--out").arg(out))
        .map(drop)
        .with_context(|| format!("make the format {format}"))
}

/// QEMU's arguments for a CD with the config on it.
fn config_volume(folder: &Path, config: &str) -> Result<Vec<String>> {
    let (file, volume) = (folder.join("config.yaml"), folder.join("config.iso"));
    crate::secret_file::write(&file, config)?;
    let mut command = Command::new("xorriso");
    command.args(["-as", "mkisofs", "-quiet", "-V", "PINTLE-CONFIG", "-R", "-o"]).arg(&volume).arg(&file);
    command_output(&mut command).context("make the config volume")?;
    let drive = format!("if=none,id=config,format=raw,readonly=on,file={}", volume.display());
    Ok(["-drive", &drive, "-device", "virtio-blk-pci,drive=config"].map(str::to_owned).to_vec())
}

fn wait(folder: &Path, tools: &Tools, vm: &Vm) -> Result<()> {
    let state = State { image: tools.parts.clone(), lan: 0, nodes: vec![vm.clone()] };
    let cluster = Cluster { folder: folder.into(), state, programs: tools.programs.clone() };
    let progress = Progress::start();
    // Firmware, and on the network the loading of everything, come before the kernel.
    let patience = Accel::detect().patience() * 2;
    cluster.wait_for_machines(&progress, patience * 2)?;
    cluster.wait_for_nodes(&progress, patience)
}
