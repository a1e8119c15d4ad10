//! Kernel modules: which ones a device or a name asks for (depmod's text indexes), and loading them with what they need.
//!
//! PID 1's own program also answers the kernel's requests (`/proc/sys/kernel/modprobe`), so file systems, ciphers and nftables expressions load
//! when they are first used.
mod index;
mod load;

use index::Index;
pub use load::{Modules, device_aliases, release};

use std::fs;

/// Answers a request of the kernel, `<program> -q -- <name or alias>`; the name is `None` for any other command line.
pub fn requested(arguments: &[String]) -> Option<&str> {
    match arguments {
        [_, quiet, dashes, name] if quiet == "-q" && dashes == "--" => Some(name),
        _ => None,
    }
}

/// Tells the kernel to ask `program` for modules.
///
/// # Errors
/// When /proc is not mounted or the kernel has no module loading.
pub fn answer_requests(program: &str) -> std::io::Result<()> {
    fs::write("/proc/sys/kernel/modprobe", program)
}
