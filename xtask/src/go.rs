//! Programs of Go modules that tests run: fetched by the Go command, built once per input and kept in the cache.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use crate::artifacts::key;
use crate::host;

/// A program of a published module.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Name in the cache.
    pub name: &'static str,
    pub module: &'static str,
    pub version: &'static str,
    /// Package in the module, such as `./cmd/critest`.
    pub package: &'static str,
    /// Whether it is the package's test program.
    pub test: bool,
}

/// CNCF distribution, a registry.
pub const REGISTRY: Program = Program {
    name: "registry",
    module: "github.com/distribution/distribution/v3",
    version: "v3.1.2",
    package: "./cmd/registry",
    test: false,
};

/// Builds a static program, unless the cache has it; returns its path.
///
/// # Errors
/// When the module cannot be fetched or does not build.
pub fn build(program: &Program) -> Result<PathBuf> {
    let inputs = [
        command_output(Command::new("go").arg("version"))?,
        format!("{}@{} {} {}", program.module, program.version, program.package, program.test),
    ];
    built(program.name, &inputs, |out| {
        let source = fetch(program.module, program.version)?;
        let manifest = out.with_extension("mod");
        for (from, to) in [("go.mod", manifest.clone()), ("go.sum", out.with_extension("sum"))] {
            // The module's own files are read-only, and building may have to add to them.
            std::fs::write(&to, std::fs::read(source.join(from))?)?;
        }
        let mut command = Command::new("go");
        command.args(if program.test { ["test", "-c"].as_slice() } else { ["build"].as_slice() });
        command.arg(format!("-modfile={}", manifest.display()));
        command.args(["-trimpath", "-ldflags=-s -w", "-o"]).arg(out).arg(program.package);
        run(command.current_dir(source))
    })
}

fn built(name: &str, inputs: &[String], make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = host::cache()?.join("go").join(key(inputs));
    let binary = folder.join(name);
    if !binary.exists() {
        std::fs::create_dir_all(&folder)?;
        let part = folder.join(format!("{name}-{}", std::process::id()));
        make(&part).with_context(|| format!("build {name}"))?;
        std::fs::rename(&part, &binary)?;
    }
    Ok(binary)
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.env("CGO_ENABLED", "0").env_remove("GOFLAGS").status().context("run go")?;
    ensure!(done.success(), "go failed");
    Ok(())
}

fn fetch(module: &str, version: &str) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Module {
        #[serde(rename = "Dir")]
        dir: PathBuf,
    }
    let mut command = Command::new("go");
    command.args(["mod", "download", "-json", &format!("{module}@{version}")]).env("GOFLAGS", "-mod=mod");
    // Outside of any module of ours.
    let answer = command_output(command.current_dir("/"))?;
    let module: Module = serde_json::from_str(&answer).context("read what go says of the module")?;
    Ok(module.dir)
}
