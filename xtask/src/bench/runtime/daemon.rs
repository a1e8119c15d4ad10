//! Starting a contender's daemon and giving it the image and a pod network.
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::client::Client;
use super::kind::Kind;
use super::{must, peers};

/// Room for a few thousand pods.
const RANGE: &str = "10.244.0.0/16";

/// A daemon that serves CRI.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pub client: Client,
}

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }
}

/// Starts the contender and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub async fn start(kind: Kind, programs: &Path, archive: &Path, folder: &Path) -> Result<Daemon> {
    let log = fs::File::create(folder.join("daemon.log"))?;
    let (mut command, socket) = match kind {
        Kind::Pintle => {
            fs::create_dir_all(machine::paths::RUNTIME_STATE)?;
            (Command::new(programs.join("pintle-runtime")), PathBuf::from(machine::paths::CRI_SOCKET))
        }
        Kind::Runc | Kind::Crun => containerd(kind, programs, folder)?,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", kind.title()))?;
    wait_for(&socket, &mut child)?;
    let mut client = Client::new(socket)?;
    if kind == Kind::Pintle {
        client.set_range(RANGE).await?;
        import(archive)?;
    }
    client.wait_ready().await?;
    if kind != Kind::Pintle {
        let ctr = ["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images", "import", "--local"];
        must(Command::new(programs.join("ctr")).args(ctr).arg(archive)).context("import the image")?;
    }
    Ok(Daemon { child, client })
}

fn wait_for(socket: &Path, child: &mut Child) -> Result<()> {
    let start = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended at once: {status}");
        }
        ensure!(start.elapsed() < Duration::from_secs(60), "no {} within 60 s", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Hands the archive to our runtime.
fn import(archive: &Path) -> Result<()> {
    let mut socket =
        UnixStream::connect(machine::paths::IMPORT_SOCKET).context("connect to the import socket")?;
    socket.write_all(&fs::read(archive)?)?;
    socket.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    ensure!(answer.contains("names"), "the image was not imported: {answer}");
    Ok(())
}

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// containerd with its network: a bridge with masquerade and host ports in nftables, as ours has.
fn containerd(kind: Kind, programs: &Path, folder: &Path) -> Result<(Command, PathBuf)> {
    let network = folder.join("net.d");
    fs::create_dir_all(&network)?;
    let conflist = serde_json::json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "ipMasqBackend": "nftables",
             "ipam": {"type": "host-local", "ranges": [[{"subnet": RANGE}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}},
        ],
    });
    fs::write(network.join("10-bench.conflist"), conflist.to_string())?;
    let runtime = programs.join(kind.name());
    let config = format!(
        "version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
[grpc]
address = '{CONTAINERD_SOCKET}'
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{image}'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{runtime}'
SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{plugins}']
conf_dir = '{network}'
",
        image = super::image::NAME,
        runtime = runtime.display(),
        plugins = programs.join("cni").display(),
        network = network.display(),
    );
    let path = folder.join("config.toml");
    fs::write(&path, config)?;
    let mut command = Command::new(programs.join("containerd"));
    command.arg("--config").arg(path);
    let search = std::env::var("PATH").unwrap_or_default();
    // The shim is searched in PATH, and crun finds its libraries through it.
    command.env("PATH", format!("{}:{search}", programs.display()));
    if kind == Kind::Crun {
        command.env("LD_LIBRARY_PATH", programs.join(peers::CRUN_LIBRARIES));
    }
    Ok((command, CONTAINERD_SOCKET.into()))
}
