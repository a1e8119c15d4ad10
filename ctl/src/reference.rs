//! The reference page of the machine config, from the same types that read it.
use std::fmt::Write;

use machine::config::{API_VERSION, KINDS, kind_schema};
use serde_json::Value;

/// docs/config.md as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = format!(
        "# Machine config\n\nOne or more YAML documents, each with `apiVersion: {API_VERSION}` and a `kind`. Unknown fields are errors.\n\
         `pintle validate FILE` lists every fault with its line and column. This page is generated; do not edit it.\n"
    );
    for kind in KINDS {
        if let Some(schema) = kind_schema(kind) {
            let _ = write!(text, "\n## {kind}\n\n{}\n\n", description(&schema));
            text.push_str("| field | type | default | meaning |\n|---|---|---|---|\n");
            fields(&mut text, &schema, &schema, "", 0);
        }
    }
    text
}

/// Rows of an object's fields, nested ones below with a dotted name.
fn fields(text: &mut String, root: &Value, schema: &Value, prefix: &str, depth: usize) {
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let target = resolve(root, field);
        let (kind, inner) = kind_of(root, target);
        let default = if required.contains(&&**name) {
            "required".to_owned()
        } else {
            field.get("default").filter(|d| !d.is_null()).map_or_else(String::new, |d| format!("`{d}`"))
        };
        let meaning =
            [description(field), description(target)].into_iter().find(|d| !d.is_empty()).unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{prefix}{name}` | {kind} | {} | {} |",
            default.replace('|', "\\|"),
            meaning.replace('|', "\\|")
        );
        if let Some(inner) = inner.filter(|inner| inner.get("properties").is_some() && depth < 4) {
            let list = if kind.starts_with("list") { "[]." } else { "." };
            fields(text, root, inner, &format!("{prefix}{name}{list}"), depth + 1);
        }
    }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// Follows `$ref`, and the one alternative that is no null.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..8 {
        let target = schema["$ref"].as_str().and_then(|r| root.pointer(r.trim_start_matches('#')));
        let alternatives = schema["anyOf"]
            .as_array()
            .map(|all| all.iter().filter(|s| s["type"] != "null").collect::<Vec<_>>());
        match (target, alternatives.as_deref()) {
            (Some(next), _) => schema = next,
            (None, Some([next])) => schema = *next,
            _ => break,
        }
    }
    schema
}

/// A type in words, and the schema of what is inside.
fn kind_of<'a>(root: &'a Value, schema: &'a Value) -> (String, Option<&'a Value>) {
    let constants: Vec<_> =
        schema["oneOf"].as_array().into_iter().flatten().filter_map(|s| s["const"].as_str()).collect();
    if !constants.is_empty() {
        return (format!("one of {}", constants.join(", ")), None);
    }
    let name = match &schema["type"] {
        Value::String(name) => name.as_str(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).find(|n| *n != "null").unwrap_or("any"),
        _ => "any",
    };
    match name {
        "array" => {
            let items = resolve(root, &schema["items"]);
            let (inner, _) = kind_of(root, items);
            (format!("list of {inner}"), Some(items))
        }
        "object" if schema.get("properties").is_none() => ("map".into(), None),
        "object" => ("object".into(), Some(schema)),
        name => (name.into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_current() {
        let page = include_str!("../../docs/config.md");
        assert_eq!(page.trim_end(), markdown().trim_end(), "run `pintle config-reference > docs/config.md`");
    }

    #[test]
    fn the_page_has_every_kind_with_its_fields() {
        let page = markdown();
        for kind in KINDS {
            assert!(page.contains(&format!("\n## {kind}\n")), "{kind}");
        }
        assert!(page.contains("| `podCIDRs` | list of string | `[\"10.244.0.0/16\"]` |"), "{page}");
        assert!(page.contains("| `ca.certificate` | string | required |"));
        assert!(page.contains("| `role` | one of ControlPlane, Worker |"));
    }
}
