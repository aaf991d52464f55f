//! The checkpoint store in MongoDB: a collection a table, in the source or in a database of its own.
//!
//! Needs MongoDB 6.0 and rights to read and write one database, no transactions, and so a replica
//! set, a sharded cluster or a standalone server alike.
//!
//! # A record
//! `{_id, name, key: [texts], epoch, v}`. `_id` is a string: the parts of `name` and key as
//! [`super::sort_key`] bytes, a character a byte. Not a Binary, which MongoDB orders by length before
//! content, and not a sub-document, which has no ranges by prefix. `name` and `key` are for people.
//!
//! # The fence
//! A write replaces its record by `_id` **and** "epoch not above mine"; where the record has a newer
//! epoch the upsert collides with it (11000). That guards records the new holder has written. For
//! the others, taking the lease goes through three steps, kept in `fences`:
//!
//! 1. `epoch` of the name is raised to the new one;
//! 2. in `positions`, `copies` and `facts`, which are small, every valid record is stamped with the
//!    new epoch, and what is older than the last completed takeover is removed;
//! 3. `floor` is raised to the new epoch.
//!
//! A record of these tables is valid from the last `floor` on, and a holder reads nothing older.
//! So what a shut-out process still sends finds its record stamped; and a record that was not there
//! at the stamping, which it can insert, is not seen by anybody who holds the lease, ever. After
//! each write a process looks at `fences` before it takes the write as done. Had it been shut out
//! by then, it says `LostLease`; else the stamping came later and found what it wrote. To look only
//! after an insert would not do: a call whose answer was lost may have inserted what the next one
//! finds.
//!
//! `places` and `dead_letters` may have a record a document and are not stamped. The look at
//! `fences` sees to it that a process never *acts* on a write that came late. What such a write
//! leaves behind is a place that is cleaned although nothing was put there, or whose a place is that
//! its document has left, which counts for nothing, or a dead letter of a
//! document that has since gone through and is settled by its next success; a late removal is of
//! something that the same process had seen settled in the target. Records that the new holder has
//! written are guarded by their epoch there too: whose places are that a document keeps, and that the
//! last process may have been about to trim, is written again before it is relied on.
//!
//! Transactions would do with less, but one that a killed process leaves open holds its records
//! for a minute, and the next holder has ten seconds.

mod batch;
mod failure;
mod ids;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use ::mongodb::{
    Client, Collection, Database,
    options::{
        Acknowledgment, CollectionOptions, ReadConcern, ReturnDocument, SelectionCriteria,
        WriteConcern,
    },
};
use async_trait::async_trait;
use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc, error::Error as BsonError};
use futures_util::{TryStreamExt, future::join_all};

use self::{
    batch::{Batch, Reply},
    failure::{Failure, TRIES},
};
use super::{
    memory::too_large,
    store::{MAX_VALUE, RecordKey, Store, StoreError, Table, Write},
};

/// How long the server may take to make a write durable, within the time that [`failure::retry`]
/// gives the call as a whole.
const DURABLE_WITHIN: std::time::Duration = std::time::Duration::from_secs(8);
/// What is not made within this comes with its first record: who takes the lease waits no longer.
const MADE_WITHIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Records in collections of one MongoDB database.
pub struct MongoStore {
    database: Database,
    name: String,
    place: String,
    epoch: AtomicU64,
}

/// Tables whose records are all stamped when the lease is taken.
fn is_stamped(table: Table) -> bool {
    match table {
        Table::Positions | Table::Copies | Table::Facts => true,
        Table::Places | Table::DeadLetters | Table::Leases => false,
    }
}

impl MongoStore {
    /// Where each name's epoch and floor are kept: `{_id: name, epoch, floor}`.
    pub const FENCES: &str = "fences";

    /// The store of `name` in `database`. Waits for nothing and makes nothing; collections are made when
    /// the lease is taken for the first time. The client's own read and write concerns, and its read preference,
    /// are not used: writes are journaled by a majority, reads are majority reads of the primary.
    pub fn open(client: &Client, database: &str, name: &str) -> Self {
        Self {
            database: client.database(database),
            name: name.to_owned(),
            place: format!("in the MongoDB database {database:?}"),
            epoch: AtomicU64::new(0),
        }
    }

    fn epoch(&self) -> i64 {
        signed(self.epoch.load(Ordering::SeqCst))
    }

    fn lost(&self) -> StoreError {
        StoreError::LostLease { name: self.name.clone() }
    }

    fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::majority())
            .selection_criteria(SelectionCriteria::ReadPreference(
                ::mongodb::options::ReadPreference::Primary,
            ))
            .write_concern(
                WriteConcern::builder()
                    .w(Acknowledgment::Majority)
                    .journal(true)
                    .w_timeout(DURABLE_WITHIN)
                    .build(),
            )
            .build();
        self.database.collection_with_options(name, options)
    }

    fn id(&self, key: &RecordKey) -> String {
        ids::id(&self.name, key)
    }

    /// What this handle may see of a table, as a filter on top of `_id`.
    fn visible(&self, table: Table, id: impl Into<Bson>) -> Document {
        let mut filter = doc! { "_id": id.into() };
        if is_stamped(table) {
            filter.insert("epoch", doc! { "$not": { "$lt": self.epoch() } });
        }
        filter
    }

    fn value(&self, table: Table, record: &RawDocument) -> Result<RawDocumentBuf, StoreError> {
        record.get_document("v").map(RawDocument::to_owned).map_err(|error| {
            let what = format!("holds a damaged record in `{}`: {error}", table.as_str());
            StoreError::broken(&self.place, what)
        })
    }

    fn damaged(&self, error: &BsonError) -> StoreError {
        StoreError::broken(&self.place, format!("holds a damaged record: {error}"))
    }

    fn in_words(&self, failure: Failure) -> StoreError {
        failure.in_words(&self.place)
    }

    /// Records in key order, of which `projection` is read; see [`Store::scan`].
    async fn scanned(
        &self,
        table: Table,
        (prefix, after): (&RecordKey, Option<&RecordKey>),
        limit: usize,
        projection: Document,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
        // MongoDB takes a limit of nothing for no limit.
        let Some(limit) = i64::try_from(limit).ok().filter(|limit| *limit > 0) else {
            return Ok(Vec::new());
        };
        let collection = self.collection(table.as_str());
        let mut range = ids::range(&self.name, prefix);
        if let Some(after) = after {
            range.insert("$gt", self.id(after));
        }
        let records = failure::retry(|| async {
            let find = collection.find(self.visible(table, range.clone()));
            let find = find.projection(projection.clone()).sort(doc! { "_id": 1 }).limit(limit);
            find.await?.try_collect::<Vec<_>>().await
        })
        .await
        .map_err(|failure| self.in_words(failure))?;
        let read = |record: RawDocumentBuf| {
            let id = record.get_str("_id").map_err(|error| self.damaged(&error))?;
            let key = ids::key(id).ok_or_else(|| {
                StoreError::broken(&self.place, format!("holds a damaged key: {id:?}"))
            })?;
            Ok((key, record))
        };
        records.into_iter().map(read).collect()
    }

    /// Fails with `LostLease` where a newer epoch than ours has been taken.
    async fn check_epoch(&self) -> Result<(), StoreError> {
        let fences = self.collection(Self::FENCES);
        let found = failure::retry(|| fences.find_one(doc! { "_id": &self.name }).into_future())
            .await
            .map_err(|failure| self.in_words(failure))?;
        let newest = match found {
            Some(fence) => fence.get_i64("epoch").map_err(|error| self.damaged(&error))?,
            None => 0,
        };
        if newest > self.epoch() { Err(self.lost()) } else { Ok(()) }
    }

    /// Sends one batch until it is through or someone else's epoch is in the way.
    async fn send(&self, table: Table, batch: Batch) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let reply = failure::retry(|| async {
                let reply = self.database.run_raw_command(batch.command(DURABLE_WITHIN)).await?;
                Reply::read(&reply)
            })
            .await
            .map_err(|failure| self.in_words(failure))?;
            if table.is_fenced() {
                self.check_epoch().await?;
            }
            // Nobody is ahead of us, so it was another write of ours that came between.
            if !reply.collided {
                return Ok(());
            }
        }
        let what = format!("holds a record in `{}` of an epoch that nobody took", table.as_str());
        Err(StoreError::broken(&self.place, what))
    }

    /// Makes the collections that every run writes to and that are not there, side by side. Each would
    /// come with its first record too, but one behind the other, and a start waits for each. What can't be
    /// made now comes so.
    async fn make_missing(&self) {
        let listed = failure::retry(|| self.database.list_collection_names().into_future()).await;
        let Ok(known) = listed else { return };
        let stamped = Table::ALL.into_iter().filter(|table| is_stamped(*table));
        let missing: Vec<_> = stamped
            .map(Table::as_str)
            .chain([Self::FENCES, Table::Leases.as_str()])
            .filter(|table| !known.iter().any(|known| known == table))
            .collect();
        let make =
            |table| failure::retry(move || self.database.create_collection(table).into_future());
        let all = join_all(missing.into_iter().map(make));
        let _ = tokio::time::timeout(MADE_WITHIN, all).await;
    }

    /// Has the valid records of a table bear an epoch, and removes the others.
    async fn stamp(&self, table: Table, floor: i64, mine: i64) -> Result<(), StoreError> {
        let collection = self.collection(table.as_str());
        let all = ids::range(&self.name, &RecordKey(Vec::new()));
        let old = doc! { "_id": &all, "epoch": { "$lt": floor } };
        failure::retry(|| collection.delete_many(old.clone()).into_future())
            .await
            .map_err(|failure| self.in_words(failure))?;
        // Newer ones stay as they are: this process may itself be shut out by now.
        let valid = doc! {
            "_id": &all,
            "$nor": [{ "epoch": { "$lt": floor } }, { "epoch": { "$gte": mine } }],
        };
        let stamp = doc! { "$set": { "epoch": mine } };
        failure::retry(|| collection.update_many(valid.clone(), stamp.clone()).into_future())
            .await
            .map_err(|failure| self.in_words(failure))?;
        Ok(())
    }

    fn entry(&self, batch: &mut Vec<Batch>, write: &Write) -> Result<(), StoreError> {
        let Write { table, key, value } = write;
        let epoch = table.is_fenced().then(|| self.epoch());
        if let Some(value) = value
            && value.as_bytes().len() > MAX_VALUE
        {
            return Err(StoreError::broken(&self.place, too_large(value)));
        }
        let entry = batch::Entry { id: self.id(key), name: &self.name, key, epoch };
        Batch::add(batch, *table, &entry, value.as_deref());
        Ok(())
    }
}

fn signed(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

#[async_trait]
impl Store for MongoStore {
    fn place(&self) -> &str {
        &self.place
    }

    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        let collection = self.collection(table.as_str());
        let found =
            failure::retry(|| collection.find_one(self.visible(table, self.id(key))).into_future())
                .await
                .map_err(|failure| self.in_words(failure))?;
        found.map(|record| self.value(table, &record)).transpose()
    }

    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
        let collection = self.collection(table.as_str());
        let ids: Vec<String> = keys.iter().map(|key| self.id(key)).collect();
        let mut found = HashMap::with_capacity(ids.len());
        for some in ids.chunks(batch::MAX_ENTRIES) {
            let records = failure::retry(|| async {
                let filter = self.visible(table, doc! { "$in": some });
                collection.find(filter).await?.try_collect::<Vec<_>>().await
            })
            .await
            .map_err(|failure| self.in_words(failure))?;
            for record in records {
                let id = record.get_str("_id").map_err(|error| self.damaged(&error))?;
                found.insert(id.to_owned(), self.value(table, &record)?);
            }
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
        let records = self.scanned(table, (prefix, after), limit, doc! {}).await?;
        let read = |(key, record): (_, RawDocumentBuf)| Ok((key, self.value(table, &record)?));
        records.into_iter().map(read).collect()
    }

    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError> {
        let records = self.scanned(table, (prefix, after), limit, doc! { "_id": 1 }).await?;
        Ok(records.into_iter().map(|(key, _)| key).collect())
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        if self.epoch() == 0 && writes.iter().any(|write| write.table.is_fenced()) {
            return Err(self.lost());
        }
        let mut batches = Vec::new();
        for write in &writes {
            self.entry(&mut batches, write)?;
        }
        drop(writes);
        for batch in batches {
            self.send(batch.table(), batch).await?;
        }
        Ok(())
    }

    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError> {
        let leases = self.collection(Table::Leases.as_str());
        let id = self.id(key);
        let document =
            |raw| Document::try_from(raw).map_err(|error: BsonError| self.damaged(&error));
        let value = document(new)?;
        let swapped = match expected {
            Some(expected) => {
                let filter = doc! { "_id": id, "v": { "$eq": document(expected)? } };
                let update = doc! { "$set": { "v": value } };
                failure::retry(|| leases.update_one(filter.clone(), update.clone()).into_future())
                    .await
                    .map(|done| done.matched_count == 1)
            }
            None => {
                self.make_missing().await;
                let texts = batch::texts(key);
                let record = doc! { "_id": id, "name": &self.name, "key": texts, "v": value };
                let record = RawDocumentBuf::try_from(&record).map_err(|e| self.damaged(&e))?;
                match failure::retry(|| leases.insert_one(&record).into_future()).await {
                    Err(Failure::Duplicate) => Ok(false),
                    other => other.map(|_| true),
                }
            }
        };
        if swapped.map_err(|failure| self.in_words(failure))? {
            return Ok(true);
        }
        Ok(self.get(Table::Leases, key).await?.as_deref() == Some(new))
    }

    async fn fence(&self, epoch: u64) -> Result<(), StoreError> {
        let mine = signed(epoch);
        let fences = self.collection(Self::FENCES).clone_with_type::<Document>();
        let raised = failure::retry(|| {
            let own = doc! { "_id": &self.name, "epoch": { "$not": { "$gt": mine } } };
            fences
                .find_one_and_update(own, doc! { "$set": { "epoch": mine } })
                .upsert(true)
                .return_document(ReturnDocument::After)
                .into_future()
        })
        .await;
        let fence = match raised {
            Err(Failure::Duplicate) => return Err(self.lost()),
            other => other.map_err(|failure| self.in_words(failure))?,
        };
        let floor = fence.and_then(|fence| fence.get_i64("floor").ok()).unwrap_or(0);
        let stamped = Table::ALL.into_iter().filter(|table| is_stamped(*table));
        // All of them end before one that failed is tried again: what is left behind on its way could
        // stamp what was written since.
        let stamps = join_all(stamped.map(|table| self.stamp(table, floor, mine))).await;
        stamps.into_iter().collect::<Result<(), _>>()?;
        let done = failure::retry(|| {
            let own = doc! { "_id": &self.name, "epoch": mine };
            fences.update_one(own, doc! { "$set": { "floor": mine } }).into_future()
        })
        .await
        .map_err(|failure| self.in_words(failure))?;
        if done.matched_count == 0 {
            return Err(self.lost());
        }
        self.epoch.store(epoch, Ordering::SeqCst);
        Ok(())
    }
}
