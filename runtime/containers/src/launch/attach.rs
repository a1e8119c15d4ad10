//! The hook that attaches what libcontainer must not see while it sets up `/dev`: a pod's own mount there. libcontainer would make devices and links in
//! it, which are the host's if it is the host's `/dev`.
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use sys::mount_tree::Tree;

/// Attaches a copy of the tree at the second argument on `dev` in the root at the third. It runs in the container's mount namespace, before its root is
/// the root, as the only process of it.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(2).collect();
    let [source, root] = &arguments[..] else { return ExitCode::FAILURE };
    let attach = || -> std::io::Result<()> {
        let target: File = sys::beneath::open_in_root(Path::new(root), Path::new("dev"))?;
        Tree::copy(Path::new(source))?.attach_on(target.as_fd())
    };
    match attach() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
