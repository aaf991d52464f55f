//! Commands as the server gets them.

use bson::{Document, doc, rawdoc};

use super::*;

fn around() -> Around<'static> {
    Around {
        collection: "items",
        run: "mongosync shop 1",
        number: 7,
        max_time_ms: 60_000,
        deadline: bson::DateTime::from_millis(1_000),
        collated: false,
    }
}

fn read(around: &Around<'_>, write: Write<'_>) -> Document {
    Document::try_from(&*command(around, &[write])).expect("a document")
}

fn late() -> Document {
    doc! { "$lte": ["$$NOW", bson::DateTime::from_millis(1_000)] }
}

fn guarded(by: impl Into<bson::Bson>) -> Document {
    let failing = doc! { "$toInt": { "$concat": [LATE, { "$type": "$_id" }] } };
    doc! { "$cond": [late(), by.into(), failing] }
}

#[test]
fn what_is_there_is_replaced_whole() {
    let document = rawdoc! { "_id": 1, "a": 2 };
    assert_eq!(
        read(&around(), Write::Replace(&rawdoc! { "_id": 1 }, &document)),
        doc! {
            "update": "items",
            "updates": [{ "q": { "_id": { "$eq": 1 }, "$expr": guarded(true) }, "u": { "_id": 1, "a": 2 } }],
            "ordered": false,
            "bypassDocumentValidation": true,
            "writeConcern": { "w": "majority", "wtimeout": 60_000_i64 },
            "maxTimeMS": 60_000_i64,
            "txnNumber": 7_i64,
            "comment": "mongosync shop 1",
        }
    );
}

#[test]
fn what_is_not_there_is_filled_in_and_nothing_else() {
    let document = rawdoc! { "_id": 1, "$a": 2 };
    let command = read(&around(), Write::Fill(&rawdoc! { "_id": 1 }, &document));
    let literal = doc! { "$literal": { "_id": 1, "$a": 2 } };
    let expected = doc! {
        "q": { "_id": { "$eq": 1 }, "$nor": [{}] },
        "u": [{ "$replaceWith": { "$cond": [late(), literal, bson::Bson::Null] } }],
        "upsert": true,
    };
    assert_eq!(command.get_array("updates").expect("entries"), &[expected.into()]);
}

#[test]
fn a_removal_takes_one_document_and_in_time() {
    let command = read(&around(), Write::Remove(&rawdoc! { "_id": "x" }));
    let expected = doc! { "q": { "_id": { "$eq": "x" }, "$expr": guarded(true) }, "limit": 1 };
    assert_eq!(command.get_array("deletes").expect("entries"), &[expected.into()]);
    assert!(!command.contains_key("bypassDocumentValidation"));

    let around = Around { collated: true, ..around() };
    let command = read(&around, Write::Remove(&rawdoc! { "_id": "x" }));
    let exactly = doc! { "$and": [
        { "$eq": [{ "$indexOfBytes": ["$_id", { "$literal": "x" }] }, 0_i64] },
        { "$eq": [{ "$strLenBytes": "$_id" }, 1_i64] },
    ] };
    let expected = doc! { "q": { "_id": { "$eq": "x" }, "$expr": guarded(exactly) }, "limit": 1 };
    assert_eq!(command.get_array("deletes").expect("entries"), &[expected.into()]);
}

/// Texts within an `_id` are compared by a language too.
#[test]
fn texts_within_an_id_are_compared_byte_by_byte() {
    let around = Around { collated: true, ..around() };
    let id = rawdoc! { "_id": { "a": [1, "x"], "b.c": "yz", "n": 1 } };
    let command = read(&around, Write::Remove(&id));
    let of_array =
        doc! { "$arrayElemAt": [{ "$let": { "vars": { "of": "$_id" }, "in": "$$of.a" } }, 1] };
    let by_name = doc! { "$getField": { "field": { "$literal": "b.c" }, "input": "$$of" } };
    let of_field = doc! { "$let": { "vars": { "of": "$_id" }, "in": by_name } };
    let exactly = doc! { "$and": [
        { "$eq": [{ "$indexOfBytes": [of_array.clone(), { "$literal": "x" }] }, 0_i64] },
        { "$eq": [{ "$strLenBytes": of_array }, 1_i64] },
        { "$eq": [{ "$indexOfBytes": [of_field.clone(), { "$literal": "yz" }] }, 0_i64] },
        { "$eq": [{ "$strLenBytes": of_field }, 2_i64] },
    ] };
    let equal = doc! { "$eq": { "a": [1, "x"], "b.c": "yz", "n": 1 } };
    let expected = doc! { "q": { "_id": equal, "$expr": guarded(exactly) }, "limit": 1 };
    assert_eq!(command.get_array("deletes").expect("entries"), &[expected.into()]);
}

/// An `_id` that looks like an operator finds nothing but itself.
#[test]
fn an_id_is_no_query() {
    let document = rawdoc! { "_id": { "$gt": "" } };
    for write in [
        Write::Remove(&document),
        Write::Replace(&document, &document),
        Write::Fill(&document, &document),
    ] {
        let command = read(&around(), write);
        let entries = command.get_array("deletes").or_else(|_| command.get_array("updates"));
        let entry = entries.expect("entries")[0].as_document().expect("an entry");
        let query = entry.get_document("q").expect("a query");
        assert_eq!(query.get_document("_id").expect("an _id"), &doc! { "$eq": { "$gt": "" } });
    }
}

#[test]
fn an_insert_holds_documents_as_they_are() {
    let command = read(&around(), Write::Insert(&rawdoc! { "_id": 1, "a": 2 }));
    assert_eq!(command.get_str("insert").expect("a name"), "items");
    assert_eq!(command.get_array("documents").expect("some"), &[doc! { "_id": 1, "a": 2 }.into()]);
    assert_eq!(command.get_i64("txnNumber").expect("a number"), 7);
}

#[test]
fn some_documents_are_odd() {
    let empty = Timestamp { time: 0, increment: 0 };
    for (document, expected) in [
        (rawdoc! { "_id": 1, "a": { "$b": 1, "t": empty } }, false),
        (rawdoc! { "_id": 1, "a.b": 1, "": 2, "t": Timestamp { time: 0, increment: 1 } }, false),
        (rawdoc! { "_id": 1, "a": 1, "$b": 1 }, true),
        (rawdoc! { "_id": 1, "t": empty }, true),
    ] {
        assert_eq!(is_odd(&document), expected, "{document:?}");
    }
}

#[test]
fn a_command_takes_so_much() {
    for (sizes, ends) in [
        (vec![], vec![]),
        (vec![1, 1], vec![2]),
        (vec![MAX_BYTES, 1, MAX_BYTES + 1, 1], vec![1, 2, 3, 4]),
        (vec![1; MAX_ENTRIES + 1], vec![MAX_ENTRIES, MAX_ENTRIES + 1]),
    ] {
        let parts = cut(&sizes);
        let mut start = 0;
        for (part, end) in parts.iter().zip(&ends) {
            assert_eq!((part.start, part.end), (start, *end));
            start = *end;
        }
        assert_eq!(parts.len(), ends.len());
    }
}
