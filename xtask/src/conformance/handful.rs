//! The few specs that are part of every test run, in a cluster that somebody else started.
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use qemu_tests::cluster::Programs as ClusterPrograms;
use qemu_tests::e2e::{Outcome, State};
use qemu_tests::{Cluster, Progress, Vm};

use super::programs::{Programs, Set};
use super::{HOST, SMOKE, images, report, run};
use crate::go;
use crate::oci::registry::Registry;

/// What the names of the specs begin with.
const SPECS: [&str; 6] = [
    "[sig-node] Pods should support remote command execution over websockets",
    "[sig-node] InitContainer should not start app containers and fail the pod",
    "[sig-node] Secrets should be consumable via the environment",
    "[sig-storage] Projected combined should project all components",
    "[sig-network] DNS should provide /etc/hosts entries for the cluster",
    "[sig-apps] Job should run a job to completion when tasks sometimes fail",
];
/// Images that they use, by their last name.
const IMAGES: [&str; 2] = ["agnhost", "busybox"];

/// What the specs need; the registry runs as long as this value.
#[derive(Debug)]
pub struct Handful {
    programs: Programs,
    registry: Registry,
}

impl Handful {
    /// Builds the specs and their images, and starts the registry.
    ///
    /// # Errors
    /// When a part does not build.
    pub fn prepare() -> Result<Self> {
        let programs = Programs::build(Set::Tests)?;
        let images = images::registry_folder(&programs)?;
        let registry = Registry::serve(&go::build(&go::REGISTRY)?, &images)?;
        Ok(Self { programs, registry })
    }

    /// Where nodes pull from.
    #[must_use]
    pub fn mirror(&self) -> String {
        format!("http://{HOST}:{}", self.registry.port)
    }

    /// Runs the specs in the cluster of `folder`, whose machines are off afterwards; what came of each.
    ///
    /// # Errors
    /// When the machines do not run, or the suite cannot.
    pub fn run(&self, folder: &Path, programs: ClusterPrograms) -> Result<Vec<Outcome>> {
        let cluster = Cluster::load(folder, programs)?.context("the cluster's machines were not started")?;
        let images: Vec<String> = images::names(&self.programs)?
            .into_iter()
            .filter(|name| IMAGES.iter().any(|wanted| name.contains(&format!("/{wanted}:"))))
            .collect();
        let outcomes = if cluster.state.nodes.iter().all(Vm::runs) {
            run(&cluster, &self.programs, &specs()?, &images, &Progress::start())
        } else {
            Err(anyhow!("not all of the cluster's machines run"))
        };
        cluster.power_cut()?;
        let outcomes = outcomes?;
        match report(&outcomes, folder) {
            Ok(()) => std::fs::remove_dir_all(folder)?,
            Err(fault) => println!("FAILED   {fault:#}"),
        }
        Ok(outcomes)
    }
}

/// The full names.
fn specs() -> Result<BTreeSet<String>> {
    let full = |start: &str| SMOKE.lines().find(|line| line.starts_with(start)).map(str::to_owned);
    SPECS.iter().map(|start| full(start).with_context(|| format!("no spec begins with {start}"))).collect()
}

/// Passed, failed and skipped.
#[must_use]
pub fn counts(outcomes: &[Outcome]) -> [usize; 3] {
    [State::Passed, State::Failed, State::Skipped]
        .map(|state| outcomes.iter().filter(|outcome| outcome.state == state).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_one_of_the_project_s_list() {
        assert_eq!(specs().unwrap().len(), SPECS.len());
    }
}
