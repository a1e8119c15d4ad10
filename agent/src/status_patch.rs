//! From one pod status to another as a strategic merge patch that touches only what differs.
use k8s_openapi::api::core::v1::{Pod, PodStatus};
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

/// What another has made of a status since the API server answered with it, if it is no longer what it was: while a node is silent the control plane says of its pods
/// that they are not ready, and only the node can take that back. Counts what was `told`, and of the conditions those that `owns` is true for.
/// The next patch begins from the answer.
#[must_use]
pub fn undone(told: &PodStatus, answered: &Pod, now: &Pod, owns: fn(&str) -> bool) -> Option<PodStatus> {
    // Versions can be compared since Kubernetes 1.35 (KEP-5504). One from before the answer knows nothing of it.
    let version = |pod: &Pod| pod.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    if version(now)? <= version(answered)? {
        return None;
    }
    let told = object(told);
    let fields = |pod: &Pod| {
        let mut fields = object(pod.status.as_ref().unwrap_or(&PodStatus::default()));
        fields.retain(|field, _| told.contains_key(field));
        fields
    };
    let own = |conditions: Option<&Value>| -> Value {
        let all = conditions.and_then(Value::as_array).into_iter().flatten();
        all.filter(|c| c.get("type").and_then(Value::as_str).is_some_and(owns)).cloned().collect()
    };
    let (before, after) = (fields(answered), fields(now));
    let same = told.keys().all(|field| match (before.get(field), after.get(field)) {
        (before, after) if field == "conditions" => merged(Some(&own(before)), &own(after), "type").is_none(),
        (before, after) => before == after,
    });
    if same { None } else { serde_json::from_value(Value::Object(after)).ok() }
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

    #[test]
    fn what_others_undo_is_told_again() {
        let told = status(json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}));
        let pod = |version: &str, ready: &str, other: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"resourceVersion": version}, "status": {"phase": "Running",
                "nominatedNodeName": "n", "conditions": [{"type": "Other", "status": other}, {"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        let owns = |kind: &str| kind == "Ready";
        let answered = pod("100", "True", "True");
        for now in [
            pod("99", "False", "True"),
            pod("100", "True", "True"),
            pod("101", "True", "False"),
            pod("x", "False", "True"),
        ] {
            assert_eq!(undone(&told, &answered, &now, owns), None);
        }
        let base = undone(&told, &answered, &pod("101", "False", "False"), owns).unwrap();
        let mut wanted = told;
        wanted.conditions.as_mut().unwrap().insert(0, base.conditions.as_ref().unwrap()[0].clone());
        // Of what is others' it says nothing.
        assert_eq!(
            status_patch("u", &base, &wanted).unwrap()["status"],
            json!({"conditions": [{"type": "Ready", "status": "True"}]})
        );
    }
}
