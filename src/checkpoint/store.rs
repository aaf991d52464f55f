//! What a checkpoint store must do; `mongodb` and `file` do it.
//!
//! Stands at the end of the way back: positions, copy progress, places, dead letters and leases are
//! kept here and nowhere else. A store knows nothing of what the values mean.

use async_trait::async_trait;
use bson::RawDocumentBuf;

/// A kind of record. Each is a collection or a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Table {
    /// How far each target's change stream is settled.
    Positions,
    /// Plans and progress of copies.
    Copies,
    /// Where documents lie whose place is not a function of their key.
    Places,
    /// What was refused for good.
    DeadLetters,
    /// What is remembered of rules, of the source and of `_id` types.
    Facts,
    /// Who works under a name. Not under the epoch: it is what hands the epoch out.
    Leases,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 6] =
        [Self::Positions, Self::Copies, Self::Places, Self::DeadLetters, Self::Facts, Self::Leases];

    /// The collection's or table's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Positions => "positions",
            Self::Copies => "copies",
            Self::Places => "places",
            Self::DeadLetters => "dead_letters",
            Self::Facts => "facts",
            Self::Leases => "leases",
        }
    }
}

/// A record's name within its table: parts from the general to the special, such as target, rule,
/// namespace. Parts are free text or bytes; stores keep keys apart that differ in any part, and
/// order them part by part.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RecordKey(pub Vec<Vec<u8>>);

impl RecordKey {
    /// A key of text parts.
    pub fn text(parts: &[&str]) -> Self {
        Self(parts.iter().map(|part| part.as_bytes().to_vec()).collect())
    }

    /// The same key with one more part.
    #[must_use]
    pub fn with(mut self, part: impl Into<Vec<u8>>) -> Self {
        self.0.push(part.into());
        self
    }
}

/// One change to the store.
#[derive(Clone, Debug)]
pub struct Write {
    /// Which table.
    pub table: Table,
    /// Which record.
    pub key: RecordKey,
    /// The new value; `None` removes the record.
    pub value: Option<RawDocumentBuf>,
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached or is full; the same call may go through later.
    #[error("the checkpoint store {place} can't be used now")]
    Unavailable {
        /// Where it is, without secrets.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has taken the lease: nothing was written, and this one must stop writing.
    #[error("another process works under the name {name:?} now")]
    LostLease {
        /// The rule file's name.
        name: String,
    },
    /// What is stored can't be read, or the store refuses for good (rights, another version).
    #[error("the checkpoint store {place} {what}")]
    Broken {
        /// Where it is, without secrets.
        place: String,
        /// What is wrong, as the end of a sentence.
        what: String,
    },
}

/// Keeps records, durably.
///
/// # Contract
/// - `write` returns once everything is durable (majority and journal, or synced to disk). Where it
///   fails, any part may have been written; all writes are idempotent, so it is called again with
///   the same or newer values. Order among the writes of one call does not matter.
/// - Every write but those to `Leases` carries the epoch of the lease: a store whose lease has a
///   newer epoch writes nothing and answers `LostLease`.
/// - Reads see what `write` acknowledged.
/// - All of it is under one `name`, the rule file's: two names never meet.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One record.
    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError>;

    /// Several records of a table, in the order of the keys.
    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError>;

    /// Up to `limit` records whose keys begin with the parts of `prefix`, after the key `after`,
    /// in key order.
    async fn scan(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError>;

    /// Writes records.
    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError>;
}
