//! Builds the stages of each target, owns their tasks, and starts and stops them in order.
//!
//! The only part that knows all stages.

mod aligning;
mod containers;
mod copying;
mod demand;
mod events;
mod following;
mod holders;
mod letters;
mod lookups;
mod mending;
mod newcomers;
mod oplog;
mod orders;
pub(crate) mod origins;
mod plan;
mod reading;
mod reporting;
mod rule_set;
mod sampling;
mod settling;
mod succession;
mod sweeping;
mod target_pipeline;
mod targets;
mod verifying;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::Namespace,
    checkpoint::{
        lease::{self, AcquireError, Held, Identity, LeaseError},
        open,
        store::{Store, StoreError},
    },
    delivery::{
        Halt,
        ids::Decided,
        retry::{Backoff, pause},
    },
    rules::model::{NamespacePattern, RuleFile},
    source::{
        Source,
        error::{Error as SourceError, Remedy},
        namespaces::Kind,
    },
    status::{Holder, Status},
    target::{Target, dry_run::Show},
};

pub use sampling::{Chosen, Fate, Sample, sample};
pub use verifying::{
    Difference, Kind as DifferenceKind, Progress, Report, RuleReport, TargetReport, Verify, verify,
};

use rule_set::RuleSet;
use target_pipeline::{BUDGET, TargetPipeline};

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
    /// Show what would be sent rather than send it.
    pub dry_run: Option<DryRun>,
    /// What the program brings itself.
    pub own: Own,
}

/// What a program brings that has mongosync as a library; nothing by default.
#[derive(Clone, Default)]
pub struct Own {
    /// What stands behind each target of the kind [`TargetKind::Own`](crate::rules::model::TargetKind),
    /// by its name. All pipelines of a target share it, and each start of one.
    pub targets: BTreeMap<String, Arc<dyn Target>>,
    /// Takes the stead of the rule file's `checkpoint`.
    pub store: Option<Arc<dyn Store>>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.targets.keys().collect();
        let mut told = f.debug_struct("Own");
        told.field("targets", &names).field("store", &self.store.is_some()).finish()
    }
}

/// A run that leaves no trace: nothing is sent, and nothing is stored but in `store`.
#[derive(Clone)]
pub struct DryRun {
    /// Takes the stead of the rule file's `checkpoint`. A run begins where this says: at the
    /// beginning, where it is empty.
    pub store: Arc<dyn Store>,
    /// Gets what would be sent.
    pub show: Show,
}

impl fmt::Debug for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DryRun").finish_non_exhaustive()
    }
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
        "{}, and on_history_lost says to stop: `on_history_lost: resync` copies its rules again, \
         `now` goes on without what was missed",
        lost(.target, .position, *.another_source)
    )]
    HistoryLost {
        /// Whose position.
        target: String,
        /// The position.
        position: crate::change::ClusterTime,
        /// Whether the source is another one than the position's; else its oplog begins later.
        another_source: bool,
    },
    /// `on_rejected` said to stop.
    #[error(
        "target {target} has refused {count} document{}, and on_rejected says to stop",
        if *.count == 1 { "" } else { "s" }
    )]
    TooManyRejected {
        /// Which target.
        target: String,
        /// How many in this run.
        count: u64,
    },
    /// The checkpoint store.
    #[error(transparent)]
    Checkpoint(#[from] StoreError),
    /// Another process has taken over.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// It was told to stop before it was done. Not an error for the one who told it.
    #[error("stopped")]
    Stopped,
    /// A broken invariant; please report it.
    #[error("{0}")]
    Internal(String),
}

/// Why a position is of no more use.
fn lost(target: &str, position: &crate::change::ClusterTime, another_source: bool) -> String {
    match another_source {
        true => format!(
            "the source is another replica set or cluster than the one that target {target} has followed \
             up to {position}"
        ),
        false => format!(
            "the oplog of the source no longer reaches back to {position}, the position of target {target}"
        ),
    }
}

impl From<Halt> for Error {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Stopped => Self::Stopped,
            Halt::Store(error) => Self::Checkpoint(error),
            Halt::TooManyRejected { target, count } => Self::TooManyRejected { target, count },
            Halt::Source(words) => Self::Refused(words),
        }
    }
}

/// Runs a rule file until it is done (`copy_only`), told to stop, or can't go on.
///
/// On `stop` reading ends, what is in flight is finished within 10 s, the position is stored, and
/// the lease is given back.
///
/// # Errors
/// See [`Error`].
pub async fn run(
    rules: Arc<RuleFile>,
    options: Options,
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<Summary, Error> {
    match work(rules, options, status, &stop).await {
        Err(Error::Stopped) => Ok(Summary { stopped: true, ..Summary::default() }),
        ended => ended,
    }
}

async fn work(
    rules: Arc<RuleFile>,
    options: Options,
    status: Arc<Status>,
    stop: &CancellationToken,
) -> Result<Summary, Error> {
    let source = reach_source(&rules, options.wait, stop).await?;
    let store = match (&options.dry_run, &options.own.store) {
        (Some(dry_run), _) => dry_run.store.clone(),
        (None, Some(own)) => own.clone(),
        (None, None) => open::open(&rules, Some(source.client())).await?,
    };
    let held = hold_name(&rules, &store, &status, stop).await?;
    let stopping = stop.child_token();
    let given_up = CancellationToken::new();
    let mut reporter = reporting::Reporter::new(&*store, &status, held.epoch());
    let (ended, kept, (), ()) = tokio::join!(
        async {
            let ended =
                work_on_targets(&rules, &options, &source, &store, &status, &held, &stopping);
            let ended = ended.await;
            given_up.cancel();
            stopping.cancel();
            ended
        },
        async {
            let kept = held.keep(&given_up).await;
            // A lease that is lost ends everything; what is in flight is harmless or fenced off.
            stopping.cancel();
            kept
        },
        oplog::watch(&source, &status, &stopping),
        reporter.keep(&given_up),
    );
    kept?;
    reporter.end().await;
    if let Err(error) = held.release().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the lease could not be given back; the next start waits for it to run out"
        );
    }
    ended
}

/// Runs the pipeline of every target that has a rule in this run.
async fn work_on_targets(
    rules: &Arc<RuleFile>,
    options: &Options,
    source: &Source,
    store: &Arc<dyn Store>,
    status: &Arc<Status>,
    held: &Held,
    stopping: &CancellationToken,
) -> Result<Summary, Error> {
    let views = views(rules, source, stopping).await?;
    let mut pipelines = JoinSet::new();
    let mut orders = orders::Pipelines::new();
    let id_types = Decided::default();
    for index in 0..rules.targets.len() {
        let name = &rules.targets[index].name;
        let tells = |rule: &str| {
            rules.deliveries(name).any(|(own, _)| own.name == rule && own.events.is_some())
        };
        events::forget_removed_rules(store, name, tells, stopping).await?;
        let sets: Vec<_> = rules
            .pipelines(name)
            .into_iter()
            .map(|(events_of, _)| {
                let set = RuleSet::new(
                    rules,
                    name,
                    open::hidden_database(rules),
                    |rule| {
                        let selected = options.rules.is_empty()
                            || options.rules.iter().any(|selected| selected == rule);
                        selected
                            && match events_of {
                                Some(own) => own == rule,
                                None => !tells(rule),
                            }
                    },
                    |namespace| views.contains(namespace),
                );
                (events_of.map(str::to_owned), set)
            })
            .filter(|(_, set)| !set.is_empty())
            .collect();
        let telling = sets.iter().filter(|(events_of, _)| events_of.is_some()).count();
        let owner = Arc::new(OnceCell::new());
        for (events_of, set) in sets {
            let (give, take) = mpsc::channel(ORDERS);
            let budget = budget(events_of.is_some(), telling);
            let pipelines_of_target = orders.entry(name.clone()).or_default();
            pipelines_of_target.push(orders::Pipeline { events_of: events_of.clone(), give });
            let pipeline = TargetPipeline {
                file: rules.clone(),
                index,
                options: options.clone(),
                source: source.clone(),
                events_of,
                rules: Arc::new(set),
                budget,
                owner: owner.clone(),
                id_types: id_types.clone(),
                store: store.clone(),
                status: status.clone(),
                validity: held.validity(),
                orders: take,
            };
            pipelines.spawn(pipeline.run(stopping.clone()));
        }
    }
    let ended = CancellationToken::new();
    let (summary, ()) = tokio::join!(
        async {
            let summary = supervise(&mut pipelines, stopping).await;
            ended.cancel();
            summary
        },
        orders::attend(
            rules.clone(),
            store.clone(),
            orders,
            orders::Until { stopping: stopping.clone(), ended: ended.clone() },
        ),
    );
    summary
}

/// What a pipeline of one `events` rule has where a target has many.
const LEAST_BUDGET: usize = 4 << 20;

/// What a pipeline has for documents, in bytes: rules that deliver documents what they have without
/// others; the target's `events` rules, of which so many tell it, share as much.
fn budget(of_events: bool, telling: usize) -> usize {
    match of_events {
        false => BUDGET,
        true => (BUDGET / telling.max(1)).max(LEAST_BUDGET),
    }
}

/// Orders that may wait for one pipeline.
const ORDERS: usize = 4;

/// Waits for every target's pipeline; one that can't go on ends the others.
async fn supervise(
    pipelines: &mut JoinSet<Result<Summary, Error>>,
    stopping: &CancellationToken,
) -> Result<Summary, Error> {
    let mut total = Summary::default();
    let mut failure = None;
    while let Some(ended) = pipelines.join_next().await {
        let ended = ended.unwrap_or_else(|error| {
            Err(Error::Internal(format!("a task has panicked; please report it: {error}")))
        });
        match ended {
            Ok(summary) => {
                total.copied += summary.copied;
                total.dead_letters += summary.dead_letters;
                total.stopped |= summary.stopped;
                // Whatever stopped one of them: the others were stopped too, or are to be.
                if summary.stopped {
                    stopping.cancel();
                }
            }
            Err(error) => {
                stopping.cancel();
                // The first one is the cause.
                failure.get_or_insert(error);
            }
        }
    }
    failure.map_or(Ok(total), Err)
}

/// What to do about a login that is refused.
const LOGIN: &str = "look at user, password and `authSource` in the connection string";

async fn reach_source(
    rules: &RuleFile,
    wait: Duration,
    stop: &CancellationToken,
) -> Result<Source, Error> {
    let deadline = Instant::now() + wait;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    // A user may be made, or a password changed, in this very moment: it is told at once all the same.
    let mut told = false;
    loop {
        let tried = tokio::select! {
            tried = Source::connect(&rules.source, wait) => tried,
            () = stop.cancelled() => return Err(Error::Stopped),
        };
        let error = match tried {
            Ok(source) => return Ok(source),
            Err(error) => error,
        };
        if error.remedy() != Remedy::Retry {
            return Err(Error::Refused(match error {
                SourceError::Refused(words) => words,
                error => format!("the source can't be used: {error}"),
            }));
        }
        let pausing = backoff.next(None);
        let denied = error.is_denied();
        if Instant::now() + pausing >= deadline {
            let source = match denied {
                true => format!("{error}: {LOGIN}").into(),
                false => error.into(),
            };
            return Err(Error::NotReached { what: "the source".into(), wait, source });
        }
        match denied && !std::mem::replace(&mut told, denied) {
            true => tracing::warn!(
                error = %error,
                "the source lets nobody in with this login, trying again: {LOGIN}"
            ),
            false => tracing::info!(error = %error, "source not reached yet, trying again"),
        }
        if !pause(pausing, stop).await {
            return Err(Error::Stopped);
        }
    }
}

/// Takes the lease of the rule file's name, or stands by until it can be taken.
async fn hold_name(
    rules: &RuleFile,
    store: &Arc<dyn Store>,
    status: &Arc<Status>,
    stop: &CancellationToken,
) -> Result<Held, Error> {
    let me = Identity::of_this_process(&rules.name, &rules.path);
    let told = status.clone();
    let standby = move |standby: &lease::Standby| {
        told.standby(true);
        told.held_by(holder(&standby.holder));
        tracing::info!(
            host = standby.holder.host,
            pid = standby.holder.pid,
            alive = standby.alive,
            "standing by: another process holds the name"
        );
    };
    let held =
        lease::acquire(store.clone(), &me, standby, stop).await.map_err(|error| match error {
            AcquireError::Cancelled => Error::Stopped,
            AcquireError::Store(error) => Error::Checkpoint(error),
            error @ AcquireError::OtherFile { .. } => Error::Refused(error.to_string()),
        })?;
    status.held_by(holder(&held.record()));
    status.standby(false);
    Ok(held)
}

/// The process that a lease names.
fn holder(lease: &lease::LeaseRecord) -> Holder {
    let since = lease.since.try_to_rfc3339_string().unwrap_or_default();
    Holder { host: lease.host.clone(), pid: lease.pid, since }
}

/// Which of the namespaces that are named exactly are views.
async fn views(
    rules: &RuleFile,
    source: &Source,
    stop: &CancellationToken,
) -> Result<BTreeSet<Namespace>, Error> {
    let named: BTreeSet<&Namespace> = rules
        .rules
        .iter()
        .flat_map(|rule| &rule.namespaces.include)
        .filter_map(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => Some(namespace),
            _ => None,
        })
        .collect();
    let databases: BTreeSet<&str> = named.iter().map(|namespace| namespace.database()).collect();
    let mut views = BTreeSet::new();
    for database in databases {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let found = loop {
            let listed = tokio::select! {
                listed = source.collections(database) => listed,
                () = stop.cancelled() => return Err(Error::Stopped),
            };
            match listed {
                Ok(found) => break found,
                Err(error) if error.remedy() == Remedy::Retry => {
                    tracing::warn!(error = %error, "collections can't be listed, trying again");
                    if !pause(backoff.next(None), stop).await {
                        return Err(Error::Stopped);
                    }
                }
                Err(error) => {
                    return Err(Error::Refused(format!(
                        "the collections of {database} can't be listed: {error}"
                    )));
                }
            }
        };
        views.extend(
            found
                .into_iter()
                .filter(|found| found.kind == Kind::View && named.contains(&found.namespace))
                .map(|found| found.namespace),
        );
    }
    Ok(views)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_rules_take_nothing_from_documents() {
        for (of_events, telling, expected) in [
            (false, 0, BUDGET),
            (false, 15, BUDGET),
            (true, 1, BUDGET),
            (true, 2, BUDGET / 2),
            (true, 15, LEAST_BUDGET),
        ] {
            assert_eq!(budget(of_events, telling), expected);
        }
    }
}
