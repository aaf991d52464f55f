//! Raw `insert`, `update` and `delete` commands.
//!
//! Documents go as the bytes that they are. What is there already is replaced by the classic kind of
//! update: one by a pipeline has the server work out a difference, and a server dies of that where the
//! stored document has a name twice. Only what is not there is made by a pipeline, which neither reads
//! names as operators nor fills in empty timestamps (`$literal`).
//!
//! Every command bears the number of its attempt (`fence`), and around each write but an insert stands
//! what makes one that comes late harmless: by the server's own clock it fails once its time is over.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, spec::ElementType};

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

    /// `{_id: {$eq: value}}` of `{_id: value}`, without the outer braces: a value that looks like an
    /// operator is none there, and a regular expression equals itself alone.
    fn equal(&mut self, id: &RawDocument) {
        let bytes = id.as_bytes();
        let open = self.document("_id");
        self.0.push(bytes[4]);
        self.0.extend_from_slice(b"$eq\0");
        self.0.extend_from_slice(&bytes[4 + 1 + "_id".len() + 1..bytes.len() - 1]);
        self.close(open);
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
    /// See [`super::fence`].
    pub run: &'a str,
    /// The attempt's number in its session.
    pub number: i64,
    /// The server gives up after so long.
    pub max_time_ms: i64,
    /// By the server's clock.
    pub deadline: bson::DateTime,
    /// Whether the collection compares texts by a language, so that an `_id` finds others too.
    pub collated: bool,
}

/// What is done to one document.
#[derive(Clone, Copy)]
pub(super) enum Write<'a> {
    /// The document, where there is none with its `_id`.
    Insert(&'a RawDocument),
    /// `{_id}` as the document has it, and the document: in the stead of the one that is there.
    Replace(&'a RawDocument, &'a RawDocument),
    /// The same, where there is none.
    Fill(&'a RawDocument, &'a RawDocument),
    /// `{_id}`
    Remove(&'a RawDocument),
    /// `{_id}`: nothing, where it would be.
    Nothing(&'a RawDocument),
}

impl Write<'_> {
    /// Bytes in a command, not too few.
    pub fn size(&self) -> usize {
        match self {
            Write::Insert(document) => document.as_bytes().len() + 16,
            Write::Replace(id, document) | Write::Fill(id, document) => {
                guarded(id) + document.as_bytes().len()
            }
            Write::Remove(id) | Write::Nothing(id) => guarded(id),
        }
    }
}

/// Bytes of an entry around the document, not too few: in a collection that compares by a language each
/// text in the `_id` is compared on its own, at the end of a path of its own.
fn guarded(id: &RawDocument) -> usize {
    let bytes = id.as_bytes().len();
    match id.get("_id") {
        Ok(Some(RawBsonRef::Document(_))) => 60 * bytes + 500,
        _ => 2 * bytes + 500,
    }
}

/// Whether only a pipeline stores a document as it is: other writes read a name with a dollar as an
/// operator, and fill in empty timestamps, at the top level.
pub(super) fn is_odd(document: &RawDocument) -> bool {
    document.iter_elements().flatten().any(|element| {
        element.key().as_str().starts_with('$')
            || (element.element_type() == ElementType::Timestamp
                && matches!(
                    element.value(),
                    Ok(RawBsonRef::Timestamp(Timestamp { time: 0, increment: 0 }))
                ))
    })
}

/// One command, of writes of one kind.
pub(super) fn command(around: &Around<'_>, writes: &[Write<'_>]) -> RawDocumentBuf {
    let size: usize = writes.iter().map(Write::size).sum();
    let mut writer = Writer(Vec::with_capacity(size + 512));
    let all = writer.open();
    let (verb, list) = match writes.first() {
        Some(Write::Insert(_)) => ("insert", "documents"),
        Some(Write::Remove(_) | Write::Nothing(_)) => ("delete", "deletes"),
        _ => ("update", "updates"),
    };
    writer.text(verb, around.collection);
    let entries = writer.array(list);
    let mut number = itoa::Buffer::new();
    for (index, write) in writes.iter().enumerate() {
        let name = number.format(index);
        if let Write::Insert(document) = write {
            writer.raw(name, document);
            continue;
        }
        let entry = writer.document(name);
        match write {
            Write::Replace(id, document) => {
                found(&mut writer, id, around);
                writer.raw("u", document);
            }
            Write::Fill(id, document) => fill(&mut writer, id, document, around.deadline),
            Write::Remove(id) => {
                found(&mut writer, id, around);
                writer.int("limit", 1);
            }
            Write::Nothing(id) => {
                nothing(&mut writer, id);
                writer.int("limit", 1);
            }
            Write::Insert(_) => {}
        }
        writer.close(entry);
    }
    writer.close(entries);
    writer.boolean("ordered", false);
    if verb != "delete" {
        writer.boolean("bypassDocumentValidation", true);
    }
    let concern = writer.document("writeConcern");
    writer.text("w", "majority");
    writer.long("wtimeout", around.max_time_ms);
    writer.close(concern);
    writer.long("maxTimeMS", around.max_time_ms);
    writer.long("txnNumber", around.number);
    writer.text("comment", around.run);
    writer.close(all);
    RawDocumentBuf::from_bytes(writer.0).expect("lengths are those of what was written")
}

/// `{q: {_id: {$eq}, $nor: [{}]}, u: [{$replaceWith: {$cond: [in time, {$literal: document}, null]}}], upsert:
/// true}`: it finds nothing, so it never replaces; what is no document ends in an error.
fn fill(writer: &mut Writer, id: &RawDocument, document: &RawDocument, deadline: bson::DateTime) {
    nothing(writer, id);
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

/// `{q: {_id: {$eq}, $nor: [{}]}}`: it finds nothing.
fn nothing(writer: &mut Writer, id: &RawDocument) {
    let query = writer.document("q");
    writer.equal(id);
    let none = writer.array("$nor");
    let all = writer.document("0");
    writer.close(all);
    writer.close(none);
    writer.close(query);
}

/// `{q: {_id: {$eq}, $expr: {$cond: [in time, true, {$toInt: …}]}}}`: an error where the document is there;
/// without one, a write that came late would look like one of nothing.
fn found(writer: &mut Writer, id: &RawDocument, around: &Around<'_>) {
    let query = writer.document("q");
    writer.equal(id);
    let expression = writer.document("$expr");
    let condition = writer.array("$cond");
    writer.in_time("0", around.deadline);
    let mut texts = Vec::new();
    if let (true, Ok(Some(id))) = (around.collated, id.get("_id")) {
        texts_within(id, &mut Vec::new(), &mut texts);
    }
    match texts.is_empty() {
        true => writer.boolean("1", true),
        false => exactly(writer, "1", &texts),
    }
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
}

/// One step from a value into it.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Element(i32),
}

/// The texts in an `_id`, and how to come to each.
fn texts_within<'a>(
    value: RawBsonRef<'a>,
    path: &mut Vec<Step<'a>>,
    found: &mut Vec<(Vec<Step<'a>>, &'a str)>,
) {
    match value {
        RawBsonRef::String(text) => found.push((path.clone(), text)),
        RawBsonRef::Document(document) => {
            for (name, value) in document.into_iter().flatten() {
                path.push(Step::Field(name.as_str()));
                texts_within(value, path, found);
                path.pop();
            }
        }
        RawBsonRef::Array(items) => {
            for (at, value) in (0..).zip(items.into_iter().flatten()) {
                path.push(Step::Element(at));
                texts_within(value, path, found);
                path.pop();
            }
        }
        _ => {}
    }
}

/// That the texts in the `_id` have these very bytes. Every other comparison goes by the collection's
/// language.
fn exactly(writer: &mut Writer, name: &str, texts: &[(Vec<Step<'_>>, &str)]) {
    let both = writer.document(name);
    let conditions = writer.array("$and");
    let mut number = itoa::Buffer::new();
    for (at, (path, text)) in texts.iter().enumerate() {
        let equal = writer.document(number.format(2 * at));
        let operands = writer.array("$eq");
        let call = writer.document("0");
        let arguments = writer.array("$indexOfBytes");
        stored(writer, "0", path);
        let literal = writer.document("1");
        writer.text("$literal", text);
        writer.close(literal);
        writer.close(arguments);
        writer.close(call);
        writer.long("1", 0);
        writer.close(operands);
        writer.close(equal);

        let equal = writer.document(number.format(2 * at + 1));
        let operands = writer.array("$eq");
        let call = writer.document("0");
        stored(writer, "$strLenBytes", path);
        writer.close(call);
        writer.long("1", i64::try_from(text.len()).unwrap_or(-1));
        writer.close(operands);
        writer.close(equal);
    }
    writer.close(conditions);
    writer.close(both);
}

/// What the stored `_id` holds there.
fn stored(writer: &mut Writer, name: &str, path: &[Step<'_>]) {
    match path.split_last() {
        None => writer.text(name, "$_id"),
        Some((Step::Element(at), above)) => {
            let call = writer.document(name);
            let arguments = writer.array("$arrayElemAt");
            stored(writer, "0", above);
            writer.int("1", *at);
            writer.close(arguments);
            writer.close(call);
        }
        Some((Step::Field(field), above)) => {
            let outer = writer.document(name);
            let call = writer.document("$let");
            let variables = writer.document("vars");
            stored(writer, "of", above);
            writer.close(variables);
            if field.is_empty() || field.starts_with('$') || field.contains('.') {
                let own = writer.document("in");
                let call = writer.document("$getField");
                let literal = writer.document("field");
                writer.text("$literal", field);
                writer.close(literal);
                writer.text("input", "$$of");
                writer.close(call);
                writer.close(own);
            } else {
                writer.text("in", &format!("$$of.{field}"));
            }
            writer.close(call);
            writer.close(outer);
        }
    }
}

/// What the error of a replacement or removal that came late says.
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
mod tests;
