//! What is stored when, with a store in memory and time that stands still.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bson::Uuid;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    change::{Namespace, RuleIndex},
    checkpoint::{
        memory::MemoryStore,
        records::{CopyPlanRecord, load},
    },
    status::{EventKind, Status, fixture},
    target::{Operation, Outcome, PlaceKey, Placed, Placing, Pressure, Request, Retry},
};

/// Tells how often it was told that a copy is complete, and does not take it at first.
#[derive(Default)]
struct Told {
    refuses: AtomicUsize,
    hangs: bool,
    told: AtomicUsize,
}

#[async_trait]
impl Target for Told {
    fn place(&self, _: &str, _: &Placing<'_>) -> Result<Placed, String> {
        Err("nothing is placed here".into())
    }

    fn place_is_fixed(&self, _: &str) -> bool {
        true
    }

    fn encode(&self, _: &Operation, _: &mut Vec<u8>) -> Result<(), String> {
        Err("nothing is written here".into())
    }

    async fn send(&self, _: &Request) -> Result<Vec<Outcome>, Retry> {
        Ok(Vec::new())
    }

    async fn prepare(&self) -> Result<(), Retry> {
        Ok(())
    }

    async fn copy_complete(&self, _: &str) -> Result<(), Retry> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.told.fetch_add(1, Ordering::SeqCst);
        let left = self.refuses.load(Ordering::SeqCst);
        if left == 0 {
            return Ok(());
        }
        self.refuses.store(left - 1, Ordering::SeqCst);
        Err(Retry {
            reason: "unavailable",
            message: "busy".into(),
            after: None,
            pressure: Pressure::Same,
        })
    }

    fn meta(&self, _: &Operation) -> crate::transform::Meta {
        crate::transform::Meta::default()
    }

    fn describe(&self, _: &PlaceKey) -> String {
        String::new()
    }
}

struct Bench {
    store: Arc<MemoryStore>,
    tracker: Tracker<ClusterTime>,
    status: Arc<TargetStatus>,
    target: Arc<Told>,
    copying: watch::Receiver<bool>,
    drained: CancellationToken,
    /// Ends with `drained`, or with the test's runtime.
    running: JoinHandle<Result<(), Halt>>,
}

impl Bench {
    async fn new(target: Told, complete: Option<bool>) -> Self {
        let store = Arc::new(MemoryStore::new("shop"));
        store.fence(1).await.expect("the first epoch");
        let (tracker, target) = (Tracker::new(), Arc::new(target));
        let status = Status::new(&fixture::rules()).target("search");
        let (copying, copies_run) = watch::channel(complete == Some(false));
        let drained = CancellationToken::new();
        let copies = complete.map(|complete| {
            let copies = vec![Arc::new(settled_copy())];
            RuleCopies::new("products".into(), status.rule("products"), copies, complete)
        });
        let settling = Settling {
            budgets: Vec::new(),
            store: store.clone(),
            keys: keys::Stream::new("search", None),
            target: target.clone(),
            settings: fixture::rules().targets.remove(0).delivery,
            tracker: tracker.clone(),
            copies: copies.into_iter().collect(),
            source: None,
            behind: BTreeMap::new(),
            every: Duration::from_secs(1),
            status: status.clone(),
            copying,
            ends: Arc::default(),
        };
        // Awaited at the end, or over with the test's runtime.
        let running = tokio::spawn(settling.run(drained.clone(), CancellationToken::new()));
        Self { store, tracker, status, target, copying: copies_run, drained, running }
    }

    async fn position(&self) -> Option<u64> {
        let key = keys::position("search");
        let stored: Option<PositionRecord> = load(&*self.store, &key).await.expect("in memory");
        stored.map(|record| record.time.0)
    }

    async fn complete(&self) -> Option<bool> {
        let key = keys::copy_progress("search", "products", "shop.products");
        let stored: Option<CopyProgressRecord> = load(&*self.store, &key).await.expect("in memory");
        stored.map(|record| record.complete)
    }

    async fn end(self) -> Option<u64> {
        self.drained.cancel();
        timeout(Duration::from_millis(1), self.running)
            .await
            .expect("at once")
            .expect("no panic")
            .expect("it is stored");
        let key = keys::position("search");
        let stored: Option<PositionRecord> = load(&*self.store, &key).await.expect("in memory");
        stored.map(|record| record.time.0)
    }
}

/// One chunk, which an earlier run has settled.
fn settled_copy() -> Copy {
    let plan = CopyPlanRecord {
        id: Uuid::from_bytes([1; 16]),
        started: ClusterTime(1),
        collection: None,
        bounds: Vec::new(),
        expected: 3,
        sweep: false,
        container: None,
        asked: false,
        ended: false,
        fingerprint: None,
    };
    let mut done = crate::checkpoint::chunks::ChunkSet::default();
    done.insert(0);
    let progress =
        CopyProgressRecord { plan: plan.id, done, documents: 3, complete: false, swept: true };
    let namespace = Namespace::new("shop", "products");
    Copy::new(RuleIndex(0), namespace, false, plan, Some(progress), Default::default(), 100)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_millis(seconds * 1_000 + 500)
}

#[tokio::test(start_paused = true)]
async fn a_busy_stream_is_stored_each_time_and_an_idle_one_now_and_then() {
    let bench = Bench::new(Told::default(), None).await;
    let events = bench.status.rule("products");
    for at in 1..4 {
        events.event(EventKind::Insert, 1);
        bench.tracker.reach(ClusterTime(at));
        sleep(seconds(1)).await;
        assert_eq!(bench.position().await, Some(at));
    }
    // Each idle reply brings a token; a source that is its own store would talk to itself for ever.
    let mut stored = Vec::new();
    for at in 4..40 {
        bench.tracker.reach(ClusterTime(at));
        sleep(Duration::from_secs(1)).await;
        stored.push(bench.position().await);
    }
    stored.dedup();
    assert!((3..=5).contains(&stored.len()), "{stored:?}");
    assert_eq!(bench.end().await, Some(39), "a clean stop stores the last one");
}

#[tokio::test(start_paused = true)]
async fn an_unsettled_change_holds_the_position() {
    let bench = Bench::new(Told::default(), None).await;
    bench.tracker.reach(ClusterTime(1));
    let span = bench.tracker.open();
    let claim = span.claim();
    span.close(ClusterTime(2));
    bench.tracker.reach(ClusterTime(3));
    bench.status.rule("products").event(EventKind::Insert, 1);
    sleep(seconds(30)).await;
    assert_eq!(bench.position().await, Some(1));
    drop(claim);
    assert_eq!(bench.end().await, Some(1), "what was dropped is not settled");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_waited_for() {
    let bench = Bench::new(Told::default(), None).await;
    bench.store.set_reachable(false);
    bench.status.rule("products").event(EventKind::Insert, 1);
    bench.tracker.reach(ClusterTime(1));
    sleep(seconds(60)).await;
    bench.store.set_reachable(true);
    sleep(seconds(10)).await;
    assert_eq!(bench.position().await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn positions_are_stored_while_a_target_does_not_take_the_end_of_a_copy() {
    let refuses = AtomicUsize::new(4);
    let mut bench = Bench::new(Told { refuses, ..Told::default() }, Some(false)).await;
    sleep(Duration::from_millis(10)).await;
    bench.status.rule("products").event(EventKind::Insert, 1);
    bench.tracker.reach(ClusterTime(1));
    sleep(Duration::from_millis(1_100)).await;
    assert_eq!(bench.position().await, Some(1));
    bench.copying.wait_for(|copying| !copying).await.expect("the copy ends");
    assert_eq!(bench.target.told.load(Ordering::SeqCst), 5);
    assert_eq!(bench.complete().await, Some(true), "durable before anybody is told");
}

/// Whoever has been told may look into the store, as `verify` does.
#[tokio::test(start_paused = true)]
async fn a_copy_is_said_to_be_complete_once_that_is_stored() {
    let refuses = AtomicUsize::new(1);
    let bench = Bench::new(Told { refuses, ..Told::default() }, Some(false)).await;
    let rule = bench.status.rule("products");
    while bench.target.told.load(Ordering::SeqCst) < 1 {
        sleep(Duration::from_millis(1)).await;
    }
    bench.store.set_reachable(false);
    while bench.target.told.load(Ordering::SeqCst) < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(seconds(60)).await;
    assert!(!rule.copied().complete);
    bench.store.set_reachable(true);
    sleep(seconds(60)).await;
    assert_eq!((bench.complete().await, rule.copied().complete), (Some(true), true));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_hangs_does_not_cost_the_last_position() {
    let bench = Bench::new(Told { hangs: true, ..Told::default() }, Some(false)).await;
    bench.tracker.reach(ClusterTime(1));
    sleep(seconds(5)).await;
    bench.tracker.reach(ClusterTime(2));
    assert_eq!(bench.end().await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_complete_stays_so_in_the_store() {
    let refuses = AtomicUsize::new(usize::MAX);
    let bench = Bench::new(Told { refuses, ..Told::default() }, Some(true)).await;
    sleep(seconds(3)).await;
    assert!(bench.target.told.load(Ordering::SeqCst) > 0, "the target is told again");
    assert_eq!(bench.complete().await, Some(true));
}
