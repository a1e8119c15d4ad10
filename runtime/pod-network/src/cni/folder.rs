//! The folder of network configurations, looked at anew at each use: an installer's new file is the next pod's configuration, without anybody being told.
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Error;
use super::config::{self, Fault, NetworkConfig};

/// Larger than any configuration.
const MAX_FILE: u64 = 1 << 20;

/// Reads the configuration in force: the lexically first file that ends in `.conflist`, `.conf` or `.json`, as other runtimes choose it. A broken one is
/// not passed over: pods would land in another network than the administrator means.
///
/// # Errors
/// Without a file, and with what is wrong in which file.
pub fn load(folder: &Path) -> Result<NetworkConfig, Error> {
    let failed = |error| Error::Io(format!("read {}", folder.display()), error);
    let Some(path) = files(folder, &["conflist", "conf", "json"]).map_err(failed)?.into_iter().next() else {
        return Err(Error::NoConfig(folder.into()));
    };
    let parse = if has_extension(&path, "conflist") { config::parse_list } else { config::parse_single };
    let network = read(&path, parse)?;
    let mut further = Vec::new();
    if !network.load_only_inlined_plugins {
        for path in files(&folder.join(&network.name), &["conf"]).map_err(failed)? {
            further.push(read(&path, config::parse_plugin)?);
        }
    }
    config::complete(network, further).map_err(|fault| Error::Config { path, fault })
}

/// Files with one of these extensions, in the order of their names; none in a folder that is not there.
fn files(folder: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if extensions.iter().any(|extension| has_extension(&path, extension)) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// `.conflist` alone has an extension too, in the eyes of those who wrote the convention.
fn has_extension(path: &Path, extension: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.rsplit_once('.').is_some_and(|(_, found)| found == extension)
}

fn read<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, Fault>) -> Result<T, Error> {
    let failed = |error| Error::Io(format!("read {}", path.display()), error);
    let mut bytes = Vec::new();
    // Whatever lies there under this name must not hold us up, such as a pipe.
    let file =
        OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    parse(&bytes).map_err(|fault| Error::Config { path: path.into(), fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    const LIST: &str = r#"{"name": "x", "cniVersion": "1.1.0", "plugins": [{"type": "a"}]}"#;

    #[test]
    fn the_first_file_is_used_and_others_are_not_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(load(folder.path()), Err(Error::NoConfig(_))));
        assert!(matches!(load(&folder.path().join("none")), Err(Error::NoConfig(_))));
        write(folder.path(), "00-notes.txt", "{");
        write(folder.path(), "00-old.conflist.bak", "{");
        write(folder.path(), "20-b.conflist", LIST);
        assert_eq!(load(folder.path()).unwrap().name, "x");
        write(folder.path(), "10-a.conf", r#"{"name": "y", "cniVersion": "0.3.1", "type": "b"}"#);
        assert_eq!(load(folder.path()).unwrap().name, "y");
        write(folder.path(), "05-a.json", r#"{"name": "z", "cniVersion": "0.3.1", "type": "b"}"#);
        assert_eq!(load(folder.path()).unwrap().name, "z");
    }

    #[test]
    fn a_broken_file_is_named_and_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "20-b.conflist", LIST);
        write(folder.path(), "10-a.conflist", r#"{"name": "x", "cniVersion": "1.1.0", "plugins": ["#);
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("10-a.conflist") && error.contains("line 1 column"), "{error}");
        write(folder.path(), "10-a.conflist", &" ".repeat((1 << 20) + 1));
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("10-a.conflist") && error.contains("larger than 1 MiB"), "{error}");
    }

    #[test]
    fn the_networks_own_folder_adds_plugins_unless_only_inlined_ones_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "10-a.conflist", LIST);
        write(folder.path(), "x/20.conf", r#"{"type": "c"}"#);
        write(folder.path(), "x/10.conf", r#"{"type": "b"}"#);
        let programs = || -> Vec<String> {
            load(folder.path()).unwrap().plugins.into_iter().map(|plugin| plugin.program).collect()
        };
        assert_eq!(programs(), ["a", "b", "c"]);
        write(
            folder.path(),
            "10-a.conflist",
            &LIST.replace(r#""plugins""#, r#""loadOnlyInlinedPlugins": true, "plugins""#),
        );
        assert_eq!(programs(), ["a"]);
    }
}
