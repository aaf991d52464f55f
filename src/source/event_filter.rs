//! A rule's `filter`, asked of the documents within change events.
//!
//! What can't be asked there (`$expr`, `$text` and the like) the rule file's reader has refused.

use bson::{Bson, Document, RawDocument, doc};

/// The part of a change stream's `$match` that lets through what a filter takes: documents behind a
/// change that match it, and deletes whose pre-image does. What brings no document to look at passes:
/// a delete without a pre-image, and an update whose document has gone by now.
pub(super) fn passes(filter: &RawDocument) -> Document {
    let filter = Document::try_from(filter).expect("the rule file's reader has made it");
    doc! { "$or": [
        { "operationType": { "$in": ["drop", "rename", "dropDatabase", "invalidate"] } },
        { "$and": [
            { "operationType": { "$in": ["insert", "update", "replace"] } },
            { "$or": [{ "fullDocument": null }, of_field(&filter, "fullDocument")] },
        ] },
        { "$and": [
            { "operationType": "delete" },
            { "$or": [
                { "fullDocumentBeforeChange": null },
                of_field(&filter, "fullDocumentBeforeChange"),
            ] },
        ] },
    ] }
}

/// The filter on a document, as a filter on what holds that document in a field.
fn of_field(filter: &Document, field: &str) -> Document {
    filter
        .iter()
        .map(|(name, value)| match (name.as_str(), value) {
            ("$and" | "$or" | "$nor", Bson::Array(parts)) => {
                let parts = parts.iter().map(|part| match part {
                    Bson::Document(part) => Bson::Document(of_field(part, field)),
                    // MongoDB itself says what is wrong with it.
                    part => part.clone(),
                });
                (name.clone(), Bson::Array(parts.collect()))
            }
            // What begins with `$` at this place is no field: `$comment`.
            (operator, value) if operator.starts_with('$') => (name.clone(), value.clone()),
            // What stands below a field (`$elemMatch`, `$not`) speaks of that field alone.
            (path, value) => (format!("{field}.{path}"), value.clone()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_document_within() {
        for (filter, expected) in [
            (doc! {}, doc! {}),
            (doc! { "a": 1, "b.c": { "$gt": 2 } }, doc! { "f.a": 1, "f.b.c": { "$gt": 2 } }),
            (
                doc! { "$or": [{ "a": 1 }, { "$and": [{ "b": 2 }, { "c": null }] }] },
                doc! { "$or": [{ "f.a": 1 }, { "$and": [{ "f.b": 2 }, { "f.c": null }] }] },
            ),
            (doc! { "$nor": [{ "a": 1 }] }, doc! { "$nor": [{ "f.a": 1 }] }),
            (
                doc! { "items": { "$elemMatch": { "sku": "x", "$or": [{ "n": 1 }] } } },
                doc! { "f.items": { "$elemMatch": { "sku": "x", "$or": [{ "n": 1 }] } } },
            ),
            (
                doc! { "a": { "$not": { "$in": [1, 2] } }, "$comment": "why" },
                doc! { "f.a": { "$not": { "$in": [1, 2] } }, "$comment": "why" },
            ),
            (
                doc! { "at": { "$geoWithin": { "$centerSphere": [[1, 2], 3] } } },
                doc! { "f.at": { "$geoWithin": { "$centerSphere": [[1, 2], 3] } } },
            ),
            (doc! { "_id": { "$gt": 5 } }, doc! { "f._id": { "$gt": 5 } }),
        ] {
            assert_eq!(of_field(&filter, "f"), expected, "{filter}");
        }
    }
}
