//! Types: what is kept, what becomes what, and what can be done with values of the BSON types.

use bson::{
    Binary,
    Bson::{JavaScriptCode, MaxKey, MinKey, Null, Symbol, Undefined},
    DateTime, Decimal128, Regex, Timestamp, Uuid,
    spec::BinarySubtype,
};

use super::*;

fn every_type() -> Bson {
    doc! {
        "object_id": ObjectId::from_bytes(ID),
        "date": DateTime::from_millis(1_795_227_029_007),
        "decimal": "1.50".parse::<Decimal128>().unwrap(),
        "timestamp": Timestamp { time: 5, increment: 6 },
        "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 255] },
        "old": Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1, 2, 3] },
        "legacy": Binary { subtype: BinarySubtype::UuidOld, bytes: vec![7; 16] },
        "uuid": Uuid::from_bytes([0x11; 16]),
        "regex": Regex { pattern: "^a".try_into().unwrap(), options: "i".try_into().unwrap() },
        "code": JavaScriptCode("x()".into()),
        "symbol": Symbol("s".into()),
        "min": MinKey,
        "max": MaxKey,
        "undefined": Undefined,
        "null": Null,
        "int": 5,
        "long": 5_i64,
        "double": 5.0,
        "nan": f64::NAN,
        "bool": true,
        "text": "é",
        "array": [1_i64, [2_i64, Undefined], { "x": 3_i64 }],
        "document": { "x": 3_i64 },
    }
}

#[test]
fn a_value_that_is_moved_keeps_its_type() {
    for (name, stored) in every_type() {
        let input = doc! { name.as_str(): stored.clone() };
        let rows = [
            (
                format!("doc.copy = doc[\"{name}\"]"),
                doc! { name.as_str(): stored.clone(), "copy": stored.clone() },
            ),
            (format!("doc[\"{name}\"] = doc[\"{name}\"]"), input.clone()),
            (format!("doc.rename(\"{name}\", \"x\")"), doc! { "x": stored.clone() }),
            (
                format!("doc.list = [doc[\"{name}\"]]; doc.remove(\"{name}\")"),
                doc! { "list": [stored.clone()] },
            ),
            (
                format!("doc = #{{ _id: doc._id, m: #{{ v: doc[\"{name}\"] }} }}"),
                doc! { "m": { "v": stored.clone() } },
            ),
        ];
        for (text, expected) in rows {
            check(&text, input.clone(), expected);
        }
    }
}

#[test]
fn integers_become_what_they_are_written_over() {
    let rows = [
        ("doc.a = 1", doc! {}, doc! { "a": 1 }),
        ("doc.a = 3000000000", doc! {}, doc! { "a": 3_000_000_000_i64 }),
        ("doc.a = 1", doc! { "a": 7_i64 }, doc! { "a": 1_i64 }),
        ("doc.a = 1", doc! { "a": 7 }, doc! { "a": 1 }),
        ("doc.a = doc.a + 1", doc! { "a": i32::MAX }, doc! { "a": i64::from(i32::MAX) + 1 }),
        ("doc.a = doc.a * 2", doc! { "a": 7_i64 }, doc! { "a": 14_i64 }),
        ("doc.a += 1", doc! { "a": 7_i64 }, doc! { "a": 8_i64 }),
        ("doc.a = 1.5", doc! { "a": 7_i64 }, doc! { "a": 1.5 }),
        ("doc.a = \"x\"", doc! { "a": 7_i64 }, doc! { "a": "x" }),
        ("doc.a = 'x'", doc! {}, doc! { "a": "x" }),
        ("doc.a = doc.b + 1", doc! { "b": 7_i64 }, doc! { "b": 7_i64, "a": 8 }),
    ];
    for (text, input, expected) in rows {
        check(text, input, expected);
    }
}

#[test]
fn values_have_methods() {
    let input = every_type();
    let mut wrong = Vec::new();
    for (expression, expected) in [
        ("doc.object_id", "64b007090102030405060708"),
        ("doc.object_id == object_id(\"64b007090102030405060708\")", "true"),
        ("doc.object_id < object_id(\"ffffffffffffffffffffffff\")", "true"),
        ("doc.object_id == \"64b007090102030405060708\"", "false"),
        ("doc.object_id.timestamp", "2023-07-13T14:15:37.000Z"),
        ("doc.date", "2026-11-21T02:10:29.007Z"),
        ("doc.date + 60", "2026-11-21T02:11:29.007Z"),
        ("doc.date - 0.007", "2026-11-21T02:10:29.000Z"),
        ("doc.date - doc.date.start_of_day()", "7829.007"),
        ("doc.date > doc.date.start_of_month()", "true"),
        ("doc.date.year", "2026"),
        ("doc.date.weekday", "6"),
        ("doc.decimal", "1.50"),
        ("doc.decimal + 1", "2.50"),
        ("doc.decimal * doc.decimal", "2.2500"),
        ("doc.decimal == 1.5", "true"),
        ("2 - doc.decimal", "0.50"),
        ("doc.decimal / 7", "0.2142857142857142857142857142857143"),
        ("doc.timestamp", "5.6"),
        ("doc.timestamp.seconds", "5"),
        ("doc.binary", "AQL/"),
        ("doc.binary.len()", "3"),
        ("doc.binary.hex()", "0102ff"),
        ("doc.old.hex()", "010203"),
        ("doc.legacy.subtype", "3"),
        ("doc.uuid", "11111111-1111-1111-1111-111111111111"),
        ("doc.uuid == uuid(\"11111111111111111111111111111111\")", "true"),
        ("doc.regex", "/^a/i"),
        ("doc.regex.pattern + doc.regex.options", "^ai"),
        ("doc.regex.kind", "regex"),
        ("doc.code.text", "x()"),
        ("doc.symbol", "s"),
        ("doc.min", "minKey"),
        ("doc.undefined == ()", "true"),
        ("doc.array[1]", "[2, ()]"),
        ("doc.array[2] == doc.document", "true"),
        ("doc.array == [1, [2, ()], #{ x: 3 }]", "true"),
        ("type_of(doc.decimal)", "Decimal128"),
        (
            "[doc.date, doc.uuid]",
            "[2026-11-21T02:10:29.007Z, 11111111-1111-1111-1111-111111111111]",
        ),
        ("to_json(doc.document)", "{\"x\":3}"),
        (
            "to_json(#{ a: #{ d: doc.date }, n: 0.0 / 0.0, s: doc.document, u: doc.uuid })",
            "{\"a\":{\"d\":\"2026-11-21T02:10:29.007Z\"},\"n\":null,\"s\":{\"x\":3},\
             \"u\":\"11111111-1111-1111-1111-111111111111\"}",
        ),
        ("date_from_seconds(86400.5)", "1970-01-02T00:00:00.500Z"),
        ("date_from_millis(-0.6)", "1969-12-31T23:59:59.999Z"),
    ] {
        let text = format!("fail(`${{{expression}}}`)");
        let left = outcome(&text, &input);
        if left != Ok(Outcome::Failed(expected.into())) {
            wrong.push(format!("{text} {left:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn text_that_is_not_utf8_is_moved_as_it_is() {
    let mut bytes = raw(&doc! { "_id": 1, "s": "ab" }).bytes().to_vec();
    let at = bytes.windows(2).position(|pair| pair == b"ab").unwrap();
    bytes[at] = 0xff;
    let input = Document::from_bytes(bytes.clone().into()).unwrap();
    let script = compile("doc.n = 1; doc.s = doc.s; doc.remove(\"n\")");
    let left = run_on(&script, Some(&input)).unwrap();
    assert_eq!(left, Outcome::Unchanged(Meta::default()));
}
