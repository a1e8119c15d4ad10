//! Kernel and memory file systems.
use nix::mount::MsFlags;

use crate::tmpfs;

/// Mounts what the first stage has not. A failure is said and passed over; the console may not work yet.
pub fn mount_all() {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let no_devices = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // Optional ones are absent from some kernels.
    let mounts: [(&str, &str, MsFlags, &str, bool); 9] = [
        ("/dev/pts", "devpts", terminals, "gid=5,mode=0620,ptmxmode=0666", true),
        ("/dev/shm", "tmpfs", no_devices, "mode=1777", true),
        ("/dev/mqueue", "mqueue", safe, "", true),
        ("/dev/hugepages", "hugetlbfs", no_devices, "", false),
        ("/sys/fs/cgroup", "cgroup2", safe, "nsdelegate,memory_recursiveprot", true),
        ("/sys/fs/bpf", "bpf", safe, "mode=0700", false),
        ("/sys/kernel/tracing", "tracefs", safe, "", false),
        ("/sys/kernel/security", "securityfs", safe, "", false),
        ("/sys/firmware/efi/efivars", "efivarfs", safe, "", false),
    ];
    for (target, fstype, flags, data, required) in mounts {
        if !required && !std::path::Path::new(target).is_dir() && !target.starts_with("/dev") {
            continue;
        }
        match sys::mount::mount(fstype, target, fstype, flags, data) {
            Ok(()) => {}
            Err(error) if required => crate::console::line(&format!("ERROR {error}: {:?}", error.errno())),
            Err(_) => {}
        }
    }
    for tmpfs in [tmpfs::TMP, tmpfs::PINTLE] {
        if let Err(error) = tmpfs.mount() {
            crate::console::line(&format!("ERROR {error}: {:?}", error.errno()));
        }
    }
    if let Err(error) = sys::mount::share_all() {
        crate::console::line(&format!("ERROR {error}: containers will see no later mounts"));
    }
    for folder in ["/run/pintle/etc", "/run/lock"] {
        if let Err(error) = std::fs::create_dir_all(folder) {
            crate::console::line(&format!("ERROR create {folder}: {error}"));
        }
    }
}
