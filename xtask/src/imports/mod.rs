//! The direction of imports between our crates, which keeps parts apart that speak over a seam, and between the modules of each.
mod modules;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use qemu_tests::command::command_output;

use crate::artifacts::cargo;

/// Who may import whom; a crate that is not named here may import nothing of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("machine", &[]),
    ("sys", &[]),
    ("node-kit", &["machine", "sys"]),
    ("demo", &[]),
    ("inspector", &[]),
    ("init", &["machine", "sys", "node-kit"]),
    ("net", &["machine", "sys", "node-kit"]),
    ("api", &["machine", "sys", "node-kit"]),
    ("config", &["machine", "sys"]),
    ("images", &["machine", "sys", "node-kit"]),
    ("pod-network", &["machine", "sys", "node-kit"]),
    ("streams", &["machine", "sys", "node-kit"]),
    ("containers", &["machine", "sys", "node-kit", "images", "pod-network", "streams"]),
    ("runtime", &["machine", "sys", "node-kit", "containers", "images", "pod-network", "streams"]),
    ("agent", &["machine", "sys", "node-kit"]),
    ("control-plane", &["machine", "sys", "node-kit"]),
    // One executable for all of them; nothing but their entry points is called.
    ("services", &["sys", "node-kit", "net", "api", "config", "runtime", "agent", "control-plane"]),
    ("image-builder", &["machine", "sys"]),
    ("ctl", &["machine", "sys"]),
    ("qemu-tests", &["machine"]),
    ("xtask", &["machine", "qemu-tests"]),
    ("fuzz", &["machine", "images", "pod-network", "streams", "containers"]),
];

/// Checks the workspace.
///
/// # Errors
/// With every import that goes the wrong way.
pub fn check() -> Result<()> {
    let text = command_output(cargo().args(["metadata", "--no-deps", "--locked", "--format-version", "1"]))?;
    let metadata = serde_json::from_str(&text)?;
    let wrong = violations(&imports(&metadata)?);
    if !wrong.is_empty() {
        bail!("imports that go the wrong way (see ARCHITECTURE.md): {}", wrong.join(", "));
    }
    let circles = circles(&metadata)?;
    let known: Vec<&str> = KNOWN_CIRCLES.lines().filter(|line| !line.starts_with('#')).collect();
    let new: Vec<&str> =
        circles.iter().map(String::as_str).filter(|circle| !known.contains(circle)).collect();
    if !new.is_empty() {
        bail!("modules that need each other; move what both need into a third:\n  {}", new.join("\n  "));
    }
    if let Some(open) = known.iter().find(|known| !circles.iter().any(|circle| circle == *known)) {
        bail!("the circle {open} is open now; take its line out of xtask/src/imports/circles.txt");
    }
    Ok(())
}

/// Circles of modules that are still to be opened; the list only becomes shorter.
const KNOWN_CIRCLES: &str = include_str!("circles.txt");

/// Every circle of modules of the workspace's crates, as `crate: place::{members}`.
fn circles(metadata: &Value) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        for target in package["targets"].as_array().into_iter().flatten() {
            let kinds = target["kind"].as_array().into_iter().flatten();
            let root = target["src_path"].as_str().unwrap_or_default();
            if kinds.into_iter().any(|kind| kind == "lib" || kind == "bin") {
                let circles = modules::Crate::read(Path::new(root))?.circles();
                found.extend(circles.into_iter().map(|circle| format!("{name}: {circle}")));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Each package of the workspace with those of ours that it imports.
fn imports(metadata: &Value) -> Result<BTreeMap<String, Vec<String>>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let name = |package: &Value| package["name"].as_str().unwrap_or_default().to_owned();
    let ours: Vec<String> = packages.iter().map(name).collect();
    Ok(packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
            (name(package), needs.iter().map(name).filter(|needed| ours.contains(needed)).collect())
        })
        .collect())
}

fn violations(imports: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (package, needs) in imports {
        let may = allowed.get(package.as_str()).copied().unwrap_or_default();
        wrong.extend(
            needs
                .iter()
                .filter(|needed| !may.contains(&needed.as_str()))
                .map(|needed| format!("{package} -> {needed}")),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_must_not_import_the_runtime() {
        let metadata = serde_json::json!({"packages": [
            {"name": "agent", "dependencies": [{"name": "machine"}, {"name": "runtime"}, {"name": "serde"}]},
            {"name": "runtime", "dependencies": []},
            {"name": "machine", "dependencies": []},
        ]});
        let found = imports(&metadata).map(|imports| violations(&imports)).unwrap_or_default();
        assert_eq!(found, ["agent -> runtime"]);
    }

    #[test]
    fn no_crate_has_a_circle_of_modules_that_is_not_known() {
        check().unwrap();
    }
}
