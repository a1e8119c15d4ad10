//! What plugins answer (section 5 of the specification): results of ADD and errors. Pure.
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::foreign::{json, words};
use super::version::Version;

/// What is wrong with a result of ADD.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it printed no result")]
    Empty,
    #[error("its result is not valid JSON: {0}")]
    Json(String),
    #[error("its result is not as the specification has it: {0}")]
    Shape(String),
    #[error("{0:?} in its result is no address that a pod can have")]
    Address(String),
    #[error("an address in its result is for the interface {index}, of {count}")]
    Interface { index: u64, count: usize },
    #[error("it ended as if all were well, but printed an error: {0}")]
    Error(String),
}

/// A result of ADD: passed on as it is, but for its version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddResult(Map<String, Value>);

/// The part of it that we understand.
#[derive(Debug, Default, Deserialize)]
struct Shape {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
    #[serde(default)]
    interface: Option<u64>,
}

impl AddResult {
    /// Reads what a plugin printed.
    ///
    /// # Errors
    /// When it is no result, but an error perhaps: the addresses in it are looked at, all else is between plugins.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Self, Fault> {
        if bytes.trim_ascii().is_empty() {
            return Err(Fault::Empty);
        }
        let value = json(bytes).map_err(Fault::Json)?;
        if let Some(error) = PluginError::read(&value).filter(|error| error.code > 0) {
            return Err(Fault::Error(words(&error.describe())));
        }
        let Value::Object(mut object) = value else { return Err(Fault::Shape("it is no object".into())) };
        // Old plugins leave it out; the next one in the chain would take the result for another version's.
        if object.get("cniVersion").and_then(Value::as_str).is_none_or(str::is_empty) {
            object.insert("cniVersion".into(), version.name().into());
        }
        let result = Self(object);
        result.addresses("")?;
        Ok(result)
    }

    /// As JSON, for `prevResult`.
    pub fn json(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// The pod's addresses, each once: those of the interface `name` inside the pod first, then those of further interfaces inside. Addresses of
    /// interfaces of the host, which a result may hold too, are none of the pod's, and nobody else reaches it by those of its loopback.
    ///
    /// # Errors
    /// When the result has something else where addresses belong.
    pub fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Fault> {
        let shape = Shape::deserialize(Value::Object(self.0.clone()))
            .map_err(|error| Fault::Shape(words(&error.to_string())))?;
        let interfaces = shape.interfaces.unwrap_or_default();
        let (mut first, mut further) = (Vec::new(), Vec::new());
        for ip in shape.ips.unwrap_or_default() {
            let address = address(&ip.address)?;
            match ip.interface {
                // The plugin made no list: it is the interface that it was told to make.
                None => first.push(address),
                Some(index) => {
                    let interface = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
                    let interface = interface.ok_or(Fault::Interface { index, count: interfaces.len() })?;
                    match interface {
                        Interface { sandbox, .. } if sandbox.is_empty() => {}
                        Interface { name: found, .. } if found == name => first.push(address),
                        _ => further.push(address),
                    }
                }
            }
        }
        first.append(&mut further);
        let mut seen = BTreeSet::new();
        first.retain(|address| !address.is_loopback() && seen.insert(*address));
        Ok(first)
    }
}

/// With a prefix length, or without, as some plugins have it.
fn address(text: &str) -> Result<IpAddr, Fault> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let fits = |address: &IpAddr| {
        length.is_none_or(|length| length.parse().is_ok_and(|length| IpNet::new(*address, length).is_ok()))
    };
    // Not by ipnet, which reads 010 as 10, where others read 8.
    let address = address.parse().ok().filter(fits);
    address
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .ok_or_else(|| Fault::Address(text.chars().take(64).collect()))
}

/// An error as plugins print it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    pub code: u64,
    pub msg: String,
    pub details: String,
}

impl PluginError {
    /// An error that says anything.
    fn read(printed: &Value) -> Option<Self> {
        let text = |field| printed.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (msg, details) = (text("msg"), text("details"));
        let code = printed.get("code").and_then(Value::as_u64).unwrap_or_default();
        (!msg.is_empty() || !details.is_empty()).then_some(Self { code, msg, details })
    }

    /// Its words, and what its code means (section 5, "Error").
    pub fn describe(&self) -> String {
        let meaning = match self.code {
            1 => " (incompatible CNI version)",
            2 => " (unsupported field)",
            3 => " (unknown container)",
            4 => " (invalid environment)",
            5 => " (I/O failure)",
            6 => " (cannot decode)",
            7 => " (invalid network config)",
            11 => " (try again later)",
            50 => " (the plugin is not available)",
            51 => " (the plugin is not available, and pods may have limited connectivity)",
            _ => "",
        };
        let details = if self.details.is_empty() { String::new() } else { format!(": {}", self.details) };
        format!("{}{details}, code {}{meaning}", self.msg, self.code)
    }
}

/// Why a plugin failed, from what it printed: its error structure, or else its last words on either stream.
pub fn reason(stdout: &[u8], stderr: &[u8]) -> String {
    if let Some(error) = json(stdout).ok().as_ref().and_then(PluginError::read) {
        return words(&error.describe());
    }
    [stdout, stderr]
        .into_iter()
        .map(|bytes| words(&String::from_utf8_lossy(bytes)))
        .find(|text| !text.is_empty())
        .unwrap_or_else(|| "it did not say why".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<AddResult, Fault> {
        AddResult::parse(text.as_bytes(), Version::V1_0_0)
    }

    fn ips(text: &str) -> Vec<String> {
        parse(text).unwrap().addresses("eth0").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn eth0s_addresses_come_first_and_the_hosts_not_at_all() {
        let text = r#"{"cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "net1", "sandbox": "/run/x"}, {"name": "eth0", "sandbox": "/run/x"}],
            "ips": [{"address": "192.0.2.1/24", "interface": 0}, {"address": "10.9.0.2/24", "interface": 1},
                    {"address": "10.1.0.5/16", "interface": 2}, {"address": "fd00::5/64", "interface": 2}]}"#;
        assert_eq!(ips(text), ["10.1.0.5", "fd00::5", "10.9.0.2"]);
        assert_eq!(ips(r#"{"ips": [{"version": "4", "address": "10.1.0.5/16"}]}"#), ["10.1.0.5"]);
        assert_eq!(ips(r#"{"ips": null, "interfaces": null}"#), Vec::<String>::new());
    }

    #[test]
    fn an_address_counts_once_and_loopback_not_at_all() {
        let text = r#"{"interfaces": [{"name": "eth0", "sandbox": "/run/x"}, {"name": "lo", "sandbox": "/run/x"}],
            "ips": [{"address": "10.1.0.5/16", "interface": 0}, {"address": "10.1.0.5/24", "interface": 0},
                    {"address": "127.0.0.1/8", "interface": 1}, {"address": "::1/128", "interface": 1}]}"#;
        assert_eq!(ips(text), ["10.1.0.5"]);
    }

    #[test]
    fn words_in_a_fault_are_few() {
        for text in [
            format!(r#"{{"ips": "{}"}}"#, "x".repeat(9000)),
            format!(r#"{{"code": 7, "msg": "{}"}}"#, "x".repeat(9000)),
        ] {
            assert!(parse(&text).unwrap_err().to_string().len() < 4096);
        }
    }

    #[test]
    fn a_result_that_is_none_is_refused() {
        for (text, wanted) in [
            (" \n", "printed no result"),
            ("{", "not valid JSON"),
            ("[]", "no object"),
            (r#"{"ips": 7}"#, "not as the specification has it"),
            (r#"{"ips": [{"address": "nowhere"}]}"#, r#""nowhere" in its result is no address"#),
            (r#"{"ips": [{"address": "010.0.0.1/8"}]}"#, r#""010.0.0.1/8" in its result is no address"#),
            (r#"{"ips": [{"address": "10.0.0.1/33"}]}"#, r#""10.0.0.1/33" in its result is no address"#),
            (r#"{"ips": [{"address": "0.0.0.0/0"}]}"#, r#""0.0.0.0/0" in its result is no address"#),
            (r#"{"ips": [{"address": "ff02::1"}]}"#, r#""ff02::1" in its result is no address"#),
            (r#"{"ips": [{"address": "10.0.0.1/8", "interface": 3}]}"#, "for the interface 3, of 0"),
            (r#"{"code": 11, "msg": "pool is empty"}"#, "an error: pool is empty, code 11 (try again later)"),
        ] {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(wanted), "{text}: {fault}");
        }
    }

    #[test]
    fn a_missing_version_is_put_in_and_the_rest_stays() {
        let result = parse(r#"{"ips": [], "theirs": {"a": [1, 2]}}"#).unwrap().json();
        assert_eq!((&result["cniVersion"], &result["theirs"]["a"][1]), (&"1.0.0".into(), &2.into()));
    }

    #[test]
    fn reasons_are_the_plugins_own_words() {
        let error =
            br#"{"cniVersion": "1.0.0", "code": 11, "msg": "pool is empty", "details": "10.0.0.0/30"}"#;
        assert_eq!(reason(error, b"log"), "pool is empty: 10.0.0.0/30, code 11 (try again later)");
        assert_eq!(reason(b"", b"panic:\n\x1b[1m no link\n"), "panic: [1m no link");
        assert_eq!(reason(b"", b" "), "it did not say why");
        assert_eq!(reason(&[b'x'; 9000], b"").len(), crate::cni::foreign::MAX_WORDS);
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), more in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = AddResult::parse(&bytes, Version::V1_1_0);
            prop_assert!(!reason(&bytes, &more).contains(char::is_control));
        }

        #[test]
        fn what_parses_gives_addresses(
            ips in prop::collection::vec((any::<std::net::Ipv4Addr>(), 0_u8..40, prop::option::of(0_u64..4)), 0..6),
            sandboxes in prop::collection::vec("(|/run/a)", 0..4)
        ) {
            let ips: Vec<Value> = ips.iter().map(|(ip, bits, interface)| {
                let mut one = serde_json::json!({"address": format!("{ip}/{bits}")});
                if let Some(interface) = interface { one["interface"] = (*interface).into(); }
                one
            }).collect();
            let interfaces: Vec<Value> = sandboxes.iter().map(|s| serde_json::json!({"name": "eth0", "sandbox": s})).collect();
            let text = serde_json::json!({"ips": ips, "interfaces": interfaces}).to_string();
            if let Ok(result) = AddResult::parse(text.as_bytes(), Version::V0_3_1) {
                prop_assert!(result.addresses("eth0").unwrap().len() <= ips.len());
            }
        }
    }
}
