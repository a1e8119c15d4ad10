//! Profiles in the format of Docker and the OCI, as `Localhost` profiles of a node are written.
use std::collections::{BTreeMap, BTreeSet};

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpSyscall};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Error, context};

/// One profile. Architectures are this machine's; what it says of others has no meaning here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Rule>,
    #[serde(flatten)]
    _others: Others,
}

/// Keys of no meaning here. A struct that keeps them is read from an object only, not from an array of its fields' values.
type Others = BTreeMap<String, IgnoredAny>;

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
    #[serde(flatten)]
    _others: Others,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
    #[serde(flatten)]
    _others: Others,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(flatten)]
    _others: Others,
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

/// The largest error number that libseccomp takes: one less than a system call can return.
const MAX_ERRNO: u16 = 4094;

fn action(name: &str, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let errno = errno.unwrap_or(nix::libc::EPERM as u32);
    let number = |most: u16| {
        let number = u16::try_from(errno).ok().filter(|number| *number <= most);
        number.ok_or_else(|| Error::Action(format!("{name} with errnoRet {errno}; use at most {most}")))
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(number(MAX_ERRNO)?.into()),
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        "SCMP_ACT_TRACE" => ScmpAction::Trace(number(u16::MAX)?),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("SCMP_ACT_ALLOW".to_owned()),
            Just("SCMP_ACT_ERRNO".to_owned()),
            Just("SCMP_CMP_MASKED_EQ".to_owned()),
            Just("SCMP_CMP_EQ".to_owned()),
            Just("read".to_owned()),
            Just("clone3".to_owned()),
            "\\PC{0,12}",
        ]
    }

    #[test]
    fn an_error_number_that_no_program_can_say_is_refused() {
        // Cut to 16 bits it would be 0: the call would seem to succeed.
        for (number, good) in [(38, true), (4094, true), (4095, false), (65536, false)] {
            let text = serde_json::json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": number});
            let profile: Profile = serde_json::from_value(text).unwrap();
            assert_eq!(compile(&profile, &BTreeSet::new()).is_ok(), good, "{number}");
        }
    }

    #[test]
    fn an_array_is_no_profile_and_no_rule() {
        for text in [
            r#"["SCMP_ACT_ALLOW", null, []]"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [[null, ["mount"], "SCMP_ACT_ERRNO"]]}"#,
        ] {
            assert!(serde_json::from_str::<Profile>(text).is_err(), "{text}");
        }
        let known =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#;
        assert!(serde_json::from_str::<Profile>(known).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A profile from a node's disk compiles or is refused; nothing else.
        #[test]
        fn any_profile_compiles_or_is_refused(
            default in word(),
            rules in prop::collection::vec((word(), word(), word(), any::<u32>(), any::<u64>(), any::<u32>()), 0..6),
        ) {
            let syscalls: Vec<_> = rules
                .into_iter()
                .map(|(name, action, op, index, value, errno)| serde_json::json!({
                    "names": [name], "action": action, "errnoRet": errno,
                    "args": [{"index": index % 8, "value": value, "valueTwo": value, "op": op}],
                }))
                .collect();
            let text = serde_json::json!({"defaultAction": default, "syscalls": syscalls}).to_string();
            if let Ok(profile) = serde_json::from_str::<Profile>(&text)
                && let Ok(program) = compile(&profile, &BTreeSet::new())
            {
                prop_assert_eq!(program.len() % 8, 0);
            }
        }

        #[test]
        fn any_bytes_are_no_profile_or_one(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Profile>(&bytes);
        }
    }
}
