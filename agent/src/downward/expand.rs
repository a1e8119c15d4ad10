//! `$(VAR)` references (third_party/forked/golang/expansion).

/// Replaces each `$(NAME)` that `lookup` knows; unknown references and everything else stay, and `$$` becomes `$`.
#[must_use]
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    scan(input, |name| lookup(name).unwrap_or_else(|| format!("$({name})")))
}

/// As [`expand`], but an unknown reference is an error: its name. For `subPathExpr`.
///
/// # Errors
/// The name of the first variable that is not known.
pub fn expand_strict(input: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut missing = None;
    let output = scan(input, |name| {
        lookup(name).unwrap_or_else(|| {
            missing.get_or_insert_with(|| name.to_owned());
            String::new()
        })
    });
    missing.map_or(Ok(output), Err)
}

fn scan(input: &str, mut value: impl FnMut(&str) -> String) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        match after.chars().next() {
            None => {
                output.push('$');
                return output;
            }
            Some('$') => {
                output.push('$');
                rest = &after[1..];
            }
            Some('(') => match after.find(')') {
                Some(end) => {
                    output.push_str(&value(&after[1..end]));
                    rest = &after[end + 1..];
                }
                None => {
                    output.push_str("$(");
                    rest = &after[1..];
                }
            },
            Some(other) => {
                output.push('$');
                output.push(other);
                rest = &after[other.len_utf8()..];
            }
        }
    }
    output.push_str(rest);
    output
}
