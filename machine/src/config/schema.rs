//! The JSON Schema of each kind, and of a whole machine config for editors.
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use super::{
    API_VERSION, Address, Cluster, Dhcp, Install, Link, Machine, Manifest, NodeAgent, Registry, Resolver,
    Route, Runtime, StaticPod, Sysctl, TimeSync, Volume, Watchdog,
};

/// Every kind, in the order of the reference page.
pub const KINDS: [&str; 17] = [
    "Machine",
    "Cluster",
    "Install",
    "Volume",
    "Link",
    "Dhcp",
    "Address",
    "Route",
    "Resolver",
    "TimeSync",
    "Registry",
    "Runtime",
    "NodeAgent",
    "StaticPod",
    "Manifest",
    "Sysctl",
    "Watchdog",
];

/// The JSON Schema of one kind's fields (without `apiVersion` and `kind`).
#[must_use]
pub fn kind_schema(kind: &str) -> Option<Value> {
    fn of<T: JsonSchema>() -> Value {
        SchemaGenerator::default().into_root_schema_for::<T>().to_value()
    }
    Some(match kind {
        "Machine" => of::<Machine>(),
        "Cluster" => of::<Cluster>(),
        "Install" => of::<Install>(),
        "Volume" => of::<Volume>(),
        "Link" => of::<Link>(),
        "Dhcp" => of::<Dhcp>(),
        "Address" => of::<Address>(),
        "Route" => of::<Route>(),
        "Resolver" => of::<Resolver>(),
        "TimeSync" => of::<TimeSync>(),
        "Registry" => of::<Registry>(),
        "Runtime" => of::<Runtime>(),
        "NodeAgent" => of::<NodeAgent>(),
        "StaticPod" => of::<StaticPod>(),
        "Manifest" => of::<Manifest>(),
        "Sysctl" => of::<Sysctl>(),
        "Watchdog" => of::<Watchdog>(),
        _ => return None,
    })
}

/// The JSON Schema of a document, for editors: the kind decides which fields it has.
#[must_use]
pub fn schema() -> Value {
    let mut definitions = serde_json::Map::new();
    let mut kinds = Vec::new();
    for kind in KINDS {
        let Some(mut schema) = kind_schema(kind) else { continue };
        if let Some(inner) = schema.get_mut("$defs").map(Value::take) {
            definitions.extend(inner.as_object().cloned().unwrap_or_default());
        }
        if let Some(map) = schema.as_object_mut() {
            map.remove("$defs");
            map.remove("$schema");
            let properties = map.entry("properties").or_insert_with(|| json!({}));
            properties["apiVersion"] = json!({"const": API_VERSION});
            properties["kind"] = json!({"const": kind});
            let required = map.entry("required").or_insert_with(|| json!([]));
            if let Some(list) = required.as_array_mut() {
                list.extend([json!("apiVersion"), json!("kind")]);
            }
        }
        kinds.push(json!({"$ref": format!("#/$defs/{kind}Document")}));
        definitions.insert(format!("{kind}Document"), schema);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pintle machine config",
        "oneOf": kinds,
        "$defs": definitions,
    })
}
