//! Which accelerator QEMU uses.
use serde::{Deserialize, Serialize};

/// How guests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    Kvm,
    /// Everywhere, and slow.
    Tcg,
}

impl Accel {
    /// KVM where it works. A /dev/kvm can exist and still hang guests on processors without the extension, so cpuinfo decides.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let opens = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if opens && has_virtualisation(&cpuinfo) { Self::Kvm } else { Self::Tcg }
    }

    /// QEMU's arguments. Intel models would switch on page-table isolation, which makes system calls 30 times slower under TCG;
    /// `max` does not.
    #[must_use]
    pub const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-cpu", "host", "-accel", "kvm"],
            Self::Tcg => ["-cpu", "max", "-accel", "tcg,thread=multi,tb-size=512"],
        }
    }

    /// Deadlines are written for KVM-like speed times this.
    #[must_use]
    pub const fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            Self::Tcg => 4,
        }
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_flags_decide() {
        assert!(has_virtualisation("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm"));
        assert!(!has_virtualisation("flags : fpu vmxx\nmodel name : svm\n"));
    }
}
