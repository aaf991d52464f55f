//! The low-water mark: which position a stream may store, and when a chunk of the copy is done.
//!
//! Claims go out with the changes and come back from delivery once each is settled; a reader opens
//! a span a batch, and whoever stores positions asks the tracker. Nothing here knows what a
//! position means, writes it, or decides what settled is.
//!
//! What is settled has no order: batches finish as they finish. What is stored has one: the newest
//! position with nothing unsettled before it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use smallvec::SmallVec;
use tokio::sync::Notify;

/// A share in a span: the position can't move past the span until every claim on it is settled.
///
/// A claim is one pointer, settling it is one atomic subtraction. One that is dropped without being
/// settled leaves its span unsettled for ever: a task that was aborted must hold the position where
/// it is, so that the next start reads again what the task had in hand.
#[must_use = "a claim that is not settled holds the position for ever"]
pub struct Claim(Arc<Shares>);

/// What one change holds back: nearly always one thing, which lies in place.
pub type Claims = SmallVec<[Claim; 1]>;

/// What the claims of one span, or of one completion, have in common.
struct Shares {
    /// Claims that are not settled, and one more for whoever may still make claims.
    left: AtomicUsize,
    /// The order of opening within the tracker.
    sequence: u64,
    /// Woken when `left` comes to zero. One a tracker, one a completion: it tells whose shares
    /// these are.
    settled: Arc<Notify>,
}

impl Shares {
    fn new(sequence: u64, settled: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(1), sequence, settled })
    }

    /// One more claim. Sound only while the caller itself holds a share: what came to zero has
    /// been seen as settled.
    fn claim(self: &Arc<Self>) -> Claim {
        self.left.fetch_add(1, Ordering::Relaxed);
        Claim(Arc::clone(self))
    }

    /// `AcqRel`: what a task did before it settled is seen by whoever finds the span settled.
    fn give_back(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_waiters();
        }
    }

    fn is_settled(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

impl Claim {
    /// What this claim stood for is applied, superseded, filtered, or in the dead letters, durably.
    pub fn settle(self) {
        self.0.give_back();
    }

    /// A second claim on the same span, for a change that becomes several writes.
    pub fn share(&self) -> Self {
        self.0.claim()
    }

    /// Takes over what `other` stands for, where both come from one tracker or one completion;
    /// gives it back otherwise. For changes that became one and will be settled together.
    ///
    /// Of two spans the older is kept: while it is unsettled the position can't pass the newer
    /// either, and afterwards both are settled.
    ///
    /// # Errors
    /// `other`, unchanged, where the two have nothing to do with one another.
    pub fn absorb(&mut self, mut other: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.0.settled, &other.0.settled) {
            return Err(other);
        }
        if other.0.sequence < self.0.sequence {
            std::mem::swap(self, &mut other);
        }
        other.settle();
        Ok(())
    }

    /// Joins the claims of a change that is about to be one with the change that `claims` belongs
    /// to. The list stays as short as there are trackers and completions in it.
    pub fn join(self, claims: &mut Claims) {
        let mut claim = self;
        // What came last is most likely of the same.
        for known in claims.iter_mut().rev() {
            match known.absorb(claim) {
                Ok(()) => return,
                Err(other) => claim = other,
            }
        }
        claims.push(claim);
    }

    /// Settles all of them.
    pub fn settle_all(claims: impl IntoIterator<Item = Self>) {
        claims.into_iter().for_each(Self::settle);
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({} of span {})", self.0.left.load(Ordering::Relaxed), self.0.sequence)
    }
}

/// A part of a stream that is settled as one: a batch of events. Made by [`Tracker::open`].
///
/// One that is dropped without being closed holds the position for ever, as a claim does.
#[must_use = "a span that is not closed holds the position for ever"]
pub struct Span<P> {
    tracker: Tracker<P>,
    shares: Arc<Shares>,
}

impl<P: Clone> Span<P> {
    /// One more claim, for one event or for as many as are settled together.
    pub fn claim(&self) -> Claim {
        self.shares.claim()
    }

    /// No more claims come. `position` is reached once this span and all before it are settled.
    pub fn close(self, position: P) {
        {
            let mut queue = self.tracker.queue();
            let sequence = self.shares.sequence;
            let index = queue
                .spans
                .binary_search_by_key(&sequence, |span| span.shares.sequence)
                .expect("a span stays in the queue until it is closed");
            queue.spans[index].position = Some(position);
        }
        self.shares.give_back();
    }
}

/// Knows how far a stream is settled. Clones are the same tracker.
///
/// One tracker a stream; spans are opened in the stream's order by the one task that reads it.
pub struct Tracker<P> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    settled: Arc<Notify>,
    queue: Mutex<Queue<P>>,
}

struct Queue<P> {
    /// In the order of opening; the first is never both closed and settled after `advance`.
    spans: VecDeque<Entry<P>>,
    next: u64,
    reached: Option<P>,
    compact_at: usize,
}

struct Entry<P> {
    shares: Arc<Shares>,
    /// Set by closing.
    position: Option<P>,
}

impl<P> Entry<P> {
    fn is_settled(&self) -> bool {
        self.position.is_some() && self.shares.is_settled()
    }
}

/// Below this many open spans nothing is gained by joining settled ones.
const COMPACT_FROM: usize = 64;

impl<P> Queue<P> {
    fn advance(&mut self) {
        while self.spans.front().is_some_and(Entry::is_settled) {
            self.reached = self.spans.pop_front().and_then(|span| span.position);
        }
    }

    /// Joins runs of settled spans: an idle stream behind one write that a target does not take
    /// opens and closes spans for hours. Twice the length before the next time, so that the cost
    /// of a span stays constant.
    fn compact(&mut self) {
        let mut kept: VecDeque<Entry<P>> = VecDeque::with_capacity(self.spans.len());
        for span in self.spans.drain(..) {
            if span.is_settled() && kept.back().is_some_and(Entry::is_settled) {
                kept.pop_back();
            }
            kept.push_back(span);
        }
        self.compact_at = COMPACT_FROM.max(kept.len() * 2);
        self.spans = kept;
    }
}

impl<P> Clone for Tracker<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: Clone> Default for Tracker<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Clone> Tracker<P> {
    /// A tracker of which nothing is settled yet.
    pub fn new() -> Self {
        let queue =
            Queue { spans: VecDeque::new(), next: 0, reached: None, compact_at: COMPACT_FROM };
        Self {
            shared: Arc::new(Shared { settled: Arc::new(Notify::new()), queue: Mutex::new(queue) }),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<P>> {
        self.shared.queue.lock().expect("nothing panics while it holds the queue")
    }

    /// The next span. The position does not pass it before it is closed and settled.
    pub fn open(&self) -> Span<P> {
        let mut queue = self.queue();
        queue.advance();
        if queue.spans.len() >= queue.compact_at {
            queue.compact();
        }
        let shares = Shares::new(queue.next, Arc::clone(&self.shared.settled));
        queue.next += 1;
        queue.spans.push_back(Entry { shares: Arc::clone(&shares), position: None });
        drop(queue);
        Span { tracker: self.clone(), shares }
    }

    /// A span without events: an idle stream's token.
    pub fn reach(&self, position: P) {
        self.open().close(position);
    }

    /// The newest position such that its span and all before it are closed and settled; `None`
    /// before the first.
    pub fn settled(&self) -> Option<P> {
        let mut queue = self.queue();
        queue.advance();
        queue.reached.clone()
    }

    /// Waits until the settled position is another than `known`, and returns it. May be dropped
    /// and called again without missing anything.
    pub async fn settled_past(&self, known: Option<&P>) -> P
    where
        P: PartialEq,
    {
        wait(&self.shared.settled, || self.settled().filter(|reached| Some(reached) != known)).await
    }

    /// How many claims are out, open spans counted as one more each.
    pub fn outstanding(&self) -> usize {
        let mut queue = self.queue();
        queue.advance();
        queue.spans.iter().map(|span| span.shares.left.load(Ordering::Relaxed)).sum()
    }

    /// Whether every span that was opened is closed and settled.
    pub fn is_idle(&self) -> bool {
        let mut queue = self.queue();
        queue.advance();
        queue.spans.is_empty()
    }

    /// Waits until the tracker is idle. May be dropped.
    pub async fn idle(&self) {
        wait(&self.shared.settled, || self.is_idle().then_some(())).await;
    }
}

/// Tells when all claims of one piece of work are settled: a chunk of the copy. Chunks finish in
/// any order and have no position.
pub struct Completion {
    shares: Arc<Shares>,
    closed: AtomicBool,
}

impl Default for Completion {
    fn default() -> Self {
        Self::new()
    }
}

impl Completion {
    /// Open, with no claim on it.
    pub fn new() -> Self {
        Self { shares: Shares::new(0, Arc::default()), closed: AtomicBool::new(false) }
    }

    /// One more claim. Only while it is open.
    pub fn claim(&self) -> Claim {
        debug_assert!(!self.closed.load(Ordering::Relaxed), "no claims after closing");
        self.shares.claim()
    }

    /// No more claims come: everything of the chunk has been read. Closing again does nothing.
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.shares.give_back();
        }
    }

    /// Open, and every claim on it so far settled.
    pub fn is_idle(&self) -> bool {
        self.shares.left.load(Ordering::Acquire) == 1
    }

    /// Closed, and every claim settled.
    pub fn is_done(&self) -> bool {
        self.shares.is_settled()
    }

    /// Waits until it is done. May be dropped; for ever where a claim was dropped unsettled.
    pub async fn done(&self) {
        wait(&self.shares.settled, || self.is_done().then_some(())).await;
    }
}

/// Waits for `look` to find something, looking again after each notification. The place among the
/// waiters is taken before the look, so nothing falls between the two.
async fn wait<T>(notify: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let notified = notify.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        notified.await;
    }
}

#[cfg(test)]
mod tests;
