//! What a lane costs a change: events that are noted, taken for their read, completed and settled; and
//! copied documents beside them, in changes a second.

use std::hint::black_box;

use bson::{RawBsonRef, RawDocumentBuf, oid::ObjectId, rawdoc};
use criterion::{BatchSize, Criterion, Throughput};
use futures_util::FutureExt;
use mongosync::{
    change::{
        Cause, Change, ClusterTime, Document, DocumentKey, Namespace, Phase, RuleIndex, State,
    },
    checkpoint::tracker::{Claim, Claims, Completion, Tracker},
    delivery::lane::{Lane, Noted, Pending, Subject, WindowId},
};
use smallvec::smallvec;

/// Events in a measurement.
const EVENTS: u64 = 10_000;
/// Events in a reply of the stream, and keys in a read.
const AT_ONCE: usize = 1_000;
/// More than all keys take.
const LIMIT: usize = 64 << 20;

fn namespace() -> Namespace {
    Namespace::new("shop", "products")
}

fn key(number: u64) -> DocumentKey {
    let mut bytes = [0x64; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    let id = RawBsonRef::ObjectId(ObjectId::from_bytes(bytes));
    DocumentKey::from_id(id).expect("an ObjectId is a key")
}

/// Replies of the stream with `EVENTS` events of so many documents, in turn.
fn replies(tracker: &Tracker<u64>, documents: u64) -> Vec<Vec<Noted>> {
    let namespace = namespace();
    let numbers: Vec<u64> = (0..EVENTS).collect();
    let reply = |numbers: &[u64]| {
        let span = tracker.open();
        let noted = |&number: &u64| Noted {
            subject: Subject { namespace: namespace.clone(), key: key(number % documents) },
            time: ClusterTime(number + 1),
            since: None,
            deleted: false,
            claim: span.claim(),
        };
        let events = numbers.iter().map(noted).collect();
        span.close(numbers[numbers.len() - 1]);
        events
    };
    numbers.chunks(AT_ONCE).map(reply).collect()
}

fn change(namespace: Namespace, key: DocumentKey, phase: Phase, claims: Claims) -> Change {
    Change {
        namespace,
        key,
        time: ClusterTime(1),
        cause: Cause::Event(ClusterTime(1)),
        read: ClusterTime(1),
        since: None,
        deleted: false,
        phase,
        states: smallvec![(RuleIndex(0), State::Gone)],
        claims,
    }
}

fn answer(pending: Pending) -> Change {
    let Pending { subject: Subject { namespace, key }, claims, .. } = pending;
    change(namespace, key, Phase::Changes, claims)
}

/// Everything that waits is read, put out and settled.
fn drain(lane: &Lane) {
    while let Some(taken) = lane.take(AT_ONCE).now_or_never() {
        let changes = taken.into_iter().map(answer).collect();
        lane.complete(changes, Vec::new(), ClusterTime(EVENTS));
        settle(lane);
    }
}

fn settle(lane: &Lane) {
    for change in lane.try_output(usize::MAX, usize::MAX) {
        Claim::settle_all(black_box(change).claims);
    }
}

fn lane(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane");
    group.throughput(Throughput::Elements(EVENTS));
    for (name, documents) in [("hot keys", 10), ("wide keys", EVENTS)] {
        for windows in [0, 8] {
            let named = match windows {
                0 => name.to_owned(),
                _ => format!("{name} beside {windows} chunks"),
            };
            group.bench_function(named, |bencher| {
                let setup = || {
                    let (tracker, lane) = (Tracker::new(), Lane::new(LIMIT));
                    (0..windows).for_each(|id| {
                        lane.open_window(WindowId(id), &namespace());
                    });
                    (replies(&tracker, documents), lane, tracker)
                };
                bencher.iter_batched(
                    setup,
                    |(replies, lane, tracker)| {
                        replies.into_iter().for_each(|events| lane.changed(events));
                        drain(&lane);
                        assert!(tracker.is_idle(), "all is settled");
                        lane
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    // Half of them changed while the chunk was read.
    group.bench_function("copied documents", |bencher| {
        let document: RawDocumentBuf = rawdoc! { "stock": 1 };
        let document = Document::from(document);
        let setup = || {
            let (tracker, lane, chunk) = (Tracker::new(), Lane::new(LIMIT), Completion::new());
            lane.open_window(WindowId(1), &namespace());
            replies(&tracker, EVENTS / 2).into_iter().for_each(|events| lane.changed(events));
            drain(&lane);
            let namespace = namespace();
            let copied = (0..EVENTS).map(|number| Change {
                states: smallvec![(RuleIndex(0), State::Present(document.clone()))],
                ..change(namespace.clone(), key(number), Phase::Copy, smallvec![chunk.claim()])
            });
            let copied: Vec<Change> = copied.collect();
            (copied, lane)
        };
        bencher.iter_batched(
            setup,
            |(copied, lane)| {
                let dropped = lane.offer(WindowId(1), copied).expect("the window has room");
                assert_eq!(dropped as u64, EVENTS / 2);
                settle(&lane);
                lane
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    lane(&mut criterion);
    criterion.final_summary();
}
