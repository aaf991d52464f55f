//! What the holder of a name last said of itself, for who looks at the store from elsewhere:
//! `mongosync status`.
//!
//! Written under the epoch, so that a process that was shut out does not speak for the next one. How
//! much its words still count, the lease tells: see [`super::lease`].

use bson::{DateTime, Document};
use serde::{Deserialize, Serialize};

use super::{
    keys,
    records::{Record, load, put},
    store::{Store, StoreError, Table},
};

/// One report.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ReportRecord {
    /// Of which holding it is: the lease has the same number.
    pub epoch: u64,
    /// When it was made, by the holder's clock.
    pub at: DateTime,
    /// The status object.
    pub said: Document,
}

impl Record for ReportRecord {
    const TABLE: Table = Table::Facts;
    const KIND: &'static str = "what a process said of itself";
}

/// Leaves a report, in the place of the one before. Needs the lease.
///
/// # Errors
/// Those of the store.
pub async fn leave(store: &dyn Store, report: &ReportRecord) -> Result<(), StoreError> {
    store.write(vec![put(keys::report(), report)]).await
}

/// The last report, whoever left it.
///
/// # Errors
/// Those of the store.
pub async fn last(store: &dyn Store) -> Result<Option<ReportRecord>, StoreError> {
    load(store, &keys::report()).await
}
