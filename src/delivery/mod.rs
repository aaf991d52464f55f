//! From a change to an acknowledged write: lanes, shaping, batches, retries, dead letters.
//!
//! Knows the target only by its trait, and the source not at all.

pub mod aside;
pub mod batch;
pub mod contested;
pub mod dead_letters;
pub mod ids;
pub mod lane;
pub mod places;
pub mod request;
pub mod retry;
pub mod shape;
mod slice;
pub mod spots;
mod tell;
pub mod trial;
pub mod writer;

#[cfg(test)]
mod scripted;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::store::{Store, StoreError, Write},
    delivery::retry::{Backoff, pause},
};

/// Why a task of the delivery ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Halt {
    /// It was told to stop. What it held is unsettled, and will be read again.
    #[error("stopped")]
    Stopped,
    /// The checkpoint store refuses for good.
    #[error(transparent)]
    Store(StoreError),
    /// `on_rejected` said to stop.
    #[error(
        "target {target} has refused {count} document{}, and on_rejected says to stop",
        if *.count == 1 { "" } else { "s" }
    )]
    TooManyRejected {
        /// Which target.
        target: String,
        /// In this run.
        count: u64,
    },
    /// What a lane needs to know of the source can't be had.
    #[error("{0}")]
    Source(String),
}

/// Calls the store until it answers: a store that is away is waited for, as a target is.
///
/// # Errors
/// `Stopped`, and `Store` for what no waiting can mend.
pub async fn insist<T, F>(stop: &CancellationToken, mut call: impl FnMut() -> F) -> Result<T, Halt>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match call().await {
            Ok(value) => return Ok(value),
            Err(error @ StoreError::Unavailable { .. }) => {
                let wait = backoff.next(None);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    wait_ms = wait.as_millis() as u64,
                    "checkpoint store can't be used, trying again"
                );
                if !pause(wait, stop).await {
                    return Err(Halt::Stopped);
                }
            }
            Err(error) => return Err(Halt::Store(error)),
        }
    }
}

/// [`insist`] for writes.
///
/// # Errors
/// As there.
pub async fn insist_on_writing(
    store: &dyn Store,
    writes: Vec<Write>,
    stop: &CancellationToken,
) -> Result<(), Halt> {
    if writes.is_empty() {
        return Ok(());
    }
    insist(stop, || store.write(writes.clone())).await
}
