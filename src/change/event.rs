//! A single change, as `events` delivery tells it.
//!
//! Only what it is. How it is read from a change stream stands in `source::events`, what is told of it
//! in `delivery` and in the targets.

use std::sync::Arc;

use bson::{DateTime, RawArrayBuf, RawBson, RawDocumentBuf, Timestamp, raw::cstr, rawdoc};
use sha2::{Digest, Sha256};

use super::{ClusterTime, Document, DocumentKey, Namespace, text::write_hex};

/// Bytes of the hash that an event's id holds.
const ID_BYTES: usize = 16;

/// What happened to a document.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Op {
    /// It is new; so is every document of a copy.
    Insert,
    /// Some of its fields.
    Update,
    /// The whole of it.
    Replace,
    /// It is no more.
    Delete,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Replace, Self::Delete];

    /// MongoDB's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
        }
    }

    /// By that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.as_str() == name)
    }
}

/// An array that was cut off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncated {
    /// Its path.
    pub field: String,
    /// How many items are left.
    pub new_size: i64,
}

/// A single change. Its documents share the memory of the reply that they came in.
#[derive(Clone, PartialEq, Debug)]
pub struct Happened {
    /// The same at every retry and after every restart; of no other event under this rule.
    pub id: Arc<str>,
    /// What happened.
    pub op: Op,
    /// Whether it is a document of the copy.
    pub copy: bool,
    /// The change stream's own words; of a copied document there are none.
    pub raw: Option<Document>,
    /// The document behind the change; of a delete its pre-image. `None` where nobody knows.
    pub document: Option<Document>,
    /// The document before the change; `None` where nobody knows.
    pub before: Option<Document>,
    /// Of an update, the fields that have another value, by path.
    pub updated: Option<Document>,
    /// Of an update, the fields that are no more, by path.
    pub removed: Vec<String>,
    /// Of an update, the arrays that were cut off.
    pub truncated: Vec<Truncated>,
    /// Why it can't be delivered: it lacks what its rule requires.
    pub lacks: Option<Lack>,
}

/// What keeps an event from being delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lack {
    /// `pre_image: required`, and MongoDB has none.
    PreImage,
    /// `full_document: required`, and MongoDB has none.
    PostImage,
    /// `full_document: when_available` beside a filter, and there is no document to ask it of.
    Filtered,
    /// It is larger than what MongoDB can send, and this is only what it is about.
    Rest,
}

impl Lack {
    /// For a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::PreImage => {
                "MongoDB has no image of the document before this change, and `pre_image: required` asks \
                 for it: the change was made before images were kept, or longer ago than they are kept \
                 for. Tried again, the event is delivered without it"
            }
            Self::PostImage => {
                "MongoDB has no image of the document behind this change, and `full_document: required` \
                 asks for it: the change was made before images were kept, or longer ago than they are \
                 kept for. Tried again, the event is delivered without it"
            }
            Self::Filtered => {
                "MongoDB has no image of the document behind this change, so that the rule's `filter` \
                 can't be asked of it: the change was made before images were kept, or longer ago than \
                 they are kept for. `full_document: required` has them kept. Tried again, the event is \
                 delivered without it, whether the filter would take it or not"
            }
            Self::Rest => {
                "the event is larger than the 16 MiB that MongoDB can send, and this server can't split \
                 it (6.0.9 and 7.0 can): what it says is not known here. `changes.pipeline` can leave \
                 out what makes events large, or `full_document` and `pre_image` can be off"
            }
        }
    }
}

impl Happened {
    /// The id of what these parts name, each with its length so that no two lists run together.
    pub fn id_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Arc<str> {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let mut id = Vec::with_capacity(ID_BYTES * 2);
        write_hex(&hash.finalize()[..ID_BYTES], &mut id);
        String::from_utf8(id).expect("hex digits are text").into()
    }

    /// The id of an event of the stream, by its resume token.
    pub fn id_in_stream(rule: &str, token: &str) -> Arc<str> {
        Self::id_of([&b"event"[..], rule.as_bytes(), token.as_bytes()])
    }

    /// A document that a copy has read, as an event. `cause` names the copy.
    pub fn copied(
        (rule, cause): (&str, &[u8]),
        namespace: &Namespace,
        key: &DocumentKey,
        document: Document,
    ) -> Self {
        let parts =
            [&b"copy"[..], rule.as_bytes(), cause, namespace.as_str().as_bytes(), key.canonical()];
        Self {
            id: Self::id_of(parts),
            op: Op::Insert,
            copy: true,
            raw: None,
            document: Some(document),
            before: None,
            updated: None,
            removed: Vec::new(),
            truncated: Vec::new(),
            lacks: None,
        }
    }

    /// Whether the better part of it is not known, so that it is of no use to anybody.
    pub fn is_partial(&self) -> bool {
        self.lacks == Some(Lack::Rest)
    }

    /// What an update says of single fields, as the change stream would.
    fn description(&self) -> RawDocumentBuf {
        let mut description = RawDocumentBuf::new();
        if let Some(updated) = &self.updated {
            description.append(cstr!("updatedFields"), updated.raw().to_owned());
        }
        description.append(cstr!("removedFields"), self.removed_fields());
        description.append(cstr!("truncatedArrays"), self.truncated_arrays());
        description
    }

    /// [`removed`](Self::removed) as the change stream has it.
    pub fn removed_fields(&self) -> RawArrayBuf {
        let mut removed = RawArrayBuf::new();
        self.removed.iter().for_each(|path| removed.push(path.as_str()));
        removed
    }

    /// [`truncated`](Self::truncated) as the change stream has it.
    pub fn truncated_arrays(&self) -> RawArrayBuf {
        let mut truncated = RawArrayBuf::new();
        for array in &self.truncated {
            let size = i32::try_from(array.new_size);
            let size = size.map_or(RawBson::Int64(array.new_size), RawBson::Int32);
            truncated.push(rawdoc! { "field": array.field.as_str(), "newSize": size });
        }
        truncated
    }

    /// As it is kept, to be told again: its id, and what the change stream said or would have said.
    pub fn record(
        &self,
        namespace: &Namespace,
        key: &DocumentKey,
        time: ClusterTime,
        wall_time: Option<DateTime>,
    ) -> RawDocumentBuf {
        let change = match &self.raw {
            Some(raw) => {
                let mut change = RawDocumentBuf::new();
                for (name, value) in raw.raw().iter().flatten() {
                    match name.as_str() {
                        // What the rule leaves out MongoDB has left in.
                        "updateDescription" => change.append(name, self.description()),
                        _ => change.append(name, value),
                    }
                }
                change
            }
            None => {
                let mut change = rawdoc! {
                    "operationType": self.op.as_str(),
                    "clusterTime": Timestamp::from(time),
                    "ns": { "db": namespace.database(), "coll": namespace.collection() },
                    "documentKey": key.raw().to_owned(),
                };
                if let Some(document) = &self.document {
                    change.append(cstr!("fullDocument"), document.raw().to_owned());
                }
                if let Some(wall_time) = wall_time {
                    change.append(cstr!("wallTime"), wall_time);
                }
                change
            }
        };
        rawdoc! { "id": &*self.id, "copy": self.copy, "change": change }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever has seen an id before an update has to know it after.
    #[test]
    fn ids_do_not_change() {
        let id = Happened::id_in_stream("r", "8263B0D7C5000000022B0429296E1404");
        assert_eq!(id.len(), 32);
        let key = DocumentKey::from_document_key(&rawdoc! { "_id": 7 }).expect("a key");
        let document = Document::from(rawdoc! { "_id": 7 });
        let copied = |rule: &str, cause: &[u8], collection: &str| {
            let namespace = Namespace::new("shop", collection);
            Happened::copied((rule, cause), &namespace, &key, document.clone()).id
        };
        let all = [
            id,
            Happened::id_in_stream("q", "8263B0D7C5000000022B0429296E1404"),
            Happened::id_in_stream("r", "8263B0D7C5000000032B0429296E1404"),
            copied("r", b"1", "orders"),
            copied("q", b"1", "orders"),
            copied("r", b"2", "orders"),
            copied("r", b"1", "products"),
        ];
        insta::assert_debug_snapshot!(all);
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
