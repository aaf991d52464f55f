//! Scripts that wait for the source: on a runtime of one thread, which nobody may hold up.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Document},
    delivery::{
        Halt,
        scripted::{Bench, Where, settings, value},
    },
    transform::{Lookup, Query, Unanswered},
};

/// A source that answers when it is told to.
struct Away {
    runtime: Handle,
    asked: Notify,
    back: Notify,
    /// Whether the wait has ended in vain.
    given_up: CancellationToken,
}

impl Away {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            asked: Notify::new(),
            back: Notify::new(),
            given_up: CancellationToken::new(),
        })
    }
}

impl Lookup for Away {
    fn find(
        &self,
        _: &Query,
        after: ClusterTime,
        stop: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered> {
        assert_eq!(after, ClusterTime(9), "the time of the document's own read");
        self.asked.notify_one();
        self.runtime.block_on(async {
            tokio::select! {
                () = self.back.notified() => Ok(Vec::new()),
                () = stop.cancelled() => {
                    self.given_up.cancel();
                    Err(Unanswered::Stopped)
                }
            }
        })
    }
}

/// Only documents with a value over 1 are looked up for.
async fn bench(away: &Arc<Away>) -> Bench {
    let script = "if doc.v > 1 { doc.found = lookup(\"a.b\", #{}) }";
    let places = [("products", Where::ById("p"))];
    Bench::with_script(&places, settings(), Some((script, away.clone()))).await
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), what).await.expect("it happens")
}

#[tokio::test]
async fn a_source_that_is_away_is_waited_for_and_holds_up_nobody() {
    let away = Away::new();
    let (bench, other) = (bench(&away).await, bench(&away).await);
    let waiting = bench.put([(2, value(2))]);
    let writer = bench.write();
    soon(away.asked.notified()).await;
    let done = other.put([(1, value(1))]);
    let other_writer = other.write();
    soon(done.done()).await;
    assert!(!waiting.is_done() && bench.target.sent().is_empty());
    away.back.notify_one();
    soon(waiting.done()).await;
    assert_eq!(bench.target.held(), [("p2".to_owned(), 2)]);
    assert!(bench.letters().await.is_empty());
    writer.abort();
    other_writer.abort();
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_leaves_what_waits() {
    let away = Away::new();
    let bench = bench(&away).await;
    let gate = bench.target.gate();
    let first = bench.put([(1, value(1))]);
    let writer = bench.write();
    soon(async {
        while bench.target.sent().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let second = bench.put([(2, value(2)), (3, value(1))]);
    soon(away.asked.notified()).await;
    bench.drain.cancel();
    soon(away.given_up.cancelled()).await;
    gate.notify_one();
    let ended = soon(writer).await.expect("no panic");
    assert!(matches!(ended, Ok(())), "{ended:?}");
    assert!(first.is_done() && !second.is_done());
    assert_eq!(bench.target.sent(), [["p1=1"]]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_no_thread_waiting() {
    let away = Away::new();
    let bench = bench(&away).await;
    let completion = bench.put([(2, value(2))]);
    let writer = bench.write();
    soon(away.asked.notified()).await;
    writer.abort();
    soon(away.given_up.cancelled()).await;
    assert!(!completion.is_done());
}

/// What it asks with is wrong: its own error, and no reason to wait.
struct Refusing;

impl Lookup for Refusing {
    fn find(
        &self,
        _: &Query,
        _: ClusterTime,
        _: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered> {
        Err(Unanswered::Refused("unknown operator: $foo (BadValue 2)".into()))
    }
}

#[tokio::test]
async fn a_query_that_is_refused_is_a_dead_letter_and_the_others_go_on() {
    let script = "if doc.v == 2 {\n  lookup(\"a.b\", #{ x: #{ \"$foo\": 1 } })\n}";
    let places = [("products", Where::ById("p"))];
    let refusing: Arc<dyn Lookup> = Arc::new(Refusing);
    let bench = Bench::with_script(&places, settings(), Some((script, refusing))).await;
    let completion = bench.put([(1, value(1)), (2, value(2)), (3, value(3))]);
    let writer = bench.write();
    soon(completion.done()).await;
    assert_eq!(bench.target.sent(), [["p1=1", "p3=3"]]);
    let [(key, words)] = bench.letters().await.try_into().expect("one letter");
    assert_eq!(key, "2");
    let expected =
        "line 2, column 3: the lookup in a.b is refused: unknown operator: $foo (BadValue 2)";
    assert_eq!(words, expected);
    bench.drain.cancel();
    assert!(!matches!(soon(writer).await.expect("no panic"), Err(Halt::Store(_))));
}
