//! Documents that can't be written for what is wrong where they lie, such as a right to one collection
//! that is missing. They stand aside, so that the others of their lane go on, and come back through the
//! lane, each as it is by then, after pauses that grow.
//!
//! How many there may be is bounded by their bytes. What finds no room is tried again in its place, and
//! its lane waits for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    checkpoint::tracker::{Claim, Completion},
    rules::model::DeliverySettings,
};

use super::{
    lane::{self, Noted},
    retry::Backoff,
};

/// What those of one lane may take, about as many as come to 20,000 short keys.
const ROOM: usize = 4 << 20;

/// Those of one lane.
pub struct Aside {
    waiting: Vec<Noted>,
    bytes: usize,
    again: Option<Instant>,
    backoff: Backoff,
    /// Stays open: it tells whether any that ever stood aside is not settled.
    unsettled: Completion,
}

impl Aside {
    /// None. Its pauses are those between tries.
    pub fn new(settings: &DeliverySettings) -> Self {
        Self {
            waiting: Vec::new(),
            bytes: 0,
            again: None,
            backoff: Backoff::new(settings.retry_initial, settings.retry_max),
            unsettled: Completion::new(),
        }
    }

    /// Bytes that there is still room for; see [`lane::cost`].
    pub fn room(&self) -> usize {
        ROOM.saturating_sub(self.bytes)
    }

    /// One more, which holds what it stood for until it is written. `asked` is the longest pause that the
    /// target wants.
    pub fn put(&mut self, noted: Noted, asked: Option<Duration>) {
        self.bytes += lane::cost(&noted.subject);
        self.waiting.push(noted);
        if self.again.is_none() {
            self.again = Some(Instant::now() + self.backoff.next(asked));
        }
    }

    /// A claim of one that stands aside, beside what it stood for.
    pub fn claim(&self) -> Claim {
        self.unsettled.claim()
    }

    /// When they are to be tried again; `None` where there are none.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// All of them, to be looked up again.
    pub fn take(&mut self) -> Vec<Noted> {
        (self.again, self.bytes) = (None, 0);
        std::mem::take(&mut self.waiting)
    }

    /// Whether all that ever stood aside are settled. The next pause is a short one then.
    pub fn is_over(&mut self) -> bool {
        let over = self.unsettled.is_idle();
        if over {
            self.backoff.reset();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;
    use crate::{
        change::{ClusterTime, DocumentKey, Namespace},
        delivery::{lane::Subject, scripted::settings},
    };

    #[tokio::test(start_paused = true)]
    async fn room_is_bounded_and_pauses_grow_until_all_are_settled() {
        let mut aside = Aside::new(&settings());
        let most = aside.room();
        let noted = |aside: &Aside| Noted {
            subject: Subject {
                namespace: Namespace::new("a", "b"),
                key: DocumentKey::from_id(RawBsonRef::Int32(1)).expect("a key"),
            },
            time: ClusterTime::ZERO,
            since: None,
            deleted: false,
            claim: aside.claim(),
        };
        assert!(aside.is_over() && aside.due().is_none());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            aside.put(noted(&aside), None);
            pauses.push(aside.due().expect("one waits") - Instant::now());
            while aside.room() > 0 {
                aside.put(noted(&aside), None);
            }
            let taken = aside.take();
            assert!(taken.len() > 1_000);
            assert_eq!((aside.room(), aside.due()), (most, None));
            assert!(!aside.is_over(), "they are out");
            // They come back, and their claims with them.
            aside.put(noted(&aside), None);
            aside.take().into_iter().chain(taken).for_each(|noted| noted.claim.settle());
            aside.put(noted(&aside), None);
            assert!(!aside.is_over());
        }
        assert!(pauses[7] > 10 * pauses[0], "{pauses:?}");
        aside.take().into_iter().for_each(|noted| noted.claim.settle());
        assert!(aside.is_over());
        aside.put(noted(&aside), None);
        assert!(aside.due().expect("one waits") - Instant::now() <= settings().retry_initial);
    }
}
