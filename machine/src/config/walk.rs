//! A document against the JSON Schema of its kind: unknown fields, wrong types, missing fields.
use serde_json::Value;

use super::tree::{Content, Node, Place};

/// Something wrong at a place, before the file's name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: Place,
    pub field: String,
    pub message: String,
    pub remedy: String,
}

/// Compares a node with a schema (as schemars writes it: `$ref`, `anyOf`, `oneOf`, `type`, `properties`, `enum`).
pub struct Walker<'a> {
    root: &'a Value,
    pub findings: Vec<Finding>,
}

impl<'a> Walker<'a> {
    pub const fn new(root: &'a Value) -> Self {
        Self { root, findings: Vec::new() }
    }

    /// Collects everything wrong below `node`.
    pub fn walk(&mut self, node: &Node, schema: &'a Value, path: &str) {
        let schema = self.resolve(schema);
        if let Some(values) = alternatives(schema) {
            self.choose(node, values, path);
            return;
        }
        match &node.content {
            Content::Mapping(_) if accepts(schema, "object") => self.mapping(node, schema, path),
            Content::Sequence(items) if accepts(schema, "array") => {
                if let Some(inner) = schema.get("items") {
                    for (index, item) in items.iter().enumerate() {
                        self.walk(item, inner, &format!("{path}[{index}]"));
                    }
                }
            }
            Content::Scalar(value) if accepts(schema, type_of(value)) => {
                self.scalar(node, value, schema, path)
            }
            content => self.wrong_type(node, content, schema, path),
        }
    }

    fn resolve(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..16 {
            let target = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
            match target.and_then(|pointer| self.root.pointer(pointer)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    /// `Option<T>` and enumerations: null is fine where allowed, and otherwise the one alternative that is no null speaks.
    fn choose(&mut self, node: &Node, alternatives: &'a [Value], path: &str) {
        let is_null = |schema: &Value| schema.get("type").is_some_and(|t| t == "null");
        if matches!(node.content, Content::Scalar(Value::Null)) && alternatives.iter().any(is_null) {
            return;
        }
        let others: Vec<_> = alternatives.iter().filter(|schema| !is_null(schema)).collect();
        if let [only] = others[..] {
            self.walk(node, only, path);
            return;
        }
        let constants: Vec<_> = others.iter().flat_map(|schema| constants(schema)).collect();
        let value = node.to_value();
        if !constants.is_empty() && !constants.contains(&&value) {
            self.not_one_of(node, &value, &constants, path);
        }
    }

    fn not_one_of(&mut self, node: &Node, value: &Value, constants: &[&Value], path: &str) {
        let names: Vec<_> = constants.iter().filter_map(|value| value.as_str()).collect();
        let given = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let remedy = nearest(&given, &names).map_or_else(
            || format!("use one of {}", names.join(", ")),
            |name| format!("did you mean {name}?"),
        );
        self.find(node.place, path, format!("{given:?} is none of {}", names.join(", ")), remedy);
    }

    fn mapping(&mut self, node: &Node, schema: &'a Value, path: &str) {
        let Content::Mapping(entries) = &node.content else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties");
        for entry in entries {
            let field = join(path, &entry.key);
            if let Some(inner) = properties.and_then(|known| known.get(&entry.key)) {
                self.walk(&entry.value, inner, &field);
            } else if additional == Some(&Value::Bool(false)) {
                let names: Vec<_> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
                let remedy = nearest(&entry.key, &names).map_or_else(
                    || format!("known fields are {}", names.join(", ")),
                    |name| format!("did you mean {name}?"),
                );
                self.find(entry.place, &field, "unknown field".into(), remedy);
            } else if let Some(inner) = additional.filter(|inner| inner.is_object()) {
                self.walk(&entry.value, inner, &field);
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = name.as_str() else { continue };
            if node.entry(name).is_none() {
                let what = properties
                    .and_then(|known| known.get(name))
                    .and_then(|inner| {
                        self.resolve(inner).get("description").or_else(|| inner.get("description"))
                    })
                    .and_then(Value::as_str)
                    .map_or_else(
                        || format!("add `{name}:`"),
                        |text| format!("add `{name}:`: {}", first_sentence(text)),
                    );
                self.find(node.place, &join(path, name), "required field is missing".into(), what);
            }
        }
    }

    fn scalar(&mut self, node: &Node, value: &Value, schema: &'a Value, path: &str) {
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            self.not_one_of(node, value, &allowed.iter().collect::<Vec<_>>(), path);
        }
        let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
        let (low, high) = (bound("minimum"), bound("maximum").or_else(|| format_maximum(schema)));
        if let Some(number) = value.as_f64() {
            if low.is_some_and(|low| number < low) || high.is_some_and(|high| number > high) {
                let remedy = match (low, high) {
                    (Some(low), Some(high)) => format!("use a number from {low} to {high}"),
                    (Some(low), None) => format!("use a number of at least {low}"),
                    _ => "use a smaller number".into(),
                };
                self.find(node.place, path, format!("{value} is out of range"), remedy);
            }
        } else if let (Some(text), Some("ip")) =
            (value.as_str(), schema.get("format").and_then(Value::as_str))
            && text.parse::<std::net::IpAddr>().is_err()
        {
            let remedy = "write an address such as 10.5.0.1 or fd00::1".into();
            self.find(node.place, path, format!("{text:?} is no IP address"), remedy);
        }
    }

    fn wrong_type(&mut self, node: &Node, content: &Content, schema: &Value, path: &str) {
        let is = match content {
            Content::Mapping(_) => "a mapping",
            Content::Sequence(_) => "a list",
            Content::Scalar(value) => word(type_of(value)),
        };
        let wanted = types(schema).into_iter().find(|name| *name != "null").unwrap_or("object");
        let remedy = match (content, wanted) {
            (Content::Scalar(Value::Null), _) => "give it a value or remove the line".into(),
            (Content::Scalar(value), "string") => format!("put it in quotes: \"{value}\""),
            (_, "array") => "write a list: one item per line, each after `- `".into(),
            (_, "boolean") => "write true or false".into(),
            (_, wanted) => format!("write {}", word(wanted)),
        };
        self.find(node.place, path, format!("expected {}, found {is}", word(wanted)), remedy);
    }

    fn find(&mut self, place: Place, field: &str, message: String, remedy: String) {
        self.findings.push(Finding { place, field: field.into(), message, remedy });
    }
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array)
}

fn constants(schema: &Value) -> Vec<&Value> {
    let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    schema.get("const").into_iter().chain(several).collect()
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A schema without a type accepts everything.
fn accepts(schema: &Value, kind: &str) -> bool {
    let types = types(schema);
    types.is_empty() || types.contains(&kind) || (kind == "integer" && types.contains(&"number"))
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn word(kind: &str) -> &'static str {
    match kind {
        "null" => "nothing",
        "boolean" => "true or false",
        "number" => "a number",
        "integer" => "a whole number",
        "string" => "text",
        "array" => "a list",
        _ => "a mapping",
    }
}

/// schemars names the width of unsigned integers in `format` alone.
fn format_maximum(schema: &Value) -> Option<f64> {
    match schema.get("format").and_then(Value::as_str)? {
        "uint8" => Some(f64::from(u8::MAX)),
        "uint16" => Some(f64::from(u16::MAX)),
        "uint32" => Some(f64::from(u32::MAX)),
        "int32" => Some(f64::from(i32::MAX)),
        _ => None,
    }
}

fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first).trim_end_matches('.')
}

pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

/// The known name that a misspelt one was probably meant to be.
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = given.chars().take(64).collect::<String>().to_lowercase();
    let best = known.iter().map(|name| (distance(&lower, &name.to_lowercase()), *name)).min()?;
    (best.0 <= 1 + lower.chars().count() / 4).then_some(best.1)
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
