use std::fmt;
use std::ops::{Add, Sub};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

const NANO: i128 = 1_000_000_000;
/// Far more digits than any quantity that the API server accepts has.
const MAX_LENGTH: usize = 64;

/// A parsed quantity in billionths, which is as fine as Kubernetes' own type goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

/// Text that is no Kubernetes quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no quantity; write a number with an optional suffix, such as 500m, 2, 64Mi or 1.5G")]
pub struct QuantityError {
    text: String,
}

impl Amount {
    /// Parses the text of a quantity (apimachinery's resource.ParseQuantity).
    ///
    /// # Errors
    /// When the text is no quantity, or too large to be held.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        parse(text).ok_or_else(|| QuantityError { text: text.chars().take(MAX_LENGTH).collect() })
    }

    /// The amount of a quantity that the API server has validated; one that does not parse counts as nothing.
    #[must_use]
    pub fn of(quantity: &Quantity) -> Self {
        Self::parse(&quantity.0).unwrap_or_default()
    }

    /// So many whole units.
    #[must_use]
    pub fn units(value: i64) -> Self {
        Self(i128::from(value) * NANO)
    }

    /// So many thousandths.
    #[must_use]
    pub fn milli(value: i64) -> Self {
        Self(i128::from(value) * (NANO / 1000))
    }

    /// Whole units, fractions rounded away from zero.
    #[must_use]
    pub fn value(self) -> i64 {
        scaled(self.0, NANO)
    }

    /// Thousandths, finer fractions rounded away from zero.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        scaled(self.0, NANO / 1000)
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Amount {
    /// Whole numbers as they are, thousandths with `m`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % NANO == 0 { write!(f, "{}", self.value()) } else { write!(f, "{}m", self.milli_value()) }
    }
}

fn scaled(nanos: i128, unit: i128) -> i64 {
    let whole = nanos / unit;
    let rounded = if nanos % unit == 0 { whole } else { whole + nanos.signum() };
    i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
}

fn parse(text: &str) -> Option<Amount> {
    if text.is_empty() || text.len() > MAX_LENGTH || !text.is_ascii() {
        return None;
    }
    let (negative, rest) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (multiplier, divisor) = suffix_factor(suffix)?;
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(multiplier)?.checked_mul(NANO)?;
    let mut unit = multiplier.checked_mul(NANO)?;
    let mut rest_of_unit = 0_i128;
    for digit in fraction.bytes() {
        // Exact while the unit divides by ten; what is finer than a nano only has to round up.
        let exact = unit / 10;
        let part = i128::from(digit - b'0');
        nanos = nanos.checked_add(part.checked_mul(exact)?)?;
        rest_of_unit += part * (unit % 10);
        unit = exact;
    }
    if rest_of_unit > 0 {
        nanos = nanos.checked_add(1)?;
    }
    let rounded = nanos / divisor + i128::from(nanos % divisor != 0);
    Some(Amount(if negative { -rounded } else { rounded }))
}

/// What a suffix multiplies and divides by.
fn suffix_factor(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1024_i128.pow(power), 1));
    let decimal = |power: u32| Some((1000_i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, NANO)),
        "u" => Some((1, NANO / 1000)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}
