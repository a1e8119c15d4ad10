//! Leaving the initramfs for the root.
use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::MsFlags;

const ROOT: &str = "/root";

/// Mounts the verified device, moves the mounts of this stage into it, empties the initramfs and executes the second stage.
///
/// # Errors
/// When the root cannot be mounted or lacks the second stage. What was emptied by then is not needed to say so.
pub fn to(device: &Path) -> Result<Infallible> {
    let source = device.display().to_string();
    sys::mount::mount(&source, ROOT, "erofs", MsFlags::MS_RDONLY, "")
        .context("mount the verified root; is it an EROFS image?")?;
    let program = super::second_stage();
    let inside = format!("{ROOT}{program}");
    fs::metadata(&inside).with_context(|| format!("the root has no {program}"))?;
    for folder in ["/dev", "/proc", "/sys", "/run"] {
        sys::mount::move_to(folder, format!("{ROOT}{folder}"))?;
    }
    // Memory of the initramfs; a root image in it lives on in its loop device.
    for file in ["/init", "/root.img"] {
        let _ = fs::remove_file(file);
    }
    let _ = fs::remove_dir_all("/lib");
    nix::unistd::chdir(ROOT).context("enter the root")?;
    sys::mount::move_to(".", "/")?;
    nix::unistd::chroot(".").context("chroot to the root")?;
    nix::unistd::chdir("/").context("enter the new /")?;
    let path = CString::new(program)?;
    let none: [&std::ffi::CStr; 0] = [];
    nix::unistd::execve(&path, &[path.as_c_str()], &none).context("execute the second stage")
}
