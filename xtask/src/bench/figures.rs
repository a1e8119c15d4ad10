//! Medians, and tables of them.
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Many durations in milliseconds, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: usize,
    /// What it takes when nothing else runs, if the machine is busy now and then.
    pub min: f64,
    pub median: f64,
    pub p90: f64,
    pub max: f64,
}

impl Summary {
    /// Sums up; all zero without a sample.
    #[must_use]
    pub fn of(samples: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            count: sorted.len(),
            min: sorted.first().copied().unwrap_or_default(),
            median: quantile(&sorted, 0.5),
            p90: quantile(&sorted, 0.9),
            max: sorted.last().copied().unwrap_or_default(),
        }
    }
}

/// The value below which a part of the sorted samples lies, between neighbours in proportion.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = last as f64 * part;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// Columns as wide as their widest cell; the first is text, the others are numbers and end at the right.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let mut text = line(headings);
    for row in rows {
        text.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// A number with as many digits as say something.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Bytes in megabytes (10^6).
#[must_use]
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The machine that figures come from, in one line.
#[must_use]
pub fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processors = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{processors} × {}, Linux {}, load {} before the run",
        model.map_or("processors", |(_, name)| name),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_interpolate() {
        let milliseconds =
            |values: &[u64]| values.iter().copied().map(Duration::from_millis).collect::<Vec<_>>();
        let summary = Summary::of(&milliseconds(&[40, 10, 20, 30]));
        assert_eq!((summary.count, summary.median, summary.p90, summary.max), (4, 25.0, 37.0, 40.0));
        assert_eq!(Summary::of(&[]), Summary::default());
        assert_eq!(Summary::of(&milliseconds(&[7])).p90, 7.0);
    }

    #[test]
    fn numbers_stand_at_the_right() {
        let text =
            table(&["what", "ms"], &[vec!["exec".into(), "4.0".into()], vec!["s".into(), "12.25".into()]]);
        assert_eq!(text, "what     ms\nexec    4.0\ns     12.25\n");
    }
}
