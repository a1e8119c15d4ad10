//! Patches: documents laid over generated ones.
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_yaml_ng::{Mapping, Value};

/// Documents laid over a generated config. One of a kind that a config holds once is merged into it field by field
/// (lists are replaced); any other is appended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Patch(pub Vec<Value>);

/// Kinds that a machine config holds at most once.
const SINGLE: [&str; 8] =
    ["Machine", "Cluster", "Resolver", "TimeSync", "Install", "Runtime", "NodeAgent", "Watchdog"];

/// Splits multi-document YAML.
///
/// # Errors
/// When a document is no YAML mapping.
pub fn parse_documents(file: &str, text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).with_context(|| format!("read the YAML of {file}"))?;
        match value {
            Value::Null => {}
            Value::Mapping(_) => documents.push(value),
            _ => bail!("{file}: a document is no mapping; each starts with `kind:`"),
        }
    }
    Ok(documents)
}

impl Patch {
    /// Lays the patch over `documents`.
    pub fn apply(&self, documents: &mut Vec<Value>) {
        for patch in &self.0 {
            let kind = patch.get("kind").and_then(Value::as_str);
            let same = documents
                .iter_mut()
                .find(|document| document.get("kind").and_then(Value::as_str) == kind)
                .filter(|_| kind.is_some_and(|kind| SINGLE.contains(&kind)));
            match same {
                Some(document) => merge(document, patch),
                None => documents.push(patch.clone()),
            }
        }
    }
}

fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Mapping(base), Value::Mapping(patch)) => merge_mappings(base, patch),
        (base, patch) => *base = patch.clone(),
    }
}

fn merge_mappings(base: &mut Mapping, patch: &Mapping) {
    for (key, value) in patch {
        match base.get_mut(key) {
            Some(old) => merge(old, value),
            None => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Value> {
        parse_documents("test", text).unwrap()
    }

    #[test]
    fn a_kind_held_once_is_merged_and_others_are_appended() {
        let mut base = documents("kind: Machine\nhostname: a\nrole: Worker\n---\nkind: Link\nmtu: 1500\n");
        Patch(documents(
            "kind: Machine\nhostname: b\n---\nkind: Link\nmtu: 9000\n---\nkind: Install\nwipe: true\n",
        ))
        .apply(&mut base);
        let expected = documents(
            "kind: Machine\nhostname: b\nrole: Worker\n---\nkind: Link\nmtu: 1500\n---\nkind: Link\nmtu: 9000\n---\nkind: Install\nwipe: true\n",
        );
        assert_eq!(base, expected);
    }

    #[test]
    fn text_that_is_no_document_is_refused() {
        assert!(parse_documents("f", "- a\n").is_err());
        assert!(parse_documents("f", "kind: [").is_err());
    }
}
