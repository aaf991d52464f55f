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

use tokio::sync::Notify;

/// A share in a span: the position can't move past the span until every claim on it is settled.
///
/// A claim is one pointer, settling it is one atomic subtraction. One that is dropped without being
/// settled leaves its span unsettled for ever: a task that was aborted must hold the position where
/// it is, so that the next start reads again what the task had in hand.
#[must_use = "a claim that is not settled holds the position for ever"]
pub struct Claim(Arc<Shares>);

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
    pub fn join(self, claims: &mut Vec<Self>) {
        let mut claim = self;
        for known in claims.iter_mut() {
            match known.absorb(claim) {
                Ok(()) => return,
                Err(other) => claim = other,
            }
        }
        claims.push(claim);
    }

    /// Settles all of them.
    pub fn settle_all(claims: Vec<Self>) {
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_claim_is_one_pointer() {
        assert_eq!(size_of::<Claim>(), size_of::<usize>());
    }

    #[test]
    fn the_position_waits_for_the_oldest_span() {
        let tracker = Tracker::new();
        let (first, second) = (tracker.open(), tracker.open());
        let (a, b) = (first.claim(), second.claim());
        second.close(2);
        b.settle();
        assert_eq!(tracker.settled(), None);
        first.close(1);
        assert_eq!(tracker.settled(), None);
        assert_eq!(tracker.outstanding(), 1);
        a.settle();
        assert_eq!(tracker.settled(), Some(2));
        assert!(tracker.is_idle());
    }

    #[test]
    fn a_dropped_claim_holds_the_position_for_ever() {
        let tracker = Tracker::new();
        let span = tracker.open();
        drop(span.claim());
        span.close(1);
        tracker.reach(2);
        assert_eq!(tracker.settled(), None);
        assert!(!tracker.is_idle());
    }

    #[test]
    fn a_dropped_span_holds_the_position_for_ever() {
        let tracker = Tracker::new();
        tracker.reach(1);
        drop(tracker.open());
        tracker.reach(2);
        assert_eq!(tracker.settled(), Some(1));
    }

    #[test]
    fn an_idle_stream_behind_a_stuck_write_takes_no_memory() {
        let tracker = Tracker::new();
        let stuck = tracker.open();
        let claim = stuck.claim();
        stuck.close(0);
        for position in 1..100_000 {
            tracker.reach(position);
        }
        assert!(tracker.queue().spans.len() <= 2 * COMPACT_FROM);
        claim.settle();
        assert_eq!(tracker.settled(), Some(99_999));
    }

    #[test]
    fn claims_of_one_tracker_become_one_and_others_stay_apart() {
        let (stream, chunk) = (Tracker::new(), Completion::new());
        let (first, second) = (stream.open(), stream.open());
        let mut claims = Vec::new();
        for claim in [second.claim(), chunk.claim(), first.claim(), second.claim(), chunk.claim()] {
            claim.join(&mut claims);
        }
        assert_eq!(claims.len(), 2);
        first.close(1);
        second.close(2);
        chunk.close();
        assert_eq!((stream.settled(), chunk.is_done()), (None, false));
        Claim::settle_all(claims);
        assert_eq!((stream.settled(), chunk.is_done()), (Some(2), true));
    }

    #[test]
    fn a_chunk_is_done_once_it_is_closed_and_settled() {
        let chunk = Completion::new();
        let claim = chunk.claim();
        let second = claim.share();
        claim.settle();
        chunk.close();
        chunk.close();
        assert!(!chunk.is_done());
        second.settle();
        assert!(chunk.is_done());
        let empty = Completion::new();
        assert!(!empty.is_done());
        empty.close();
        assert!(empty.is_done());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_tasks_settle_and_the_position_only_rises() {
        const SPANS: u64 = 200;
        let tracker = Tracker::new();
        let (send, receive) = tokio::sync::mpsc::channel::<(Claim, Arc<Completion>, Claim)>(64);
        let receive = Arc::new(tokio::sync::Mutex::new(receive));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let receive = Arc::clone(&receive);
            tasks.spawn(async move {
                loop {
                    let Some((claim, _, other)) = receive.lock().await.recv().await else { return };
                    tokio::task::yield_now().await;
                    other.settle();
                    claim.settle();
                }
            });
        }
        let watched = tracker.clone();
        tasks.spawn(async move {
            let mut seen = None;
            while seen != Some(SPANS) {
                let next = watched.settled_past(seen.as_ref()).await;
                assert!(Some(next) > seen);
                seen = Some(next);
            }
        });
        for position in 1..=SPANS {
            let (span, chunk) = (tracker.open(), Arc::new(Completion::new()));
            for _ in 0..20 {
                let sent = (span.claim(), Arc::clone(&chunk), chunk.claim());
                send.send(sent).await.expect("the tasks receive until the sender is gone");
            }
            span.close(position);
            chunk.close();
            chunk.done().await;
        }
        drop(send);
        tracker.idle().await;
        while let Some(ended) = tasks.join_next().await {
            ended.expect("no task panics");
        }
        assert_eq!(tracker.settled(), Some(SPANS));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Claim(usize),
        Share(usize),
        Close(usize),
        Settle(usize),
        Lose(usize),
        Absorb(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let index = || 0..1000usize;
        prop_oneof![
            6 => Just(Step::Open),
            12 => index().prop_map(Step::Claim),
            2 => index().prop_map(Step::Share),
            6 => index().prop_map(Step::Close),
            14 => index().prop_map(Step::Settle),
            1 => index().prop_map(Step::Lose),
            4 => (index(), index()).prop_map(|(a, b)| Step::Absorb(a, b)),
        ]
    }

    /// What the tracker must say, the slow way: every event is remembered by itself.
    #[derive(Default)]
    struct Model {
        /// Of each span: the position once closed, and how many events are unsettled.
        spans: Vec<(Option<usize>, usize)>,
    }

    impl Model {
        fn settled(&self) -> Option<usize> {
            let settled =
                self.spans.iter().take_while(|(closed, left)| closed.is_some() && *left == 0);
            settled.last().and_then(|(closed, _)| *closed)
        }
    }

    proptest! {
        #[test]
        fn says_what_a_naive_model_says(steps in prop::collection::vec(step(), 0..400)) {
            let tracker = Tracker::new();
            let mut model = Model::default();
            let mut open: Vec<(usize, Span<usize>)> = Vec::new();
            // A claim, and the spans of all events that it answers for.
            let mut claims: Vec<(Claim, Vec<usize>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Open => {
                        open.push((model.spans.len(), tracker.open()));
                        model.spans.push((None, 0));
                    }
                    Step::Claim(at) if !open.is_empty() => {
                        let (span, handle) = &open[at % open.len()];
                        claims.push((handle.claim(), vec![*span]));
                        model.spans[*span].1 += 1;
                    }
                    Step::Share(at) if !claims.is_empty() => {
                        let at = at % claims.len();
                        // The share answers for what the claim really holds: its oldest span.
                        let oldest = *claims[at].1.iter().min().expect("a claim answers for one");
                        let shared = claims[at].0.share();
                        claims.push((shared, vec![oldest]));
                        model.spans[oldest].1 += 1;
                    }
                    Step::Close(at) if !open.is_empty() => {
                        let (span, handle) = open.swap_remove(at % open.len());
                        model.spans[span].0 = Some(span);
                        handle.close(span);
                    }
                    Step::Settle(at) if !claims.is_empty() => {
                        let (claim, spans) = claims.swap_remove(at % claims.len());
                        spans.into_iter().for_each(|span| model.spans[span].1 -= 1);
                        claim.settle();
                    }
                    Step::Lose(at) if !claims.is_empty() => {
                        drop(claims.swap_remove(at % claims.len()));
                    }
                    Step::Absorb(a, b) if claims.len() > 1 => {
                        let (other, spans) = claims.swap_remove(a % claims.len());
                        let into = b % claims.len();
                        claims[into].0.absorb(other).expect("there is one tracker");
                        claims[into].1.extend(spans);
                    }
                    _ => {}
                }
                prop_assert_eq!(tracker.settled(), model.settled());
            }
            for (span, handle) in open {
                model.spans[span].0 = Some(span);
                handle.close(span);
            }
            for (claim, spans) in claims {
                spans.into_iter().for_each(|span| model.spans[span].1 -= 1);
                claim.settle();
            }
            prop_assert_eq!(tracker.settled(), model.settled());
        }
    }
}
