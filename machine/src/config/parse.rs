//! From bytes to documents, with every fault at once.
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

use super::check;
use super::schema::{KINDS, kind_schema};
use super::tree::{self, Content, Node, Place};
use super::walk::{Finding, Walker, nearest};
use super::{API_VERSION, Document, Fault, MachineConfig};

/// The most faults that one parse reports.
const MAX_FAULTS: usize = 200;

/// Parses and validates a machine config: YAML, kinds and fields, then what the fields mean together.
///
/// # Errors
/// Every fault found, in the order of the text.
pub fn parse(file: &str, text: &str) -> Result<MachineConfig, Vec<Fault>> {
    let fault = |finding: Finding| Fault {
        file: file.into(),
        line: finding.place.line,
        column: finding.place.column,
        field: finding.field,
        message: finding.message,
        remedy: finding.remedy,
    };
    let nodes = tree::documents(text).map_err(|broken| {
        vec![fault(Finding {
            place: broken.place,
            field: String::new(),
            message: broken.message,
            remedy: broken.remedy.into(),
        })]
    })?;
    let mut findings = Vec::new();
    let mut documents = Vec::new();
    for node in nodes.iter().filter(|node| node.content != Content::Scalar(Value::Null)) {
        if let Some((kind, document)) = read(node, &mut findings) {
            documents.push((node, kind, document));
        }
    }
    let complete = findings.is_empty();
    for (node, kind, document) in &documents {
        let issues = check::document(document);
        findings.extend(issues.into_iter().map(|issue| at(node, kind, issue)));
    }
    let all: Vec<_> = documents.iter().map(|(_, _, document)| document).collect();
    for (index, issue) in check::across(&all, complete) {
        let (node, kind, _) = &documents[index];
        findings.push(at(node, kind, issue));
    }
    if findings.is_empty() {
        let mut config = MachineConfig::default();
        documents.into_iter().for_each(|(_, _, document)| config.add(document));
        return Ok(config);
    }
    findings.sort_by_key(|finding| finding.place);
    findings.truncate(MAX_FAULTS);
    Err(findings.into_iter().map(fault).collect())
}

/// Reads one document; what is wrong with its kind and fields is added to `findings`.
fn read(node: &Node, findings: &mut Vec<Finding>) -> Option<(&'static str, Document)> {
    let mut find = |place: Place, field: &str, message: String, remedy: String| {
        findings.push(Finding { place, field: field.into(), message, remedy });
    };
    let Content::Mapping(entries) = &node.content else {
        find(
            node.place,
            "",
            "a document is a mapping".into(),
            format!("start it with `apiVersion: {API_VERSION}`"),
        );
        return None;
    };
    match node.entry("apiVersion") {
        None => find(node.place, "apiVersion", "missing".into(), format!("add `apiVersion: {API_VERSION}`")),
        Some(entry) if entry.value.to_value() != API_VERSION => {
            find(
                entry.value.place,
                "apiVersion",
                "unknown version".into(),
                format!("write `apiVersion: {API_VERSION}`"),
            );
        }
        Some(_) => {}
    }
    let Some(entry) = node.entry("kind") else {
        find(node.place, "kind", "missing".into(), format!("add `kind:` with one of {}", KINDS.join(", ")));
        return None;
    };
    let given = entry.value.to_value();
    let Some(kind) = KINDS.into_iter().find(|kind| given == **kind) else {
        let given = given.as_str().unwrap_or_default();
        let remedy = nearest(given, &KINDS).map_or_else(
            || format!("use one of {}", KINDS.join(", ")),
            |kind| format!("did you mean {kind}?"),
        );
        find(entry.value.place, "kind", format!("unknown kind {given:?}"), remedy);
        return None;
    };
    let fields =
        entries.iter().filter(|entry| entry.key != "apiVersion" && entry.key != "kind").cloned().collect();
    let fields = Node { place: node.place, content: Content::Mapping(fields) };
    let schema = kind_schema(kind)?;
    let mut walker = Walker::new(&schema);
    walker.walk(&fields, &schema, kind);
    if !walker.findings.is_empty() {
        findings.extend(walker.findings);
        return None;
    }
    let mut value = fields.to_value();
    value.as_object_mut()?.insert("kind".into(), kind.into());
    match serde_json::from_value(value) {
        Ok(document) => Some((kind, document)),
        Err(error) => {
            // What the schema cannot say: the text of an address or a range.
            let place = blame(&fields, kind).unwrap_or(node.place);
            findings.push(Finding {
                place,
                field: kind.into(),
                message: error.to_string(),
                remedy: "write ranges as 10.244.0.0/16 and addresses as 10.5.0.10/24".into(),
            });
            None
        }
    }
}

/// The place of the first field that makes a document unreadable: the one without which another error, or none, comes.
fn blame(fields: &Node, kind: &str) -> Option<Place> {
    let Content::Mapping(entries) = &fields.content else { return None };
    let message = |skip: Option<&str>| {
        let mut value = serde_json::Map::new();
        value.insert("kind".into(), kind.into());
        for entry in entries.iter().filter(|entry| Some(&*entry.key) != skip) {
            value.insert(entry.key.clone(), entry.value.to_value());
        }
        serde_json::from_value::<Document>(Value::Object(value)).err().map(|error| error.to_string())
    };
    let whole = message(None);
    let culprit = entries.iter().find(|entry| message(Some(&entry.key)) != whole)?;
    Some(match &culprit.value.content {
        Content::Sequence(items) => items
            .iter()
            .find(|item| item.to_value().as_str().is_some_and(|text| text.parse::<ipnet::IpNet>().is_err()))
            .map_or(culprit.value.place, |item| item.place),
        _ => culprit.value.place,
    })
}

fn at(node: &Node, kind: &str, issue: check::Issue) -> Finding {
    let field = super::walk::join(kind, &issue.field);
    let field = field.trim_end_matches('.').to_owned();
    Finding { place: node.place_of(&issue.field), field, message: issue.message, remedy: issue.remedy }
}

impl MachineConfig {
    fn add(&mut self, document: Document) {
        match document {
            Document::Machine(d) => self.machine = d,
            Document::Cluster(d) => self.cluster = Some(d),
            Document::Link(d) => self.links.push(d),
            Document::Dhcp(d) => self.dhcp.push(d),
            Document::Address(d) => self.addresses.push(d),
            Document::Route(d) => self.routes.push(d),
            Document::Resolver(d) => self.resolver = Some(d),
            Document::TimeSync(d) => self.time_sync = Some(d),
            Document::Install(d) => self.install = Some(d),
            Document::Volume(d) => self.volumes.push(d),
            Document::Registry(d) => self.registries.push(d),
            Document::Runtime(d) => self.runtime = d,
            Document::NodeAgent(d) => self.node_agent = d,
            Document::StaticPod(d) => self.static_pods.push(d),
            Document::Manifest(d) => self.manifests.push(d),
            Document::Sysctl(d) => self.sysctls.push(d),
            Document::Watchdog(d) => self.watchdog = Some(d),
        }
    }
}

/// Writes documents as multi-document YAML, `apiVersion` and `kind` first. One with characters that YAML writers and readers disagree
/// about is written as JSON, which is YAML too.
///
/// # Errors
/// When a document cannot be represented as YAML.
pub fn to_yaml(documents: &[Document]) -> Result<String, serde_yaml_ng::Error> {
    let mut text = String::new();
    for document in documents {
        let value = serde_yaml_ng::to_value(document)?;
        let mut map = serde_yaml_ng::Mapping::new();
        map.insert("apiVersion".into(), API_VERSION.into());
        if let Yaml::Mapping(fields) = value {
            map.extend(fields);
        }
        text.push_str("---\n");
        let plain = serde_yaml_ng::to_string(&map)?;
        if plain.contains(is_disputed) {
            text.push_str(&escaped(
                &serde_json::to_string(&map).map_err(<serde_yaml_ng::Error as serde::ser::Error>::custom)?,
            ));
        } else {
            text.push_str(&plain);
        }
    }
    Ok(text)
}

/// Line ends in YAML 1.1, which the writer folds lines at, and text in YAML 1.2.
fn is_disputed(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// JSON with those characters, which stand in its strings alone, as escapes.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if is_disputed(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
