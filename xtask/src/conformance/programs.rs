//! Kubernetes' end-to-end tests and the programs of its test images, built unpatched from the module.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use crate::artifacts::{file_digests, key};
use crate::host;

/// What was built, and where the module's own files lie.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of `e2e.test`, `agnhost` and `nonewprivs`, named after its inputs.
    pub folder: PathBuf,
    /// The source of `k8s.io/kubernetes`.
    pub source: PathBuf,
}

impl Programs {
    /// Builds them, unless the cache has them for the same module and Go release.
    ///
    /// # Errors
    /// When the module cannot be fetched or does not build.
    pub fn build() -> Result<Self> {
        let module = host::workspace().join("xtask/conformance/kubernetes");
        let mut inputs = vec![command_output(Command::new("go").arg("version"))?];
        inputs.extend(file_digests(&module)?);
        let folder = host::cache()?.join("conformance").join(key(&inputs));
        if !folder.exists() {
            let part = folder.with_extension(format!("part-{}", std::process::id()));
            std::fs::create_dir_all(&part)?;
            let done = Command::new("sh")
                .arg(module.join("build"))
                .arg(&part)
                .env_remove("GOFLAGS")
                .status()
                .context("run xtask/conformance/kubernetes/build")?;
            ensure!(done.success(), "building Kubernetes' tests failed");
            std::fs::rename(&part, &folder)?;
        }
        let mut list = Command::new("go");
        list.args(["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]);
        let source = command_output(list.current_dir(module).env("GOFLAGS", "-mod=readonly"))?;
        Ok(Self { folder, source: source.trim().into() })
    }

    /// One of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}
