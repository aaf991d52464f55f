//! A checkpoint store that forgets everything with the process: for `--dry-run`, which must leave
//! no trace, and for tests of what stands on a store.
//!
//! Not a choice of the rule file: a run that forgot its positions would copy again at each start.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bson::{RawDocument, RawDocumentBuf};

use super::store::{MAX_VALUE, RecordKey, Store, StoreError, Table, Write};

const PLACE: &str = "in memory";

/// Records in memory. Several handles may share them, as several processes share a real store.
pub struct MemoryStore {
    name: String,
    data: Arc<Mutex<Data>>,
    epoch: AtomicU64,
    reachable: AtomicBool,
}

#[derive(Default)]
struct Data {
    records: BTreeMap<(Table, RecordKey), RawDocumentBuf>,
    epoch: u64,
}

impl Data {
    fn range<'a>(
        &'a self,
        table: Table,
        prefix: &'a RecordKey,
        after: Option<&RecordKey>,
    ) -> impl Iterator<Item = (&'a RecordKey, &'a RawDocumentBuf)> + use<'a> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded((table, after.clone())),
            _ => Bound::Included((table, prefix.clone())),
        };
        self.records
            .range((start, Bound::Unbounded))
            .take_while(move |((of, key), _)| *of == table && key.0.starts_with(&prefix.0))
            .map(|((_, key), value)| (key, value))
    }
}

impl MemoryStore {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self::over(name.to_owned(), Arc::default())
    }

    fn over(name: String, data: Arc<Mutex<Data>>) -> Self {
        Self { name, data, epoch: AtomicU64::new(0), reachable: AtomicBool::new(true) }
    }

    /// A second handle on the same records, with no epoch yet.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::over(self.name.clone(), Arc::clone(&self.data))
    }

    /// While this is off, every call through this handle fails as it does with a store that is
    /// away.
    pub fn set_reachable(&self, reachable: bool) {
        self.reachable.store(reachable, Ordering::SeqCst);
    }

    fn data(&self) -> Result<MutexGuard<'_, Data>, StoreError> {
        if !self.reachable.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable(PLACE, "it was made unreachable"));
        }
        Ok(self.data.lock().expect("nothing panics while it holds the records"))
    }

    fn lost(&self) -> StoreError {
        StoreError::LostLease { name: self.name.clone() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn place(&self) -> &str {
        PLACE
    }

    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        Ok(self.data()?.records.get(&(table, key.clone())).cloned())
    }

    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
        let data = self.data()?;
        Ok(keys.iter().map(|key| data.records.get(&(table, key.clone())).cloned()).collect())
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
        let data = self.data()?;
        let found = data.range(table, prefix, after).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError> {
        let data = self.data()?;
        let found = data.range(table, prefix, after).take(limit);
        Ok(found.map(|(key, _)| key.clone()).collect())
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mine = self.epoch.load(Ordering::SeqCst);
        let mut data = self.data()?;
        let fenced = writes.iter().any(|write| write.table.is_fenced());
        if fenced && (mine == 0 || data.epoch > mine) {
            return Err(self.lost());
        }
        for Write { table, key, value } in writes {
            match value {
                Some(value) if value.as_bytes().len() > MAX_VALUE => {
                    return Err(StoreError::broken(PLACE, too_large(&value)));
                }
                Some(value) => data.records.insert((table, key), value),
                None => data.records.remove(&(table, key)),
            };
        }
        Ok(())
    }

    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError> {
        let mut data = self.data()?;
        let key = (Table::Leases, key.clone());
        let present = data.records.get(&key).map(|value| &**value);
        if present == Some(new) {
            return Ok(true);
        }
        let same = present == expected;
        if same {
            data.records.insert(key, new.to_owned());
        }
        Ok(same)
    }

    async fn fence(&self, epoch: u64) -> Result<(), StoreError> {
        let mut data = self.data()?;
        if data.epoch > epoch {
            return Err(self.lost());
        }
        data.epoch = epoch;
        self.epoch.store(epoch, Ordering::SeqCst);
        Ok(())
    }
}

/// The words for a value over [`MAX_VALUE`], the same for all stores.
pub(super) fn too_large(value: &RawDocument) -> String {
    format!("takes records of up to {MAX_VALUE} bytes, and one has {}", value.as_bytes().len())
}
