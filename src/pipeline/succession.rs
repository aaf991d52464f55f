//! Documents that were refused since their places were others': once such a place is free, they are
//! asked for, one after the other, until one takes it.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{DocumentKey, Namespace},
    checkpoint::tracker::Completion,
    delivery::{Halt, lane::Subject, spots::Spot, writer::Context},
};

use super::{
    Error,
    demand::Demand,
    following::{Asked, Lanes},
};

/// Places that are given on at once.
const AT_ONCE: usize = 64;

/// Gives on what has become free of one target's places.
pub(super) struct Succession {
    pub lanes: Arc<Lanes>,
    pub context: Arc<Context>,
}

impl Succession {
    /// Works until it is stopped.
    pub async fn run(self, stop: CancellationToken) -> Result<Option<Demand>, Error> {
        match Arc::new(self).work(&stop).await {
            Ok(()) | Err(Halt::Stopped) => Ok(None),
            Err(halt) => Err(halt.into()),
        }
    }

    async fn work(self: Arc<Self>, stop: &CancellationToken) -> Result<(), Halt> {
        let spots = &self.context.spots;
        let mut under_way: JoinSet<Result<(), Halt>> = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(done) = under_way.join_next(), if !under_way.is_empty() => match done {
                    Ok(given) => given?,
                    // A panic goes on here, where the pipeline sees it.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => return Ok(()),
                },
                spot = spots.freed(), if under_way.len() < AT_ONCE => {
                    let (own, stop) = (self.clone(), stop.clone());
                    under_way.spawn(async move { own.give_on(spot, &stop).await });
                }
            }
        }
    }

    async fn give_on(&self, spot: Spot, stop: &CancellationToken) -> Result<(), Halt> {
        let Context { spots, places, .. } = &*self.context;
        // It may have the place since a run that was killed before it put it there, or before it took
        // back the letter.
        if let Some((key, Subject { namespace, key: given })) =
            spots.given(spot, places, stop).await?
        {
            self.deliver(&namespace, given, stop).await?;
            // Should it have left the place by now, that is told once more.
            return spots.forget(key, stop).await;
        }
        let mut after = None;
        while let Some((key, subject)) = spots.awaiting(spot, after.as_ref(), stop).await? {
            if let Some(Subject { namespace, key }) = &subject {
                self.deliver(namespace, key.clone(), stop).await?;
            }
            match (spots.owner(spot, places, stop).await?, subject) {
                // It has lost it again, and waits on.
                (Some(owner), Some(subject)) if !owner.is_same_document(&subject) => return Ok(()),
                (Some(_), _) => return spots.forget(key, stop).await,
                (None, _) => spots.forget(key.clone(), stop).await?,
            }
            after = Some(key);
        }
        Ok(())
    }

    /// Has a document delivered as it is in the source.
    async fn deliver(
        &self,
        namespace: &Namespace,
        key: DocumentKey,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let asked = Completion::new();
        let time = self.context.spots.newest();
        let wanted = [Asked { key, time, deleted: false }];
        let done = async {
            self.lanes.ask(namespace, wanted, &asked).await;
            asked.close();
            asked.done().await;
        };
        stop.run_until_cancelled(done).await.ok_or(Halt::Stopped)
    }
}
