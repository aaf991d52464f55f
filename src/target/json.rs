//! BSON → JSON, straight from the raw bytes into the bytes of a request.
//!
//! Targets that speak JSON call it while they encode a batch. It does not look at what a field
//! means, does not change a document and never fails on a value, only on bytes that are not BSON.
//!
//! Strings and names that are not UTF-8 get U+FFFD for what is not. A name that occurs twice in one
//! document is written twice, as it is stored: which of the two counts, or whether that is an
//! error, is the reader's rule, and to drop one here would hide it.

mod bytes;
mod same;
mod scalar;

use bson::{RawBsonRef, RawDocument};

use bytes::{Bytes, kind};

pub use crate::change::text::escape_into;
pub use same::same;

/// How deep documents and arrays nest at most: MongoDB's own limit.
const MAX_DEPTH: usize = 200;

/// Which JSON.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mode {
    /// What a search engine or a program expects: an ObjectId is a string, a date RFC 3339, a
    /// number a number. Types that JSON lacks do not survive.
    #[default]
    Plain,
    /// Canonical Extended JSON v2: every type survives.
    Extended,
}

/// How a document is written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// Which JSON.
    pub mode: Mode,
    /// Leaves the top-level `_id` out; those of embedded documents stay.
    pub skip_id: bool,
}

/// The bytes are no BSON document.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JsonError {
    /// A length, a type or an end is wrong.
    #[error("malformed BSON: {0}")]
    Malformed(&'static str),
    /// It nests deeper than MongoDB allows.
    #[error("the document nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Appends a document as a JSON object on one line.
///
/// # Errors
/// Where the bytes are not BSON; `out` is then as long as before.
pub fn write_document(
    raw: &RawDocument,
    options: Options,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let before = out.len();
    let mut bytes = Bytes::new(raw.as_bytes());
    let written = match options.mode {
        Mode::Plain => write_object::<false>(&mut bytes, options.skip_id, 1, out),
        Mode::Extended => write_object::<true>(&mut bytes, options.skip_id, 1, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

/// Appends one value as JSON.
///
/// # Errors
/// Where a document or an array within it is not BSON; `out` is then as long as before.
pub fn write_value(value: RawBsonRef<'_>, mode: Mode, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let before = out.len();
    let written = match mode {
        Mode::Plain => write_ref::<false>(value, out),
        Mode::Extended => write_ref::<true>(value, out),
    };
    written.inspect_err(|_| out.truncate(before))
}

fn write_object<const EXTENDED: bool>(
    bytes: &mut Bytes<'_>,
    skip_id: bool,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let mut fields = bytes.document()?;
    let mut separator = b'{';
    while let Some(kind) = fields.next_kind() {
        let before = out.len();
        let name = fields.cstring()?;
        out.extend_from_slice(&[separator, b'"']);
        scalar::write_name(name, out);
        out.extend_from_slice(b"\":");
        write_element::<EXTENDED>(kind, &mut fields, depth, out)?;
        if skip_id && name == b"_id" {
            out.truncate(before);
        } else {
            separator = b',';
        }
    }
    if separator == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn write_array<const EXTENDED: bool>(
    bytes: &mut Bytes<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    let mut items = bytes.document()?;
    let mut separator = b'[';
    while let Some(kind) = items.next_kind() {
        items.cstring()?;
        out.push(separator);
        separator = b',';
        write_element::<EXTENDED>(kind, &mut items, depth, out)?;
    }
    if separator == b'[' {
        out.push(b'[');
    }
    out.push(b']');
    Ok(())
}

/// Writes the value of an element, whose type byte and name have been read. `depth` is that of the
/// document that it is in.
fn write_element<const EXTENDED: bool>(
    element: u8,
    bytes: &mut Bytes<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    match element {
        kind::STRING => scalar::write_string(bytes.string()?, out),
        kind::INT32 => scalar::write_int32::<EXTENDED>(i32::from_le_bytes(bytes.array()?), out),
        kind::INT64 => scalar::write_int64::<EXTENDED>(i64::from_le_bytes(bytes.array()?), out),
        kind::DOUBLE => scalar::write_double::<EXTENDED>(f64::from_le_bytes(bytes.array()?), out),
        kind::DATE => scalar::write_date::<EXTENDED>(i64::from_le_bytes(bytes.array()?), out),
        kind::OBJECT_ID => scalar::write_object_id::<EXTENDED>(bytes.array()?, out),
        kind::BOOL => scalar::write_bool(bytes.bool()?, out),
        kind::NULL => out.extend_from_slice(b"null"),
        kind::DOCUMENT | kind::ARRAY | kind::JAVASCRIPT_WITH_SCOPE if depth >= MAX_DEPTH => {
            return Err(JsonError::TooDeep);
        }
        kind::DOCUMENT => write_object::<EXTENDED>(bytes, false, depth + 1, out)?,
        kind::ARRAY => write_array::<EXTENDED>(bytes, depth + 1, out)?,
        kind::BINARY => {
            let (subtype, content) = bytes.binary()?;
            scalar::write_binary::<EXTENDED>(subtype, content, out);
        }
        kind::DECIMAL => scalar::write_decimal::<EXTENDED>(bytes.array()?, out),
        kind::TIMESTAMP => {
            let increment = u32::from_le_bytes(bytes.array()?);
            let time = u32::from_le_bytes(bytes.array()?);
            scalar::write_timestamp::<EXTENDED>(time, increment, out);
        }
        kind::REGEX => {
            let pattern = bytes.cstring()?;
            scalar::write_regex::<EXTENDED>(pattern, bytes.cstring()?, out);
        }
        kind::JAVASCRIPT => scalar::write_code::<EXTENDED>(bytes.string()?, out),
        kind::SYMBOL => scalar::write_symbol::<EXTENDED>(bytes.string()?, out),
        kind::JAVASCRIPT_WITH_SCOPE => {
            let mut inner = bytes.code_with_scope()?;
            let code = inner.string()?;
            write_scoped::<EXTENDED>(code, &mut inner, depth + 1, out)?;
            inner.end()?;
        }
        kind::DB_POINTER => {
            let namespace = bytes.string()?;
            scalar::write_db_pointer::<EXTENDED>(namespace, bytes.array()?, out);
        }
        kind::MIN_KEY => scalar::write_odd::<EXTENDED>(b"{\"$minKey\":1}", out),
        kind::MAX_KEY => scalar::write_odd::<EXTENDED>(b"{\"$maxKey\":1}", out),
        kind::UNDEFINED => scalar::write_odd::<EXTENDED>(b"{\"$undefined\":true}", out),
        _ => return Err(JsonError::Malformed("an element has a type that does not exist")),
    }
    Ok(())
}

fn write_scoped<const EXTENDED: bool>(
    code: &[u8],
    scope: &mut Bytes<'_>,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    if !EXTENDED {
        scalar::write_string(code, out);
        return scope.document().map(|_| ());
    }
    out.extend_from_slice(b"{\"$code\":");
    scalar::write_string(code, out);
    out.extend_from_slice(b",\"$scope\":");
    write_object::<true>(scope, false, depth, out)?;
    out.push(b'}');
    Ok(())
}

fn write_ref<const EXTENDED: bool>(
    value: RawBsonRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    match value {
        RawBsonRef::Document(document) => {
            write_object::<EXTENDED>(&mut Bytes::new(document.as_bytes()), false, 1, out)?;
        }
        RawBsonRef::Array(array) => {
            write_array::<EXTENDED>(&mut Bytes::new(array.as_bytes()), 1, out)?;
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            let mut scope = Bytes::new(code.scope.as_bytes());
            write_scoped::<EXTENDED>(code.code.as_bytes(), &mut scope, 1, out)?;
        }
        RawBsonRef::String(text) => scalar::write_string(text.as_bytes(), out),
        RawBsonRef::Int32(int) => scalar::write_int32::<EXTENDED>(int, out),
        RawBsonRef::Int64(int) => scalar::write_int64::<EXTENDED>(int, out),
        RawBsonRef::Double(double) => scalar::write_double::<EXTENDED>(double, out),
        RawBsonRef::DateTime(date) => {
            scalar::write_date::<EXTENDED>(date.timestamp_millis(), out);
        }
        RawBsonRef::ObjectId(id) => scalar::write_object_id::<EXTENDED>(id.bytes(), out),
        RawBsonRef::Boolean(value) => scalar::write_bool(value, out),
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Binary(binary) => {
            scalar::write_binary::<EXTENDED>(binary.subtype.into(), binary.bytes, out);
        }
        RawBsonRef::Decimal128(decimal) => {
            scalar::write_decimal::<EXTENDED>(decimal.bytes(), out);
        }
        RawBsonRef::Timestamp(time) => {
            scalar::write_timestamp::<EXTENDED>(time.time, time.increment, out);
        }
        RawBsonRef::RegularExpression(regex) => {
            let (pattern, flags) = (regex.pattern.as_str(), regex.options.as_str());
            scalar::write_regex::<EXTENDED>(pattern.as_bytes(), flags.as_bytes(), out);
        }
        RawBsonRef::JavaScriptCode(code) => {
            scalar::write_code::<EXTENDED>(code.as_bytes(), out);
        }
        RawBsonRef::Symbol(text) => scalar::write_symbol::<EXTENDED>(text.as_bytes(), out),
        RawBsonRef::DbPointer(pointer) => {
            let (namespace, id) = crate::change::text::db_pointer_parts(pointer);
            scalar::write_db_pointer::<EXTENDED>(namespace.as_bytes(), id, out);
        }
        RawBsonRef::MinKey => scalar::write_odd::<EXTENDED>(b"{\"$minKey\":1}", out),
        RawBsonRef::MaxKey => scalar::write_odd::<EXTENDED>(b"{\"$maxKey\":1}", out),
        RawBsonRef::Undefined => scalar::write_odd::<EXTENDED>(b"{\"$undefined\":true}", out),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
