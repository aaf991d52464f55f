//! What the low-water mark costs: spans of events that are settled in order, against it, and behind one
//! that a target does not take, in events a second.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use mongosync::checkpoint::tracker::{Claim, Claims, Tracker};

/// Events of a reply.
const EVENTS: usize = 100;

/// So many closed spans, with the claims of each.
fn spans(tracker: &Tracker<u64>, count: u64) -> Vec<Vec<Claim>> {
    let span = |position| {
        let span = tracker.open();
        let claims = (0..EVENTS).map(|_| span.claim()).collect();
        span.close(position);
        claims
    };
    (0..count).map(span).collect()
}

fn tracker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tracker");
    // Ten times the spans must take ten times as long.
    for count in [100, 1_000, 10_000] {
        group.throughput(Throughput::Elements(count * EVENTS as u64));
        group.bench_function(format!("{count} spans in order"), |bencher| {
            bencher.iter_batched(
                Tracker::new,
                |tracker| {
                    spans(&tracker, count).into_iter().for_each(Claim::settle_all);
                    assert_eq!(tracker.settled(), Some(count - 1));
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(format!("{count} spans, the last first"), |bencher| {
            bencher.iter_batched(
                Tracker::new,
                |tracker| {
                    spans(&tracker, count).into_iter().rev().for_each(Claim::settle_all);
                    assert_eq!(tracker.settled(), Some(count - 1));
                },
                BatchSize::LargeInput,
            );
        });
        // Asked after each, as whoever stores positions does.
        group.bench_function(format!("{count} spans behind one that stays"), |bencher| {
            bencher.iter_batched(
                || {
                    let tracker = Tracker::new();
                    let first = tracker.open();
                    let held = first.claim();
                    first.close(0);
                    (tracker, held)
                },
                |(tracker, held)| {
                    for position in 1..=count {
                        let span = tracker.open();
                        let claims: Vec<_> = (0..EVENTS).map(|_| span.claim()).collect();
                        span.close(position);
                        Claim::settle_all(claims);
                        assert_eq!(black_box(tracker.settled()), None);
                    }
                    held.settle();
                    assert_eq!(tracker.settled(), Some(count));
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.bench_function("joining the claims of one document", |bencher| {
        const JOINED: u64 = 1_000;
        bencher.iter_batched(
            || {
                let tracker = Tracker::new();
                let claims: Vec<Claim> = spans(&tracker, JOINED).into_iter().flatten().collect();
                (tracker, claims)
            },
            |(tracker, claims)| {
                let mut joined = Claims::new();
                claims.into_iter().for_each(|claim| claim.join(&mut joined));
                Claim::settle_all(joined);
                assert!(tracker.is_idle());
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    tracker(&mut criterion);
    criterion.final_summary();
}
