//! Relaxed Extended JSON of one value, with numbers by value, so that values that MongoDB calls
//! equal have the same text. Ids and messages are made of it; documents that are delivered are not.

use base64::{Engine, prelude::BASE64_STANDARD};
use bson::{RawBsonRef, RawDocument};

use crate::change::{
    number::Number,
    text::{db_pointer_parts, escape_into, object_id_hex, rfc3339, write_hex},
};

/// The first field of every object that stands for a value which is no document.
const WRAPPERS: [&str; 12] = [
    "$oid",
    "$numberDecimal",
    "$numberDouble",
    "$date",
    "$binary",
    "$timestamp",
    "$regularExpression",
    "$code",
    "$dbPointer",
    "$minKey",
    "$maxKey",
    "$undefined",
];

const READ_BEFORE: &str = "a document key is read when it is made";

/// Appends the text of a value that belongs to a [`DocumentKey`](super::DocumentKey), so that all
/// of it has been read before.
///
/// Says whether no unequal value has the same text. Where that is not so, a document looks like
/// the object that stands for another type (`{"$oid": …}`).
pub(crate) fn write_relaxed(value: RawBsonRef<'_>, out: &mut Vec<u8>) -> bool {
    match value {
        RawBsonRef::Document(document) => return write_document(document, out),
        RawBsonRef::Array(array) => {
            let mut distinct = true;
            out.push(b'[');
            for (index, item) in array.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                distinct &= write_relaxed(item.expect(READ_BEFORE), out);
            }
            out.push(b']');
            return distinct;
        }
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            out.extend_from_slice(b"{\"$code\":");
            write_string(code.code, out);
            out.extend_from_slice(b",\"$scope\":");
            let distinct = write_document(code.scope, out);
            out.push(b'}');
            return distinct;
        }
        RawBsonRef::Int32(_)
        | RawBsonRef::Int64(_)
        | RawBsonRef::Double(_)
        | RawBsonRef::Decimal128(_) => {
            write_number(Number::of(value).expect("these four are numbers"), out);
        }
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => write_string(text, out),
        RawBsonRef::Boolean(true) => out.extend_from_slice(b"true"),
        RawBsonRef::Boolean(false) => out.extend_from_slice(b"false"),
        RawBsonRef::Null => out.extend_from_slice(b"null"),
        RawBsonRef::Undefined => out.extend_from_slice(b"{\"$undefined\":true}"),
        RawBsonRef::MinKey => out.extend_from_slice(b"{\"$minKey\":1}"),
        RawBsonRef::MaxKey => out.extend_from_slice(b"{\"$maxKey\":1}"),
        RawBsonRef::ObjectId(id) => write_object_id(id.bytes(), out),
        RawBsonRef::DateTime(date) => {
            out.extend_from_slice(b"{\"$date\":");
            match rfc3339(date.timestamp_millis()) {
                Some(text) => {
                    out.push(b'"');
                    out.extend_from_slice(&text);
                    out.push(b'"');
                }
                None => {
                    out.extend_from_slice(b"{\"$numberLong\":\"");
                    write_int(date.timestamp_millis(), out);
                    out.extend_from_slice(b"\"}");
                }
            }
            out.push(b'}');
        }
        RawBsonRef::Binary(binary) => {
            out.extend_from_slice(b"{\"$binary\":{\"base64\":\"");
            out.extend_from_slice(BASE64_STANDARD.encode(binary.bytes).as_bytes());
            out.extend_from_slice(b"\",\"subType\":\"");
            write_hex(&[binary.subtype.into()], out);
            out.extend_from_slice(b"\"}}");
        }
        RawBsonRef::Timestamp(time) => {
            out.extend_from_slice(b"{\"$timestamp\":{\"t\":");
            write_int(time.time, out);
            out.extend_from_slice(b",\"i\":");
            write_int(time.increment, out);
            out.extend_from_slice(b"}}");
        }
        RawBsonRef::RegularExpression(regex) => {
            out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
            write_string(regex.pattern.as_str(), out);
            out.extend_from_slice(b",\"options\":");
            write_string(regex.options.as_str(), out);
            out.extend_from_slice(b"}}");
        }
        RawBsonRef::JavaScriptCode(code) => {
            out.extend_from_slice(b"{\"$code\":");
            write_string(code, out);
            out.push(b'}');
        }
        RawBsonRef::DbPointer(pointer) => {
            let (namespace, id) = db_pointer_parts(pointer);
            out.extend_from_slice(b"{\"$dbPointer\":{\"$ref\":");
            write_string(&namespace, out);
            out.extend_from_slice(b",\"$id\":");
            write_object_id(id, out);
            out.extend_from_slice(b"}}");
        }
    }
    true
}

fn write_document(document: &RawDocument, out: &mut Vec<u8>) -> bool {
    let mut distinct = true;
    out.push(b'{');
    for (index, field) in document.into_iter().enumerate() {
        let (name, value) = field.expect(READ_BEFORE);
        if index > 0 {
            out.push(b',');
        } else if WRAPPERS.contains(&name.as_str()) {
            distinct = false;
        }
        write_string(name.as_str(), out);
        out.push(b':');
        distinct &= write_relaxed(value, out);
    }
    out.push(b'}');
    distinct
}

fn write_number(number: Number, out: &mut Vec<u8>) {
    let (before, after): (&[u8], &[u8]) = match number {
        Number::Decimal { .. } => (b"{\"$numberDecimal\":\"", b"\"}"),
        Number::Double(double) if !double.is_finite() => (b"{\"$numberDouble\":\"", b"\"}"),
        Number::Int(_) | Number::Double(_) => (b"", b""),
    };
    out.extend_from_slice(before);
    number.write(out);
    out.extend_from_slice(after);
}

fn write_object_id(bytes: [u8; 12], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"$oid\":\"");
    out.extend_from_slice(&object_id_hex(bytes));
    out.extend_from_slice(b"\"}");
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

fn write_int(int: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
}
