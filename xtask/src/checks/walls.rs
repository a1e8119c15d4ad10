//! What stands in no manifest below a crate: whole kinds of work that it must not be able to do, whatever it imports.
use anyhow::{Result, ensure};

use qemu_tests::command::command_output;

use crate::artifacts::cargo;

/// A crate of ours, and the crates that must not be among its dependencies or theirs.
const WALLS: &[(&str, &[&str])] = &[
    // PID 1 parses nothing that came over a network, and speaks to its helpers in messages.
    ("init", &["dhcproto", "hyper", "tonic", "rustls", "serde_yaml_ng", "saphyr-parser"]),
    // What reads config from anywhere has nothing to send it with.
    ("config", &["dhcproto", "hyper", "tonic", "rustls"]),
    // Of the runtime only its CRI server speaks gRPC.
    ("containers", &["tonic"]),
    ("images", &["tonic"]),
    ("pod-network", &["tonic"]),
    ("streams", &["tonic"]),
];

/// Asks cargo what each crate of [`WALLS`] stands on, for itself alone.
///
/// # Errors
/// With every crate that is behind a wall.
pub fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for (package, barred) in WALLS {
        let mut tree = cargo();
        tree.args([
            "tree",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ]);
        let text = command_output(&mut tree)?;
        wrong.extend(behind(&text, barred).map(|found| format!("{package} stands on {found}")));
    }
    ensure!(wrong.is_empty(), "{}; `cargo tree -p CRATE -e normal -i FOUND` shows how", wrong.join(", "));
    Ok(())
}

/// Those of the barred crates that stand in cargo's listing, a `name version` a line.
fn behind<'a>(tree: &'a str, barred: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    barred.iter().copied().filter(|name| tree.lines().any(|line| line.split(' ').next() == Some(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_found_by_its_whole_name() {
        let tree = "images v0.1.0\ntonic-prost v0.14.2\nhyper v1.8.1 (*)\n";
        assert_eq!(behind(tree, &["tonic", "hyper"]).collect::<Vec<_>>(), ["hyper"]);
    }
}
