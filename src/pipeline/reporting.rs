//! Leaves in the checkpoint store what the status says, for who looks from elsewhere. Nothing depends
//! on it: a report that can't be written is made again later.

use std::time::{Duration, SystemTime};

use bson::DateTime;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{
        report::{ReportRecord, leave},
        store::{Store, StoreError},
    },
    delivery::retry::pause,
    status::{Snapshot, Status},
};

/// Reports are at least so far apart.
const APART: Duration = Duration::from_secs(3);
/// What changes by itself (times, the oplog's reach) is reported so often.
const REFRESH: Duration = Duration::from_secs(60);
/// How long the last one may take: the next process waits for the lease.
const LAST: Duration = Duration::from_secs(2);
/// Of an error, so many characters are kept.
const ERROR: usize = 2_000;

/// Reports for one holding of the lease.
pub struct Reporter<'a> {
    store: &'a dyn Store,
    status: &'a Status,
    epoch: u64,
    /// What the store holds, and since when.
    left: Option<(Snapshot, Instant)>,
}

impl<'a> Reporter<'a> {
    /// `epoch` is that of the lease.
    pub fn new(store: &'a dyn Store, status: &'a Status, epoch: u64) -> Self {
        Self { store, status, epoch, left: None }
    }

    /// Reports what changes until it is stopped, or another process holds the name.
    pub async fn keep(&mut self, stop: &CancellationToken) {
        loop {
            let reported = tokio::select! {
                reported = self.report(is_due) => reported,
                () = stop.cancelled() => return,
            };
            match reported {
                Err(StoreError::LostLease { .. }) => return,
                // A store that is away is told by those who can't go on without.
                Ok(()) | Err(StoreError::Unavailable { .. }) => {}
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the status can't be left in the checkpoint store"
                ),
            }
            if !pause(APART, stop).await {
                return;
            }
        }
    }

    /// Leaves the last words: after all work has ended, before the lease is given back.
    pub async fn end(&mut self) {
        let last = self.report(|left, now, _| left != now);
        if !matches!(timeout(LAST, last).await, Ok(Ok(()))) {
            tracing::debug!("the last status was not left in the checkpoint store");
        }
    }

    async fn report(
        &mut self,
        is_due: impl Fn(&Snapshot, &Snapshot, Duration) -> bool,
    ) -> Result<(), StoreError> {
        let now = in_short(self.status.snapshot(SystemTime::now()));
        if let Some((left, since)) = &self.left
            && !is_due(left, &now, since.elapsed())
        {
            return Ok(());
        }
        let at = Instant::now();
        let said = bson::serialize_to_document(&now)
            .expect("a status object has texts for keys, and numbers that BSON knows");
        leave(self.store, &ReportRecord { epoch: self.epoch, at: DateTime::now(), said }).await?;
        self.left = Some((now, at));
        Ok(())
    }
}

/// Errors may be as long as their authors like.
fn in_short(mut snapshot: Snapshot) -> Snapshot {
    for error in snapshot.targets.iter_mut().filter_map(|(_, target)| target.last_error.as_mut()) {
        if let Some((end, _)) = error.char_indices().nth(ERROR) {
            error.truncate(end);
            error.push('…');
        }
    }
    snapshot
}

/// Whether what the store holds for `age` is no longer what a reader needs to know.
fn is_due(left: &Snapshot, now: &Snapshot, age: Duration) -> bool {
    age >= REFRESH && left != now || gist(left) != gist(now)
}

/// Without what moves while nothing happens: positions, which the store has anyway, and times.
fn gist(snapshot: &Snapshot) -> Snapshot {
    let mut gist = snapshot.clone();
    gist.oplog_window_seconds = None;
    for (_, target) in &mut gist.targets {
        target.position = None;
        target.oplog_left_seconds = None;
        // A lag that grows is told by its age; that there is one is news.
        target.lag_seconds = target.lag_seconds.map(|lag| if lag < 1.0 { 0.0 } else { 1.0 });
        target.rules.iter_mut().for_each(|(_, rule)| rule.position = None);
    }
    gist
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{ClusterTime, Phase},
        checkpoint::{memory::MemoryStore, report::last},
        status::{Settled, fixture},
    };

    #[tokio::test(start_paused = true)]
    async fn what_is_news_is_reported_and_what_moves_by_itself_is_not() {
        let status = Status::new(&fixture::rules());
        let search = status.target("search");
        let products = search.rule("products");
        let snapshot = || status.snapshot(SystemTime::now());
        search.seen(None, SystemTime::now());
        let first = snapshot();
        let soon = Duration::from_secs(3);

        search.position(ClusterTime(1_795_227_029 << 32));
        status.oplog_reaches_to(ClusterTime(1_795_220_000 << 32));
        status.oplog_window(Duration::from_secs(7_100));
        assert!(!is_due(&first, &snapshot(), soon), "only positions and times");
        assert!(is_due(&first, &snapshot(), REFRESH));
        assert!(!is_due(&first, &first, REFRESH), "nothing at all");

        let before = snapshot();
        products.count(Phase::Changes, Settled::Delivered, 1);
        assert!(is_due(&before, &snapshot(), soon), "a document");
        let before = snapshot();
        search.waiting("connection refused");
        assert!(is_due(&before, &snapshot(), soon), "a state");
        let before = snapshot();
        let time = ClusterTime(1_795_227_040 << 32);
        search.seen(Some((time, time)), SystemTime::now());
        assert!(is_due(&before, &snapshot(), soon), "a lag");
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_left_under_the_epoch_and_the_last_one_at_the_end() {
        let store = MemoryStore::new("shop");
        store.fence(4).await.unwrap();
        let status = Status::new(&fixture::rules());
        let mut reporter = Reporter::new(&store, &status, 4);
        reporter.report(is_due).await.unwrap();
        let first = last(&store).await.unwrap().unwrap();
        assert_eq!(first.epoch, 4);
        let said: Snapshot = bson::deserialize_from_document(first.said.clone()).unwrap();
        assert_eq!(said.targets.len(), 2);
        reporter.report(is_due).await.unwrap();
        assert_eq!(last(&store).await.unwrap(), Some(first), "nothing is new");

        // What a reader is not told in the meantime is there at the end.
        status.target("mirror").failed(&"no ".repeat(5_000));
        reporter.end().await;
        let said = last(&store).await.unwrap().unwrap().said;
        let said: Snapshot = bson::deserialize_from_document(said).unwrap();
        let error = said.targets[1].1.last_error.as_ref().unwrap();
        assert_eq!(error.chars().count(), ERROR + 1);

        let next = store.another();
        next.fence(5).await.unwrap();
        status.target("mirror").failed("something else");
        assert!(matches!(reporter.report(is_due).await, Err(StoreError::LostLease { .. })));
        // It ends by itself: nobody stops it here.
        reporter.keep(&CancellationToken::new()).await;
    }
}
