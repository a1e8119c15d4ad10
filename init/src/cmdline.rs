//! The kernel command line.
use std::fs;

/// The value of `key=value`; the last one counts, as for the kernel. Double quotes around a value are taken off.
pub fn value(cmdline: &str, key: &str) -> Option<String> {
    words(cmdline).rev().find_map(|word| {
        let value = word.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.trim_matches('"').to_owned())
    })
}

/// Whether the word stands there.
pub fn has(cmdline: &str, wanted: &str) -> bool {
    words(cmdline).any(|word| word == wanted)
}

fn words(cmdline: &str) -> impl DoubleEndedIterator<Item = &str> {
    let mut quoted = false;
    let split = cmdline.split(move |c: char| {
        quoted ^= c == '"';
        c.is_whitespace() && !quoted
    });
    split.filter(|word| !word.is_empty()).collect::<Vec<_>>().into_iter()
}

/// The command line of the running kernel; empty when /proc is not there.
pub fn read() -> String {
    fs::read_to_string("/proc/cmdline").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_key_counts() {
        let line = "quiet a=1 ab=2 pintle.config=\"http://x/y z\" a=3\n";
        assert_eq!(value(line, "a").as_deref(), Some("3"));
        assert_eq!(value(line, "pintle.config").as_deref(), Some("http://x/y z"));
        assert_eq!(value(line, "quiet"), None);
        assert!(has(line, "quiet") && !has(line, "a"));
    }
}
