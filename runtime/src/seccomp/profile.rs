//! Profiles in the format of Docker and the OCI, as `Localhost` profiles of a node are written.
use std::collections::BTreeSet;

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpSyscall};
use serde::Deserialize;

use super::{Error, context};

/// One profile. Architectures are this machine's; what it says of others has no meaning here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
}

/// Compiles to BPF.
pub fn compile(profile: &Profile, capabilities: &BTreeSet<String>) -> Result<Vec<u8>, Error> {
    let default_action = action(&profile.default_action, profile.default_errno_ret)?;
    let mut filter = context(default_action)?;
    for rule in &profile.syscalls {
        let has = |caps: &Option<Vec<String>>| caps.iter().flatten().any(|cap| capabilities.contains(cap));
        let needs = rule.includes.caps.as_ref().is_some_and(|caps| !caps.is_empty());
        if (needs && !has(&rule.includes.caps)) || has(&rule.excludes.caps) {
            continue;
        }
        let action = action(&rule.action, rule.errno_ret)?;
        if action == default_action {
            continue;
        }
        let conditions = rule.args.iter().flatten().map(compare).collect::<Result<Vec<_>, _>>()?;
        for name in rule.name.iter().chain(&rule.names) {
            if let Ok(call) = ScmpSyscall::from_name(name) {
                filter.add_rule_conditional(action, call, &conditions)?;
            }
        }
    }
    super::export(&filter)
}

fn action(name: &str, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let errno = errno.map_or(nix::libc::EPERM, |errno| errno as i32);
    Ok(match name {
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(errno),
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        "SCMP_ACT_TRACE" => ScmpAction::Trace(errno as u16),
        other => return Err(Error::Action(other.into())),
    })
}

fn compare(argument: &Argument) -> Result<ScmpArgCompare, Error> {
    let (op, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, argument.value),
        "SCMP_CMP_LT" => (ScmpCompareOp::Less, argument.value),
        "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, argument.value),
        "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, argument.value),
        "SCMP_CMP_GT" => (ScmpCompareOp::Greater, argument.value),
        "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
        other => return Err(Error::Action(other.into())),
    };
    Ok(ScmpArgCompare::new(argument.index, op, value))
}
