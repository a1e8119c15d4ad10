use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

#[derive(Args)]
pub struct Validate {
    /// Machine config files; each is checked by itself.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub fn run(args: &Validate) -> Result<()> {
    let mut faults = 0;
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        match machine::config::parse(&file.display().to_string(), &text) {
            Ok(_) => println!("{}: valid", file.display()),
            Err(found) => {
                faults += found.len();
                for fault in found {
                    println!("{fault}");
                }
            }
        }
    }
    if faults > 0 {
        bail!("{faults} fault(s); correct them and run `pintle validate` again");
    }
    Ok(())
}
