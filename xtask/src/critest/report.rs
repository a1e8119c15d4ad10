//! What came of the suite: ginkgo's JSON report, told in lines.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use qemu_tests::ginkgo::{self, reason};

/// The outcome of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub passed: usize,
    /// Names with the first line of why.
    pub failed: Vec<(String, String)>,
    /// Causes with the names of the specs that were skipped for it.
    pub skipped: BTreeMap<String, Vec<String>>,
}

/// What is left out that nobody asked to leave out.
const OWN_FILTER: &str = "critest leaves it out by itself: benchmarks, which measure and check nothing";

/// Reads a report. Specs of `left_out` count as skipped with the cause given there. Others that a filter left out are named too, unless only some were asked for.
///
/// # Errors
/// When it is no report.
pub fn read(text: &str, left_out: &[(&str, &str)], focused: bool) -> Result<Report> {
    let mut report = Report::default();
    for spec in ginkgo::specs(text.as_bytes())? {
        let name = spec.name();
        let why = reason(&spec.failure.unwrap_or_default().message).to_owned();
        match spec.state.as_str() {
            "passed" if spec.leaf_node_type == ginkgo::SPEC => report.passed += 1,
            "passed" => {}
            "skipped" | "pending" if why.is_empty() => {
                let named = left_out.iter().find(|(part, _)| name.contains(part)).map(|(_, cause)| *cause);
                if let Some(cause) = named.or((!focused).then_some(OWN_FILTER)) {
                    report.skipped.entry(cause.to_owned()).or_default().push(name);
                }
            }
            "skipped" | "pending" => report.skipped.entry(why).or_default().push(name),
            _ => report.failed.push((name, why)),
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
    fn skips_have_causes_and_what_nobody_asked_for_does_not_count() {
        let text = r#"[{"SpecReports":[
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"works","State":"passed","RunTime":0},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"fails","State":"failed","RunTime":0,"Failure":{"Message":"\nno\nmore"}},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"lacks","State":"skipped","RunTime":0,"Failure":{"Message":"no kernel"}},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"benchmark","State":"skipped","RunTime":0},
            {"ContainerHierarchyTexts":["A"],"LeafNodeType":"It","LeafNodeText":"digest","State":"skipped","RunTime":0},
            {"ContainerHierarchyTexts":null,"LeafNodeType":"BeforeSuite","LeafNodeText":"","State":"passed","RunTime":0}]}]"#;
        let report = read(text, &[("digest", "by name")], true).unwrap();
        assert_eq!(
            report.text(),
            "SKIPPED  by name\n           A digest\nSKIPPED  no kernel\n           A lacks\nFAILED   A fails: no\n1 passed, 1 failed, 2 skipped"
        );
        let whole = read(text, &[("digest", "by name")], false).unwrap();
        assert_eq!(whole.skipped[OWN_FILTER], ["A benchmark"]);
    }
}
