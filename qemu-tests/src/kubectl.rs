//! The cluster, asked with the kubectl that was built.
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::command_output;

/// kubectl with its kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    pub binary: PathBuf,
    pub kubeconfig: PathBuf,
}

impl Kubectl {
    /// The command, ready for arguments; its requests end after 20 s.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.streaming();
        command.arg("--request-timeout=20s");
        command
    }

    /// The command for what takes as long as it takes: `logs -f`, `exec`, `port-forward`.
    #[must_use]
    pub fn streaming(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Runs it and returns its output.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        command_output(self.command().args(arguments))
    }

    /// Applies a manifest, YAML or JSON.
    ///
    /// # Errors
    /// When it fails, with its last words.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.submit("apply", manifest)
    }

    /// Creates the objects of a manifest, YAML or JSON.
    ///
    /// # Errors
    /// When it fails, with its last words; also when one of them is there already.
    pub fn create(&self, manifest: &str) -> Result<()> {
        self.submit("create", manifest)
    }

    fn submit(&self, verb: &str, manifest: &str) -> Result<()> {
        let mut child = self
            .command()
            .args([verb, "--filename", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let written = child.stdin.take().context("kubectl's input")?.write_all(manifest.as_bytes());
        let done = child.wait_with_output()?;
        ensure!(
            done.status.success(),
            "kubectl {verb} failed: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        written.context("give the manifest to kubectl")
    }

    /// Gets an object or list as JSON.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&[["get", "-o", "json"].as_slice(), arguments].concat())?)?)
    }
}

/// Nodes of a list that are not Ready, each with the reason; and how many there are in all.
#[must_use]
pub fn unready_nodes(list: &Value) -> (usize, Vec<String>) {
    let nodes = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let unready = nodes.iter().filter_map(|node| {
        let conditions = node["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        if ready.is_some_and(|ready| ready["status"] == "True") {
            return None;
        }
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let message = ready.and_then(|ready| ready["message"].as_str()).unwrap_or("no Ready condition yet");
        Some(format!("node {name}: {message}"))
    });
    (nodes.len(), unready.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unready_nodes_say_why() {
        let list = serde_json::json!({"items": [
            {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "b"}, "status": {"conditions": [{"type": "Ready", "status": "False", "message": "no network"}]}},
            {"metadata": {"name": "c"}},
        ]});
        assert_eq!(
            unready_nodes(&list),
            (3, vec!["node b: no network".into(), "node c: no Ready condition yet".into()])
        );
    }
}
