//! Whose the places are of what was delivered while that was not kept: by a version that did not know it, or
//! when no two documents could be given one place. It is read, once, from where documents lie, before the
//! first one is delivered; from then on it is kept. The store says so, until a run does not keep it.
//!
//! Of several that lie in one place one has it. Which of them is to be seen there is not known: the others
//! are said to await it, so that the run looks at each of them, refuses it, and has the first one delivered
//! once more.

use std::collections::{HashMap, HashSet};

use bson::{Binary, spec::BinarySubtype};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{DocumentKey, Namespace},
    checkpoint::{
        keys,
        records::{PlacesRecord, SpotsKnownRecord, load, page, put, removal},
        store::{RecordKey, Write},
    },
    target::PlaceKey,
};

use super::{
    super::{Halt, insist, insist_on_writing, lane::Subject, places::Places},
    Spot, Spots, record,
};

/// Documents that are read at once.
const PAGE: usize = 500;

impl Spots {
    /// Has the store say whose the places of all documents are, as far as nobody has kept that, or that it is
    /// not kept from now on. To be called before anything is delivered. One that was broken off goes on where
    /// it was.
    ///
    /// # Errors
    /// See [`Halt`]; nothing may be delivered then.
    pub async fn inherit(&self, places: &Places, stop: &CancellationToken) -> Result<(), Halt> {
        let key = keys::spots_known(&self.name);
        let known: Option<SpotsKnownRecord> = insist(stop, || load(&*self.store, &key)).await?;
        if self.rules.is_empty() {
            let forget = known.map(|_| removal::<SpotsKnownRecord>(key));
            return insist_on_writing(&*self.store, forget.into_iter().collect(), stop).await;
        }
        let mut after = match known {
            None => keys::behind_spots(&self.name),
            Some(SpotsKnownRecord { until: Some(until) }) => {
                RecordKey(until.into_iter().map(|part| part.bytes).collect())
            }
            Some(SpotsKnownRecord { until: None }) => return Ok(()),
        };
        let prefix = keys::of_target(&self.name);
        let mut documents = 0_u64;
        loop {
            let found =
                insist(stop, || page::<PlacesRecord>(&*self.store, &prefix, Some(&after), PAGE));
            let found = found.await?;
            let until = match found.last() {
                Some((last, _)) if found.len() == PAGE => Some(last.clone()),
                _ => None,
            };
            if documents == 0 && !found.is_empty() {
                tracing::info!(
                    target = self.name,
                    "whose the places of documents are is read from where they lie"
                );
            }
            documents += found.len() as u64;
            let writes = self.inherited(found, places, stop).await?;
            insist_on_writing(&*self.store, writes, stop).await?;
            // Behind what it speaks of.
            let known = SpotsKnownRecord { until: until.as_ref().map(parts) };
            insist_on_writing(&*self.store, vec![put(key.clone(), &known)], stop).await?;
            let Some(last) = until else { break };
            after = last;
        }
        if documents > 0 {
            tracing::info!(
                target = self.name,
                documents,
                "whose the places of documents are is known"
            );
        }
        Ok(())
    }

    /// What is to be written for the places of some documents.
    async fn inherited(
        &self,
        found: Vec<(RecordKey, PlacesRecord)>,
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<Vec<Write>, Halt> {
        let mut lying: Vec<(Spot, Subject)> = Vec::with_capacity(found.len());
        for (key, record) in found {
            let Some(subject) = subject_of(&key, &record) else { continue };
            let held = record.places.into_iter().filter(|place| self.rules.contains(&place.rule));
            let spots: HashSet<Spot> = held
                .map(|place| Spot::of(&*self.target, &PlaceKey(place.place.bytes.into())))
                .collect();
            lying.extend(spots.into_iter().map(|spot| (spot, subject.clone())));
        }
        let spots: HashSet<Spot> = lying.iter().map(|(spot, _)| *spot).collect();
        let spots: Vec<Spot> = spots.into_iter().collect();
        let holders = self.holders(&spots, places, stop).await?;
        let mut holders: HashMap<Spot, Subject> = spots
            .into_iter()
            .zip(holders)
            .filter_map(|(spot, holding)| Some((spot, holding?.subject)))
            .collect();
        let mut writes = Vec::with_capacity(lying.len());
        for (spot, subject) in lying {
            match holders.get(&spot) {
                None => {
                    writes.push(put(self.key(spot), &record(&subject)));
                    holders.insert(spot, subject);
                }
                Some(holder) if holder.is_same_document(&subject) => {}
                Some(_) => {
                    writes.push(put(self.awaiting_key(spot, &subject), &record(&subject)));
                }
            }
        }
        Ok(writes)
    }
}

/// Which document lies there; one of the first form does not say it.
fn subject_of(key: &RecordKey, record: &PlacesRecord) -> Option<Subject> {
    let namespace = Namespace::parse(str::from_utf8(key.0.get(1)?).ok()?)?;
    let key = DocumentKey::from_document_key(record.key.as_ref()?).ok()?;
    Some(Subject { namespace, key })
}

pub(super) fn parts(key: &RecordKey) -> Vec<Binary> {
    let part = |bytes: &Vec<u8>| Binary { subtype: BinarySubtype::Generic, bytes: bytes.clone() };
    key.0.iter().map(part).collect()
}
