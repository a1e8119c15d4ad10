//! The order in which a machine stops.
use std::time::Duration;

use crate::node::ShutdownRequest;
use crate::services::NAMES;

/// Beyond the pods' own grace, for the agent to act and report.
const MARGIN: Duration = Duration::from_secs(10);

/// One step; each is over at its deadline, done or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    StopPods {
        grace: Duration,
    },
    /// From here on nothing starts again.
    Retire,
    StopService(&'static str),
    KillRest,
    SaveSeed,
    CloseLogs,
    Unmount,
    Sync,
    Leave {
        power_off: bool,
    },
}

impl Step {
    /// For messages.
    pub fn name(&self) -> String {
        match self {
            Self::StopPods { .. } => "stop pods".into(),
            Self::Retire => "keep services down".into(),
            Self::StopService(name) => format!("stop {name}"),
            Self::KillRest => "end remaining processes".into(),
            Self::SaveSeed => "save the random seed".into(),
            Self::CloseLogs => "close the logs".into(),
            Self::Unmount => "unmount".into(),
            Self::Sync => "sync".into(),
            Self::Leave { .. } => "leave".into(),
        }
    }

    /// The longest that steps which block on a disk may take.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(match self {
            Self::SaveSeed => 3,
            Self::Unmount => 20,
            _ => 10,
        })
    }
}

/// The steps for a request, given the pods' grace.
pub fn plan(request: &ShutdownRequest, grace: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    if !request.force && !grace.is_zero() {
        steps.push(Step::StopPods { grace: grace + MARGIN });
    }
    steps.push(Step::Retire);
    // net goes last: it holds leases that a reboot keeps, and nothing else depends on its end.
    steps.extend(NAMES.iter().rev().copied().map(Step::StopService));
    steps.extend([Step::KillRest, Step::SaveSeed, Step::CloseLogs, Step::Unmount, Step::Sync]);
    steps.push(Step::Leave { power_off: !request.reboot });
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(force: bool) -> ShutdownRequest {
        ShutdownRequest { reboot: true, force, reason: "test".into() }
    }

    #[test]
    fn pods_stop_before_the_agent_and_the_runtime_and_disks_last() {
        let steps = plan(&request(false), Duration::from_secs(60));
        let at = |step: &Step| steps.iter().position(|s| s == step).unwrap();
        assert_eq!(at(&Step::StopPods { grace: Duration::from_secs(70) }), 0);
        assert!(at(&Step::StopService("agent")) < at(&Step::StopService("runtime")));
        assert!(at(&Step::StopService("runtime")) < at(&Step::StopService("net")));
        assert!(at(&Step::KillRest) < at(&Step::Unmount));
        assert!(at(&Step::CloseLogs) < at(&Step::Unmount));
        assert_eq!(steps.last(), Some(&Step::Leave { power_off: false }));
    }

    #[test]
    fn force_does_not_wait_for_pods() {
        let steps = plan(&request(true), Duration::from_secs(60));
        assert!(!steps.iter().any(|s| matches!(s, Step::StopPods { .. })));
    }
}
