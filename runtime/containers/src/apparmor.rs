//! AppArmor: which profile a container enters, and the default one, which the runtime loads itself (nothing on the node can compile profiles).
use std::fs;
use std::io;
use std::path::Path;

use machine::cri;
use machine::cri::security_profile::ProfileType;

/// Containers are in it unless their pod says otherwise.
pub const DEFAULT: &str = "pintle-default";
/// `apparmor/default.profile`, compiled.
const POLICY: &[u8] = include_bytes!("apparmor/default.bin");
const FILES: &str = "/sys/kernel/security/apparmor";

/// The kernel's AppArmor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    Without,
    /// It has AppArmor, but the default profile is not loaded.
    NoDefault,
    Ready,
}

/// What the kernel has.
pub fn kernel() -> Kernel {
    let enabled =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    if !enabled {
        Kernel::Without
    } else if is_loaded(DEFAULT) {
        Kernel::Ready
    } else {
        Kernel::NoDefault
    }
}

/// Loads the default profile where the kernel has AppArmor.
///
/// # Errors
/// When the kernel refuses it.
pub fn load_default() -> io::Result<()> {
    if kernel() != Kernel::NoDefault {
        return Ok(());
    }
    // One write is one policy.
    fs::write(Path::new(FILES).join(".replace"), POLICY).map_err(|error| {
        io::Error::new(error.kind(), format!("load the AppArmor profile {DEFAULT}: {error}"))
    })
}

fn is_loaded(name: &str) -> bool {
    fs::read_to_string(Path::new(FILES).join("profiles")).is_ok_and(|list| listed(&list, name))
}

/// Lines are `name (mode)`, and names may have spaces.
fn listed(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.rsplit_once(" (").is_some_and(|(listed, _)| listed == name))
}

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// Nothing was said: the default where there is one.
    Unsaid,
    /// The default was asked for.
    Default,
    Nothing,
    Profile(String),
}

fn wanted(security: &cri::LinuxContainerSecurityContext) -> Wanted {
    if let Some(profile) = &security.apparmor {
        return match profile.profile_type() {
            ProfileType::RuntimeDefault => Wanted::Default,
            ProfileType::Unconfined => Wanted::Nothing,
            ProfileType::Localhost => Wanted::Profile(local_name(&profile.localhost_ref)),
        };
    }
    #[expect(deprecated, reason = "older clients still send it")]
    match security.apparmor_profile.as_str() {
        "" => Wanted::Unsaid,
        "runtime/default" => Wanted::Default,
        "unconfined" => Wanted::Nothing,
        name => Wanted::Profile(local_name(name)),
    }
}

fn local_name(name: &str) -> String {
    name.strip_prefix("localhost/").unwrap_or(name).to_owned()
}

/// The profile to enter.
///
/// # Errors
/// When a profile that was asked for is not loaded, or there can be none.
pub fn choose(security: &cri::LinuxContainerSecurityContext) -> Result<Option<String>, String> {
    if security.privileged {
        return Ok(None);
    }
    decide(wanted(security), kernel(), is_loaded)
}

fn decide(
    wanted: Wanted,
    kernel: Kernel,
    is_loaded: impl Fn(&str) -> bool,
) -> Result<Option<String>, String> {
    match (wanted, kernel) {
        (Wanted::Nothing, _) | (Wanted::Unsaid, Kernel::Without | Kernel::NoDefault) => Ok(None),
        (Wanted::Unsaid | Wanted::Default, Kernel::Ready) => Ok(Some(DEFAULT.to_owned())),
        (Wanted::Default, Kernel::Without) => {
            Err("the AppArmor profile RuntimeDefault is asked for, but the kernel has no AppArmor".into())
        }
        (Wanted::Default, Kernel::NoDefault) => Err(format!(
            "the AppArmor profile RuntimeDefault is asked for, but {DEFAULT} could not be loaded; the runtime's log says why"
        )),
        (Wanted::Profile(name), Kernel::Without) => {
            Err(format!("the AppArmor profile {name} is asked for, but the kernel has no AppArmor"))
        }
        (Wanted::Profile(name), _) if is_loaded(&name) => Ok(Some(name)),
        (Wanted::Profile(name), _) => Err(format!("the AppArmor profile {name} is not loaded on this node")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_entered_where_it_can_be_and_named_profiles_must_be_there() {
        let there = |name: &str| name == "mine";
        for wanted in [Wanted::Default, Wanted::Unsaid] {
            assert_eq!(decide(wanted, Kernel::Ready, there), Ok(Some(DEFAULT.into())));
        }
        for kernel in [Kernel::Without, Kernel::NoDefault] {
            assert_eq!(decide(Wanted::Unsaid, kernel, there), Ok(None));
            assert!(decide(Wanted::Default, kernel, there).unwrap_err().contains("RuntimeDefault"));
        }
        assert_eq!(decide(Wanted::Nothing, Kernel::Ready, there), Ok(None));
        assert_eq!(decide(Wanted::Profile("mine".into()), Kernel::NoDefault, there), Ok(Some("mine".into())));
        assert!(decide(Wanted::Profile("other".into()), Kernel::Ready, there).is_err());
        assert!(decide(Wanted::Profile("mine".into()), Kernel::Without, there).is_err());
    }

    #[test]
    fn the_new_field_wins_over_the_old_one() {
        let mut security = cri::LinuxContainerSecurityContext::default();
        #[expect(deprecated, reason = "older clients still send it")]
        {
            security.apparmor_profile = "localhost/old".into();
        }
        assert_eq!(wanted(&security), Wanted::Profile("old".into()));
        let profile = cri::SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: "localhost/new".into(),
        };
        security.apparmor = Some(profile);
        assert_eq!(wanted(&security), Wanted::Profile("new".into()));
    }

    #[test]
    fn what_is_asked_for_is_told_from_what_is_left_out() {
        let mut security = cri::LinuxContainerSecurityContext::default();
        assert_eq!(wanted(&security), Wanted::Unsaid);
        security.apparmor = Some(cri::SecurityProfile::default());
        assert_eq!(wanted(&security), Wanted::Default);
    }

    #[test]
    fn profiles_are_listed_with_their_mode() {
        assert!(listed("a b (enforce)\nx (complain)\n", "a b"));
        assert!(!listed("a b (enforce)\n", "a"));
    }
}
