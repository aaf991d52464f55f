//! Sizes (`8MiB`, `500KB`), times (`250ms`, `10s`) and points in time as they are written in a rule
//! file.
//!
//! Plain functions from text to number; where the text is wrong, they say what was probably meant.

use std::time::Duration;

use bson::Timestamp;

/// The units of size, in bytes.
pub const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];
/// The units of time, in milliseconds.
pub const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// How the text of a size or time is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What it is instead.
    pub found: &'static str,
    /// What was probably meant.
    pub meant: Option<String>,
}

/// What to write.
pub const SIZE_HELP: &str = "sizes are written `8MiB`, `500KB` or as a plain number of bytes";
/// What to write.
pub const TIME_HELP: &str = "times are written `250ms`, `10s`, `5m` or `24h`";

/// A number of bytes; without a unit, bytes.
///
/// # Errors
/// Where it is none or does not fit.
pub fn size(text: &str) -> Result<usize, Wrong> {
    let (number, unit) = split(text)?;
    let factor = if unit.is_empty() {
        1
    } else {
        factor(unit, &SIZES).ok_or_else(|| Wrong {
            found: "there is no such unit of size",
            meant: near_size(unit).map(|unit| format!("{number}{unit}")),
        })?
    };
    number
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or(Wrong { found: "this is too large", meant: None })
}

/// A time with its unit.
///
/// # Errors
/// Where it is none or does not fit.
pub fn time(text: &str) -> Result<Duration, Wrong> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        let meant = if number == 0 { "0ms".to_owned() } else { format!("{number}s") };
        return Err(Wrong { found: "a number without a unit", meant: Some(meant) });
    }
    let factor = factor(unit, &TIMES).ok_or_else(|| Wrong {
        found: "there is no such unit of time",
        meant: near_time(number, unit),
    })?;
    number
        .checked_mul(factor)
        .map(Duration::from_millis)
        .ok_or(Wrong { found: "this is too long", meant: None })
}

/// A size as it would be written: with the largest unit that leaves it whole.
pub fn written_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    written(bytes, &SIZES).unwrap_or_else(|| bytes.to_string())
}

/// A time as it would be written, without what is less than a millisecond.
pub fn written_time(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    written(millis, &TIMES).unwrap_or_else(|| "0ms".to_owned())
}

fn written(value: u64, units: &[(&str, u64)]) -> Option<String> {
    let whole = units.iter().filter(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    let (unit, factor) = whole.max_by_key(|(_, factor)| *factor)?;
    Some(format!("{}{unit}", value / factor))
}

fn factor(unit: &str, units: &[(&str, u64)]) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

fn split(text: &str) -> Result<(u64, &str), Wrong> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Wrong { found: "this does not begin with a number", meant: None });
    }
    if unit.starts_with(['.', ',']) {
        return Err(Wrong { found: "this is not a whole number", meant: None });
    }
    let number = number.parse().map_err(|_| Wrong { found: "this is too large", meant: None })?;
    Ok((number, unit))
}

fn near_size(unit: &str) -> Option<&'static str> {
    Some(match unit.trim().to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => "B",
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        _ => return None,
    })
}

fn near_time(number: u64, unit: &str) -> Option<String> {
    Some(match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" | "milliseconds" => format!("{number}ms"),
        "s" | "sec" | "secs" | "second" | "seconds" => format!("{number}s"),
        "m" | "min" | "mins" | "minute" | "minutes" => format!("{number}m"),
        "h" | "hr" | "hour" | "hours" => format!("{number}h"),
        "d" | "day" | "days" => format!("{}h", number.checked_mul(24)?),
        "w" | "week" | "weeks" => format!("{}h", number.checked_mul(168)?),
        _ => return None,
    })
}

/// `2026-11-20T00:00:00Z`, or a cluster time as `seconds.increment`, from the text: `1.1` and `1.10`
/// are two times.
pub fn point_in_time(text: &str) -> Option<Timestamp> {
    let cluster_time = || {
        let (seconds, increment) = text.split_once('.')?;
        Some(Timestamp { time: seconds.parse().ok()?, increment: increment.parse().ok()? })
    };
    cluster_time().or_else(|| {
        let date = bson::DateTime::parse_rfc3339_str(text).ok()?;
        at_millis(date.timestamp_millis())
    })
}

/// The cluster time of a moment since 1970.
pub fn at_millis(millis: i64) -> Option<Timestamp> {
    Some(Timestamp { time: u32::try_from(millis.div_euclid(1000)).ok()?, increment: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("1000", Ok(1000)),
            ("1B", Ok(1)),
            ("500KB", Ok(500_000)),
            ("8MiB", Ok(8 << 20)),
            ("10MB", Ok(10_000_000)),
            ("2GiB", Ok(2 << 30)),
            ("8mib", Err(Some("8MiB"))),
            ("8M", Err(Some("8MiB"))),
            ("8 MiB", Err(Some("8MiB"))),
            ("8MiX", Err(None)),
            ("MiB", Err(None)),
            ("1.5GiB", Err(None)),
            ("-1", Err(None)),
            ("99999999999999999999", Err(None)),
            ("99999999999999GiB", Err(None)),
            ("", Err(None)),
        ] {
            let found = size(text).map_err(|wrong| wrong.meant);
            assert_eq!(found, expected.map_err(|meant| meant.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["1B", "500KB", "8MiB", "10MB", "2GiB", "1025B"] {
            assert_eq!(written_size(size(text).expect(text)), text);
        }
        for text in ["0ms", "250ms", "1s", "90s", "5m", "24h"] {
            assert_eq!(written_time(time(text).expect(text)), text);
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("250ms", Ok(250)),
            ("10s", Ok(10_000)),
            ("5m", Ok(300_000)),
            ("24h", Ok(86_400_000)),
            ("0ms", Ok(0)),
            ("0", Err(Some("0ms"))),
            ("10", Err(Some("10s"))),
            ("10sec", Err(Some("10s"))),
            ("10 s", Err(Some("10s"))),
            ("5min", Err(Some("5m"))),
            ("7d", Err(Some("168h"))),
            ("1h30m", Err(None)),
            ("soon", Err(None)),
            ("1.5s", Err(None)),
            ("99999999999999999h", Err(None)),
        ] {
            let found = time(text).map_err(|wrong| wrong.meant);
            let expected = expected.map(Duration::from_millis);
            assert_eq!(found, expected.map_err(|meant| meant.map(str::to_owned)), "{text}");
        }
    }
}
