//! Values that two documents claim in a unique index.
//!
//! The source changed its documents in one order, the lanes write them in another: a document may
//! have to wait until the one that holds its value has moved on, and two that swap their values wait
//! for one another. So the second time a document meets such a value, it gives up its own place, with
//! the values that it holds there, and is written anew. One that still meets it is looked up again
//! behind all that its lane holds; after a while it is refused.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::target::{Outcome, PlaceKey, Pressure, Retry};

/// A document is refused after so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// And so many tries.
const TRIES: u32 = 10;
/// Documents that are remembered; what is not is taken for met the first time.
const REMEMBERED: usize = 100_000;

struct Trouble {
    since: Instant,
    tries: u32,
}

/// The documents that have met a value of another.
#[derive(Default)]
pub(super) struct Contested(Mutex<HashMap<PlaceKey, Trouble>>);

/// What is to be done about a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It is tried again as it is: what holds the value may be under way elsewhere.
    Wait,
    /// Its own place is cleared first.
    Clear,
}

impl Contested {
    /// A document has met a value of another.
    pub fn met(&self, place: &PlaceKey) -> Way {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(place) {
            return Way::Clear;
        }
        let trouble = known
            .entry(place.clone())
            .or_insert_with(|| Trouble { since: Instant::now(), tries: 0 });
        trouble.tries += 1;
        if trouble.tries == 1 { Way::Wait } else { Way::Clear }
    }

    /// What becomes of a document that still meets it.
    pub fn outcome(&self, place: &PlaceKey, way: Way, words: String) -> Outcome {
        if way == Way::Wait {
            return Outcome::Retry(Retry {
                reason: "duplicate",
                message: words,
                after: None,
                pressure: Pressure::Same,
            });
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = known
            .get(place)
            .is_none_or(|trouble| trouble.tries >= TRIES && trouble.since.elapsed() >= PATIENCE);
        if over {
            known.remove(place);
            return Outcome::Rejected(words);
        }
        Outcome::Behind(words)
    }

    /// A document has been written, or is no more.
    pub fn settled(&self, place: &PlaceKey) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.is_empty() {
            known.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_document_is_given_time_and_then_refused() {
        let contested = Contested::default();
        let place = PlaceKey(bytes::Bytes::from_static(b"place"));
        let meet = || {
            let way = contested.met(&place);
            (way, contested.outcome(&place, way, "words".to_owned()))
        };
        let (way, outcome) = meet();
        assert_eq!(way, Way::Wait);
        assert!(matches!(outcome, Outcome::Retry(_)));
        for _ in 1..2 * TRIES {
            assert_eq!(meet(), (Way::Clear, Outcome::Behind("words".to_owned())));
        }
        tokio::time::advance(PATIENCE).await;
        assert_eq!(meet(), (Way::Clear, Outcome::Rejected("words".to_owned())));
        // Whatever comes later begins anew.
        assert_eq!(meet().0, Way::Wait);
        contested.settled(&place);
        assert_eq!(meet().0, Way::Wait);
    }
}
