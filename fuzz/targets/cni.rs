//! CNI: what plugins print and are configured with is refused in few words, or is usable, passed on as it is, and the same after it
//! went on record.
#![cfg_attr(feature = "libfuzzer", no_main)]
use std::collections::BTreeSet;

use fuzz::cni::{attachment, is_error, listed, requests};
use pod_network::fuzzing::{AddResult, Attachment, NetworkConfig, Version, parse_list, parse_single, reason};
use serde_json::Value;

/// What a message repeats of somebody else's words is cut long before.
const MOST_WORDS: usize = 4096;
const NETWORK: &[u8] = br#"{"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "bridge"}]}"#;

fn cni(bytes: &[u8]) {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        result(bytes, Version::parse(version).expect("a version"));
    }
    let words = reason(bytes, b"");
    assert!(!words.is_empty() && words.len() <= MOST_WORDS && !words.contains(char::is_control), "{words:?}");
    for parsed in [parse_list(bytes), parse_single(bytes)] {
        match parsed {
            Ok(network) => configured(network),
            Err(fault) => short(&fault),
        }
    }
}

/// What a plugin printed that succeeded.
fn result(bytes: &[u8], version: Version) {
    let mut printed: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let result = match AddResult::parse(bytes, version) {
        Err(fault) => return short(&fault),
        Ok(result) => result,
    };
    assert!(!is_error(&printed), "an error was taken for a result");
    if printed["cniVersion"].as_str().is_none_or(str::is_empty) {
        printed["cniVersion"] = version.name().into();
    }
    assert_eq!(result.json(), printed, "passed on as it is");
    for interface in ["eth0", "lo", ""] {
        let addresses = result.addresses(interface).expect("looked at before");
        for address in &addresses {
            assert!(listed(&printed).contains(address), "{address} is not in the result");
            assert!(!address.is_unspecified() && !address.is_multicast(), "{address} is no pod's");
        }
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len(), "{addresses:?}");
    }
    let attachment = attachment(parse_list(NETWORK).expect("a network"), Some(result));
    for request in requests(&attachment) {
        assert_eq!(request["prevResult"], printed);
    }
    recorded(&attachment);
}

fn configured(network: NetworkConfig) {
    assert!(
        !network.name.contains('/') && network.plugins.iter().all(|plugin| !plugin.program.contains('/'))
    );
    let attachment = attachment(network, None);
    for request in requests(&attachment) {
        let own = (request["name"].as_str(), request["cniVersion"].as_str());
        assert_eq!(own, (Some(&*attachment.network.name), Some(attachment.network.version.name())));
        assert!(request["type"].is_string() && request.get("prevResult").is_none(), "{request}");
    }
    recorded(&attachment);
}

/// DEL needs it after a restart.
fn recorded(attachment: &Attachment) {
    let record = serde_json::to_vec(attachment).expect("write a record");
    assert_eq!(&serde_json::from_slice::<Attachment>(&record).expect("read a record"), attachment);
}

fn short(fault: &impl ToString) {
    let words = fault.to_string();
    assert!(words.len() <= MOST_WORDS, "{} bytes of words", words.len());
}

fuzz::target!(cni);
