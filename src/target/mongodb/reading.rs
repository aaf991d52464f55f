//! What lies in a MongoDB, to be compared with what should: as the bytes that it is, in Base64, so that
//! every type and the order of fields count.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bson::{RawArrayBuf, RawDocument, RawDocumentBuf, rawdoc};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    options::{CollectionOptions, ReadConcern},
};

use crate::{
    change::{ClusterTime, Namespace},
    target::{Contents, Held, PlaceKey, Retry},
};

use super::{
    MongoTarget, answer,
    connection::unusable,
    place::{MongoPlaceKey, place_key},
};

impl MongoTarget {
    /// What these places hold, by reads of a majority at the primary.
    pub(super) async fn held(&self, places: &[PlaceKey]) -> Result<Contents, Retry> {
        let connection = self.connect().await?;
        let mut by_namespace: BTreeMap<&str, RawArrayBuf> = BTreeMap::new();
        for place in places {
            let place =
                MongoPlaceKey::decode(place).map_err(|error| unusable(error.to_string()))?;
            if let Ok(Some(id)) = place.id.get("_id") {
                by_namespace.entry(place.namespace).or_default().push(id);
            }
        }
        let mut found: HashMap<PlaceKey, Held> = HashMap::with_capacity(places.len());
        for (name, ids) in by_namespace {
            let Some(namespace) = Namespace::parse(name) else { continue };
            let options =
                CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
            let database = connection.client.database(namespace.database());
            let collection: Collection<RawDocumentBuf> =
                database.collection_with_options(namespace.collection(), options);
            let filter = rawdoc! { "_id": { "$in": ids } };
            let filter =
                bson::Document::try_from(filter).map_err(|error| unusable(error.to_string()))?;
            let failed = |error: mongodb::error::Error| answer::refusal(&error);
            let mut cursor = collection.find(filter).await.map_err(failed)?;
            while let Some(document) = cursor.try_next().await.map_err(failed)? {
                // A collation finds more than was asked for.
                let id = document.get("_id").ok().flatten();
                let Some(place) = id.and_then(|id| place_key(name, id).ok()) else { continue };
                let held = Held { content: Some(content(&document)), written: ClusterTime::ZERO };
                found.insert(place, held);
            }
        }
        Ok(Contents::Held(places.iter().map(|place| found.remove(place)).collect()))
    }
}

/// A document's bytes as a JSON text, with the `_id` in front, where a server puts it.
pub(super) fn content(document: &RawDocument) -> Vec<u8> {
    let moved = moved(document);
    let bytes = moved.as_deref().unwrap_or(document).as_bytes();
    format!("\"{}\"", BASE64_STANDARD.encode(bytes)).into_bytes()
}

/// `None` where the `_id` is in front, or there is none.
fn moved(document: &RawDocument) -> Option<RawDocumentBuf> {
    let first = document.iter().next()?.ok()?;
    if first.0.as_str() == "_id" {
        return None;
    }
    let id = document.get("_id").ok()??;
    let mut moved = RawDocumentBuf::new();
    moved.append(bson::raw::cstr!("_id"), id);
    for element in document.iter() {
        let (name, value) = element.ok()?;
        if name.as_str() != "_id" {
            moved.append(name, value);
        }
    }
    Some(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_equal_where_the_bytes_are_but_for_where_the_id_stands() {
        let first = content(&rawdoc! { "_id": 1, "a": 1, "b": 2.0 });
        assert_eq!(content(&rawdoc! { "a": 1, "_id": 1, "b": 2.0 }), first);
        for other in [
            rawdoc! { "_id": 1, "b": 2.0, "a": 1 },
            rawdoc! { "_id": 1, "a": 1_i64, "b": 2.0 },
            rawdoc! { "_id": 1_i64, "a": 1, "b": 2.0 },
            rawdoc! { "_id": 1, "a": 1, "b": 2 },
        ] {
            assert_ne!(content(&other), first, "{other:?}");
        }
    }
}
