use bson::{
    Binary, Bson, DateTime, Decimal128, Document, RawDocumentBuf, Regex, Timestamp, doc,
    oid::ObjectId, spec::BinarySubtype,
};
use proptest::prelude::*;

use super::*;
use crate::library::{Mongosync, Rule, Rules};

const URI: &str = "mongodb://h/?replicaSet=rs0";

/// The filter of a rule, as it is behind the readers.
fn read(filter: &Document) -> RawDocumentBuf {
    let rule = Rule::of("shop.products").filter(filter.clone()).to("mine");
    let loaded = Mongosync::of(Rules::new("shop", URI).rule(rule))
        .each("mine", |_| async { Ok(()) })
        .variables(|_| Some("replaced".to_owned()))
        .check()
        .unwrap_or_else(|error| panic!("{filter}: {error}"));
    loaded.rules.rules[0].filter.clone().expect("a filter")
}

#[test]
fn a_filter_reaches_the_rule_as_it_is() {
    let filter = doc! {
        "z": 1_i32, "a": 1_i64, "n": { "$gte": 1.0, "$lt": 1e300, "$ne": -0.0 },
        "big": i64::MAX, "small": 1.5e-9, "nan": f64::NAN, "inf": f64::NEG_INFINITY,
        "text": "${HOME} $${HOME} ${ ${file:/etc/passwd}", "${KEY}": "$$", "empty": "",
        "lines": "a\nb\tc\r\u{0}\u{7f}\u{85}\u{2028}\u{feff}\"\\ ü 🦀", "yes": "yes", "null": Bson::Null,
        "number": "1", "true": true, "#": "# no comment", "list": [1, [2_i64, "x"], {}, []],
        "id": ObjectId::from_bytes([7; 12]), "at": DateTime::from_millis(1_795_227_029_123),
        "ancient": DateTime::from_millis(-99_999_999_999_999),
        "time": Timestamp { time: 5, increment: 6 }, "d": "0.10".parse::<Decimal128>().unwrap(),
        "binary": Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] },
        "uuid": bson::Uuid::from_bytes([9; 16]), "min": Bson::MinKey, "max": Bson::MaxKey,
        "regex": Regex { pattern: "^${x}/".try_into().unwrap(), options: "i".try_into().unwrap() },
    };
    let expected = RawDocumentBuf::try_from(&filter).unwrap();
    assert_eq!(read(&filter).as_bytes(), expected.as_bytes());
}

proptest! {
    #[test]
    fn any_text_is_itself(key in "[^\0$]\\PC{0,8}", text in any::<String>(), more in "[${}:\\-a]{0,12}") {
        let filter = doc! { key: { "$in": [text, more] } };
        let expected = RawDocumentBuf::try_from(&filter).unwrap();
        let found = read(&filter);
        prop_assert_eq!(found.as_bytes(), expected.as_bytes());
    }
}

#[test]
fn a_script_and_settings_are_read_as_they_are_meant() {
    let script = "let a = `${doc.b}`;\ndoc.a = a;\n";
    let rules = Rules::new("shop", URI)
        .set("checkpoint", doc! { "every": "250ms", "mongodb": { "database": "d" } })
        .target("mine", doc! { "own": { "batch": { "max_actions": 7_i64 }, "timeout": "5s" } })
        .rule(
            Rule::of(["shop.products", "shop.orders"])
                .name("both")
                .project(doc! { "password": 0 })
                .pipeline([doc! { "$set": { "b": "${X}" } }])
                .transform(script)
                .set("copy", false)
                .set("changes", doc! { "since": Timestamp { time: 1_795_227_029, increment: 1 } })
                .to("mine"),
        );
    let mongosync = Mongosync::of(rules).each("mine", |_| async { Ok(()) });
    let rules = mongosync.check().unwrap().rules;
    assert_eq!((rules.name.as_str(), rules.checkpoint.every.as_millis()), ("shop", 250));
    let delivery = &rules.targets[0].delivery;
    assert_eq!((delivery.max_actions, delivery.concurrency), (7, 8));
    let rule = &rules.rules[0];
    assert_eq!(rule.name, "both");
    let stage = RawDocumentBuf::try_from(&doc! { "$set": { "b": "${X}" } }).unwrap();
    assert_eq!(rule.pipeline, [stage]);
    assert!(rule.transform.is_some() && rule.copy.is_none());
}

#[test]
fn what_is_long_is_spread_over_lines() {
    let file = doc! {
        "name": "shop",
        "rules": [{ "namespace": "shop.products", "filter": { "a": "x".repeat(90) }, "to": ["mine"] }],
    };
    let long = "x".repeat(90);
    assert_eq!(
        written(&file),
        format!(
            "{{\n  \"name\": \"shop\",\n  \"rules\": [\n    {{\n      \"namespace\": \
             \"shop.products\",\n      \"filter\": {{\n        \"a\": \"{long}\"\n      }},\n      \
             \"to\": [\"mine\"]\n    }}\n  ]\n}}\n"
        )
    );
}
