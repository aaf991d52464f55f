//! A checkpoint store of one's own: a file to which each change is appended, for one process.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    ops::Bound,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mongodb::bson::{
    Binary, Bson, Document, RawDocument, RawDocumentBuf, deserialize_from_reader, doc,
    serialize_to_vec, spec::BinarySubtype,
};
use mongosync::checkpoint::store::{MAX_VALUE, RecordKey, Store, StoreError, Table, Write};

type Records = BTreeMap<(Table, RecordKey), RawDocumentBuf>;

/// Records in memory, each change of which is in the file before it counts.
///
/// Handles of one file share it, as the one that works does with one that has lost the lease.
pub struct LogStore {
    place: String,
    log: Arc<Mutex<Log>>,
    /// Under which this handle writes; 0 is none.
    epoch: AtomicU64,
}

struct Log {
    records: Records,
    file: File,
    epoch: u64,
}

impl LogStore {
    /// Opens the file, or makes it. What a process that died left of its last change is dropped.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut records = Records::new();
        if let Ok(bytes) = fs::read(path) {
            let mut rest = bytes.as_slice();
            while let Ok(change) = deserialize_from_reader::<_, Document>(&mut rest) {
                let Some((place, value)) = read(&change) else { break };
                match value {
                    Some(value) => records.insert(place, value),
                    None => records.remove(&place),
                };
            }
        }
        // Written anew, it holds each record once.
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        for ((table, key), value) in &records {
            file.write_all(&line(*table, key, Some(value))?)?;
        }
        file.sync_all()?;
        fs::rename(&new, path)?;
        let log = Log { records, file, epoch: 0 };
        Ok(Self::over(path.display().to_string(), Arc::new(Mutex::new(log))))
    }

    fn over(place: String, log: Arc<Mutex<Log>>) -> Self {
        Self { place, log, epoch: AtomicU64::new(0) }
    }

    /// A second handle, with no epoch yet.
    pub fn another(&self) -> Self {
        Self::over(self.place.clone(), self.log.clone())
    }

    /// Does something with the log where it may wait for the disk. Goes on where nobody waits for it.
    async fn on_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let log = self.log.clone();
        let locked = move || work(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::task::spawn_blocking(locked).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Fault::Lost)) => Err(StoreError::LostLease { name: self.place.clone() }),
            Ok(Err(Fault::TooLarge)) => {
                let what = format!("takes records of up to {MAX_VALUE} bytes");
                Err(StoreError::broken(&self.place, what))
            }
            Ok(Err(Fault::Disk(error))) => Err(StoreError::unavailable(&self.place, error)),
            Err(panic) => Err(StoreError::unavailable(&self.place, panic)),
        }
    }
}

enum Fault {
    Lost,
    TooLarge,
    Disk(io::Error),
}

impl Log {
    /// What lies below a prefix, behind a key.
    fn range<'a>(
        &'a self,
        table: Table,
        prefix: &'a RecordKey,
        after: Option<RecordKey>,
    ) -> impl Iterator<Item = (&'a RecordKey, &'a RawDocumentBuf)> {
        let start = match after {
            Some(after) if after >= *prefix => Bound::Excluded((table, after)),
            _ => Bound::Included((table, prefix.clone())),
        };
        let below =
            move |(of, key): &(Table, RecordKey)| *of == table && key.0.starts_with(&prefix.0);
        let range = self.records.range((start, Bound::Unbounded));
        range.take_while(move |(place, _)| below(place)).map(|((_, key), value)| (key, value))
    }

    /// Durable once it returns. Where it fails, what is in the file of it counts after the next start:
    /// a write that is not acknowledged may have happened.
    fn write(&mut self, writes: Vec<Write>) -> Result<(), Fault> {
        let mut lines = Vec::new();
        for Write { table, key, value } in &writes {
            if value.as_ref().is_some_and(|value| value.as_bytes().len() > MAX_VALUE) {
                return Err(Fault::TooLarge);
            }
            lines.extend(line(*table, key, value.as_deref()).map_err(Fault::Disk)?);
        }
        let before = self.file.metadata().map_err(Fault::Disk)?.len();
        let written = self.file.write_all(&lines).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // So that the next change does not stand behind half of this one.
            let _ = self.file.set_len(before);
            return Err(Fault::Disk(error));
        }
        for Write { table, key, value } in writes {
            match value {
                Some(value) => self.records.insert((table, key), value),
                None => self.records.remove(&(table, key)),
            };
        }
        Ok(())
    }
}

/// A change as it stands in the file: BSON, which says itself where it ends.
fn line(table: Table, key: &RecordKey, value: Option<&RawDocument>) -> io::Result<Vec<u8>> {
    let part = |part: &Vec<u8>| Binary { subtype: BinarySubtype::Generic, bytes: part.clone() };
    let key: Vec<Bson> = key.0.iter().map(|key| Bson::Binary(part(key))).collect();
    let value = value
        .map(|value| Binary { subtype: BinarySubtype::Generic, bytes: value.as_bytes().to_vec() });
    serialize_to_vec(&doc! { "table": table.as_str(), "key": key, "value": value })
        .map_err(io::Error::other)
}

/// Which record a line of the file changes, and to what.
fn read(change: &Document) -> Option<((Table, RecordKey), Option<RawDocumentBuf>)> {
    let table = change.get_str("table").ok()?;
    let table = Table::ALL.into_iter().find(|known| known.as_str() == table)?;
    let bytes = |value: &Bson| match value {
        Bson::Binary(binary) => Some(binary.bytes.clone()),
        _ => None,
    };
    let key = change.get_array("key").ok()?.iter().map(bytes).collect::<Option<_>>()?;
    let value = bytes(change.get("value")?);
    let value = value.map(RawDocumentBuf::from_bytes).transpose().ok()?;
    Some(((table, RecordKey(key)), value))
}

#[async_trait::async_trait]
impl Store for LogStore {
    fn place(&self) -> &str {
        &self.place
    }

    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        let place = (table, key.clone());
        self.on_log(move |log| Ok(log.records.get(&place).cloned())).await
    }

    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
        let keys = keys.to_vec();
        self.on_log(move |log| {
            Ok(keys.into_iter().map(|key| log.records.get(&(table, key)).cloned()).collect())
        })
        .await
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.on_log(move |log| {
            let found = log.range(table, &prefix, after).take(limit);
            Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
        })
        .await
    }

    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        self.on_log(move |log| {
            Ok(log.range(table, &prefix, after).take(limit).map(|(key, _)| key.clone()).collect())
        })
        .await
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mine = self.epoch.load(Ordering::SeqCst);
        self.on_log(move |log| {
            let fenced = writes.iter().any(|write| write.table.is_fenced());
            if fenced && (mine == 0 || log.epoch > mine) {
                return Err(Fault::Lost);
            }
            log.write(writes)
        })
        .await
    }

    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError> {
        let (key, new) = (key.clone(), new.to_owned());
        let expected = expected.map(RawDocument::to_owned);
        self.on_log(move |log| {
            let table = Table::Leases;
            let present = log.records.get(&(table, key.clone()));
            if present == Some(&new) {
                return Ok(true);
            }
            let same = present == expected.as_ref();
            if same {
                log.write(vec![Write { table, key, value: Some(new) }])?;
            }
            Ok(same)
        })
        .await
    }

    async fn fence(&self, epoch: u64) -> Result<(), StoreError> {
        self.on_log(move |log| {
            if log.epoch > epoch {
                return Err(Fault::Lost);
            }
            log.epoch = epoch;
            Ok(())
        })
        .await?;
        self.epoch.store(epoch, Ordering::SeqCst);
        Ok(())
    }
}
