//! Kubernetes' quantities: `500m`, `0.5`, `128Mi`, `1e3`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// An amount that is not negative, in billionths of its unit (a core, a byte): exact for every quantity that Kubernetes
/// takes, but for fractions finer than that, which are rounded up as there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

const NANO: i128 = 1_000_000_000;
/// Where Kubernetes ends: 2^63 - 1 units.
const MAX: i128 = i64::MAX as i128 * NANO;

/// The suffixes and what a unit of each is worth, in billionths.
const SUFFIXES: [(&str, i128); 16] = [
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("", NANO),
    ("k", 1_000 * NANO),
    ("M", 1_000_000 * NANO),
    ("G", 1_000_000_000 * NANO),
    ("T", 1_000_000_000_000 * NANO),
    ("P", 1_000_000_000_000_000 * NANO),
    ("E", 1_000_000_000_000_000_000 * NANO),
    ("Ki", (1 << 10) * NANO),
    ("Mi", (1 << 20) * NANO),
    ("Gi", (1 << 30) * NANO),
    ("Ti", (1 << 40) * NANO),
    ("Pi", (1 << 50) * NANO),
    ("Ei", (1 << 60) * NANO),
];

impl Quantity {
    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        i64::try_from((self.0 + NANO - 1) / NANO).expect("a quantity is at most 2^63 - 1 units")
    }

    /// Thousandths, rounded up. More than 2^63 - 1 of them count as that many.
    pub fn milli(self) -> i64 {
        i64::try_from((self.0 + 999_999) / 1_000_000).unwrap_or(i64::MAX)
    }

    /// What `text` says; None if it is no quantity, negative or larger than 2^63 - 1.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || whole.len() > 30 {
            return None;
        }
        let digits: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let amount = match exponent(suffix) {
            Some(exponent) => scaled(digits, fraction, NANO, exponent)?,
            None => {
                let unit = SUFFIXES.iter().find(|(name, _)| *name == suffix)?.1;
                scaled(digits, fraction, unit, 0)?
            }
        };
        (amount <= MAX).then_some(Self(amount))
    }
}

/// The power of ten in `e3`, `E-2`; None for every other suffix (`E` alone is a suffix: exa).
fn exponent(suffix: &str) -> Option<i32> {
    suffix
        .strip_prefix(['e', 'E'])?
        .parse()
        .ok()
        .filter(|power: &i32| (-30..=30).contains(power))
}

/// `whole.fraction * 10^exponent` units, rounded up.
fn scaled(whole: i128, fraction: &str, unit: i128, exponent: i32) -> Option<i128> {
    // More than 18 digits of a fraction are below what any unit can show; that they are there still rounds up.
    let (kept, rest) = fraction.split_at(fraction.len().min(18));
    let base = 10i128.pow(u32::try_from(kept.len()).ok()?);
    let fine: i128 = if kept.is_empty() { 0 } else { kept.parse().ok()? };
    let excess = rest.bytes().any(|digit| digit != b'0');
    let up = 10i128.checked_pow(u32::try_from(exponent.max(0)).ok()?)?;
    let down = 10i128.checked_pow(u32::try_from((-exponent).max(0)).ok()?)?;
    let whole = whole.checked_mul(unit)?.checked_mul(up)?;
    // The unit and the fraction's base share their factors of ten and two; without the common part both stay small.
    let common = gcd(unit, base);
    let (unit, base) = (unit / common, base / common);
    let fine = fine.checked_mul(unit)?.checked_mul(up)?;
    let total = whole.checked_add(fine / base)?;
    let remainder = fine % base != 0 || excess;
    Some(total / down + i128::from(total % down != 0 || remainder))
}

fn gcd(a: i128, b: i128) -> i128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Text)
    }
}

/// A quantity may be written as a number, too.
struct Text;

impl Visitor<'_> for Text {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity such as 500m or 128Mi")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
        Quantity::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milli(text: &str) -> Option<i64> {
        Quantity::parse(text).map(Quantity::milli)
    }

    fn units(text: &str) -> Option<i64> {
        Quantity::parse(text).map(Quantity::units)
    }

    #[test]
    fn cores_are_counted_in_thousandths_and_rounded_up() {
        for (text, expected) in [
            ("1", 1000),
            ("500m", 500),
            ("0.5", 500),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("1u", 1),
            ("0.1m", 1),
            ("1e-3", 1),
            ("2e0", 2000),
            ("0", 0),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn bytes_are_whole() {
        for (text, expected) in [
            ("128Mi", 128 << 20),
            ("1.5Gi", 3 << 29),
            ("64M", 64_000_000),
            ("1k", 1000),
            ("1e3", 1000),
            ("12E2", 1200),
            ("1E", 1_000_000_000_000_000_000),
            ("0.1Ki", 103),
            ("100m", 1),
            ("0.0000000000000000000001", 1),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(units(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in [
            "",
            ".",
            "m",
            "-1",
            "1.2.3",
            "1 Mi",
            "1mi",
            "1KB",
            "1e",
            "1e99",
            "0x10",
            "9223372036854775808",
            "8Ei",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fail_otherwise(text in "[0-9.]{0,40}[eEnumkMGTPi0-9+-]{0,4}") {
            if let Some(quantity) = Quantity::parse(&text) {
                prop_assert!(quantity.units() >= 0 && quantity.milli() >= quantity.units().min(1));
            }
        }
    }
}
