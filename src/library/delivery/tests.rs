use std::sync::Arc;

use bson::{oid::ObjectId, rawdoc};
use serde::Deserialize;

use super::*;
use crate::{
    change::{Cause, DocumentKey, Namespace, Phase, event::Happened},
    target::{Appended, PlaceKey},
};

const TIME: ClusterTime = ClusterTime(7 << 32 | 3);

fn operation(action: Action) -> Operation {
    Operation {
        place: PlaceKey([].into()),
        action,
        time: TIME,
        cause: Cause::Event(TIME),
        extra: Bytes::new(),
        namespace: Namespace::new("shop", "products.new"),
        phase: Phase::Changes,
    }
}

/// What comes out of what goes in, behind something else.
fn round(action: Action) -> Delivery {
    let mut body = b"before".to_vec();
    let key = rawdoc! { "_id": 5_i64, "shard": "a" };
    Delivery::encode(&operation(action), ("products", "5"), &key, &mut body);
    body.extend_from_slice(b"behind");
    let end = body.len() - 6;
    Delivery::decode(&Bytes::from(body).slice(6..end))
}

#[test]
fn a_document_comes_through_as_it_is() {
    let document = rawdoc! { "_id": 5.0, "title": "Lamp" };
    let delivery = round(Action::Put(document.clone().into()));
    assert_eq!((delivery.op(), delivery.op().to_string().as_str()), (Op::Put, "put"));
    assert_eq!(delivery.document(), Some(&*document));
    assert_eq!(delivery.id(), RawBsonRef::Double(5.0), "as the rule delivers it");
    assert_eq!((delivery.id_text(), delivery.rule()), ("5", "products"));
    assert_eq!((delivery.database(), delivery.collection()), ("shop", "products.new"));
    assert_eq!((delivery.cluster_time(), delivery.is_copy()), (TIME, false));
    assert_eq!(delivery.key(), &*rawdoc! { "_id": 5_i64, "shard": "a" });
    assert_eq!((delivery.event_id(), delivery.before(), delivery.wall_time()), (None, None, None));
    assert_eq!((delivery.removed().count(), delivery.truncated().count()), (0, 0));

    let removal = round(Action::Remove);
    assert_eq!((removal.op(), removal.document()), (Op::Remove, None));
    assert_eq!(removal.id(), RawBsonRef::Int64(5));
    assert_eq!(removal.deserialize::<bson::Document>(), Ok(None));
}

#[test]
fn an_event_comes_through_with_all_that_it_says() {
    let document = |n: i32| Document::from(rawdoc! { "_id": 5_i64, "n": n });
    let event = Happened {
        id: "e".into(),
        op: EventOp::Update,
        copy: false,
        raw: None,
        document: Some(document(2)),
        before: Some(document(1)),
        updated: Some(rawdoc! { "n": 2 }.into()),
        removed: vec!["a.b".to_owned(), "c".to_owned()],
        truncated: vec![Truncated { field: "list".to_owned(), new_size: 3 }],
        lacks: None,
    };
    let wall_time = DateTime::from_millis(1_795_227_029_123);
    let told = |document, event: &Happened| {
        round(Action::Append(Box::new(Appended {
            id: "e:1".to_owned(),
            namespace: Namespace::new("shop", "products.new"),
            key: DocumentKey::from_document_key(&rawdoc! { "_id": 5_i64 }).expect("a key"),
            document_id: "5".to_owned(),
            wall_time: Some(wall_time),
            event: Arc::new(event.clone()),
            document,
        })))
    };
    let delivery = told(event.document.clone(), &event);
    assert_eq!((delivery.op(), delivery.event_id()), (Op::Update, Some("e:1")));
    assert_eq!(delivery.document(), Some(&*rawdoc! { "_id": 5_i64, "n": 2 }));
    assert_eq!(delivery.before(), Some(&*rawdoc! { "_id": 5_i64, "n": 1 }));
    assert_eq!(delivery.updated(), Some(&*rawdoc! { "n": 2 }));
    assert_eq!(delivery.removed().collect::<Vec<_>>(), ["a.b", "c"]);
    assert_eq!(delivery.truncated().collect::<Vec<_>>(), [("list", 3)]);
    assert_eq!(delivery.wall_time(), Some(wall_time));
    // The one document that is there is not taken for another.
    let only_before = told(None, &Happened { updated: None, ..event });
    assert_eq!((only_before.document(), only_before.updated()), (None, None));
    assert_eq!(only_before.before(), Some(&*rawdoc! { "_id": 5_i64, "n": 1 }));
}

#[derive(Deserialize, PartialEq, Debug)]
struct Product {
    #[serde(rename = "_id")]
    id: ObjectId,
    parts: Vec<Part>,
}

#[derive(Deserialize, PartialEq, Debug)]
struct Part {
    price: f64,
}

#[test]
fn what_does_not_fit_a_type_is_refused_by_its_path() {
    let id = ObjectId::from_bytes([1; 12]);
    let of = |document: RawDocumentBuf| {
        round(Action::Put(document.into())).deserialize::<Product>().map_err(
            |failure| match failure {
                Failure::Reject { words } => words,
                Failure::Retry { words, .. } => panic!("{words} can't pass"),
            },
        )
    };
    let product = Product { id, parts: vec![Part { price: 2.0 }] };
    assert_eq!(of(rawdoc! { "_id": id, "parts": [{ "price": 2 }] }), Ok(Some(product)));
    for (document, expected) in [
        (
            rawdoc! { "_id": id, "parts": [{ "price": 2 }, { "price": "x" }] },
            "at `parts[1].price`: ",
        ),
        (rawdoc! { "_id": id }, "missing field `parts`"),
    ] {
        let words = of(document).unwrap_err();
        assert!(words.starts_with("it is no Product: ") && words.contains(expected), "{words}");
    }
}

#[test]
fn an_error_that_is_met_may_pass_and_tells_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("no answer")]
    struct NoAnswer(#[source] std::num::ParseIntError);

    let fails = || -> Result<(), Failure> {
        "x".parse::<i32>().map_err(NoAnswer)?;
        Ok(())
    };
    let words = "no answer: invalid digit found in string".to_owned();
    assert_eq!(fails(), Err(Failure::Retry { words, after: None }));
}
