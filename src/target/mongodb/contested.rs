//! Values that two documents claim in a unique index.
//!
//! The first time a document meets such a value it is sent again as it is: the one that holds it may be
//! about to move on. Two that swap their values would wait for one another, so the second time it gives
//! up its own place, with the values that it holds there, and is written anew. Whether one that still
//! meets the value waits longer is not decided here.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::target::PlaceKey;

/// Documents that are remembered; what is not is taken for met before.
const REMEMBERED: usize = 100_000;

/// The documents that have met a value of another.
#[derive(Default)]
pub(super) struct Contested(Mutex<HashSet<PlaceKey>>);

/// What is to be done about a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It is tried again as it is: what holds the value may be under way elsewhere.
    Again,
    /// Its own place is cleared first.
    Clear,
}

impl Contested {
    /// A document has met a value of another.
    pub fn met(&self, place: &PlaceKey) -> Way {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED || !known.insert(place.clone()) {
            return Way::Clear;
        }
        Way::Again
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

    #[test]
    fn a_place_is_cleared_the_second_time() {
        let contested = Contested::default();
        let place = PlaceKey(bytes::Bytes::from_static(b"place"));
        assert_eq!(contested.met(&place), Way::Again);
        assert_eq!(contested.met(&place), Way::Clear);
        contested.settled(&place);
        assert_eq!(contested.met(&place), Way::Again);
    }
}
