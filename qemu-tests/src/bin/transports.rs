//! Boots every format of the OS to Ready; `cargo xtask test --ring transports` builds what it needs and calls this.
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use qemu_tests::cluster::Programs;
use qemu_tests::transports::{TRANSPORTS, Tools};

const USAGE: &str = "usage: transports --image-builder FILE --parts DIR --pintle FILE --kubectl FILE --artifacts DIR [--only NAME]";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases and returns how many failed.
fn run() -> Result<usize> {
    let mut options = std::collections::HashMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else { bail!(USAGE) };
        options.insert(name.to_owned(), words.next().context(USAGE)?);
    }
    let path =
        |name: &str| options.get(name).map(PathBuf::from).with_context(|| format!("--{name}: {USAGE}"));
    let tools = Tools {
        image_builder: path("image-builder")?,
        parts: path("parts")?,
        programs: Programs { pintle: path("pintle")?, kubectl: path("kubectl")? },
    };
    let artifacts = path("artifacts")?;
    let only = options.get("only").map(String::as_str).unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for transport in TRANSPORTS.iter().filter(|transport| transport.name.contains(only)) {
        let folder = artifacts.join(transport.name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder)?;
        let start = std::time::Instant::now();
        match transport.run(&tools, &folder) {
            Ok(()) => {
                passed += 1;
                println!("passed   {} ({} s)", transport.name, start.elapsed().as_secs());
                std::fs::remove_dir_all(&folder)?;
            }
            Err(fault) => {
                failed += 1;
                println!("FAILED   {} ({} s): {fault:#}", transport.name, start.elapsed().as_secs());
                println!("  console log and disks: {}", folder.display());
            }
        }
    }
    println!("transports: {passed} passed, {failed} failed, 0 skipped");
    Ok(failed)
}
