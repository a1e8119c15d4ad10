//! What the fuzz targets share. A target (`targets/*.rs`) is one property of one parser, that holds for any bytes; [`target!`] makes
//! a program of it: with libFuzzer around it (feature `libfuzzer`), or one that runs over the files that it is given. As a unit test
//! each target runs over its part of `corpus/` and of `regressions/`.
pub mod bpf;
pub mod cni;
pub mod config;
pub mod layer;
pub mod log;
pub mod sandbox;
pub mod spdy;
pub mod tree;

use std::path::{Path, PathBuf};

/// The program of a target, whose property is a function of bytes that panics where it does not hold.
#[macro_export]
macro_rules! target {
    ($property:path) => {
        #[cfg(feature = "libfuzzer")]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $property(bytes));

        #[cfg(not(feature = "libfuzzer"))]
        fn main() -> std::io::Result<()> {
            std::env::args_os().skip(1).try_for_each(|path| $crate::replay(path.as_ref(), $property))
        }

        #[test]
        fn every_kept_input_holds() {
            $crate::replay_kept(env!("CARGO_CRATE_NAME"), $property);
        }
    };
}

/// Runs a property over a file, or over each file of a folder.
///
/// # Errors
/// When a file cannot be read.
pub fn replay(path: &Path, property: fn(&[u8])) -> std::io::Result<()> {
    if path.is_dir() {
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        files.sort();
        return files.iter().try_for_each(|file| replay(file, property));
    }
    println!("Running: {}", path.display());
    property(&std::fs::read(path)?);
    Ok(())
}

/// Runs a property over what the repository keeps for a target.
///
/// # Panics
/// When it does not hold, or there is no corpus.
pub fn replay_kept(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    replay(&folder.join("corpus").join(target), property).expect("the target's corpus");
    let regressions = folder.join("regressions").join(target);
    if regressions.exists() {
        replay(&regressions, property).expect("the target's regressions");
    }
}
