//! A cluster of machines: a folder with its secrets, configs, disks, consoles and kubeconfig.
mod config;
mod state;
mod wait;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

pub use config::{ENDPOINT, NAME, generate, generated, node_config, on_lan};
pub use state::State;

use crate::network::{Forward, free_tcp_port, free_udp_port};
use crate::{Accel, Boot, Image, Kubectl, Spec, Vm};

/// Port of the API server on a control-plane node.
pub const API_SERVER_PORT: u16 = 6443;

/// Programs of the host that speak to a cluster.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The machine API's client.
    pub pintle: PathBuf,
    pub kubectl: PathBuf,
}

/// What a cluster consists of.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Machines in all.
    pub nodes: u8,
    /// How many of them run the control plane; the first ones.
    pub control_planes: u8,
    /// Memory of a control-plane machine in MiB; a worker gets half.
    pub memory: u32,
    /// Processors of a machine.
    pub processors: u32,
    pub accel: Accel,
    /// Further TCP ports of every machine that are forwarded.
    pub ports: Vec<u16>,
    /// Pods may run on control-plane machines too; on a single machine they always may.
    pub schedule_on_control_planes: bool,
    /// URL that the machines pull every image from, such as `http://10.0.2.2:5000`: a registry on the host's loopback.
    pub mirror: Option<String>,
    /// Machine configs of nodes that are not to have the one that `pintle gen` makes.
    pub configs: BTreeMap<u8, String>,
    /// What every machine's kernel command line has besides.
    pub append: String,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            nodes: 1,
            control_planes: 1,
            memory: 3072,
            processors: 2,
            accel: Accel::detect(),
            ports: Vec::new(),
            schedule_on_control_planes: false,
            mirror: None,
            configs: BTreeMap::new(),
            append: String::new(),
        }
    }
}

/// A cluster that was started.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub folder: PathBuf,
    pub state: State,
    pub programs: Programs,
}

impl Cluster {
    /// Makes secrets and configs (secrets that are in `folder` are kept, as are disks) and starts the machines.
    ///
    /// # Errors
    /// When `pintle gen` or QEMU fails.
    pub fn start(folder: &Path, layout: &Layout, image: &Path, programs: Programs) -> Result<Self> {
        config::generate(&programs.pintle, folder, layout)?;
        let state = State { image: image.into(), lan: free_udp_port()?, nodes: Vec::new() };
        let mut cluster = Self { folder: folder.into(), state, programs };
        for number in 1..=layout.nodes {
            cluster.add(layout, number)?;
        }
        Ok(cluster)
    }

    /// Starts one more machine, which joins.
    ///
    /// # Errors
    /// When QEMU does not start.
    pub fn add(&mut self, layout: &Layout, number: u8) -> Result<Vm> {
        let spec = self.spec(layout, number)?;
        let vm = Vm::start(&spec, &self.folder.join(&spec.name))?;
        self.state.nodes.push(vm.clone());
        // At once: a start that stops here leaves machines that must be found later.
        self.state.save(&self.folder)?;
        Ok(vm)
    }

    /// The cluster that was last started in `folder`, if there is one.
    ///
    /// # Errors
    /// When its state file is damaged.
    pub fn load(folder: &Path, programs: Programs) -> Result<Option<Self>> {
        Ok(State::load(folder)?.map(|state| Self { folder: folder.into(), state, programs }))
    }

    /// Starts a machine again on its disks, with the ports it had.
    ///
    /// # Errors
    /// When there is no such node or QEMU does not start.
    pub fn start_again(&mut self, layout: &Layout, number: u8) -> Result<()> {
        let mut spec = self.spec(layout, number)?;
        let place = self.state.nodes.iter_mut().find(|vm| vm.number == number);
        let place = place.with_context(|| format!("no node {number}"))?;
        spec.forwards.clone_from(&place.forwards);
        *place = Vm::start(&spec, &self.folder.join(&spec.name))?;
        self.state.save(&self.folder)
    }

    fn spec(&self, layout: &Layout, number: u8) -> Result<Spec> {
        let control_plane = number <= layout.control_planes;
        let image = Image::open(&self.state.image)?;
        let mut spec = Spec::new(&format!("{NAME}-{number}"), Boot::Kernel(image));
        spec.number = number;
        spec.accel = layout.accel;
        spec.memory = if control_plane { layout.memory } else { layout.memory / 2 };
        spec.processors = layout.processors;
        spec.append.clone_from(&layout.append);
        spec.config = Some(match layout.configs.get(&number) {
            Some(config) => config.clone(),
            None => config::node_config(&self.folder, number, layout)?,
        });
        spec.lan = Some(self.state.lan);
        spec.forwards.push(Forward { host: free_tcp_port()?, guest: machine::paths::API_PORT });
        for guest in &layout.ports {
            spec.forwards.push(Forward { host: free_tcp_port()?, guest: *guest });
        }
        if control_plane {
            spec.forwards.push(Forward { host: free_tcp_port()?, guest: API_SERVER_PORT });
        }
        Ok(spec)
    }

    /// The administrator's kubeconfig; it is there once the machine API answered.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// kubectl for this cluster.
    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl { binary: self.programs.kubectl.clone(), kubeconfig: self.kubeconfig() }
    }

    /// A node by name or number.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, name: &str) -> Result<&Vm> {
        self.state.node(name)
    }

    /// `pintle`, told which machine to ask.
    ///
    /// # Errors
    /// When the machine's API is not forwarded.
    pub fn pintle(&self, vm: &Vm) -> Result<Command> {
        let mut command = Command::new(&self.programs.pintle);
        command.arg("--config").arg(self.folder.join("pintleconfig"));
        command.arg("--nodes").arg(format!("127.0.0.1:{}", vm.port(machine::paths::API_PORT)?));
        Ok(command)
    }

    /// Cuts the power of every machine; disks, logs and secrets stay.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn power_cut(&self) -> Result<()> {
        self.state.nodes.iter().try_for_each(Vm::power_cut)
    }
}
