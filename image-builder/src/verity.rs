//! The root as one file: EROFS data, then dm-verity's superblock and hash tree.
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::run::{capture, run};

/// Block size of EROFS, verity data and verity hashes.
const BLOCK: u64 = 4096;

/// How the root's data is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As it is: builds in seconds, for virtual machines on the build host.
    None,
    /// LZ4 in its strongest setting, for everything that is shipped.
    Lz4hc,
}

/// What the kernel command line says about a root image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootInfo {
    /// Verity root hash, hex.
    pub hash: String,
    /// UUID in the EROFS superblock.
    pub uuid: String,
    /// Bytes of EROFS data; the verity superblock follows.
    pub size: u64,
}

impl RootInfo {
    /// The kernel command line's part that names this root.
    #[must_use]
    pub fn command_line(&self) -> String {
        use machine::paths::{CMDLINE_ROOT_HASH, CMDLINE_ROOT_SIZE, CMDLINE_ROOT_UUID};
        let Self { hash, uuid, size } = self;
        format!("{CMDLINE_ROOT_HASH}={hash} {CMDLINE_ROOT_UUID}={uuid} {CMDLINE_ROOT_SIZE}={size}")
    }
}

/// Makes `image` from the tree at `root`. Identifiers and salt follow from the tree's content.
///
/// # Errors
/// When mkfs.erofs or veritysetup fails.
pub fn build(root: &Path, image: &Path, compression: Compression) -> Result<RootInfo> {
    let content = digest::tree(root).context("digest the root tree")?;
    let seed = [content.as_slice(), format!("{compression:?}").as_bytes()].concat();
    let uuid = digest::uuid(&seed, "erofs");
    std::fs::remove_file(image).or_else(|fault| if image.exists() { Err(fault) } else { Ok(()) })?;
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args(["-T0", "--all-root", "-U"]).arg(uuid.to_string());
    if compression == Compression::Lz4hc {
        mkfs.args(["-zlz4hc,12", "-C65536"]);
    }
    run(mkfs.arg(image).arg(root)).context("make the EROFS image")?;
    let size = std::fs::metadata(image)?.len().next_multiple_of(BLOCK);
    std::fs::OpenOptions::new().write(true).open(image)?.set_len(size)?;
    let text = capture(
        Command::new("veritysetup")
            .args(["format", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--salt={}", hex::encode(content)))
            .arg(format!("--uuid={}", digest::uuid(&seed, "verity")))
            .arg(format!("--hash-offset={size}"))
            .arg(format!("--data-blocks={}", size / BLOCK))
            .arg(image)
            .arg(image),
    )
    .context("add the verity tree")?;
    let hash = root_hash(&text).context("veritysetup printed no root hash")?;
    ensure!(hash.len() == 64, "veritysetup printed a strange root hash: {hash}");
    Ok(RootInfo { hash, uuid: uuid.to_string(), size })
}

fn root_hash(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("Root hash:")).map(|hash| hash.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_root_hash() {
        let text = "VERITY header information for root.img\nUUID:            \t0\nRoot hash:      \tab12\n";
        assert_eq!(root_hash(text).as_deref(), Some("ab12"));
    }

    #[test]
    fn command_line_names_hash_uuid_and_size() {
        let info = RootInfo { hash: "ab".into(), uuid: "u".into(), size: 8192 };
        assert_eq!(info.command_line(), "pintle.root.hash=ab pintle.root.uuid=u pintle.root.size=8192");
    }
}
