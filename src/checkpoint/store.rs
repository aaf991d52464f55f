//! What a checkpoint store must do; `mongodb`, `file` and `memory` do it.
//!
//! Stands at the end of the way back: positions, copy progress, places, dead letters and leases are
//! kept here and nowhere else. A store knows nothing of what the values mean.

use std::error::Error;

use async_trait::async_trait;
use bson::{RawDocument, RawDocumentBuf};

/// The largest value that a store takes, in bytes. Under MongoDB's 16 MiB a document, with room for
/// the key and for the command around it.
pub const MAX_VALUE: usize = 12 << 20;

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
    /// Who works under a name, and what other processes ask of the one who does. Not under the
    /// epoch: it is what hands the epoch out, and who asks has none.
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

    /// Whether only the holder of the lease may write.
    pub fn is_fenced(self) -> bool {
        !matches!(self, Self::Leases)
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
        source: Box<dyn Error + Send + Sync>,
    },
    /// This process does not hold the lease: nothing was written that anyone will see, and it must
    /// stop writing.
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

impl StoreError {
    /// The same call may go through later.
    pub fn unavailable(place: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable { place: place.to_owned(), source: source.into() }
    }

    /// A person must act. `what` ends the sentence "the checkpoint store PLACE …".
    pub fn broken(place: &str, what: impl Into<String>) -> Self {
        Self::Broken { place: place.to_owned(), what: what.into() }
    }

    /// Whether the same call may go through later.
    pub fn passes(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::LostLease { .. } | Self::Broken { .. } => false,
        }
    }
}

/// Keeps records, durably.
///
/// # Contract
/// - `write` returns once everything is durable (majority and journal, or synced to disk). Where it
///   fails, a part may have been written; all writes are idempotent, so it is called again with
///   the same or newer values. What one call removes from a table and what it puts there is done each
///   in order, first that which comes first, so that of a process that is killed a first part is done;
///   a key occurs at most once in it. A value has at most [`MAX_VALUE`] bytes.
/// - A handle writes under the epoch that it was given with `fence`, to `Leases` without one. Once
///   another handle has been given a newer epoch, this one's writes answer `LostLease` and are
///   never seen by the other, not even by way of a record that was not there before; so do those
///   of a handle that was never given one. (What MongoDB can't promise of `Places` and
///   `DeadLetters`, and why that is harmless, stands in [`super::mongodb`].)
/// - What was acknowledged before `fence` returned is seen by the handle that called it, and reads
///   see what `write` acknowledged.
/// - All of it is under one `name`, the rule file's: two names never meet.
/// - Every call may be dropped at any moment; its fate is then unknown, as after `Unavailable`.
/// - Calls try again by themselves only for some seconds. The caller decides how long to go on.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where it is, for people, without secrets.
    fn place(&self) -> &str;

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

    /// The same without the values, which may be large.
    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError>;

    /// Writes records.
    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Sets a record of `Leases` to `new` if it is `expected` now (`None`: not there), durably, and
    /// says whether it did.
    ///
    /// `new` is a value that this key never had before: after a call of unknown fate the record
    /// being `new` means that the call went through, and the answer is yes.
    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError>;

    /// From now on this handle writes under `epoch`, which is above zero, and handles with an older
    /// one are shut out. May be repeated.
    ///
    /// # Errors
    /// `LostLease` where a newer epoch has been here.
    async fn fence(&self, epoch: u64) -> Result<(), StoreError>;
}
