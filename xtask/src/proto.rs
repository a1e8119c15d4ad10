//! `cargo xtask gen-proto`: regenerates the checked-in Rust of the three protocols in machine/proto (needs protoc).
use std::path::Path;

use anyhow::{Context, Result};

/// Writes machine/src/proto/*.rs from machine/proto/*.proto.
///
/// # Errors
/// When protoc is missing or rejects a file.
pub fn generate() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let out = root.join("machine/src/proto");
    std::fs::create_dir_all(&out)?;
    // Debian 12's protoc predates `debug_redact`, and prost has no use for it: compile copies without the option.
    let sources = tempfile::tempdir()?;
    let mut files = Vec::new();
    for name in ["cri.proto", "machine.proto", "socket.proto"] {
        let text = std::fs::read_to_string(root.join("machine/proto").join(name))?;
        let path = sources.path().join(name);
        std::fs::write(&path, text.replace(" [debug_redact = true]", ""))?;
        files.push(path);
    }
    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".pintle.machine.v1.Data")
        .compile_protos(&files, &[sources.path().to_path_buf()])
        .context("compile machine/proto/*.proto")?;
    for name in ["runtime.v1", "pintle.machine.v1"] {
        apart(&out, name)?;
    }
    Ok(())
}

/// What stands before the clients and servers that are generated.
const SERVICES: &str = "/// Generated client implementations.";

/// Moves clients and servers into a file of their own, so that messages can be had without gRPC.
fn apart(folder: &Path, name: &str) -> Result<()> {
    let file = folder.join(format!("{name}.rs"));
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let at = text.find(SERVICES).with_context(|| format!("{} has no services", file.display()))?;
    let (messages, services) = text.split_at(at);
    std::fs::write(folder.join(format!("{name}.services.rs")), services)?;
    std::fs::write(&file, messages).with_context(|| format!("write {}", file.display()))
}
