//! Values for tests that look for two of them to be mixed up: few enough to meet, of every type,
//! and an equality to compare with that is worked out in another way than the product's.

use bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawBson, RawDocumentBuf, Regex,
    Timestamp, doc, oid::ObjectId, raw::cstr, spec::BinarySubtype,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::change::DocumentKey;

const TEXTS: [&str; 30] = [
    "",
    "a",
    "1",
    "1.0",
    "0.1",
    "0",
    "-1",
    "10000000000000000000000",
    "true",
    "null",
    "NaN",
    "Infinity",
    "64b000000000000000000001",
    "000000000000000000000001",
    "00112233-4455-6677-8899-aabbccddeeff",
    "{}",
    "{\"a\":1}",
    "{\"$date\":\"1970-01-01T00:00:00.000Z\"}",
    "[]",
    "[1]",
    "number~1",
    "decimal~0.1",
    "string~",
    "string~a",
    "string~string~a",
    "objectid~64b000000000000000000001",
    "null~null",
    "bson~CgA",
    "other~1",
    "$oid",
];

const DECIMALS: [&str; 16] = [
    "0",
    "-0",
    "0E+10",
    "1",
    "1.0",
    "10E-1",
    "-1",
    "0.1",
    "0.10",
    "0.5",
    "1E+22",
    "1E+23",
    "NaN",
    "Infinity",
    "9223372036854775808",
    "1E-6176",
];

const DOUBLES: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.1,
    0.5,
    1e22,
    1e23,
    1e300,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    9_007_199_254_740_992.0,
    9_223_372_036_854_775_808.0,
    -9_223_372_036_854_775_808.0,
    5e-324,
];

const INTS: [i64; 7] = [0, 1, -1, 9_007_199_254_740_992, 9_007_199_254_740_993, i64::MAX, i64::MIN];

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype, bytes: bytes.to_vec() })
}

fn fixed() -> Vec<Bson> {
    let uuid: Vec<u8> = (0..16).map(|index| index * 17).collect();
    let id = ObjectId::parse_str("64b000000000000000000001").expect("24 digits");
    let zero = ObjectId::parse_str("000000000000000000000001").expect("24 digits");
    let regex = |pattern: &str, options: &str| {
        Bson::RegularExpression(Regex {
            pattern: pattern.try_into().expect("no zero byte"),
            options: options.try_into().expect("no zero byte"),
        })
    };
    let pointer =
        "{\"$dbPointer\":{\"$ref\":\"a.b\",\"$id\":{\"$oid\":\"64b000000000000000000001\"}}}";
    vec![
        id.into(),
        zero.into(),
        true.into(),
        false.into(),
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::MaxKey,
        binary(BinarySubtype::Uuid, &uuid),
        binary(BinarySubtype::UuidOld, &uuid),
        binary(BinarySubtype::Uuid, &uuid[1..]),
        binary(BinarySubtype::Generic, b"a"),
        binary(BinarySubtype::BinaryOld, b"a"),
        binary(BinarySubtype::UserDefined(0x85), b""),
        DateTime::from_millis(0).into(),
        DateTime::from_millis(1).into(),
        DateTime::MAX.into(),
        DateTime::MIN.into(),
        Timestamp { time: 0, increment: 1 }.into(),
        Timestamp { time: 1, increment: 0 }.into(),
        regex("a", "i"),
        regex("ai", ""),
        regex("a", ""),
        Bson::JavaScriptCode("a".into()),
        JavaScriptCodeWithScope { code: "a".into(), scope: doc! {} }.into(),
        JavaScriptCodeWithScope { code: "a".into(), scope: doc! { "x": 1 } }.into(),
        JavaScriptCodeWithScope { code: "a".into(), scope: doc! { "x": 1.0 } }.into(),
        serde_json::from_str(pointer).expect("extended JSON"),
    ]
}

/// Any text, among them the texts of other values.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => select(&TEXTS[..]).prop_map(str::to_owned), 1 => "\\PC{0,4}"]
}

/// Any number, most from a pool that has equal ones of unlike types.
pub fn number() -> impl Strategy<Value = Bson> {
    prop_oneof![
        select(&INTS[..]).prop_map(Bson::Int64),
        (-2i32..3).prop_map(Bson::Int32),
        select(&DOUBLES[..]).prop_map(Bson::Double),
        select(&DECIMALS[..]).prop_map(|text| Bson::Decimal128(text.parse().expect("a decimal"))),
        any::<f64>().prop_map(Bson::Double),
        any::<[u8; 16]>().prop_map(|bytes| Bson::Decimal128(Decimal128::from_bytes(bytes))),
    ]
}

/// Any value, documents and arrays included.
pub fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        3 => number(),
        3 => text().prop_map(Bson::String),
        1 => text().prop_map(Bson::Symbol),
        4 => select(fixed()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let name = prop_oneof![
            3 => select(vec!["a", "b", "$oid", "$date", "$numberDecimal", "$numberDouble"])
                .prop_map(str::to_owned),
            1 => "[^\\x00]{0,3}",
        ];
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Bson::Array),
            vec((name, inner), 0..3)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

/// The key of an `_id`.
pub fn key(id: &Bson) -> DocumentKey {
    let mut raw = RawDocumentBuf::new();
    raw.append(cstr!("_id"), RawBson::try_from(id.clone()).expect("a value of BSON"));
    DocumentKey::from_document_key(&raw).expect("an _id")
}

/// Whether MongoDB calls two values equal.
pub fn same(a: &Bson, b: &Bson) -> bool {
    match (number_by_value(a), number_by_value(b)) {
        (Some(a), Some(b)) => return a == b,
        (None, None) => {}
        _ => return false,
    }
    match (a, b) {
        (Bson::String(a) | Bson::Symbol(a), Bson::String(b) | Bson::Symbol(b)) => a == b,
        (Bson::Array(a), Bson::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Bson::Document(a), Bson::Document(b)) => same_fields(a, b),
        (Bson::JavaScriptCodeWithScope(a), Bson::JavaScriptCodeWithScope(b)) => {
            a.code == b.code && same_fields(&a.scope, &b.scope)
        }
        (a, b) => a == b,
    }
}

fn same_fields(a: &bson::Document, b: &bson::Document) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((a_name, a), (b_name, b))| a_name == b_name && same(a, b))
}

/// The exact value of a number: sign, digits without zeros around them, exponent.
fn number_by_value(value: &Bson) -> Option<(bool, String, i32)> {
    let text = match value {
        Bson::Int32(int) => int.to_string(),
        Bson::Int64(int) => int.to_string(),
        // Every digit of a double, of which there are finitely many.
        Bson::Double(double) if double.is_finite() => format!("{double:.1080}"),
        Bson::Double(double) if double.is_nan() => "NaN".to_owned(),
        Bson::Double(double) if *double > 0.0 => "Infinity".to_owned(),
        Bson::Double(_) => "-Infinity".to_owned(),
        Bson::Decimal128(decimal) => decimal.to_string(),
        _ => return None,
    };
    let negative = text.starts_with('-');
    let text = text.trim_start_matches('-');
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return Some((negative, text.to_owned(), 0));
    }
    let (mantissa, exponent) = text.split_once('E').unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let digits = all.trim_end_matches('0');
    let exponent = exponent.parse::<i32>().expect("a small exponent") - fraction.len() as i32
        + (all.len() - digits.len()) as i32;
    match digits.trim_start_matches('0') {
        "" => Some((false, String::new(), 0)),
        digits => Some((negative, digits.to_owned(), exponent)),
    }
}
