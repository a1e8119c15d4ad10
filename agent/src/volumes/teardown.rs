use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::{VolumeError, Volumes, mount_table};

/// How long removing all mounts and files of a pod may take.
const WITHIN: Duration = Duration::from_secs(120);

impl Volumes {
    /// Unmounts and removes everything of a pod whose containers are gone; no error when nothing is left.
    ///
    /// # Errors
    /// When a mount stays, in which case no file below it is touched; when a file cannot be removed; or after two minutes.
    pub async fn teardown(&self, uid: &str) -> Result<(), VolumeError> {
        let failed = |message: String| VolumeError::TearDown { uid: uid.to_owned(), message };
        // The uid becomes a path: refuse whatever is no name.
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return Err(failed("the uid is no file name".into()));
        }
        self.tokens.forget(uid);
        self.certificates.forget(uid);
        let dir = self.pod_dir(uid);
        let what = format!("unmount and remove {}", dir.display());
        let done = self.calls.run(uid, what, WITHIN, move || remove(&dir)).await;
        done.map_err(|hung| failed(hung.to_string()))?.map_err(failed)
    }
}

fn remove(dir: &Path) -> Result<(), String> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let mounts = || mount_table::below(&dir).map_err(|error| format!("read the mount table: {error}"));
    for point in mounts()? {
        let flags = MntFlags::UMOUNT_NOFOLLOW;
        let unmounted = match umount2(&point, flags) {
            // Somebody still looks at it; it goes when they do.
            Err(Errno::EBUSY) => umount2(&point, flags | MntFlags::MNT_DETACH),
            other => other,
        };
        match unmounted {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(format!("unmount {}: {error}", point.display())),
        }
    }
    // Files below a mount that stayed are somebody's data.
    if let Some(point) = mounts()?.first() {
        return Err(format!("{} is still mounted", point.display()));
    }
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}
