//! The description of a machine, and QEMU's command line for it.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::network::{self, Forward};
use crate::{Accel, Boot};

/// Size of a new state disk in bytes (sparse).
pub const STATE_BYTES: u64 = 8 << 30;

/// A machine to be started.
#[derive(Debug, Clone)]
pub struct Spec {
    pub name: String,
    /// Number of the node, from 1: its addresses follow from it.
    pub number: u8,
    pub boot: Boot,
    pub accel: Accel,
    /// MiB.
    pub memory: u32,
    pub processors: u32,
    /// Appended to the kernel command line (direct kernel boot only).
    pub append: String,
    /// Machine config, handed over by fw_cfg.
    pub config: Option<String>,
    /// Whether it has a state disk.
    pub state: bool,
    /// Bytes of a new state disk.
    pub state_bytes: u64,
    /// Whether what is written to the state disk is logged, for [`crate::write_log`].
    pub logged: bool,
    /// Forwarded ports.
    pub forwards: Vec<Forward>,
    /// UDP port of the cluster LAN.
    pub lan: Option<u16>,
    /// OVMF instead of SeaBIOS.
    pub uefi: bool,
    /// A reset ends QEMU.
    pub exit_on_reboot: bool,
    /// Further QEMU arguments.
    pub extra: Vec<String>,
}

impl Spec {
    /// A machine with two processors, 2 GiB and a state disk.
    #[must_use]
    pub fn new(name: &str, boot: Boot) -> Self {
        Self {
            name: name.to_owned(),
            number: 1,
            boot,
            accel: Accel::detect(),
            memory: 2048,
            processors: 2,
            append: String::new(),
            config: None,
            state: true,
            state_bytes: STATE_BYTES,
            logged: false,
            forwards: Vec::new(),
            lan: None,
            uefi: false,
            exit_on_reboot: false,
            extra: Vec::new(),
        }
    }

    /// Writes the files QEMU needs into `folder` and returns its arguments.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(&self, folder: &Path) -> Result<Vec<String>> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        if self.state && !state_disk(folder).exists() {
            let disk = std::fs::File::create(state_disk(folder)).context("create the state disk")?;
            disk.set_len(self.state_bytes).context("size the state disk")?;
        }
        if self.logged {
            std::fs::File::create(write_log(folder)).context("create the log of the state disk")?;
        }
        if let Some(config) = &self.config {
            crate::secret_file::write(&folder.join("config.yaml"), config)
                .context("write the machine config")?;
        }
        Ok(self.arguments(folder))
    }

    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(&self, folder: &Path) -> Vec<String> {
        let machine = if self.uefi { "q35" } else { "pc" };
        let mut out: Vec<String> = vec!["-name".into(), self.name.clone(), "-M".into(), machine.into()];
        out.extend(["-nodefaults", "-display", "none", "-device", "virtio-rng-pci"].map(String::from));
        out.extend(self.accel.arguments().map(String::from));
        out.extend(["-m".into(), self.memory.to_string(), "-smp".into(), self.processors.to_string()]);
        out.extend(["-uuid".into(), format!("00000000-0000-4000-8000-{:012x}", self.number)]);
        out.extend([
            "-chardev".into(),
            format!("file,id=console,append=on,path={}", console(folder).display()),
        ]);
        out.extend(["-serial".into(), "chardev:console".into()]);
        if self.uefi {
            let vars = folder.join("uefi-vars.fd");
            out.extend([
                "-drive".into(),
                "if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            ]);
            out.extend(["-drive".into(), format!("if=pflash,format=raw,file={}", vars.display())]);
        }
        out.extend(self.boot.arguments(&self.append));
        if self.state {
            out.extend(if self.logged { logged_disk(folder) } else { plain_disk(folder) });
            out.extend(["-device".into(), "virtio-blk-pci,drive=state,serial=state".into()]);
        }
        if self.config.is_some() {
            let file = folder.join("config.yaml");
            out.extend([
                "-fw_cfg".into(),
                format!("name={},file={}", machine::paths::FW_CFG_CONFIG, file.display()),
            ]);
        }
        out.extend(network::user(
            &network::user_mac(self.number),
            &self.forwards,
            &self.boot.network_options(),
        ));
        if let Some(port) = self.lan {
            out.extend(network::lan(&network::lan_mac(self.number), port));
        }
        if self.exit_on_reboot {
            out.push("-no-reboot".into());
        }
        out.extend(self.extra.iter().cloned());
        out
    }
}

fn plain_disk(folder: &Path) -> [String; 2] {
    ["-drive".into(), format!("if=none,id=state,format=raw,file={}", state_disk(folder).display())]
}

/// Neither file is flushed: what is on the disk is read from the log, which has each flush in its place.
fn logged_disk(folder: &Path) -> [String; 2] {
    let (disk, log) = (state_disk(folder), write_log(folder));
    let file = |name: &str, path: PathBuf| {
        format!("{name}.driver=file,{name}.filename={},{name}.cache.no-flush=on", path.display())
    };
    let node = "driver=blklogwrites,node-name=state,log-super-update-interval=1";
    ["-blockdev".into(), format!("{node},{},{}", file("file", disk), file("log", log))]
}

/// The console's file in a machine's folder.
#[must_use]
pub fn console(folder: &Path) -> PathBuf {
    folder.join("console.log")
}

/// What QEMU itself said, in a machine's folder.
#[must_use]
pub fn log(folder: &Path) -> PathBuf {
    folder.join("qemu.log")
}

/// QEMU's control socket in a machine's folder.
#[must_use]
pub fn qmp(folder: &Path) -> PathBuf {
    folder.join("qmp.sock")
}

/// The state disk in a machine's folder.
#[must_use]
pub fn state_disk(folder: &Path) -> PathBuf {
    folder.join("state.img")
}

/// The log of what was written to the state disk, in a machine's folder.
#[must_use]
pub fn write_log(folder: &Path) -> PathBuf {
    folder.join("state.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_and_lan_are_optional() {
        let mut spec = Spec::new("n", Boot::Cd("x.iso".into()));
        spec.accel = Accel::Tcg;
        let plain = spec.arguments(Path::new("/vm")).join(" ");
        assert!(!plain.contains("fw_cfg") && !plain.contains("mcast"));
        spec.config = Some("kind: Machine".into());
        spec.lan = Some(4000);
        let full = spec.arguments(Path::new("/vm")).join(" ");
        assert!(full.contains("-fw_cfg name=opt/pintle.dev/config,file=/vm/config.yaml"));
        assert!(full.contains("mcast=230.0.0.1:4000,localaddr=127.0.0.1"));
    }
}
