//! Raw `update` and `delete` commands.
//!
//! Documents go as the bytes that they are, inside `$literal`, so that the server neither reads field
//! names as operators nor fills in empty timestamps. Around each stands what makes a write that comes
//! late harmless: by the server's own clock it fails once its time is over.

use bson::{RawDocument, RawDocumentBuf, spec::ElementType};

/// Bytes of one command's entries, at the most, but for one that is larger. The server takes 16 MiB
/// and a little more for what stands around a document.
pub(super) const MAX_BYTES: usize = 14 << 20;
/// Entries of one command; the server's own limit is 100,000.
pub(super) const MAX_ENTRIES: usize = 10_000;
/// The largest document that MongoDB takes, in bytes.
pub(super) const MAX_DOCUMENT: usize = 16 << 20;

/// Appends BSON.
#[derive(Default)]
struct Writer(Vec<u8>);

/// A document or array that is still open.
struct Open(usize);

impl Writer {
    fn element(&mut self, kind: ElementType, name: &str) {
        self.0.push(kind as u8);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
    }

    fn open(&mut self) -> Open {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        Open(start)
    }

    fn close(&mut self, open: Open) {
        self.0.push(0);
        let length = u32::try_from(self.0.len() - open.0).unwrap_or(u32::MAX);
        self.0[open.0..open.0 + 4].copy_from_slice(&length.to_le_bytes());
    }

    fn document(&mut self, name: &str) -> Open {
        self.element(ElementType::EmbeddedDocument, name);
        self.open()
    }

    fn array(&mut self, name: &str) -> Open {
        self.element(ElementType::Array, name);
        self.open()
    }

    fn raw(&mut self, name: &str, document: &RawDocument) {
        self.element(ElementType::EmbeddedDocument, name);
        self.0.extend_from_slice(document.as_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.element(ElementType::String, name);
        let length = u32::try_from(text.len() + 1).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn boolean(&mut self, name: &str, value: bool) {
        self.element(ElementType::Boolean, name);
        self.0.push(value.into());
    }

    fn int(&mut self, name: &str, value: i32) {
        self.element(ElementType::Int32, name);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn long(&mut self, name: &str, value: i64) {
        self.element(ElementType::Int64, name);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn null(&mut self, name: &str) {
        self.element(ElementType::Null, name);
    }

    /// `{$lte: ["$$NOW", deadline]}`
    fn in_time(&mut self, name: &str, deadline: bson::DateTime) {
        let condition = self.document(name);
        let operands = self.array("$lte");
        self.text("0", "$$NOW");
        self.element(ElementType::DateTime, "1");
        self.0.extend_from_slice(&deadline.timestamp_millis().to_le_bytes());
        self.close(operands);
        self.close(condition);
    }
}

/// What stands around the entries of a command.
pub(super) struct Around<'a> {
    pub collection: &'a str,
    /// See [`super::connection`].
    pub run: &'a str,
    pub bypass_validation: bool,
    /// The server gives up after so long.
    pub max_time_ms: i64,
    /// By the server's clock.
    pub deadline: bson::DateTime,
}

/// What is done to one document.
pub(super) enum Write<'a> {
    /// `{_id}` as the document has it, and the document.
    Put(&'a RawDocument, &'a RawDocument),
    /// `{_id}`
    Remove(&'a RawDocument),
}

/// One command, of writes of one kind.
pub(super) fn command(around: &Around<'_>, writes: &[Write<'_>]) -> RawDocumentBuf {
    let size: usize = writes
        .iter()
        .map(|write| match write {
            Write::Put(id, document) => id.as_bytes().len() + document.as_bytes().len() + 160,
            Write::Remove(id) => id.as_bytes().len() + 220,
        })
        .sum();
    let mut writer = Writer(Vec::with_capacity(size + 512));
    let all = writer.open();
    let removes = matches!(writes.first(), Some(Write::Remove(_)));
    let (verb, list) = if removes { ("delete", "deletes") } else { ("update", "updates") };
    writer.text(verb, around.collection);
    let entries = writer.array(list);
    let mut number = itoa::Buffer::new();
    for (index, write) in writes.iter().enumerate() {
        let entry = writer.document(number.format(index));
        match write {
            Write::Put(id, document) => put(&mut writer, id, document, around.deadline),
            Write::Remove(id) => remove(&mut writer, id, around.deadline),
        }
        writer.close(entry);
    }
    writer.close(entries);
    writer.boolean("ordered", false);
    if around.bypass_validation && !removes {
        writer.boolean("bypassDocumentValidation", true);
    }
    let concern = writer.document("writeConcern");
    writer.text("w", "majority");
    writer.long("wtimeout", around.max_time_ms);
    writer.close(concern);
    writer.long("maxTimeMS", around.max_time_ms);
    writer.text("comment", around.run);
    writer.close(all);
    RawDocumentBuf::from_bytes(writer.0).expect("lengths are those of what was written")
}

/// `{q: {_id}, u: [{$replaceWith: {$cond: [in time, {$literal: document}, null]}}], upsert: true}`: what
/// is no document ends in an error, on one that is there and on one that is not.
fn put(writer: &mut Writer, id: &RawDocument, document: &RawDocument, deadline: bson::DateTime) {
    writer.raw("q", id);
    let pipeline = writer.array("u");
    let stage = writer.document("0");
    let replacement = writer.document("$replaceWith");
    let condition = writer.array("$cond");
    writer.in_time("0", deadline);
    let literal = writer.document("1");
    writer.raw("$literal", document);
    writer.close(literal);
    writer.null("2");
    writer.close(condition);
    writer.close(replacement);
    writer.close(stage);
    writer.close(pipeline);
    writer.boolean("upsert", true);
}

/// `{q: {_id, $expr: {$cond: [in time, true, {$toInt: …}]}}, limit: 1}`: an error where the document is
/// there; without one, a removal that came late would look like one of nothing.
fn remove(writer: &mut Writer, id: &RawDocument, deadline: bson::DateTime) {
    let query = writer.document("q");
    // The fields of `{_id}`, without length and end.
    let fields = id.as_bytes();
    writer.0.extend_from_slice(&fields[4..fields.len() - 1]);
    let expression = writer.document("$expr");
    let condition = writer.array("$cond");
    writer.in_time("0", deadline);
    writer.boolean("1", true);
    let failing = writer.document("2");
    let number = writer.document("$toInt");
    // Of a field, or the server would work it out when it reads the command.
    let parts = writer.array("$concat");
    writer.text("0", LATE);
    let kind = writer.document("1");
    writer.text("$type", "$_id");
    writer.close(kind);
    writer.close(parts);
    writer.close(number);
    writer.close(failing);
    writer.close(condition);
    writer.close(expression);
    writer.close(query);
    writer.int("limit", 1);
}

/// What the error of a removal that came late says.
pub(super) const LATE: &str = "mongosync: too late, by the server's clock: ";

/// Cuts writes of one kind into as many as one command takes, in order.
pub(super) fn cut(sizes: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, size) in sizes.iter().enumerate() {
        if index > start && (bytes + size > MAX_BYTES || index - start >= MAX_ENTRIES) {
            parts.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < sizes.len() {
        parts.push(start..sizes.len());
    }
    parts
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc, rawdoc};

    use super::*;

    fn around() -> Around<'static> {
        Around {
            collection: "items",
            run: "mongosync shop 1",
            bypass_validation: true,
            max_time_ms: 60_000,
            deadline: bson::DateTime::from_millis(1_000),
        }
    }

    #[test]
    fn a_put_is_a_guarded_replacement() {
        let document = rawdoc! { "_id": 1, "$a": 2 };
        let command = command(&around(), &[Write::Put(&rawdoc! { "_id": 1 }, &document)]);
        let late = doc! { "$lte": ["$$NOW", bson::DateTime::from_millis(1_000)] };
        let literal = doc! { "$literal": { "_id": 1, "$a": 2 } };
        assert_eq!(
            Document::try_from(&*command).expect("a document"),
            doc! {
                "update": "items",
                "updates": [{
                    "q": { "_id": 1 },
                    "u": [{ "$replaceWith": { "$cond": [late, literal, bson::Bson::Null] } }],
                    "upsert": true,
                }],
                "ordered": false,
                "bypassDocumentValidation": true,
                "writeConcern": { "w": "majority", "wtimeout": 60_000_i64 },
                "maxTimeMS": 60_000_i64,
                "comment": "mongosync shop 1",
            }
        );
    }

    #[test]
    fn a_removal_is_guarded_too() {
        let command = command(&around(), &[Write::Remove(&rawdoc! { "_id": "x" })]);
        let read = Document::try_from(&*command).expect("a document");
        let entry = read.get_array("deletes").expect("entries")[0].as_document().expect("one");
        assert_eq!(entry.get_i32("limit").expect("a limit"), 1);
        let query = entry.get_document("q").expect("a query");
        assert_eq!(query.get_str("_id").expect("an _id"), "x");
        let condition = query.get_document("$expr").and_then(|it| it.get_array("$cond"));
        assert_eq!(condition.expect("a condition").len(), 3);
        assert!(!read.contains_key("bypassDocumentValidation"));
    }

    #[test]
    fn a_command_takes_so_much() {
        for (sizes, ends) in [
            (vec![], vec![]),
            (vec![1, 1], vec![2]),
            (vec![MAX_BYTES, 1, MAX_BYTES + 1, 1], vec![1, 2, 3, 4]),
            (vec![1; MAX_ENTRIES + 1], vec![MAX_ENTRIES, MAX_ENTRIES + 1]),
        ] {
            let parts = cut(&sizes);
            let mut start = 0;
            for (part, end) in parts.iter().zip(&ends) {
                assert_eq!((part.start, part.end), (start, *end));
                start = *end;
            }
            assert_eq!(parts.len(), ends.len());
        }
    }
}
