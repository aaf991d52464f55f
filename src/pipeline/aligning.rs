//! Has the target follow what becomes of collections as such: one task, beside the lanes.
//!
//! What the stream shows of a definition is not carried out as it was said: the source is asked how
//! things are now, and the target made so. So it makes no difference how often that is done, nor what
//! was missed; and documents need not wait for it, nor it for them, because whole documents are written
//! whatever the options and indexes. Only what ends a collection waits: the pipeline winds down
//! (`Demand`), and starts again with all collections being looked at before anything is written.
//!
//! The position does not pass an event before the target has been made so, or has refused it; and that by
//! how things were a moment later, since a server shows what has come to be before it lists it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::Namespace,
    checkpoint::{lease::Validity, tracker::Claim},
    delivery::retry::{Backoff, pause},
    rules::model::DeliverySettings,
    source::namespaces::LISTED_WITHIN,
    status::TargetStatus,
    target::{Align, Right, Target},
};

/// Collections that are seen to at once.
const AT_ONCE: usize = 4;
/// How long behind a first look a second one follows. It costs little, and nobody but the position waits for
/// it.
const MOMENT: Duration = LISTED_WITHIN;
/// What waits for other documents, and is no trouble of the target's.
const FOR_DOCUMENTS: &str = "duplicate";

/// Something about a collection has changed.
pub struct Defined {
    /// Which.
    pub namespace: Namespace,
    /// Settled once the target has been made the same.
    pub claim: Claim,
}

/// Aligns one target.
pub struct Aligning {
    /// The target.
    pub target: Arc<dyn Target>,
    /// Its waits.
    pub settings: DeliverySettings,
    /// Its status.
    pub status: Arc<TargetStatus>,
    /// Whether this process still holds the name.
    pub validity: Validity,
    /// See [`Align::copying`].
    pub copying: BTreeSet<String>,
    /// Ends every wait.
    pub stop: CancellationToken,
}

impl Aligning {
    /// Looks at all collections, and then at each that the stream shows, until it is stopped.
    pub async fn run(self, mut defined: mpsc::Receiver<Defined>) {
        let mut under_way = FuturesUnordered::new();
        under_way.push(self.align(None));
        let mut waiting: HashMap<Namespace, Vec<Shown>> = HashMap::new();
        let mut busy: HashMap<Namespace, Vec<Shown>> = HashMap::new();
        // In the order in which they are due.
        let mut later: VecDeque<(Instant, Namespace, Vec<Claim>)> = VecDeque::new();
        let mut open = true;
        loop {
            // What is shown while its collection is seen to may have come too late for that.
            let next = waiting.keys().find(|namespace| !busy.contains_key(*namespace)).cloned();
            if let Some(namespace) = next.filter(|_| busy.len() < AT_ONCE) {
                let shown = waiting.remove(&namespace).unwrap_or_default();
                under_way.push(self.align(Some(namespace.clone())));
                busy.insert(namespace, shown);
                continue;
            }
            let due = later.front().map(|(due, ..)| *due);
            tokio::select! {
                () = self.stop.cancelled() => return,
                shown = defined.recv(), if open => match shown {
                    Some(Defined { namespace, claim }) => {
                        let shown = Shown { claim, is_again: false };
                        waiting.entry(namespace).or_default().push(shown);
                    }
                    None => open = false,
                },
                Some(done) = under_way.next() => match done {
                    Done::All => {}
                    Done::One(namespace) => {
                        let shown = busy.remove(&namespace).unwrap_or_default().into_iter();
                        let (over, first): (Vec<_>, Vec<_>) = shown.partition(|it| it.is_again);
                        Claim::settle_all(over.into_iter().map(|it| it.claim));
                        if !first.is_empty() {
                            let first = first.into_iter().map(|it| it.claim).collect();
                            later.push_back((Instant::now() + MOMENT, namespace, first));
                        }
                    }
                    Done::Stopped => return,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    if let Some((_, namespace, claims)) = later.pop_front() {
                        let again = claims.into_iter().map(|claim| Shown { claim, is_again: true });
                        waiting.entry(namespace).or_default().extend(again);
                    }
                }
                else => return,
            }
        }
    }

    async fn align(&self, namespace: Option<Namespace>) -> Done {
        let mut backoff = Backoff::new(self.settings.retry_initial, self.settings.retry_max);
        loop {
            let tried = async {
                // A process that was paused may have lost its lease without knowing yet.
                self.validity.valid().await;
                let (since, until) = self.validity.span();
                let right = Right { since, until, alone: self.validity.alone() };
                let asked = Align { namespace: namespace.as_ref(), copying: &self.copying, right };
                self.target.align(asked).await
            };
            let tried = tokio::select! {
                tried = tried => tried,
                () = self.stop.cancelled() => return Done::Stopped,
            };
            let Err(retry) = tried else {
                if backoff.tries() > 0 {
                    self.status.recovered();
                }
                return namespace.map_or(Done::All, Done::One);
            };
            self.status.retry(retry.reason);
            if retry.reason != FOR_DOCUMENTS {
                self.status.waiting(&retry.message);
            }
            let wait = backoff.next(retry.after);
            // That it waits is told already.
            if backoff.tries() > 1 || retry.reason == FOR_DOCUMENTS {
                tracing::warn!(
                    target = self.status.name(),
                    namespace = namespace.as_ref().map(Namespace::as_str),
                    error = retry.message,
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "the target's collections are not what they are in the source yet, trying again"
                );
            }
            if !pause(wait, &self.stop).await {
                return Done::Stopped;
            }
        }
    }
}

/// What the stream has shown, until it is settled.
struct Shown {
    claim: Claim,
    /// Whether it has been looked at before.
    is_again: bool,
}

enum Done {
    All,
    One(Namespace),
    Stopped,
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use async_trait::async_trait;
    use tokio::task::JoinSet;

    use super::*;
    use crate::{
        checkpoint::{
            lease::{self, Identity},
            memory::MemoryStore,
            tracker::Completion,
        },
        rules::model::OnRejected,
        status::{Status, fixture},
        target::{Operation, Outcome, PlaceKey, Placed, Placing, Request, Retry},
        transform::Meta,
    };

    /// Notes what it is to look at; each look at a namespace takes a while.
    #[derive(Default)]
    struct Looks(Mutex<Vec<(String, Instant)>>);

    impl Looks {
        fn at(&self, name: &str) -> Vec<Instant> {
            let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            looks.iter().filter(|(own, _)| own == name).map(|(_, at)| *at).collect()
        }
    }

    #[async_trait]
    impl Target for Looks {
        fn place(&self, _: &str, _: &Placing<'_>) -> Result<Placed, String> {
            unreachable!("nothing is delivered")
        }

        fn place_is_fixed(&self, _: &str) -> bool {
            true
        }

        fn encode(&self, _: &Operation, _: &mut Vec<u8>) -> Result<(), String> {
            unreachable!("nothing is delivered")
        }

        async fn send(&self, _: &Request) -> Result<Vec<Outcome>, Retry> {
            unreachable!("nothing is delivered")
        }

        async fn prepare(&self) -> Result<(), Retry> {
            Ok(())
        }

        async fn align(&self, asked: Align<'_>) -> Result<(), Retry> {
            let Some(namespace) = asked.namespace else { return Ok(()) };
            let look = (namespace.to_string(), Instant::now());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(look);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        }

        fn meta(&self, _: &Operation) -> Meta {
            Meta::default()
        }

        fn describe(&self, _: &PlaceKey) -> String {
            String::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_shown_is_looked_at_once_more_before_it_is_settled() {
        let store = Arc::new(MemoryStore::new("shop"));
        let stop = CancellationToken::new();
        let me = Identity::of_this_process("shop", "shop.yaml".as_ref());
        let held = lease::acquire(store, &me, |_| {}, &stop).await.expect("nobody else is there");
        let validity = held.validity();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { held.keep(&CancellationToken::new()).await.expect("kept") });
        let looks = Arc::new(Looks::default());
        let aligning = Aligning {
            target: looks.clone(),
            settings: DeliverySettings {
                max_bytes: 1,
                max_actions: 1,
                max_delay: MOMENT,
                concurrency: 1,
                timeout: MOMENT,
                retry_initial: MOMENT,
                retry_max: MOMENT,
                give_up_after: None,
                on_rejected: OnRejected::DeadLetter,
            },
            status: Status::new(&fixture::rules()).target("search"),
            validity,
            copying: BTreeSet::new(),
            stop,
        };
        let (defined, shown) = mpsc::channel(100);
        tasks.spawn(aligning.run(shown));
        let began = Instant::now();
        let show = async |name: &str| {
            let over = Completion::new();
            let namespace = Namespace::new("shop", name);
            let shown = Defined { namespace, claim: over.claim() };
            defined.send(shown).await.expect("it listens");
            over.close();
            over
        };
        let mut all = Vec::new();
        for n in 0..40 {
            all.push(show(&format!("c{n}")).await);
        }
        all[0].done().await;
        let [first, again] = looks.at("shop.c0").try_into().expect("two looks");
        assert!(again - first >= MOMENT);
        // Nobody's first look waits for another's second one.
        let last = all.len() - 1;
        assert!(looks.at(&format!("shop.c{last}"))[0] - began < MOMENT);
        // What is shown in between is looked at then, and once more.
        let later = show("c0").await;
        later.done().await;
        let [_, _, third, fourth] = looks.at("shop.c0").try_into().expect("four looks");
        assert!(fourth - third >= MOMENT);
        for over in all {
            over.done().await;
        }
        assert!(
            (0..40).all(|n| looks.at(&format!("shop.c{n}")).len() == if n == 0 { 4 } else { 2 })
        );
    }
}
