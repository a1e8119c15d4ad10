//! Whether a container's log has every line of `count`, once.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::HOST;

/// The most numbers that are named.
const NAMED: usize = 20;

/// Reads all log files of a container, oldest first, and tells what is missing or doubled in its counted lines.
pub fn sequence(namespace: &str, pod: &str, container: &str) -> Result<Value> {
    let mut text = String::new();
    for file in files(namespace, pod, container)? {
        text += &std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    }
    Ok(check(&text))
}

/// Rotated files carry their time after the name, so they sort before the current one only when that is put last.
fn files(namespace: &str, pod: &str, container: &str) -> Result<Vec<PathBuf>> {
    let logs = Path::new(HOST).join("var/log/pods");
    let prefix = format!("{namespace}_{pod}_");
    let folder = std::fs::read_dir(&logs)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .with_context(|| format!("no folder {prefix}* in {}", logs.display()))?;
    let folder = folder.path().join(container);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    files.sort_by_key(|path| (path.extension().is_some_and(|extension| extension == "log"), path.clone()));
    Ok(files)
}

fn check(text: &str) -> Value {
    let (mut first, mut last, mut lines) = (0, 0, 0_u64);
    let (mut missing, mut doubled, mut odd) = (Vec::new(), Vec::new(), Vec::new());
    let mut partial = String::new();
    for line in text.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(_time), Some(_stream), Some(tag)) = (fields.next(), fields.next(), fields.next()) else {
            odd.push(line.to_owned());
            continue;
        };
        partial += fields.next().unwrap_or_default();
        if tag != "F" {
            continue;
        }
        let content = std::mem::take(&mut partial);
        let mut words = content.split(' ');
        let number: Option<u64> = words.next().and_then(|word| word.parse().ok());
        let Some(number) = number.filter(|_| words.next() == Some(crate::workload::PADDING)) else {
            odd.push(content);
            continue;
        };
        lines += 1;
        match number {
            number if lines == 1 => first = number,
            number if number <= last => {
                doubled.push(number);
                continue;
            }
            number => missing.extend((last + 1..number).take(NAMED)),
        }
        last = number;
    }
    for list in [&mut missing, &mut doubled] {
        list.truncate(NAMED);
    }
    odd.truncate(NAMED);
    json!({"first": first, "last": last, "lines": lines, "missing": missing, "doubled": doubled, "odd": odd})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(numbers: &[u64]) -> String {
        numbers
            .iter()
            .map(|number| format!("2026-01-01T00:00:00Z stdout F {number} {}\n", crate::workload::PADDING))
            .collect()
    }

    #[test]
    fn gaps_and_repeats_are_named() {
        let whole = check(&log(&[1, 2, 3]));
        assert_eq!((&whole["first"], &whole["last"], &whole["lines"]), (&json!(1), &json!(3), &json!(3)));
        assert_eq!((&whole["missing"], &whole["doubled"]), (&json!([]), &json!([])));
        let broken = check(&log(&[1, 2, 2, 5]));
        assert_eq!((&broken["missing"], &broken["doubled"]), (&json!([3, 4]), &json!([2])));
    }

    #[test]
    fn halves_of_a_line_are_joined_and_torn_lines_are_odd() {
        let (head, tail) = crate::workload::PADDING.split_at(5);
        let text = format!("t stdout P 1 {head}\nt stdout F {tail}\nt stdout F 2 torn\nx\n");
        let seen = check(&text);
        assert_eq!((&seen["lines"], &seen["odd"]), (&json!(1), &json!(["2 torn", "x"])));
    }
}
