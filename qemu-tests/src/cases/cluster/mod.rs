//! Stories that share one cluster, from harmless to destructive.
mod config;
mod ends;
mod hangs;
pub mod inspector;
mod kills;
pub mod kubectl;
pub mod limits;
pub mod manifest;
mod network;
mod power;
pub mod processes;
mod programs;
mod resync;
mod stage;
pub mod superblock;
pub mod trace;

use anyhow::Result;

pub use stage::{Stage, Wanted};

use super::Outcome;

/// A story with a name.
#[derive(Debug)]
pub struct Story {
    pub name: &'static str,
    pub run: fn(&mut Stage) -> Result<Outcome>,
}

/// All stories, in their order.
pub const STORIES: &[Story] = &[
    Story { name: "bad_config_changes_nothing", run: config::refused },
    Story { name: "pods_and_services_reach_each_other_across_nodes", run: network::reach },
    Story { name: "kubectl_does_its_daily_work", run: kubectl::daily },
    Story { name: "limits_are_what_the_kubelet_writes", run: limits::files },
    Story { name: "a_container_over_its_memory_limit_is_oom_killed", run: limits::out_of_memory },
    Story { name: "only_our_processes_and_the_pods_own_run", run: processes::only },
    Story { name: "thirty_pods_leave_no_trace", run: trace::thirty },
    Story { name: "killed_services_lose_nothing", run: kills::rounds },
    Story { name: "services_that_hang_or_panic_are_started_again", run: hangs::rounds },
    Story { name: "reboots_and_power_buttons_bring_everything_back", run: power::orderly },
    Story { name: "a_power_cut_brings_everything_back", run: power::cut },
];
