//! An event as a document of an index or a data stream.

use crate::{
    change::{ClusterTime, text::rfc3339},
    target::{
        Appended,
        event::{write_change, write_optional},
        json::{Mode, Options},
    },
};

use super::encode::write_text;

/// Appends the document of an event. A data stream wants `@timestamp`: when the event happened, for a
/// copied document when the copy began.
///
/// # Errors
/// Where a document in it is not BSON; `body` is then longer than before.
pub(super) fn write(
    told: &Appended,
    time: ClusterTime,
    mode: Mode,
    body: &mut Vec<u8>,
) -> Result<(), String> {
    let Appended { namespace, document_id, wall_time, event, document, .. } = told;
    let second = i64::from(time.seconds()) * 1000;
    let at = wall_time.map_or(second, |wall_time| wall_time.timestamp_millis());
    let at =
        rfc3339(at).or_else(|| rfc3339(second)).expect("seconds of 32 bits end in the year 2106");
    body.extend_from_slice(b"{\"@timestamp\":\"");
    body.extend_from_slice(&at);
    body.extend_from_slice(b"\",\"op\":");
    write_text(event.op.as_str(), body);
    body.extend_from_slice(b",\"ns\":");
    write_text(namespace.as_str(), body);
    // As text: collections of one log may have ids of several types, a field of an index has one.
    body.extend_from_slice(b",\"id\":");
    write_text(document_id, body);
    body.extend_from_slice(b",\"cluster_time\":");
    write_text(&time.to_string(), body);
    body.extend_from_slice(if event.copy { b",\"copy\":true" } else { b",\"copy\":false" });
    body.extend_from_slice(b",\"document\":");
    // Nor is the `_id` within of one type.
    let options = Options { mode, skip_id: true };
    write_optional(document.as_ref(), options, body)?;
    body.push(b',');
    write_change(event, options, body)?;
    body.push(b'}');
    Ok(())
}
