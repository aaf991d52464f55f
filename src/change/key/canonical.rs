//! Canonical bytes: one byte string for each value that MongoDB tells apart under the simple
//! collation, as its `_id` index does.
//!
//! A value is a tag and its content; what has no fixed length carries one or ends in a zero that
//! its content cannot have. So no value's bytes are the start of another's, and values can be
//! joined. The tags are stored with ids and positions: they are never given another meaning.

use bson::{RawBsonRef, RawDocument};

use super::KeyError;
use crate::change::{number::Number, text::db_pointer_parts};

/// How deep documents and arrays nest at most: MongoDB's own limit.
pub(super) const MAX_DEPTH: usize = 200;

mod tag {
    pub const MIN_KEY: u8 = 10;
    pub const UNDEFINED: u8 = 15;
    pub const NULL: u8 = 20;
    pub const INT: u8 = 30;
    pub const DOUBLE: u8 = 31;
    pub const DECIMAL: u8 = 32;
    pub const STRING: u8 = 60;
    pub const DOCUMENT: u8 = 70;
    pub const ARRAY: u8 = 80;
    pub const BINARY: u8 = 90;
    pub const OBJECT_ID: u8 = 100;
    pub const BOOL: u8 = 110;
    pub const DATE: u8 = 120;
    pub const TIMESTAMP: u8 = 130;
    pub const REGEX: u8 = 140;
    pub const DB_POINTER: u8 = 150;
    pub const JAVASCRIPT: u8 = 160;
    pub const JAVASCRIPT_WITH_SCOPE: u8 = 170;
    pub const MAX_KEY: u8 = 240;
    /// A document key of more than `_id`, which is not a value.
    pub const COMPOUND: u8 = 250;
}
const END: u8 = 0;
const MORE: u8 = 1;

/// The bytes that stand for a value: equal for values that MongoDB calls equal, different else.
///
/// # Errors
/// Where a document or an array within it cannot be read, or nests too deep.
pub fn canonical(value: RawBsonRef<'_>) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::new();
    write_value(value, 0, &mut out)?;
    Ok(out)
}

/// Appends the canonical bytes of a documentKey: those of the `_id` where it is alone, else of all
/// fields, ordered by name, so that the order in which a shard key lists them does not matter.
pub(super) fn write_key(raw: &RawDocument, out: &mut Vec<u8>) -> Result<(), KeyError> {
    let mut fields = raw.iter();
    let first = fields.next().ok_or(KeyError::NoId)??;
    let Some(second) = fields.next() else {
        return match first.0.as_str() {
            "_id" => write_value(first.1, 0, out),
            _ => Err(KeyError::NoId),
        };
    };
    let mut all = vec![first, second?];
    for field in fields {
        all.push(field?);
    }
    if !all.iter().any(|(name, _)| name.as_str() == "_id") {
        return Err(KeyError::NoId);
    }
    all.sort_by_key(|(name, _)| name.as_str());
    out.push(tag::COMPOUND);
    for (name, value) in all {
        out.push(MORE);
        write_cstring(name.as_str(), out);
        write_value(value, 0, out)?;
    }
    out.push(END);
    Ok(())
}

/// Whether canonical bytes of a key stand for more than an `_id`.
pub(super) fn is_compound(canonical: &[u8]) -> bool {
    canonical.first() == Some(&tag::COMPOUND)
}

/// Appends the canonical bytes of a value that lies `depth` levels deep.
pub(super) fn write_value(
    value: RawBsonRef<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), KeyError> {
    match value {
        RawBsonRef::ObjectId(id) => {
            out.push(tag::OBJECT_ID);
            out.extend_from_slice(&id.bytes());
        }
        RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Double(_)
        | RawBsonRef::Decimal128(_) => {
            write_number(Number::of(value).expect("these four are numbers"), out);
        }
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => {
            out.push(tag::STRING);
            write_bytes(text.as_bytes(), out);
        }
        RawBsonRef::Binary(binary) => {
            out.extend_from_slice(&[tag::BINARY, binary.subtype.into()]);
            write_bytes(binary.bytes, out);
        }
        RawBsonRef::DateTime(date) => {
            out.push(tag::DATE);
            out.extend_from_slice(&date.timestamp_millis().to_be_bytes());
        }
        RawBsonRef::Boolean(value) => out.extend_from_slice(&[tag::BOOL, value.into()]),
        RawBsonRef::Null => out.push(tag::NULL),
        RawBsonRef::Undefined => out.push(tag::UNDEFINED),
        RawBsonRef::MinKey => out.push(tag::MIN_KEY),
        RawBsonRef::MaxKey => out.push(tag::MAX_KEY),
        RawBsonRef::Document(document) => write_document(document, depth, out)?,
        RawBsonRef::Array(array) => {
            if depth >= MAX_DEPTH {
                return Err(KeyError::TooDeep);
            }
            out.push(tag::ARRAY);
            // The names of an array's elements are no part of an index key.
            for item in array {
                out.push(MORE);
                write_value(item?, depth + 1, out)?;
            }
            out.push(END);
        }
        RawBsonRef::Timestamp(time) => {
            out.push(tag::TIMESTAMP);
            out.extend_from_slice(&time.time.to_be_bytes());
            out.extend_from_slice(&time.increment.to_be_bytes());
        }
        RawBsonRef::RegularExpression(regex) => {
            out.push(tag::REGEX);
            write_cstring(regex.pattern.as_str(), out);
            write_cstring(regex.options.as_str(), out);
        }
        RawBsonRef::DbPointer(pointer) => {
            let (namespace, id) = db_pointer_parts(pointer);
            out.push(tag::DB_POINTER);
            write_bytes(namespace.as_bytes(), out);
            out.extend_from_slice(&id);
        }
        RawBsonRef::JavaScriptCode(code) => {
            out.push(tag::JAVASCRIPT);
            write_bytes(code.as_bytes(), out);
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.push(tag::JAVASCRIPT_WITH_SCOPE);
            write_bytes(code.code.as_bytes(), out);
            write_document(code.scope, depth, out)?;
        }
    }
    Ok(())
}

fn write_document(document: &RawDocument, depth: usize, out: &mut Vec<u8>) -> Result<(), KeyError> {
    if depth >= MAX_DEPTH {
        return Err(KeyError::TooDeep);
    }
    out.push(tag::DOCUMENT);
    for field in document {
        let (name, value) = field?;
        out.push(MORE);
        write_cstring(name.as_str(), out);
        write_value(value, depth + 1, out)?;
    }
    out.push(END);
    Ok(())
}

fn write_number(number: Number, out: &mut Vec<u8>) {
    match number {
        Number::Int(int) => {
            out.push(tag::INT);
            out.extend_from_slice(&int.to_be_bytes());
        }
        Number::Double(double) => {
            out.push(tag::DOUBLE);
            out.extend_from_slice(&double.to_bits().to_be_bytes());
        }
        Number::Decimal { negative, coefficient, exponent } => {
            out.extend_from_slice(&[tag::DECIMAL, negative.into()]);
            out.extend_from_slice(&exponent.to_be_bytes());
            out.extend_from_slice(&coefficient.to_be_bytes());
        }
    }
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(bytes.len()).expect("a BSON value is under 2 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn write_cstring(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}
