//! What others wrote, taken in bounds: JSON that still can be read when it has gone on record as a part of other JSON, and words for messages.
use serde_json::Value;

/// Levels of lists and objects within each other. serde_json reads 127, of which records and requests need some for themselves.
const MAX_DEPTH: usize = 64;
/// The most of somebody else's words that a message repeats, in bytes.
pub const MAX_WORDS: usize = 2048;

/// Reads JSON.
///
/// # Errors
/// Why it cannot be used, in words.
pub fn json(bytes: &[u8]) -> Result<Value, String> {
    let value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if depth(&value) > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} levels deep"));
    }
    Ok(value)
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(list) => list.iter().map(depth).max(),
        Value::Object(object) => object.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

/// One line without control characters, of bounded length.
pub fn words(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let mut line = words.join(" ");
    line.truncate(line.floor_char_boundary(MAX_WORDS));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_has_a_bound() {
        let nested = |levels| "[".repeat(levels) + &"]".repeat(levels);
        assert!(json(nested(64).as_bytes()).is_ok());
        let error = json(format!(r#"{{"a": {}}}"#, nested(64)).as_bytes()).unwrap_err();
        assert_eq!(error, "it is nested more than 64 levels deep");
    }

    #[test]
    fn words_are_one_short_line() {
        assert_eq!(words(" a\n\tb\u{1b}[1m\0c "), "a b [1m c");
        assert_eq!(words(&"\u{20ac}".repeat(2000)).len(), 2046, "no half character");
    }
}
