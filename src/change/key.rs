//! Which document: the change stream's `documentKey`, and when two of them are the same document.
//!
//! The source makes keys, lanes and lookups compare them, ids are written from them. Sameness is
//! MongoDB's: `1`, `1L`, `1.0` and Decimal `1` are one key, and the comparison of a collection with
//! a collation of its own is not known here. Nothing here decides where a key goes.

mod canonical;
mod relaxed;
#[cfg(test)]
pub(crate) mod samples;

use std::{
    cell::RefCell,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use bson::{
    RawBsonRef, RawDocument, RawDocumentBuf,
    oid::ObjectId,
    raw::{CStr, cstr},
};

pub use canonical::canonical;
pub(crate) use relaxed::write_relaxed;

use super::Document;

/// The longest text that [`DocumentKey::display`] gives, in bytes.
const DISPLAY_BYTES: usize = 256;
/// Scratch memory over this is given back after use.
const SCRATCH_BYTES: usize = 64 << 10;
/// Bytes of a key that take no memory of their own: an ObjectId has 35, and most numbers and short texts
/// have fewer.
const INLINE: usize = 46;
/// What a shared slice needs beside its content: two counts.
const SHARED_BYTES: usize = 2 * size_of::<usize>();

/// Why a document has no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The document has no `_id`.
    #[error("the document has no _id")]
    NoId,
    /// The bytes are not BSON, or a string in the key is not UTF-8.
    #[error("the document key cannot be read")]
    Malformed(#[from] bson::error::Error),
    /// A value nests deeper than MongoDB allows.
    #[error("the document key nests deeper than {} levels", canonical::MAX_DEPTH)]
    TooDeep,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The key of one document: its `_id`, and on a sharded collection the shard key's fields.
///
/// Two keys are equal when MongoDB calls their values equal, whatever types the numbers have; the
/// order is total and fits equality, but it is not MongoDB's sort order. A clone copies little. A
/// key owns its bytes and does not keep the reply alive that it was read from.
#[derive(Clone)]
pub struct DocumentKey {
    /// The documentKey as BSON, whose length prefix says where it ends, then the canonical bytes.
    bytes: Bytes,
}

/// What is made by one task, cloned by another and dropped by a third had better have no count that
/// travels with it.
#[derive(Clone)]
enum Bytes {
    Inline { length: u8, bytes: [u8; INLINE] },
    Shared(Arc<[u8]>),
}

impl From<&[u8]> for Bytes {
    fn from(all: &[u8]) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..all.len()), u8::try_from(all.len())) {
            (Some(there), Ok(length)) => {
                there.copy_from_slice(all);
                Self::Inline { length, bytes }
            }
            _ => Self::Shared(all.into()),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl DocumentKey {
    /// Takes a change stream's `documentKey`.
    ///
    /// # Errors
    /// Where it lacks `_id` or cannot be read.
    pub fn from_document_key(raw: &RawDocument) -> Result<Self, KeyError> {
        Self::build(
            |out| out.extend_from_slice(raw.as_bytes()),
            |out| canonical::write_key(raw, out),
        )
    }

    /// The key of a document in a collection that is not sharded.
    ///
    /// # Errors
    /// Where a document or an array within `id` cannot be read.
    pub fn from_id(id: RawBsonRef<'_>) -> Result<Self, KeyError> {
        let mut raw = RawDocumentBuf::new();
        raw.append(cstr!("_id"), id);
        Self::from_document_key(&raw)
    }

    /// The documentKey as it was read, with its types.
    pub fn raw(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.bytes[..self.split()])
            .expect("the bytes begin with a document that was read before")
    }

    /// The `_id` as it was read. All of it has been read once, so walking it does not fail.
    pub fn id(&self) -> RawBsonRef<'_> {
        const OBJECT_ID: u8 = 0x07;
        // What most keys are: length, kind, name, value, end.
        if let [_, _, _, _, OBJECT_ID, b'_', b'i', b'd', 0, value @ .., 0] =
            &self.bytes[..self.split()]
            && let Ok(value) = <[u8; 12]>::try_from(value)
        {
            return RawBsonRef::ObjectId(ObjectId::from_bytes(value));
        }
        self.raw()
            .get("_id")
            .expect("the key was read when it was made")
            .expect("a key without _id is not made")
    }

    /// What makes the key: equal for equal keys, different for different ones, and never the start
    /// of another. For a key of `_id` alone it is [`canonical`] of the `_id`. The encoding is part
    /// of what is stored: it does not change.
    pub fn canonical(&self) -> &[u8] {
        &self.bytes[self.split()..]
    }

    /// Whether it has more fields than `_id`: the collection is sharded.
    pub fn is_compound(&self) -> bool {
        canonical::is_compound(self.canonical())
    }

    /// How many bytes of memory the key holds; clones share them.
    pub fn size(&self) -> usize {
        let apart = match &self.bytes {
            Bytes::Inline { .. } => 0,
            Bytes::Shared(bytes) => SHARED_BYTES + bytes.len(),
        };
        size_of::<Self>() + apart
    }

    /// A short text for people, in logs and dead letters: relaxed Extended JSON of the `_id`, or of
    /// the whole key where it has more fields; cut at 256 bytes with an ellipsis. Not for ids:
    /// unlike keys may share it.
    pub fn display(&self) -> String {
        let mut out = Vec::new();
        match canonical::is_compound(self.canonical()) {
            true => write_relaxed(RawBsonRef::Document(self.raw()), &mut out),
            false => write_relaxed(self.id(), &mut out),
        };
        let mut text = String::from_utf8(out).expect("Extended JSON is UTF-8");
        if text.len() > DISPLAY_BYTES {
            text.truncate(text.floor_char_boundary(DISPLAY_BYTES - '…'.len_utf8()));
            text.push('…');
        }
        text
    }

    /// Puts a key together from its two parts, in memory that is used again, so that making a key
    /// allocates once.
    fn build(
        raw: impl FnOnce(&mut Vec<u8>),
        canonical: impl FnOnce(&mut Vec<u8>) -> Result<(), KeyError>,
    ) -> Result<Self, KeyError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            raw(scratch);
            let built = canonical(scratch).map(|()| Self { bytes: (&scratch[..]).into() });
            if scratch.capacity() > SCRATCH_BYTES {
                *scratch = Vec::new();
            }
            built
        })
    }

    fn split(&self) -> usize {
        let length = self.bytes.first_chunk().expect("a document has a length prefix");
        i32::from_le_bytes(*length) as usize
    }
}

impl PartialEq for DocumentKey {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for DocumentKey {}

impl Hash for DocumentKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl Ord for DocumentKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl PartialOrd for DocumentKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display())
    }
}

/// Which fields make a collection's document key: `_id` alone, unless it is sharded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyShape {
    paths: Arc<[String]>,
}

impl KeyShape {
    /// The shape for a shard key, given as its dotted paths in order. `_id` comes last where the
    /// shard key lacks it, as in the server's own document keys.
    pub fn sharded<S: Into<String>>(shard_key: impl IntoIterator<Item = S>) -> Self {
        let mut paths: Vec<String> = shard_key.into_iter().map(Into::into).collect();
        if !paths.iter().any(|path| path == "_id") {
            paths.push("_id".to_owned());
        }
        Self { paths: paths.into() }
    }

    /// The dotted paths, `_id` among them.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The key of a whole document, the same as the server's `documentKey` for it: a field that is
    /// missing is left out, and a dotted path is the field's name.
    ///
    /// # Errors
    /// Where the document lacks `_id` or what the key needs of it cannot be read.
    pub fn key_of(&self, document: &Document) -> Result<DocumentKey, KeyError> {
        if let [_] = &*self.paths {
            return id_key(document.raw());
        }
        let mut key = RawDocumentBuf::new();
        for path in &*self.paths {
            if let Some(value) = value_at(document.raw(), path)? {
                key.append(<&CStr>::try_from(path.as_str())?, value);
            }
        }
        DocumentKey::from_document_key(&key)
    }
}

impl Default for KeyShape {
    fn default() -> Self {
        Self::sharded(["_id"])
    }
}

/// The key `_id` of a document. MongoDB stores `_id` first, so its element is one span to copy.
fn id_key(document: &RawDocument) -> Result<DocumentKey, KeyError> {
    const NAME: &[u8] = b"_id\0";
    const AT: usize = size_of::<i32>();
    let Some(first) = document.iter_elements().next().transpose()? else {
        return Err(KeyError::NoId);
    };
    if first.key().as_str() != "_id" {
        return DocumentKey::from_id(document.get("_id")?.ok_or(KeyError::NoId)?);
    }
    let element = &document.as_bytes()[AT..AT + 1 + NAME.len() + first.size()];
    let length = (AT + element.len() + 1) as i32;
    let id = first.value()?;
    DocumentKey::build(
        |out| {
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(element);
            out.push(0);
        },
        |out| canonical::write_value(id, 0, out),
    )
}

/// The server's `extractElementAtDottedPath`: a field that has the whole path as its name wins over
/// the way down, and arrays are descended by their indexes.
fn value_at<'a>(
    document: &'a RawDocument,
    path: &str,
) -> Result<Option<RawBsonRef<'a>>, bson::error::Error> {
    if let Some(value) = document.get(path)? {
        return Ok(Some(value));
    }
    let Some((first, rest)) = path.split_once('.') else { return Ok(None) };
    match document.get(first)? {
        Some(RawBsonRef::Document(inner)) => value_at(inner, rest),
        Some(RawBsonRef::Array(inner)) => {
            value_at(RawDocument::from_bytes(inner.as_bytes())?, rest)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests;
