//! An event as a document of a collection.

use bson::{DateTime, RawBson, RawDocumentBuf, Timestamp, raw::cstr};

use crate::{
    change::{ClusterTime, Document},
    target::Appended,
};

/// The document of an event: its id is the event's, and every value is the BSON that MongoDB has told.
/// `wall_time` is when it happened, by the clock of the source; of a copied document, when the copy began.
pub(super) fn document(told: &Appended, time: ClusterTime) -> RawDocumentBuf {
    let Appended { id, namespace, key, wall_time, event, document, .. } = told;
    let began = || DateTime::from_millis(i64::from(time.seconds()) * 1000);
    let mut made = RawDocumentBuf::new();
    made.append(cstr!("_id"), id.as_str());
    made.append(cstr!("op"), event.op.as_str());
    made.append(cstr!("ns"), namespace.as_str());
    made.append(cstr!("key"), key.raw().to_owned());
    made.append(cstr!("cluster_time"), Timestamp::from(time));
    made.append(cstr!("wall_time"), wall_time.unwrap_or_else(began));
    made.append(cstr!("copy"), event.copy);
    made.append(cstr!("document"), whole(document.as_ref()));
    made.append(cstr!("before"), whole(event.before.as_ref()));
    made.append(cstr!("updated"), whole(event.updated.as_ref()));
    made.append(cstr!("removed"), event.removed_fields());
    made.append(cstr!("truncated"), event.truncated_arrays());
    made
}

/// `null` where there is none.
fn whole(document: Option<&Document>) -> RawBson {
    document.map_or(RawBson::Null, |document| RawBson::Document(document.raw().to_owned()))
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc, rawdoc};

    use super::*;
    use crate::change::{
        DocumentKey, Namespace,
        event::{Happened, Op, Truncated},
    };

    #[test]
    fn an_event_is_a_document_with_every_value_as_it_was() {
        let key = DocumentKey::from_document_key(&rawdoc! { "_id": 7_i64, "tenant": "a" });
        let key = key.expect("a key");
        let event = Happened {
            id: "e1".into(),
            op: Op::Update,
            copy: false,
            raw: None,
            document: None,
            before: Some(Document::from(rawdoc! { "z": 1, "a": 1_i64 })),
            updated: Some(Document::from(rawdoc! { "a.b": Timestamp { time: 0, increment: 0 } })),
            removed: vec!["c".to_owned()],
            truncated: vec![Truncated { field: "list".to_owned(), new_size: 3 }],
            lacks: None,
        };
        let told = |wall_time| Appended {
            id: "e1:0".to_owned(),
            namespace: Namespace::new("shop", "orders"),
            key: key.clone(),
            document_id: "7".to_owned(),
            wall_time,
            event: event.clone().into(),
            document: Some(Document::from(rawdoc! { "_id": 7_i64, "b": 1, "a": 2 })),
        };
        let time = ClusterTime(5 << 32 | 9);
        let at = DateTime::from_millis(1_795_227_029_007);
        let expected = |at: DateTime| {
            doc! {
                "_id": "e1:0", "op": "update", "ns": "shop.orders", "key": { "_id": 7_i64, "tenant": "a" },
                "cluster_time": Timestamp { time: 5, increment: 9 }, "wall_time": at, "copy": false,
                "document": { "_id": 7_i64, "b": 1, "a": 2 }, "before": { "z": 1, "a": 1_i64 },
                "updated": { "a.b": Timestamp { time: 0, increment: 0 } }, "removed": ["c"],
                "truncated": [{ "field": "list", "newSize": 3 }],
            }
        };
        for (wall_time, expected) in
            [(Some(at), expected(at)), (None, expected(DateTime::from_millis(5_000)))]
        {
            let expected = RawDocumentBuf::try_from(&expected).expect("a document");
            assert_eq!(document(&told(wall_time), time).as_bytes(), expected.as_bytes());
        }
        let none = Appended { document: None, ..told(None) };
        let made = bson::Document::try_from(document(&none, time)).expect("a document");
        assert_eq!(made.get("document"), Some(&Bson::Null));
    }
}
