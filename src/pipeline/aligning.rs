//! Has the target follow what becomes of collections as such: one task, beside the lanes.
//!
//! What the stream shows of a definition is not carried out as it was said: the source is asked how
//! things are now, and the target made so. So it makes no difference how often that is done, nor what
//! was missed; and documents need not wait for it, nor it for them, because whole documents are written
//! whatever the options and indexes. Only what ends a collection waits: the pipeline winds down
//! (`Demand`), and starts again with all collections being looked at before anything is written.
//!
//! The position does not pass an event before the target has been made so, or has refused it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    change::Namespace,
    checkpoint::{lease::Validity, tracker::Claim},
    delivery::retry::{Backoff, pause},
    rules::model::DeliverySettings,
    status::TargetStatus,
    target::{Align, Right, Target},
};

/// Collections that are seen to at once.
const AT_ONCE: usize = 4;
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
        let mut waiting: HashMap<Namespace, Vec<Claim>> = HashMap::new();
        let mut busy: HashMap<Namespace, Vec<Claim>> = HashMap::new();
        let mut open = true;
        loop {
            // What is shown while its collection is seen to may have come too late for that.
            let next = waiting.keys().find(|namespace| !busy.contains_key(*namespace)).cloned();
            if let Some(namespace) = next.filter(|_| busy.len() < AT_ONCE) {
                let claims = waiting.remove(&namespace).unwrap_or_default();
                under_way.push(self.align(Some(namespace.clone())));
                busy.insert(namespace, claims);
                continue;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                shown = defined.recv(), if open => match shown {
                    Some(Defined { namespace, claim }) => {
                        waiting.entry(namespace).or_default().push(claim);
                    }
                    None => open = false,
                },
                Some(done) = under_way.next() => match done {
                    Done::All => {}
                    Done::One(namespace) => {
                        Claim::settle_all(busy.remove(&namespace).unwrap_or_default());
                    }
                    Done::Stopped => return,
                },
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

enum Done {
    All,
    One(Namespace),
    Stopped,
}
