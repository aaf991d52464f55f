//! Which places are stored, over batches that begin before earlier ones have ended.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    checkpoint::memory::MemoryStore,
    delivery::scripted::{Scripted, key, namespace},
};

struct Shelf {
    places: Places,
    spots: Spots,
    stop: CancellationToken,
}

fn lies(at: &str) -> RulePlace {
    RulePlace { rule: "products".into(), place: PlaceKey(at.as_bytes().into()), owed: false }
}

fn subject() -> Subject {
    Subject { namespace: namespace(), key: key(1) }
}

impl Shelf {
    async fn new() -> Self {
        let store = Arc::new(MemoryStore::new("shop"));
        store.fence(1).await.expect("the first epoch");
        let target = Scripted::new(&[]);
        let (spots, _) = Spots::new(store.clone(), "search", target, Default::default());
        Self { places: Places::new(store, "search"), spots, stop: CancellationToken::new() }
    }

    async fn stored(&self) -> Vec<String> {
        let mut found = self.places.load(&[subject()], &self.stop).await.expect("in memory");
        let text = |place: RulePlace| String::from_utf8(place.place.0.to_vec()).expect("text");
        found.remove(0).into_iter().map(text).collect()
    }

    /// A delivery of the document to `new` begins: what its batch is to trim.
    async fn begin(&self, new: &[&str]) -> Vec<Trim> {
        let old = self.stored().await.iter().map(|at| lies(at)).collect();
        let new = new.iter().map(|at| lies(at)).collect();
        let moves = vec![Move::new(subject(), old, new)];
        self.places.widen(moves, Vec::new(), &self.stop).await.expect("in memory")
    }

    async fn end(&self, trims: Vec<Trim>) {
        self.places.trim(trims, &self.spots, &self.stop).await.expect("in memory");
    }
}

#[tokio::test]
async fn both_places_are_stored_until_the_batch_is_settled() {
    let shelf = Shelf::new().await;
    let first = shelf.begin(&["a"]).await;
    assert_eq!(shelf.stored().await, ["a"]);
    shelf.end(first).await;
    let second = shelf.begin(&["b"]).await;
    assert_eq!(shelf.stored().await, ["a", "b"]);
    shelf.end(second).await;
    assert_eq!(shelf.stored().await, ["b"]);
    let gone = shelf.begin(&[]).await;
    assert_eq!(shelf.stored().await, ["b"]);
    shelf.end(gone).await;
    assert!(shelf.stored().await.is_empty());
    assert!(shelf.places.widened.lock().expect("not poisoned").is_empty(), "nothing is left over");
}

/// Until it is put there again.
#[tokio::test]
async fn what_could_not_be_removed_is_stored_as_owed() {
    let shelf = Shelf::new().await;
    let owed = |places: Vec<RulePlace>| places.into_iter().map(|it| it.owed).collect::<Vec<_>>();
    let load = || async {
        shelf.places.load(&[subject()], &shelf.stop).await.expect("in memory").remove(0)
    };
    let first = shelf.begin(&["a"]).await;
    shelf.end(first).await;
    let mut second = shelf.begin(&["b"]).await;
    second[0].owe(&namespace(), &key(2), &lies("a").place);
    second[0].owe(&namespace(), &key(1), &lies("a").place);
    shelf.end(second).await;
    assert_eq!(shelf.stored().await, ["b", "a"]);
    assert_eq!(owed(load().await), [false, true]);
    // Before anything is sent.
    let moves = vec![Move::new(subject(), load().await, vec![lies("a")])];
    let trims = shelf.places.widen(moves, Vec::new(), &shelf.stop).await.expect("in memory");
    assert_eq!(owed(load().await), [false, false]);
    shelf.end(trims).await;
    assert_eq!(shelf.stored().await, ["a"]);
}

#[tokio::test]
async fn an_older_batch_trims_nothing_that_a_newer_one_needs() {
    for (older, newer) in [
        (vec!["b"], vec!["c"]),
        (vec![], vec!["a"]),
        (vec!["b"], vec!["a", "b"]),
        (vec!["b"], vec!["a"]),
        (vec!["a"], vec!["a"]),
    ] {
        let shelf = Shelf::new().await;
        let start = shelf.begin(&["a"]).await;
        shelf.end(start).await;
        let first = shelf.begin(&older).await;
        let second = shelf.begin(&newer).await;
        shelf.end(first).await;
        let stored = shelf.stored().await;
        for at in &newer {
            assert!(stored.iter().any(|stored| stored == at), "{older:?}, {newer:?}: {stored:?}");
        }
        shelf.end(second).await;
        assert_eq!(shelf.stored().await, newer, "{older:?}, then {newer:?}");
        assert!(shelf.places.widened.lock().expect("not poisoned").is_empty());
    }
}
