//! From one pod status to another as a strategic merge patch that touches only what differs.
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// Lists that merge by a key, and the key.
const MERGED: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// The patch that makes `old` into `new`; `None` when they say the same.
#[must_use]
pub fn status_patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (object(old), object(new));
    let mut patch = Map::new();
    for (field, value) in &new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        match MERGED.iter().find(|(name, _)| name == field) {
            Some((_, key)) => {
                if let Some(list) = merged(before, value, key) {
                    patch.insert(field.clone(), list);
                }
            }
            None => {
                patch.insert(field.clone(), value.clone());
            }
        }
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    if patch.is_empty() {
        return None;
    }
    Some(json!({ "metadata": { "uid": uid }, "status": patch }))
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn merged(old: Option<&Value>, new: &Value, key: &str) -> Option<Value> {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let new = new.as_array().unwrap_or(&empty);
    let mut changes: Vec<Value> = Vec::new();
    for item in new {
        match old.iter().find(|o| o.get(key) == item.get(key)) {
            Some(before) if before == item => {}
            before => {
                let mut item = item.clone();
                // A field that is gone must be said to be gone.
                if let (Some(Value::Object(before)), Value::Object(item)) = (before, &mut item) {
                    for field in before.keys() {
                        item.entry(field.clone()).or_insert(Value::Null);
                    }
                }
                changes.push(item);
            }
        }
    }
    for item in old.iter().filter(|o| !new.iter().any(|n| n.get(key) == o.get(key))) {
        changes.push(json!({ "$patch": "delete", key: item.get(key) }));
    }
    (!changes.is_empty()).then_some(Value::Array(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_differs_is_said() {
        let old = status(json!({"phase": "Pending", "hostIP": "1.1.1.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "X"}, {"type": "Other", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}]}));
        assert_eq!(
            status_patch("u", &old, &new).unwrap(),
            json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "hostIP": null,
                "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null}]
            }})
        );
        assert_eq!(status_patch("u", &new, &new), None);
    }
}
