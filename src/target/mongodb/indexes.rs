//! The source's indexes, which a collection gets once it is full.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bson::{Bson, Document, doc};
use mongodb::Database;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    change::Namespace,
    target::{Described, Retry},
};

use super::{
    answer,
    collections::{EXPIRES, all},
};

/// NamespaceNotFound
const NOT_FOUND: i32 = 26;
/// DuplicateKey
const DUPLICATE: i32 = 11000;
/// A unique index that the documents do not allow for so long is left out. The lanes write one document
/// before another, so for a moment two may hold one value, and for longer where much waits.
const PATIENCE: Duration = Duration::from_secs(300);

/// What can't be built yet.
#[derive(Default)]
pub(super) struct Unbuilt(Mutex<HashMap<(String, String), Instant>>);

impl Unbuilt {
    fn may_pass(&self, namespace: &str, index: &str) -> bool {
        let mut unbuilt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since =
            unbuilt.entry((namespace.to_owned(), index.to_owned())).or_insert_with(Instant::now);
        since.elapsed() < PATIENCE
    }

    /// Gives a collection the indexes that it has in the source and lacks. `keeps` says whether
    /// documents are to stay that the source removes.
    pub async fn build(
        &self,
        database: &Database,
        namespace: &Namespace,
        described: Described,
        keeps: bool,
    ) -> Result<(), Retry> {
        let collated = described.options.contains_key("collation");
        let there = all_of(database, namespace.collection()).await?;
        let missing: Vec<Document> = described
            .indexes
            .into_iter()
            .filter(|index| !there.iter().any(|own| own.get("name") == index.get("name")))
            .filter_map(|index| to_build(index, collated, keeps))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        info!(namespace = namespace.as_str(), count = missing.len(), "building indexes");
        if build(database, namespace, &missing).await.is_ok() {
            return Ok(());
        }
        // One that can't be built does not keep the others away.
        let mut waits = None;
        for index in &missing {
            let one = std::slice::from_ref(index);
            let Err(failed) = build(database, namespace, one).await else { continue };
            let retry = answer::refusal(&failed);
            let own = index.get_str("name").unwrap_or_default();
            let passes = match answer::code(&failed) {
                Some(DUPLICATE) => self.may_pass(namespace.as_str(), own),
                Some(_) => matches!(answer::Failed::of(&failed), answer::Failed::All(_)),
                None => true,
            };
            if passes {
                waits = Some(retry);
                continue;
            }
            error!(
                namespace = namespace.as_str(),
                index = own,
                reason = retry.message,
                "the target has no such index: it can't be built. It is tried again at the next start"
            );
        }
        waits.map_or(Ok(()), Err)
    }
}

async fn build(
    database: &Database,
    namespace: &Namespace,
    indexes: &[Document],
) -> Result<(), mongodb::error::Error> {
    let indexes: Vec<Bson> = indexes.iter().cloned().map(Bson::Document).collect();
    let command = doc! {
        "createIndexes": namespace.collection(), "indexes": indexes,
        "writeConcern": { "w": "majority" },
    };
    database.run_command(command).await.map(drop)
}

/// The indexes of a collection; none where it is not there, or they may not be read.
pub(super) async fn all_of(database: &Database, collection: &str) -> Result<Vec<Document>, Retry> {
    match all(database, doc! { "listIndexes": collection }).await {
        Ok(found) => Ok(found),
        Err(error) if answer::code(&error) == Some(NOT_FOUND) => Ok(Vec::new()),
        // One that is there is built again in no time.
        Err(error) if answer::code(&error).is_some_and(answer::is_denied) => Ok(Vec::new()),
        Err(error) => Err(answer::refusal(&error)),
    }
}

/// An index as `createIndexes` takes it; `None` for those that come with the collection.
fn to_build(mut index: Document, collated: bool, keeps: bool) -> Option<Document> {
    if index.get_str("name").is_ok_and(|name| name == "_id_") || index.contains_key("clustered") {
        return None;
    }
    for other in ["ns", "background", "prepareUnique"] {
        index.remove(other);
    }
    if keeps && index.remove(EXPIRES).is_some() {
        let name = index.get_str("name").unwrap_or_default();
        warn!(index = name, "the target keeps documents: none expires there by this index");
    }
    // The collection's own collation would be taken for it.
    if collated && !index.contains_key("collation") {
        index.insert("collation", doc! { "locale": "simple" });
    }
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_built_as_it_is_listed() {
        let sku = doc! { "v": 2, "key": { "sku": 1 }, "name": "sku_1", "unique": true };
        let mut old = sku.clone();
        old.insert("ns", "shop.items");
        old.insert("background", true);
        assert_eq!(to_build(old, false, false), Some(sku.clone()));
        let mut simple = sku.clone();
        simple.insert("collation", doc! { "locale": "simple" });
        assert_eq!(to_build(sku, true, false), Some(simple));
        let german = doc! { "key": { "a": 1 }, "name": "a_1", "collation": { "locale": "de" } };
        assert_eq!(to_build(german.clone(), true, false), Some(german));
        let expires = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 60 };
        assert_eq!(to_build(expires.clone(), false, false), Some(expires.clone()));
        let plain = doc! { "key": { "at": 1 }, "name": "ttl" };
        assert_eq!(to_build(expires, false, true), Some(plain));
        for own in [
            doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            doc! { "v": 2, "key": { "_id": 1 }, "name": "by id", "unique": true, "clustered": true },
        ] {
            assert_eq!(to_build(own, true, false), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_documents_do_not_allow_is_given_time() {
        let unbuilt = Unbuilt::default();
        assert!(unbuilt.may_pass("a.b", "sku"));
        tokio::time::advance(PATIENCE / 2).await;
        assert!(unbuilt.may_pass("a.b", "sku"));
        tokio::time::advance(PATIENCE).await;
        assert!(!unbuilt.may_pass("a.b", "sku"));
    }
}
