//! Whatever the document, what a script does not touch keeps its bytes.

use bson::{Binary, Decimal128, Regex, Timestamp, spec::BinarySubtype};
use proptest::{collection::vec, prelude::*};

use super::*;

fn scalar() -> impl Strategy<Value = bson::Bson> {
    use bson::Bson;
    prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        (-5_i64..5).prop_map(Bson::Int64),
        any::<u64>().prop_map(|bits| Bson::Double(f64::from_bits(bits))),
        "\\PC{0,12}".prop_map(Bson::String),
        any::<bool>().prop_map(Bson::Boolean),
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        any::<[u8; 12]>().prop_map(|bytes| ObjectId::from_bytes(bytes).into()),
        any::<i64>().prop_map(|millis| bson::DateTime::from_millis(millis).into()),
        any::<[u8; 16]>().prop_map(|bytes| Decimal128::from_bytes(bytes).into()),
        any::<(u32, u32)>().prop_map(|(time, increment)| Timestamp { time, increment }.into()),
        (any::<u8>(), vec(any::<u8>(), 0..20)).prop_map(|(subtype, bytes)| {
            Bson::Binary(Binary { subtype: BinarySubtype::from(subtype), bytes })
        }),
        "[a-z]{0,4}".prop_map(|pattern| {
            Regex { pattern: pattern.try_into().unwrap(), options: "im".try_into().unwrap() }.into()
        }),
        "[a-z]{0,4}".prop_map(Bson::JavaScriptCode),
        "[a-z]{0,4}".prop_map(Bson::Symbol),
    ]
}

fn fields(value: impl Strategy<Value = bson::Bson>) -> impl Strategy<Value = Bson> {
    vec(("[a-f]{1,3}", value), 0..8).prop_map(|fields| fields.into_iter().collect())
}

fn document() -> impl Strategy<Value = Bson> {
    let value = scalar().prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(bson::Bson::Array),
            fields(inner).prop_map(bson::Bson::Document),
        ]
    });
    fields(value)
}

proptest! {
    #[test]
    fn a_script_that_only_reads_changes_nothing(fields in document()) {
        let mut input = doc! { "_id": 1 };
        input.extend(fields);
        let input = raw(&input);
        for text in ["", "for k in doc.keys() { let v = doc[k]; v = 5 }", "let x = to_json(doc)"] {
            let left = run_on(&compile(text), Some(&input)).unwrap();
            prop_assert_eq!(left, Outcome::Unchanged(Meta::default()));
        }
    }

    #[test]
    fn reading_and_writing_back_changes_nothing(fields in document()) {
        let mut input = doc! { "_id": 1 };
        input.extend(fields);
        let input = raw(&input);
        let script = compile("for k in doc.keys() { let v = doc[k]; doc[k] = 0; doc[k] = v }");
        let left = run_on(&script, Some(&input)).unwrap();
        prop_assert_eq!(left, Outcome::Unchanged(Meta::default()));
    }

    #[test]
    fn one_field_is_changed_alone(before in document(), old in scalar(), after in document()) {
        let build = |touched: bson::Bson| {
            let mut whole = doc! { "_id": 1 };
            whole.extend(before.clone());
            whole.insert("touched", touched);
            whole.extend(after.clone());
            whole
        };
        let expected = raw(&build("new".into()));
        let left = run_on(&compile("doc.touched = \"new\""), Some(&raw(&build(old.clone())))).unwrap();
        prop_assert_eq!(left, Outcome::Document(expected, Meta::default()));

        let nest = |touched: bson::Bson| doc! {
            "_id": 1, "a": [1_i64, { "b": build(touched) }, before.clone()], "z": after.clone(),
        };
        let script = compile("doc.a[1].b.touched = \"new\"");
        let left = run_on(&script, Some(&raw(&nest(old)))).unwrap();
        prop_assert_eq!(left, Outcome::Document(raw(&nest("new".into())), Meta::default()));
    }
}
