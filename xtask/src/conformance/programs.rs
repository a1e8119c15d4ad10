//! Kubernetes' end-to-end tests, the programs of its test images and its kubelet, built unpatched from the module.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use crate::artifacts::{file_digests, key};
use crate::host;

/// What was built, and where the module's own files lie.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of the programs, named after its inputs.
    pub folder: PathBuf,
    /// The source of `k8s.io/kubernetes`.
    pub source: PathBuf,
}

/// Which programs.
#[derive(Debug, Clone, Copy)]
pub enum Set {
    /// `e2e.test`, `agnhost` and `nonewprivs`.
    Tests,
    /// `kubelet` and `agnhost`.
    Kubelet,
}

impl Set {
    /// Its name for the module's script.
    const fn name(self) -> &'static str {
        match self {
            Self::Tests => "tests",
            Self::Kubelet => "kubelet",
        }
    }
}

impl Programs {
    /// Builds them, unless the cache has them for the same module and Go release.
    ///
    /// # Errors
    /// When the module cannot be fetched or does not build.
    pub fn build(set: Set) -> Result<Self> {
        let module = host::workspace().join("xtask/conformance/kubernetes");
        let mut inputs = vec![command_output(Command::new("go").arg("version"))?];
        inputs.extend(file_digests(&module)?);
        inputs.push(set.name().to_owned());
        let folder = host::cache()?.join("conformance").join(key(&inputs));
        if !folder.exists() {
            let part = folder.with_extension(format!("part-{}", std::process::id()));
            std::fs::create_dir_all(&part)?;
            let done = Command::new("sh")
                .arg(module.join("build"))
                .arg(&part)
                .arg(set.name())
                .env_remove("GOFLAGS")
                .status()
                .context("run xtask/conformance/kubernetes/build")?;
            ensure!(done.success(), "building Kubernetes' {} failed", set.name());
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
