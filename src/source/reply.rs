//! One reply of the server, read without decoding or copying what is in it.

use std::{borrow::Cow, ops::Range, sync::Arc};

use bson::{RawArray, RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;
use mongodb::raw_batch_cursor::RawBatch;

use crate::change::{ClusterTime, Document};

use super::{budget::Permit, error::Error};

/// The reply to a cursor command (`find`, `aggregate`, `getMore`).
///
/// Documents that are taken out of it share its memory, and with it the permit that pays for it.
#[derive(Clone, Debug)]
pub struct Reply {
    bytes: Bytes,
}

struct Owner {
    batch: RawBatch,
    _permit: Option<Permit>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.batch.as_raw_document().as_bytes()
    }
}

impl Reply {
    /// Wraps what the driver returned. The permit is held until the reply and every document taken
    /// out of it have been dropped.
    pub fn new(batch: RawBatch, permit: Option<Permit>) -> Self {
        Self { bytes: Bytes::from_owner(Owner { batch, _permit: permit }) }
    }

    /// What a reply costs in memory, in bytes: its own size, and what is kept beside each of its
    /// documents on the way to a target.
    pub fn cost(batch: &RawBatch) -> usize {
        const BESIDE: usize = 384;
        let documents = batch.doc_slices().map_or(0, |documents| Places::of(documents).count());
        batch.as_raw_document().as_bytes().len() + documents * BESIDE
    }

    fn raw(&self) -> &RawDocument {
        RawDocument::from_bytes(&self.bytes).expect("the driver has read this document already")
    }

    fn cursor(&self) -> Result<&RawDocument, Error> {
        self.raw().get_document("cursor").map_err(|_| Error::garbled("no cursor"))
    }

    /// The documents of the batch.
    ///
    /// # Errors
    /// Where the reply is not that of a cursor command.
    pub fn documents(&self) -> Result<impl Iterator<Item = Result<Document, Error>> + '_, Error> {
        let batch = self.batch()?;
        let start = batch.as_bytes().as_ptr().addr() - self.bytes.as_ptr().addr();
        Ok(Places::of(batch).map(move |place| {
            let Range { start: from, end } = place?;
            Document::from_bytes(self.bytes.slice(start + from..start + end))
                .map_err(|_| Error::garbled("a document with a wrong length"))
        }))
    }

    /// The batch itself, for reading in place.
    ///
    /// # Errors
    /// Where the reply is not that of a cursor command.
    pub fn batch(&self) -> Result<&RawArray, Error> {
        let cursor = self.cursor()?;
        cursor
            .get_array("nextBatch")
            .or_else(|_| cursor.get_array("firstBatch"))
            .map_err(|_| Error::garbled("no batch"))
    }

    /// The newest cluster time that the answering member had made majority-committed (for majority
    /// reads) when it answered. `ZERO` where the server does not say.
    pub fn operation_time(&self) -> ClusterTime {
        self.raw().get_timestamp("operationTime").map(ClusterTime::from).unwrap_or_default()
    }

    /// The time inside the `postBatchResumeToken` of a change stream's reply: everything before it
    /// has been returned.
    ///
    /// The token's `_data` is a key string in hex: a type byte, then seconds and increment, four
    /// bytes each, big end first (`src/mongo/db/pipeline/resume_token.h`).
    ///
    /// # Errors
    /// Where there is no token or its shape is not the one above.
    pub fn post_batch_time(&self) -> Result<ClusterTime, Error> {
        self.post_batch_token()?
            .time()
            .ok_or_else(|| Error::garbled("a resume token of an unknown shape"))
    }

    /// The `postBatchResumeToken` of a change stream's reply: a stream that is opened behind it misses
    /// nothing.
    ///
    /// # Errors
    /// Where there is none.
    pub fn post_batch_token(&self) -> Result<ResumeToken, Error> {
        let token = self.cursor()?.get_document("postBatchResumeToken");
        token
            .ok()
            .and_then(ResumeToken::read)
            .ok_or_else(|| Error::garbled("no postBatchResumeToken"))
    }
}

/// Where the documents of a batch lie in it, in order; after an error there is nothing more.
///
/// Every document of a copy comes by here: what is between two of them is stepped over, not read.
struct Places<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Places<'a> {
    fn of(batch: &'a RawArray) -> Self {
        Self { bytes: batch.as_bytes(), at: 4 }
    }

    /// The element that begins at `at`: its kind, its name, which is its number, and the document.
    fn place(&self) -> Option<Range<usize>> {
        const DOCUMENT: u8 = 0x03;
        let element = self.bytes.get(self.at..)?;
        let (kind, name) = element.split_first()?;
        let start = self.at + 2 + name.iter().position(|byte| *byte == 0)?;
        let length = self.bytes.get(start..)?.first_chunk()?;
        let end = start.checked_add(usize::try_from(i32::from_le_bytes(*length)).ok()?)?;
        // The array's own closing zero comes after every document.
        (*kind == DOCUMENT && end < self.bytes.len()).then_some(start..end)
    }
}

impl Iterator for Places<'_> {
    type Item = Result<Range<usize>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at + 1 >= self.bytes.len() {
            return None;
        }
        let place = self.place();
        self.at = place.as_ref().map_or(self.bytes.len(), |place| place.end);
        let garbled = || Error::garbled("a batch that holds something else than documents");
        Some(place.ok_or_else(garbled))
    }
}

/// A place in a change stream: MongoDB's own words for it, which are in the order of the stream.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ResumeToken(Arc<str>);

impl ResumeToken {
    /// From the server's document; `None` where it is not of the shape that is known.
    pub fn read(raw: &RawDocument) -> Option<Self> {
        raw.get_str("_data").ok().map(|data| Self(data.into()))
    }

    /// Of what has none.
    pub fn none() -> Self {
        Self("".into())
    }

    /// As the server takes it.
    pub fn document(&self) -> RawDocumentBuf {
        rawdoc! { "_data": &*self.0 }
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for every part of an event, and for the event where it comes whole: without the number that
    /// `$changeStreamSplitLargeEvent` puts behind what the event is.
    ///
    /// Source: MongoDB's `resume_token.cpp`. A token is a key string whose last value is a document, which
    /// ends with 00, or the number of a part (29 is zero, 2B and a byte one above); 04 ends it all. The byte
    /// of such a number is never 00.
    pub fn of_event(&self) -> Cow<'_, str> {
        let whole = Cow::Borrowed(&*self.0);
        let Some(values) = self.0.strip_suffix("04").filter(|values| !values.ends_with("00"))
        else {
            return whole;
        };
        let number = values.get(values.len().saturating_sub(4)..).unwrap_or_default();
        let length = if number.starts_with("2B") { 4 } else { 2 };
        let event = values.get(..values.len().saturating_sub(length)).unwrap_or_default();
        match (number.starts_with("2B") || number.ends_with("29")) && event.ends_with("00") {
            true => Cow::Owned(format!("{event}04")),
            false => whole,
        }
    }

    /// The cluster time within.
    pub fn time(&self) -> Option<ClusterTime> {
        token_time(&self.0)
    }
}

/// The cluster time inside a resume token.
fn token_time(data: &str) -> Option<ClusterTime> {
    data.get(0..2).filter(|kind| *kind == "82")?;
    u64::from_str_radix(data.get(2..18)?, 16).ok().map(ClusterTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_an_event_have_the_token_of_the_event() {
        /// Of an insert of `{_id: 1}`, as MongoDB 6.0 has made it, without its last byte.
        const EVENT: &str = "826561A2B1000000012B042C0100296E5A1004A1B2C3D4E5F60718293A4B5C6D7E8F9046\
                             3C6F7065726174696F6E54797065003C696E736572740046646F63756D656E744B657900\
                             461E5F6964002B02000000";
        let token = |text: &str| ResumeToken(text.into());
        for (number, expected) in [
            ("", true),
            ("29", true),
            ("2B02", true),
            ("2B06", true),
            ("2BFE", true),
            // What no server says.
            ("2A02", false),
            ("2B", false),
        ] {
            let part = token(&format!("{EVENT}{number}04"));
            assert_eq!(part.of_event() == format!("{EVENT}04"), expected, "{number}");
        }
        for whole in ["", "04", "82", "2904", "8263B0D7C5000000022B0429296E1404", "82é3B0D7C504"] {
            assert_eq!(token(whole).of_event(), whole);
        }
    }

    #[test]
    fn documents_are_found_in_a_batch_and_nothing_else_is_taken_for_one() {
        let documents: Vec<_> =
            (0..120).map(|n| rawdoc! { "n": n, "s": "x".repeat(n as usize) }).collect();
        let whole = bson::RawArrayBuf::from_iter(documents.clone());
        let read = |batch: &RawArray| {
            let bytes = batch.as_bytes().to_vec();
            let places: Result<Vec<_>, _> = Places::of(batch).collect();
            places.map(|it| it.into_iter().map(|place| bytes[place].to_vec()).collect::<Vec<_>>())
        };
        let expected: Vec<_> = documents.iter().map(|it| it.as_bytes().to_vec()).collect();
        assert_eq!(read(&whole).expect("documents"), expected);
        assert!(read(&bson::RawArrayBuf::new()).expect("nothing").is_empty());
        for odd in
            [rawdoc! { "a": [{ "x": 1 }, 5] }, rawdoc! { "a": [5] }, rawdoc! { "a": ["x", {}] }]
        {
            assert!(read(odd.get_array("a").expect("an array")).is_err(), "{odd:?}");
        }
        // A document that claims to be longer than the batch, or shorter than its own length.
        let mut bytes = rawdoc! { "a": [{ "x": 1 }] }.into_bytes();
        let length = bytes.windows(4).position(|it| it == [12, 0, 0, 0]).expect("of the document");
        for wrong in [-1_i32, 0, 4, 13, 200, i32::MAX] {
            bytes[length..length + 4].copy_from_slice(&wrong.to_le_bytes());
            let broken = RawDocument::from_bytes(&bytes).expect("its own length is right");
            let read = read(broken.get_array("a").expect("an array"));
            assert!(read.is_err(), "{wrong}: {read:?}");
        }
    }

    #[test]
    fn the_time_is_read_out_of_a_token() {
        let time = token_time("8263B0D7C5000000022B0429296E1404").expect("a token");
        assert_eq!((time.seconds(), time.increment()), (0x63B0_D7C5, 2));
        for bad in ["", "82", "8163B0D7C500000002", "82zzB0D7C500000002", "82é3B0D7C50000000"] {
            assert_eq!(token_time(bad), None, "{bad}");
        }
    }
}
