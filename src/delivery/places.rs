//! Where documents lie whose place is not a function of their key.
//!
//! The store holds, for each such document, every place that may hold it: old and new are written
//! durably before a batch is sent, and trimmed to the new ones once it is settled. Whatever happens
//! between, the next delivery of the document knows every place that it has to clear.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bson::spec::BinarySubtype;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{DocumentKey, Namespace},
    checkpoint::{
        keys,
        records::{PlacesRecord, Record, SpotRecord, StoredPlace, load_many, removal},
        store::{RecordKey, Store, Table, Write},
    },
    target::PlaceKey,
};

use super::{
    Halt, insist, insist_on_writing,
    lane::Subject,
    spots::{Spot, Spots},
};

/// A place of a document, and the rule that put it there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RulePlace {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The place.
    pub place: PlaceKey,
    /// Whether its removal has become a dead letter: it is still to go, and holds up nothing any more.
    pub owed: bool,
}

impl RulePlace {
    fn is_at(&self, other: &Self) -> bool {
        self.rule == other.rule && self.place == other.place
    }
}

/// Every place of both. Where one is put to again, nothing is owed there.
pub(super) fn union(old: &[RulePlace], new: &[RulePlace]) -> Vec<RulePlace> {
    let put = |place: &RulePlace| new.iter().find(|new| new.is_at(place)).cloned();
    let mut union: Vec<_> =
        old.iter().map(|place| put(place).unwrap_or_else(|| place.clone())).collect();
    let others = new.iter().filter(|place| !old.iter().any(|old| old.is_at(place)));
    union.extend(others.cloned());
    union
}

/// What a document's record becomes once its batch is settled.
#[derive(Debug)]
pub struct Trim {
    subject: Subject,
    generation: u64,
    old: Vec<RulePlace>,
    places: Vec<RulePlace>,
    spots: Vec<(Spot, PlaceKey)>,
    awaits_no_more: Vec<Spot>,
}

impl Trim {
    /// Leaves what is stored of the spots that these documents awaited: they have not been delivered.
    pub fn still_awaits<'a>(&mut self, mut of: impl Iterator<Item = &'a Subject>) {
        if !self.awaits_no_more.is_empty() && of.any(|subject| *subject == self.subject) {
            self.awaits_no_more.clear();
        }
    }

    /// Leaves a place in the record after all, as one that is owed: the target did not clear it, and
    /// a dead letter says so.
    pub fn owe(&mut self, namespace: &Namespace, key: &DocumentKey, place: &PlaceKey) {
        self.leave(namespace, key, place, |old| RulePlace { owed: true, ..old.clone() });
    }

    /// Leaves a place in the record after all, as it was: its removal stands aside and is tried again.
    pub fn keep(&mut self, namespace: &Namespace, key: &DocumentKey, place: &PlaceKey) {
        self.leave(namespace, key, place, RulePlace::clone);
    }

    /// What the document gives up.
    fn given_up(&self) -> Vec<Spot> {
        let stays = |place: &PlaceKey| self.places.iter().any(|it| it.place == *place);
        let (kept, left): (Vec<_>, Vec<_>) = self.spots.iter().partition(|(_, at)| stays(at));
        let mut given_up: Vec<Spot> = Vec::with_capacity(left.len());
        for (spot, _) in left {
            if !given_up.contains(spot) && !kept.iter().any(|(kept, _)| kept == spot) {
                given_up.push(*spot);
            }
        }
        given_up
    }

    fn leave(
        &mut self,
        namespace: &Namespace,
        key: &DocumentKey,
        place: &PlaceKey,
        left: impl Fn(&RulePlace) -> RulePlace,
    ) {
        if self.subject.namespace == *namespace && self.subject.key == *key {
            let Self { old, places, .. } = self;
            for old in old.iter().filter(|old| old.place == *place) {
                if !places.iter().any(|place| place.is_at(old)) {
                    places.push(left(old));
                }
            }
        }
    }
}

/// The places of one target's documents. Each document belongs to one lane, whose one task loads,
/// widens and trims: no two calls are about the same document at a time.
pub struct Places {
    store: Arc<dyn Store>,
    target: String,
    /// Documents with a batch under way, and how often they have been widened: an older batch must
    /// not trim away what a newer one has written.
    widened: Mutex<HashMap<Subject, u64>>,
}

impl Move {
    /// One of which nobody has looked yet whose the spots are.
    pub fn new(subject: Subject, old: Vec<RulePlace>, new: Vec<RulePlace>) -> Self {
        Self { subject, old, new, spots: Vec::new(), awaits_no_more: Vec::new(), anew: false }
    }
}

impl Places {
    /// Those of one target.
    pub fn new(store: Arc<dyn Store>, target: &str) -> Self {
        Self { store, target: target.to_owned(), widened: Mutex::default() }
    }

    fn key(&self, subject: &Subject) -> RecordKey {
        keys::document_places(&self.target, subject.namespace.as_str(), subject.key.canonical())
    }

    /// Every place that may hold each of these documents.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn load(
        &self,
        subjects: &[Subject],
        stop: &CancellationToken,
    ) -> Result<Vec<Vec<RulePlace>>, Halt> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = subjects.iter().map(|subject| self.key(subject)).collect();
        let found = insist(stop, || load_many::<PlacesRecord>(&*self.store, &keys)).await?;
        let place = |stored: StoredPlace| RulePlace {
            rule: stored.rule.into(),
            place: PlaceKey(stored.place.bytes.into()),
            owed: stored.owed,
        };
        let places = |record: PlacesRecord| record.places.into_iter().map(place).collect();
        Ok(found.into_iter().map(|record| record.map(places).unwrap_or_default()).collect())
    }

    /// Writes, durably, that each document may be in any of its places, before it is sent there, and what
    /// else is to be `beside` that. The trims go into the batch.
    ///
    /// # Errors
    /// See [`Halt`]; nothing may be sent then.
    pub async fn widen(
        &self,
        moves: Vec<Move>,
        beside: Vec<Write>,
        stop: &CancellationToken,
    ) -> Result<Vec<Trim>, Halt> {
        let mut writes = HashMap::new();
        let mut trims = Vec::with_capacity(moves.len());
        for Move { subject, old, new, spots, awaits_no_more, anew } in moves {
            let union = union(&old, &new);
            // Also where it says nothing new, and only some of it is to be trimmed: a process that was shut
            // out since may still trim what it has left. One that goes from everywhere costs no such write,
            // once that process can have had nothing of it in hand.
            let leaves = union.len() != new.len() && !new.is_empty();
            if union != old || leaves || anew && !union.is_empty() {
                // A later change of the same document knows the earlier one's places.
                writes.insert(subject.clone(), self.write(&subject, &union));
            }
            let mut widened = self.widened.lock().unwrap_or_else(PoisonError::into_inner);
            // Where nothing is to be trimmed, an older batch's trim must not be carried out either:
            // it would take away what this one puts back.
            if union.len() != new.len()
                || !awaits_no_more.is_empty()
                || widened.contains_key(&subject)
            {
                let generation = widened.entry(subject.clone()).or_default();
                *generation += 1;
                let (generation, places) = (*generation, new);
                trims.push(Trim { generation, subject, old, places, spots, awaits_no_more });
            }
        }
        let writes = writes.into_values().chain(beside).collect();
        insist_on_writing(&*self.store, writes, stop).await?;
        Ok(trims)
    }

    /// Leaves only the new places, after the batch that made them so; whoever else wants those that are
    /// given up may have them.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn trim(
        &self,
        trims: Vec<Trim>,
        spots: &Spots,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let (mut removals, mut writes) = (Vec::new(), Vec::with_capacity(trims.len()));
        let mut leaving = Vec::new();
        {
            let mut widened = self.widened.lock().unwrap_or_else(PoisonError::into_inner);
            for trim in trims {
                if widened.get(&trim.subject) == Some(&trim.generation) {
                    widened.remove(&trim.subject);
                    let over = trim.awaits_no_more.iter();
                    let over = over.map(|spot| spots.awaiting_key(*spot, &trim.subject));
                    let write = self.write(&trim.subject, &trim.places);
                    let goes = write.value.is_none();
                    if goes { &mut removals } else { &mut writes }.push(write);
                    removals.extend(over.map(removal::<SpotRecord>));
                    let given_up = trim.given_up();
                    if !given_up.is_empty() {
                        spots.leave(&trim.subject, &given_up);
                        leaving.push((trim.subject, given_up));
                    }
                }
            }
        }
        let (mut all, mut left) = (Vec::new(), Vec::new());
        for (subject, mut given_up) in leaving {
            all.extend(spots.leaving(&subject, &mut given_up, stop).await?);
            left.extend(given_up);
        }
        // What a spot was given up by still knows it then: whoever is killed in between gives it up again.
        // The other way round nobody would.
        all.extend(removals);
        all.extend(writes);
        insist_on_writing(&*self.store, all, stop).await?;
        spots.left(&left);
        Ok(())
    }

    fn write(&self, subject: &Subject, places: &[RulePlace]) -> Write {
        let record = PlacesRecord {
            key: Some(subject.key.raw().to_owned()),
            places: places
                .iter()
                .map(|place| StoredPlace {
                    rule: place.rule.to_string(),
                    place: bson::Binary {
                        subtype: BinarySubtype::Generic,
                        bytes: place.place.0.to_vec(),
                    },
                    owed: place.owed,
                })
                .collect(),
        };
        let value = (!places.is_empty()).then(|| record.encode());
        Write { table: Table::Places, key: self.key(subject), value }
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
    /// Of both, which spots are this document's.
    pub spots: Vec<(Spot, PlaceKey)>,
    /// Which others it has waited for until now.
    pub awaits_no_more: Vec<Spot>,
    /// Whether what is stored of it is to be written once more, whatever it says.
    pub anew: bool,
}

#[cfg(test)]
mod tests;
