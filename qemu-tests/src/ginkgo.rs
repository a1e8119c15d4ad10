//! The JSON report of Ginkgo, the framework of Kubernetes' suites.
use anyhow::{Context, Result};
use serde::Deserialize;

/// [`Spec::leaf_node_type`] of a spec; others are steps before or after them all.
pub const SPEC: &str = "It";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    spec_reports: Option<Vec<Spec>>,
}

/// What came of one spec or step.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Spec {
    pub container_hierarchy_texts: Option<Vec<String>>,
    pub leaf_node_type: String,
    pub leaf_node_text: String,
    pub state: String,
    /// Nanoseconds.
    pub run_time: u64,
    pub failure: Option<Failure>,
    #[serde(default)]
    pub captured_ginkgo_writer_output: String,
    #[serde(default, rename = "CapturedStdOutErr")]
    pub captured_output: String,
}

/// Why it failed or was skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Failure {
    pub message: String,
    pub location: Location,
}

/// A place in the suite's source.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Location {
    pub file_name: String,
    pub line_number: u32,
}

impl Spec {
    /// A spec's whole name; a step's text, or its kind where it has none.
    #[must_use]
    pub fn name(&self) -> String {
        let own = if self.leaf_node_text.is_empty() { &self.leaf_node_type } else { &self.leaf_node_text };
        let mut words: Vec<&str> = Vec::new();
        if self.leaf_node_type == SPEC {
            words.extend(self.container_hierarchy_texts.iter().flatten().map(String::as_str));
        }
        words.push(own);
        words.join(" ")
    }
}

/// Reads a report.
///
/// # Errors
/// When it is none.
pub fn specs(bytes: &[u8]) -> Result<Vec<Spec>> {
    let suites: Vec<Suite> = serde_json::from_slice(bytes).context("read ginkgo's report")?;
    Ok(suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()).collect())
}

/// The first line of a message that says something.
#[must_use]
pub fn reason(message: &str) -> &str {
    message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}
