//! A lease that is held: renewing it, knowing whether it still counts, giving it back.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{LeaseRecord, MARGIN, RENEW_EVERY, TERM, current, soon, swap};
use crate::checkpoint::store::{Store, StoreError};

/// The pause after a renewal that did not go through.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// Why a lease is no longer held.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has taken it.
    #[error("{host} has taken the lease, for {file}")]
    Lost {
        /// Where the new holder runs.
        host: String,
        /// The new holder's rule file.
        file: String,
    },
    /// The store refuses for good.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that this process holds. Dropping it leaves the lease to run out.
pub struct Held {
    store: Arc<dyn Store>,
    /// As it is in the store, so far as is known.
    record: Mutex<LeaseRecord>,
    epoch: u64,
    validity: Validity,
}

/// Tells at any time whether a lease counts. Cheap to clone and to ask, for all who write.
#[derive(Clone)]
pub struct Validity(Arc<Span>);

struct Span {
    began: Instant,
    /// See [`Validity::alone`].
    alone: Instant,
    /// In nanoseconds after `began`.
    ends: AtomicU64,
    renewed: Notify,
}

impl Validity {
    fn new(asked: Instant, alone: Instant) -> Self {
        let (ends, renewed) = (AtomicU64::new(0), Notify::new());
        let validity = Self(Arc::new(Span { began: asked, alone, ends, renewed }));
        validity.renew(asked);
        validity
    }

    /// The lease counts from the moment before it was asked for: nobody who watches it can have
    /// seen it later than that and yet be done waiting earlier.
    fn renew(&self, asked: Instant) {
        let ends = asked + (TERM - MARGIN) - self.0.began;
        self.0.ends.store(ends.as_nanos() as u64, Ordering::SeqCst);
        self.0.renewed.notify_waiters();
    }

    fn end(&self) {
        self.0.ends.store(0, Ordering::SeqCst);
    }

    /// Whether the lease counts now, by this process's monotonic clock. To be asked before each
    /// write to a target: a process that was paused finds out here.
    pub fn is_valid(&self) -> bool {
        let ends = Duration::from_nanos(self.0.ends.load(Ordering::SeqCst));
        self.0.began.elapsed() < ends
    }

    /// From when to when it counts, unless it is renewed before: what is sent now is to have no effect
    /// after it.
    pub fn span(&self) -> (Instant, Instant) {
        let until = self.0.began + Duration::from_nanos(self.0.ends.load(Ordering::SeqCst));
        (until.checked_sub(TERM - MARGIN).unwrap_or(until), until)
    }

    /// What whoever held it before sent with it is over then.
    pub fn alone(&self) -> Instant {
        self.0.alone
    }

    /// Waits until the lease counts; for ever where it was lost, so it is waited for together with
    /// a cancellation.
    pub async fn valid(&self) {
        loop {
            let renewed = self.0.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            if self.is_valid() {
                return;
            }
            renewed.await;
        }
    }
}

impl Held {
    /// `alone`: see [`Validity::alone`].
    pub(super) fn new(
        store: Arc<dyn Store>,
        record: LeaseRecord,
        asked: Instant,
        alone: Instant,
    ) -> Self {
        let epoch = record.epoch;
        Self { store, record: Mutex::new(record), epoch, validity: Validity::new(asked, alone) }
    }

    /// The epoch of this holding.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// For the tasks that write.
    pub fn validity(&self) -> Validity {
        self.validity.clone()
    }

    /// See [`Validity::is_valid`].
    pub fn is_valid(&self) -> bool {
        self.validity.is_valid()
    }

    /// What the store holds of it, so far as is known.
    pub fn record(&self) -> LeaseRecord {
        self.record.lock().expect("nothing panics while it holds the record").clone()
    }

    fn set_record(&self, record: LeaseRecord) {
        *self.record.lock().expect("nothing panics while it holds the record") = record;
    }

    /// Renews the lease until `cancel`. To be run as long as the lease is held, by one task. While
    /// the store is away it goes on trying; see [`super`].
    ///
    /// # Errors
    /// `Lost` where somebody else has taken it, `Store` where the store is broken.
    pub async fn keep(&self, cancel: &CancellationToken) -> Result<(), LeaseError> {
        match cancel.run_until_cancelled(self.renew_for_ever()).await {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn renew_for_ever(&self) -> LeaseError {
        let mut next = Instant::now() + RENEW_EVERY;
        let mut away = false;
        loop {
            sleep_until(next).await;
            let asked = Instant::now();
            match self.renew(asked).await {
                Ok(()) => {
                    if std::mem::take(&mut away) {
                        info!("the lease is renewed again");
                    }
                    next = asked + RENEW_EVERY;
                }
                Err(LeaseError::Store(error)) if error.passes() => {
                    if !std::mem::replace(&mut away, true) {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "the lease could not be renewed"
                        );
                    }
                    next = Instant::now() + RETRY_AFTER;
                }
                Err(error) => return error,
            }
        }
    }

    async fn renew(&self, asked: Instant) -> Result<(), LeaseError> {
        let record = self.record();
        let new = record.renew();
        if soon(&*self.store, swap(&*self.store, Some(&record), &new)).await? {
            self.set_record(new);
            self.validity.renew(asked);
            return Ok(());
        }
        self.look(&record).await?;
        Ok(())
    }

    /// The record is not what it was taken for: another's, or ours by a call whose answer was lost.
    async fn look(&self, record: &LeaseRecord) -> Result<(), LeaseError> {
        match soon(&*self.store, current(&*self.store)).await? {
            Some(found) if found.owner == record.owner => self.set_record(found),
            Some(found) => {
                self.validity.end();
                return Err(LeaseError::Lost { host: found.host, file: found.file });
            }
            None => {
                // Somebody has emptied the store. Nobody else holds anything, so neither do we
                // lose it; who comes next must find us.
                warn!("the lease has gone from the checkpoint store and is put back");
                let asked = Instant::now();
                let new = record.renew();
                if soon(&*self.store, swap(&*self.store, None, &new)).await? {
                    self.set_record(new);
                    self.validity.renew(asked);
                }
            }
        }
        Ok(())
    }

    /// Gives the lease back, so that the next one takes it at once. After the last write, and after
    /// `keep` has ended. From here on the lease does not count, whatever comes of the call.
    ///
    /// # Errors
    /// As the store says; the lease then runs out by itself.
    pub async fn release(self) -> Result<(), StoreError> {
        self.validity.end();
        let give_back = async {
            loop {
                let record = self.record();
                if swap(&*self.store, Some(&record), &record.release()).await? {
                    return Ok(());
                }
                match current(&*self.store).await? {
                    Some(found) if found.owner == record.owner => self.set_record(found),
                    _ => return Ok(()),
                }
            }
        };
        soon(&*self.store, give_back).await
    }
}
