//! What a case works with: a folder of its own, the image, and machines that end with the case.
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use qemu_tests::progress::pause_after;
use qemu_tests::{Accel, Boot, Image, Look, Spec, Vm};

const POLL: Duration = Duration::from_secs(1);

/// The place of one case.
#[derive(Debug)]
pub struct Bench {
    pub image: Image,
    pub folder: PathBuf,
    /// For cases that have pods.
    pub tools: Option<Tools>,
    machines: RefCell<Vec<Vm>>,
}

/// Programs beside the image.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The machine API's client.
    pub pintle: PathBuf,
    /// The static executable of the test image.
    pub inspector: PathBuf,
}

impl Bench {
    /// Starts with an empty folder.
    ///
    /// # Errors
    /// When there is no image.
    pub fn new(image: &Path, folder: &Path, tools: Option<Tools>) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(folder)?;
        Ok(Self { image: Image::open(image)?, folder: folder.into(), tools, machines: RefCell::default() })
    }

    /// A machine that boots this bench's image; a reset ends it.
    #[must_use]
    pub fn spec(&self) -> Spec {
        let mut spec = Spec::new("node", Boot::Kernel(self.image.clone()));
        spec.memory = 1024;
        spec.exit_on_reboot = true;
        spec
    }

    /// Starts a machine; it ends with the bench.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn start(&self, spec: &Spec) -> Result<Vm> {
        let vm = Vm::start(spec, &self.folder.join(&spec.name))?;
        self.machines.borrow_mut().push(vm.clone());
        Ok(vm)
    }

    /// The image with another root file and command line.
    #[must_use]
    pub fn image_with(&self, root: &Path, command_line: &str) -> Image {
        Image { root: root.into(), command_line: command_line.into(), ..self.image.clone() }
    }

    /// Whether a machine's kernel ran into a fault of the emulator: QEMU before 8.1 executes a breakpoint that the kernel has already replaced while it
    /// patches its own code on several processors (without KVM only; about one boot in hundreds).
    #[must_use]
    pub fn emulator_failed(&self) -> bool {
        Accel::detect() == Accel::Tcg
            && self
                .machines
                .borrow()
                .iter()
                .any(|vm| stale_breakpoint(&vm.console().text().unwrap_or_default()))
    }

    /// What became of the machines, with the last words of each.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.machines.borrow().iter().map(|vm| format!("{}\n", vm.last_words())).collect()
    }

    /// Ends the machines, keeps console logs and disks.
    pub fn keep(&self) {
        for vm in self.machines.borrow().iter() {
            let _ = vm.power_cut();
        }
    }

    /// Ends the machines and moves console logs and disks to a folder beside this one, which the next run of the case leaves alone. Returns it.
    ///
    /// # Errors
    /// When the folder cannot be moved.
    pub fn set_aside(&self) -> Result<PathBuf> {
        self.keep();
        let aside = self.folder.with_extension("first");
        if aside.exists() {
            std::fs::remove_dir_all(&aside).with_context(|| format!("empty {}", aside.display()))?;
        }
        std::fs::rename(&self.folder, &aside).with_context(|| format!("keep {}", self.folder.display()))?;
        Ok(aside)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn discard(&self) -> Result<()> {
        self.keep();
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.keep();
    }
}

/// `seconds` on a fast machine; more without KVM.
#[must_use]
pub fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * Accel::detect().patience()
}

/// Whether a console shows a kernel that died of a breakpoint nobody set.
fn stale_breakpoint(console: &str) -> bool {
    console.contains("int3: 0000") && console.contains("Kernel panic")
}

/// Looks until it is done. A look that fails is looked at again: the machine may be busy or just starting.
///
/// # Errors
/// At the deadline, with what it still waited for.
pub fn until<T>(what: &str, deadline: Duration, look: impl FnMut() -> Result<Look<T>>) -> Result<T> {
    until_while(|| Ok(()), what, deadline, look)
}

/// As [`until`]; that `vm` ends ends it too.
///
/// # Errors
/// As [`until`]'s, and with the words of the ended machine.
pub fn until_on<T>(
    vm: &Vm,
    what: &str,
    deadline: Duration,
    look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    until_while(|| vm.ensure_runs().with_context(|| what.to_owned()), what, deadline, look)
}

fn until_while<T>(
    alive: impl Fn() -> Result<()>,
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        alive()?;
        let began = Instant::now();
        let reason = match look() {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::Waiting(reason)) => reason,
            Err(fault) => format!("{fault:#}"),
        };
        if start.elapsed() > deadline {
            bail!("{what}: not within {} s; {reason}", deadline.as_secs());
        }
        std::thread::sleep(pause_after(began.elapsed(), POLL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_alive_is_not_waited_for() {
        let fault = until_while::<()>(
            || bail!("it ended"),
            "an answer",
            Duration::from_secs(60),
            || Ok(Look::Waiting("not yet".into())),
        );
        assert!(fault.is_err_and(|fault| fault.to_string() == "it ended"));
    }

    #[test]
    fn only_a_panic_from_a_breakpoint_is_the_emulators() {
        assert!(stale_breakpoint("int3: 0000 [#1] PREEMPT SMP\nKernel panic - not syncing: Fatal exception"));
        assert!(!stale_breakpoint("Kernel panic - not syncing: no root that verifies"));
    }
}
