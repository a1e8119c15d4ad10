//! How much the file systems in memory may take. A tmpfs without bounds takes half of the memory and as many inodes as it likes; what fills
//! one of these fills that one only.
use nix::mount::MsFlags;

const MIB: u64 = 1 << 20;
/// A file of one page costs its page and an inode of the kernel's, some 700 bytes: half as many inodes again as such files fit.
const BYTES_PER_INODE: u64 = 2 << 10;

/// A file system in memory: its share of the memory, with a least and a most, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: &'static str,
    flags: MsFlags,
    mode: &'static str,
    /// An n-th of the memory.
    share: u64,
    least: u64,
    most: u64,
}

/// Sockets, locks and state of daemons, those in pods with a hostPath below it too: `flannel/subnet.env`, `xtables.lock`, `netns`. Not noexec,
/// because some of these daemons put programs there.
pub const RUN: Tmpfs = Tmpfs {
    target: "/run",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
    mode: "0755",
    share: 16,
    least: 16 * MIB,
    most: 128 * MIB,
};

/// Ours alone. The runtime's records are the largest part: 40 to 80 KiB for a pod of two containers (specs, records and notes of a page each), so
/// that 500 pods want 40 MiB, and a machine of 256 MiB has room for 400. Nothing is run from it: `pintle-launch` is a mount of its own there.
pub const PINTLE: Tmpfs = Tmpfs {
    target: machine::paths::RUN,
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC),
    mode: "0755",
    share: 8,
    least: 32 * MIB,
    most: 256 * MIB,
};

/// Nothing of ours writes to it.
pub const TMP: Tmpfs = Tmpfs {
    target: "/tmp",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
    mode: "1777",
    share: 16,
    least: 16 * MIB,
    most: 256 * MIB,
};

impl Tmpfs {
    /// The options for a machine of so many bytes of memory.
    fn options(&self, memory: u64) -> String {
        let size = (memory / self.share).clamp(self.least, self.most);
        format!("mode={},size={},nr_inodes={}", self.mode, size, size / BYTES_PER_INODE)
    }

    /// Mounts it.
    ///
    /// # Errors
    /// As mount(2).
    pub fn mount(&self) -> Result<(), sys::mount::MountError> {
        let options = self.options(memory());
        sys::mount::mount("tmpfs", self.target, "tmpfs", self.flags, &options)
    }
}

/// The memory of the machine in bytes. Where it cannot be read, the least is mounted.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Tmpfs; 3] = [RUN, PINTLE, TMP];

    #[test]
    fn what_is_full_of_files_leaves_the_smallest_worker_most_of_its_memory() {
        let worker = 256 * MIB;
        assert_eq!(PINTLE.options(worker), "mode=0755,size=33554432,nr_inodes=16384");
        assert_eq!(RUN.options(worker), "mode=0755,size=16777216,nr_inodes=8192");
        assert_eq!(TMP.options(worker), "mode=1777,size=16777216,nr_inodes=8192");
    }

    #[test]
    fn the_records_of_500_pods_fit_where_500_pods_do() {
        let (pods, bytes, files) = (500, 80 << 10, 40);
        let options = PINTLE.options(4096 * MIB);
        let number = |name: &str| -> u64 {
            options.split(',').find_map(|option| option.strip_prefix(name)).unwrap().parse().unwrap()
        };
        assert!(number("size=") >= pods * bytes, "{options}");
        assert!(number("nr_inodes=") >= pods * files, "{options}");
    }

    #[test]
    fn the_kernel_keeps_to_the_bounds() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root mounts");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().to_owned();
        // In a mount namespace of this thread's own, so that nobody else sees the mount.
        let figures = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let options = PINTLE.options(memory());
            sys::mount::mount("tmpfs", &target, "tmpfs", PINTLE.flags, &options).unwrap();
            let figures = nix::sys::statvfs::statvfs(&target).unwrap();
            (figures.blocks() * figures.fragment_size(), figures.files())
        });
        let size = (memory() / PINTLE.share).clamp(PINTLE.least, PINTLE.most);
        // The kernel counts in pages.
        let (bytes, files) = figures.join().unwrap();
        assert!(
            bytes.abs_diff(size) < 64 << 10 && files == size / BYTES_PER_INODE,
            "{bytes} bytes, {files} files"
        );
    }

    #[test]
    fn nothing_in_memory_takes_devices_or_other_users_rights() {
        for tmpfs in ALL {
            assert!(tmpfs.flags.contains(MsFlags::MS_NOSUID | MsFlags::MS_NODEV), "{}", tmpfs.target);
        }
        assert!(PINTLE.flags.contains(MsFlags::MS_NOEXEC));
    }
}
