//! Builds the stages of each target, owns their tasks, and starts and stops them in order.
//!
//! The only part that knows all stages.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{rules::model::RuleFile, status::Status};

/// How a run differs from "copy, then follow for ever".
#[derive(Clone, Debug)]
pub struct Options {
    /// End once the copy is settled.
    pub copy_only: bool,
    /// Do not copy; go on from the stored position, or from now.
    pub changes_only: bool,
    /// Only these rules; all where empty. The names have been checked.
    pub rules: Vec<String>,
    /// How long the source (with `copy_only` the targets too) may take to be reached at the start.
    pub wait: Duration,
}

/// How a run ended well.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Documents that the copy delivered in this run.
    pub copied: u64,
    /// Dead letters that this run wrote.
    pub dead_letters: u64,
    /// Whether it was told to stop before it was done.
    pub stopped: bool,
}

/// Why a run ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source (with `--copy-only` a target too) was not reached in time.
    #[error("{what} was not reached within {}s", .wait.as_secs())]
    NotReached {
        /// `the source at HOST` or `target NAME`.
        what: String,
        /// The option `--wait`.
        wait: Duration,
        /// The last error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What the rules ask for can't be done with this source or target; a person must change one.
    #[error("{0}")]
    Refused(String),
    /// The change stream can't go on from the stored position.
    #[error(
        "the oplog of the source no longer reaches back to the stored position of target {target}"
    )]
    HistoryLost {
        /// Whose position.
        target: String,
    },
    /// `on_rejected` said to stop.
    #[error("target {target} has refused {count} documents, and on_rejected says to stop")]
    TooManyRejected {
        /// Which target.
        target: String,
        /// How many in this run.
        count: u64,
    },
    /// The checkpoint store.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::store::StoreError),
    /// A broken invariant; please report it.
    #[error("{0}")]
    Internal(String),
}

/// Runs a rule file until it is done (`copy_only`), told to stop, or can't go on.
///
/// On `stop` reading ends, what is in flight is finished within 10 s, and the position is stored.
///
/// # Errors
/// See [`Error`].
pub async fn run(
    _rules: Arc<RuleFile>,
    _options: Options,
    _status: Arc<Status>,
    _stop: CancellationToken,
) -> Result<Summary, Error> {
    Err(Error::Internal("placeholder".into()))
}
