//! A started machine. It outlives the program that started it; a handle can be stored and loaded again.
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::console::Console;
use crate::network::Forward;
use crate::process::Process;
use crate::{Spec, qmp, spec};

/// A machine that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    pub name: String,
    pub number: u8,
    /// Disks, config, console log and control socket.
    pub folder: PathBuf,
    pub process: Process,
    pub forwards: Vec<Forward>,
}

impl Vm {
    /// Starts a machine with its files in `folder`.
    ///
    /// # Errors
    /// When QEMU does not start; the message has its words.
    pub fn start(spec: &Spec, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let socket = spec::qmp(&folder);
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        if spec.uefi && !folder.join("uefi-vars.fd").exists() {
            std::fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", folder.join("uefi-vars.fd"))
                .context("copy OVMF's variables")?;
        }
        let mut arguments = spec.prepare(&folder)?;
        let short = qmp::ShortName::new(&socket)?;
        arguments.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", short.path.display())]);
        let log = spec::log(&folder);
        let output = std::fs::File::create(&log)?;
        std::fs::write(folder.join("qemu.args"), arguments.join("\n"))?;
        let mut child = Command::new("qemu-system-x86_64")
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("start qemu-system-x86_64; is it installed?")?;
        let start = Instant::now();
        while !socket.exists() {
            if child.try_wait()?.is_some() || start.elapsed() > Duration::from_secs(20) {
                bail!(
                    "QEMU did not start {}: {}",
                    spec.name,
                    std::fs::read_to_string(&log).unwrap_or_default().trim()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let process = Process::of(i32::try_from(child.id())?)?;
        // Reaped here, so that an ended machine is seen as ended while this program runs.
        std::thread::spawn(move || drop(child.wait()));
        Ok(Self {
            name: spec.name.clone(),
            number: spec.number,
            folder,
            process,
            forwards: spec.forwards.clone(),
        })
    }

    /// Whether QEMU still runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.runs()
    }

    /// Fails when the machine has ended.
    ///
    /// # Errors
    /// With QEMU's own words and the end of the console.
    pub fn ensure_runs(&self) -> Result<()> {
        if !self.runs() {
            bail!("{}", self.last_words());
        }
        Ok(())
    }

    /// Whether it runs, QEMU's own words and the end of the console.
    #[must_use]
    pub fn last_words(&self) -> String {
        let state = if self.runs() { "still runs" } else { "ended" };
        let words = std::fs::read_to_string(spec::log(&self.folder)).unwrap_or_default();
        let words = if words.trim().is_empty() { "nothing" } else { words.trim() };
        format!("{} {state}; QEMU said {words}; its console:\n{}", self.name, self.console().tail())
    }

    /// The console from its beginning.
    #[must_use]
    pub fn console(&self) -> Console {
        Console::new(&spec::console(&self.folder))
    }

    /// The console from now on.
    #[must_use]
    pub fn console_from_now(&self) -> Console {
        Console::from_end(&spec::console(&self.folder))
    }

    /// The host's port that is forwarded to `guest`.
    ///
    /// # Errors
    /// When none is.
    pub fn port(&self, guest: u16) -> Result<u16> {
        let forward = self.forwards.iter().find(|forward| forward.guest == guest);
        forward
            .map(|forward| forward.host)
            .with_context(|| format!("{} forwards no port to {guest}", self.name))
    }

    /// Cuts the power.
    ///
    /// # Errors
    /// When QEMU cannot be killed.
    pub fn power_cut(&self) -> Result<()> {
        self.process.kill()
    }

    /// Stops its processors for good; requests to disks that are under way are finished.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn freeze(&self) -> Result<()> {
        qmp::execute(&spec::qmp(&self.folder), "stop", json!({})).map(drop)
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn press_power_button(&self) -> Result<()> {
        qmp::execute(&spec::qmp(&self.folder), "system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn reset(&self) -> Result<()> {
        qmp::execute(&spec::qmp(&self.folder), "system_reset", json!({})).map(drop)
    }

    /// From now on a reset by the guest ends the machine instead of booting it again.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn end_on_reset(&self) -> Result<()> {
        qmp::execute(&spec::qmp(&self.folder), "set-action", json!({"reboot": "shutdown"})).map(drop)
    }

    /// The state disk's file.
    #[must_use]
    pub fn state_disk(&self) -> PathBuf {
        spec::state_disk(&self.folder)
    }

    /// Waits for a line on the console.
    ///
    /// # Errors
    /// At the deadline, or when the machine ends first.
    pub fn expect(&self, console: &mut Console, text: &str, deadline: Duration) -> Result<String> {
        console
            .wait_for_any(&[text], deadline, || self.runs())
            .with_context(|| format!("machine {}", self.name))
    }

    /// Waits until the machine is off.
    ///
    /// # Errors
    /// At the deadline, with the last lines of the console.
    pub fn wait_off(&self, deadline: Duration) -> Result<()> {
        if self.process.wait(deadline) {
            return Ok(());
        }
        bail!(
            "{} is still on after {} s; last lines:\n{}",
            self.name,
            deadline.as_secs(),
            self.console().tail()
        )
    }
}
