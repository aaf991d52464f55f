use std::collections::HashSet;

use bson::{Bson, RawBsonRef, RawDocumentBuf, doc, oid::ObjectId, raw::cstr, rawdoc};
use bytes::Bytes;
use proptest::prelude::*;

use super::{samples::*, *};

fn document(value: bson::Document) -> Document {
    RawDocumentBuf::try_from(&value).unwrap().into()
}

/// Pairs that look alike in one way and differ in another.
#[test]
fn sameness() {
    let decimal = |text: &str| Bson::Decimal128(text.parse().unwrap());
    let nested = |value: Bson| Bson::Document(doc! { "a": [{ "b": value }] });
    for (a, b, equal) in [
        (Bson::Int32(1), Bson::Int64(1), true),
        (Bson::Int32(1), Bson::Double(1.0), true),
        (Bson::Int32(1), decimal("1.000"), true),
        (Bson::Int32(10), decimal("1E+1"), true),
        (Bson::Double(-0.0), Bson::Int32(0), true),
        (Bson::Double(0.5), decimal("0.50"), true),
        (Bson::Double(0.1), decimal("0.1"), false),
        (Bson::Double(9_007_199_254_740_992.0), Bson::Int64(9_007_199_254_740_993), false),
        (Bson::Double(f64::NAN), Bson::Double(-f64::NAN), true),
        (Bson::Double(f64::NAN), decimal("NaN"), true),
        (Bson::Double(f64::INFINITY), decimal("Infinity"), true),
        (Bson::Double(f64::INFINITY), decimal("-Infinity"), false),
        (Bson::String("a".into()), Bson::Symbol("a".into()), true),
        (Bson::String("a".into()), Bson::JavaScriptCode("a".into()), false),
        (Bson::String("1".into()), Bson::Int32(1), false),
        (Bson::Null, Bson::Undefined, false),
        (Bson::Boolean(true), Bson::Int32(1), false),
        (nested(Bson::Int32(1)), nested(Bson::Double(1.0)), true),
        (nested(Bson::Int32(1)), nested(Bson::Int32(2)), false),
        (doc! { "a": 1, "b": 2 }.into(), doc! { "b": 2, "a": 1 }.into(), false),
        (doc! { "0": 1 }.into(), Bson::Array(vec![Bson::Int32(1)]), false),
        (doc! { "a": Bson::Null }.into(), doc! {}.into(), false),
    ] {
        assert_eq!(key(&a) == key(&b), equal, "{a} and {b}");
        assert_eq!(same(&a, &b), equal, "{a} and {b}, by the other way");
    }
}

/// They are stored: a change of any of these loses track of what was written under it.
#[test]
fn canonical_bytes_do_not_change() {
    let oid = ObjectId::from_bytes([7; 12]);
    let hex = |value: Bson| {
        let mut out = Vec::new();
        crate::change::text::write_hex(key(&value).canonical(), &mut out);
        String::from_utf8(out).unwrap()
    };
    for (value, bytes) in [
        (oid.into(), "64070707070707070707070707"),
        (Bson::Int32(1), "1e0000000000000001"),
        (Bson::Double(0.5), "1f3fe0000000000000"),
        (Bson::Decimal128("-0.1".parse().unwrap()), "2001ffffffff00000000000000000000000000000001"),
        (Bson::String("ab".into()), "3c000000026162"),
        (doc! { "a": [true] }.into(), "4601610050016e010000"),
    ] {
        assert_eq!(hex(value), bytes);
    }
    assert_eq!(
        DocumentKey::from_document_key(&rawdoc! { "x": "y", "_id": 1 }).unwrap().canonical(),
        b"\xfa\x01_id\0\x1e\0\0\0\0\0\0\0\x01\x01x\0\x3c\0\0\0\x01y\0"
    );
}

#[test]
fn a_key_gives_back_what_it_was_read_from() {
    let raw = rawdoc! { "country": "CH", "_id": { "n": 1.0 } };
    let key = DocumentKey::from_document_key(&raw).unwrap();
    assert_eq!(key.raw(), &*raw);
    assert_eq!(key.id().as_document().unwrap().get_f64("n").unwrap(), 1.0);
    assert_eq!(key.display(), r#"{"country":"CH","_id":{"n":1}}"#);
    assert!(key.size() > raw.as_bytes().len() + key.canonical().len());
}

#[test]
fn the_order_of_a_shard_key_does_not_matter_and_its_values_do() {
    let key = |raw: &RawDocument| DocumentKey::from_document_key(raw).unwrap();
    let one = key(&rawdoc! { "country": "CH", "_id": 1 });
    assert_eq!(one, key(&rawdoc! { "_id": 1.0, "country": "CH" }));
    for other in [
        rawdoc! { "country": "DE", "_id": 1 },
        rawdoc! { "_id": 1 },
        rawdoc! { "country": "CH", "_id": 2 },
        rawdoc! { "_id": { "country": "CH", "_id": 1 } },
        rawdoc! { "country": RawBsonRef::Null, "_id": 1 },
    ] {
        assert_ne!(one, key(&other));
    }
}

#[test]
fn the_shape_makes_the_keys_that_the_server_makes() {
    let sharded = KeyShape::sharded(["region", "a.b"]);
    assert_eq!(sharded.paths(), ["region", "a.b", "_id"]);
    assert_eq!(KeyShape::sharded(["_id", "x"]).paths(), ["_id", "x"]);
    for (shape, whole, expected) in [
        (KeyShape::default(), doc! { "_id": 5, "x": 1 }, doc! { "_id": 5 }),
        (KeyShape::default(), doc! { "x": 1, "_id": "late" }, doc! { "_id": "late" }),
        (
            sharded.clone(),
            doc! { "_id": 5, "a": { "b": 1, "c": 2 }, "region": "eu" },
            doc! { "region": "eu", "a.b": 1, "_id": 5 },
        ),
        (sharded.clone(), doc! { "_id": 5, "a": 1 }, doc! { "_id": 5 }),
        (
            sharded.clone(),
            doc! { "_id": 5, "region": Bson::Null },
            doc! { "region": Bson::Null, "_id": 5 },
        ),
        (
            KeyShape::sharded(["a.0.b"]),
            doc! { "_id": 5, "a": [{ "b": 7 }] },
            doc! { "a.0.b": 7, "_id": 5 },
        ),
        (
            KeyShape::sharded(["a.b"]),
            doc! { "_id": 5, "a.b": 1, "a": { "b": 2 } },
            doc! { "a.b": 1, "_id": 5 },
        ),
    ] {
        let key = shape.key_of(&document(whole)).unwrap();
        assert_eq!(key.raw(), document(expected).raw());
    }
}

#[test]
fn what_is_no_key_is_an_error() {
    let no_id = |key: Result<DocumentKey, KeyError>| matches!(key, Err(KeyError::NoId));
    assert!(no_id(DocumentKey::from_document_key(&rawdoc! {})));
    assert!(no_id(DocumentKey::from_document_key(&rawdoc! { "a": 1 })));
    assert!(no_id(DocumentKey::from_document_key(&rawdoc! { "a": 1, "b": 1 })));
    assert!(no_id(KeyShape::default().key_of(&document(doc! {}))));
    assert!(no_id(KeyShape::default().key_of(&document(doc! { "a": 1 }))));
    assert!(no_id(KeyShape::sharded(["a"]).key_of(&document(doc! { "a": 1 }))));

    let not_utf8 = b"\x10\0\0\0\x02_id\0\x02\0\0\0\xff\0\0";
    let malformed = Document::from_bytes(Bytes::from_static(not_utf8)).unwrap();
    assert!(matches!(DocumentKey::from_document_key(malformed.raw()), Err(KeyError::Malformed(_))));
    assert!(matches!(KeyShape::default().key_of(&malformed), Err(KeyError::Malformed(_))));

    let mut deep = RawDocumentBuf::new();
    for _ in 0..canonical::MAX_DEPTH - 1 {
        let mut outer = RawDocumentBuf::new();
        outer.append(cstr!("a"), deep);
        deep = outer;
    }
    assert!(DocumentKey::from_id((&deep).into()).is_ok());
    let mut deeper = RawDocumentBuf::new();
    deeper.append(cstr!("a"), deep);
    assert!(matches!(DocumentKey::from_id((&deeper).into()), Err(KeyError::TooDeep)));
}

#[test]
fn a_long_key_is_shown_cut() {
    let shown = key(&Bson::String("é".repeat(1000))).display();
    assert!(shown.len() <= DISPLAY_BYTES && shown.starts_with("\"éé") && shown.ends_with('…'));
    assert_eq!(key(&Bson::String("é".into())).display(), "\"é\"");
}

/// The bytes of every prefix of a document key are an error or a key, never a panic.
#[test]
fn cut_bytes_do_not_panic() {
    let whole =
        rawdoc! { "_id": { "a": [1, "x", { "b": ObjectId::from_bytes([1; 12]) }] }, "k": 1.5 };
    for end in 5..whole.as_bytes().len() {
        let mut cut = whole.as_bytes()[..end].to_vec();
        let length = cut.len() as i32;
        cut[..4].copy_from_slice(&length.to_le_bytes());
        cut[end - 1] = 0;
        let _ = DocumentKey::from_document_key(RawDocument::from_bytes(&cut).unwrap());
    }
}

proptest! {
    #[test]
    fn keys_are_equal_exactly_where_mongodb_says(values in prop::collection::vec(value(), 2..8)) {
        let keys: Vec<DocumentKey> = values.iter().map(key).collect();
        for (a, a_key) in values.iter().zip(&keys) {
            for (b, b_key) in values.iter().zip(&keys) {
                let equal = same(a, b);
                prop_assert_eq!(a_key == b_key, equal, "{} and {}", a, b);
                prop_assert_eq!(a_key.cmp(b_key).is_eq(), equal);
                let (a_bytes, b_bytes) = (a_key.canonical(), b_key.canonical());
                prop_assert!(equal || !a_bytes.starts_with(b_bytes), "{} begins {}", b, a);
            }
        }
        let distinct: HashSet<&DocumentKey> = keys.iter().collect();
        prop_assert_eq!(distinct.len(), {
            let mut seen: Vec<&Bson> = Vec::new();
            for value in &values {
                if !seen.iter().any(|other| same(value, other)) {
                    seen.push(value);
                }
            }
            seen.len()
        });
    }

    #[test]
    fn all_ways_to_a_key_agree(id in value()) {
        let one = key(&id);
        let shape = KeyShape::default();
        prop_assert_eq!(&DocumentKey::from_id(one.id()).unwrap(), &one);
        for whole in [doc! { "_id": id.clone(), "x": 1 }, doc! { "x": 1, "_id": id.clone() }] {
            let other = shape.key_of(&document(whole)).unwrap();
            prop_assert_eq!(other.raw(), one.raw());
            prop_assert_eq!(other.canonical(), one.canonical());
        }
        prop_assert_eq!(canonical::canonical(one.id()).unwrap(), one.canonical());
    }

    #[test]
    fn bytes_of_any_kind_do_not_panic(id in value(), at: prop::sample::Index, byte: u8) {
        let mut bytes = key(&id).raw().as_bytes().to_vec();
        let end = bytes.len() - 1;
        bytes[4 + at.index(end - 4)] = byte;
        if let Ok(key) = DocumentKey::from_document_key(RawDocument::from_bytes(&bytes).unwrap()) {
            key.id();
            key.display();
        }
    }
}
