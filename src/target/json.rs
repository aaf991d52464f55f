//! Writes raw BSON as JSON. A stand-in with the agreed signature; the real writer takes its place.

use bson::{RawArray, RawBsonRef, RawDocument};

/// Which JSON a document becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The JSON that search engines and people expect.
    Plain,
    /// Canonical Extended JSON v2.
    Extended,
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which JSON.
    pub mode: Mode,
    /// Whether the top-level `_id` is left out.
    pub skip_id: bool,
}

/// The bytes are not a BSON document.
#[derive(Debug, thiserror::Error)]
#[error("the document is not valid BSON")]
pub struct JsonError(#[from] bson::error::Error);

/// Appends the document to `out`.
///
/// # Errors
/// Where the bytes are not BSON; `out` may then hold a part of the document.
pub fn write_document(
    raw: &RawDocument,
    options: Options,
    out: &mut Vec<u8>,
) -> Result<(), JsonError> {
    out.push(b'{');
    let mut first = true;
    for element in raw.iter() {
        let (name, value) = element?;
        if options.skip_id && name == "_id" {
            continue;
        }
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        text(name.as_str(), out);
        out.push(b':');
        write_value(value, options.mode, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_array(raw: &RawArray, mode: Mode, out: &mut Vec<u8>) -> Result<(), JsonError> {
    out.push(b'[');
    for (index, value) in raw.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(value?, mode, out)?;
    }
    out.push(b']');
    Ok(())
}

fn write_value(value: RawBsonRef<'_>, mode: Mode, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match value {
        RawBsonRef::Document(document) => {
            write_document(document, Options { mode, skip_id: false }, out)?;
        }
        RawBsonRef::Array(array) => write_array(array, mode, out)?,
        RawBsonRef::String(string) => text(string, out),
        RawBsonRef::Boolean(value) => out.extend_from_slice(value.to_string().as_bytes()),
        RawBsonRef::Int32(value) => out.extend_from_slice(value.to_string().as_bytes()),
        RawBsonRef::Int64(value) => out.extend_from_slice(value.to_string().as_bytes()),
        RawBsonRef::Double(value) if value.is_finite() => {
            out.extend_from_slice(format!("{value:?}").as_bytes());
        }
        RawBsonRef::ObjectId(id) => text(&id.to_hex(), out),
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}
