//! Versions of the CNI specification, and which one a configuration is used with (section 1, "Version considerations").
use std::fmt;

use serde::{Deserialize, Serialize};

/// The versions that are spoken here, oldest first. From 0.3.0 on results have one list of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// CHECK, and `prevResult` for DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// GC and STATUS.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// As configurations write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// One that is spoken here.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == text)
    }

    pub const fn has_check(self) -> bool {
        matches!(self, Self::V0_4_0 | Self::V1_0_0 | Self::V1_1_0)
    }

    /// DEL is given the result of ADD from the same version on that has CHECK.
    pub const fn deletes_with_result(self) -> bool {
        self.has_check()
    }

    pub const fn has_gc_and_status(self) -> bool {
        matches!(self, Self::V1_1_0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The highest of a configuration's versions that is spoken here. Others, older or from the future, are passed over.
pub fn choose<'a>(listed: impl IntoIterator<Item = &'a str>) -> Option<Version> {
    listed.into_iter().filter_map(Version::parse).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_known_version_is_chosen() {
        assert_eq!(choose(["0.3.1", "1.1.0", "1.0.0"]), Some(Version::V1_1_0));
        assert_eq!(choose(["0.4.0", "9.0.0"]), Some(Version::V0_4_0));
        assert_eq!(choose(["0.1.0", "9.0.0", "nonsense"]), None);
        assert_eq!(choose([]), None);
    }

    #[test]
    fn verbs_came_with_their_versions() {
        assert!(!Version::V0_3_1.has_check() && Version::V0_4_0.has_check());
        assert!(!Version::V1_0_0.has_gc_and_status() && Version::V1_1_0.has_gc_and_status());
    }
}
