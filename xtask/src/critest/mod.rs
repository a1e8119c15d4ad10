//! `cargo xtask critest`: the CRI validation suite against the runtime in a booted image.
//!
//! The suite runs on the node as a static pod: privileged, in the host's namespaces, on the CRI socket. Its image and those it pulls come from a registry on the
//! host. What it prints comes back over a TCP connection through QEMU's user network, its report at the end.
mod images;
mod report;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qemu_tests::{Accel, Boot, Image, Spec, Vm};
use serde_json::json;

use crate::artifacts::Flavour;
use crate::debian::Packages;
use crate::oci::registry::{self, Registry};
use crate::{go, host};
use qemu_tests::progress::Progress;

/// The host as guests of QEMU's user network see it.
const HOST: &str = "10.0.2.2";
/// Any free port of the guest.
const STREAM_PORT: u16 = 10010;
/// Between what the suite prints and its report.
const MARK: &str = "=== report ===";

/// Specs that are skipped by name, with the cause.
const LEFT_OUT: &[(&str, &str)] = &[(
    "public image with digest should be pulled and removed",
    "it pulls an upstream image by its fixed digest, which only the public registry has",
)];

/// Arguments of `critest`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How exec, attach and port-forward are spoken; default: one run with each.
    #[arg(long, value_enum)]
    streaming: Option<Streaming>,
    /// Only specs whose name matches this regular expression.
    #[arg(long)]
    focus: Option<String>,
    /// Build our executables without optimisation.
    #[arg(long)]
    debug: bool,
    /// Boots this image folder (with `image.json`) instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Only puts the registry's folder together, and says where it and the programs are: for a run of one's own.
    #[arg(long)]
    prepare: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Streaming {
    Spdy,
    Websocket,
}

impl Streaming {
    const fn name(self) -> &'static str {
        match self {
            Self::Spdy => "spdy",
            Self::Websocket => "websocket",
        }
    }
}

/// Runs the suite and prints what came of it.
///
/// # Errors
/// When a spec failed, or the suite did not run to its end.
pub fn critest(arguments: &Arguments) -> Result<()> {
    let progress = Progress::start();
    progress.step("checking the host", host::prepare)?;
    let registry_program = progress.step("building the registry", || go::build(&go::REGISTRY))?;
    let folder = progress.step("building the test images", registry_folder)?;
    if arguments.prepare {
        println!(
            "{}\n{}\n{}",
            registry_program.display(),
            folder.display(),
            go::build(&go::CRITEST)?.display()
        );
        return Ok(());
    }
    let image = match &arguments.image {
        Some(image) => image.clone(),
        None => progress.step("building the image", || {
            crate::boot::build(Flavour { debug: arguments.debug, without_kubernetes: true }, "none")
        })?,
    };
    let runs = arguments.streaming.map_or(vec![Streaming::Spdy, Streaming::Websocket], |one| vec![one]);
    let mut failed = 0;
    for streaming in runs {
        let registry = Registry::serve(&registry_program, &folder)?;
        let text = run(&image, &registry, streaming, arguments.focus.as_deref(), &progress)?;
        let report = report::read(&text, LEFT_OUT, arguments.focus.is_some())?;
        println!("\ncritest with {}:\n{}\n", streaming.name(), report.text());
        failed += report.failed.len();
    }
    ensure!(failed == 0, "{failed} specs failed; the whole output is in {}", logs()?.display());
    Ok(())
}

/// Where the suite's output goes.
fn logs() -> Result<PathBuf> {
    let folder = host::target().join("critest");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Builds programs and images into the folder that the registry serves.
fn registry_folder() -> Result<PathBuf> {
    let programs = images::Programs {
        tools: go::build_file("tools", &host::workspace().join("xtask/critest/tools.go"))?,
        critest: go::build(&go::CRITEST)?,
        packages: Packages::fetch(images::PACKAGES)?,
    };
    let folder = host::target().join("critest/registry");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    for image in images::all(&programs)? {
        registry::add(&folder, &image)?;
    }
    Ok(folder)
}

/// Boots, and returns the suite's report.
fn run(
    image: &Path,
    registry: &Registry,
    streaming: Streaming,
    focus: Option<&str>,
    progress: &Progress,
) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut spec = Spec::new("pintle-critest", Boot::Kernel(Image::open(image)?));
    spec.accel = Accel::detect();
    spec.memory = 3072;
    spec.config = Some(config(registry.port, &command(listener.local_addr()?.port(), streaming, focus))?);
    let scratch = tempfile::Builder::new().prefix("pintle-critest-").tempdir()?;
    let vm = Vm::start(&spec, scratch.path())?;
    let result = progress.step(&format!("running critest with {}", streaming.name()), || {
        let connection = accept(&listener, &vm, Duration::from_secs(180) * spec.accel.patience())?;
        follow(connection, &logs()?.join(format!("{}.log", streaming.name())))
    });
    let console = vm.console().text().unwrap_or_default();
    std::fs::write(logs()?.join(format!("{}-console.log", streaming.name())), console)?;
    vm.power_cut()?;
    result
}

fn command(port: u16, streaming: Streaming, focus: Option<&str>) -> String {
    let socket = machine::paths::CRI_SOCKET;
    let mut suite = format!(
        "critest -runtime-endpoint unix://{socket} -ginkgo.no-color -ginkgo.json-report=/tmp/report.json"
    );
    for (name, _) in LEFT_OUT {
        suite += &format!(" -ginkgo.skip={}", quoted(name));
    }
    if let Some(focus) = focus {
        suite += &format!(" -ginkgo.focus={}", quoted(focus));
    }
    if streaming == Streaming::Websocket {
        suite += " -websocket-exec -websocket-attach -websocket-portforward";
    }
    format!(
        // A slow machine may not have its packet filter within the runtime's patience.
        "(for try in $(seq 10); do pod-cidr {socket} 10.244.0.0/24 && break; sleep 5; done; cd /tmp && {suite}; echo '{MARK}'; cat /tmp/report.json) 2>&1 | nc {HOST} {port}"
    )
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Machine config: where the registries are, the loopback port for streams, and the suite's pod.
fn config(registry: u16, command: &str) -> Result<String> {
    let mut documents = vec![
        // Whatever hosts the suite's image names begin with.
        json!({"kind": "Registry", "host": "*", "mirrors": [format!("http://{HOST}:{registry}")]}),
        json!({"kind": "Runtime", "streamPort": STREAM_PORT}),
    ];
    // The suite makes files and mounts for its containers: they must lie at the same paths on the node.
    let shared = [
        ("/tmp", "Bidirectional"),
        ("/run/pintle", "None"),
        ("/var/lib", "HostToContainer"),
        ("/sys/kernel/security", "None"),
    ];
    let name = |path: &str| path.trim_matches('/').replace('/', "-");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "critest", "namespace": "default"},
        "spec": {
            "hostNetwork": true, "hostPID": true, "hostIPC": true, "restartPolicy": "Never",
            "volumes": shared.map(|(path, _)| json!({"name": name(path), "hostPath": {"path": path}})),
            "containers": [{
                "name": "critest", "image": format!("{}/{}:v1", images::SUITE_HOST, images::SUITE),
                "command": ["sh", "-c", command], "securityContext": {"privileged": true},
                "volumeMounts": shared.map(|(path, propagation)| json!({
                    "name": name(path), "mountPath": path, "mountPropagation": propagation,
                })),
            }],
        },
    });
    documents.push(json!({"kind": "StaticPod", "name": "critest", "pod": pod}));
    let mut text = String::new();
    for mut document in documents {
        document["apiVersion"] = machine::config::API_VERSION.into();
        text += &format!("---\n{}\n", serde_json::to_string(&document)?);
    }
    Ok(text)
}

/// Waits until the suite connects.
fn accept(listener: &TcpListener, vm: &Vm, patience: Duration) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false)?;
                return Ok(connection);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        vm.ensure_runs()?;
        ensure!(
            start.elapsed() < patience,
            "the suite has not started within {} s; the console:\n{}",
            patience.as_secs(),
            vm.console().tail()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Copies the suite's output to its log, telling each failure at once; returns the report.
fn follow(connection: TcpStream, path: &Path) -> Result<String> {
    // Every spec has deadlines of its own; the longest silence is a few minutes.
    connection.set_read_timeout(Some(Duration::from_secs(900)))?;
    let mut log = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut lines = BufReader::new(connection);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line).context("hear from the suite")? == 0 {
            bail!("the suite's connection ended before its report");
        }
        if line.trim_end() == MARK {
            break;
        }
        log.write_all(line.as_bytes())?;
        if line.starts_with("• [FAILED]") || line.contains("[It]") && line.contains("[FAIL]") {
            println!("  {}", line.trim_end());
        }
    }
    let mut report = String::new();
    std::io::Read::read_to_string(&mut lines, &mut report).context("hear the suite's report")?;
    ensure!(
        report.starts_with('['),
        "the suite has written no report; what it printed is in {}",
        path.display()
    );
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_config_is_one() {
        let text = config(5000, &command(7, Streaming::Websocket, Some("it's"))).unwrap();
        let config = machine::config::parse("critest", &text).unwrap();
        assert_eq!(config.registries.len(), 1);
        assert_eq!(config.runtime.stream_port, Some(STREAM_PORT));
        let pod = config.static_pods[0].pod.to_string();
        assert!(pod.contains(r"-ginkgo.focus='it'\\''s'") && pod.contains("-websocket-exec"), "{pod}");
    }
}
