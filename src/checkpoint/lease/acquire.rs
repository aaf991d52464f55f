//! Taking the lease, or standing by until it can be taken.

use std::{sync::Arc, time::Duration};

use bson::{DateTime, Uuid};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Claim, Held, Identity, LOOK_EVERY, LeaseError, LeaseRecord, TERM, claim, current, soon, swap,
};
use crate::checkpoint::store::{Store, StoreError};

/// Behind whom this process stands by.
#[derive(Clone, PartialEq, Debug)]
pub struct Standby {
    /// What the holder says of itself.
    pub holder: LeaseRecord,
    /// Whether it gave a sign of life since this process began to watch it.
    pub alive: bool,
}

/// Why the lease was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// The name belongs to another rule file.
    #[error(
        "the name {name:?} belongs to {their_file} on {their_host}, and this is {file} on {host}: \
         give one of the two files a `name` of its own"
    )]
    OtherFile {
        /// The name of both.
        name: String,
        /// Our rule file.
        file: String,
        /// Our host.
        host: String,
        /// The other's rule file.
        their_file: String,
        /// The other's host.
        their_host: String,
    },
    /// The store refuses for good.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The wait was cancelled.
    #[error("the wait for the lease was cancelled")]
    Cancelled,
}

/// What one look at the record leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Take,
    StandBy,
    OtherFile,
}

/// The record as it was first seen in its present state.
#[derive(Default)]
struct Watch {
    seen: Option<Sight>,
}

struct Sight {
    owner: Uuid,
    renewed: u64,
    first: Instant,
    alive: bool,
}

impl Watch {
    /// Takes note of what was read, and was there at `now` or before.
    fn note(&mut self, record: &LeaseRecord, now: Instant) -> &Sight {
        let (owner, renewed) = (record.owner, record.renewed);
        let before = self.seen.take();
        let same_owner = before.as_ref().is_some_and(|sight| sight.owner == owner);
        let sight = match before {
            Some(sight) if same_owner && sight.renewed == renewed => sight,
            _ => Sight { owner, renewed, first: now, alive: same_owner },
        };
        self.seen.insert(sight)
    }
}

fn verdict(record: &LeaseRecord, me: &Identity, sight: &Sight, now: Instant) -> Verdict {
    let other_file = record.file != me.file;
    match claim(record, me) {
        Claim::OtherFile => Verdict::OtherFile,
        Claim::Held if other_file && sight.alive => Verdict::OtherFile,
        Claim::Held if now - sight.first < TERM => Verdict::StandBy,
        Claim::Free | Claim::Held => Verdict::Take,
    }
}

/// Takes the lease of `me.name` and shuts out all who held it before: when this returns, the store
/// writes under the new epoch. Stands by as long as another holds it, and waits for a store that is
/// away. `standby` is called whenever there is something new to say about the holder.
///
/// # Errors
/// See [`AcquireError`].
pub async fn acquire(
    store: Arc<dyn Store>,
    me: &Identity,
    standby: impl FnMut(&Standby) + Send,
    cancel: &CancellationToken,
) -> Result<Held, AcquireError> {
    let mut standby = Announce { tell: standby, last: None };
    let mut watch = Watch::default();
    let mut away = false;
    loop {
        let taken = cancel
            .run_until_cancelled(look_once(&store, me, &mut watch, &mut standby))
            .await
            .ok_or(AcquireError::Cancelled)?;
        match taken {
            Ok(Some(held)) => {
                if let Some(held) = begin(held, &*store, cancel).await? {
                    return Ok(held);
                }
                continue;
            }
            Ok(None) => away = false,
            Err(AcquireError::Store(error)) if error.passes() => {
                if !std::mem::replace(&mut away, true) {
                    let error: &dyn std::error::Error = &error;
                    warn!(error, "the lease can't be looked at, waiting for the checkpoint store");
                }
            }
            Err(error) => return Err(error),
        }
        cancel.run_until_cancelled(sleep(LOOK_EVERY)).await.ok_or(AcquireError::Cancelled)?;
    }
}

/// Calls back when the answer changes.
struct Announce<F> {
    tell: F,
    last: Option<(Uuid, bool)>,
}

impl<F: FnMut(&Standby)> Announce<F> {
    fn tell(&mut self, record: &LeaseRecord, sight: &Sight) {
        let now = (record.owner, sight.alive);
        if self.last.replace(now) != Some(now) {
            (self.tell)(&Standby { holder: record.clone(), alive: sight.alive });
        }
    }
}

async fn look_once<F: FnMut(&Standby)>(
    store: &Arc<dyn Store>,
    me: &Identity,
    watch: &mut Watch,
    standby: &mut Announce<F>,
) -> Result<Option<Held>, AcquireError> {
    let found = soon(&**store, current(&**store)).await?;
    if let Some(record) = &found {
        let now = Instant::now();
        let sight = watch.note(record, now);
        match verdict(record, me, sight, now) {
            Verdict::Take if record.file != me.file => {
                warn!(
                    file = me.file,
                    before = record.file,
                    before_host = record.host,
                    "the name is taken over from a rule file that was elsewhere"
                );
            }
            Verdict::Take => {}
            Verdict::StandBy => {
                standby.tell(record, sight);
                return Ok(None);
            }
            Verdict::OtherFile => {
                return Err(AcquireError::OtherFile {
                    name: me.name.clone(),
                    file: me.file.clone(),
                    host: me.host.clone(),
                    their_file: record.file.clone(),
                    their_host: record.host.clone(),
                });
            }
        }
    }
    let new = LeaseRecord::of(me, found.as_ref().map_or(1, |record| record.epoch + 1));
    let asked = Instant::now();
    let taken = soon(&**store, swap(&**store, found.as_ref(), &new)).await?;
    let alone = asked + found.as_ref().map_or(Duration::ZERO, |record| left(record, me));
    Ok(taken.then(|| Held::new(Arc::clone(store), new, asked, alone)))
}

/// How much longer, at the most, what a process that is known to be dead sent with its lease may be on
/// its way. The lease was renewed when its clock, which is ours too, showed `seen`.
fn left(record: &LeaseRecord, me: &Identity) -> Duration {
    if record.released || !me.knows_dead(record) {
        return Duration::ZERO;
    }
    let since = DateTime::now().timestamp_millis().saturating_sub(record.seen.timestamp_millis());
    TERM.saturating_sub(Duration::from_millis(u64::try_from(since).unwrap_or(0)))
}

/// Shuts out those who held the lease before, renewing it the while. `None` where it was lost on
/// the way.
async fn begin(
    held: Held,
    store: &dyn Store,
    cancel: &CancellationToken,
) -> Result<Option<Held>, AcquireError> {
    let shut_out = async {
        loop {
            match store.fence(held.epoch()).await {
                Err(error) if error.passes() => {
                    {
                        let error: &dyn std::error::Error = &error;
                        warn!(error, "the lease is taken, waiting for the checkpoint store");
                    }
                    sleep(LOOK_EVERY).await;
                }
                done => return done,
            }
        }
    };
    let done = tokio::select! {
        kept = held.keep(cancel) => match kept {
            Ok(()) => Err(AcquireError::Cancelled),
            Err(LeaseError::Lost { .. }) => return Ok(None),
            Err(LeaseError::Store(error)) => Err(error.into()),
        },
        done = shut_out => done.map_err(AcquireError::from),
    };
    match done {
        Ok(()) => {
            info!(epoch = held.epoch(), "the lease is taken");
            Ok(Some(held))
        }
        Err(error) => {
            if let Err(error) = held.release().await {
                let error: &dyn std::error::Error = &error;
                warn!(error, "the lease could not be given back and runs out by itself");
            }
            match error {
                // A newer epoch has been here although its lease is gone; the next one is higher.
                AcquireError::Store(StoreError::LostLease { .. }) => Ok(None),
                error => Err(error),
            }
        }
    }
}
