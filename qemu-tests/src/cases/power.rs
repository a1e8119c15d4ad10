//! Switching on and off.
use anyhow::{Result, ensure};

use super::Outcome;
use crate::bench::{Bench, within};

/// A machine without a config boots, on a processor that has neither random numbers nor anything else beyond x86-64-v1, and the power button stops it with
/// its file systems unmounted.
pub fn button(bench: &Bench) -> Result<Outcome> {
    let mut spec = bench.spec();
    // QEMU takes the last of several models.
    spec.extra = ["-cpu", "qemu64"].map(String::from).into();
    let vm = bench.start(&spec)?;
    let mut console = vm.console();
    vm.expect(&mut console, "its verity tree holds", within(30))?;
    vm.expect(&mut console, "waiting for machine config", within(30))?;
    vm.press_power_button()?;
    vm.wait_off(within(30))?;
    ensure!(!vm.console().text()?.contains("Kernel panic"), "the kernel panicked");
    Ok(Outcome::Passed)
}
