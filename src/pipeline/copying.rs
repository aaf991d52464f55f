//! The copy of one target's rules: chunks of collections, read side by side, handed to the lanes in
//! the order that `delivery::lane` explains.

mod copy;

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use smallvec::smallvec;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    change::{Cause, Change, ClusterTime, Document, DocumentKey, Namespace, Phase, State},
    checkpoint::tracker::Claim,
    delivery::lane::{Overflow, WindowId},
    rules::model::OnDelete,
    source::{
        Patience,
        budget::Budget,
        chunks::{Range, ranges},
        error::{Error as SourceError, Remedy},
        scan::{Page, Scan, last_id},
    },
    status::RuleStatus,
};

use super::{
    Error,
    following::{Asked, Lanes},
    reading::{Fetched, Reading, SourceBackoff},
    rule_set::RuleSet,
};

pub use copy::{Copy, Volume};

use copy::{OpenChunk, OpenPage};

/// Chunks of one target that are read at once, whatever its rules say each.
pub const CHUNKS_AT_ONCE: usize = 8;
/// Chunks of one target that are open at once: those that are read, and small collections that were and
/// wait for the stream to pass them. Such a one is read in less time than the stream takes to show that
/// nothing has happened, and is not to hold up the next one meanwhile.
pub const CHUNKS_OPEN: usize = 32;
/// Replies of one chunk that wait for the stream to pass them.
const REPLIES_AHEAD: usize = 8;

/// What the chunks of one target's copies share.
pub struct Copying {
    /// The source.
    pub reading: Arc<Reading>,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
    /// Where the documents go.
    pub lanes: Arc<Lanes>,
    /// Pays for what is read; apart from the changes' budget, or the two would wait for each other.
    pub budget: Arc<Budget>,
    /// Of each rule, by its index.
    pub rule_status: Vec<Arc<RuleStatus>>,
    /// Numbers the windows.
    pub windows: AtomicU64,
    /// Chunks that are read at once.
    pub slots: Arc<Semaphore>,
    /// Chunks that are open at once.
    pub open: Arc<Semaphore>,
    /// Tells that all of a copy is settled, or swept.
    pub ends: Arc<Notify>,
}

impl Copying {
    /// Reads every chunk of a rule's copies that is not settled, `parallel` at a time, hands the
    /// documents to the lanes, and waits until they are settled.
    ///
    /// # Errors
    /// `Refused` where the source can't do it; stopped, it returns without an error.
    pub async fn run(self: &Arc<Self>, copies: &[Arc<Copy>], parallel: usize) -> Result<(), Error> {
        let mut chunks = JoinSet::new();
        // Chunks that are not handed over, and this one list of them.
        let unread = Arc::new(AtomicUsize::new(1));
        let rule_slots = Arc::new(Semaphore::new(parallel.max(1)));
        for copy in copies {
            if copy.plan.ended {
                // There is nothing to read: it went, or has left the rule. What comes again under its
                // name is in the stream.
                copy.open(0).close();
                self.ends.notify_waiters();
                continue;
            }
            if copy.complete {
                continue;
            }
            let settled = copy.settled().done;
            for (chunk, range) in (0..).zip(ranges(&copy.plan.bounds)) {
                if settled.contains(chunk) {
                    continue;
                }
                let mut slots = Slots::new(rule_slots.clone(), self.slots.clone());
                let taken = async {
                    let open = self.open.clone().acquire_owned().await;
                    slots.take().await;
                    open
                };
                let one_open = tokio::select! {
                    taken = taken => taken,
                    () = self.reading.stop.cancelled() => break,
                };
                let (this, copy, unread) = (self.clone(), copy.clone(), unread.clone());
                unread.fetch_add(1, Ordering::AcqRel);
                chunks.spawn(async move {
                    let open = copy.open(chunk);
                    let result = this.chunk(&copy, chunk, range, &open, slots).await;
                    drop(one_open);
                    this.handed_over(&unread);
                    let settled = this.reading.stop.run_until_cancelled(open.settled());
                    if result.is_ok() && settled.await.is_some() && copy.is_settled() {
                        this.ends.notify_waiters();
                    }
                    result
                });
                while let Some(done) = chunks.try_join_next() {
                    joined(done)?;
                }
            }
        }
        self.handed_over(&unread);
        while let Some(done) = chunks.join_next().await {
            joined(done)?;
        }
        Ok(())
    }

    /// Behind the last of the `unread` chunks no lane waits for more.
    fn handed_over(&self, unread: &AtomicUsize) {
        if unread.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lanes.iter().for_each(|lane| lane.hurry());
        }
    }

    async fn chunk(
        &self,
        copy: &Copy,
        chunk: u32,
        mut range: Range,
        open: &OpenChunk,
        mut slots: Slots,
    ) -> Result<(), Error> {
        let mut backoff = SourceBackoff::default();
        let mut by_keys = false;
        loop {
            let from = range.from.clone();
            let tried = tokio::select! {
                tried = async {
                    slots.take().await;
                    self.read(copy, &mut range, open, by_keys, backoff.patience, &mut slots).await
                } => tried,
                () = self.reading.stop.cancelled() => return Ok(()),
            };
            if range.from != from {
                backoff.reset();
            }
            match tried {
                Ok(()) => {
                    open.close();
                    return Ok(());
                }
                Err(Trouble::Overflow) => {
                    tracing::debug!(namespace = %copy.namespace, chunk, "many changes, reading on in a new window");
                }
                Err(Trouble::Stopped) => return Ok(()),
                Err(Trouble::Source(error)) if error.remedy() == Remedy::Retry => {
                    self.again(&error, &mut backoff).await?;
                }
                // A document on which the rule's filter or projection fails: looked up by key, it is
                // found and refused alone.
                Err(Trouble::Source(error)) if !by_keys && !copy.view => {
                    tracing::info!(
                        namespace = %copy.namespace, chunk, error = %error,
                        "a read fails, going on document by document"
                    );
                    by_keys = true;
                }
                // Nothing that reading in another way can mend: shown, and waited for.
                Err(Trouble::Source(error)) => self.again(&error, &mut backoff).await?,
            }
        }
    }

    async fn again(&self, error: &SourceError, backoff: &mut SourceBackoff) -> Result<(), Error> {
        // Stopped while it waits: the caller's select sees it next.
        let _ = self.reading.hold_back("copy", error, backoff).await;
        Ok(())
    }

    /// Reads a chunk from `range.from` on. What has been handed over moves `range.from`, so that
    /// after a lost cursor the chunk goes on where it was.
    async fn read(
        &self,
        copy: &Copy,
        range: &mut Range,
        open: &OpenChunk,
        by_keys: bool,
        patience: Patience,
        slots: &mut Slots,
    ) -> Result<(), Trouble> {
        let rule = self.rules.get(copy.rule);
        let window = rule.follows().then(|| self.open_window(&copy.namespace));
        let low = window.as_ref().map_or(copy.plan.started, |window| window.low);
        let low = low.max(copy.plan.started);
        // A sharded document's key can't be told from what a projection leaves of it.
        let projected = copy.shape.paths().len() > 1 && rule.read.project.is_some();
        let looks_up = !copy.view
            && (by_keys
                || projected
                || !rule.read.pipeline.is_empty()
                || self.tells_unmatched(copy));
        let read = if looks_up { &copy.keys_only } else { &rule.read };
        let budget = self.budget.clone();
        let source = self.reading.source.patient(patience);
        let mut scan = if copy.view {
            let disk = rule.rule().copy.is_some_and(|copy| copy.allow_disk_use);
            source.scan_view(&copy.namespace, read, low, copy.batch, disk, budget).await?
        } else {
            source.scan(&copy.namespace, read, range, low, copy.batch, budget).await?
        };
        // The next reply is read while earlier ones wait for the stream.
        let (pages, arrived) = mpsc::channel(REPLIES_AHEAD);
        let read = async {
            let read = forward(&mut scan, pages).await;
            // Of a large collection no more windows are open than it may have chunks read.
            if !looks_up && copy.plan.bounds.is_empty() {
                slots.give_back();
            }
            read.map_err(Trouble::Source)
        };
        let hand_over =
            self.hand_over(copy, range, open, (window.as_ref(), low, looks_up), arrived);
        tokio::try_join!(read, hand_over)?;
        Ok(())
    }

    async fn hand_over(
        &self,
        copy: &Copy,
        range: &mut Range,
        open: &OpenChunk,
        (window, low, looks_up): (Option<&Window<'_>>, ClusterTime, bool),
        mut arrived: mpsc::Receiver<Page>,
    ) -> Result<(), Trouble> {
        let mut frontier = self.lanes.frontier();
        while let Some(page) = arrived.recv().await {
            let last = if copy.view { None } else { last_id(&page)? };
            let volume =
                Volume { documents: page.documents.len() as u64, bytes: page.bytes as u64 };
            let handed = open.page(self.lanes.iter().count());
            let mut part = match looks_up {
                false => Part {
                    found: page.documents.into_iter().map(Found::document).collect(),
                    high: page.operation_time,
                    unread: Vec::new(),
                },
                true => {
                    let keys = keys_of(copy, &page.documents)?;
                    drop(page.documents);
                    let part = self.look_up(copy, &handed, keys, low).await?;
                    // A page of no keys looks nothing up, and is as new as its own read.
                    Part { high: part.high.max(page.operation_time), ..part }
                }
            };
            loop {
                let high = part.high;
                let passed = frontier.wait_for(|frontier| *frontier >= high);
                if window.is_some() && passed.await.is_err() {
                    return Err(Trouble::Stopped);
                }
                self.offer(copy, &handed, window, part.found, high)?;
                if part.unread.is_empty() {
                    break;
                }
                part = self.look_up(copy, &handed, part.unread, low).await?;
            }
            if let Some(last) = last {
                range.from = Some(last);
            }
            open.handed_over(&handed, volume);
        }
        Ok(())
    }

    /// Whether the copy has to find the documents that are there and do not match: what a rule with
    /// `on_delete: keep` has delivered and no longer delivers is removed, what is gone stays, so that
    /// being old does not say which of the two it is.
    fn tells_unmatched(&self, copy: &Copy) -> bool {
        let rule = self.rules.get(copy.rule);
        rule.rule().on_delete == OnDelete::Keep && rule.follows() && !copy.is_swept()
    }

    /// A rule's pipeline is evaluated by lookup, on the copy as on changes.
    async fn look_up(
        &self,
        copy: &Copy,
        page: &OpenPage,
        keys: Vec<DocumentKey>,
        low: ClusterTime,
    ) -> Result<Part, Trouble> {
        self.budget.available().await;
        let read = &self.rules.get(copy.rule).read;
        let answer = self
            .reading
            .fetch(&copy.namespace, read, &keys, low, &self.budget)
            .await
            .map_err(|_| Trouble::Stopped)?;
        let mut part = Part { found: Vec::new(), high: answer.operation_time, unread: Vec::new() };
        let mut unmatched = Vec::new();
        for (key, fetched) in keys.into_iter().zip(answer.fetched) {
            let state = match fetched {
                Fetched::Present(document) => State::Present(document),
                Fetched::Failed(words) => State::Failed(words),
                Fetched::Absent => {
                    unmatched.push(key);
                    continue;
                }
                Fetched::Unread => {
                    part.unread.push(key);
                    continue;
                }
            };
            part.found.push(Found { key: Some(key), state });
        }
        if self.tells_unmatched(copy) {
            let time = copy.plan.started;
            let asked = unmatched.into_iter().map(|key| Asked { key, time, deleted: false });
            self.lanes.ask(&copy.namespace, asked, page.of_lane(0)).await;
        }
        Ok(part)
    }

    fn offer(
        &self,
        copy: &Copy,
        page: &OpenPage,
        window: Option<&Window<'_>>,
        found: Vec<Found>,
        read: ClusterTime,
    ) -> Result<(), Trouble> {
        // Each lane has a name of its own, whose owners no other lane counts.
        let namespaces: Vec<_> = self.lanes.iter().map(|_| copy.namespace.apart()).collect();
        let share = found.len() / namespaces.len();
        let changes = || Vec::with_capacity(share + share / 4);
        let mut changes: Vec<Vec<Change>> = self.lanes.iter().map(|_| changes()).collect();
        for Found { key, state } in found {
            let key = match (key, &state) {
                (Some(key), _) => Some(key),
                (None, State::Present(document)) => copy.shape.key_of(document).ok(),
                (None, _) => None,
            };
            let Some(key) = key else {
                // The page is read again; nothing of this try is on its way.
                let made = changes.into_iter().flatten();
                made.for_each(|change| Claim::settle_all(change.claims));
                return Err(Trouble::garbled());
            };
            let lane = self.lanes.index(&copy.namespace, &key);
            changes[lane].push(Change {
                namespace: namespaces[lane].clone(),
                key,
                time: copy.plan.started,
                cause: Cause::Copy(copy.plan.id),
                read,
                since: None,
                deleted: false,
                phase: Phase::Copy,
                states: smallvec![(copy.rule, state)],
                claims: smallvec![page.of_lane(lane).claim()],
            });
        }
        let mut dropped = 0;
        let mut overflow = false;
        for (lane, changes) in self.lanes.iter().zip(changes) {
            match window {
                // The chunk is not closed, and will read these again.
                _ if overflow => {
                    changes.into_iter().for_each(|change| Claim::settle_all(change.claims));
                }
                Some(window) => match lane.offer(window.id, changes) {
                    Ok(count) => dropped += count,
                    Err(Overflow) => overflow = true,
                },
                None => lane.append(changes),
            }
        }
        if overflow {
            return Err(Trouble::Overflow);
        }
        let rule = &self.rule_status[usize::from(copy.rule.0)];
        rule.count(Phase::Copy, crate::status::Settled::Superseded, dropped as u64);
        Ok(())
    }

    fn open_window(&self, namespace: &Namespace) -> Window<'_> {
        let id = WindowId(self.windows.fetch_add(1, Ordering::AcqRel));
        let low = self
            .lanes
            .iter()
            .map(|lane| lane.open_window(id, namespace))
            .max()
            .unwrap_or(ClusterTime::ZERO);
        Window { id, low, lanes: &self.lanes }
    }
}

/// The right to read a chunk, among a rule's chunks and among the target's.
struct Slots {
    rule: Arc<Semaphore>,
    target: Arc<Semaphore>,
    held: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Slots {
    fn new(rule: Arc<Semaphore>, target: Arc<Semaphore>) -> Self {
        Self { rule, target, held: None }
    }

    /// Waits for both where they are not held. May be dropped.
    async fn take(&mut self) {
        if self.held.is_none() {
            let rule = self.rule.clone().acquire_owned().await;
            let target = self.target.clone().acquire_owned().await;
            self.held = rule.ok().zip(target.ok());
        }
    }

    /// All has come from the source.
    fn give_back(&mut self) {
        self.held = None;
    }
}

/// What of a page is ready to be handed over.
struct Part {
    found: Vec<Found>,
    /// The state that was read is not newer.
    high: ClusterTime,
    /// To be looked up next.
    unread: Vec<DocumentKey>,
}

fn keys_of(copy: &Copy, documents: &[Document]) -> Result<Vec<DocumentKey>, Trouble> {
    documents
        .iter()
        .map(|document| copy.shape.key_of(document).map_err(|_| Trouble::garbled()))
        .collect()
}

/// A document on its way out of a chunk.
struct Found {
    key: Option<DocumentKey>,
    state: State,
}

impl Found {
    fn document(document: Document) -> Self {
        Self { key: None, state: State::Present(document) }
    }
}

/// A window in every lane; closed on drop.
struct Window<'a> {
    id: WindowId,
    low: ClusterTime,
    lanes: &'a Lanes,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        for lane in self.lanes.iter() {
            lane.close_window(self.id);
        }
    }
}

enum Trouble {
    Source(SourceError),
    Overflow,
    Stopped,
}

impl Trouble {
    fn garbled() -> Self {
        Self::Source(SourceError::Refused(
            "a document came without its key fields; keep _id, and the shard key of a sharded \
             collection, in project"
                .into(),
        ))
    }
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

async fn forward(scan: &mut Scan, pages: mpsc::Sender<Page>) -> Result<(), SourceError> {
    while let Some(page) = scan.next().await {
        if pages.send(page?).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn joined(done: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Ok(()),
    }
}
