//! Machine configs with faults: each is refused with every fault's place and remedy, before anything is changed.
use std::io::Read;

use anyhow::{Context, Result, ensure};

use super::Outcome;
use crate::bench::{Bench, within};

/// A config and what must be said about it.
#[derive(Debug)]
pub struct Bad {
    pub name: &'static str,
    pub text: &'static str,
    pub faults: &'static [Fault],
}

/// One fault as it is reported.
#[derive(Debug)]
pub struct Fault {
    /// Line and column.
    place: &'static str,
    field: &'static str,
    /// A word of the message and one of the remedy.
    says: [&'static str; 2],
}

impl Fault {
    /// Whether a line of `text` reports it.
    pub fn is_in(&self, text: &str) -> bool {
        text.lines().any(|line| self.is_line(line))
    }

    fn is_line(&self, line: &str) -> bool {
        line.contains(&format!(":{}: {}:", self.place, self.field))
            && self.says.iter().all(|word| line.contains(word))
    }
}

const fn fault(place: &'static str, field: &'static str, says: [&'static str; 2]) -> Fault {
    Fault { place, field, says }
}

/// An unknown field, a wrong type (both at once), missing secrets, and ranges that overlap.
pub const BAD: &[Bad] = &[
    Bad {
        name: "an unknown field and a wrong type at once",
        text: "apiVersion: pintle.dev/v1alpha1\nkind: Machine\nrole: Worker\nhostnam: node-1\n---\n\
            apiVersion: pintle.dev/v1alpha1\nkind: NodeAgent\nmaxPods: many\n",
        faults: &[
            fault("4:1", "Machine.hostnam", ["unknown field", "did you mean hostname?"]),
            fault("8:10", "NodeAgent.maxPods", ["expected a whole number", "write a whole number"]),
        ],
    },
    Bad {
        name: "missing secrets",
        text: "apiVersion: pintle.dev/v1alpha1\nkind: Machine\nrole: Worker\n---\n\
            apiVersion: pintle.dev/v1alpha1\nkind: Cluster\nname: pintle\n\
            controlPlaneEndpoint: https://10.5.0.10:6443\n",
        faults: &[
            fault("5:1", "Cluster.ca", ["required field is missing", "add `ca:`"]),
            fault("5:1", "Cluster.bootstrapToken", ["required field is missing", "add `bootstrapToken:`"]),
        ],
    },
    Bad {
        name: "overlapping ranges, and a control plane's secrets missing",
        text: "apiVersion: pintle.dev/v1alpha1\nkind: Machine\nrole: ControlPlane\n---\n\
            apiVersion: pintle.dev/v1alpha1\nkind: Cluster\nname: pintle\n\
            controlPlaneEndpoint: https://10.5.0.10:6443\npodCIDRs: [10.244.0.0/16]\n\
            serviceCIDRs: [10.244.128.0/20]\nbootstrapToken: abcdef.0123456789abcdef\n\
            ca: {certificate: none}\n",
        faults: &[
            fault("9:12", "Cluster.podCIDRs[0]", ["overlaps", "no address in common"]),
            fault("5:1", "Cluster.etcdCA", ["a control-plane machine needs it", "`pintle gen config`"]),
            fault("12:19", "Cluster.ca.certificate", ["certificate", "PEM"]),
        ],
    },
];

/// A machine that gets such a config by fw_cfg says every fault on its console and waits; its disk stays as it was.
pub fn on_console(bench: &Bench) -> Result<Outcome> {
    // One boot; the other configs go through the same parser in `pintle validate` and `pintle apply`.
    let bad = &BAD[0];
    let mut spec = bench.spec();
    spec.config = Some(bad.text.to_owned());
    let vm = bench.start(&spec)?;
    let mut console = vm.console();
    vm.expect(&mut console, "its verity tree holds", within(30))?;
    for fault in bad.faults {
        let text = format!(":{}: {}:", fault.place, fault.field);
        let line = vm.expect(&mut vm.console(), &text, within(30))?;
        ensure!(fault.is_line(&line), "the console says {line:?} of {fault:?}");
    }
    let mut first = vec![0; 4 << 20];
    std::fs::File::open(vm.state_disk())?.read_exact(&mut first).context("read the state disk")?;
    ensure!(first.iter().all(|byte| *byte == 0), "the state disk was written to");
    vm.press_power_button()?;
    vm.wait_off(within(30))?;
    Ok(Outcome::Passed)
}
