//! The QEMU machine protocol over a unix socket; a connection per command is enough here.
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest reply that is read.
const MAX_REPLY: u64 = 1 << 20;

/// Runs one command and returns its result.
///
/// # Errors
/// When QEMU does not answer within 20 s or refuses the command.
pub fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let stream =
        UnixStream::connect(socket).with_context(|| format!("connect to QEMU at {}", socket.display()))?;
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
