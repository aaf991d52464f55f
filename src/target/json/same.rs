//! Whether two JSON texts say the same: the order of fields aside, and numbers by their value, digit by
//! digit, so that 1 and 1.0 are one number and two long decimals are two.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Whether two texts stand for one value. What is no JSON is only the same as itself.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    if one == other {
        return true;
    }
    let read = |text| serde_json::from_slice::<&RawValue>(text).ok();
    match (read(one), read(other)) {
        (Some(one), Some(other)) => are_same(one.get(), other.get()).unwrap_or(false),
        _ => false,
    }
}

/// `None` where a part of them can't be read.
fn are_same(one: &str, other: &str) -> Option<bool> {
    if one == other {
        return Some(true);
    }
    let kind = |text: &str| match text.bytes().next() {
        Some(b'-' | b'0'..=b'9') => b'0',
        first => first.unwrap_or_default(),
    };
    if kind(one) != kind(other) {
        return Some(false);
    }
    match kind(one) {
        b'{' => {
            let read = |text| serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok();
            let (one, other) = (read(one)?, read(other)?);
            if !one.keys().eq(other.keys()) {
                return Some(false);
            }
            all_same(one.into_values(), other.into_values())
        }
        b'[' => {
            let read = |text| serde_json::from_str::<Vec<&RawValue>>(text).ok();
            let (one, other) = (read(one)?, read(other)?);
            if one.len() != other.len() {
                return Some(false);
            }
            all_same(one.into_iter(), other.into_iter())
        }
        b'"' => {
            let read = |text| serde_json::from_str::<String>(text).ok();
            Some(read(one)? == read(other)?)
        }
        b'0' => Some(number(one)? == number(other)?),
        // `true`, `false` and `null` have one spelling each.
        _ => Some(false),
    }
}

fn all_same<'a>(
    one: impl Iterator<Item = &'a RawValue>,
    other: impl Iterator<Item = &'a RawValue>,
) -> Option<bool> {
    for (one, other) in one.zip(other) {
        if !are_same(one.get(), other.get())? {
            return Some(false);
        }
    }
    Some(true)
}

/// Sign, digits without zeros at either end, and the power of ten behind them. Zero has no sign.
fn number(text: &str) -> Option<(bool, String, i64)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let kept = digits.trim_end_matches('0');
    if kept.is_empty() {
        return Some((false, String::new(), 0));
    }
    let dropped = digits.len() - kept.len();
    let shift = i64::try_from(dropped).ok()? - i64::try_from(fraction.len()).ok()?;
    Some((negative, kept.to_owned(), exponent.checked_add(shift)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_count_and_spelling_does_not() {
        for (one, other, expected) in [
            (r#"{"a":1,"b":[1,2]}"#, r#"{ "b": [1, 2], "a": 1.0 }"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":null}"#, false),
            (r#"{"a":null}"#, r#"{"b":null}"#, false),
            ("[1,2]", "[2,1]", false),
            ("[1,2]", "[1,2,3]", false),
            ("[]", "{}", false),
            (r#""\u00e9""#, r#""é""#, true),
            (r#""1""#, "1", false),
            ("true", "false", false),
            ("null", "0", false),
            ("1", "1.0", true),
            ("100", "1e2", true),
            ("1.50", "15E-1", true),
            ("-0.0", "0", true),
            ("-1", "1", false),
            ("9007199254740993", "9007199254740992", false),
            ("1.00000000000000000001", "1.00000000000000000002", false),
            ("0.1", "0.10", true),
            ("1e400", "10e399", true),
            ("1e99999999999999999999", "1e99999999999999999998", false),
            (r#"{"a":{"b":[{"c":2.0}]}}"#, r#"{"a":{"b":[{"c":2}]}}"#, true),
            ("{", "{", true),
            ("{", "[", false),
        ] {
            assert_eq!(same(one.as_bytes(), other.as_bytes()), expected, "{one} {other}");
            assert_eq!(same(other.as_bytes(), one.as_bytes()), expected, "{other} {one}");
        }
    }
}
