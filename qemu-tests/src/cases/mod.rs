//! The cases; each reads as a short story.
pub mod bad_config;
pub mod cluster;
pub mod hostile;
mod power;
mod solo;
pub mod stock_kubelet;
mod verity;

use anyhow::Result;

use crate::bench::Bench;
pub use crate::report::Outcome;

/// A story with a name.
#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    pub run: fn(&Bench) -> Result<Outcome>,
}

/// All cases, quick ones first.
pub const CASES: &[Case] = &[
    Case { name: "power_button_stops_it_cleanly", run: power::button },
    Case { name: "bad_config_is_named_on_the_console", run: bad_config::on_console },
    Case { name: "corrupted_root_is_refused", run: verity::corrupted },
    Case { name: "wrong_root_hash_does_not_boot", run: verity::wrong_hash },
    Case { name: "static_pods_outlive_their_services_and_the_machine_stops_cleanly", run: solo::life },
];
