//! The source's indexes, which a collection gets once it is full; and follows, where the rule says `ddl`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bson::{Binary, Bson, Document, doc};
use mongodb::{Client, Database};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::{
    change::Namespace,
    target::{Described, Retry},
};

use super::{
    answer,
    collections::{EXPIRES, all},
    definition::{plain, unversioned},
    marker::Markers,
};

/// NamespaceNotFound
const NOT_FOUND: i32 = 26;
/// IndexNotFound
const NO_INDEX: i32 = 27;
/// DuplicateKey
const DUPLICATE: i32 = 11000;
/// A unique index that the documents do not allow for so long is left out. The lanes write one document
/// before another, so for a moment two may hold one value, and for longer where much waits.
const PATIENCE: Duration = Duration::from_secs(300);
/// What makes two indexes of one name different ones, beside their keys.
const COUNTED: [&str; 11] = [
    "unique",
    "sparse",
    "partialFilterExpression",
    "collation",
    "weights",
    "default_language",
    "language_override",
    "wildcardProjection",
    "bits",
    "min",
    "max",
];

/// A collection of ours whose indexes are seen to.
pub(super) struct Indexed<'a> {
    pub client: &'a Client,
    pub namespace: &'a Namespace,
    pub uuid: &'a Binary,
    /// What it is in the source.
    pub described: Described,
    /// Whether documents are to stay that the source removes.
    pub keeps: bool,
    /// Whether indexes are dropped and changed too, as far as they were built here.
    pub follows: bool,
}

impl Indexed<'_> {
    fn database(&self) -> Database {
        self.client.database(self.namespace.database())
    }
}

/// What can't be built yet.
#[derive(Default)]
pub(super) struct Unbuilt(Mutex<HashMap<(String, String), Instant>>);

impl Unbuilt {
    fn may_pass(&self, namespace: &str, index: &str) -> bool {
        let mut unbuilt = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (namespace.to_owned(), index.to_owned());
        let since = unbuilt.entry(name.clone()).or_insert_with(Instant::now);
        let passes = since.elapsed() < PATIENCE;
        if !passes {
            // Whoever asks for it anew gives it time anew.
            unbuilt.remove(&name);
        }
        passes
    }

    /// Gives a collection the indexes that it has in the source and lacks.
    pub async fn build(&self, asked: Indexed<'_>) -> Result<(), Retry> {
        let (database, namespace) = (asked.database(), asked.namespace);
        let collated = asked.described.options.contains_key("collation");
        let mut there = all_of(&database, namespace.collection()).await?;
        if asked.follows {
            there = follow(&asked, there).await?;
        }
        let missing: Vec<Document> = asked
            .described
            .indexes
            .into_iter()
            .filter(|index| !there.iter().any(|own| own.get("name") == index.get("name")))
            .filter_map(|index| to_build(index, collated, asked.keeps))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.iter().filter_map(|index| index.get_str("name").ok());
        // Who may not remember that an index is ours leaves it alone later.
        Markers::new(asked.client).built(namespace, asked.uuid, names.collect()).await?;
        info!(namespace = namespace.as_str(), count = missing.len(), "building indexes");
        if build(&database, namespace, &missing).await.is_ok() {
            return Ok(());
        }
        // One that can't be built does not keep the others away.
        let mut waits = None;
        for index in &missing {
            let one = std::slice::from_ref(index);
            let Err(failed) = build(&database, namespace, one).await else { continue };
            let mut retry = answer::refusal(&failed);
            let own = index.get_str("name").unwrap_or_default();
            let passes = match answer::code(&failed) {
                Some(DUPLICATE) => {
                    retry.reason = "duplicate";
                    self.may_pass(namespace.as_str(), own)
                }
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

/// Drops what the source has no longer and what it has otherwise, and changes what can be changed. Returns
/// what is there afterwards.
async fn follow(asked: &Indexed<'_>, there: Vec<Document>) -> Result<Vec<Document>, Retry> {
    let Indexed { client, namespace, uuid, described, keeps, .. } = asked;
    let (database, markers) = (asked.database(), Markers::new(client));
    let mut built = None;
    let mut left = Vec::with_capacity(there.len());
    for own in there {
        let name = own.get_str("name").unwrap_or_default().to_owned();
        let wanted = described.indexes.iter().find(|index| index.get("name") == own.get("name"));
        let change = match wanted {
            _ if comes_with_the_collection(&own) => Change::Nothing,
            Some(index) => compare(index, &own, *keeps),
            None => Change::Drop,
        };
        if let Change::Modify(options) = &change {
            let mut index = doc! { "name": &name };
            index.extend(options.clone());
            let command = doc! {
                "collMod": namespace.collection(), "index": index,
                "writeConcern": { "w": "majority" },
            };
            match database.run_command(command).await {
                Ok(_) => {
                    info!(namespace = namespace.as_str(), index = name, "the index was changed");
                    left.push(own);
                    continue;
                }
                Err(error) => match answer::Failed::of(&error) {
                    answer::Failed::All(retry) => return Err(retry),
                    // An older server changes less: it is built anew.
                    answer::Failed::These(_) => {}
                },
            }
        }
        if matches!(change, Change::Nothing) {
            left.push(own);
            continue;
        }
        if built.is_none() {
            built = Some(markers.indexes(namespace, uuid).await?);
        }
        // Somebody else's stays.
        if !built.iter().flatten().any(|known| *known == name) {
            if wanted.is_some() {
                warn!(
                    namespace = namespace.as_str(),
                    index = name,
                    "the index is another one in the source, and not mongosync's own here: it stays"
                );
            }
            left.push(own);
            continue;
        }
        let command = doc! {
            "dropIndexes": namespace.collection(), "index": &name,
            "writeConcern": { "w": "majority" },
        };
        match database.run_command(command).await {
            Ok(_) => info!(namespace = namespace.as_str(), index = name, "the index was dropped"),
            Err(error) if answer::code(&error) == Some(NO_INDEX) => {}
            Err(error) => match answer::Failed::of(&error) {
                answer::Failed::All(retry) => return Err(retry),
                answer::Failed::These(retry) => {
                    error!(
                        namespace = namespace.as_str(),
                        index = name,
                        reason = retry.message,
                        "the index can't be dropped, and stays"
                    );
                    left.push(own);
                    continue;
                }
            },
        }
        markers.dropped(namespace, uuid, &name).await?;
    }
    Ok(left)
}

/// What is to be done about an index.
#[derive(PartialEq, Debug)]
enum Change {
    Nothing,
    /// `collMod` with these.
    Modify(Document),
    /// It is built anew, where the source has one of this name.
    Drop,
}

fn compare(wanted: &Document, own: &Document, keeps: bool) -> Change {
    // What is false need not be said.
    let said = |index: &Document, option: &str| {
        plain(index.get(option).filter(|value| **value != Bson::Boolean(false)))
    };
    let same = |option: &&str| said(wanted, option) == said(own, option);
    if !same(&"key") || !COUNTED.iter().all(same) {
        return Change::Drop;
    }
    let mut changes = Document::new();
    let expires = wanted.get(EXPIRES).filter(|_| !keeps);
    match (expires, own.get(EXPIRES)) {
        (wanted, own) if plain(wanted) == plain(own) => {}
        (Some(wanted), _) => drop(changes.insert(EXPIRES, wanted.clone())),
        (None, _) => return Change::Drop,
    }
    if !same(&"hidden") {
        changes.insert("hidden", wanted.get_bool("hidden").unwrap_or(false));
    }
    if changes.is_empty() { Change::Nothing } else { Change::Modify(changes) }
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

fn comes_with_the_collection(index: &Document) -> bool {
    index.get_str("name").is_ok_and(|name| name == "_id_") || index.contains_key("clustered")
}

/// An index as `createIndexes` takes it; `None` for those that come with the collection.
fn to_build(mut index: Document, collated: bool, keeps: bool) -> Option<Document> {
    if comes_with_the_collection(&index) {
        return None;
    }
    for other in ["ns", "background", "prepareUnique"] {
        index.remove(other);
    }
    if keeps && index.remove(EXPIRES).is_some() {
        let name = index.get_str("name").unwrap_or_default();
        warn!(index = name, "the target keeps documents: none expires there by this index");
    }
    unversioned(&mut index);
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

    #[test]
    fn an_index_becomes_what_it_is_in_the_source() {
        let index = |options: Document| {
            let mut index = doc! { "v": 2, "key": { "a": 1, "b": -1 }, "name": "i" };
            index.extend(options);
            index
        };
        let german = |version: &str| doc! { "collation": { "locale": "de", "version": version } };
        let ttl = |seconds: i64| doc! { EXPIRES: seconds };
        for (row, wanted, own, expected) in [
            (1, doc! {}, doc! { "v": 1, "background": true }, Change::Nothing),
            (2, doc! { "key": { "a": 1.0, "b": -1_i64 } }, doc! {}, Change::Nothing),
            (3, doc! { "key": { "b": -1, "a": 1 } }, doc! {}, Change::Drop),
            (4, doc! { "unique": true }, doc! {}, Change::Drop),
            (5, doc! { "sparse": false }, doc! {}, Change::Nothing),
            (6, german("57.1"), german("74.2"), Change::Nothing),
            (7, german("57.1"), doc! {}, Change::Drop),
            (8, doc! { "hidden": true }, doc! {}, Change::Modify(doc! { "hidden": true })),
            (9, doc! {}, doc! { "hidden": true }, Change::Modify(doc! { "hidden": false })),
            (10, ttl(60), doc! { EXPIRES: 60 }, Change::Nothing),
            (11, ttl(60), ttl(30), Change::Modify(ttl(60))),
            (12, ttl(60), doc! {}, Change::Modify(ttl(60))),
            (13, doc! {}, ttl(60), Change::Drop),
        ] {
            assert_eq!(compare(&index(wanted), &index(own), false), expected, "row {row}");
        }
        assert_eq!(compare(&index(ttl(60)), &index(doc! {}), true), Change::Nothing);
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
