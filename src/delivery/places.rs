//! Where documents lie whose place is not a function of their key.
//!
//! The store holds, for each such document, every place that may hold it: old and new are written
//! durably before a batch is sent, and trimmed to the new ones once it is settled. Whatever happens
//! between, the next delivery of the document knows every place that it has to clear.

use std::{collections::HashMap, sync::Arc};

use bson::spec::BinarySubtype;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{
        keys,
        records::{PlacesRecord, Record, StoredPlace},
        store::{RecordKey, Store, Table, Write},
    },
    target::PlaceKey,
};

use super::{Halt, insist, insist_on_writing, lane::Subject};

/// A place of a document, and the rule that put it there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RulePlace {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The place.
    pub place: PlaceKey,
}

/// What a document's record becomes once its batch is settled.
#[derive(Debug)]
pub struct Trim {
    subject: Subject,
    widening: u64,
    places: Vec<RulePlace>,
}

/// The places of one target's documents. Each document belongs to one lane, so no two deliveries are
/// about the same document at a time, but for a batch that is trimmed while the next one is made.
pub struct Places {
    store: Arc<dyn Store>,
    target: String,
    /// Documents whose record is wider than it has to be, and by which widening: an older batch must
    /// not trim away what a newer one has written. The lock is held from reading records to writing
    /// them.
    widened: tokio::sync::Mutex<Widened>,
}

#[derive(Default)]
struct Widened {
    last: u64,
    by: HashMap<Subject, u64>,
}

/// The records of some documents, between being read and being written.
pub struct Opened<'a> {
    places: &'a Places,
    widened: tokio::sync::MutexGuard<'a, Widened>,
    /// As they are stored, in the order of the subjects.
    pub stored: Vec<Vec<RulePlace>>,
}

impl Places {
    /// Those of one target.
    pub fn new(store: Arc<dyn Store>, target: &str) -> Self {
        Self { store, target: target.to_owned(), widened: tokio::sync::Mutex::default() }
    }

    fn key(&self, subject: &Subject) -> RecordKey {
        keys::document_places(&self.target, subject.namespace.as_str(), subject.key.canonical())
    }

    /// Reads every place that may hold each of these documents, and keeps the records from being
    /// trimmed until they have been widened.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn open(
        &self,
        subjects: &[Subject],
        stop: &CancellationToken,
    ) -> Result<Opened<'_>, Halt> {
        let widened = self.widened.lock().await;
        if subjects.is_empty() {
            return Ok(Opened { places: self, widened, stored: Vec::new() });
        }
        let keys: Vec<_> = subjects.iter().map(|subject| self.key(subject)).collect();
        let found = insist(stop, || self.store.get_many(Table::Places, &keys)).await?;
        let stored = found
            .into_iter()
            .map(|record| {
                let Some(record) = record else { return Ok(Vec::new()) };
                let record =
                    PlacesRecord::decode(&record, self.store.place()).map_err(Halt::Store)?;
                Ok(record
                    .places
                    .into_iter()
                    .map(|stored| RulePlace {
                        rule: stored.rule.into(),
                        place: PlaceKey(Bytes::from(stored.place.bytes)),
                    })
                    .collect())
            })
            .collect::<Result<_, Halt>>()?;
        Ok(Opened { places: self, widened, stored })
    }

    /// Leaves only the new places, after the batch that made them so.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn trim(&self, trims: Vec<Trim>, stop: &CancellationToken) -> Result<(), Halt> {
        if trims.is_empty() {
            return Ok(());
        }
        let mut widened = self.widened.lock().await;
        let newest = |trim: &Trim| widened.by.get(&trim.subject) == Some(&trim.widening);
        let due: Vec<Trim> = trims.into_iter().filter(newest).collect();
        let writes = due.iter().map(|trim| self.write(&trim.subject, &trim.places)).collect();
        insist_on_writing(&*self.store, writes, stop).await?;
        for trim in due {
            widened.by.remove(&trim.subject);
        }
        Ok(())
    }

    fn write(&self, subject: &Subject, places: &[RulePlace]) -> Write {
        let record = PlacesRecord {
            places: places
                .iter()
                .map(|place| StoredPlace {
                    rule: place.rule.to_string(),
                    place: bson::Binary {
                        subtype: BinarySubtype::Generic,
                        bytes: place.place.0.to_vec(),
                    },
                })
                .collect(),
        };
        let value = (!places.is_empty()).then(|| record.encode());
        Write { table: Table::Places, key: self.key(subject), value }
    }
}

impl Opened<'_> {
    /// Writes, durably, that each document may be in any of its places, before it is sent there.
    /// Several moves of one document stand in order, each knowing the places of those before. The
    /// trims go into the batch.
    ///
    /// # Errors
    /// See [`Halt`]; nothing may be sent then.
    pub async fn widen(
        mut self,
        moves: Vec<Move>,
        stop: &CancellationToken,
    ) -> Result<Vec<Trim>, Halt> {
        let mut writes = HashMap::new();
        let mut trims = Vec::with_capacity(moves.len());
        for Move { subject, old, new } in moves {
            let mut union = old.clone();
            union.extend(new.iter().filter(|place| !old.contains(place)).cloned());
            if union.len() != old.len() {
                writes.insert(subject.clone(), self.places.write(&subject, &union));
            }
            // A trim that is still to come from an older batch must not cut these away.
            if union.len() != new.len() || self.widened.by.contains_key(&subject) {
                self.widened.last += 1;
                let widening = self.widened.last;
                self.widened.by.insert(subject.clone(), widening);
                trims.push(Trim { subject, widening, places: new });
            }
        }
        let writes = writes.into_values().collect();
        insist_on_writing(&*self.places.store, writes, stop).await?;
        Ok(trims)
    }
}

/// A document's places before and after a delivery.
#[derive(Debug)]
pub struct Move {
    /// Which document.
    pub subject: Subject,
    /// As they are stored.
    pub old: Vec<RulePlace>,
    /// As they will be.
    pub new: Vec<RulePlace>,
}
