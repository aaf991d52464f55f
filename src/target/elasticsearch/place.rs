//! Where a document lies in an engine: index, id and routing, and the bytes that stand for them.
//!
//! Only an encoding; whether an engine takes such an id or name is not asked here.

use std::fmt;

use smallvec::SmallVec;

use crate::target::{Item, PlaceKey};

/// Bytes that most places have at the most.
const ORDINARY: usize = 128;

/// One place of an engine, borrowed from its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnginePlaceKey<'a> {
    /// The index or alias that is written to.
    pub index: &'a str,
    /// The document's `_id` in the engine.
    pub id: &'a str,
    /// What the shard is chosen by, where that is not the id. Never empty: engines take an empty
    /// routing for none.
    pub routing: Option<&'a str>,
}

/// The bytes are not what [`EnginePlaceKey::encode`] makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stored place is not one of an engine")]
pub struct PlaceError;

/// The key of a place. An empty routing is none.
pub fn place_key(index: &str, id: &str, routing: Option<&str>) -> PlaceKey {
    EnginePlaceKey { index, id, routing: routing.filter(|routing| !routing.is_empty()) }.encode()
}

impl<'a> EnginePlaceKey<'a> {
    /// Index, id and routing (empty for none), each behind its length as LEB128. Compact, equal
    /// exactly for equal places, and no key is the beginning of another.
    pub fn encode(&self) -> PlaceKey {
        let parts = [self.index, self.id, self.routing.unwrap_or_default()];
        let mut bytes: SmallVec<[u8; ORDINARY]> = SmallVec::new();
        for part in parts {
            let mut length = part.len();
            while length >= 0x80 {
                bytes.push(length as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend_from_slice(part.as_bytes());
        }
        PlaceKey((*bytes).into())
    }

    /// The place that the bytes stand for.
    ///
    /// # Errors
    /// Where [`encode`](Self::encode) did not make them.
    pub fn decode(key: &'a PlaceKey) -> Result<Self, PlaceError> {
        let mut rest = key.0.as_ref();
        let mut text = || str::from_utf8(part(&mut rest)?).map_err(|_| PlaceError);
        let (index, id, routing) = (text()?, text()?, text()?);
        if !rest.is_empty() {
            return Err(PlaceError);
        }
        Ok(Self { index, id, routing: Some(routing).filter(|routing| !routing.is_empty()) })
    }

    /// The indices of items, each once for all that stand one behind the other. What can't be read has
    /// none.
    pub(super) fn indices(items: &[Item]) -> impl Iterator<Item = &str> {
        let mut last: &[u8] = &[];
        items.iter().filter_map(move |item| {
            let index = Self::index_bytes(&item.place).ok().filter(|index| *index != last)?;
            last = index;
            str::from_utf8(index).ok()
        })
    }

    /// The bytes of the index alone, for telling whether two places share it without reading the
    /// rest.
    pub(super) fn index_bytes(key: &PlaceKey) -> Result<&[u8], PlaceError> {
        part(&mut key.0.as_ref())
    }
}

/// Takes one part with its length off the front.
fn part<'b>(rest: &mut &'b [u8]) -> Result<&'b [u8], PlaceError> {
    let mut length = 0_usize;
    for shift in (0..usize::BITS).step_by(7) {
        let (&byte, tail) = rest.split_first().ok_or(PlaceError)?;
        *rest = tail;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let (part, tail) = rest.split_at_checked(length).ok_or(PlaceError)?;
            *rest = tail;
            return Ok(part);
        }
    }
    Err(PlaceError)
}

/// `index/id (routing r)`
impl fmt::Display for EnginePlaceKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.id)?;
        match self.routing {
            Some(routing) => write!(f, " (routing {routing})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shows_index_id_and_routing() {
        let shown = |key: PlaceKey| EnginePlaceKey::decode(&key).unwrap().to_string();
        assert_eq!(shown(place_key("products", "1", None)), "products/1");
        assert_eq!(shown(place_key("products", "1", Some("eu"))), "products/1 (routing eu)");
        assert_eq!(shown(place_key("products", "1", Some(""))), "products/1");
    }

    #[test]
    fn what_is_no_place_is_told_as_such() {
        let good = place_key("products", "1", Some("eu")).0;
        let mut longer = good.to_vec();
        longer.push(0);
        let mut not_text = place_key("a", "b", None).0.to_vec();
        not_text[1] = 0xff;
        for bytes in [vec![], good[..good.len() - 1].to_vec(), longer, not_text, vec![0xff; 12]] {
            assert_eq!(EnginePlaceKey::decode(&PlaceKey(bytes.into())), Err(PlaceError));
        }
    }

    proptest! {
        #[test]
        fn reads_back(index in ".{0,200}", id in ".*", routing in proptest::option::of(".+")) {
            let key = place_key(&index, &id, routing.as_deref());
            let place = EnginePlaceKey::decode(&key).unwrap();
            prop_assert_eq!(place.index, &index);
            prop_assert_eq!(place.id, &id);
            prop_assert_eq!(place.routing, routing.as_deref());
            prop_assert_eq!(EnginePlaceKey::index_bytes(&key).unwrap(), index.as_bytes());
            prop_assert_eq!(place.encode(), key);
        }

        #[test]
        fn no_key_begins_another(
            a in ("[ab]{0,2}", "[ab]{0,2}", "[ab]{0,2}"),
            b in ("[ab]{0,2}", "[ab]{0,2}", "[ab]{0,2}"),
        ) {
            let first = place_key(&a.0, &a.1, Some(&a.2)).0;
            let second = place_key(&b.0, &b.1, Some(&b.2)).0;
            prop_assert_eq!(first.starts_with(&second), a == b);
        }
    }
}
