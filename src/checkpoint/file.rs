//! The checkpoint store in a folder of this host: one SQLite database a name, for a source that may
//! only be read.
//!
//! Every write is one transaction that first looks at the epoch, so the fence has no gaps. Other
//! processes of the host may open the same file, to read or to stand by; of other hosts it knows
//! nothing, and the folder must not be shared over a network.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bson::{RawDocument, RawDocumentBuf};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::{
    memory::too_large,
    sort_key,
    store::{MAX_VALUE, RecordKey, Store, StoreError, Table, Write},
};

/// How the tables are laid out; a database with another number is not touched.
const LAYOUT: i64 = 1;
/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);

/// Records in a SQLite database.
pub struct FileStore {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    place: String,
    /// Apart, so that reading does not wait for the disk to take a write.
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    epoch: AtomicU64,
}

/// What can go wrong inside a transaction.
enum Failure {
    Sqlite(rusqlite::Error),
    Lost,
    Broken(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl FileStore {
    /// The file of `name` in `folder`.
    pub fn path(folder: &Path, name: &str) -> PathBuf {
        folder.join(file_name(name))
    }

    /// Opens the database of `name` in `folder`; makes both where they are missing, the folder for
    /// the user alone.
    ///
    /// # Errors
    /// `Unavailable` where the disk is full or the folder can't be made, `Broken` where the file is
    /// damaged, is no database, or belongs to another name or a newer version.
    pub async fn open(folder: impl Into<PathBuf>, name: &str) -> Result<Self, StoreError> {
        let (folder, name) = (folder.into(), name.to_owned());
        run_blocking(move || Self::open_now(&folder, name)).await
    }

    fn open_now(folder: &Path, name: String) -> Result<Self, StoreError> {
        let path = Self::path(folder, &name);
        let place = path.display().to_string();
        make_folder(folder).map_err(|error| StoreError::unavailable(&place, error))?;
        let connect = || -> Result<(Connection, Connection), Failure> {
            let mut writer = connect(&path)?;
            lay_out(&mut writer, &name)?;
            Ok((writer, connect_reader(&path)?))
        };
        let (writer, reader) = connect().map_err(|failure| in_words(failure, &place, &name))?;
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                place,
                writer: Mutex::new(writer),
                reader: Mutex::new(reader),
                epoch: AtomicU64::new(0),
            }),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        run_blocking(move || {
            let connection = shared.reader.lock().expect("nothing panics while it reads");
            work(&connection).map_err(|failure| in_words(failure, &shared.place, &shared.name))
        })
        .await
    }

    /// Records in key order, of which `columns` are read, the key first; see [`Store::scan`].
    async fn scanned<T: Send + 'static>(
        &self,
        (table, columns): (Table, &'static str),
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
        read: impl Fn(RecordKey, &rusqlite::Row<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        let start = sort_key::encode(prefix);
        let after = after.map(sort_key::encode);
        let end = sort_key::end_of(prefix);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {columns} FROM {} WHERE key >= ?1 AND (?2 IS NULL OR key > ?2) \
                 AND (?3 IS NULL OR key < ?3) ORDER BY key LIMIT ?4",
                table.as_str()
            ))?;
            let from = after.as_ref().map_or(&start, |after| after.max(&start));
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut rows = statement.query(params![from, after, end, limit])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                let key = sort_key::decode(&key).ok_or_else(|| {
                    Failure::Broken(format!("holds a damaged key in `{}`", table.as_str()))
                })?;
                found.push(read(key, row)?);
            }
            Ok(found)
        })
        .await
    }

    /// One transaction, which has the database to itself from its first statement on.
    async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Transaction<'_>, &AtomicU64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        run_blocking(move || {
            let mut connection = shared.writer.lock().expect("nothing panics while it writes");
            let done = (|| {
                let transaction =
                    connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let done = work(&transaction, &shared.epoch)?;
                transaction.commit()?;
                Ok(done)
            })();
            done.map_err(|failure| in_words(failure, &shared.place, &shared.name))
        })
        .await
    }
}

/// Runs what waits for a disk apart from what must not wait. Dropping the future does not end it.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => Err(StoreError::unavailable("in a file", ended)),
        },
    }
}

/// `NAME.db`, with what a file system may not take as `%XX`.
fn file_name(name: &str) -> String {
    let mut file = String::with_capacity(name.len() + 3);
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => file.push(byte.into()),
            b'.' if index > 0 => file.push('.'),
            byte => file.push_str(&format!("%{byte:02X}")),
        }
    }
    file + ".db"
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect_reader(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    // Through to the disk at each commit: what is acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "fullfsync", true)?;
    Ok(connection)
}

fn lay_out(connection: &mut Connection, name: &str) -> Result<(), Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let layout: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match layout {
        0 => {
            for table in Table::ALL {
                transaction.execute_batch(&format!(
                    "CREATE TABLE {} (key BLOB PRIMARY KEY NOT NULL, value BLOB NOT NULL) \
                     WITHOUT ROWID",
                    table.as_str()
                ))?;
            }
            transaction.execute_batch(
                "CREATE TABLE fence (one INTEGER PRIMARY KEY CHECK (one = 1), \
                 name TEXT NOT NULL, epoch INTEGER NOT NULL)",
            )?;
            transaction.execute("INSERT INTO fence VALUES (1, ?1, 0)", [name])?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
        }
        LAYOUT => {
            let owner: String =
                transaction.query_row("SELECT name FROM fence", [], |row| row.get(0))?;
            if owner != name {
                return Err(Failure::Broken(format!("belongs to the name {owner:?}")));
            }
        }
        newer => {
            return Err(Failure::Broken(format!(
                "has layout {newer}, of another version of mongosync; this one knows {LAYOUT}"
            )));
        }
    }
    transaction.commit()?;
    Ok(())
}

fn in_words(failure: Failure, place: &str, name: &str) -> StoreError {
    match failure {
        Failure::Lost => StoreError::LostLease { name: name.to_owned() },
        Failure::Broken(what) => StoreError::broken(place, what),
        Failure::Sqlite(error) if lasts(error.sqlite_error_code()) => {
            StoreError::broken(place, format!("can't be used: {error}"))
        }
        Failure::Sqlite(error) => StoreError::unavailable(place, error),
    }
}

/// Whether it stays so until a person does something. What a disk or another process brings about
/// passes.
fn lasts(code: Option<ErrorCode>) -> bool {
    !matches!(
        code,
        Some(
            ErrorCode::DiskFull
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationAborted
                | ErrorCode::OperationInterrupted
        )
    )
}

fn value_of(table: Table, bytes: Vec<u8>) -> Result<RawDocumentBuf, Failure> {
    RawDocumentBuf::from_bytes(bytes).map_err(|error| {
        Failure::Broken(format!("holds a record in `{}` that is damaged: {error}", table.as_str()))
    })
}

fn get(
    connection: &Connection,
    table: Table,
    key: &RecordKey,
) -> Result<Option<RawDocumentBuf>, Failure> {
    let found: Option<Vec<u8>> = connection
        .prepare_cached(&format!("SELECT value FROM {} WHERE key = ?1", table.as_str()))?
        .query_row([sort_key::encode(key)], |row| row.get(0))
        .optional()?;
    found.map(|bytes| value_of(table, bytes)).transpose()
}

fn put(
    connection: &Connection,
    table: Table,
    key: &RecordKey,
    value: &RawDocument,
) -> Result<(), Failure> {
    if value.as_bytes().len() > MAX_VALUE {
        return Err(Failure::Broken(too_large(value)));
    }
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2)", table.as_str()))?
        .execute(params![sort_key::encode(key), value.as_bytes()])?;
    Ok(())
}

fn fenced_at(connection: &Connection) -> Result<u64, Failure> {
    Ok(connection.prepare_cached("SELECT epoch FROM fence")?.query_row([], |row| row.get(0))?)
}

#[async_trait]
impl Store for FileStore {
    fn place(&self) -> &str {
        &self.shared.place
    }

    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        let key = key.clone();
        self.read(move |connection| get(connection, table, &key)).await
    }

    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
        let keys = keys.to_vec();
        self.read(move |connection| {
            let snapshot = connection.unchecked_transaction()?;
            keys.iter().map(|key| get(&snapshot, table, key)).collect()
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
        let read = move |key, row: &rusqlite::Row<'_>| Ok((key, value_of(table, row.get(1)?)?));
        self.scanned((table, "key, value"), prefix, after, limit, read).await
    }

    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError> {
        self.scanned((table, "key"), prefix, after, limit, |key, _| Ok(key)).await
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.transact(move |transaction, epoch| {
            if writes.iter().any(|write| write.table.is_fenced()) {
                let mine = epoch.load(Ordering::SeqCst);
                if mine == 0 || fenced_at(transaction)? > mine {
                    return Err(Failure::Lost);
                }
            }
            for Write { table, key, value } in &writes {
                match value {
                    Some(value) => put(transaction, *table, key, value)?,
                    None => {
                        let delete = format!("DELETE FROM {} WHERE key = ?1", table.as_str());
                        transaction.prepare_cached(&delete)?.execute([sort_key::encode(key)])?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError> {
        let (key, expected, new) =
            (key.clone(), expected.map(RawDocument::to_owned), new.to_owned());
        self.transact(move |transaction, _| {
            let present = get(transaction, Table::Leases, &key)?;
            if present.as_ref() == Some(&new) {
                return Ok(true);
            }
            let same = present == expected;
            if same {
                put(transaction, Table::Leases, &key, &new)?;
            }
            Ok(same)
        })
        .await
    }

    async fn fence(&self, epoch: u64) -> Result<(), StoreError> {
        self.transact(move |transaction, mine| {
            let changed =
                transaction.execute("UPDATE fence SET epoch = ?1 WHERE epoch <= ?1", [epoch])?;
            if changed == 0 {
                return Err(Failure::Lost);
            }
            mine.store(epoch, Ordering::SeqCst);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
