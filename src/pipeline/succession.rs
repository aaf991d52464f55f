//! Documents that await the places of others: once such a place is free, they are asked for, one after the
//! other, until one takes it; and all of them once more when a run begins.

use std::sync::Arc;

use futures_util::{TryStreamExt, stream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{store::RecordKey, tracker::Completion},
    delivery::{
        Halt,
        lane::Subject,
        spots::{Recalled, Spot},
        writer::Context,
    },
};

use super::{
    Error,
    demand::Demand,
    following::{Asked, Lanes},
    rule_set::RuleSet,
};

/// Places that are given on at once.
const AT_ONCE: usize = 64;

/// Gives on what has become free of one target's places.
pub(super) struct Succession {
    pub lanes: Arc<Lanes>,
    pub rules: Arc<RuleSet>,
    pub context: Arc<Context>,
    /// Whether the run leaves no rule out that writes to the target.
    pub is_whole: bool,
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
        under_way.spawn({
            let (own, stop) = (self.clone(), stop.clone());
            async move { own.recall(&stop).await }
        });
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

    /// Looks at those who awaited places when the last run ended, and have no letter: they waited, or were
    /// about to be refused.
    async fn recall(&self, stop: &CancellationToken) -> Result<(), Halt> {
        let Context { spots, places, .. } = &*self.context;
        let mut after = None;
        while let Some(Recalled { awaiting, last }) =
            spots.recall(after.as_ref(), places, stop).await?
        {
            let open = awaiting.into_iter().filter(|(_, subject)| !self.is_known_of(subject));
            stream::iter(open.map(Ok))
                .try_for_each_concurrent(AT_ONCE, |(key, subject)| async move {
                    self.deliver(key, &subject, stop).await.map(drop)
                })
                .await?;
            after = Some(last);
        }
        Ok(())
    }

    async fn give_on(&self, spot: Spot, stop: &CancellationToken) -> Result<(), Halt> {
        let Context { spots, places, .. } = &*self.context;
        if let Some(holder) = spots.holder(spot, places, stop).await? {
            // It may have the place since a run that was killed before it put it there, or before it took
            // back the letter; or not have it any more, since one that was killed before it said so. Should
            // it leave the place now, that is told once more.
            return match spots.awaits(spot, &holder.subject, stop).await? {
                Some(key) => self.deliver(key, &holder.subject, stop).await.map(drop),
                None if holder.has_others => self.ask(&holder.subject, stop).await,
                None => Ok(()),
            };
        }
        let (mut after, mut is_awaited) = (None, false);
        while let Some((key, subject)) = spots.awaiting(spot, after.as_ref(), stop).await? {
            match subject {
                Some(subject) => is_awaited |= !self.deliver(key.clone(), &subject, stop).await?,
                None => spots.forget(key.clone(), stop).await?,
            }
            if spots.holder(spot, places, stop).await?.is_some() {
                return Ok(());
            }
            after = Some(key);
        }
        match is_awaited {
            true => Ok(()),
            false => spots.unawaited(spot, stop).await,
        }
    }

    /// Whether each rule that chooses places says in a letter what has become of a document.
    fn is_known_of(&self, subject: &Subject) -> bool {
        let Context { shaper, dead_letters, .. } = &*self.context;
        let rules = self.rules.following(&subject.namespace);
        let mut choosing = rules.iter().filter(|rule| !shaper.is_fixed(**rule));
        choosing.all(|rule| dead_letters.has(dead_letters.rule(*rule), subject))
    }

    fn is_refused(&self, subject: &Subject) -> bool {
        self.context.dead_letters.has_any(subject)
    }

    /// Has a document delivered that awaits a place, and forgets that it does unless it is refused. One that
    /// may be of rules that the run leaves out is left as it is. Whether it was forgotten.
    async fn deliver(
        &self,
        awaiting: RecordKey,
        subject: &Subject,
        stop: &CancellationToken,
    ) -> Result<bool, Halt> {
        if !self.is_whole {
            if self.is_refused(subject) {
                self.ask(subject, stop).await?;
            }
            return Ok(false);
        }
        self.ask(subject, stop).await?;
        let is_refused = self.is_refused(subject);
        if !is_refused {
            self.context.spots.awaits_no_more(awaiting, subject, stop).await?;
        }
        Ok(!is_refused)
    }

    /// Has a document delivered as it is in the source.
    async fn ask(&self, subject: &Subject, stop: &CancellationToken) -> Result<(), Halt> {
        let asked = Completion::new();
        let (key, time) = (subject.key.clone(), self.context.spots.newest());
        let wanted = [Asked { key, time, deleted: false }];
        let done = async {
            self.lanes.ask(&subject.namespace, wanted, &asked).await;
            asked.close();
            asked.done().await;
        };
        stop.run_until_cancelled(done).await.ok_or(Halt::Stopped)
    }
}

#[cfg(test)]
mod tests;
