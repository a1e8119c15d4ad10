//! The peers: containerd, runc and the CNI plugins from their Go modules, crun from Debian. Built once for each set of versions and recipes.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::command::command_output;

use super::{image, must};
use crate::{artifacts, host};

const CONTAINERD: &str = "github.com/containerd/containerd/v2@v2.4.2";
const RUNC: &str = "github.com/opencontainers/runc@v1.5.2";
const PLUGINS: &str = "github.com/containernetworking/plugins@v1.9.1";
/// Debian packages of crun that a build host may lack.
const CRUN: &[&str] = &["crun", "libyajl2"];
/// Counts changes of what is done below.
const RECIPE: &str = "2";

/// containerd gives each sandbox two CPU shares, which no setting turns off. A host with cgroup v1 controllers has no `cpu` controller in
/// cgroup2, and runc refuses the sandbox; there, this is left out of it. It saves containerd one write.
const SHARES: &str = "func WithDefaultSandboxShares(ctx context.Context, client oci.Client, c *containers.Container, s *runtimespec.Spec) error {\n";

/// One Go program: module, package in it, cgo, tags, linker flags, and its name.
struct Program(&'static str, &'static str, bool, &'static str, &'static str, &'static str);

const PROGRAMS: &[Program] = &[
    Program(CONTAINERD, "./cmd/containerd", false, CONTAINERD_TAGS, "-s -w", "containerd"),
    Program(CONTAINERD, "./cmd/ctr", false, CONTAINERD_TAGS, "-s -w", "ctr"),
    Program(
        CONTAINERD,
        "./cmd/containerd-shim-runc-v2",
        false,
        "no_grpc netgo osusergo static_build",
        "-s -w",
        "containerd-shim-runc-v2",
    ),
    Program(
        RUNC,
        ".",
        true,
        "seccomp netgo osusergo",
        "-s -w -linkmode external -extldflags -static",
        "runc",
    ),
    Program(PLUGINS, "./plugins/main/bridge", false, "", "-s -w", "cni/bridge"),
    Program(PLUGINS, "./plugins/main/loopback", false, "", "-s -w", "cni/loopback"),
    Program(PLUGINS, "./plugins/ipam/host-local", false, "", "-s -w", "cni/host-local"),
    Program(PLUGINS, "./plugins/meta/portmap", false, "", "-s -w", "cni/portmap"),
];
const CONTAINERD_TAGS: &str = "no_btrfs no_devmapper no_zfs netgo osusergo static_build";

/// Builds what the cache lacks; returns the folder of programs.
///
/// # Errors
/// When a module or package cannot be had or does not build.
pub fn build() -> Result<PathBuf> {
    let shares = has_cpu_controller();
    let inputs: Vec<String> = PROGRAMS
        .iter()
        .map(|Program(module, package, cgo, tags, flags, name)| {
            format!("{module} {package} {cgo} {tags} {flags} {name}")
        })
        .chain([RECIPE.into(), shares.to_string(), command_output(Command::new("go").arg("version"))?])
        .collect();
    let folder = host::cache()?.join("peers").join(artifacts::key(&inputs));
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    let sources = folder.join("source");
    fs::create_dir_all(&sources)?;
    for Program(module, package, cgo, tags, flags, name) in PROGRAMS {
        if folder.join(name).exists() {
            continue;
        }
        eprintln!("building {name}");
        let source = source(module, &sources, shares)?;
        let done = Command::new("go")
            .args(["build", "-trimpath", "-mod=mod", "-tags", tags, "-ldflags", flags, "-o"])
            .arg(folder.join(name))
            .arg(package)
            .env("CGO_ENABLED", if *cgo { "1" } else { "0" })
            .env_remove("GOFLAGS")
            .current_dir(source)
            .status()
            .context("run go")?;
        ensure!(done.success(), "building {name} of {module} failed");
    }
    crun(&folder)?;
    image::program("crun", &folder.join("crun"))?;
    fs::remove_dir_all(&sources)?;
    fs::write(folder.join("complete"), "")?;
    Ok(folder)
}

/// Whether cgroup2 of this host has the `cpu` controller.
fn has_cpu_controller() -> bool {
    let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && cat /sys/fs/cgroup/cgroup.controllers";
    command_output(Command::new("unshare").args(["--mount", "sh", "-c", script]))
        .is_ok_and(|text| text.split_whitespace().any(|controller| controller == "cpu"))
}

/// A module's source as a writable copy of Go's module cache.
fn source(module: &str, sources: &Path, shares: bool) -> Result<PathBuf> {
    let copy = sources.join(module.replace(['/', '@'], "_"));
    if copy.exists() {
        return Ok(copy);
    }
    let text = command_output(Command::new("go").args(["mod", "download", "-json", module]))
        .with_context(|| format!("download {module}"))?;
    let answer: serde_json::Value = serde_json::from_str(&text)?;
    let cached = answer["Dir"].as_str().with_context(|| format!("{module} has no folder"))?;
    let part = copy.with_extension("part");
    must(Command::new("cp").args(["-r", cached]).arg(&part))?;
    must(Command::new("chmod").args(["-R", "u+w"]).arg(&part))?;
    if module == CONTAINERD && !shares {
        let path = part.join("internal/cri/opts/spec_opts.go");
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(SHARES), "{} is not as expected", path.display());
        fs::write(path, text.replace(SHARES, &format!("{SHARES}\treturn nil\n}}\n\n{}", renamed())))?;
    }
    fs::rename(&part, &copy)?;
    Ok(copy)
}

/// The function's body stays, under a name that nobody calls: so its imports stay in use.
fn renamed() -> String {
    SHARES.replace("WithDefault", "withDefault")
}

/// crun and its libraries, unpacked beside the others; nothing is installed.
fn crun(folder: &Path) -> Result<()> {
    let debian = folder.join("debian");
    fs::create_dir_all(&debian)?;
    must(Command::new("apt-get").args(["-q", "download"]).args(CRUN).current_dir(&debian))
        .context("download crun; `apt-get update` may be missing")?;
    for entry in fs::read_dir(&debian)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            must(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&debian))?;
        }
    }
    Ok(())
}

/// crun's libraries below the folder of programs.
pub const CRUN_LIBRARIES: &str = "debian/usr/lib/x86_64-linux-gnu";
