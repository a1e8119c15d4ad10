//! The direction of imports between our crates, which keeps parts apart that speak over a seam.
use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use qemu_tests::command::command_output;

use crate::artifacts::cargo;

/// Who may import whom; a crate that is not named here may import nothing of ours.
const ALLOWED: &[(&str, &[&str])] = &[
    ("machine", &[]),
    ("sys", &[]),
    ("demo", &[]),
    ("inspector", &[]),
    ("init", &["machine", "sys"]),
    ("images", &["machine"]),
    ("runtime", &["machine", "sys", "images"]),
    ("agent", &["machine", "sys"]),
    ("control-plane", &["machine", "sys"]),
    // One executable for all of them; nothing but their entry points is called.
    ("services", &["sys", "init", "runtime", "agent", "control-plane"]),
    ("image-builder", &["machine", "sys"]),
    ("ctl", &["machine", "sys"]),
    ("qemu-tests", &["machine"]),
    ("xtask", &["machine", "qemu-tests"]),
    ("fuzz", &["machine", "images", "runtime"]),
];

/// Checks the workspace.
///
/// # Errors
/// With every import that goes the wrong way.
pub fn check() -> Result<()> {
    let text = command_output(cargo().args(["metadata", "--no-deps", "--locked", "--format-version", "1"]))?;
    let wrong = violations(&imports(&serde_json::from_str(&text)?)?);
    if !wrong.is_empty() {
        bail!("imports that go the wrong way (see ARCHITECTURE.md): {}", wrong.join(", "));
    }
    Ok(())
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
}
