//! DNS names.

/// A DNS label (RFC 1123).
pub(super) fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A DNS name of one or more labels.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && !text.is_empty() && text.split('.').all(is_label)
}
