//! What a closure is given: a document to hold or to forget, or an event, as raw BSON until it is asked
//! for more.

use std::{fmt, time::Duration};

use bson::{Bson, DateTime, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{
    change::{
        ClusterTime, Document,
        event::{Op as EventOp, Truncated},
    },
    target::{Action, Operation},
};

/// What a delivery is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// The document is so from now on (`documents` delivery).
    Put,
    /// The document is no more, or no longer matches the rule (`documents` delivery).
    Remove,
    /// A document is new; so is each one of a copy (`events` delivery).
    Insert,
    /// Some fields have changed (`events` delivery).
    Update,
    /// The whole document has changed (`events` delivery).
    Replace,
    /// The document was deleted (`events` delivery).
    Delete,
}

impl Op {
    /// As rule files and messages have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Remove => "remove",
            Self::Insert => EventOp::Insert.as_str(),
            Self::Update => EventOp::Update.as_str(),
            Self::Replace => EventOp::Replace.as_str(),
            Self::Delete => EventOp::Delete.as_str(),
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all =
            [Self::Put, Self::Remove, Self::Insert, Self::Update, Self::Replace, Self::Delete];
        all.into_iter().find(|op| op.as_str() == name)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a closure did not take a delivery.
///
/// Any error that `?` meets becomes one that may pass: nothing is lost where it does not, it is tried
/// for ever. What can't pass has to be said, with [`Failure::reject`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It may pass: the delivery is tried again, behind growing pauses, and what comes next of its
    /// document waits for it.
    Retry {
        /// For a person.
        words: String,
        /// Not sooner than after this.
        after: Option<Duration>,
    },
    /// It does not pass: the delivery becomes a dead letter, and the next one is taken.
    Reject {
        /// For a person; the dead letter keeps them.
        words: String,
    },
}

impl Failure {
    /// It may pass.
    pub fn retry(words: impl fmt::Display) -> Self {
        Self::Retry { words: format!("{words:#}"), after: None }
    }

    /// It may pass, but not within this time.
    pub fn retry_after(words: impl fmt::Display, after: Duration) -> Self {
        Self::Retry { words: format!("{words:#}"), after: Some(after) }
    }

    /// It does not pass.
    pub fn reject(words: impl fmt::Display) -> Self {
        Self::Reject { words: format!("{words:#}") }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut words = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            words = format!("{words}: {next}");
            cause = next.source();
        }
        Self::retry(words)
    }
}

/// One document, as a rule delivers it, or one event.
///
/// A clone copies nothing. It keeps the memory of the request that it came in for as long as it lives.
#[derive(Clone)]
pub struct Delivery {
    /// What is told beside the documents.
    head: Document,
    key: Document,
    document: Option<Document>,
    before: Option<Document>,
    updated: Option<Document>,
}

/// The bytes are none that `encode` writes.
const WRITTEN: &str = "it was written by `encode`";

impl Delivery {
    /// The namespace in the source, `db.collection`.
    pub fn namespace(&self) -> &str {
        self.head.raw().get_str("ns").expect(WRITTEN)
    }

    /// The database in the source.
    pub fn database(&self) -> &str {
        self.namespace().split_once('.').map_or("", |(database, _)| database)
    }

    /// The collection in the source.
    pub fn collection(&self) -> &str {
        self.namespace().split_once('.').map_or("", |(_, collection)| collection)
    }

    /// The rule that delivers it.
    pub fn rule(&self) -> &str {
        self.head.raw().get_str("rule").expect(WRITTEN)
    }

    /// What it is about.
    pub fn op(&self) -> Op {
        self.head.raw().get_str("op").ok().and_then(Op::named).expect(WRITTEN)
    }

    /// The document's `_id`: as the rule delivers it, or where no document is delivered that of the
    /// source.
    pub fn id(&self) -> RawBsonRef<'_> {
        let own = self.document.as_ref().and_then(|document| document.raw().get("_id").ok()?);
        own.or_else(|| self.key.raw().get("_id").ok()?).unwrap_or(RawBsonRef::Null)
    }

    /// The `_id` as text that no other `_id` of the namespace has. Where a script makes several
    /// documents of one, a removal tells by this alone which of them it is about.
    pub fn id_text(&self) -> &str {
        self.head.raw().get_str("id").expect(WRITTEN)
    }

    /// The source's document key: `_id`, and on a sharded collection the shard key too.
    pub fn key(&self) -> &RawDocument {
        self.key.raw()
    }

    /// The cluster time: of the event, or of what was read; of a copied document the time when the copy
    /// began. Of one document it never falls.
    pub fn cluster_time(&self) -> ClusterTime {
        self.head.raw().get_timestamp("time").expect(WRITTEN).into()
    }

    /// Whether it comes from the copy.
    pub fn is_copy(&self) -> bool {
        self.head.raw().get_bool("copy").expect(WRITTEN)
    }

    /// The document, as the rule delivers it. None of a removal; of an event where MongoDB knows none,
    /// of a delete the one before it where there is one.
    pub fn document(&self) -> Option<&RawDocument> {
        self.document.as_ref().map(Document::raw)
    }

    /// The document as a type of one's own; `None` where there is none.
    ///
    /// # Errors
    /// A refusal that names the path of what does not fit: returned from the closure, it makes a dead
    /// letter of the delivery.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<Option<T>, Failure> {
        self.document.as_ref().map(typed).transpose()
    }

    /// The id of the event: the same whenever it is delivered again. None in `documents` delivery.
    pub fn event_id(&self) -> Option<&str> {
        self.head.raw().get_str("event").ok()
    }

    /// The server's clock at the event.
    pub fn wall_time(&self) -> Option<DateTime> {
        self.head.raw().get_datetime("wall").ok()
    }

    /// The document before the event, where MongoDB keeps it (`changes.pre_image`).
    pub fn before(&self) -> Option<&RawDocument> {
        self.before.as_ref().map(Document::raw)
    }

    /// Of an update, the fields that have another value, by path.
    pub fn updated(&self) -> Option<&RawDocument> {
        self.updated.as_ref().map(Document::raw)
    }

    /// Of an update, the paths of the fields that are no more.
    pub fn removed(&self) -> impl Iterator<Item = &str> {
        let paths = self.head.raw().get_array("removed").into_iter().flatten();
        paths.filter_map(|path| path.ok()?.as_str())
    }

    /// Of an update, the arrays that were cut off: the path, and how many items are left.
    pub fn truncated(&self) -> impl Iterator<Item = (&str, i64)> {
        let arrays = self.head.raw().get_array("truncated").into_iter().flatten();
        arrays.filter_map(|array| {
            let array = array.ok()?.as_document()?;
            Some((array.get_str("field").ok()?, array.get_i64("size").ok()?))
        })
    }

    /// Appends the bytes of an operation under a rule, with the document's id as text and the key as
    /// the source has it.
    pub(super) fn encode(
        operation: &Operation,
        (rule, id): (&str, &str),
        key: &RawDocument,
        body: &mut Vec<u8>,
    ) {
        let (op, document, told) = match &operation.action {
            Action::Put(document) => (Op::Put.as_str(), Some(document), None),
            Action::Remove => (Op::Remove.as_str(), None, None),
            Action::Append(told) => (told.event.op.as_str(), told.document.as_ref(), Some(told)),
        };
        let event = told.map(|told| &*told.event);
        let before = event.and_then(|event| event.before.as_ref());
        let updated = event.and_then(|event| event.updated.as_ref());
        let mut head = RawDocumentBuf::new();
        head.append(cstr!("op"), op);
        head.append(cstr!("ns"), operation.namespace.as_str());
        head.append(cstr!("rule"), rule);
        head.append(cstr!("id"), id);
        head.append(cstr!("time"), bson::Timestamp::from(operation.told_time()));
        head.append(cstr!("copy"), operation.phase == crate::change::Phase::Copy);
        head.append(cstr!("has"), i32::from(parts([document, before, updated])));
        if let Some(told) = told {
            head.append(cstr!("event"), told.id.as_str());
            if let Some(wall) = told.wall_time {
                head.append(cstr!("wall"), wall);
            }
            let removed: bson::RawArrayBuf =
                told.event.removed.iter().map(String::as_str).collect();
            head.append(cstr!("removed"), removed);
            head.append(cstr!("truncated"), truncated(&told.event.truncated));
        }
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(key.as_bytes());
        for document in [document, before, updated].into_iter().flatten() {
            body.extend_from_slice(document.bytes());
        }
    }

    /// Takes the bytes of an item apart; the documents share them.
    pub(super) fn decode(item: &Bytes) -> Self {
        let mut rest = item.clone();
        let head = next(&mut rest);
        let key = next(&mut rest);
        let has = head.raw().get_i32("has").expect(WRITTEN);
        let [document, before, updated] =
            [0, 1, 2].map(|part| (has & 1 << part != 0).then(|| next(&mut rest)));
        Self { head, key, document, before, updated }
    }
}

/// Which of the documents there are, a bit each.
fn parts(documents: [Option<&Document>; 3]) -> u8 {
    let bits =
        documents.iter().enumerate().map(|(part, document)| u8::from(document.is_some()) << part);
    bits.sum()
}

fn truncated(arrays: &[Truncated]) -> bson::RawArrayBuf {
    let one = |array: &Truncated| {
        let mut one = RawDocumentBuf::new();
        one.append(cstr!("field"), array.field.as_str());
        one.append(cstr!("size"), array.new_size);
        one
    };
    arrays.iter().map(one).collect()
}

/// The document that stands first, by its own length.
fn next(rest: &mut Bytes) -> Document {
    let length = rest.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length));
    let document = rest.split_to(rest.len().min(usize::try_from(length).unwrap_or(usize::MAX)));
    Document::from_bytes(document).expect(WRITTEN)
}

fn typed<T: DeserializeOwned>(document: &Document) -> Result<T, Failure> {
    let error = match bson::deserialize_from_slice(document.bytes()) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // Where it fails is looked for only now: the search takes the whole document apart.
    let path = bson::Document::try_from(document.raw()).ok().and_then(|document| {
        let bson = bson::Deserializer::new(Bson::Document(document));
        serde_path_to_error::deserialize::<_, T>(bson).err()
    });
    let what = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
    Err(match path.filter(|error| error.path().iter().next().is_some()) {
        Some(error) => {
            Failure::reject(format!("it is no {what}: at `{}`: {}", error.path(), error.inner()))
        }
        None => Failure::reject(format!("it is no {what}: {error}")),
    })
}

/// Shows what it is about, and no document.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("op", &self.op())
            .field("namespace", &self.namespace())
            .field("id", &self.id_text())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
