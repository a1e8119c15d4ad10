use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks that a hostPath is what its type says, and makes it for the types that ask for it.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), String> {
    let metadata = fs::metadata(path).ok();
    let name = path.display();
    let create = |made: io::Result<()>| match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!("create {name}: {error}")),
        _ => Ok(()),
    };
    let expect = |what: &str, is: fn(&fs::Metadata) -> bool| match &metadata {
        Some(found) if is(found) => Ok(()),
        _ => Err(format!("hostPath type check failed: {name} is not a {what}")),
    };
    match (kind, &metadata) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", None) => create(fs::DirBuilder::new().recursive(true).mode(0o755).create(path)),
        ("FileOrCreate", None) => {
            let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
            create(opened.map(drop))
        }
        ("Directory" | "DirectoryOrCreate", _) => expect("directory", fs::Metadata::is_dir),
        ("File" | "FileOrCreate", _) => expect("file", fs::Metadata::is_file),
        ("Socket", _) => expect("socket file", |found| found.file_type().is_socket()),
        ("CharDevice", _) => expect("character device", |found| found.file_type().is_char_device()),
        ("BlockDevice", _) => expect("block device", |found| found.file_type().is_block_device()),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}
