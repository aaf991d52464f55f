//! Which chunks of a copy are done: a set of chunk numbers, kept as ranges, because chunks finish
//! nearly in order.

use serde::{Deserialize, Serialize};

/// Chunk numbers as ascending ranges `[from, to)` that neither meet nor overlap.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct ChunkSet(Vec<(u32, u32)>);

impl ChunkSet {
    /// Adds a chunk; says whether it is new.
    pub fn insert(&mut self, chunk: u32) -> bool {
        // The first range that ends at or after the chunk is the only one that can hold it or
        // grow upwards by it.
        let at = self.0.partition_point(|&(_, to)| to < chunk);
        let grows = match self.0.get(at) {
            Some(&(from, to)) if from <= chunk && chunk < to => return false,
            Some(&(_, to)) => to == chunk,
            None => false,
        };
        let next = if grows { at + 1 } else { at };
        let meets = self.0.get(next).is_some_and(|&(from, _)| from == chunk + 1);
        match (grows, meets) {
            (true, true) => {
                self.0[at].1 = self.0[next].1;
                self.0.remove(next);
            }
            (true, false) => self.0[at].1 = chunk + 1,
            (false, true) => self.0[next].0 = chunk,
            (false, false) => self.0.insert(at, (chunk, chunk + 1)),
        }
        true
    }

    /// Whether the chunk is in it.
    pub fn contains(&self, chunk: u32) -> bool {
        let at = self.0.partition_point(|&(_, to)| to <= chunk);
        self.0.get(at).is_some_and(|&(from, _)| from <= chunk)
    }

    /// How many chunks are in it.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|(from, to)| to - from).sum()
    }

    /// Whether none is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chunks under `count` that are not in it, ascending.
    pub fn missing(&self, count: u32) -> impl Iterator<Item = u32> + '_ {
        (0..count).filter(|chunk| !self.contains(*chunk))
    }
}

impl FromIterator<u32> for ChunkSet {
    fn from_iter<I: IntoIterator<Item = u32>>(chunks: I) -> Self {
        let mut set = Self::default();
        for chunk in chunks {
            set.insert(chunk);
        }
        set
    }
}

impl From<ChunkSet> for Vec<(u32, u32)> {
    fn from(set: ChunkSet) -> Self {
        set.0
    }
}

/// Ranges that are empty, overlap, meet or do not ascend.
#[derive(Debug, thiserror::Error)]
#[error("the ranges of chunks are not in order: {0:?}")]
pub struct ChunksOutOfOrder(Vec<(u32, u32)>);

impl TryFrom<Vec<(u32, u32)>> for ChunkSet {
    type Error = ChunksOutOfOrder;

    fn try_from(ranges: Vec<(u32, u32)>) -> Result<Self, ChunksOutOfOrder> {
        let ordered = ranges.iter().all(|(from, to)| from < to)
            && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if ordered { Ok(Self(ranges)) } else { Err(ChunksOutOfOrder(ranges)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_what_a_plain_set_holds(chunks in prop::collection::vec(0..40u32, 0..60)) {
            let (mut set, mut plain) = (ChunkSet::default(), BTreeSet::new());
            for chunk in chunks {
                prop_assert_eq!(set.insert(chunk), plain.insert(chunk));
                prop_assert_eq!(ChunkSet::try_from(set.0.clone()).ok(), Some(set.clone()));
            }
            prop_assert_eq!(set.len() as usize, plain.len());
            for chunk in 0..41 {
                prop_assert_eq!(set.contains(chunk), plain.contains(&chunk));
            }
            let missing: Vec<u32> = (0..40).filter(|chunk| !plain.contains(chunk)).collect();
            prop_assert_eq!(set.missing(40).collect::<Vec<_>>(), missing);
        }
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        for ranges in [vec![(1, 1)], vec![(2, 1)], vec![(0, 2), (2, 3)], vec![(4, 5), (0, 1)]] {
            assert!(ChunkSet::try_from(ranges.clone()).is_err(), "{ranges:?}");
        }
    }
}
