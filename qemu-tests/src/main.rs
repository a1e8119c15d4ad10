//! Runs the QEMU cases; `cargo xtask test` builds what they need and calls this.
mod bench;
mod cases;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::Bench;
use cases::{CASES, Outcome};

const USAGE: &str = "usage: qemu-tests --image DIR --artifacts DIR [--only NAME]";

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
    let (mut image, mut artifacts, mut only) = (None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next();
        match word.as_str() {
            "--image" => image = value.map(PathBuf::from),
            "--artifacts" => artifacts = value.map(PathBuf::from),
            "--only" => only = value,
            _ => anyhow::bail!(USAGE),
        }
    }
    let (Some(image), Some(artifacts)) = (image, artifacts) else { anyhow::bail!(USAGE) };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in CASES.iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str())))
    {
        let bench = Bench::new(&image, &artifacts.join(case.name))?;
        let start = std::time::Instant::now();
        let outcome = (case.run)(&bench);
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("passed   {} ({seconds} s)", case.name);
                bench.discard()?;
            }
            Ok(Outcome::Skipped(reason)) => {
                skipped += 1;
                println!("SKIPPED  {}: {reason}", case.name);
            }
            Err(fault) => {
                failed += 1;
                bench.keep();
                println!(
                    "FAILED   {} ({seconds} s): {fault:#}\n  console log and disks: {}",
                    case.name,
                    bench.folder.display()
                );
            }
        }
    }
    println!("qemu: {passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed)
}
