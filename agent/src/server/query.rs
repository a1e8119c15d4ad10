//! Query strings, bounded.

/// The most parameters of a request; each word of a command is one.
const MAX_PARAMETERS: usize = 4096;

/// A request with more parameters. Doing a part of it would be doing something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request may have at most {MAX_PARAMETERS} parameters")]
pub struct TooMany;

/// Decoded parameters in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c`. Bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// When there are too many.
    pub fn parse(text: &str) -> Result<Self, TooMany> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        if parts.clone().nth(MAX_PARAMETERS).is_some() {
            return Err(TooMany);
        }
        let parts = parts.map(|part| part.split_once('=').unwrap_or((part, "")));
        Ok(Self(parts.map(|(k, v)| (decode(k), decode(v))).collect()))
    }

    /// The first value of a parameter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// Whether a switch is on: `1` or `true`.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.first_chunk::<2>()).flatten();
        let value = hex.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (value, first) {
            (Some(value), _) => {
                bytes.push(value);
                rest = &tail[2..];
                continue;
            }
            (None, b'+') => bytes.push(b' '),
            (None, other) => bytes.push(*other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
