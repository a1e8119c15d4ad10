//! The QEMU machine protocol over a unix socket; a connection per command is enough here.
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest reply that is read.
const MAX_REPLY: u64 = 1 << 20;

/// A socket under a name that is short enough for `sun_path` (108 bytes, unix(7)) however deep its folder lies.
#[derive(Debug)]
pub struct ShortName {
    /// Valid while this value lives, in every process that may see this one.
    pub path: PathBuf,
    _folder: File,
}

impl ShortName {
    /// Names a socket, which need not exist, by the descriptor of its folder.
    ///
    /// # Errors
    /// When the folder cannot be opened.
    pub fn new(socket: &Path) -> Result<Self> {
        let parent = socket.parent().context("a socket lies in a folder")?;
        let name = socket.file_name().context("a socket has a name")?;
        let folder = File::open(parent).with_context(|| format!("open {}", parent.display()))?;
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), folder.as_raw_fd());
        Ok(Self { path: Path::new(&descriptor).join(name), _folder: folder })
    }
}

/// Runs one command and returns its result.
///
/// # Errors
/// When QEMU does not answer within 20 s or refuses the command.
pub fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let short = ShortName::new(socket)?;
    let stream = UnixStream::connect(&short.path)
        .with_context(|| format!("connect to QEMU at {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(MAX_REPLY));
    let mut greeting = String::new();
    reader.read_line(&mut greeting).context("wait for QEMU's greeting")?;
    call(&stream, &mut reader, "qmp_capabilities", json!({}))?;
    call(&stream, &mut reader, command, arguments)
}

fn call(
    mut stream: &UnixStream,
    reader: &mut impl BufRead,
    command: &str,
    arguments: Value,
) -> Result<Value> {
    writeln!(stream, "{}", json!({"execute": command, "arguments": arguments}))
        .with_context(|| format!("send {command}"))?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).with_context(|| format!("wait for the reply to {command}"))? == 0 {
            bail!("QEMU closed the connection during {command}");
        }
        let reply: Value =
            serde_json::from_str(&line).with_context(|| format!("parse QEMU's reply to {command}"))?;
        if let Some(error) = reply.get("error") {
            bail!("QEMU refused {command}: {error}");
        }
        // Events come in between.
        if let Some(result) = reply.get("return") {
            return Ok(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_in_a_deep_folder_can_be_bound_and_reached() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a".repeat(90)).join("b".repeat(90));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("qmp.sock");
        assert!(UnixListener::bind(&socket).is_err());
        let _listener = UnixListener::bind(ShortName::new(&socket).unwrap().path).unwrap();
        assert!(UnixStream::connect(ShortName::new(&socket).unwrap().path).is_ok());
    }
}
