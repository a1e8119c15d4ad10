//! Trust anchors of ClusterTrustBundles, as projected volumes show them (pkg/kubelet/clustertrustbundle). Pure.
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What is known of a ClusterTrustBundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundle {
    pub name: String,
    pub signer: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// PEM.
    pub anchors: String,
}

/// The anchors that a projection asks for, without duplicates.
///
/// # Errors
/// When it names nothing, or nothing is there and it is not optional.
pub(super) fn select(
    bundles: &[TrustBundle],
    projection: &ClusterTrustBundleProjection,
) -> Result<String, String> {
    let optional = projection.optional == Some(true);
    let chosen: Vec<&TrustBundle> = match (&projection.name, &projection.signer_name) {
        (Some(name), _) => {
            let found: Vec<_> = bundles.iter().filter(|bundle| bundle.name == *name).collect();
            if found.is_empty() && !optional {
                return Err(format!(
                    "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
                ));
            }
            found
        }
        (None, Some(signer)) => {
            let fits = |bundle: &&TrustBundle| {
                bundle.signer.as_ref() == Some(signer)
                    && projection.label_selector.as_ref().is_some_and(|s| matches(s, &bundle.labels))
            };
            let found: Vec<_> = bundles.iter().filter(fits).collect();
            if found.is_empty() && !optional {
                return Err(
                    "combination of signerName and labelSelector matched zero ClusterTrustBundles".into()
                );
            }
            found
        }
        (None, None) => {
            return Err("ClusterTrustBundle projection requires either name or signerName to be set".into());
        }
    };
    let anchors: BTreeSet<String> = chosen.iter().flat_map(|bundle| blocks(&bundle.anchors)).collect();
    Ok(anchors.iter().map(|der| encode(der)).collect())
}

/// The base64 text of each PEM block, in one line.
fn blocks(pem: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in pem.lines().map(str::trim) {
        if line.starts_with("-----BEGIN ") {
            current = Some(String::new());
        } else if line.starts_with("-----END ") {
            found.extend(current.take().filter(|text| STANDARD.decode(text).is_ok()));
        } else if let Some(text) = current.as_mut().filter(|_| !line.contains(':')) {
            text.push_str(line);
        }
    }
    found
}

fn encode(text: &str) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Whether labels fit a selector; one without terms fits everything.
fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|v| v == value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str, signer: Option<&str>, label: &str, anchors: &str) -> TrustBundle {
        TrustBundle {
            name: name.into(),
            signer: signer.map(str::to_owned),
            labels: [("stage".to_owned(), label.to_owned())].into(),
            anchors: anchors.into(),
        }
    }

    fn projection(value: serde_json::Value) -> ClusterTrustBundleProjection {
        serde_json::from_value(value).unwrap()
    }

    fn pem(text: &str) -> String {
        encode(&STANDARD.encode(text))
    }

    #[test]
    fn anchors_are_found_by_name_or_signer_and_told_once() {
        let bundles = [
            bundle("a", Some("x.test/s"), "live", &format!("comment\n{}", pem("one"))),
            bundle("b", Some("x.test/s"), "live", &format!("{}{}", pem("one"), pem("two"))),
            bundle("c", Some("x.test/s"), "dead", &pem("three")),
            bundle("d", None, "live", &pem("four")),
        ];
        let by = |value| select(&bundles, &projection(value));
        assert_eq!(by(serde_json::json!({"path": "p", "name": "d"})).unwrap(), pem("four"));
        let live = by(
            serde_json::json!({"path": "p", "signerName": "x.test/s", "labelSelector": {"matchLabels": {"stage": "live"}}}),
        );
        let live = live.unwrap();
        assert_eq!(live.matches("BEGIN").count(), 2);
        let all =
            by(serde_json::json!({"path": "p", "signerName": "x.test/s", "labelSelector": {}})).unwrap();
        assert_eq!(all.matches("BEGIN").count(), 3);
        assert!(
            by(serde_json::json!({"path": "p", "signerName": "x.test/s"})).is_err(),
            "no selector fits nothing"
        );
        assert!(by(serde_json::json!({"path": "p", "name": "none"})).is_err());
        assert_eq!(by(serde_json::json!({"path": "p", "name": "none", "optional": true})).unwrap(), "");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC*") {
            for block in blocks(&text) {
                proptest::prop_assert!(STANDARD.decode(block).is_ok());
            }
        }
    }
}
