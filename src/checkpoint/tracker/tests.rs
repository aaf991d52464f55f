//! The tracker by example, and against a naive model.

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
    let mut claims = Claims::new();
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
        let settled = self.spans.iter().take_while(|(closed, left)| closed.is_some() && *left == 0);
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
