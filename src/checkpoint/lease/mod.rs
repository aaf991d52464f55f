//! One process at a time under a name.
//!
//! The lease is one record in the checkpoint store. Its holder sets it anew three times a term;
//! who stands by watches it and takes it when it has not changed for a whole term. Each measures
//! with its own monotonic clock, so clocks that differ do no harm. Every holder has an epoch above
//! all before it, and the store keeps out what has an older one: the lease makes two processes at
//! work unlikely, the epoch makes them harmless.
//!
//! # When a lease is taken
//! | the record | |
//! |---|---|
//! | is not there, or was given back at a clean stop | at once |
//! | is of a process of this host that has ended | at once: a restarted process does not wait for itself |
//! | has not changed for a term by our own clock | then |
//! | changes | never; we stand by |
//!
//! # The same name for another file
//! A record of another rule file is an error where that is no accident of moving: its holder is
//! alive, or its file is still there on this host (even if nobody runs it now: the two would take
//! each other's positions for their own in turn). A file that was moved, and a container that has
//! another host name each time, take over as above.
//!
//! # Losing it
//! A holder that could not renew for a term must not write ([`Held::is_valid`]), and goes on trying
//! to renew: while nobody else took the lease it is still its own, and a store that was away for
//! a while costs no restart. Once somebody did, [`Held::keep`] ends and so must the work.

mod acquire;
mod held;
mod identity;

use std::time::Duration;

use bson::{DateTime, Uuid};
use serde::{Deserialize, Serialize};

use super::{
    keys,
    records::{self, Record},
    store::{Store, StoreError, Table},
};

pub use self::{
    acquire::{AcquireError, Standby, acquire},
    held::{Held, LeaseError, Validity},
    identity::Identity,
};

/// How long a lease holds without being renewed.
pub const TERM: Duration = Duration::from_secs(5);
/// A holder renews so often.
const RENEW_EVERY: Duration = Duration::from_millis(1_600);
/// A holder takes its lease for lost so much earlier than others do, for what it had begun to send.
const MARGIN: Duration = Duration::from_millis(500);
/// How often one that stands by looks. Takes over at most `TERM` and two of these after the
/// holder's last sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one call to the store may take where a renewal is at stake.
const CALL: Duration = Duration::from_secs(2);

/// What the store holds of a lease.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// One holding of the lease, from taking it to losing it.
    pub owner: Uuid,
    /// Rises with every holding.
    pub epoch: u64,
    /// Rises with every renewal.
    pub renewed: u64,
    /// Given back: free for anybody.
    pub released: bool,
    /// The holder's host.
    pub host: String,
    /// The holder's rule file.
    pub file: String,
    /// The holder's process.
    pub pid: u32,
    /// See [`Identity::started`].
    pub started: String,
    /// See [`Identity::boot`].
    pub boot: String,
    /// When the lease was taken, by the holder's clock, for people.
    pub since: DateTime,
    /// When it was last renewed, by the holder's clock, for people.
    pub seen: DateTime,
}

impl Record for LeaseRecord {
    const TABLE: Table = Table::Leases;
    const KIND: &'static str = "a lease";
}

impl LeaseRecord {
    /// The record of a holding that begins now.
    fn of(identity: &Identity, epoch: u64) -> Self {
        let Identity { name: _, file, host, pid, started, boot } = identity.clone();
        let now = DateTime::now();
        Self {
            owner: Uuid::new(),
            epoch,
            renewed: 0,
            released: false,
            host,
            file,
            pid,
            started,
            boot,
            since: now,
            seen: now,
        }
    }

    /// The next sign of life.
    fn renew(&self) -> Self {
        Self { renewed: self.renewed + 1, seen: DateTime::now(), ..self.clone() }
    }

    /// The last one.
    fn release(&self) -> Self {
        Self { released: true, ..self.renew() }
    }

    #[cfg(test)]
    pub(crate) fn sample() -> Self {
        let date = DateTime::from_millis(1_795_227_029_123);
        Self {
            owner: Uuid::from_bytes([9; 16]),
            epoch: 3,
            renewed: 12,
            released: false,
            host: "host1".into(),
            file: "/srv/shop.yaml".into(),
            pid: 4711,
            started: "12345".into(),
            boot: "4c3a pid:[4026531836]".into(),
            since: date,
            seen: date,
        }
    }
}

/// Who holds the lease, or held it last; for a look from outside.
///
/// # Errors
/// As the store says.
pub async fn current(store: &dyn Store) -> Result<Option<LeaseRecord>, StoreError> {
    records::load(store, &keys::lease()).await
}

/// What a lease means to a process that would like to have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// It was given back, or its holder is known to have ended: it is taken at once.
    Free,
    /// It is another rule file's, which is still there: it is never taken.
    OtherFile,
    /// Its holder may be alive: it is waited out.
    Held,
}

/// What one look at the record tells. Whether its holder is alive, only watching it would.
pub fn claim(record: &LeaseRecord, me: &Identity) -> Claim {
    if me.sees_other_file(record) {
        Claim::OtherFile
    } else if is_over(record, me) {
        Claim::Free
    } else {
        Claim::Held
    }
}

/// Whether nobody holds it: it was given back, or its holder is known to have ended. Where this says no
/// the holder may be dead all the same.
pub fn is_over(record: &LeaseRecord, me: &Identity) -> bool {
    record.released || me.knows_dead(record)
}

/// Sets the lease record if it is `expected` now.
async fn swap(
    store: &dyn Store,
    expected: Option<&LeaseRecord>,
    new: &LeaseRecord,
) -> Result<bool, StoreError> {
    let expected = expected.map(Record::encode);
    store.swap(&keys::lease(), expected.as_deref(), &new.encode()).await
}

/// `call`, but no longer than [`CALL`].
async fn soon<T>(
    store: &dyn Store,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result,
        Err(late) => Err(StoreError::unavailable(store.place(), late)),
    }
}

#[cfg(test)]
mod tests;
