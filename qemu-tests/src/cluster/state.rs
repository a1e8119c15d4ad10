//! What a started cluster leaves behind for later commands: `state.json` in its folder.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::Vm;

/// A cluster that was started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Folder of the image the machines boot.
    pub image: PathBuf,
    /// UDP port of the machines' LAN.
    pub lan: u16,
    pub nodes: Vec<Vm>,
}

impl State {
    /// The last cluster, if there is one.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("state.json");
        match std::fs::read(&path) {
            Ok(text) => {
                Ok(Some(serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?))
            }
            Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let part = folder.join("state.json.part");
        std::fs::write(&part, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", part.display()))?;
        Ok(std::fs::rename(part, folder.join("state.json"))?)
    }

    /// A node by name or number.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, name: &str) -> Result<&Vm> {
        let found = self.nodes.iter().find(|vm| vm.name == name || vm.number.to_string() == name);
        let names: Vec<&str> = self.nodes.iter().map(|vm| vm.name.as_str()).collect();
        found.with_context(|| format!("no node {name}; there are {}", names.join(", ")))
    }
}
