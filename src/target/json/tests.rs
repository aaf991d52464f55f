use bson::{
    Bson, JavaScriptCodeWithScope, RawDocumentBuf, Regex, Timestamp, doc, oid::ObjectId, raw::cstr,
    spec::BinarySubtype,
};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::change::key::samples;

const PLAIN: Options = Options { mode: Mode::Plain, skip_id: false };
const EXTENDED: Options = Options { mode: Mode::Extended, skip_id: false };

fn raw(document: &bson::Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

fn json(document: &bson::Document, options: Options) -> String {
    let mut out = Vec::new();
    write_document(&raw(document), options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(bson::Binary { subtype, bytes: bytes.to_vec() })
}

#[test]
fn every_type_in_both_modes() {
    let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
    let oid = ObjectId::from_bytes([0xab; 12]);
    let hex = "abababababababababababab";
    let pointer = format!(r#"{{"$dbPointer":{{"$ref":"a.b","$id":{{"$oid":"{hex}"}}}}}}"#);
    let regex = Regex { pattern: cstr!("a/\"b").into(), options: cstr!("im").into() };
    let scoped = JavaScriptCodeWithScope { code: "f()".into(), scope: doc! { "x": 1 } };
    let date = |millis| Bson::DateTime(bson::DateTime::from_millis(millis));
    for (value, plain, extended) in [
        (Bson::Double(1.0), "1.0", r#"{"$numberDouble":"1.0"}"#),
        (Bson::Double(-0.0), "-0.0", r#"{"$numberDouble":"-0.0"}"#),
        (Bson::Double(12.5), "12.5", r#"{"$numberDouble":"12.5"}"#),
        (Bson::Double(1e300), "1e+300", r#"{"$numberDouble":"1e+300"}"#),
        (Bson::Double(f64::NAN), "null", r#"{"$numberDouble":"NaN"}"#),
        (Bson::Double(f64::INFINITY), "null", r#"{"$numberDouble":"Infinity"}"#),
        (Bson::Double(f64::NEG_INFINITY), "null", r#"{"$numberDouble":"-Infinity"}"#),
        (Bson::String("a\"\n\u{1}é".into()), r#""a\"\n\u0001é""#, r#""a\"\n\u0001é""#),
        (
            doc! { "_id": 1, "b": {} }.into(),
            r#"{"_id":1,"b":{}}"#,
            r#"{"_id":{"$numberInt":"1"},"b":{}}"#,
        ),
        (
            Bson::Array(vec![Bson::Int32(1), Bson::Array(vec![])]),
            "[1,[]]",
            r#"[{"$numberInt":"1"},[]]"#,
        ),
        (
            binary(BinarySubtype::Generic, b"\xff\0a!"),
            r#""/wBhIQ==""#,
            r#"{"$binary":{"base64":"/wBhIQ==","subType":"00"}}"#,
        ),
        (
            binary(BinarySubtype::BinaryOld, b"a"),
            r#""YQ==""#,
            r#"{"$binary":{"base64":"YQ==","subType":"02"}}"#,
        ),
        (
            binary(BinarySubtype::Uuid, &[0x1f; 16]),
            r#""1f1f1f1f-1f1f-1f1f-1f1f-1f1f1f1f1f1f""#,
            r#"{"$binary":{"base64":"Hx8fHx8fHx8fHx8fHx8fHw==","subType":"04"}}"#,
        ),
        (
            binary(BinarySubtype::UuidOld, &[0x1f; 16]),
            r#""Hx8fHx8fHx8fHx8fHx8fHw==""#,
            r#"{"$binary":{"base64":"Hx8fHx8fHx8fHx8fHx8fHw==","subType":"03"}}"#,
        ),
        (binary(BinarySubtype::Uuid, b""), r#""""#, r#"{"$binary":{"base64":"","subType":"04"}}"#),
        (Bson::Undefined, "null", r#"{"$undefined":true}"#),
        (oid.into(), r#""abababababababababababab""#, r#"{"$oid":"abababababababababababab"}"#),
        (Bson::Boolean(true), "true", "true"),
        (Bson::Boolean(false), "false", "false"),
        (
            date(1_795_227_029_007),
            r#""2026-11-21T02:10:29.007Z""#,
            r#"{"$date":{"$numberLong":"1795227029007"}}"#,
        ),
        (
            date(253_402_300_800_000),
            "253402300800000",
            r#"{"$date":{"$numberLong":"253402300800000"}}"#,
        ),
        (
            date(i64::MIN),
            "-9223372036854775808",
            r#"{"$date":{"$numberLong":"-9223372036854775808"}}"#,
        ),
        (Bson::Null, "null", "null"),
        (
            regex.into(),
            r#""/a/\"b/im""#,
            r#"{"$regularExpression":{"pattern":"a/\"b","options":"im"}}"#,
        ),
        (serde_json::from_str(&pointer).unwrap(), &format!("\"a.b:{hex}\""), &pointer),
        (Bson::JavaScriptCode("f()".into()), r#""f()""#, r#"{"$code":"f()"}"#),
        (Bson::Symbol("s".into()), r#""s""#, r#"{"$symbol":"s"}"#),
        (scoped.into(), r#""f()""#, r#"{"$code":"f()","$scope":{"x":{"$numberInt":"1"}}}"#),
        (Bson::Int32(-7), "-7", r#"{"$numberInt":"-7"}"#),
        (
            Timestamp { time: 1_795_227_029, increment: 3 }.into(),
            r#"{"t":1795227029,"i":3}"#,
            r#"{"$timestamp":{"t":1795227029,"i":3}}"#,
        ),
        (Bson::Int64(i64::MAX), "9223372036854775807", r#"{"$numberLong":"9223372036854775807"}"#),
        (decimal("1.50"), "1.50", r#"{"$numberDecimal":"1.50"}"#),
        (decimal("1.5E+10"), "1.5E+10", r#"{"$numberDecimal":"1.5E+10"}"#),
        (decimal("-0"), "-0", r#"{"$numberDecimal":"-0"}"#),
        (decimal("NaN"), "null", r#"{"$numberDecimal":"NaN"}"#),
        (decimal("-Infinity"), "null", r#"{"$numberDecimal":"-Infinity"}"#),
        (Bson::MinKey, "null", r#"{"$minKey":1}"#),
        (Bson::MaxKey, "null", r#"{"$maxKey":1}"#),
    ] {
        let document = doc! { "v": value };
        let stored = raw(&document);
        for (mode, expected) in [(Mode::Plain, plain), (Mode::Extended, extended)] {
            let whole = json(&document, Options { mode, skip_id: false });
            assert_eq!(whole, format!("{{\"v\":{expected}}}"));
            let mut alone = Vec::new();
            write_value(stored.get("v").unwrap().unwrap(), mode, &mut alone).unwrap();
            assert_eq!(String::from_utf8(alone).unwrap(), expected);
        }
    }
}

#[test]
fn only_the_top_level_id_is_left_out() {
    let skip = Options { skip_id: true, ..PLAIN };
    for (document, expected) in [
        (doc! { "_id": 1 }, "{}"),
        (doc! {}, "{}"),
        (doc! { "_id": { "a": [1] }, "b": { "_id": 2 } }, r#"{"b":{"_id":2}}"#),
        (doc! { "a": 1, "_id": 2, "b": 3 }, r#"{"a":1,"b":3}"#),
    ] {
        assert_eq!(json(&document, skip), expected);
    }
}

#[test]
fn what_is_there_before_stays() {
    let mut out = b"before\n".to_vec();
    write_document(&raw(&doc! { "a": 1 }), PLAIN, &mut out).unwrap();
    assert_eq!(out, b"before\n{\"a\":1}");
    let broken = b"\x0b\0\0\0\x10a\0\x01\0\0\0";
    let broken = RawDocument::from_bytes(broken).unwrap();
    assert!(write_document(broken, PLAIN, &mut out).is_err());
    assert_eq!(out, b"before\n{\"a\":1}");
}

#[test]
fn text_that_is_not_utf8_is_replaced() {
    let bytes = b"\x11\0\0\0\x02n\xff\0\x04\0\0\0a\xfe\"\0\0";
    let mut out = Vec::new();
    write_document(RawDocument::from_bytes(bytes).unwrap(), PLAIN, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "{\"n\u{fffd}\":\"a\u{fffd}\\\"\"}");
}

#[test]
fn a_name_that_occurs_twice_is_written_twice() {
    let mut twice = RawDocumentBuf::new();
    twice.append(cstr!("a"), 1);
    twice.append(cstr!("a"), 2);
    let mut out = Vec::new();
    write_document(&twice, PLAIN, &mut out).unwrap();
    assert_eq!(out, br#"{"a":1,"a":2}"#);
}

#[test]
fn what_nests_too_deep_is_an_error() {
    let nested = |levels: usize| {
        let mut document = RawDocumentBuf::new();
        for _ in 1..levels {
            let mut outer = RawDocumentBuf::new();
            outer.append(cstr!("a"), document);
            document = outer;
        }
        document
    };
    for options in [PLAIN, EXTENDED] {
        let mut out = Vec::new();
        assert_eq!(write_document(&nested(MAX_DEPTH), options, &mut out), Ok(()));
        out.clear();
        let deep = nested(10 * MAX_DEPTH);
        assert_eq!(write_document(&deep, options, &mut out), Err(JsonError::TooDeep));
        assert_eq!(out, b"");
    }
}

/// Every prefix, and every prefix that is made to look whole.
#[test]
fn cut_documents_are_errors() {
    let whole = raw(&doc! {
        "s": "text", "d": 1.5, "a": [1, { "b": true }], "o": ObjectId::from_bytes([1; 12]),
        "bin": binary(BinarySubtype::BinaryOld, b"abc"), "n": Bson::Null,
        "r": Regex { pattern: cstr!("p").into(), options: cstr!("i").into() },
        "c": JavaScriptCodeWithScope { code: "f".into(), scope: doc! { "x": 1 } },
        "t": Timestamp { time: 1, increment: 2 }, "l": 5_i64,
    });
    let bytes = whole.as_bytes();
    for end in 0..bytes.len() {
        let mut out = Vec::new();
        assert!(write_object::<false>(&mut Bytes::new(&bytes[..end]), false, 1, &mut out).is_err());
        if end < 5 {
            continue;
        }
        let mut cut = bytes[..end].to_vec();
        cut[..4].copy_from_slice(&(end as i32).to_le_bytes());
        cut[end - 1] = 0;
        for options in [PLAIN, EXTENDED] {
            let mut out = Vec::new();
            let written = write_document(RawDocument::from_bytes(&cut).unwrap(), options, &mut out);
            match written {
                Ok(()) => assert!(serde_json::from_slice::<Value>(&out).is_ok()),
                Err(_) => assert_eq!(out, b""),
            }
        }
    }
}

fn documents() -> impl Strategy<Value = bson::Document> {
    let name = prop_oneof![2 => "[a-z_]{1,12}", 1 => "[^\\x00]{0,5}"];
    prop::collection::vec((name, samples::value()), 0..8)
        .prop_map(|fields| fields.into_iter().collect())
}

/// What plain JSON says of a value, worked out the slow way; `None` where numbers are compared by
/// value.
fn model(value: &Bson) -> Option<Value> {
    Some(match value {
        Bson::String(text) | Bson::Symbol(text) | Bson::JavaScriptCode(text) => text.clone().into(),
        Bson::JavaScriptCodeWithScope(code) => code.code.clone().into(),
        Bson::ObjectId(id) => id.to_hex().into(),
        Bson::Boolean(value) => (*value).into(),
        Bson::Int32(int) => (*int).into(),
        Bson::Int64(int) => (*int).into(),
        // By the same digits, because this parser is off by a little on some.
        Bson::Double(double) if double.is_finite() => {
            serde_json::from_str(&format!("{double:?}")).unwrap()
        }
        Bson::Double(_) => Value::Null,
        Bson::Null | Bson::Undefined | Bson::MinKey | Bson::MaxKey => Value::Null,
        Bson::Array(items) => items.iter().map(model).collect::<Option<Vec<_>>>()?.into(),
        Bson::Document(fields) => fields
            .iter()
            .map(|(name, value)| Some((name.clone(), model(value)?)))
            .collect::<Option<serde_json::Map<_, _>>>()?
            .into(),
        _ => return None,
    })
}

proptest! {
    #[test]
    fn plain_json_is_json_and_says_what_the_document_says(document in documents()) {
        let text = json(&document, PLAIN);
        prop_assert!(!text.contains('\n'));
        // Decimals may be out of the range of a double: read as they are written.
        let read: std::collections::HashMap<String, Box<serde_json::value::RawValue>> =
            serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.len(), document.len());
        for (name, value) in &document {
            if let Some(expected) = model(value) {
                let found: Value = serde_json::from_str(read[name].get()).unwrap();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn doubles_are_read_back_and_look_like_doubles(double: f64) {
        prop_assume!(double.is_finite());
        let mut out = Vec::new();
        write_value(RawBsonRef::Double(double), Mode::Plain, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), double.to_bits());
        prop_assert!(text.contains(['.', 'e']));
    }

    #[test]
    fn extended_json_is_read_back_by_the_driver(value in samples::value()) {
        // Names with a dollar are what Extended JSON cannot tell from its own.
        prop_assume!(!value.to_string().contains("\"$"));
        let document = doc! { "v": value };
        let read: bson::Document = serde_json::from_str(&json(&document, EXTENDED)).unwrap();
        // As Extended JSON, because NaN is not equal to itself and a decimal's bits are not unique.
        let canonical = |document| bson::Bson::Document(document).into_canonical_extjson();
        prop_assert_eq!(canonical(read), canonical(document));
    }

    #[test]
    fn bytes_of_any_kind_do_not_panic(
        document in documents(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = raw(&document).into_bytes();
        let end = bytes.len() - 1;
        for (at, byte) in changes {
            if end > 4 {
                bytes[4 + at.index(end - 4)] = byte;
            }
        }
        let broken = RawDocument::from_bytes(&bytes).unwrap();
        for options in [PLAIN, EXTENDED] {
            let mut out = Vec::new();
            if write_document(broken, options, &mut out).is_ok() {
                prop_assert!(std::str::from_utf8(&out).is_ok());
                prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&out).is_ok());
            }
        }
    }
}
