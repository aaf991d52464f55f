//! The words that every stage shares: namespace, cluster time, document, and the one type that
//! travels from source to target, [`Change`].
//!
//! Nothing here reads, writes or waits.

pub mod event;
pub mod id;
pub mod key;
pub mod number;
pub mod text;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bson::{RawDocument, RawDocumentBuf};
use bytes::Bytes;
use smallvec::SmallVec;

pub use key::DocumentKey;

use crate::checkpoint::tracker::Claims;

use event::Happened;

/// Hashes what names documents and places: with a seed of its own in each map, and several times as
/// fast as the standard library's, which every document would pay for time and again.
pub type Hashing = foldhash::fast::RandomState;
/// A map by such keys.
pub type KeyMap<K, V> = HashMap<K, V, Hashing>;
/// A set of such keys.
pub type KeySet<K> = HashSet<K, Hashing>;

/// `db.collection`, cheap to clone. Split at the first dot, as MongoDB does.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace {
    full: Arc<str>,
    dot: usize,
}

impl Namespace {
    /// Joins a database and a collection name.
    pub fn new(database: &str, collection: &str) -> Self {
        Self { full: format!("{database}.{collection}").into(), dot: database.len() }
    }

    /// Splits at the first dot; `None` where either side is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let dot = text.find('.')?;
        (dot > 0 && dot + 1 < text.len()).then(|| Self { full: text.into(), dot })
    }

    /// The same name in memory of its own: clones of one name count their owners together, which tasks
    /// that clone it for every document would wait for.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self { full: (*self.full).into(), dot: self.dot }
    }

    /// The part before the first dot.
    pub fn database(&self) -> &str {
        &self.full[..self.dot]
    }

    /// The part after the first dot.
    pub fn collection(&self) -> &str {
        &self.full[self.dot + 1..]
    }

    /// `db.collection`.
    pub fn as_str(&self) -> &str {
        &self.full
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// A MongoDB cluster time: seconds in the upper 32 bits, increment in the lower, so that the
/// integer order is the order of time. Zero is "before everything".
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct ClusterTime(pub u64);

impl ClusterTime {
    /// Before every time a server has ever had.
    pub const ZERO: Self = Self(0);

    /// Whole seconds since 1970.
    pub fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The order within the second.
    pub fn increment(self) -> u32 {
        self.0 as u32
    }

    /// The last time before this one.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The next time after this one.
    #[must_use]
    pub fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The external version of Elasticsearch and OpenSearch that stands for this time. It fits a
    /// signed 64-bit integer until 2038.
    pub fn version(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl From<bson::Timestamp> for ClusterTime {
    fn from(time: bson::Timestamp) -> Self {
        Self(u64::from(time.time) << 32 | u64::from(time.increment))
    }
}

/// The first time of that second; of a moment before 1970 or after 2106, the nearest that there is.
impl From<SystemTime> for ClusterTime {
    fn from(moment: SystemTime) -> Self {
        let seconds = moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self(seconds.min(u32::MAX.into()) << 32)
    }
}

impl From<ClusterTime> for bson::Timestamp {
    fn from(time: ClusterTime) -> Self {
        Self { time: time.seconds(), increment: time.increment() }
    }
}

/// `seconds.increment`, the form that the rule file and the events carry.
impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds(), self.increment())
    }
}

impl fmt::Debug for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One BSON document as bytes that are shared with the server's reply it came in: cloning and
/// slicing copy nothing. The length prefix has been checked, the elements have not.
#[derive(Clone, PartialEq)]
pub struct Document(Bytes);

impl Document {
    /// Takes bytes that hold exactly one document.
    ///
    /// # Errors
    /// Where the length prefix or the closing zero do not fit the bytes.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, bson::error::Error> {
        RawDocument::from_bytes(&bytes)?;
        Ok(Self(bytes))
    }

    /// The document, to read.
    pub fn raw(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.0).expect("the length was checked when it was made")
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// How many bytes the document has. (The reply that it shares may be larger.)
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

impl From<RawDocumentBuf> for Document {
    fn from(raw: RawDocumentBuf) -> Self {
        Self(Bytes::from(raw.into_bytes()))
    }
}

impl From<&RawDocument> for Document {
    fn from(raw: &RawDocument) -> Self {
        Self(Bytes::copy_from_slice(raw.as_bytes()))
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.raw(), f)
    }
}

/// Which rule of the target's pipeline, by its place in the pipeline's list of rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RuleIndex(pub u16);

/// Which of the two reads a change comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// The direct read of what is there.
    Copy,
    /// The change stream.
    Changes,
}

impl Phase {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Changes => "changes",
        }
    }
}

/// What brought a delivery about: the same whenever that is delivered again, also where the time that
/// it then bears is another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// An event of the change stream, of this time; of several that are answered as one the newest.
    Event(ClusterTime),
    /// A copy, by its plan's own id.
    Copy(bson::Uuid),
}

/// What a rule's own read (`filter`, `project`, `pipeline`) said of a document.
#[derive(Clone, Debug)]
pub enum State {
    /// It is there and it matches; this is what the read returned.
    Present(Document),
    /// It is there and does not match the rule.
    Unmatched,
    /// It is there, and the rule's read fails on it: the server's words.
    Failed(String),
    /// It is not there. Where nobody asked which of the two it is (`on_delete: remove`), a document
    /// that does not match is reported as gone too.
    Gone,
    /// It is not there, and no event said that it was deleted: its collection has gone, and the rule
    /// keeps what the target holds of it (`on_drop: keep`).
    Dropped,
    /// This has happened to it (`events` delivery).
    Happened(Arc<Happened>),
}

/// The present state of one document under all the rules of a target that read its namespace.
///
/// Changes of one key leave a lane in the order in which they entered it.
#[derive(Debug)]
pub struct Change {
    /// Where the document lives in the source.
    pub namespace: Namespace,
    /// Which document it is.
    pub key: DocumentKey,
    /// A lower bound of the time at which `states` were read: what an engine gets as version.
    pub time: ClusterTime,
    /// What brought it about.
    pub cause: Cause,
    /// A time that no state in `states` is newer than, so that what is read elsewhere for them after
    /// it is not older than they are. `ZERO` where it is not known.
    pub read: ClusterTime,
    /// The server's clock at the oldest event that this answers, for the time a delivery took;
    /// `None` in the copy.
    pub since: Option<bson::DateTime>,
    /// Whether an event said that it is no more.
    pub deleted: bool,
    /// Copy or changes.
    pub phase: Phase,
    /// One entry a rule that was asked, in the order of the rules.
    pub states: States,
    /// What this change holds back; settled once the change is durable in the target, or known
    /// never to be.
    pub claims: Claims,
}

/// What each rule's read said: nearly always there is one rule, whose answer lies in place.
pub type States = SmallVec<[(RuleIndex, State); 1]>;

impl Change {
    /// Bytes of its documents, each rule's own.
    pub fn size(&self) -> usize {
        let sizes = self.states.iter().map(|(_, state)| match state {
            State::Present(document) => document.size(),
            _ => 0,
        });
        sizes.sum()
    }
}
