//! The executable of `pintle-launch`, where nobody can write to it.
use std::io;

/// Where [`seal`] puts the executable.
fn sealed() -> std::path::PathBuf {
    std::path::Path::new(machine::paths::RUNTIME_RUN).join("pintle-launch")
}

/// Mounts the executable read-only at a place of its own, and starts it from there: a container that gets hold of it by /proc/<pid>/exe cannot write to it
/// (CVE-2019-5736), wherever the file lies.
///
/// # Errors
/// As open_tree(2), mount_setattr(2) and move_mount(2).
pub fn seal() -> io::Result<()> {
    let place = sealed();
    crate::namespaces::unmount(&place)?;
    std::fs::File::create(&place)?;
    let tree = sys::mount_tree::Tree::copy(&unsealed())?;
    tree.propagate(sys::mount_tree::Propagation::Private)?;
    tree.read_only()?;
    tree.attach(&place)
}

/// The executable to start.
pub fn program() -> std::path::PathBuf {
    let sealed = sealed();
    // Empty where nothing is mounted.
    if std::fs::metadata(&sealed).is_ok_and(|metadata| metadata.len() > 0) { sealed } else { unsealed() }
}

/// Beside our own executable, so that tests use what they built.
fn unsealed() -> std::path::PathBuf {
    let ours = std::env::current_exe().ok();
    let sibling = ours.as_deref().and_then(|path| path.parent()).map(|folder| folder.join("pintle-launch"));
    sibling
        .filter(|path| path.exists())
        .unwrap_or_else(|| format!("{}/pintle-launch", machine::paths::BIN).into())
}
