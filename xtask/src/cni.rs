//! The reference plugins of CNI, which the runtime's host ring connects pods with.
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::go::{self, Program};
use crate::host;

const MODULE: &str = "github.com/containernetworking/plugins";
const VERSION: &str = "v1.9.1";
/// Name and package.
const PLUGINS: &[(&str, &str)] = &[
    ("bridge", "./plugins/main/bridge"),
    ("host-local", "./plugins/ipam/host-local"),
    ("portmap", "./plugins/meta/portmap"),
    ("tuning", "./plugins/meta/tuning"),
    ("bandwidth", "./plugins/meta/bandwidth"),
];

/// Builds those that the cache lacks; returns a folder with all of them.
///
/// # Errors
/// When the module cannot be fetched or does not build.
pub fn plugins() -> Result<PathBuf> {
    let folder = host::target().join("cni-plugins");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    for (name, package) in PLUGINS {
        let program = Program { name, module: MODULE, version: VERSION, package, test: false };
        let built = go::build(&program)?;
        std::fs::copy(&built, folder.join(name)).with_context(|| format!("copy {}", built.display()))?;
    }
    Ok(folder)
}
