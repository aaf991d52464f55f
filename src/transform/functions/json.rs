//! JSON: `parse_json`, `to_json`, and the text of a document.
//!
//! Values are written as a target that speaks JSON gets them by default. The writer of the targets
//! lies behind this stage and is not to be used from here.

use bson::Decimal128;
use rhai::{Array, Dynamic, Map, Module};
use serde_json::Value;

use super::pure;
use crate::{
    change::{
        number::Decimal,
        text::{escape_into, escape_lossy_into, object_id_hex, rfc3339, uuid_text},
    },
    transform::{
        failure::{Answer, refuse},
        raw::{self, kind},
        value::{self, Other},
        view::malformed,
    },
};

const UUID_SUBTYPE: u8 = 4;
const OLD_BINARY: u8 = 2;

pub(super) fn register(module: &mut Module) {
    pure(module, "to_json", |value: Dynamic| of(&value));
    // The engine has one of its own for maps, which knows no BSON.
    pure(module, "to_json", |map: &mut Map| of(&Dynamic::from_map(map.clone())));
    pure(module, "parse_json", |text: rhai::ImmutableString| -> Answer<Dynamic> {
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("the text is not JSON: {error}")))?;
        Ok(read(value))
    });
}

/// A value as JSON on one line.
pub(super) fn of(value: &Dynamic) -> Answer<String> {
    let (kind, bytes) = value::stored(value)?;
    let mut out = Vec::new();
    write(kind, &bytes, 1, &mut out)?;
    String::from_utf8(out).map_err(refuse)
}

/// A plain value's text: that of its JSON without quotes.
pub(super) fn plain(value: &Dynamic) -> Answer<String> {
    let text = of(value)?;
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    Ok(inner.map_or(text.clone(), str::to_owned))
}

fn read(value: Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(value) => value.into(),
        Value::Number(number) => match number.as_i64() {
            Some(int) => int.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => Dynamic::from_array(items.into_iter().map(read).collect::<Array>()),
        Value::Object(fields) => Dynamic::from_map(
            fields.into_iter().map(|(name, value)| (name.into(), read(value))).collect::<Map>(),
        ),
    }
}

fn write(element: u8, bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Answer<()> {
    if depth > raw::MAX_DEPTH + 1 {
        return Err(value::too_deep());
    }
    match element {
        kind::DOCUMENT | kind::ARRAY => return write_nested(element, bytes, depth, out),
        kind::DOUBLE => {
            let double = f64::from_le_bytes(raw::fixed(bytes));
            if double.is_finite() {
                out.extend_from_slice(zmij::Buffer::new().format(double).as_bytes());
            } else {
                out.extend_from_slice(b"null");
            }
        }
        kind::INT32 | kind::INT64 => {
            let int = raw::integer(element, bytes).unwrap_or_default();
            out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
        }
        kind::BOOLEAN => out.extend_from_slice(if bytes[0] == 0 { b"false" } else { b"true" }),
        kind::STRING => {
            out.push(b'"');
            escape_lossy_into(bytes.get(4..bytes.len() - 1).unwrap_or_default(), out);
            out.push(b'"');
        }
        kind::OBJECT_ID => quoted(&object_id_hex(raw::fixed(bytes)), out),
        kind::DATE => {
            let millis = i64::from_le_bytes(raw::fixed(bytes));
            match rfc3339(millis) {
                Some(text) => quoted(&text, out),
                None => out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes()),
            }
        }
        kind::DECIMAL => match Decimal::decode(Decimal128::from_bytes(raw::fixed(bytes))) {
            decimal @ Decimal::Finite { .. } => decimal.write(out),
            _ => out.extend_from_slice(b"null"),
        },
        kind::TIMESTAMP => {
            let bits = u64::from_le_bytes(raw::fixed(bytes));
            let text = format!("{{\"t\":{},\"i\":{}}}", bits >> 32, bits as u32);
            out.extend_from_slice(text.as_bytes());
        }
        kind::BINARY => {
            let (subtype, payload) = (bytes[4], &bytes[5..]);
            let payload = match subtype {
                OLD_BINARY => payload.get(4..).unwrap_or(payload),
                _ => payload,
            };
            match <[u8; 16]>::try_from(payload) {
                Ok(uuid) if subtype == UUID_SUBTYPE => quoted(&uuid_text(uuid), out),
                _ => quoted(super::digest::encode(payload).as_bytes(), out),
            }
        }
        kind::REGEX | kind::SYMBOL | kind::CODE | kind::CODE_WITH_SCOPE => {
            let other = Other { kind: element, bytes: bytes::Bytes::copy_from_slice(bytes) };
            out.push(b'"');
            escape_into(&other.to_string(), out);
            out.push(b'"');
        }
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}

fn quoted(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

fn write_nested(element: u8, bytes: &[u8], depth: usize, out: &mut Vec<u8>) -> Answer<()> {
    let named = element == kind::DOCUMENT;
    out.push(if named { b'{' } else { b'[' });
    for (at, item) in raw::elements(bytes).enumerate() {
        let item = item.map_err(malformed)?;
        if at > 0 {
            out.push(b',');
        }
        if named {
            out.push(b'"');
            escape_lossy_into(item.name_in(bytes), out);
            out.extend_from_slice(b"\":");
        }
        write(item.kind, item.value_in(bytes), depth + 1, out)?;
    }
    out.push(if named { b'}' } else { b']' });
    Ok(())
}
