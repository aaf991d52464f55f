//! The collections that are written to: made as they are in the source before the first document
//! comes, marked as ours where they were empty, and given the source's indexes once they are full.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use mongodb::Database;
use tokio::{sync::OnceCell, time::Instant};
use tracing::{error, info, warn};

use crate::{
    change::Namespace,
    rules::namespace::written_fault,
    target::{Origins, Retry},
};

use super::{
    answer,
    connection::{Connection, unusable},
    routes::Routes,
};

/// NamespaceExists
const EXISTS: i32 = 48;
/// NamespaceNotFound
const NOT_FOUND: i32 = 26;
/// DuplicateKey
const DUPLICATE: i32 = 11000;
/// A unique index that the documents do not allow for so long is left out. The lanes write one
/// document before another, so for a moment two may hold one value.
const PATIENCE: Duration = Duration::from_secs(60);
/// Options of a collection that are the same in the target.
const OPTIONS: [&str; 9] = [
    "capped",
    "size",
    "max",
    "collation",
    "validator",
    "validationLevel",
    "validationAction",
    "clusteredIndex",
    "expireAfterSeconds",
];

/// A collection that can be written to.
#[derive(Debug)]
pub(super) struct Ready {
    /// Why nothing may be written there.
    pub refused: Option<String>,
    /// Whether a copied document is most likely not there yet.
    fresh: AtomicBool,
}

impl Ready {
    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Most of the documents are there already.
    pub fn is_filled(&self) {
        self.fresh.store(false, Ordering::Relaxed);
    }
}

/// The collections of one MongoDB.
pub(super) struct Collections {
    ready: Mutex<HashMap<String, Arc<OnceCell<Ready>>>>,
    /// Since when a unique index can't be built, by namespace and name.
    unbuilt: Mutex<HashMap<(String, String), Instant>>,
    /// Whether the target is the source.
    same: OnceCell<bool>,
}

impl Collections {
    pub fn new() -> Self {
        Self { ready: Mutex::default(), unbuilt: Mutex::default(), same: OnceCell::new() }
    }

    /// Sees to a collection before anything is written to it. Its cell is always set afterwards.
    pub async fn ready(
        &self,
        connection: &Connection,
        name: &str,
        routes: &Routes,
        origins: Option<&dyn Origins>,
    ) -> Result<Arc<OnceCell<Ready>>, Retry> {
        let cell = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            match ready.get(name) {
                Some(cell) => cell.clone(),
                None => ready.entry(name.to_owned()).or_default().clone(),
            }
        };
        cell.get_or_try_init(|| self.see_to(connection, name, routes, origins)).await?;
        Ok(cell)
    }

    async fn see_to(
        &self,
        connection: &Connection,
        name: &str,
        routes: &Routes,
        origins: Option<&dyn Origins>,
    ) -> Result<Ready, Retry> {
        let refused = |words: String| Ready { refused: Some(words), fresh: AtomicBool::new(false) };
        let namespace = match (Namespace::parse(name), written_fault(name)) {
            (Some(namespace), None) => namespace,
            (_, fault) => {
                let fault = fault.unwrap_or_else(|| "it has no dot".to_owned());
                return Ok(refused(format!("{name:?} is no namespace: {fault}")));
            }
        };
        if let Some(reader) = routes.reader(&namespace)
            && self.is_source(connection, origins).await?
        {
            return Ok(refused(format!(
                "the target is the source, and rule {reader} reads {name}: what is written there \
                 would be read again for ever"
            )));
        }
        let database = connection.client.database(namespace.database());
        let empty = match kind(&database, namespace.collection()).await? {
            None => {
                let from = routes.source_of(name).unwrap_or_else(|| namespace.clone());
                self.create(&database, &namespace, &from, origins).await?;
                true
            }
            Some(kind) if kind != "collection" => {
                return Err(unusable(format!("{name} is a {kind}, and can't be written to")));
            }
            Some(_) => {
                let found = database
                    .collection::<bson::RawDocumentBuf>(namespace.collection())
                    .find_one(doc! {})
                    .projection(doc! { "_id": 1 })
                    .await;
                found.map_err(|error| answer::refusal(&error))?.is_none()
            }
        };
        if let Some(origins) = origins
            && origins.is_own(name).await?.is_none()
        {
            // Durable before the first document is written.
            origins.set_own(name, empty).await?;
            if !empty {
                warn!(
                    namespace = name,
                    "the collection held documents before: none of them is removed, nor what is gone \
                     from the source while nobody looks, and it gets no indexes"
                );
            }
        }
        Ok(Ready { refused: None, fresh: AtomicBool::new(empty) })
    }

    async fn create(
        &self,
        database: &Database,
        namespace: &Namespace,
        from: &Namespace,
        origins: Option<&dyn Origins>,
    ) -> Result<(), Retry> {
        let described = match origins {
            Some(origins) => origins.collection(from).await?,
            None => None,
        };
        let mut command = doc! { "create": namespace.collection() };
        let options = described.map(|described| described.options).unwrap_or_default();
        command.extend(options.into_iter().filter(|(name, _)| OPTIONS.contains(&name.as_str())));
        command.insert("writeConcern", doc! { "w": "majority" });
        match database.run_command(command).await {
            Ok(_) => Ok(()),
            Err(error) if answer::code(&error) == Some(EXISTS) => Ok(()),
            Err(error) => Err(answer::refusal(&error)),
        }
    }

    /// Whether the target is the source, as far as either tells.
    async fn is_source(
        &self,
        connection: &Connection,
        origins: Option<&dyn Origins>,
    ) -> Result<bool, Retry> {
        let Some(origins) = origins else { return Ok(false) };
        let same = self.same.get_or_try_init(|| async {
            let source = origins.identity().await?;
            let own = connection.identity().await?;
            Ok::<_, Retry>(source.is_some() && source == own)
        });
        same.await.copied()
    }

    /// Gives a collection the indexes that it has in the source and lacks.
    pub async fn index(
        &self,
        connection: &Connection,
        name: &str,
        from: &Namespace,
        origins: &dyn Origins,
    ) -> Result<(), Retry> {
        let Some(namespace) = Namespace::parse(name) else { return Ok(()) };
        if origins.is_own(name).await? != Some(true) {
            return Ok(());
        }
        let Some(described) = origins.collection(from).await? else { return Ok(()) };
        let database = connection.client.database(namespace.database());
        let collated = described.options.contains_key("collation");
        let there = indexes(&database, namespace.collection()).await?;
        let missing: Vec<Document> = described
            .indexes
            .into_iter()
            .filter(|index| !there.iter().any(|own| own.get("name") == index.get("name")))
            .filter_map(|index| to_build(index, collated))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        info!(namespace = name, count = missing.len(), "building indexes");
        if self.build(&database, &namespace, &missing).await.is_ok() {
            return Ok(());
        }
        // One that can't be built does not keep the others away.
        let mut waits = None;
        for index in &missing {
            let Err(failed) = self.build(&database, &namespace, std::slice::from_ref(index)).await
            else {
                continue;
            };
            let retry = answer::refusal(&failed);
            let own = index.get_str("name").unwrap_or_default();
            let passes = match answer::code(&failed) {
                Some(DUPLICATE) => self.may_pass(name, own),
                Some(_) => !answer::is_refused_for_good(&failed),
                None => true,
            };
            if passes {
                waits = Some(retry);
                continue;
            }
            error!(
                namespace = name,
                index = own,
                reason = retry.message,
                "the target has no such index: it can't be built. It is tried again at the next start"
            );
        }
        waits.map_or(Ok(()), Err)
    }

    fn may_pass(&self, namespace: &str, index: &str) -> bool {
        let mut unbuilt = self.unbuilt.lock().unwrap_or_else(PoisonError::into_inner);
        let since =
            unbuilt.entry((namespace.to_owned(), index.to_owned())).or_insert_with(Instant::now);
        since.elapsed() < PATIENCE
    }

    async fn build(
        &self,
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
}

/// What a name stands for in a database; `None` where there is no such thing.
pub(super) async fn kind(database: &Database, name: &str) -> Result<Option<String>, Retry> {
    let command = doc! { "listCollections": 1, "filter": { "name": name }, "nameOnly": true };
    let found = all(database, command).await.map_err(|error| answer::refusal(&error))?;
    Ok(found.first().map(|found| found.get_str("type").unwrap_or("collection").to_owned()))
}

async fn indexes(database: &Database, collection: &str) -> Result<Vec<Document>, Retry> {
    match all(database, doc! { "listIndexes": collection }).await {
        Ok(found) => Ok(found),
        Err(error) if answer::code(&error) == Some(NOT_FOUND) => Ok(Vec::new()),
        Err(error) => Err(answer::refusal(&error)),
    }
}

async fn all(
    database: &Database,
    command: Document,
) -> Result<Vec<Document>, mongodb::error::Error> {
    database.run_cursor_command(command).await?.try_collect().await
}

/// An index as `createIndexes` takes it; `None` for those that come with the collection.
fn to_build(mut index: Document, collated: bool) -> Option<Document> {
    if index.get_str("name").is_ok_and(|name| name == "_id_") || index.contains_key("clustered") {
        return None;
    }
    for other in ["ns", "background", "prepareUnique"] {
        index.remove(other);
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
        assert_eq!(to_build(old, false), Some(sku.clone()));
        let mut simple = sku.clone();
        simple.insert("collation", doc! { "locale": "simple" });
        assert_eq!(to_build(sku, true), Some(simple));
        let german = doc! { "key": { "a": 1 }, "name": "a_1", "collation": { "locale": "de" } };
        assert_eq!(to_build(german.clone(), true), Some(german));
        for own in [
            doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" },
            doc! { "v": 2, "key": { "_id": 1 }, "name": "by id", "unique": true, "clustered": true },
        ] {
            assert_eq!(to_build(own, true), None);
        }
    }
}
