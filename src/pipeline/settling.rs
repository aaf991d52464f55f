//! Stores what is settled: the position of the stream and the progress of the copies, every so
//! often, and the end of a rule's copy when it comes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bson::{RawDocumentBuf, oid::ObjectId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys,
        records::{CopyProgressRecord, PositionRecord, put},
        store::{RecordKey, Store, Write},
        tracker::Tracker,
    },
    delivery::{Halt, insist_on_writing, retry::Backoff},
    rules::model::DeliverySettings,
    source::budget::Budget,
    status::{RuleStatus, State, TargetStatus},
    target::Target,
};

use super::{copying::Copy, plan::stored_times};

/// An idle stream's position is stored only every so many rounds: where nothing happens nothing is
/// read twice either, and a source that is its own checkpoint store is not kept busy by itself.
const IDLE_ROUNDS: u32 = 10;

/// All copies of one rule.
pub struct RuleCopies {
    /// The rule's name.
    pub rule: String,
    /// Of the rule.
    pub status: Arc<RuleStatus>,
    /// One a namespace.
    pub copies: Vec<Arc<Copy>>,
    /// The target knows that the copy is complete, and so does the store.
    complete: bool,
    /// The store knew that at the start.
    stored: bool,
    /// When the target is told again, where it did not take it.
    again_at: Option<Instant>,
    backoff: Option<Backoff>,
}

/// A place in a stream, as it is stored. Ordered as the stream is.
pub trait Place: Clone + PartialOrd + Send + Sync + 'static {
    /// Everything before this time is settled.
    fn time(&self) -> ClusterTime;

    /// The place more exactly, in MongoDB's own words.
    fn token(&self) -> Option<RawDocumentBuf> {
        None
    }
}

impl Place for ClusterTime {
    fn time(&self) -> ClusterTime {
        *self
    }
}

/// Stores the positions and the progress of one pipeline.
pub struct Settling<P> {
    /// Where.
    pub store: Arc<dyn Store>,
    /// Under which keys.
    pub keys: keys::Stream,
    /// The target.
    pub target: Arc<dyn Target>,
    /// Its waits.
    pub settings: DeliverySettings,
    /// What the stream has settled.
    pub tracker: Tracker<P>,
    /// What is copied.
    pub copies: Vec<RuleCopies>,
    /// What the position holds for.
    pub source: Option<ObjectId>,
    /// Rules that this run leaves out, and where they are.
    pub behind: BTreeMap<String, ClusterTime>,
    /// `checkpoint.every`.
    pub every: Duration,
    /// The target's status.
    pub status: Arc<TargetStatus>,
    /// What the documents on their way take.
    pub budgets: Vec<Arc<Budget>>,
    /// Whether a copy is under way: tells the stream how long to wait, and a run that only copies
    /// when it is done.
    pub copying: watch::Sender<bool>,
    /// Tells that all of a copy is settled, or swept.
    pub ends: Arc<Notify>,
}

/// What the store holds already.
struct Stored<P> {
    position: Option<P>,
    progress: HashMap<RecordKey, CopyProgressRecord>,
    /// Events of the stream when the position was stored.
    events: u64,
    idle: u32,
    buffers: i64,
}

impl<P> Default for Stored<P> {
    fn default() -> Self {
        Self { position: None, progress: HashMap::new(), events: 0, idle: 0, buffers: 0 }
    }
}

impl<P: Place> Settling<P> {
    /// Stores every so often; once `drained` is cancelled, one last time.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn run(
        mut self,
        drained: CancellationToken,
        stop: CancellationToken,
    ) -> Result<(), Halt> {
        let mut stored = Stored::default();
        let mut at = Instant::now();
        loop {
            let last = drained.is_cancelled();
            self.store_settled(&mut stored, last, &stop).await?;
            if last {
                return Ok(());
            }
            if self.end_copies(&drained).await {
                // What ended is stored at once, position included.
                self.store_settled(&mut stored, true, &stop).await?;
                self.announce();
            }
            // Not later for what ended before its time.
            let now = Instant::now();
            at = (at + self.every).clamp(now, now + self.every);
            // How far copies are is told more often than positions are stored.
            while Instant::now() < at {
                let end = self.ends.notified();
                tokio::pin!(end);
                end.as_mut().enable();
                if self.copies.iter().any(RuleCopies::is_ready) {
                    break;
                }
                tokio::select! {
                    () = drained.cancelled() => break,
                    () = end => continue,
                    () = tokio::time::sleep_until(at.min(Instant::now() + LOOK)) => {}
                }
                if let Some(position) = self.tracker.settled() {
                    self.status.position(position.time());
                }
                self.copies.iter().for_each(RuleCopies::report);
                self.report_buffers(&mut stored);
            }
        }
    }

    fn report_buffers(&self, stored: &mut Stored<P>) {
        let used: usize = self.budgets.iter().map(|budget| budget.used()).sum();
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        self.status.buffer_bytes(used - stored.buffers);
        stored.buffers = used;
    }

    /// Says which copies have come to their end. Not before that is stored: who has seen it may look there.
    fn announce(&self) {
        for copies in self.copies.iter().filter(|copies| copies.complete) {
            copies.status.copy_complete();
        }
        let copying = self.copies.iter().any(|rule| !rule.complete);
        if !copying {
            self.status.set_state(State::Following);
        }
        self.copying.send_if_modified(|known| std::mem::replace(known, copying) != copying);
    }

    async fn store_settled(
        &mut self,
        stored: &mut Stored<P>,
        last: bool,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let mut writes = Vec::new();
        let events = self.status.events();
        let moved = self.tracker.settled();
        let moved = moved.filter(|position| stored.position.as_ref() < Some(position));
        if let Some(position) = &moved {
            self.status.position(position.time());
            if last || events != stored.events || stored.idle >= IDLE_ROUNDS {
                writes.push(self.position(position));
            } else {
                stored.idle += 1;
            }
        }
        let position = moved.filter(|_| !writes.is_empty());
        let progress = self.progress(stored);
        self.copies.iter().for_each(RuleCopies::report);
        writes.extend(progress.iter().map(|(key, record)| put(key.clone(), record)));
        if writes.is_empty() {
            return Ok(());
        }
        insist_on_writing(&*self.store, writes, stop).await?;
        stored.progress.extend(progress);
        if let Some(position) = position {
            // Events that came while it was written are not covered by it: their count is older.
            stored.events = events;
            stored.idle = 0;
            self.status.checkpoint_stored(position.time());
            stored.position = Some(position);
        }
        Ok(())
    }

    fn position(&self, position: &P) -> Write {
        let record = PositionRecord {
            time: position.time(),
            token: position.token(),
            source: self.source,
            behind: stored_times(&self.behind),
            stored_at: bson::DateTime::now(),
        };
        put(self.keys.position(), &record)
    }

    /// The progress that the store does not hold yet.
    fn progress(&self, stored: &Stored<P>) -> Vec<(RecordKey, CopyProgressRecord)> {
        self.copies
            .iter()
            .flat_map(|rule| rule.copies.iter().map(move |copy| (rule, copy)))
            .filter_map(|(rule, copy)| {
                let key = self.keys.copy_progress(&rule.rule, copy.namespace.as_str());
                let settled = copy.settled();
                let complete = settled.complete || rule.complete || rule.stored;
                let record = CopyProgressRecord { complete, ..settled };
                let known = stored.progress.get(&key);
                (known != Some(&record)).then_some((key, record))
            })
            .collect()
    }

    /// Tells the target of each rule whose copy has become complete. Whether there was one.
    async fn end_copies(&mut self, drained: &CancellationToken) -> bool {
        let mut ended = false;
        for copies in &mut self.copies {
            if !copies.is_ready() {
                continue;
            }
            copies.report();
            let told = tokio::select! {
                told = self.target.copy_complete(&copies.rule) => told,
                // The last position must be stored, whatever the target does.
                () = drained.cancelled() => return ended,
            };
            if let Err(retry) = told {
                // One try a round: what is settled meanwhile goes on being stored.
                self.status.waiting(&retry.message);
                self.status.retry(retry.reason);
                let settings = &self.settings;
                let backoff = copies.backoff.get_or_insert_with(|| {
                    Backoff::new(settings.retry_initial, settings.retry_max)
                });
                copies.again_at = Some(Instant::now() + backoff.next(retry.after));
                continue;
            }
            self.status.recovered();
            copies.complete = true;
            ended = true;
        }
        ended
    }
}

/// How often the status is told.
const LOOK: Duration = Duration::from_millis(50);

impl RuleCopies {
    /// `stored` says whether an earlier run has brought them to their end. The target is told again
    /// then: what it arranged for the copy may still stand.
    pub fn new(
        rule: String,
        status: Arc<RuleStatus>,
        copies: Vec<Arc<Copy>>,
        stored: bool,
    ) -> Self {
        let complete = stored && copies.is_empty();
        Self { rule, status, copies, complete, stored, again_at: None, backoff: None }
    }

    /// Tells the status what was settled since the last call.
    fn report(&self) {
        for copy in self.copies.iter().filter(|_| !self.complete) {
            let settled = copy.newly_settled();
            if settled.documents > 0 {
                self.status.copy_progress(settled.documents, settled.bytes);
            }
        }
    }

    /// Whether everything is settled and the target does not know it yet.
    fn is_ready(&self) -> bool {
        !self.complete
            && self.again_at.is_none_or(|at| Instant::now() >= at)
            && self.copies.iter().all(|copy| copy.is_settled() && copy.is_past_sweep())
    }
}

#[cfg(test)]
mod tests;
