//! Documents of one lane that meet in one place, against a store in memory.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    change::{Change, Phase, State},
    checkpoint::{records::SpotsKnownRecord, store::Table, tracker::Claim},
    delivery::{
        lane::Pending,
        places::{Move, RulePlace},
        scripted::{Answer, Bench, Where, change, key, lying, namespace, settings},
        writer::Context,
    },
    target::Outcome,
};

struct Shelf {
    bench: Bench,
    writer: JoinHandle<Result<(), Halt>>,
    stop: CancellationToken,
}

fn subject_of(id: i64) -> Subject {
    Subject { namespace: namespace(), key: key(id) }
}

fn under(key: &DocumentKey) -> Subject {
    Subject { namespace: namespace(), key: key.clone() }
}

fn lies(at: &str) -> RulePlace {
    RulePlace { rule: "products".into(), place: PlaceKey(at.as_bytes().into()), owed: false }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(600), what).await.expect("it happens")
}

impl Shelf {
    async fn new() -> Self {
        let bench = Bench::new(&[("products", Where::ByField("at"))], settings()).await;
        let writer = bench.write();
        Self { bench, writer, stop: CancellationToken::new() }
    }

    /// Has documents delivered that lie somewhere, or are gone.
    async fn deliver(&self, changes: &[(i64, Option<(&str, i64)>)]) {
        soon(self.put(changes).done()).await;
    }

    fn put(&self, changes: &[(i64, Option<(&str, i64)>)]) -> Completion {
        let state = |lies: Option<(&str, i64)>| lies.map_or(State::Gone, |(at, v)| lying(at, v));
        self.bench.put(changes.iter().map(|(id, lies)| (*id, state(*lies))))
    }

    /// The same of documents under any keys.
    fn put_under(&self, changes: &[(&DocumentKey, Option<(&str, i64)>)]) -> Completion {
        let done = Completion::new();
        let change = |(key, lies): &(&DocumentKey, Option<(&str, i64)>)| {
            let state = lies.map_or(State::Gone, |(at, v)| lying(at, v));
            Change { key: (*key).clone(), ..change(1, state, [done.claim()]) }
        };
        self.bench.lane.append(changes.iter().map(change).collect());
        done.close();
        done
    }

    /// A document that has come back, to be looked up.
    async fn next(&self) -> Pending {
        soon(self.bench.lane.take(1)).await.remove(0)
    }

    async fn look_up(&self, id: i64, lies: Option<(&str, i64)>) {
        let pending = self.next().await;
        self.answer(pending, id, lies);
    }

    /// What the source has of it.
    fn answer(&self, pending: Pending, id: i64, lies: Option<(&str, i64)>) {
        assert_eq!(pending.subject, subject_of(id));
        let state = lies.map_or(State::Gone, |(at, v)| lying(at, v));
        let found = Change { time: pending.time, ..change(id, state, pending.claims) };
        assert_eq!(found.phase, Phase::Changes);
        self.bench.lane.complete(vec![found], Vec::new(), ClusterTime(9));
    }

    /// The document that is asked for since another has met it.
    fn met(&self) -> Option<Holder> {
        self.bench.met.lock().expect("not poisoned").try_recv().ok()
    }

    /// A document looks, however often, until the one that has its place is asked for.
    async fn until_met(&self, id: i64, lies: (&str, i64)) -> (Pending, Holder) {
        loop {
            let pending = self.next().await;
            match self.met() {
                Some(holder) => return (pending, holder),
                None => self.answer(pending, id, Some(lies)),
            }
        }
    }

    /// A document is refused, since another has its place and stays there.
    async fn refuse(&self, id: i64, lies: (&str, i64)) {
        let done = self.put(&[(id, Some(lies))]);
        let (pending, holder) = self.until_met(id, lies).await;
        delivered(holder);
        self.answer(pending, id, Some(lies));
        soon(done.done()).await;
    }

    fn held(&self) -> Vec<(String, i64)> {
        self.bench.target.held()
    }

    fn spot(&self, at: &str) -> Spot {
        Spot::of(&*self.bench.target, &lies(at).place)
    }

    async fn owner(&self, at: &str) -> Option<Subject> {
        let Context { spots, places, .. } = &*self.bench.context;
        let holder = spots.holder(self.spot(at), places, &self.stop).await.expect("in memory");
        holder.map(|holder| holder.subject)
    }

    /// Who awaits a spot, as the store says.
    async fn awaiting(&self, at: &str) -> Vec<Subject> {
        let (mut all, mut after) = (Vec::new(), None);
        let next = async |after: &Option<RecordKey>| {
            let spots = &self.bench.context.spots;
            spots.awaiting(self.spot(at), after.as_ref(), &self.stop).await.expect("in memory")
        };
        while let Some((key, subject)) = next(&after).await {
            all.extend(subject);
            after = Some(key);
        }
        all
    }

    /// The spots of the next run.
    fn again(&self) -> Spots {
        let rules = BTreeSet::from(["products".to_owned()]);
        let (store, target) = (self.bench.store.clone(), self.bench.context.target.clone());
        Spots::new(store, "search", target, rules).0
    }

    /// What they are told of who awaits what.
    async fn recall(&self, again: &Spots) -> Vec<Subject> {
        let recalled = again.recall(None, &self.bench.context.places, &self.stop).await;
        let all = recalled.expect("in memory").map(|recalled| recalled.awaiting);
        all.into_iter().flatten().map(|(_, subject)| subject).collect()
    }

    async fn places(&self, id: i64) -> Vec<RulePlace> {
        let found = self.bench.context.places.load(&[subject_of(id)], &self.stop).await;
        found.expect("in memory").remove(0)
    }

    /// Writes places as an older version did, which kept no record of whose they are.
    async fn lay(&self, id: i64, at: &str) {
        let (old, new) = (self.places(id).await, vec![lies(at)]);
        let moves = vec![Move::new(subject_of(id), old, new)];
        self.bench.context.places.widen(moves, Vec::new(), &self.stop).await.expect("in memory");
    }

    fn nothing_is_left(&self) {
        let state = self.bench.context.spots.state();
        assert!(state.taking.is_empty() && state.leaving.is_empty());
        assert!(state.waiting.is_empty() && state.rounds.is_empty());
        drop(state);
        self.writer.abort();
    }
}

fn delivered(holder: Holder) {
    let claim: Claim = holder.delivered.claim();
    holder.delivered.close();
    claim.settle();
}

#[tokio::test(start_paused = true)]
async fn who_meets_another_is_refused_once_that_one_was_delivered_since() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    assert_eq!(shelf.owner("a").await, Some(subject_of(1)));
    let second = shelf.put(&[(2, Some(("a", 2)))]);
    let (pending, holder) = shelf.until_met(2, ("a", 2)).await;
    assert_eq!(holder.subject, subject_of(1));
    assert!(shelf.met().is_none(), "once");
    assert!(!second.is_done() && shelf.bench.letters().await.is_empty());
    delivered(holder);
    shelf.answer(pending, 2, Some(("a", 2)));
    soon(second.done()).await;
    let [(id, words)] = shelf.bench.letters().await.try_into().expect("one letter");
    assert_eq!(id, "2");
    assert!(
        words.starts_with("its place is that of another document, 1 of shop.products"),
        "{words}"
    );
    assert_eq!(shelf.held(), [("a".to_owned(), 1)]);
    assert!(shelf.places(2).await.is_empty());
    // It goes, and the other one stays.
    shelf.deliver(&[(2, None)]).await;
    assert!(shelf.bench.letters().await.is_empty());
    assert_eq!(shelf.held(), [("a".to_owned(), 1)]);
    shelf.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn two_that_meet_before_anything_is_stored_do_not_share_a_place() {
    let shelf = Shelf::new().await;
    let both = shelf.put(&[(1, Some(("a", 1))), (2, Some(("a", 2)))]);
    shelf.look_up(2, Some(("b", 3))).await;
    soon(both.done()).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 1), ("b".to_owned(), 3)]);
    assert_eq!(shelf.bench.target.sent(), [["a=1"], ["b=3"]]);
    shelf.nothing_is_left();
}

#[tokio::test(start_paused = true)]
async fn two_that_swap_their_places_both_get_them() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1))), (2, Some(("b", 2)))]).await;
    let swap = shelf.put(&[(1, Some(("b", 3))), (2, Some(("a", 4)))]);
    shelf.look_up(1, Some(("b", 3))).await;
    shelf.look_up(2, Some(("a", 4))).await;
    soon(swap.done()).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 4), ("b".to_owned(), 3)]);
    assert!(shelf.bench.letters().await.is_empty());
    shelf.nothing_is_left();
}

/// What is free is told, and to whom it is to go, also to the next run.
#[tokio::test(start_paused = true)]
async fn a_place_that_becomes_free_is_that_of_the_refused() {
    for restarted in [false, true] {
        let shelf = Shelf::new().await;
        shelf.deliver(&[(1, Some(("a", 1)))]).await;
        shelf.refuse(2, ("a", 2)).await;
        shelf.deliver(&[(1, Some(("c", 3)))]).await;
        assert_eq!(shelf.owner("a").await, None);
        let again = shelf.again();
        let spots = match restarted {
            true => {
                assert_eq!(shelf.recall(&again).await, [subject_of(2)]);
                &again
            }
            false => &shelf.bench.context.spots,
        };
        let freed = soon(spots.freed()).await;
        assert_eq!(freed, shelf.spot("a"));
        let (key, next) =
            spots.awaiting(freed, None, &shelf.stop).await.expect("in memory").expect("one waits");
        assert_eq!(next, Some(subject_of(2)));
        shelf.deliver(&[(2, Some(("a", 2)))]).await;
        assert_eq!(shelf.held(), [("a".to_owned(), 2), ("c".to_owned(), 3)]);
        assert!(shelf.bench.letters().await.is_empty());
        // Until that is forgotten, the next run has it delivered once more.
        assert_eq!(shelf.recall(&shelf.again()).await, [subject_of(2)]);
        spots.forget(key, &shelf.stop).await.expect("in memory");
        spots.unawaited(freed, &shelf.stop).await.expect("in memory");
        assert!(spots.state().awaited.is_empty());
        shelf.nothing_is_left();
    }
}

/// The process was killed when it was durable whose the place is, and nothing had been put there.
#[tokio::test(start_paused = true)]
async fn who_was_given_a_place_by_a_run_that_ended_is_told_to_the_next() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    for id in [2, 3] {
        shelf.refuse(id, ("a", id)).await;
    }
    shelf.deliver(&[(1, None)]).await;
    let at_a = put(keys::spot("search", &shelf.spot("a").0), &record(&subject_of(2)));
    shelf.bench.store.write(vec![at_a]).await.expect("in memory");
    shelf.lay(2, "a").await;
    let again = shelf.again();
    assert_eq!(shelf.recall(&again).await, [subject_of(2), subject_of(3)]);
    assert_eq!(soon(again.freed()).await, shelf.spot("a"));
    // Once for both.
    assert!(again.state().freed.is_empty());
    shelf.nothing_is_left();
}

/// Two lie in one place, and nothing says whose it is.
#[tokio::test(start_paused = true)]
async fn what_has_no_owner_is_of_the_first_that_is_delivered() {
    let shelf = Shelf::new().await;
    shelf.lay(1, "a").await;
    shelf.lay(2, "a").await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    assert_eq!(shelf.owner("a").await, Some(subject_of(1)));
    // It is not the other's to remove.
    shelf.deliver(&[(2, Some(("b", 2)))]).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert_eq!(shelf.places(2).await, [lies("b")]);
    shelf.lay(3, "a").await;
    shelf.deliver(&[(3, None)]).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    assert!(shelf.places(3).await.is_empty());
    // Nobody's is removed.
    shelf.lay(3, "c").await;
    shelf.deliver(&[(3, None)]).await;
    assert_eq!(shelf.bench.target.sent().last().expect("a request"), &["c-"]);
    assert_eq!(shelf.owner("c").await, None);
    shelf.nothing_is_left();
}

/// Whose places are was not kept for a while; then it is, from before anything is delivered.
#[tokio::test(start_paused = true)]
async fn what_has_no_owner_is_of_who_lies_there() {
    let shelf = Shelf::new().await;
    let Context { spots, places, .. } = &*shelf.bench.context;
    let inherit =
        async |spots: &Spots| spots.inherit(places, &shelf.stop).await.expect("in memory");
    shelf.deliver(&[(9, Some(("z", 9)))]).await;
    shelf.lay(1, "a").await;
    shelf.lay(2, "a").await;
    let former = RulePlace { rule: "former".into(), ..lies("b") };
    let moves = vec![Move::new(subject_of(3), Vec::new(), vec![former])];
    places.widen(moves, Vec::new(), &shelf.stop).await.expect("in memory");
    inherit(spots).await;
    let owner = shelf.owner("a").await.expect("one of them");
    let (one, other) = (subject_of(1), subject_of(2));
    let other = if owner == one { other } else { one };
    assert_eq!(shelf.awaiting("a").await, std::slice::from_ref(&other));
    assert_eq!((shelf.owner("b").await, shelf.owner("z").await), (None, Some(subject_of(9))));
    assert_eq!(shelf.recall(&shelf.again()).await, [other]);
    shelf.refuse(4, ("a", 4)).await;
    // Once.
    shelf.lay(5, "e").await;
    inherit(&shelf.again()).await;
    assert_eq!(shelf.owner("e").await, None);
    // A run that keeps nothing is made up for.
    let (store, target) = (shelf.bench.store.clone(), shelf.bench.context.target.clone());
    inherit(&Spots::new(store, "search", target, BTreeSet::new()).0).await;
    inherit(&shelf.again()).await;
    assert_eq!(shelf.owner("e").await, Some(subject_of(5)));
    assert_eq!(shelf.owner("a").await, Some(owner));
    shelf.nothing_is_left();
}

/// There are many, and it goes on behind those of which it is stored.
#[tokio::test(start_paused = true)]
async fn whose_places_are_is_read_on_from_where_it_was() {
    let shelf = Shelf::new().await;
    let Context { spots, places, .. } = &*shelf.bench.context;
    let moves =
        (1..=1_200).map(|id| Move::new(subject_of(id), Vec::new(), vec![lies(&format!("p{id}"))]));
    places.widen(moves.collect(), Vec::new(), &shelf.stop).await.expect("in memory");
    let all = keys::places("search", namespace().as_str());
    let found = shelf.bench.store.scan(Table::Places, &all, None, 700).await.expect("in memory");
    let until = found.last().map(|(key, _)| inherited::parts(key));
    let known = put(keys::spots_known("search"), &SpotsKnownRecord { until });
    shelf.bench.store.write(vec![known]).await.expect("in memory");
    spots.inherit(places, &shelf.stop).await.expect("in memory");
    let held = keys::places("search", "").with("held");
    let held = shelf.bench.store.scan_keys(Table::Places, &held, None, 2_000).await;
    assert_eq!(held.expect("in memory").len(), 500);
    shelf.nothing_is_left();
}

/// The process ended between two writes, or what an older one sent came late.
#[tokio::test(start_paused = true)]
async fn whose_a_place_is_counts_only_with_its_own_places() {
    let shelf = Shelf::new().await;
    let at_a = keys::spot("search", &shelf.spot("a").0);
    let write = put(at_a, &record(&subject_of(1)));
    shelf.bench.store.write(vec![write]).await.expect("in memory");
    shelf.deliver(&[(2, Some(("a", 2)))]).await;
    assert_eq!(shelf.owner("a").await, Some(subject_of(2)));
    assert_eq!(shelf.held(), [("a".to_owned(), 2)]);
    // By a rule that is in the file no more.
    let moved = RulePlace { rule: "former".into(), ..lies("b") };
    let moves = vec![Move::new(subject_of(3), Vec::new(), vec![moved])];
    let beside = vec![put(keys::spot("search", &shelf.spot("b").0), &record(&subject_of(3)))];
    shelf.bench.context.places.widen(moves, beside, &shelf.stop).await.expect("in memory");
    shelf.deliver(&[(4, Some(("b", 4)))]).await;
    assert_eq!(shelf.owner("b").await, Some(subject_of(4)));
    shelf.nothing_is_left();
}

/// The refusal and the removal stand in one batch, behind a request that is under way.
#[tokio::test(start_paused = true)]
async fn who_is_refused_and_gone_at_once_has_no_letter() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    let second = shelf.put(&[(2, Some(("a", 2)))]);
    let (pending, holder) = shelf.until_met(2, ("a", 2)).await;
    delivered(holder);
    let gate = shelf.bench.target.gate();
    let under_way = shelf.put(&[(3, Some(("c", 3)))]);
    while shelf.bench.target.sent().len() < 2 {
        tokio::task::yield_now().await;
    }
    shelf.answer(pending, 2, Some(("a", 2)));
    let gone = shelf.put(&[(2, None)]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    soon(async { tokio::join!(second.done(), under_way.done(), gone.done()) }).await;
    assert!(shelf.bench.letters().await.is_empty());
    shelf.nothing_is_left();
}

/// It waits for the place once more, and is gone when it comes back, all behind one request that is under
/// way.
#[tokio::test(start_paused = true)]
async fn who_was_refused_waits_again_and_is_gone_has_no_letter() {
    for stays in [None, Some(("b", 3))] {
        let shelf = Shelf::new().await;
        shelf.deliver(&[(1, Some(("a", 1)))]).await;
        shelf.refuse(2, ("a", 2)).await;
        assert_eq!(shelf.bench.letters().await.len(), 1);
        let gate = shelf.bench.target.gate();
        let under_way = shelf.put(&[(3, Some(("c", 3)))]);
        while shelf.bench.target.sent().len() < 2 {
            tokio::task::yield_now().await;
        }
        let again = shelf.put(&[(2, Some(("a", 3)))]);
        shelf.look_up(2, stays).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        soon(async { tokio::join!(under_way.done(), again.done()) }).await;
        assert!(shelf.bench.letters().await.is_empty(), "{stays:?}");
        shelf.nothing_is_left();
    }
}

/// What the other one left there is newer than what the source showed of this one.
#[tokio::test(start_paused = true)]
async fn who_comes_too_late_for_a_place_is_looked_up_once_more() {
    let shelf = Shelf::new().await;
    let newer = |line| Answer::Items(vec![(line, Outcome::Superseded)]);
    shelf.bench.target.answers([newer("a=1"), newer("a=1")]);
    let done = shelf.put(&[(1, Some(("a", 1)))]);
    let pending = shelf.next().await;
    assert_eq!(pending.time, ClusterTime(9), "the time of the newest read");
    shelf.answer(pending, 1, Some(("a", 1)));
    // Once: what is newer than this run is nothing that it knows of.
    soon(done.done()).await;
    assert_eq!(shelf.bench.target.sent(), [["a=1"], ["a=1"]]);
    // Where it was to be put before, by a run that ended before it did so.
    shelf.bench.target.answers([newer("a=2")]);
    let done = shelf.put(&[(1, Some(("a", 2)))]);
    shelf.look_up(1, Some(("a", 2))).await;
    soon(done.done()).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 2)]);
    shelf.nothing_is_left();
}

/// An earlier run was asked for it and put it there with a newer time than the change that shows it elsewhere.
#[tokio::test(start_paused = true)]
async fn who_comes_too_late_to_leave_a_place_is_looked_up_once_more() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    let newer = || Answer::Items(vec![("a-", Outcome::Superseded)]);
    shelf.bench.target.answers([newer(), newer()]);
    let done = shelf.put(&[(1, Some(("b", 2)))]);
    let pending = shelf.next().await;
    assert_eq!(pending.time, ClusterTime(9), "that of the run");
    assert_eq!(shelf.places(1).await, [lies("b"), lies("a")]);
    shelf.answer(pending, 1, Some(("b", 2)));
    // Once: nothing of it is newer then.
    soon(done.done()).await;
    assert_eq!(shelf.bench.target.sent()[1..], [["a-", "b=2"], ["a-", "b=2"]]);
    assert_eq!(shelf.places(1).await, [lies("b")]);
    shelf.nothing_is_left();
}

fn in_region(region: &str, id: i64) -> DocumentKey {
    let key = bson::rawdoc! { "region": region, "_id": id };
    DocumentKey::from_document_key(&key).expect("a key")
}

/// One document under both its keys, the old and the new, in either order.
#[tokio::test(start_paused = true)]
async fn a_document_whose_shard_key_changes_does_not_meet_itself() {
    let shelf = Shelf::new().await;
    let (eu, us) = (in_region("eu", 1), in_region("us", 1));
    let put = |changes: &[(&DocumentKey, Option<(&str, i64)>)]| shelf.put_under(changes);
    let of = |key: &DocumentKey| Some(under(key));
    soon(put(&[(&eu, Some(("a", 1)))]).done()).await;
    assert_eq!(shelf.owner("a").await, of(&eu));
    // The new one comes first.
    soon(put(&[(&us, Some(("a", 2)))]).done()).await;
    assert_eq!((shelf.owner("a").await, shelf.held()), (of(&us), vec![("a".to_owned(), 2)]));
    soon(put(&[(&eu, None), (&us, Some(("a", 3)))]).done()).await;
    assert_eq!((shelf.owner("a").await, shelf.held()), (of(&us), vec![("a".to_owned(), 3)]));
    // The old one is gone first.
    soon(put(&[(&us, None), (&eu, Some(("a", 4)))]).done()).await;
    assert_eq!((shelf.owner("a").await, shelf.held()), (of(&eu), vec![("a".to_owned(), 4)]));
    // The place passes on while the removal is under way.
    let gate = shelf.bench.target.gate();
    let before = shelf.bench.target.sent().len();
    let gone = put(&[(&eu, None)]);
    while shelf.bench.target.sent().len() == before {
        tokio::task::yield_now().await;
    }
    let there = put(&[(&us, Some(("a", 5)))]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    soon(async { tokio::join!(gone.done(), there.done()) }).await;
    assert_eq!((shelf.owner("a").await, shelf.held()), (of(&us), vec![("a".to_owned(), 5)]));
    assert!(shelf.met().is_none() && shelf.bench.letters().await.is_empty());
    // Once it is gone, the place is free.
    soon(put(&[(&us, None)]).done()).await;
    let owners = shelf.bench.context.spots.owners(&[shelf.spot("a")], &shelf.stop).await;
    assert_eq!(owners.expect("in memory"), [None]);
    assert!(shelf.held().is_empty());
    // It is not another document that it takes the place of.
    let other = Subject { namespace: namespace(), key: in_region("us", 2) };
    assert!(!other.is_same_document(&under(&us)));
    shelf.nothing_is_left();
}

/// Its place passes on, though another one asks for it first.
#[tokio::test(start_paused = true)]
async fn who_asks_for_a_place_does_not_keep_it_from_passing_on() {
    let shelf = Shelf::new().await;
    let (eu, us, other) = (in_region("eu", 1), in_region("us", 1), in_region("us", 2));
    soon(shelf.put_under(&[(&eu, Some(("a", 1)))]).done()).await;
    let all = [(&other, Some(("a", 2))), (&eu, None), (&us, Some(("a", 3)))];
    let done = shelf.put_under(&all);
    let pending = shelf.next().await;
    assert_eq!(pending.subject, under(&other));
    assert_eq!((shelf.owner("a").await, shelf.held()), (Some(under(&us)), vec![("a".into(), 3)]));
    let found = Change { key: other, ..change(2, State::Gone, pending.claims) };
    shelf.bench.lane.complete(vec![found], Vec::new(), ClusterTime(9));
    soon(done.done()).await;
    // What the old key gave up is not given up for the new one.
    assert_eq!((shelf.owner("a").await, shelf.held()), (Some(under(&us)), vec![("a".into(), 3)]));
    shelf.nothing_is_left();
}

/// The process was killed when both its keys were known to lie there. What one of them takes away is not
/// another's before that has been done, though the other one has given it up.
#[tokio::test(start_paused = true)]
async fn a_place_is_left_under_the_last_key_that_takes_something_away() {
    let shelf = Shelf::new().await;
    let (eu, us) = (in_region("eu", 1), in_region("us", 1));
    soon(shelf.put_under(&[(&us, Some(("a", 1)))]).done()).await;
    let moves = vec![Move::new(under(&eu), Vec::new(), vec![lies("a")])];
    let Context { places, .. } = &*shelf.bench.context;
    places.widen(moves, Vec::new(), &shelf.stop).await.expect("in memory");
    let gates = [shelf.bench.target.gate(), shelf.bench.target.gate()];
    let sent = async |count: usize| {
        while shelf.bench.target.sent().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let gone = shelf.put_under(&[(&us, None)]);
    sent(2).await;
    let there = shelf.put_under(&[(&eu, Some(("b", 2)))]);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gates[0].notify_one();
    sent(3).await;
    assert_eq!(shelf.owner("a").await, Some(under(&eu)));
    gates[1].notify_one();
    soon(async { tokio::join!(gone.done(), there.done()) }).await;
    assert_eq!((shelf.owner("a").await, shelf.held()), (None, vec![("b".to_owned(), 2)]));
    assert_eq!(shelf.bench.target.sent()[1..], [vec!["a-"], vec!["a-", "b=2"]]);
    shelf.nothing_is_left();
}

/// The process was killed when the new places were durable, and that the old one is given up was not.
#[tokio::test(start_paused = true)]
async fn what_its_owner_has_left_is_free_after_a_restart() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    shelf.refuse(2, ("a", 2)).await;
    shelf.deliver(&[(1, Some(("c", 3)))]).await;
    let at_a = put(keys::spot("search", &shelf.spot("a").0), &record(&subject_of(1)));
    shelf.bench.store.write(vec![at_a]).await.expect("in memory");
    let again = shelf.again();
    assert_eq!(shelf.recall(&again).await, [subject_of(2)]);
    assert_eq!(soon(again.freed()).await, shelf.spot("a"));
    assert_eq!(shelf.owner("a").await, None);
    shelf.nothing_is_left();
}

/// It was asked for, so that no position waits for it: what it was taken away from is durable.
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_is_told_to_the_next_run() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1))), (2, Some(("b", 2)))]).await;
    let moving = shelf.put(&[(2, Some(("a", 3)))]);
    let (pending, holder) = shelf.until_met(2, ("a", 3)).await;
    assert_eq!((shelf.owner("b").await, shelf.held()), (None, vec![("a".to_owned(), 1)]));
    let again = shelf.again();
    assert_eq!(shelf.recall(&again).await, [subject_of(2)]);
    assert!(again.state().freed.is_empty(), "it is still the other's");
    // Once it has been delivered there is nothing to tell.
    shelf.deliver(&[(1, Some(("c", 4)))]).await;
    delivered(holder);
    shelf.answer(pending, 2, Some(("a", 3)));
    soon(moving.done()).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 3), ("c".to_owned(), 4)]);
    assert_eq!(shelf.awaiting("a").await, []);
    shelf.nothing_is_left();
}

/// It was asked for, and meets the holder once more before what it was asked for is over.
#[tokio::test(start_paused = true)]
async fn who_waits_once_more_is_not_forgotten() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    let spots = &shelf.bench.context.spots;
    let key = spots.awaiting_key(shelf.spot("a"), &subject_of(2));
    let forget = async || {
        spots.awaits_no_more(key.clone(), &subject_of(2), &shelf.stop).await.expect("in memory");
    };
    let second = shelf.put(&[(2, Some(("a", 2)))]);
    let (pending, holder) = shelf.until_met(2, ("a", 2)).await;
    forget().await;
    assert_eq!(shelf.awaiting("a").await, [subject_of(2)]);
    // Refused, it is stored anew, whatever has become of that.
    spots.forget(key.clone(), &shelf.stop).await.expect("in memory");
    delivered(holder);
    shelf.answer(pending, 2, Some(("a", 2)));
    soon(second.done()).await;
    assert_eq!((shelf.bench.letters().await.len(), shelf.awaiting("a").await.len()), (1, 1));
    forget().await;
    assert_eq!(shelf.awaiting("a").await, []);
    shelf.nothing_is_left();
}

/// The one who holds a place may have left it as the last run ended: its own places were not trimmed.
#[tokio::test(start_paused = true)]
async fn whose_holder_may_have_left_is_told_to_the_next_run() {
    let shelf = Shelf::new().await;
    shelf.deliver(&[(1, Some(("a", 1)))]).await;
    shelf.refuse(2, ("a", 2)).await;
    let again = shelf.again();
    shelf.recall(&again).await;
    assert!(again.state().freed.is_empty());
    let moves = vec![Move::new(subject_of(1), vec![lies("a")], vec![lies("c")])];
    let widened = shelf.bench.context.places.widen(moves, Vec::new(), &shelf.stop).await;
    widened.expect("in memory");
    let again = shelf.again();
    shelf.recall(&again).await;
    assert_eq!(soon(again.freed()).await, shelf.spot("a"));
    shelf.nothing_is_left();
}

/// Two changes of one document in a batch, the first of which was never sent.
#[tokio::test(start_paused = true)]
async fn what_was_never_sent_has_put_nothing_there() {
    for between in [None, Some(State::Gone)] {
        let shelf = Shelf::new().await;
        // The changes are this run's.
        shelf.bench.context.spots.begun.store(1, Ordering::Release);
        let gate = shelf.bench.target.gate();
        let under_way = shelf.put(&[(3, Some(("c", 3)))]);
        while shelf.bench.target.sent().is_empty() {
            tokio::task::yield_now().await;
        }
        shelf.bench.target.answers([Answer::Items(vec![("a=2", Outcome::Superseded)])]);
        let states = [lying("a", 1)].into_iter().chain(between).chain([lying("a", 2)]);
        let done = shelf.bench.put(states.map(|state| (1, state)));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
        shelf.look_up(1, Some(("a", 2))).await;
        soon(async { tokio::join!(under_way.done(), done.done()) }).await;
        assert_eq!(shelf.held(), [("a".to_owned(), 2), ("c".to_owned(), 3)]);
        shelf.nothing_is_left();
    }
}

/// The process was killed between what it wrote of a document that had left: whose the place was is stored,
/// and that it had left its own record.
#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_place_that_another_is_taking_waits() {
    let shelf = Shelf::new().await;
    let at_a = put(keys::spot("search", &shelf.spot("a").0), &record(&subject_of(1)));
    shelf.bench.store.write(vec![at_a]).await.expect("in memory");
    shelf.bench.context.spots.state().taking.insert(shelf.spot("a"), subject_of(2));
    let back = shelf.put(&[(1, Some(("a", 1)))]);
    let pending = shelf.next().await;
    assert!(shelf.bench.target.sent().is_empty());
    assert_eq!(shelf.awaiting("a").await, [subject_of(1)]);
    shelf.bench.context.spots.state().taking.clear();
    shelf.answer(pending, 1, Some(("a", 1)));
    soon(back.done()).await;
    assert_eq!(shelf.held(), [("a".to_owned(), 1)]);
    shelf.nothing_is_left();
}
