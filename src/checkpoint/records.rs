//! What is stored, as types: one a kind of record, with the version of its form.
//!
//! A record is BSON with a `version` first. The forms are pinned by `tests/checkpoint/vN.json`: a
//! form that changes gets a new version, and the old ones are read for as long as they are there.
//! A version from the future is an error and never read half. Keys stand in [`super::keys`].

use std::collections::BTreeMap;

use bson::{
    Binary, Bson, DateTime, RawDocument, RawDocumentBuf, Timestamp, Uuid,
    error::Error as BsonError, oid::ObjectId, rawdoc,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    chunks::ChunkSet,
    store::{RecordKey, Store, StoreError, Table, Write},
};
use crate::change::{ClusterTime, id::IdTypes};

/// The name of the field that holds the version.
const VERSION: &str = "version";
/// How many records are read at a time where all of a prefix are wanted.
const PAGE: usize = 1000;
/// The largest event that a dead letter carries, in bytes.
const MAX_EVENT: usize = 8 << 20;

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// Where it is kept.
    const TABLE: Table;
    /// What it is called in errors.
    const KIND: &'static str;
    /// The newest version of its form, and the one that is written.
    const VERSION: i32 = 1;

    /// The record as it is stored.
    fn encode(&self) -> RawDocumentBuf {
        let fields = bson::serialize_to_raw_document_buf(self)
            .expect("records hold nothing that BSON does not");
        let mut record = rawdoc! { "version": Self::VERSION };
        for field in fields.iter() {
            let (name, value) = field.expect("it was written just now");
            record.append(name, value);
        }
        record
    }

    /// Reads a stored record.
    ///
    /// # Errors
    /// `Broken`, where it has a newer version than this program knows, or is damaged. `place` is
    /// the store's.
    fn decode(stored: &RawDocument, place: &str) -> Result<Self, StoreError> {
        let damaged = |error: BsonError| {
            StoreError::broken(place, format!("holds {} that can't be read: {error}", Self::KIND))
        };
        let version = stored.get_i32(VERSION).map_err(damaged)?;
        if version < 1 || version > Self::VERSION {
            let (kind, newest) = (Self::KIND, Self::VERSION);
            return Err(StoreError::broken(
                place,
                format!(
                    "holds {kind} of version {version}, and this mongosync knows up to {newest}: \
                     it was written by a newer one"
                ),
            ));
        }
        Self::read(version, stored).map_err(damaged)
    }

    /// Reads a form that is known. To be written out by a kind that has more than one.
    ///
    /// # Errors
    /// Where fields are missing or of other types.
    fn read(_version: i32, stored: &RawDocument) -> Result<Self, BsonError> {
        bson::deserialize_from_slice(stored.as_bytes())
    }
}

/// Reads one record.
///
/// # Errors
/// As the store and [`Record::decode`] say.
pub async fn load<R: Record>(store: &dyn Store, key: &RecordKey) -> Result<Option<R>, StoreError> {
    let stored = store.get(R::TABLE, key).await?;
    stored.map(|stored| R::decode(&stored, store.place())).transpose()
}

/// Reads records, in the order of their keys here; `None` for what is not there.
///
/// # Errors
/// As the store and [`Record::decode`] say.
pub async fn load_many<R: Record>(
    store: &dyn Store,
    keys: &[RecordKey],
) -> Result<Vec<Option<R>>, StoreError> {
    let stored = store.get_many(R::TABLE, keys).await?;
    let decode = |stored: RawDocumentBuf| R::decode(&stored, store.place());
    stored.into_iter().map(|stored| stored.map(decode).transpose()).collect()
}

/// Reads up to `limit` records under a prefix, after a key, in key order.
///
/// # Errors
/// As the store and [`Record::decode`] say.
pub async fn page<R: Record>(
    store: &dyn Store,
    prefix: &RecordKey,
    after: Option<&RecordKey>,
    limit: usize,
) -> Result<Vec<(RecordKey, R)>, StoreError> {
    let stored = store.scan(R::TABLE, prefix, after, limit).await?;
    let decode = |(key, stored): (_, RawDocumentBuf)| Ok((key, R::decode(&stored, store.place())?));
    stored.into_iter().map(decode).collect()
}

/// Reads all records under a prefix, for tables of which there are few.
///
/// # Errors
/// As the store and [`Record::decode`] say.
pub async fn load_all<R: Record>(
    store: &dyn Store,
    prefix: &RecordKey,
) -> Result<Vec<(RecordKey, R)>, StoreError> {
    let mut all: Vec<(RecordKey, R)> = Vec::new();
    loop {
        let next = page(store, prefix, all.last().map(|(key, _)| key), PAGE).await?;
        let done = next.len() < PAGE;
        all.extend(next);
        if done {
            return Ok(all);
        }
    }
}

/// The write that sets a record.
pub fn put<R: Record>(key: RecordKey, record: &R) -> Write {
    Write { table: R::TABLE, key, value: Some(record.encode()) }
}

/// The write that takes a record out.
pub fn removal<R: Record>(key: RecordKey) -> Write {
    Write { table: R::TABLE, key, value: None }
}

/// How far a change stream is settled.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PositionRecord {
    /// Every change before this time is settled; a stream that starts at it misses nothing.
    #[serde(with = "timestamp")]
    pub time: ClusterTime,
    /// Where the stream goes on, more exactly than the time says: a transaction has one time for
    /// all of its events.
    pub token: Option<RawDocumentBuf>,
    /// The replica set's or sharded cluster's own id: the position holds for no other. `None` where
    /// the user may not read it.
    /// From version 2 on.
    #[serde(default)]
    pub source: Option<ObjectId>,
    /// Rules that the last run left out (`--rule`), each with its own position.
    pub behind: BTreeMap<String, Timestamp>,
    /// The host's clock when it was stored, for people.
    pub stored_at: DateTime,
}

/// How the copy of one namespace is cut up. Written once, before its first document is read.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CopyPlanRecord {
    /// Of this plan alone; progress under another one is void.
    pub id: Uuid,
    /// A time before the first document was read.
    #[serde(with = "timestamp")]
    pub started: ClusterTime,
    /// The collection that is copied: one that was dropped and made again has another.
    pub collection: Option<Uuid>,
    /// The `_id`s between chunks, ascending as MongoDB compares; one more chunk than bounds.
    pub bounds: Vec<Bson>,
    /// How many documents there were, as far as the server knew.
    pub expected: u64,
    /// Whether what the target holds from before `started` is removed once the copy is settled. From
    /// version 2 on.
    #[serde(default)]
    pub sweep: bool,
    /// Where in the target all of it lies, as it was when this was planned: a sweep holds for no other
    /// container. `None` where that depends on the documents. From version 2 on.
    #[serde(default)]
    pub container: Option<String>,
    /// Whether it was asked for, by a person or by what happened in the source; else its rule was
    /// new. From version 2 on.
    #[serde(default)]
    pub asked: bool,
    /// Whether there was no such collection any more: the plan only sweeps, and is forgotten then.
    /// From version 2 on.
    #[serde(default)]
    pub ended: bool,
    /// Of what the rule delivered when this was planned ([`RuleRecord::fingerprint`]): a copy that is
    /// not finished goes on by no other. `None` where it is not known. From version 2 on.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// What of a plan is done.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CopyProgressRecord {
    /// Whose progress it is: [`CopyPlanRecord::id`].
    pub plan: Uuid,
    /// Chunks of which every document is settled, by number from 0.
    pub done: ChunkSet,
    /// Documents in those chunks.
    pub documents: u64,
    /// Everything is settled and the target has been told.
    pub complete: bool,
    /// What was to be swept is swept. From version 2 on; before it nothing was.
    #[serde(default = "done")]
    pub swept: bool,
}

fn done() -> bool {
    true
}

/// What is remembered of a rule for one target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuleRecord {
    /// Of what the rule delivered when it was last copied.
    pub fingerprint: String,
    /// When the fingerprint was stored.
    pub since: DateTime,
    /// Where the rule's documents lie or have lain: names of containers, `*` for any text; of a
    /// version 1 it is not known. From version 2 on.
    #[serde(default = "anywhere")]
    pub containers: Vec<String>,
}

fn anywhere() -> Vec<String> {
    vec!["*".to_owned()]
}

/// What a target holds in some containers stays, unless its own document changes: the rule that
/// wrote it has left the file, or says `on_drop: keep`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeptRecord {
    /// What was written before this time.
    #[serde(with = "timestamp")]
    pub before: ClusterTime,
}

/// What has to be copied again or begins elsewhere, from when that is known until all of it is planned.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DemandRecord {
    /// Rules, by name.
    pub rules: Vec<String>,
    /// Namespaces of rules.
    pub parts: Vec<DemandedPart>,
    /// What led to it happened up to then.
    #[serde(with = "timestamp")]
    pub seen: ClusterTime,
    /// Whether the stored position is of no more use.
    pub lost: bool,
    /// Where the stream begins instead of there.
    pub seek: Option<Timestamp>,
}

/// One namespace of a rule that has to be copied again.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DemandedPart {
    /// The rule's name.
    pub rule: String,
    /// `db.collection`.
    pub namespace: String,
    /// Whether the target keeps what it holds of it from before.
    pub keep: bool,
}

/// Whose what is written to a target is: `_meta` of an index names it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// Of this target under this name in this store, and of no other.
    pub id: Uuid,
}

/// A container that is filled anew beside the one that is read, from when that is planned until it is
/// swapped in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReplacementRecord {
    /// Of this replacement alone; the target marks with it what it fills.
    pub id: Uuid,
    /// The name of a rule that writes to it.
    pub rule: String,
    /// When it was planned: the copies that fill it are not older.
    #[serde(with = "timestamp")]
    pub since: ClusterTime,
}

/// A target that somebody paused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PausedRecord {
    /// When.
    pub since: DateTime,
}

/// Whose documents lie in a container that has its name of a namespace alone, where several have that name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DefaultNameRecord {
    /// `db.collection`.
    pub namespace: String,
}

/// Which types of `_id` a collection has held.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct IdTypesRecord {
    /// What the first probe found, or the first `_id` that an empty collection met.
    pub types: IdTypes,
}

/// A document or event that was refused for good.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DeadLetterRecord {
    /// The target that it was for.
    pub target: String,
    /// The rule that it came by.
    pub rule: String,
    /// `db.collection`.
    pub namespace: String,
    /// The document key.
    pub key: RawDocumentBuf,
    /// The document key, for people.
    pub key_text: String,
    /// Where it was to be put, for people; `None` where it did not come so far.
    pub place: Option<String>,
    /// A short name for the kind of reason, such as `rejected`, `transform`, `too_large`.
    pub reason: String,
    /// The target's or the script's own words.
    pub words: String,
    /// When it was refused for the first time.
    pub first_seen: DateTime,
    /// When it was last refused.
    pub last_seen: DateTime,
    /// How often it was refused.
    pub attempts: u32,
    /// The time of the change that was refused; zero from the copy.
    #[serde(with = "timestamp")]
    pub cluster_time: ClusterTime,
    /// In `events` delivery, the event. See [`Self::keep_event`].
    pub event: Option<RawDocumentBuf>,
    /// Whether the document had been deleted: it is to leave the target, whatever `on_drop` says.
    /// Written only where it had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl DeadLetterRecord {
    /// Keeps the event with the letter, unless it is over 8 MiB; says whether it did.
    pub fn keep_event(&mut self, event: &RawDocument) -> bool {
        let fits = event.as_bytes().len() <= MAX_EVENT;
        self.event = fits.then(|| event.to_owned());
        fits
    }
}

/// Where a document lies whose place is not a function of its key.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlacesRecord {
    /// The document key as BSON. From version 2 on.
    #[serde(default)]
    pub key: Option<RawDocumentBuf>,
    /// Each with the rule that it belongs to.
    pub places: Vec<StoredPlace>,
}

/// One place of a document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StoredPlace {
    /// The rule that put it there.
    pub rule: String,
    /// The target's own encoding.
    pub place: Binary,
    /// Whether its removal is a dead letter. Written only where it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owed: bool,
}

/// A document that has a spot of a target, or was refused for it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpotRecord {
    /// `db.collection`.
    pub namespace: String,
    /// The document key as BSON.
    pub key: RawDocumentBuf,
}

/// Whose the spots of a target are is kept by each run since this was written.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SpotsKnownRecord {
    /// Of what had been delivered before, it is known up to the places with this key; `None` where it is
    /// known of all.
    pub until: Option<Vec<Binary>>,
}

impl Record for PositionRecord {
    const TABLE: Table = Table::Positions;
    const KIND: &'static str = "a position";
    const VERSION: i32 = 2;
}

impl Record for CopyPlanRecord {
    const TABLE: Table = Table::Copies;
    const KIND: &'static str = "the plan of a copy";
    const VERSION: i32 = 2;
}

impl Record for CopyProgressRecord {
    const TABLE: Table = Table::Copies;
    const KIND: &'static str = "the progress of a copy";
    const VERSION: i32 = 2;
}

impl Record for RuleRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what is remembered of a rule";
    const VERSION: i32 = 2;
}

impl Record for KeptRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what a target keeps";
}

impl Record for DemandRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what has to be copied again";
}

impl Record for OwnerRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "the owner of what is written";
}

impl Record for ReplacementRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what is filled beside what is read";
}

impl Record for PausedRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "a target that is paused";
}

impl Record for DefaultNameRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "whose documents lie under a default name";
}

impl Record for IdTypesRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what is remembered of `_id` types";
}

impl Record for DeadLetterRecord {
    const TABLE: Table = Table::DeadLetters;
    const KIND: &'static str = "a dead letter";
}

impl Record for SpotsKnownRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "how far it is known whose places are";
}

impl Record for PlacesRecord {
    const TABLE: Table = Table::Places;
    const KIND: &'static str = "the places of a document";
    const VERSION: i32 = 2;
}

impl Record for SpotRecord {
    const TABLE: Table = Table::Places;
    const KIND: &'static str = "the owner of a place";
}

/// Cluster times as BSON timestamps: a number over 2^63, which they are from 2038 on, is none.
mod timestamp {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::change::ClusterTime;

    pub(super) fn serialize<S: Serializer>(time: &ClusterTime, to: S) -> Result<S::Ok, S::Error> {
        bson::Timestamp::from(*time).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ClusterTime, D::Error> {
        bson::Timestamp::deserialize(from).map(ClusterTime::from)
    }
}

#[cfg(test)]
mod tests;
