//! What an event says, as JSON: the fields that all targets which write JSON have in common.

use crate::change::{Document, event::Happened};

use super::json::{Options, write_document};

/// Appends `"before":…,"updated":…,"removed":[…],"truncated":[…]`, as fields of an object.
///
/// # Errors
/// Where a document is not BSON; `out` is then longer than before.
pub fn write_change(event: &Happened, options: Options, out: &mut Vec<u8>) -> Result<(), String> {
    out.extend_from_slice(b"\"before\":");
    write_optional(event.before.as_ref(), options, out)?;
    out.extend_from_slice(b",\"updated\":");
    write_optional(event.updated.as_ref(), options, out)?;
    out.extend_from_slice(b",\"removed\":");
    write_json(&event.removed, out);
    out.extend_from_slice(b",\"truncated\":[");
    for (at, array) in event.truncated.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"field\":");
        write_json(&array.field, out);
        out.extend_from_slice(b",\"newSize\":");
        write_json(&array.new_size, out);
        out.push(b'}');
    }
    out.push(b']');
    Ok(())
}

/// Appends a document, `null` where there is none.
///
/// # Errors
/// As [`write_change`].
pub fn write_optional(
    document: Option<&Document>,
    options: Options,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    match document {
        Some(document) => {
            write_document(document.raw(), options, out).map_err(|error| error.to_string())
        }
        None => {
            out.extend_from_slice(b"null");
            Ok(())
        }
    }
}

fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("writing to memory does not fail");
}
