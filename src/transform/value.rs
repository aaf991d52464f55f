//! BSON ↔ the engine's values.
//!
//! What the language has itself (integers, floats, booleans, texts, arrays) becomes that; everything
//! else is a value of a type of its own, and a document a [`View`]. The engine lets every value carry
//! a small number: it says of an integer that it was stored as an Int64, and of `()` that it was
//! stored as undefined, so that what is only moved is written as it was.

use std::{any::TypeId, fmt};

use bson::{DateTime, Decimal128, Timestamp, Uuid, oid::ObjectId};
use bytes::Bytes;
use rhai::{Array, Blob, Dynamic, ImmutableString, Map};

use super::{
    failure::{Answer, refuse},
    raw::{self, kind},
    view::{View, malformed},
};

/// The size of the largest document that MongoDB returns, and of what a script may make.
pub(super) const MAX_SIZE: usize = (16 << 20) + (16 << 10);

const LONG: i32 = 1;
const UNDEFINED: i32 = 2;
const UUID_SUBTYPE: u8 = 4;
const OLD_BINARY: u8 = 2;

/// What a value is written over, where it is.
pub(super) type Over<'a> = Option<(u8, &'a [u8])>;

/// Bytes with a subtype.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Binary {
    pub subtype: u8,
    /// As stored: subtype 2 has its length once more at the front.
    stored: Bytes,
}

impl Binary {
    /// Bytes without a meaning.
    pub fn generic(bytes: Bytes) -> Self {
        Self { subtype: 0, stored: bytes }
    }

    /// The bytes that are meant.
    pub fn bytes(&self) -> &[u8] {
        let inner = (self.subtype == OLD_BINARY).then(|| self.stored.get(4..)).flatten();
        inner.unwrap_or(&self.stored)
    }
}

/// A value that a script can only look at and move: regex, code, symbol, MinKey, MaxKey, DBPointer,
/// and text that is not UTF-8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Other {
    pub kind: u8,
    pub bytes: Bytes,
}

impl Other {
    /// A regex's pattern and options.
    pub fn regex(&self) -> Option<(String, String)> {
        if self.kind != kind::REGEX {
            return None;
        }
        let mut parts = self.bytes.split(|byte| *byte == 0);
        let mut part = || parts.next().map(|part| String::from_utf8_lossy(part).into_owned());
        Some((part()?, part()?))
    }

    /// The characters of code, a symbol or a text.
    pub fn text(&self) -> Option<String> {
        match self.kind {
            kind::STRING | kind::SYMBOL | kind::CODE => {
                let end = self.bytes.len().checked_sub(1)?;
                Some(String::from_utf8_lossy(self.bytes.get(4..end)?).into_owned())
            }
            kind::CODE_WITH_SCOPE => {
                let size = raw::length(self.bytes.get(4..)?)?;
                let end = size.checked_add(7)?;
                Some(String::from_utf8_lossy(self.bytes.get(8..end)?).into_owned())
            }
            _ => None,
        }
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.regex(), self.text()) {
            (Some((pattern, options)), _) => write!(f, "/{pattern}/{options}"),
            (None, Some(text)) => f.write_str(&text),
            (None, None) => f.write_str(raw::name(self.kind)),
        }
    }
}

/// Reads the value of an element that lies in `bytes`.
pub(super) fn read(
    element: u8,
    bytes: &Bytes,
    (start, end): (usize, usize),
    most: usize,
) -> Answer<Dynamic> {
    let stored = &bytes[start..end];
    Ok(match element {
        kind::STRING => match raw::text(stored) {
            Some(text) => Dynamic::from(ImmutableString::from(text)),
            None => other(element, bytes, start, end),
        },
        kind::INT32 => Dynamic::from_int(i32::from_le_bytes(raw::fixed(stored)).into()),
        kind::INT64 => {
            let mut value = Dynamic::from_int(i64::from_le_bytes(raw::fixed(stored)));
            value.set_tag(LONG);
            value
        }
        kind::DOUBLE => Dynamic::from_float(f64::from_le_bytes(raw::fixed(stored))),
        kind::BOOLEAN => Dynamic::from_bool(stored[0] != 0),
        kind::NULL => Dynamic::UNIT,
        kind::UNDEFINED => {
            let mut value = Dynamic::UNIT;
            value.set_tag(UNDEFINED);
            value
        }
        kind::DOCUMENT => {
            let document = bytes.slice(start..end);
            if document.len() < 5 || document[document.len() - 1] != 0 {
                return Err(malformed(raw::Malformed));
            }
            Dynamic::from(View::new(document, most))
        }
        kind::ARRAY => Dynamic::from_array(read_array(&bytes.slice(start..end), most)?),
        kind::OBJECT_ID => Dynamic::from(ObjectId::from_bytes(raw::fixed(stored))),
        kind::DATE => Dynamic::from(DateTime::from_millis(i64::from_le_bytes(raw::fixed(stored)))),
        kind::DECIMAL => Dynamic::from(Decimal128::from_bytes(raw::fixed(stored))),
        kind::TIMESTAMP => {
            let bits = u64::from_le_bytes(raw::fixed(stored));
            Dynamic::from(Timestamp { time: (bits >> 32) as u32, increment: bits as u32 })
        }
        kind::BINARY => {
            let subtype = stored[4];
            match <[u8; 16]>::try_from(&stored[5..]) {
                Ok(uuid) if subtype == UUID_SUBTYPE => Dynamic::from(Uuid::from_bytes(uuid)),
                _ => Dynamic::from(Binary { subtype, stored: bytes.slice(start + 5..end) }),
            }
        }
        _ => other(element, bytes, start, end),
    })
}

fn other(element: u8, bytes: &Bytes, start: usize, end: usize) -> Dynamic {
    Dynamic::from(Other { kind: element, bytes: bytes.slice(start..end) })
}

fn read_array(bytes: &Bytes, most: usize) -> Answer<Array> {
    let mut array = Array::new();
    // An array within an array is turned too: bounded, because the bytes are not to be trusted.
    check_nesting(bytes)?;
    for element in raw::elements(bytes) {
        let element = element.map_err(malformed)?;
        array.push(read(element.kind, bytes, element.value, most)?);
    }
    Ok(array)
}

fn check_nesting(bytes: &[u8]) -> Answer<()> {
    let mut inner = raw::elements(bytes);
    let nests = inner.any(|element| element.is_ok_and(|element| element.kind == kind::ARRAY));
    if nests && !raw::shallow_enough(bytes).map_err(malformed)? {
        return Err(too_deep());
    }
    Ok(())
}

/// How deep documents and arrays nest in what a script made; 0 for a plain value.
///
/// # Errors
/// Where they nest deeper than a document may.
pub(super) fn depth(value: &Dynamic) -> Answer<usize> {
    fn walk(value: &Dynamic, level: usize) -> Answer<usize> {
        if level > raw::MAX_DEPTH {
            return Err(too_deep());
        }
        let mut deepest = 0;
        if let Some(view) = value.read_lock::<View>() {
            return Ok(view.depth());
        } else if let Ok(array) = value.as_array_ref() {
            for item in array.iter() {
                deepest = deepest.max(walk(item, level + 1)?);
            }
        } else if let Ok(map) = value.as_map_ref() {
            for item in map.values() {
                deepest = deepest.max(walk(item, level + 1)?);
            }
        } else {
            return Ok(0);
        }
        Ok(deepest + 1)
    }
    if value.is_int() || value.is_string() || value.is_float() || value.is_bool() {
        return Ok(0);
    }
    walk(value, 0)
}

/// A value nests too deep.
pub(super) fn too_deep() -> Box<rhai::EvalAltResult> {
    refuse(format!("the document nests deeper than {} levels", raw::MAX_DEPTH))
}

/// Refuses what is larger than a document may be.
pub(super) fn check_size(size: usize) -> Answer<()> {
    if size > MAX_SIZE {
        return Err(refuse("the document is larger than 16 MiB, which is MongoDB's own limit"));
    }
    Ok(())
}

/// Writes the length of a document or an array that begins at `start` and is complete.
pub(super) fn close(out: &mut [u8], start: usize) -> Answer<()> {
    check_size(out.len())?;
    let length = i32::try_from(out.len() - start).expect("the size was checked");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Appends an element.
///
/// # Errors
/// For a value that no document can hold, such as a function, and past the bounds of size and depth.
pub(super) fn write_element(
    name: &[u8],
    value: &Dynamic,
    over: Over<'_>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Answer<()> {
    if name.contains(&0) {
        return Err(refuse("the name of a field can't hold a zero character"));
    }
    check_size(out.len())?;
    let at = out.len();
    out.push(0);
    out.extend_from_slice(name);
    out.push(0);
    out[at] = write_value(value, over, out, depth)?;
    Ok(())
}

/// Appends a text as it is stored, and gives its kind.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) -> Answer<u8> {
    check_size(out.len() + text.len())?;
    let length = i32::try_from(text.len() + 1).expect("the size was checked");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    Ok(kind::STRING)
}

fn write_binary(subtype: u8, bytes: &[u8], out: &mut Vec<u8>) -> Answer<u8> {
    check_size(out.len() + bytes.len())?;
    let length = i32::try_from(bytes.len()).expect("the size was checked");
    out.extend_from_slice(&length.to_le_bytes());
    out.push(subtype);
    out.extend_from_slice(bytes);
    Ok(kind::BINARY)
}

/// Appends the value alone and gives its kind.
fn write_value(value: &Dynamic, over: Over<'_>, out: &mut Vec<u8>, depth: usize) -> Answer<u8> {
    if let Ok(text) = value.as_immutable_string_ref() {
        return write_text(&text, out);
    }
    if let Ok(int) = value.as_int() {
        let long = value.tag() == LONG || over.is_some_and(|(kind, _)| kind == kind::INT64);
        return Ok(match i32::try_from(int) {
            Ok(short) if !long => {
                out.extend_from_slice(&short.to_le_bytes());
                kind::INT32
            }
            _ => {
                out.extend_from_slice(&int.to_le_bytes());
                kind::INT64
            }
        });
    }
    if let Ok(float) = value.as_float() {
        out.extend_from_slice(&float.to_le_bytes());
        return Ok(kind::DOUBLE);
    }
    if let Ok(boolean) = value.as_bool() {
        out.push(boolean.into());
        return Ok(kind::BOOLEAN);
    }
    if value.is_unit() {
        return Ok(if value.tag() == UNDEFINED { kind::UNDEFINED } else { kind::NULL });
    }
    if let Ok(character) = value.as_char() {
        return write_text(character.encode_utf8(&mut [0; 4]), out);
    }
    if depth >= raw::MAX_DEPTH {
        return Err(too_deep());
    }
    if let Ok(array) = value.as_array_ref() {
        let over = over.filter(|(kind, _)| *kind == kind::ARRAY).map(|(_, bytes)| bytes);
        write_array(&array, over, out, depth + 1)?;
        return Ok(kind::ARRAY);
    }
    if let Ok(map) = value.as_map_ref() {
        write_map(&map, out, depth + 1)?;
        return Ok(kind::DOCUMENT);
    }
    write_custom(value, out, depth)
}

fn write_custom(value: &Dynamic, out: &mut Vec<u8>, depth: usize) -> Answer<u8> {
    if let Some(view) = value.read_lock::<View>() {
        view.write(out, depth + 1)?;
        return Ok(kind::DOCUMENT);
    }
    if let Some(id) = value.read_lock::<ObjectId>() {
        out.extend_from_slice(&id.bytes());
        return Ok(kind::OBJECT_ID);
    }
    if let Some(date) = value.read_lock::<DateTime>() {
        out.extend_from_slice(&date.timestamp_millis().to_le_bytes());
        return Ok(kind::DATE);
    }
    if let Some(decimal) = value.read_lock::<Decimal128>() {
        out.extend_from_slice(&decimal.bytes());
        return Ok(kind::DECIMAL);
    }
    if let Some(timestamp) = value.read_lock::<Timestamp>() {
        let bits = u64::from(timestamp.time) << 32 | u64::from(timestamp.increment);
        out.extend_from_slice(&bits.to_le_bytes());
        return Ok(kind::TIMESTAMP);
    }
    if let Some(uuid) = value.read_lock::<Uuid>() {
        return write_binary(UUID_SUBTYPE, &uuid.bytes(), out);
    }
    if let Some(binary) = value.read_lock::<Binary>() {
        return write_binary(binary.subtype, &binary.stored, out);
    }
    if let Some(other) = value.read_lock::<Other>() {
        check_size(out.len() + other.bytes.len())?;
        out.extend_from_slice(&other.bytes);
        return Ok(other.kind);
    }
    if value.type_id() == TypeId::of::<Blob>() {
        let blob = value.as_blob_ref().expect("it is of that type");
        return write_binary(0, &blob, out);
    }
    Err(refuse(format!("a document can't hold a value of type {}", value.type_name())))
}

fn write_array(array: &Array, over: Option<&[u8]>, out: &mut Vec<u8>, depth: usize) -> Answer<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut before = over.map(raw::elements);
    let mut index = itoa::Buffer::new();
    for (at, item) in array.iter().enumerate() {
        let stored = before.as_mut().and_then(Iterator::next).and_then(Result::ok);
        let stored = stored.zip(over).map(|(item, over)| (item.kind, item.value_in(over)));
        write_element(index.format(at).as_bytes(), item, stored, out, depth)?;
    }
    out.push(0);
    close(out, start)
}

/// Appends a map as a document, its names in the map's order.
pub(super) fn write_map(map: &Map, out: &mut Vec<u8>, depth: usize) -> Answer<()> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    for (name, value) in map {
        write_element(name.as_bytes(), value, None, out, depth)?;
    }
    out.push(0);
    close(out, start)
}

/// Any value as a kind and its bytes.
pub(super) fn stored(value: &Dynamic) -> Answer<(u8, Bytes)> {
    let mut out = Vec::new();
    let kind = write_value(value, None, &mut out, 0)?;
    Ok((kind, out.into()))
}
