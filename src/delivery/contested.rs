//! Documents that claim what another document holds: a value of a unique index.
//!
//! The source changed its documents in one order, the lanes write them in another, and what is gone from
//! the source while nobody looked may still lie in the target. So the document that holds the value is
//! asked for through its own lane, and the one that claims it comes back behind that. It is refused
//! only once the holder has been delivered as it is in the source, time and again, and still holds it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use crate::{checkpoint::tracker::Completion, target::PlaceKey};

use super::lane::Subject;

/// A document is not refused before.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nor before the holder has been delivered so often.
const ROUNDS: u32 = 10;
/// Documents that are remembered; others wait until there is room.
const REMEMBERED: usize = 100_000;
/// Holders that wait to be asked for.
pub(super) const ASKED: usize = 1_000;

/// A document whose present state is to be delivered, and what is done once it is.
pub struct Holder {
    /// Which.
    pub subject: Subject,
    /// To be claimed once, and closed.
    pub delivered: Arc<Completion>,
}

/// What is done about a document that claims what another holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waits {
    /// It is looked up again.
    Longer,
    /// It is refused.
    NoMore,
}

struct Trouble {
    since: Instant,
    rounds: u32,
    asked: Option<Arc<Completion>>,
}

/// The documents of one target that wait for others.
pub struct Contested {
    known: Mutex<HashMap<PlaceKey, Trouble>>,
    /// Whether there are any; changed under the lock. Every document that is written asks, and nearly
    /// always there are none.
    any: AtomicBool,
    holders: mpsc::Sender<Holder>,
}

impl Contested {
    /// None yet. Who receives the holders has them delivered.
    pub fn new() -> (Self, mpsc::Receiver<Holder>) {
        let (holders, asked) = mpsc::channel(ASKED);
        (Self { known: Mutex::default(), any: AtomicBool::new(false), holders }, asked)
    }

    /// The document for a place has met one that holds what it claims; `None` where that one was not
    /// found.
    pub fn met(&self, place: &PlaceKey, holder: Option<Subject>) -> Waits {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(place) {
            return Waits::Longer;
        }
        self.any.store(true, Ordering::Release);
        let trouble = known.entry(place.clone()).or_insert_with(|| Trouble {
            since: Instant::now(),
            rounds: 0,
            asked: None,
        });
        if trouble.asked.as_ref().is_some_and(|asked| asked.is_done()) {
            (trouble.asked, trouble.rounds) = (None, trouble.rounds + 1);
        }
        if trouble.rounds >= ROUNDS && trouble.since.elapsed() >= PATIENCE {
            known.remove(place);
            return Waits::NoMore;
        }
        if trouble.asked.is_none() {
            match holder {
                Some(subject) => {
                    let delivered = Arc::new(Completion::new());
                    let holder = Holder { subject, delivered: delivered.clone() };
                    // Where many wait, it is asked for the next time.
                    trouble.asked = self.holders.try_send(holder).is_ok().then_some(delivered);
                }
                None => trouble.rounds += 1,
            }
        }
        Waits::Longer
    }

    /// The document for a place has been written, or is no more.
    pub fn settled(&self, place: &PlaceKey) {
        // What concerns this place was noted by its own lane.
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(place);
        self.any.store(!known.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;
    use crate::change::{DocumentKey, Namespace};

    fn subject() -> Subject {
        let key = DocumentKey::from_id(RawBsonRef::Int32(1)).expect("a key");
        Subject { namespace: Namespace::new("a", "b"), key }
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_waits_until_the_holder_was_delivered_often_enough() {
        let (contested, mut holders) = Contested::new();
        let place = PlaceKey((*b"place").into());
        let meet = || contested.met(&place, Some(subject()));
        // However long: the holder's lane has a backlog.
        for _ in 0..3 * ROUNDS {
            assert_eq!(meet(), Waits::Longer);
            tokio::time::advance(PATIENCE).await;
        }
        for _ in 0..ROUNDS {
            assert_eq!(meet(), Waits::Longer);
            let holder = holders.try_recv().expect("it is asked for");
            assert!(holders.try_recv().is_err(), "once at a time");
            assert_eq!(holder.subject, subject());
            let claim = holder.delivered.claim();
            holder.delivered.close();
            assert_eq!(meet(), Waits::Longer);
            claim.settle();
        }
        assert_eq!(meet(), Waits::NoMore);
        // Whatever comes later begins anew.
        assert_eq!(meet(), Waits::Longer);
        contested.settled(&place);
        assert_eq!(meet(), Waits::Longer);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_not_found_is_not_waited_for_for_ever() {
        let (contested, _holders) = Contested::new();
        let place = PlaceKey((*b"place").into());
        for _ in 0..2 * ROUNDS {
            assert_eq!(contested.met(&place, None), Waits::Longer);
        }
        tokio::time::advance(PATIENCE).await;
        assert_eq!(contested.met(&place, None), Waits::NoMore);
    }
}
