//! The privileged pod that looks into a node, asked over a forwarded port: it answers while agent and runtime are dead.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Name of the image.
pub const IMAGE: &str = "pintle.dev/node-inspector:v1";
/// Port on the node's own network: outside of those that connections are given, one of which may have it already, and of NodePorts.
pub const PORT: u16 = 20990;

/// A look into one node.
#[derive(Debug, Clone)]
pub struct Inspector {
    /// Port on the host's loopback.
    pub port: u16,
    pub node: String,
}

impl Inspector {
    /// Runs a command of the inspector.
    pub fn ask(&self, words: &[&str]) -> Result<String> {
        let [command, words @ ..] = words else { anyhow::bail!("no command") };
        self.get(&format!("/{command}?{}", words.join("&")))
            .with_context(|| format!("ask {} for {command}", self.node))
    }

    /// Runs a command that answers with JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.ask(words)?)?)
    }

    fn get(&self, target: &str) -> Result<String> {
        let timeout = Some(crate::bench::within(20));
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {target} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(" 200 "), "{body}");
        Ok(body.to_owned())
    }
}
