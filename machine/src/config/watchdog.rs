use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A hardware watchdog that PID 1 feeds: a machine whose PID 1 no longer runs, or that does not come out of a reboot, is reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Watchdog {
    #[serde(default = "device")]
    pub device: String,
    /// Seconds without a sign of life after which the device resets the machine; it may round them.
    #[serde(default = "timeout")]
    pub timeout_seconds: u32,
}

fn device() -> String {
    "/dev/watchdog0".into()
}

const fn timeout() -> u32 {
    60
}
