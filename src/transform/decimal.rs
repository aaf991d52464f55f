//! Arithmetic on [`Decimal128`] as IEEE 754 has it: 34 digits, half to even, the exponent kept
//! where it can be (`1.10 + 2.20` is `3.30`).
//!
//! Infinities and NaN are read, compared and written, but not computed with. Nothing here knows
//! the script engine.

use std::{cmp::Ordering, str::FromStr};

use bson::Decimal128;
use num_bigint::{BigInt, BigUint, Sign};

/// The digits that a coefficient has at most.
const DIGITS: usize = 34;
const MIN_EXPONENT: i64 = -6176;
const MAX_EXPONENT: i64 = 6111;
const BIAS: i64 = 6176;

/// Why there is no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("a decimal that is not finite cannot be computed with")]
    NotFinite,
    #[error("division by zero")]
    DivisionByZero,
    #[error("the result is too large for a decimal")]
    TooLarge,
    #[error("the text is not a decimal number of up to 34 digits")]
    NotANumber,
    #[error("the decimal does not fit an integer of 64 bits")]
    NotAnInteger,
}

/// A finite number: coefficient · 10^exponent.
struct Finite {
    coefficient: BigInt,
    exponent: i64,
}

/// What the 16 bytes say.
enum Parts {
    Finite(Finite),
    Infinite { negative: bool },
    NotANumber,
}

fn parts(value: &Decimal128) -> Parts {
    let bits = u128::from_le_bytes(value.bytes());
    let negative = bits >> 127 == 1;
    // Five bits under the sign tell infinities and NaN from numbers.
    match (bits >> 122) & 0b11111 {
        0b11111 => return Parts::NotANumber,
        0b11110 => return Parts::Infinite { negative },
        _ => {}
    }
    let (exponent, mut coefficient) = if (bits >> 125) & 0b11 == 0b11 {
        // This form's coefficients are all over 34 digits, which the format reads as zero.
        ((bits >> 111) & 0x3FFF, 0)
    } else {
        ((bits >> 113) & 0x3FFF, bits & ((1 << 113) - 1))
    };
    if coefficient >= 10u128.pow(DIGITS as u32) {
        coefficient = 0;
    }
    let sign = if negative { Sign::Minus } else { Sign::Plus };
    Parts::Finite(Finite {
        coefficient: BigInt::from_biguint(sign, BigUint::from(coefficient)),
        exponent: i64::try_from(exponent).expect("14 bits") - BIAS,
    })
}

fn finite(value: &Decimal128) -> Result<Finite, Fault> {
    match parts(value) {
        Parts::Finite(number) => Ok(number),
        Parts::Infinite { .. } | Parts::NotANumber => Err(Fault::NotFinite),
    }
}

fn power(exponent: i64) -> BigInt {
    BigInt::from(10u8).pow(u32::try_from(exponent).expect("a difference of two exponents"))
}

fn digits(number: &BigInt) -> i64 {
    number.magnitude().to_string().len() as i64
}

/// Divides, rounding half to even; `inexact` says that something smaller than the dividend's last
/// digit was cut off before.
fn divide_rounding(dividend: &BigInt, divisor: &BigInt, inexact: bool) -> BigInt {
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    let twice = rest.magnitude() * 2u8;
    let up = match twice.cmp(divisor.magnitude()) {
        Ordering::Greater => true,
        Ordering::Equal => inexact || quotient.bit(0),
        Ordering::Less => false,
    };
    let away = if dividend.sign() == Sign::Minus { -1 } else { 1 };
    if up { quotient + away } else { quotient }
}

/// Rounds to 34 digits and the format's exponents, and packs.
fn pack(number: Finite, inexact: bool) -> Result<Decimal128, Fault> {
    let Finite { mut coefficient, mut exponent } = number;
    let cut = (digits(&coefficient) - DIGITS as i64).max(MIN_EXPONENT - exponent);
    if cut > 0 {
        coefficient = divide_rounding(&coefficient, &power(cut), inexact);
        exponent += cut;
        // 999…9 rounds up to one digit more.
        if digits(&coefficient) > DIGITS as i64 {
            coefficient /= 10;
            exponent += 1;
        }
    }
    if coefficient.sign() == Sign::NoSign {
        exponent = exponent.min(MAX_EXPONENT);
    }
    let over = exponent - MAX_EXPONENT;
    if over > 0 {
        if digits(&coefficient) + over > DIGITS as i64 {
            return Err(Fault::TooLarge);
        }
        coefficient *= power(over);
        exponent = MAX_EXPONENT;
    }
    let magnitude = u128::try_from(coefficient.magnitude()).expect("34 digits fit 113 bits");
    let biased = u128::try_from(exponent + BIAS).expect("the exponent was bounded above");
    let sign = u128::from(coefficient.sign() == Sign::Minus);
    Ok(Decimal128::from_bytes((sign << 127 | biased << 113 | magnitude).to_le_bytes()))
}

/// Brings both to the smaller exponent.
fn align(a: Finite, b: Finite) -> (BigInt, BigInt, i64) {
    let exponent = a.exponent.min(b.exponent);
    (
        a.coefficient * power(a.exponent - exponent),
        b.coefficient * power(b.exponent - exponent),
        exponent,
    )
}

pub(super) fn add(a: &Decimal128, b: &Decimal128) -> Result<Decimal128, Fault> {
    let (a, b, exponent) = align(finite(a)?, finite(b)?);
    pack(Finite { coefficient: a + b, exponent }, false)
}

pub(super) fn subtract(a: &Decimal128, b: &Decimal128) -> Result<Decimal128, Fault> {
    let (a, b, exponent) = align(finite(a)?, finite(b)?);
    pack(Finite { coefficient: a - b, exponent }, false)
}

pub(super) fn multiply(a: &Decimal128, b: &Decimal128) -> Result<Decimal128, Fault> {
    let (a, b) = (finite(a)?, finite(b)?);
    let exponent = a.exponent + b.exponent;
    pack(Finite { coefficient: a.coefficient * b.coefficient, exponent }, false)
}

pub(super) fn divide(a: &Decimal128, b: &Decimal128) -> Result<Decimal128, Fault> {
    let (a, b) = (finite(a)?, finite(b)?);
    if b.coefficient.sign() == Sign::NoSign {
        return Err(Fault::DivisionByZero);
    }
    // Two digits more than fit, and whether there was a rest, are enough to round once and right.
    let scale = (DIGITS as i64 + 2 + digits(&b.coefficient) - digits(&a.coefficient)).max(0);
    let dividend = a.coefficient * power(scale);
    let (mut quotient, rest) = (&dividend / &b.coefficient, &dividend % &b.coefficient);
    let mut exponent = a.exponent - b.exponent - scale;
    let exact = rest.sign() == Sign::NoSign;
    if exact {
        // An exact quotient goes back towards the exponent that the operands ask for.
        let ten = BigInt::from(10u8);
        while exponent < a.exponent - b.exponent && (&quotient % &ten).sign() == Sign::NoSign {
            quotient /= &ten;
            exponent += 1;
        }
    }
    pack(Finite { coefficient: quotient, exponent }, !exact)
}

pub(super) fn negate(a: &Decimal128) -> Result<Decimal128, Fault> {
    let a = finite(a)?;
    pack(Finite { coefficient: -a.coefficient, exponent: a.exponent }, false)
}

/// Rounds half to even to so many digits after the point.
pub(super) fn round(a: &Decimal128, places: u32) -> Result<Decimal128, Fault> {
    let a = finite(a)?;
    let cut = -i64::from(places) - a.exponent;
    if cut <= 0 {
        return pack(a, false);
    }
    let coefficient = divide_rounding(&a.coefficient, &power(cut.min(DIGITS as i64 + 1)), false);
    pack(Finite { coefficient, exponent: -i64::from(places) }, false)
}

/// Which is larger; `None` where either is not a number.
pub(super) fn compare(a: &Decimal128, b: &Decimal128) -> Option<Ordering> {
    let rank = |negative| if negative { -1 } else { 1 };
    match (parts(a), parts(b)) {
        (Parts::NotANumber, _) | (_, Parts::NotANumber) => None,
        (Parts::Infinite { negative: a }, Parts::Infinite { negative: b }) => {
            Some(rank(a).cmp(&rank(b)))
        }
        (Parts::Infinite { negative }, Parts::Finite(_)) => Some(rank(negative).cmp(&0)),
        (Parts::Finite(_), Parts::Infinite { negative }) => Some(0.cmp(&rank(negative))),
        (Parts::Finite(a), Parts::Finite(b)) => {
            let (a, b, _) = align(a, b);
            Some(a.cmp(&b))
        }
    }
}

pub(super) fn from_int(value: i64) -> Decimal128 {
    let number = Finite { coefficient: BigInt::from(value), exponent: 0 };
    pack(number, false).expect("19 digits fit 34")
}

/// The shortest decimal that reads back as this double.
pub(super) fn from_float(value: f64) -> Result<Decimal128, Fault> {
    if !value.is_finite() {
        let text = if value.is_nan() { "NaN" } else { "Infinity" };
        let sign = if value.is_sign_negative() && !value.is_nan() { "-" } else { "" };
        return from_text(&format!("{sign}{text}"));
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').ok_or(Fault::NotANumber)?;
    let exponent: i64 = exponent.parse().map_err(|_| Fault::NotANumber)?;
    let places = mantissa.split_once('.').map_or(0, |(_, fraction)| fraction.len() as i64);
    let coefficient = BigInt::from_str(&mantissa.replacen('.', "", 1));
    let mut number = Finite {
        coefficient: coefficient.map_err(|_| Fault::NotANumber)?,
        exponent: exponent - places,
    };
    // 1e3 reads as 1000, as the float does.
    if (1..=DIGITS as i64 - digits(&number.coefficient)).contains(&number.exponent) {
        number.coefficient *= power(number.exponent);
        number.exponent = 0;
    }
    pack(number, false)
}

/// Reads `12.50`, `-1E+3`, `NaN`, `Infinity`.
pub(super) fn from_text(text: &str) -> Result<Decimal128, Fault> {
    Decimal128::from_str(text.trim()).map_err(|_| Fault::NotANumber)
}

/// Cuts off what is after the point.
pub(super) fn to_int(value: &Decimal128) -> Result<i64, Fault> {
    let number = finite(value)?;
    let whole = if number.exponent >= 0 {
        if number.coefficient.sign() != Sign::NoSign && number.exponent > 18 {
            return Err(Fault::NotAnInteger);
        }
        number.coefficient * power(number.exponent.min(18))
    } else {
        number.coefficient / power(-number.exponent)
    };
    i64::try_from(whole).map_err(|_| Fault::NotAnInteger)
}

/// The nearest double.
pub(super) fn to_float(value: &Decimal128) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal128 {
        from_text(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
    }

    type Operation = fn(&Decimal128, &Decimal128) -> Result<Decimal128, Fault>;

    #[test]
    fn arithmetic_is_that_of_the_standard() {
        let nines = "9".repeat(34);
        let rows: [(Operation, &str, &str, &str); 24] = [
            (add, "1.10", "2.20", "3.30"),
            (add, "0.1", "0.2", "0.3"),
            (add, "1E+3", "1", "1001"),
            (add, "-1", "1", "0"),
            (add, &nines, "1", "1.000000000000000000000000000000000E+34"),
            (add, "1E+40", "1E-40", "1.000000000000000000000000000000000E+40"),
            (
                add,
                "1234567890123456789012345678901234",
                "0.5",
                "1234567890123456789012345678901234",
            ),
            (
                add,
                "1234567890123456789012345678901235",
                "0.5",
                "1234567890123456789012345678901236",
            ),
            (subtract, "1.5", "2", "-0.5"),
            (subtract, "1E+40", "1E-40", "1.000000000000000000000000000000000E+40"),
            (multiply, "1.10", "3", "3.30"),
            (multiply, "-0.5", "0.5", "-0.25"),
            (multiply, &nines, &nines, "9.999999999999999999999999999999998E+67"),
            (multiply, "1E-6176", "0.5", "0E-6176"),
            (multiply, "1E-6176", "0.51", "1E-6176"),
            (divide, "1", "3", "0.3333333333333333333333333333333333"),
            (divide, "2", "3", "0.6666666666666666666666666666666667"),
            (divide, "6", "2", "3"),
            (divide, "1", "4", "0.25"),
            (divide, "2.40", "2", "1.20"),
            (divide, "100", "8", "12.5"),
            (divide, "0", "7", "0"),
            (divide, "-1", "8", "-0.125"),
            (divide, "1E+3", "1E-3", "1E+6"),
        ];
        for (operation, a, b, expected) in rows {
            let result = operation(&decimal(a), &decimal(b)).map(|result| result.to_string());
            assert_eq!(result, Ok(expected.to_owned()), "{a} {b}");
        }
    }

    #[test]
    fn what_has_no_result_says_why() {
        let rows: [(Operation, &str, &str, Fault); 4] = [
            (divide, "1", "0", Fault::DivisionByZero),
            (multiply, "9E+6144", "10", Fault::TooLarge),
            (add, "NaN", "1", Fault::NotFinite),
            (subtract, "1", "Infinity", Fault::NotFinite),
        ];
        for (operation, a, b, expected) in rows {
            assert_eq!(operation(&decimal(a), &decimal(b)).err(), Some(expected), "{a} {b}");
        }
    }

    #[test]
    fn numbers_compare_by_value() {
        let rows = [
            ("1", "1.0", Some(Ordering::Equal)),
            ("1E+2", "100", Some(Ordering::Equal)),
            ("-0", "0", Some(Ordering::Equal)),
            ("-2", "1", Some(Ordering::Less)),
            ("Infinity", "9E+6144", Some(Ordering::Greater)),
            ("-Infinity", "-9E+6144", Some(Ordering::Less)),
            ("-Infinity", "Infinity", Some(Ordering::Less)),
            ("NaN", "NaN", None),
        ];
        for (a, b, expected) in rows {
            assert_eq!(compare(&decimal(a), &decimal(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn numbers_convert() {
        for (float, expected) in [
            (0.1, "0.1"),
            (1000.0, "1000"),
            (-2.5, "-2.5"),
            (1e-7, "1E-7"),
            (1e300, "1E+300"),
            (0.0, "0"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(from_float(float).unwrap().to_string(), expected);
        }
        assert_eq!(from_int(i64::MIN).to_string(), "-9223372036854775808");
        for (text, expected) in [
            ("12.9", Ok(12)),
            ("-12.9", Ok(-12)),
            ("1E+3", Ok(1000)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("9223372036854775808", Err(Fault::NotAnInteger)),
            ("1E+6000", Err(Fault::NotAnInteger)),
            ("0E+6000", Ok(0)),
            ("NaN", Err(Fault::NotFinite)),
        ] {
            assert_eq!(to_int(&decimal(text)), expected, "{text}");
        }
        assert_eq!(to_float(&decimal("1.05E+3")), 1050.0);
        for (text, places, expected) in [
            ("2.345", 2, "2.34"),
            ("2.355", 2, "2.36"),
            ("2.5", 0, "2"),
            ("7", 2, "7"),
            ("1E-6000", 2, "0.00"),
        ] {
            assert_eq!(round(&decimal(text), places).unwrap().to_string(), expected, "{text}");
        }
        assert_eq!(from_text("12,5"), Err(Fault::NotANumber));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_and_numbers_survive(bits in any::<u128>()) {
            let value = Decimal128::from_bytes(bits.to_le_bytes());
            let _ = (compare(&value, &from_int(1)), to_int(&value), to_float(&value));
            if let Parts::Finite(number) = parts(&value)
                && number.coefficient.sign() != Sign::NoSign
            {
                prop_assert_eq!(pack(number, false).unwrap(), value);
            }
        }

        #[test]
        fn integers_add_and_multiply_exactly(a in any::<i32>(), b in any::<i32>()) {
            let (x, y) = (from_int(a.into()), from_int(b.into()));
            let (a, b) = (i64::from(a), i64::from(b));
            prop_assert_eq!(to_int(&add(&x, &y).unwrap()), Ok(a + b));
            prop_assert_eq!(to_int(&multiply(&x, &y).unwrap()), Ok(a * b));
        }
    }
}
