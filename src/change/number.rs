//! Numbers by value: what int32, int64, double and Decimal128 have in common, so that two values
//! that MongoDB calls equal have one form, and the text of each.
//!
//! Document keys and ids are made from it, and the JSON writer takes the digits of a Decimal128
//! from here. It knows nothing of documents.

use bson::{Decimal128, RawBsonRef};

const COEFFICIENT_BITS: u32 = 113;
const EXPONENT_MASK: u128 = 0x3fff;
const EXPONENT_BIAS: i32 = 6176;
const COEFFICIENT_MAX: u128 = 10u128.pow(34) - 1;
/// 2^63, the first double over the range of an int64.
const INT_END: f64 = 9_223_372_036_854_775_808.0;
/// The longest text that is written without an exponent.
const PLAIN_DIGITS: usize = 40;

/// A Decimal128 taken apart. Trailing zeros are kept: `1.50` has the coefficient 150.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decimal {
    /// `coefficient * 10^exponent`.
    Finite {
        /// Whether the sign bit is set; zero has a sign too.
        negative: bool,
        /// At most 34 digits.
        coefficient: u128,
        /// From -6176 to 6111.
        exponent: i32,
    },
    /// An infinity.
    Infinite {
        /// Whether the sign bit is set.
        negative: bool,
    },
    /// NaN, quiet or signalling, with either sign.
    NotANumber,
}

impl Decimal {
    /// Reads the binary integer encoding (BID) of IEEE 754. A coefficient over 34 digits, which
    /// only a broken writer makes, counts as zero, as the standard says.
    pub fn decode(value: Decimal128) -> Self {
        let bits = u128::from_le_bytes(value.bytes());
        let negative = bits >> 127 == 1;
        let (exponent, coefficient) = match (bits >> 122) & 0b1_1111 {
            0b1_1111 => return Self::NotANumber,
            0b1_1110 => return Self::Infinite { negative },
            // The form for coefficients from 2^113 on, all of which are over 34 digits.
            0b1_1000..=0b1_1101 => ((bits >> (COEFFICIENT_BITS - 2)) & EXPONENT_MASK, 0),
            _ => {
                let coefficient = bits & ((1 << COEFFICIENT_BITS) - 1);
                let canonical = if coefficient > COEFFICIENT_MAX { 0 } else { coefficient };
                ((bits >> COEFFICIENT_BITS) & EXPONENT_MASK, canonical)
            }
        };
        Self::Finite { negative, coefficient, exponent: exponent as i32 - EXPONENT_BIAS }
    }

    /// Appends the text that the Decimal128 specification gives it, which for a finite value is a
    /// JSON number with the same digits: `1.50`, `1.5E+10`; else `NaN`, `Infinity`, `-Infinity`.
    pub fn write(self, out: &mut Vec<u8>) {
        let (negative, coefficient, exponent) = match self {
            Self::NotANumber => return out.extend_from_slice(b"NaN"),
            Self::Infinite { negative: false } => return out.extend_from_slice(b"Infinity"),
            Self::Infinite { negative: true } => return out.extend_from_slice(b"-Infinity"),
            Self::Finite { negative, coefficient, exponent } => (negative, coefficient, exponent),
        };
        if negative {
            out.push(b'-');
        }
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(coefficient).as_bytes();
        let scientific = exponent + digits.len() as i32 - 1;
        if exponent > 0 || scientific < -6 {
            write_scientific(digits, scientific, "E+", "E", out);
        } else {
            write_plain(digits, exponent, out);
        }
    }
}

/// A number in the one form that all equal numbers share: an integer wherever an int64 can hold it,
/// else a double wherever a double is exactly it, else a decimal.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// Any whole number in the range of an int64.
    Int(i64),
    /// A fraction, a whole number over the range of an int64, an infinity, or the one NaN.
    Double(f64),
    /// A finite number that no double equals. The coefficient does not end in zero.
    Decimal {
        /// Whether it is below zero.
        negative: bool,
        /// At most 34 digits.
        coefficient: u128,
        /// The power of ten that the coefficient is multiplied by.
        exponent: i32,
    },
}

impl Number {
    /// The number that a value is, `None` for other types.
    pub fn of(value: RawBsonRef<'_>) -> Option<Self> {
        match value {
            RawBsonRef::Int32(int) => Some(Self::Int(int.into())),
            RawBsonRef::Int64(int) => Some(Self::Int(int)),
            RawBsonRef::Double(double) => Some(Self::from(double)),
            RawBsonRef::Decimal128(decimal) => Some(Self::from(Decimal::decode(decimal))),
            _ => None,
        }
    }

    /// Appends the decimal text: without an exponent up to forty characters, never with a zero too
    /// many. Unlike numbers have unlike texts with one exception: a double has its shortest text,
    /// `0.1`, and the Decimal128 0.1, which is another number, has the same digits.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes()),
            Self::Double(double) if double.is_nan() => out.extend_from_slice(b"NaN"),
            Self::Double(f64::INFINITY) => out.extend_from_slice(b"Infinity"),
            Self::Double(f64::NEG_INFINITY) => out.extend_from_slice(b"-Infinity"),
            Self::Double(double) => {
                let text = format!("{:e}", double.abs());
                let (mantissa, exponent) =
                    text.split_once('e').expect("the format always has an exponent");
                let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
                let exponent: i32 = exponent.parse().expect("the exponent is an integer");
                write_shorter(double < 0.0, &digits, exponent + 1 - digits.len() as i32, out);
            }
            Self::Decimal { negative, coefficient, exponent } => {
                let mut buffer = itoa::Buffer::new();
                write_shorter(negative, buffer.format(coefficient).as_bytes(), exponent, out);
            }
        }
    }
}

impl From<f64> for Number {
    fn from(double: f64) -> Self {
        if double.is_nan() {
            Self::Double(f64::NAN)
        } else if double.trunc() == double && (-INT_END..INT_END).contains(&double) {
            Self::Int(double as i64)
        } else {
            Self::Double(double)
        }
    }
}

impl From<Decimal> for Number {
    fn from(decimal: Decimal) -> Self {
        let (negative, mut coefficient, mut exponent) = match decimal {
            Decimal::NotANumber => return Self::Double(f64::NAN),
            Decimal::Infinite { negative: false } => return Self::Double(f64::INFINITY),
            Decimal::Infinite { negative: true } => return Self::Double(f64::NEG_INFINITY),
            Decimal::Finite { coefficient: 0, .. } => return Self::Int(0),
            Decimal::Finite { negative, coefficient, exponent } => {
                (negative, coefficient, exponent)
            }
        };
        while coefficient.is_multiple_of(10) {
            coefficient /= 10;
            exponent += 1;
        }
        if let Some(int) = exact_int(negative, coefficient, exponent) {
            Self::Int(int)
        } else if let Some(double) = exact_double(coefficient, exponent) {
            Self::Double(if negative { -double } else { double })
        } else {
            Self::Decimal { negative, coefficient, exponent }
        }
    }
}

/// Whether a text could be what [`Number::write`] wrote. Some texts that it never writes pass too
/// (`-0`, forty-one digits).
pub fn reads_as_number(text: &str) -> bool {
    if matches!(text, "NaN" | "Infinity" | "-Infinity") {
        return true;
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|fraction| digits(fraction) && !fraction.ends_with('0'))
        && exponent.is_none_or(|text| digits(text.strip_prefix('-').unwrap_or(text)))
}

fn exact_int(negative: bool, coefficient: u128, exponent: i32) -> Option<i64> {
    let power = 10u128.checked_pow(u32::try_from(exponent).ok()?)?;
    let size = i128::try_from(coefficient.checked_mul(power)?).ok()?;
    i64::try_from(if negative { -size } else { size }).ok()
}

/// The double that is exactly `coefficient * 10^exponent`, where there is one.
///
/// `10^e` is `5^e * 2^e`, and powers of two cost a double nothing: what has to fit into 53 bits is
/// the odd part. At most 48 divisions by five succeed on 34 digits and at most 22 multiplications
/// stay within 53 bits, so the exponent of the double is far from its limits.
fn exact_double(coefficient: u128, exponent: i32) -> Option<f64> {
    let twos = coefficient.trailing_zeros();
    let mut odd = coefficient >> twos;
    for _ in 0..exponent.unsigned_abs() {
        if exponent > 0 {
            odd *= 5;
            if odd >> 53 != 0 {
                return None;
            }
        } else if odd.is_multiple_of(5) {
            odd /= 5;
        } else {
            return None;
        }
    }
    if odd >> 53 != 0 {
        return None;
    }
    let power = f64::from_bits(((1023 + exponent + twos as i32) as u64) << 52);
    Some(odd as f64 * power)
}

fn write_shorter(negative: bool, digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    if negative {
        out.push(b'-');
    }
    let length = digits.len() as i32;
    let plain = if exponent >= 0 {
        length + exponent
    } else {
        // A point, and the zeros before the digits where they are all behind it.
        length.max(1 - exponent) + 1
    };
    if plain as usize <= PLAIN_DIGITS {
        write_plain(digits, exponent, out);
    } else {
        write_scientific(digits, exponent + length - 1, "e", "e", out);
    }
}

fn write_plain(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    if exponent >= 0 {
        out.extend_from_slice(digits);
        out.resize(out.len() + exponent as usize, b'0');
        return;
    }
    let fraction = exponent.unsigned_abs() as usize;
    if digits.len() > fraction {
        let (whole, rest) = digits.split_at(digits.len() - fraction);
        out.extend_from_slice(whole);
        out.push(b'.');
        out.extend_from_slice(rest);
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + fraction - digits.len(), b'0');
        out.extend_from_slice(digits);
    }
}

fn write_scientific(
    digits: &[u8],
    exponent: i32,
    positive: &str,
    negative: &str,
    out: &mut Vec<u8>,
) {
    out.push(digits[0]);
    if digits.len() > 1 {
        out.push(b'.');
        out.extend_from_slice(&digits[1..]);
    }
    let mark = if exponent < 0 { negative } else { positive };
    out.extend_from_slice(mark.as_bytes());
    out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal128 {
        text.parse().unwrap()
    }

    fn written(value: impl Into<RawBsonRef<'static>>) -> String {
        let mut out = Vec::new();
        Number::of(value.into()).unwrap().write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn digits(value: Decimal128) -> String {
        let mut out = Vec::new();
        Decimal::decode(value).write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_decimal_keeps_its_digits() {
        for text in [
            "0",
            "-0",
            "0.00",
            "1",
            "1.50",
            "-12.340",
            "1E+3",
            "1.5E+10",
            "0.000001",
            "1E-7",
            "1.23E-8",
            "NaN",
            "Infinity",
            "-Infinity",
            "0E+6111",
            "0E-6176",
            "1E-6176",
            "9.999999999999999999999999999999999E+6144",
            "1234567890123456789012345678901234",
            "0.1234567890123456789012345678901234",
        ] {
            assert_eq!(digits(decimal(text)), text);
        }
    }

    #[test]
    fn coefficients_of_more_than_34_digits_are_zero() {
        let over = (10u128.pow(34) | (6176u128 << 113)).to_le_bytes();
        assert_eq!(digits(Decimal128::from_bytes(over)), "0");
        let large_form = ((0b11 << 125) | (6178u128 << 111) | 5).to_le_bytes();
        assert_eq!(digits(Decimal128::from_bytes(large_form)), "0E+2");
    }

    #[test]
    fn texts() {
        for (value, text) in [
            (RawBsonRef::Int32(-5), "-5"),
            (RawBsonRef::Int64(i64::MIN), "-9223372036854775808"),
            (RawBsonRef::Double(1.0), "1"),
            (RawBsonRef::Double(-0.0), "0"),
            (RawBsonRef::Double(0.5), "0.5"),
            (RawBsonRef::Double(-12.25), "-12.25"),
            (RawBsonRef::Double(0.1), "0.1"),
            (RawBsonRef::Double(1e22), "10000000000000000000000"),
            (RawBsonRef::Double(1e39), "1000000000000000000000000000000000000000"),
            (RawBsonRef::Double(1e40), "1e40"),
            (RawBsonRef::Double(-1.5e300), "-1.5e300"),
            (RawBsonRef::Double(1e-38), "0.00000000000000000000000000000000000001"),
            (RawBsonRef::Double(1e-39), "1e-39"),
            (RawBsonRef::Double(5e-324), "5e-324"),
            (RawBsonRef::Double(f64::NAN), "NaN"),
            (RawBsonRef::Double(f64::NEG_INFINITY), "-Infinity"),
            (RawBsonRef::Decimal128(decimal("1.00")), "1"),
            (RawBsonRef::Decimal128(decimal("-0E+10")), "0"),
            (RawBsonRef::Decimal128(decimal("12.250")), "12.25"),
            (RawBsonRef::Decimal128(decimal("1E+22")), "10000000000000000000000"),
            (RawBsonRef::Decimal128(decimal("1.10E+3")), "1100"),
            (RawBsonRef::Decimal128(decimal("1E+6000")), "1e6000"),
            (RawBsonRef::Decimal128(decimal("-1.230E-100")), "-1.23e-100"),
        ] {
            assert_eq!(written(value), text);
            assert!(reads_as_number(text), "{text}");
        }
        for text in ["", "-", "01", "1.", ".5", "1.50", "1e", "e5", "+1", "0x1", "1 ", "1e+5"] {
            assert!(!reads_as_number(text), "{text}");
        }
    }

    #[test]
    fn the_form_is_an_int_then_a_double_then_a_decimal() {
        let form = |text: &str| Number::from(Decimal::decode(decimal(text)));
        assert!(matches!(form("9223372036854775807"), Number::Int(i64::MAX)));
        assert!(matches!(form("-9223372036854775808"), Number::Int(i64::MIN)));
        assert!(matches!(form("9223372036854775808"), Number::Double(INT_END)));
        assert!(matches!(form("9223372036854775809"), Number::Decimal { .. }));
        assert!(matches!(form("0.5"), Number::Double(0.5)));
        assert!(matches!(form("0.1"), Number::Decimal { .. }));
        assert!(matches!(form("1E+22"), Number::Double(1e22)));
        assert!(matches!(form("1E+23"), Number::Decimal { .. }));
        assert!(matches!(form("1E+6111"), Number::Decimal { .. }));
        assert!(matches!(form("1E-6176"), Number::Decimal { .. }));
        assert!(matches!(Number::from(9e15), Number::Int(9_000_000_000_000_000)));
    }

    /// The whole expansion of a double in decimal digits, which is finite.
    fn expansion(double: f64) -> String {
        let text = format!("{double:.1080}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    proptest! {
        #[test]
        fn decoding_agrees_with_the_driver(bytes: [u8; 16]) {
            let value = Decimal128::from_bytes(bytes);
            prop_assert_eq!(digits(value), value.to_string());
        }

        #[test]
        fn a_decimal_is_a_double_exactly_where_the_expansions_agree(
            coefficient in 1u128..=COEFFICIENT_MAX, shift in 0u32..33, exponent in -60i32..40,
        ) {
            let coefficient = (coefficient / 10u128.pow(shift)).max(1);
            let finite = Decimal::Finite { negative: false, coefficient, exponent };
            let plain = {
                let mut out = Vec::new();
                write_plain(coefficient.to_string().as_bytes(), exponent, &mut out);
                let text = String::from_utf8(out).unwrap();
                match text.contains('.') {
                    true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                    false => text,
                }
            };
            let nearest: f64 = plain.parse().unwrap();
            match Number::from(finite) {
                Number::Int(int) => prop_assert_eq!(plain, int.to_string()),
                Number::Double(double) => {
                    prop_assert_eq!(double, nearest);
                    prop_assert_eq!(plain, expansion(double));
                }
                Number::Decimal { .. } => prop_assert_ne!(plain, expansion(nearest)),
            }
        }

        #[test]
        fn the_text_of_a_double_is_read_back_as_the_same_double(bits: u64) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let text = written(RawBsonRef::Double(double));
            prop_assert_eq!(text.parse::<f64>().unwrap(), double);
            prop_assert!(reads_as_number(&text));
        }
    }
}
