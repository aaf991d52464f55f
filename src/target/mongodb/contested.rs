//! Values that two documents claim in a unique index.
//!
//! The first time a document meets such a value it is sent again as it is: the one that holds it may be
//! about to move on. Two that swap their values would wait for one another, so the second time it gives
//! up its own place, with the values that it holds there, and is written anew. Whether one that still
//! meets the value waits longer is not decided here.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use crate::target::PlaceKey;

/// Documents that are remembered; what is not is taken for met before.
const REMEMBERED: usize = 100_000;

/// The documents that have met a value of another, and which.
#[derive(Default)]
pub(super) struct Contested(Mutex<HashMap<PlaceKey, u64>>);

/// What is to be done about a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// It is tried again as it is: what holds the value may be under way elsewhere.
    Again,
    /// Its own place is cleared first.
    Clear,
}

impl Contested {
    /// A document has met a value of another, of which the server says so much.
    pub fn met(&self, place: &PlaceKey, words: &str) -> Way {
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        let value = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(place) {
            return Way::Clear;
        }
        match known.insert(place.clone(), value) {
            Some(before) if before == value => Way::Clear,
            _ => Way::Again,
        }
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
        let place = PlaceKey((*b"place").into());
        assert_eq!(contested.met(&place, "a: 1"), Way::Again);
        assert_eq!(contested.met(&place, "a: 1"), Way::Clear);
        // Another value.
        assert_eq!(contested.met(&place, "a: 2"), Way::Again);
        assert_eq!(contested.met(&place, "a: 2"), Way::Clear);
        contested.settled(&place);
        assert_eq!(contested.met(&place, "a: 2"), Way::Again);
    }
}
