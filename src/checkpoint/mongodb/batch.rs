//! Writes as raw `update` and `delete` commands, and what their replies say.
//!
//! Raw commands, because the driver has no bulk write for servers before 8.0, and one upsert at a
//! time is a tenth as fast. The driver does not repeat them; `failure` does. Plain computing.

use std::time::Duration;

use ::mongodb::error::{Error, ErrorKind};
use bson::{Document, RawArrayBuf, RawDocument, RawDocumentBuf, cstr, rawdoc};

use super::failure::DUPLICATE_KEY;
use crate::checkpoint::store::{RecordKey, Table};

/// The most entries of one command.
pub(super) const MAX_ENTRIES: usize = 1000;
/// The most bytes of one command's entries. A command may have 16 MiB, and a single entry is never
/// larger than `MAX_VALUE` and its key.
const MAX_BYTES: usize = 14 << 20;

/// What an entry says besides its value.
pub(super) struct Entry<'a> {
    pub id: String,
    pub name: &'a str,
    pub key: &'a RecordKey,
    /// None in tables that are not fenced.
    pub epoch: Option<i64>,
}

impl Entry<'_> {
    fn filter(&self) -> RawDocumentBuf {
        let mut filter = rawdoc! { "_id": self.id.as_str() };
        if let Some(epoch) = self.epoch {
            filter.append(cstr!("epoch"), rawdoc! { "$not": { "$gt": epoch } });
        }
        filter
    }

    fn record(&self, value: &RawDocument) -> RawDocumentBuf {
        let mut record = rawdoc! { "name": self.name };
        let mut key = RawArrayBuf::new();
        texts(self.key).into_iter().for_each(|text| key.push(text));
        record.append(cstr!("key"), key);
        if let Some(epoch) = self.epoch {
            record.append(cstr!("epoch"), epoch);
        }
        record.append(cstr!("v"), value);
        record
    }
}

/// A key's parts as a person reads them: text as it is, bytes in hex.
pub(super) fn texts(key: &RecordKey) -> Vec<String> {
    let text = |part: &Vec<u8>| match std::str::from_utf8(part) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => part.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    key.0.iter().map(text).collect()
}

/// Entries of one table and one kind that go in one command.
pub(super) struct Batch {
    table: Table,
    removes: bool,
    entries: RawArrayBuf,
    count: usize,
    bytes: usize,
}

impl Batch {
    /// Adds an entry to the last batch of its table and kind that has room, or to a new one: of each kind
    /// they are sent in order, and first what was added first.
    pub(super) fn add(
        batches: &mut Vec<Self>,
        table: Table,
        entry: &Entry<'_>,
        value: Option<&RawDocument>,
    ) {
        let line = match value {
            Some(value) => {
                rawdoc! { "q": entry.filter(), "u": entry.record(value), "upsert": true }
            }
            None => rawdoc! { "q": entry.filter(), "limit": 1 },
        };
        let (removes, size) = (value.is_none(), line.as_bytes().len());
        let last = batches
            .iter_mut()
            .rev()
            .find(|batch| batch.table == table && batch.removes == removes)
            .filter(|batch| batch.count < MAX_ENTRIES && batch.bytes + size <= MAX_BYTES);
        let batch = match last {
            Some(batch) => batch,
            None => {
                let entries = RawArrayBuf::new();
                batches.push(Self { table, removes, entries, count: 0, bytes: 0 });
                batches.last_mut().expect("one was pushed just now")
            }
        };
        batch.entries.push(line);
        batch.count += 1;
        batch.bytes += size;
    }

    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// The command. The server goes through it in order, and one entry that collides does not hold up the
    /// others.
    pub(super) fn command(&self, durable_within: Duration) -> RawDocumentBuf {
        let mut command = RawDocumentBuf::new();
        let (verb, list) = if self.removes {
            (cstr!("delete"), cstr!("deletes"))
        } else {
            (cstr!("update"), cstr!("updates"))
        };
        let within = i64::try_from(durable_within.as_millis()).unwrap_or(i64::MAX);
        command.append(verb, self.table.as_str());
        command.append(list, self.entries.clone());
        command.append(cstr!("ordered"), false);
        command.append(
            cstr!("writeConcern"),
            rawdoc! { "w": "majority", "j": true, "wtimeout": within },
        );
        command
    }
}

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// An entry found its record under a newer epoch, or another write came between.
    pub collided: bool,
}

impl Reply {
    /// Reads the reply to `command`.
    ///
    /// # Errors
    /// What failed other than by collision, and that the writes are not yet durable, as the error
    /// that the server would have given for a single one.
    pub(super) fn read(reply: &Document) -> Result<Self, Error> {
        let mut collided = false;
        for error in reply.get_array("writeErrors").into_iter().flatten() {
            let error = error.as_document().ok_or_else(|| odd("a write error"))?;
            if error.get_i32("code").is_ok_and(|code| code == DUPLICATE_KEY) {
                collided = true;
            } else {
                return Err(as_error(error));
            }
        }
        if let Ok(concern) = reply.get_document("writeConcernError") {
            return Err(as_error(concern));
        }
        Ok(Self { collided })
    }
}

/// An error inside a reply as the driver gives those that are a reply's whole content.
fn as_error(error: &Document) -> Error {
    match bson::deserialize_from_document(error.clone()) {
        Ok(error) => ErrorKind::Command(error).into(),
        Err(_) => odd("an error"),
    }
}

fn odd(what: &str) -> Error {
    Error::custom(format!("{what} in the server's reply can't be read"))
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    /// Table and size, or none for a removal.
    type Written = (Table, Option<usize>);
    /// Table, whether removals, entries.
    type Batched = (Table, bool, usize);

    fn batches(values: &[Written]) -> Vec<Batched> {
        let mut batches = Vec::new();
        for (index, (table, size)) in values.iter().enumerate() {
            let key = RecordKey::text(&["a", &index.to_string()]);
            let entry = Entry { id: index.to_string(), name: "shop", key: &key, epoch: Some(1) };
            let value = size.map(|size| rawdoc! { "x": "x".repeat(size) });
            Batch::add(&mut batches, *table, &entry, value.as_deref());
        }
        for batch in &batches {
            assert!(batch.command(Duration::from_secs(1)).as_bytes().len() < 16 << 20);
        }
        batches.iter().map(|batch| (batch.table, batch.removes, batch.count)).collect()
    }

    #[test]
    fn batches_keep_tables_kinds_and_limits_apart() {
        use Table::{Places, Positions};
        let small = (Places, Some(10));
        let cases: [(&[Written], &[Batched]); 4] = [
            (&[], &[]),
            (
                &[small, (Places, None), (Positions, Some(1)), small, (Places, None)],
                &[(Places, false, 2), (Places, true, 2), (Positions, false, 1)],
            ),
            (&[small; 1001], &[(Places, false, 1000), (Places, false, 1)]),
            (&[(Places, Some(8 << 20)); 2], &[(Places, false, 1), (Places, false, 1)]),
        ];
        for (values, expected) in cases {
            assert_eq!(batches(values), expected);
        }
    }

    #[test]
    fn keys_are_told_in_words() {
        let key = RecordKey::text(&["search", "größe"]).with([0xff, 1]).with("a\nb");
        assert_eq!(texts(&key), ["search", "größe", "ff01", "610a62"]);
    }

    #[test]
    fn replies_say_what_collided_and_what_failed() {
        let read = |reply: Document| match Reply::read(&reply) {
            Ok(Reply { collided }) => Ok(collided),
            Err(error) => match *error.kind {
                ErrorKind::Command(error) => Err(error.code),
                ref other => panic!("{other:?}"),
            },
        };
        let failed = |code: i32| doc! { "index": 0, "code": code, "errmsg": "words" };
        assert_eq!(read(doc! { "n": 3, "nModified": 3, "ok": 1 }), Ok(false));
        assert_eq!(read(doc! { "n": 1, "writeErrors": [failed(11000)] }), Ok(true));
        assert_eq!(read(doc! { "n": 0, "writeErrors": [failed(11000), failed(13)] }), Err(13));
        let concern = doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting" };
        assert_eq!(read(doc! { "n": 1, "writeConcernError": concern }), Err(64));
    }
}
