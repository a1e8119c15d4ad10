//! A pod's bandwidth limits, from the annotations that the kubelet's documentation has for them. Pure.
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Error;

/// Burst in bits, as containerd has it: no limit on how fast a rate is used up after a rest.
const BURST: u64 = u32::MAX as u64;
/// The rates, in bits per second, that Kubernetes allows.
const ALLOWED: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// The capability argument `bandwidth`; none without an annotation.
///
/// # Errors
/// When a rate is no quantity, or not one that Kubernetes allows.
pub fn limits(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, Error> {
    let mut limits = Map::new();
    for direction in ["ingress", "egress"] {
        let name = format!("kubernetes.io/{direction}-bandwidth");
        let Some(text) = annotations.get(&name) else { continue };
        let Some(rate) = quantity(text.trim()).filter(|rate| ALLOWED.contains(rate)) else {
            return Err(Error::Bandwidth { name, value: text.clone() });
        };
        limits.insert(format!("{direction}Rate"), rate.into());
        limits.insert(format!("{direction}Burst"), BURST.into());
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A quantity of Kubernetes as a whole number, rounded up.
fn quantity(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => f64::from(1 << 20),
        "Gi" => f64::from(1 << 30),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            10_f64.powi(exponent.parse::<i8>().ok()?.into())
        }
    };
    let value = (number * factor).ceil();
    // Beyond 2^53 an f64 is not exact, and nobody has such a network.
    (value >= 0.0 && value <= 2_f64.powi(53)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, wanted) in [
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1500)),
            ("1Mi", Some(1_048_576)),
            ("2500", Some(2500)),
            ("1e6", Some(1_000_000)),
            ("1500m", Some(2)),
            ("", None),
            ("M", None),
            ("1 M", None),
            ("-1", None),
            ("1..2", None),
            ("99E", None),
        ] {
            assert_eq!(quantity(text), wanted, "{text}");
        }
    }

    #[test]
    fn rates_outside_of_what_kubernetes_allows_are_named() {
        let of =
            |text: &str| limits(&[("kubernetes.io/egress-bandwidth".to_owned(), text.to_owned())].into());
        assert_eq!(limits(&BTreeMap::new()).unwrap(), None);
        assert_eq!(of("1k").unwrap().unwrap()["egressRate"], 1000);
        for bad in ["999", "2P", "fast"] {
            let error = of(bad).unwrap_err().to_string();
            assert!(error.contains("kubernetes.io/egress-bandwidth") && error.contains(bad), "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_never_panics(text in ".{0,40}", number in "[0-9.eE]{0,30}[a-zA-Z]{0,3}") {
            let _ = (quantity(&text), quantity(&number));
        }
    }
}
