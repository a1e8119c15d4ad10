//! No unverified byte of the OS runs.
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use qemu_tests::Boot;

use super::Outcome;
use crate::bench::{Bench, within};

/// One changed byte anywhere in the first block of metadata: refused, and the console says why.
pub fn corrupted(bench: &Bench) -> Result<Outcome> {
    let root = bench.folder.join("corrupted.img");
    std::fs::copy(&bench.image.root, &root)?;
    // Behind the superblock's UUID, so that the image is still found.
    flip(&root, 1024 + 100)?;
    let mut spec = bench.spec();
    spec.boot = Boot::Kernel(bench.image_with(&root, &bench.image.command_line));
    refused(bench, &spec)
}

/// A root hash that is not the root's: refused.
pub fn wrong_hash(bench: &Bench) -> Result<Outcome> {
    let hash = &bench.image.root_info.hash;
    let other: String = hash.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    let mut spec = bench.spec();
    spec.boot =
        Boot::Kernel(bench.image_with(&bench.image.root, &bench.image.command_line.replace(hash, &other)));
    refused(bench, &spec)
}

fn refused(bench: &Bench, spec: &qemu_tests::Spec) -> Result<Outcome> {
    let vm = bench.start(spec)?;
    let mut console = vm.console();
    vm.expect(&mut console, "refusing the root on", within(30))?;
    vm.expect(&mut console, "no root that verifies", within(30))?;
    vm.wait_off(within(30)).context("it reboots after the failure")?;
    ensure!(!vm.console().text()?.contains("its verity tree holds"), "the root was used");
    Ok(Outcome::Passed)
}

fn flip(path: &Path, at: u64) -> Result<()> {
    let mut file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut byte)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(file.write_all(&[byte[0] ^ 1])?)
}
