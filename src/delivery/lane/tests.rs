//! The handover against a model of MongoDB: random interleavings of writes, stream, lookups, copy
//! and delivery into a target that has no versions and believes whatever comes last.
//!
//! Breaking the lane on purpose: without the look at the window, without the marks at the end of a
//! lookup, or without the looks at both waiting and in-flight keys, the random test fails; either
//! of those last two alone is covered by the other, and a window that opens at the frontier is met
//! too seldom: for these three there are tests of their own.

mod model;

use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::checkpoint::tracker::{Completion, Tracker};
use model::{Step, World, change, key, namespace};

fn noted(tracker: &Tracker<u64>, id: u64, time: u64) -> Noted {
    let span = tracker.open();
    let claim = span.claim();
    span.close(time);
    Noted { subject: subject(id), time: ClusterTime(time), since: None, deleted: false, claim }
}

fn subject(id: u64) -> Subject {
    Subject { namespace: namespace(), key: key(id) }
}

/// One value a key, so that an assertion reads as `(key, version)`.
fn outputs(lane: &Lane) -> Vec<(u64, u64)> {
    let changes = lane.try_output(usize::MAX, usize::MAX);
    // One without a state holds only claims.
    let states = changes.iter().filter(|change| !change.states.is_empty());
    let seen = states.map(model::seen).map(|seen| (seen.id, seen.version)).collect();
    changes.into_iter().for_each(|change| Claim::settle_all(change.claims));
    seen
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let lag = || prop_oneof![3 => Just(0_u64), 1 => 1..30_u64];
    let step = prop_oneof![
        8 => (0..model::KEYS, any::<bool>()).prop_map(|(key, delete)| Step::Write { keys: vec![key], delete }),
        2 => (proptest::collection::vec(0..model::KEYS, 1..5), any::<bool>())
            .prop_map(|(keys, delete)| Step::Write { keys, delete }),
        8 => (0..6_usize).prop_map(|most| Step::Stream { most }),
        1 => Just(Step::Reopen),
        5 => (0..model::LANES, 1..4_usize).prop_map(|(lane, most)| Step::Take { lane, most }),
        5 => (0..model::LANES, lag()).prop_map(|(lane, lag)| Step::Look { lane, lag }),
        5 => (0..model::LANES).prop_map(|lane| Step::Complete { lane }),
        2 => (0..model::CHUNKS).prop_map(|chunk| Step::Open { chunk }),
        4 => (0..model::CHUNKS, lag(), 0..4_u64)
            .prop_map(|(chunk, lag, later)| Step::Page { chunk, lag, later }),
        4 => (0..model::CHUNKS).prop_map(|chunk| Step::Offer { chunk }),
        1 => (0..model::CHUNKS).prop_map(|chunk| Step::Break { chunk }),
        6 => (0..model::LANES, 1..5_usize).prop_map(|(lane, most)| Step::Deliver { lane, most }),
        4 => any::<prop::sample::Index>().prop_map(|which| Step::Settle { which }),
    ];
    proptest::collection::vec(step, 0..160)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The world checks after each step that nothing goes back in time and that nothing is settled
    /// too early; after the last that all of it arrived and was settled.
    #[test]
    fn any_interleaving_converges_and_never_goes_back(steps in steps(), window_keys in prop_oneof![Just(3_usize), Just(1_000)]) {
        let mut world = World::new(window_keys);
        for step in steps {
            world.step(step);
        }
        world.drain();
        world.check_end();
    }
}

#[test]
fn a_chunk_reads_after_events_that_the_frontier_has_not_reached() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 5)]);
    // More events of the same time may follow.
    lane.advance(ClusterTime(4));
    assert_eq!(lane.open_window(WindowId(0), &namespace()), ClusterTime(5));
}

#[test]
fn a_chunk_reads_after_what_a_lookup_has_read() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 5)]);
    let taken = lane.take(1).now_or_never().expect("one waits");
    lane.complete(model::answer(taken, 9), Vec::new(), ClusterTime(9));
    assert_eq!(lane.open_window(WindowId(0), &namespace()), ClusterTime(9));
    assert_eq!(outputs(&lane), [(1, 9)]);
}

#[test]
fn a_key_whose_lookup_ends_in_a_window_counts_as_changed() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 5)]);
    lane.open_window(WindowId(0), &namespace());
    let taken = lane.take(1).now_or_never().expect("one waits");
    lane.complete(model::answer(taken, 100), Vec::new(), ClusterTime(100));
    lane.advance(ClusterTime(50));
    let chunk = Completion::new();
    let copied = vec![change(1, 5, chunk.claim()), change(2, 5, chunk.claim())];
    assert_eq!(lane.offer(WindowId(0), copied), Ok(1));
    assert_eq!(outputs(&lane), [(1, 100), (2, 5)]);
    chunk.close();
    assert!(chunk.is_done(), "the claim of what was dropped is settled");
}

/// What was asked for holds back no position: the chunk alone says that it is still to come.
#[test]
fn a_chunk_is_not_done_before_what_stands_for_its_documents_is() {
    let asked = |completion: &Completion| Noted {
        subject: subject(1),
        time: ClusterTime(5),
        since: None,
        deleted: false,
        claim: completion.claim(),
    };
    for steps_before_offer in 0..3 {
        let lane = Lane::new(1 << 20);
        let (repair, chunk) = (Completion::new(), Completion::new());
        lane.open_window(WindowId(0), &namespace());
        lane.asked([asked(&repair)]);
        let take = || lane.take(1).now_or_never().expect("one waits");
        let complete = |taken| {
            lane.complete(model::answer(taken, 5), Vec::new(), ClusterTime(5));
        };
        let mut taken = None;
        if steps_before_offer > 0 {
            taken = Some(take());
        }
        if steps_before_offer > 1 {
            complete(taken.take().expect("taken just now"));
        }
        assert_eq!(lane.offer(WindowId(0), vec![change(1, 5, chunk.claim())]), Ok(1));
        chunk.close();
        assert!(!chunk.is_done(), "{steps_before_offer}");
        // What has been read may wait for something that the copy knows nothing of: it is asked for again.
        if steps_before_offer == 2 {
            assert_eq!(outputs(&lane), [(1, 5)]);
            repair.close();
            assert!(repair.is_done() && !chunk.is_done());
        }
        // A look that did not reach it is made again.
        let first = taken.unwrap_or_else(take);
        lane.complete(Vec::new(), first, ClusterTime(5));
        assert!(!chunk.is_done(), "{steps_before_offer}");
        complete(take());
        assert!(!chunk.is_done(), "{steps_before_offer}");
        assert_eq!(outputs(&lane), [(1, 5)]);
        assert!(chunk.is_done(), "{steps_before_offer}");
    }
}

#[test]
fn what_is_asked_for_is_never_newer_than_reads_are() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    assert_eq!(lane.asked_for(), ClusterTime::ZERO);
    lane.asked([noted(&tracker, 1, 7)]);
    assert_eq!((lane.asked_for(), lane.newest()), (ClusterTime(7), ClusterTime(7)));
    // The stream is behind, and then ahead again.
    lane.changed([noted(&tracker, 1, 5), noted(&tracker, 2, 9)]);
    assert_eq!((lane.asked_for(), lane.newest()), (ClusterTime(7), ClusterTime(9)));
    lane.asked([noted(&tracker, 3, 8)]);
    assert_eq!(lane.asked_for(), ClusterTime(9));
}

#[test]
fn a_key_that_waits_or_is_being_read_is_not_copied() {
    for taken_before_offer in [false, true] {
        let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
        lane.changed([noted(&tracker, 1, 5)]);
        lane.open_window(WindowId(0), &namespace());
        let taken = taken_before_offer.then(|| lane.take(1).now_or_never().expect("one waits"));
        let chunk = Completion::new();
        assert_eq!(lane.offer(WindowId(0), vec![change(1, 5, chunk.claim())]), Ok(1));
        assert_eq!(outputs(&lane), []);
        let taken = taken.unwrap_or_else(|| lane.take(1).now_or_never().expect("one waits"));
        lane.complete(model::answer(taken, 5), Vec::new(), ClusterTime(5));
        assert_eq!(outputs(&lane), [(1, 5)]);
        assert_eq!(tracker.settled(), Some(5));
    }
}

#[test]
fn another_namespace_does_not_touch_a_window() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.open_window(WindowId(0), &Namespace::new("shop", "other"));
    lane.changed([noted(&tracker, 1, 5)]);
    let taken = lane.take(1).now_or_never().expect("one waits");
    lane.complete(model::answer(taken, 5), Vec::new(), ClusterTime(5));
    let chunk = Completion::new();
    let mut copied = change(1, 5, chunk.claim());
    copied.namespace = Namespace::new("shop", "other");
    assert_eq!(lane.offer(WindowId(0), vec![copied]), Ok(0));
}

#[test]
fn a_window_that_overflows_takes_nothing_and_settles_what_it_was_given() {
    let mut lane = Lane::new(1 << 20);
    lane.remembered.each = 1;
    let tracker = Tracker::new();
    lane.open_window(WindowId(0), &namespace());
    lane.changed([noted(&tracker, 1, 5), noted(&tracker, 2, 6)]);
    let chunk = Completion::new();
    assert_eq!(lane.offer(WindowId(0), vec![change(3, 1, chunk.claim())]), Err(Overflow));
    chunk.close();
    assert!(chunk.is_done());
    assert_eq!(outputs(&lane), []);
    lane.close_window(WindowId(0));
    lane.open_window(WindowId(1), &namespace());
    assert_eq!(lane.offer(WindowId(1), Vec::new()), Ok(0));
}

#[test]
fn windows_together_remember_no_more_than_they_may_and_a_closed_one_nothing() {
    let mut lane = Lane::new(1 << 20);
    lane.remembered.all = 1;
    let tracker = Tracker::new();
    let chunk = Completion::new();
    let offer = |id, time| lane.offer(WindowId(id), vec![change(3, time, chunk.claim())]);
    lane.open_window(WindowId(0), &namespace());
    lane.changed([noted(&tracker, 1, 5)]);
    lane.open_window(WindowId(1), &namespace());
    lane.changed([noted(&tracker, 2, 6)]);
    assert_eq!(offer(0, 1), Err(Overflow));
    assert_eq!(offer(1, 1), Ok(0), "what the first one remembered was given back");
    lane.changed([noted(&tracker, 4, 7)]);
    lane.open_window(WindowId(2), &namespace());
    lane.changed([noted(&tracker, 5, 8)]);
    assert_eq!((offer(1, 1), offer(2, 1)), (Err(Overflow), Ok(0)));
    lane.close_window(WindowId(2));
    lane.open_window(WindowId(3), &namespace());
    lane.changed([noted(&tracker, 6, 9)]);
    assert_eq!(offer(3, 1), Ok(0));
}

#[test]
fn events_of_one_key_become_one_read_with_the_newest_time() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 5), noted(&tracker, 2, 6), noted(&tracker, 1, 7)]);
    let taken = lane.take(10).now_or_never().expect("two wait");
    let times: Vec<u64> = taken.iter().map(|pending| pending.time.0).collect();
    assert_eq!(times, [7, 6]);
    assert_eq!(lane.pending_bytes(), 0);
    lane.complete(model::answer(taken, 7), Vec::new(), ClusterTime(7));
    assert_eq!(tracker.settled(), None);
    outputs(&lane);
    assert_eq!(tracker.settled(), Some(7));
}

#[test]
fn what_is_asked_for_is_not_older_than_what_an_event_has_put_out() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 70), noted(&tracker, 2, 60)]);
    let taken = lane.take(9).now_or_never().expect("they wait");
    // The read saw more than the stream has shown: an event of 80 may still come.
    lane.complete(model::answer(taken, 90), Vec::new(), ClusterTime(90));
    lane.asked([noted(&tracker, 1, 50), noted(&tracker, 3, 75)]);
    let asked = lane.take(9).now_or_never().expect("they wait");
    let times: Vec<u64> = asked.iter().map(|pending| pending.time.0).collect();
    assert_eq!(times, [70, 75]);
}

#[test]
fn what_waits_holds_the_stream_back_and_what_is_taken_lets_it_go_on() {
    let (lane, tracker) = (Lane::new(1), Tracker::new());
    assert!(lane.room().now_or_never().is_some());
    lane.changed([noted(&tracker, 1, 5)]);
    let mut room = Box::pin(lane.room());
    assert!((&mut room).now_or_never().is_none());
    let taken = lane.take(1).now_or_never().expect("one waits");
    assert!((&mut room).now_or_never().is_some());
    lane.complete(model::answer(taken, 5), Vec::new(), ClusterTime(5));
    outputs(&lane);
}

/// What is taken together is settled together, so it is to be no more than a request holds.
#[test]
fn output_is_taken_by_count_and_by_bytes() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    let put = |count: u64| {
        lane.changed((0..count).map(|id| noted(&tracker, id, 5 + id)));
        let taken = lane.take(100).now_or_never().expect("they wait");
        lane.complete(model::answer(taken, 9), Vec::new(), ClusterTime(9));
    };
    put(1);
    let size = lane.try_output(1, 0).remove(0).size();
    for (most, bytes, expected) in
        [(9, usize::MAX, 4), (2, usize::MAX, 2), (9, 2 * size, 2), (9, 2 * size - 1, 1), (9, 0, 1)]
    {
        put(4);
        assert_eq!(lane.try_output(most, bytes).len(), expected, "{most}, {bytes}");
        outputs(&lane);
    }
}

/// Removals hold no bytes of a reply, so no budget holds them back.
#[test]
fn output_holds_the_lookups_back() {
    let (lane, tracker) = (Lane::new(2 * BESIDE), Tracker::new());
    lane.changed((0..2).map(|id| noted(&tracker, id, 5 + id)));
    assert!(lane.output_room().now_or_never().is_some());
    let taken = lane.take(2).now_or_never().expect("two wait");
    lane.complete(model::answer(taken, 6), Vec::new(), ClusterTime(6));
    let mut room = Box::pin(lane.output_room());
    assert!((&mut room).now_or_never().is_none());
    Claim::settle_all(lane.try_output(1, usize::MAX).remove(0).claims);
    assert!((&mut room).now_or_never().is_some());
    outputs(&lane);
}

/// Each waiter against a notification before, between and after its looks, and after a wait that
/// was given up.
#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    let soon = Duration::from_secs(1);
    for round in 0..3 {
        assert!(tokio::time::timeout(soon, lane.output_ready()).await.is_err());
        assert!(tokio::time::timeout(soon, lane.take(1)).await.is_err());
        let time = 10 + round;
        let (taken, ()) = tokio::join!(tokio::time::timeout(soon, lane.take(1)), async {
            lane.changed([noted(&tracker, round, time)])
        },);
        let changes = model::answer(taken.expect("the reader is woken"), time);
        let (ready, ()) = tokio::join!(tokio::time::timeout(soon, lane.output_ready()), async {
            lane.complete(changes, Vec::new(), ClusterTime(time))
        },);
        ready.expect("the writer is woken");
        assert_eq!(outputs(&lane), [(round, time)]);
    }
}

/// A stopped reader holds the position for ever, as it should.
#[test]
fn a_claim_that_is_dropped_holds_the_position() {
    let (lane, tracker) = (Lane::new(1 << 20), Tracker::new());
    lane.changed([noted(&tracker, 1, 5)]);
    drop(lane.take(1).now_or_never());
    lane.changed([noted(&tracker, 2, 6)]);
    assert_eq!(tracker.settled(), None);
    drop(lane);
    assert_eq!(tracker.settled(), None);
}
