//! Who awaits a spot that is another's, as the store says it, and what becomes free of those.

use tokio_util::sync::CancellationToken;

use crate::checkpoint::{
    keys,
    records::{SpotRecord, page, put, removal},
    store::{RecordKey, Table},
};

use super::{
    super::{Halt, insist, insist_on_writing, lane::Subject, places::Places},
    Spot, Spots, record, subject,
};

/// Documents that are read at once.
const PAGE: usize = 500;

/// Some of those who awaited spots when the last run ended.
pub struct Recalled {
    /// Each with where that is stored.
    pub awaiting: Vec<(RecordKey, Subject)>,
    /// Behind which the next ones are.
    pub last: RecordKey,
}

impl Spots {
    /// Waits for a spot that was given up, and that documents may still await. Cancel safe.
    pub async fn freed(&self) -> Spot {
        loop {
            let freed = self.is_freed.notified();
            if let Some(spot) = self.state().freed.pop_front() {
                return spot;
            }
            freed.await;
        }
    }

    /// The next document that awaits a spot.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn awaiting(
        &self,
        spot: Spot,
        after: Option<&RecordKey>,
        stop: &CancellationToken,
    ) -> Result<Option<(RecordKey, Option<Subject>)>, Halt> {
        let prefix = keys::awaiting(&self.name, &spot.0);
        let found = insist(stop, || page::<SpotRecord>(&*self.store, &prefix, after, 1)).await?;
        Ok(found.into_iter().next().map(|(key, record)| (key, subject(&record))))
    }

    /// Where the store says that a document awaits a spot, if it does.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn awaits(
        &self,
        spot: Spot,
        subject: &Subject,
        stop: &CancellationToken,
    ) -> Result<Option<RecordKey>, Halt> {
        let key = self.awaiting_key(spot, subject);
        let found = insist(stop, || self.store.get(Table::Places, &key)).await?;
        Ok(found.map(|_| key))
    }

    pub(in super::super) fn awaiting_key(&self, spot: Spot, subject: &Subject) -> RecordKey {
        let of_namespace = keys::awaiting(&self.name, &spot.0).with(subject.namespace.as_str());
        of_namespace.with(subject.key.canonical())
    }

    /// Forgets what can't be read.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn forget(&self, awaiting: RecordKey, stop: &CancellationToken) -> Result<(), Halt> {
        insist_on_writing(&*self.store, vec![removal::<SpotRecord>(awaiting)], stop).await
    }

    /// Forgets that a document awaited a spot, unless it has met the holder once more by now.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn awaits_no_more(
        &self,
        awaiting: RecordKey,
        subject: &Subject,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        if self.waits_for(&awaiting, subject) {
            return Ok(());
        }
        self.forget(awaiting.clone(), stop).await?;
        // It may have been written anew before that.
        if self.waits_for(&awaiting, subject) {
            let anew = put(awaiting, &record(subject));
            insist_on_writing(&*self.store, vec![anew], stop).await?;
        }
        Ok(())
    }

    fn waits_for(&self, awaiting: &RecordKey, subject: &Subject) -> bool {
        let state = self.state();
        let met = state.waiting.get(subject).into_iter().flatten();
        met.map(|meeting| self.awaiting_key(meeting.spot, subject)).any(|key| key == *awaiting)
    }

    /// Nobody was found who awaits a free spot: it is remembered no more, unless somebody does by now.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn unawaited(&self, spot: Spot, stop: &CancellationToken) -> Result<(), Halt> {
        {
            let mut state = self.state();
            if state.noting.contains_key(&spot) {
                return Ok(());
            }
            state.awaited.remove(&spot);
        }
        // What was being noted then is durable by now.
        if self.awaiting(spot, None, stop).await?.is_some() {
            let mut state = self.state();
            state.awaited.insert(spot);
            state.freed.push_back(spot);
            drop(state);
            self.is_freed.notify_one();
        }
        Ok(())
    }

    /// Reads who awaited spots when the last run ended, some at a time. Which of the spots are free by now,
    /// or are those of documents that awaited them or may have left them, is told by [`Self::freed`].
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn recall(
        &self,
        after: Option<&RecordKey>,
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<Option<Recalled>, Halt> {
        let prefix = keys::all_awaiting(&self.name);
        let found = insist(stop, || page::<SpotRecord>(&*self.store, &prefix, after, PAGE)).await?;
        let Some((last, _)) = found.last() else { return Ok(None) };
        let last = last.clone();
        let mut spots = Vec::with_capacity(found.len());
        let mut awaiting = Vec::with_capacity(found.len());
        let mut broken = Vec::new();
        for (key, record) in found {
            let spot = key.0.get(3).and_then(|spot| <[u8; 16]>::try_from(&**spot).ok());
            match (spot, subject(&record)) {
                (Some(spot), Some(subject)) => {
                    spots.push(Spot(spot));
                    awaiting.push((key, subject));
                }
                _ => broken.push(removal::<SpotRecord>(key)),
            }
        }
        // Before it is read whose they are: what is given up from now on is told.
        self.state().awaited.extend(&spots);
        let holders = self.holders(&spots, places, stop).await?;
        {
            let freed = &mut self.state().freed;
            for ((spot, holder), (_, subject)) in spots.iter().zip(holders).zip(&awaiting) {
                let may_be_given =
                    holder.is_none_or(|holder| holder.has_others || holder.subject == *subject);
                // All who await a spot stand one behind the other.
                if may_be_given && freed.back() != Some(spot) {
                    freed.push_back(*spot);
                }
            }
        }
        self.is_freed.notify_one();
        insist_on_writing(&*self.store, broken, stop).await?;
        Ok(Some(Recalled { awaiting, last }))
    }
}
