//! Changes of one lane that are shaped together: on the lane's own task, or, where a script reads
//! the source, on a thread that may wait for it.

use std::{collections::HashMap, sync::Arc};

use crate::{
    change::{Change, ClusterTime, Phase, id::IdTypes},
    checkpoint::tracker::Claims,
    target::PlaceKey,
    transform::{Lookup, Reads},
};

use super::{
    Halt,
    batch::Origin,
    lane::Subject,
    places::{Move, RulePlace, union},
    shape::{Shaped, Shaper},
    writer::Context,
};

/// What is to be shaped.
pub(super) struct Slice {
    /// In order.
    pub changes: Vec<Change>,
    /// Of each change, the types of its namespace.
    pub types: Vec<IdTypes>,
    /// The stored places of those that need them.
    pub places: HashMap<Subject, Vec<RulePlace>>,
}

/// A change that has been shaped, and what it settles.
pub(super) struct Settling {
    pub shaped: Shaped,
    pub phase: Phase,
    pub claims: Claims,
    /// Of the change.
    pub time: ClusterTime,
    /// Of the change.
    pub read: ClusterTime,
    /// Of a document whose places are stored.
    pub moved: Option<Box<Move>>,
    /// Places that it has not been put to before, for all that is known.
    pub fresh: Vec<PlaceKey>,
    /// Of its document where that comes back, since a place is still another's.
    pub waiting: Vec<Arc<Origin>>,
}

impl Slice {
    /// Shapes it. One with a script that looks up leaves the lane's task waiting, not its thread.
    ///
    /// # Errors
    /// `Stopped` where a script was stopped as it waited. Nothing of the slice is settled then.
    pub async fn shape(self, context: &Arc<Context>) -> Result<Vec<Settling>, Halt> {
        let lookup = context
            .lookup
            .as_ref()
            .filter(|_| self.changes.iter().any(|change| context.shaper.looks_up(change)));
        match lookup {
            None => self.shape_with(&context.shaper, None),
            Some(lookup) => self.shape_aside(context, lookup.clone()).await,
        }
    }

    /// On a thread beside those of the tasks: the source may take its time to answer, and may be
    /// away.
    async fn shape_aside(
        self,
        context: &Arc<Context>,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Vec<Settling>, Halt> {
        let stop = context.drain.child_token();
        // Should this task be dropped, the thread is not to wait on.
        let _dropped = stop.clone().drop_guard();
        let context = context.clone();
        let aside = tokio::task::spawn_blocking(move || {
            let reads = Reads { lookup, after: Default::default(), stop };
            self.shape_with(&context.shaper, Some(&reads))
        });
        match aside.await {
            Ok(shaped) => shaped,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is being shut down.
            Err(_) => Err(Halt::Stopped),
        }
    }

    fn shape_with(mut self, shaper: &Shaper, reads: Option<&Reads>) -> Result<Vec<Settling>, Halt> {
        let mut slice = Vec::with_capacity(self.changes.len());
        for (mut change, types) in self.changes.into_iter().zip(self.types) {
            let moving = shaper
                .needs_places(&change)
                .then(|| Subject { namespace: change.namespace.clone(), key: change.key.clone() });
            let old = moving.as_ref().and_then(|subject| self.places.get(subject)).cloned();
            let old = old.unwrap_or_default();
            let shaped = shaper.shape(&mut change, &types, &old, reads)?;
            let moved = moving.map(|subject| {
                // A second change of the document in this slice finds what the first one leaves.
                self.places.insert(subject.clone(), union(&old, &shaped.places));
                Box::new(Move::new(subject, old, shaped.places.clone()))
            });
            slice.push(Settling {
                shaped,
                phase: change.phase,
                claims: change.claims,
                time: change.time,
                read: change.read,
                moved,
                fresh: Vec::new(),
                waiting: Vec::new(),
            });
        }
        Ok(slice)
    }
}

#[cfg(test)]
mod tests;
