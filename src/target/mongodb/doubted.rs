//! Documents whose writes a server refuses whole, for what may be their own fault or that of all.
//!
//! Nothing tells but the others: where one is refused, others go through, and it is refused again, it is
//! to blame. Until then it is waited for. Of an event one that lies there already may stand for the others.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::target::PlaceKey;

/// Documents that are remembered; others wait until there is room.
const REMEMBERED: usize = 10_000;

/// Where a refused document was to lie, and how much had been written to its collection by then.
#[derive(Default)]
pub(super) struct Doubted(Mutex<HashMap<PlaceKey, usize>>);

impl Doubted {
    /// Whether a document that is refused is itself to blame: since it was refused before, others have
    /// gone through. `written` counts those of its collection.
    pub fn is_to_blame(&self, place: &PlaceKey, written: usize) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(place) {
            return false;
        }
        written > *known.entry(place.clone()).or_insert(written)
    }

    /// It has been written, or is a dead letter.
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

    #[test]
    fn only_what_fails_while_others_go_through_is_to_blame() {
        let doubted = Doubted::default();
        let place = PlaceKey((*b"place").into());
        for (written, expected) in [(5, false), (5, false), (6, true), (9, true)] {
            assert_eq!(doubted.is_to_blame(&place, written), expected, "{written}");
        }
        doubted.settled(&place);
        assert!(!doubted.is_to_blame(&place, 9));
    }
}
