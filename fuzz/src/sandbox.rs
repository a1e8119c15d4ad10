//! Where layers are unpacked: a thread whose root directory is a file system in memory, in a mount namespace of its own. Whatever
//! leaves the layer's root changes a file there that is compared after each run, and never one of the host.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The layer's root; beside it, above it and at absolute paths lies what must not change.
pub const ROOT: &str = "/var/lib/layer";
const OUTSIDE: [&str; 4] = ["/etc/passwd", "/host", "/var/host", "/var/lib/host"];

type Property = fn(&[u8]);
type Sandbox = Mutex<(SyncSender<(Property, Vec<u8>)>, Receiver<()>)>;

/// Runs a property in the sandbox, with an empty [`ROOT`]; nothing without root, which owners and devices need.
///
/// # Panics
/// When the property does not hold, or something outside of [`ROOT`] changed.
pub fn run(property: Property, bytes: &[u8]) {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    if !nix::unistd::geteuid().is_root() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| println!("SKIPPED: layers can be unpacked by root only"));
        return;
    }
    let sandbox = SANDBOX.get_or_init(|| {
        let ((inputs, next), (done, finished)) = (sync_channel::<(Property, Vec<u8>)>(0), sync_channel(0));
        std::thread::spawn(move || {
            enter().expect("a root in memory");
            for (property, bytes) in next {
                guarded(property, &bytes);
                done.send(()).expect("someone waits");
            }
        });
        Mutex::new((inputs, finished))
    });
    let sandbox = sandbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sandbox.0.send((property, bytes.to_vec())).expect("the property did not hold");
    sandbox.1.recv().expect("the property did not hold");
}

/// For the calling thread alone.
fn enter() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    match mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>) {
        // In a chroot the root need not be a mount point; whoever made it has seen to its mounts.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("size=96m"))?;
    nix::unistd::chroot("/tmp")?;
    nix::unistd::chdir("/")?;
    for path in OUTSIDE {
        fs::create_dir_all(Path::new(path).parent().unwrap_or(Path::new("/")))?;
        fs::write(path, path)?;
    }
    Ok(())
}

fn guarded(property: Property, bytes: &[u8]) {
    fs::create_dir(ROOT).expect("make the layer's root");
    let before = outside();
    property(bytes);
    assert_eq!(outside(), before, "what lies outside of the layer's root changed");
    fs::remove_dir_all(ROOT).expect("remove the layer");
}

/// Everything outside of [`ROOT`], and of the root only that it is there.
fn outside() -> Vec<String> {
    let mut seen = Vec::new();
    look(Path::new("/"), &mut seen);
    seen.sort();
    seen
}

fn look(folder: &Path, seen: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let stat = path.symlink_metadata().expect("a file");
        let (mode, owner, links) = (stat.mode(), (stat.uid(), stat.gid()), stat.nlink());
        if path == Path::new(ROOT) {
            seen.push(format!("{path:?} {}", stat.ino()));
        } else if stat.is_dir() {
            seen.push(format!("{path:?} {mode:o} {owner:?} {}", stat.ino()));
            look(&path, seen);
        } else {
            let content = if stat.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() };
            let time = (stat.mtime(), stat.mtime_nsec());
            seen.push(format!("{path:?} {mode:o} {owner:?} {links} {time:?} {content:?}"));
        }
    }
}
