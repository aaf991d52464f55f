//! The JSON of each BSON type that holds no other values: plain, or, with `EXTENDED`, canonical
//! Extended JSON v2.

use base64::{Engine, prelude::BASE64_STANDARD};
use bson::Decimal128;

use crate::change::{
    number::Decimal,
    text::{escape_lossy_into, object_id_hex, rfc3339, uuid_text, write_hex},
};

const UUID: u8 = 4;

/// The inside of a field name, without its quotes.
pub(super) fn write_name(name: &[u8], out: &mut Vec<u8>) {
    escape_lossy_into(name, out);
}

pub(super) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    escape_lossy_into(text, out);
    out.push(b'"');
}

pub(super) fn write_bool(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

pub(super) fn write_int32<const EXTENDED: bool>(int: i32, out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$numberInt\":\"", "\"}", out, |out| write_int(int, out));
}

pub(super) fn write_int64<const EXTENDED: bool>(int: i64, out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$numberLong\":\"", "\"}", out, |out| write_int(int, out));
}

pub(super) fn write_double<const EXTENDED: bool>(double: f64, out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$numberDouble\":\"", "\"}", out, |out| {
        let text = match double {
            f64::INFINITY if EXTENDED => "Infinity",
            f64::NEG_INFINITY if EXTENDED => "-Infinity",
            double if double.is_nan() && EXTENDED => "NaN",
            double if !double.is_finite() => "null",
            // The shortest digits that are read back as this double, with `.0` or an exponent.
            double => {
                return out.extend_from_slice(zmij::Buffer::new().format_finite(double).as_bytes());
            }
        };
        out.extend_from_slice(text.as_bytes());
    });
}

pub(super) fn write_decimal<const EXTENDED: bool>(bytes: [u8; 16], out: &mut Vec<u8>) {
    let decimal = Decimal::decode(Decimal128::from_bytes(bytes));
    write_wrapped::<EXTENDED>("{\"$numberDecimal\":\"", "\"}", out, |out| match decimal {
        Decimal::Finite { .. } => decimal.write(out),
        _ if EXTENDED => decimal.write(out),
        _ => out.extend_from_slice(b"null"),
    });
}

pub(super) fn write_date<const EXTENDED: bool>(millis: i64, out: &mut Vec<u8>) {
    if EXTENDED {
        out.extend_from_slice(b"{\"$date\":");
        write_int64::<true>(millis, out);
        out.push(b'}');
    } else if let Some(text) = rfc3339(millis) {
        write_quoted(&text, out);
    } else {
        write_int(millis, out);
    }
}

pub(super) fn write_object_id<const EXTENDED: bool>(bytes: [u8; 12], out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$oid\":", "}", out, |out| {
        write_quoted(&object_id_hex(bytes), out);
    });
}

pub(super) fn write_binary<const EXTENDED: bool>(subtype: u8, content: &[u8], out: &mut Vec<u8>) {
    if !EXTENDED
        && subtype == UUID
        && let Ok(bytes) = content.try_into()
    {
        return write_quoted(&uuid_text(bytes), out);
    }
    write_wrapped::<EXTENDED>("{\"$binary\":{\"base64\":", "", out, |out| {
        out.push(b'"');
        let start = out.len();
        let length = base64::encoded_len(content.len(), true)
            .expect("a BSON value is far from the end of the address space");
        out.resize(start + length, 0);
        BASE64_STANDARD
            .encode_slice(content, &mut out[start..])
            .expect("the space was made for this length");
        out.push(b'"');
    });
    if EXTENDED {
        out.extend_from_slice(b",\"subType\":\"");
        write_hex(&[subtype], out);
        out.extend_from_slice(b"\"}}");
    }
}

pub(super) fn write_timestamp<const EXTENDED: bool>(time: u32, increment: u32, out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$timestamp\":", "}", out, |out| {
        out.extend_from_slice(b"{\"t\":");
        write_int(time, out);
        out.extend_from_slice(b",\"i\":");
        write_int(increment, out);
        out.push(b'}');
    });
}

pub(super) fn write_regex<const EXTENDED: bool>(pattern: &[u8], flags: &[u8], out: &mut Vec<u8>) {
    if EXTENDED {
        // The specification wants the flags in alphabetical order.
        let mut sorted = flags.to_vec();
        sorted.sort_unstable();
        out.extend_from_slice(b"{\"$regularExpression\":{\"pattern\":");
        write_string(pattern, out);
        out.extend_from_slice(b",\"options\":");
        write_string(&sorted, out);
        out.extend_from_slice(b"}}");
    } else {
        out.extend_from_slice(b"\"/");
        escape_lossy_into(pattern, out);
        out.push(b'/');
        escape_lossy_into(flags, out);
        out.push(b'"');
    }
}

pub(super) fn write_code<const EXTENDED: bool>(code: &[u8], out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$code\":", "}", out, |out| write_string(code, out));
}

pub(super) fn write_symbol<const EXTENDED: bool>(text: &[u8], out: &mut Vec<u8>) {
    write_wrapped::<EXTENDED>("{\"$symbol\":", "}", out, |out| write_string(text, out));
}

/// Plain: the namespace, a colon and the ObjectId, as one string.
pub(super) fn write_db_pointer<const EXTENDED: bool>(
    namespace: &[u8],
    id: [u8; 12],
    out: &mut Vec<u8>,
) {
    if EXTENDED {
        out.extend_from_slice(b"{\"$dbPointer\":{\"$ref\":");
        write_string(namespace, out);
        out.extend_from_slice(b",\"$id\":");
        write_object_id::<true>(id, out);
        out.extend_from_slice(b"}}");
    } else {
        out.push(b'"');
        escape_lossy_into(namespace, out);
        out.push(b':');
        out.extend_from_slice(&object_id_hex(id));
        out.push(b'"');
    }
}

/// A type that has one value, for which JSON has none.
pub(super) fn write_odd<const EXTENDED: bool>(extended: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(if EXTENDED { extended } else { b"null" });
}

fn write_wrapped<const EXTENDED: bool>(
    before: &str,
    after: &str,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>),
) {
    if EXTENDED {
        out.extend_from_slice(before.as_bytes());
    }
    write(out);
    if EXTENDED {
        out.extend_from_slice(after.as_bytes());
    }
}

fn write_quoted<const N: usize>(text: &[u8; N], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text);
    out.push(b'"');
}

fn write_int(int: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes());
}
