//! The runtimes that are measured.
use serde::{Deserialize, Serialize};

/// A runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Ours.
    Pintle,
    /// containerd with runc.
    Runc,
    /// containerd with crun.
    Crun,
}

impl Kind {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pintle => "pintle",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// As in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Pintle => "Pintle",
            Self::Runc => "containerd+runc",
            Self::Crun => "containerd+crun",
        }
    }
}
