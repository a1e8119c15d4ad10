//! What came of the suite: ginkgo's JSON report, told in lines.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    failure: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    message: String,
}

/// The outcome of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub passed: usize,
    /// Names with the first line of why.
    pub failed: Vec<(String, String)>,
    /// Causes with the names of the specs that were skipped for it.
    pub skipped: BTreeMap<String, Vec<String>>,
}

/// Reads a report. Specs that a filter left out do not count; those of `left_out` count as skipped with the cause given there.
///
/// # Errors
/// When it is no report.
pub fn read(text: &str, left_out: &[(&str, &str)]) -> Result<Report> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("read critest's report")?;
    let mut report = Report::default();
    for spec in suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()) {
        let mut name = spec.container_hierarchy_texts.unwrap_or_default();
        name.push(spec.leaf_node_text);
        let name = name.join(" ");
        let why = spec.failure.unwrap_or_default().message;
        let why = why.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        match spec.state.as_str() {
            "passed" if spec.leaf_node_type == "It" => report.passed += 1,
            "passed" => {}
            "skipped" | "pending" if why.is_empty() => {
                if let Some((_, cause)) = left_out.iter().find(|(part, _)| name.contains(part)) {
                    report.skipped.entry((*cause).to_owned()).or_default().push(name);
                }
            }
            "skipped" | "pending" => report.skipped.entry(why).or_default().push(name),
            _ => report.failed.push((if name.is_empty() { spec.leaf_node_type } else { name }, why)),
        }
    }
    Ok(report)
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (cause, names) in &self.skipped {
            let _ = writeln!(text, "SKIPPED  {cause}");
            for name in names {
                let _ = writeln!(text, "           {name}");
            }
        }
        for (name, why) in &self.failed {
            let _ = writeln!(text, "FAILED   {name}: {why}");
        }
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        let _ = write!(text, "{} passed, {} failed, {skipped} skipped", self.passed, self.failed.len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_have_causes_and_what_was_filtered_away_does_not_count() {
        let text = r#"[{"SpecReports":[
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"works","State":"passed"},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"fails","State":"failed","Failure":{"Message":"\nno\nmore"}},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"lacks","State":"skipped","Failure":{"Message":"no kernel"}},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"benchmark","State":"skipped"},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"digest","State":"skipped"},
            {"ContainerHierarchyTexts":null,"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed"}]}]"#;
        let report = read(text, &[("digest", "by name")]).unwrap();
        assert_eq!(
            report.text(),
            "SKIPPED  by name\n           A digest\nSKIPPED  no kernel\n           A lacks\nFAILED   A fails: no\n1 passed, 1 failed, 2 skipped"
        );
    }
}
