//! Tables for a terminal.

/// Lays rows out in columns below their headings.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        format!("{}\n", padded.trim_end())
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        // What comes from a machine must not steer the terminal.
        let clean: Vec<String> = row.iter().map(|cell| cell.replace(char::is_control, " ")).collect();
        text.push_str(&line(&mut clean.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(
            &["NAME", "STATE"],
            &[vec!["runtime".into(), "Ready".into()], vec!["api".into(), "Back\x1bOff".into()]],
        );
        assert_eq!(text, "NAME      STATE\nruntime   Ready\napi       Back Off\n");
    }
}
