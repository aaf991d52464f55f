//! Reads of the source that do not give up: what can pass is tried again, what a single document
//! causes is narrowed down to it, and what only a person can mend is shown and waited for.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Document, DocumentKey, Namespace, id::IdTypes},
    delivery::{
        Halt,
        ids::Probe,
        retry::{Backoff, pause},
    },
    source::{
        Patience, Source,
        budget::Budget,
        error::{Error as SourceError, Remedy},
        lookup::{LookedUp, Read},
    },
    status::TargetStatus,
};

/// The source, as one target's pipeline reads it.
pub struct Reading {
    /// The source.
    pub source: Source,
    /// Where trouble is shown.
    pub status: Arc<TargetStatus>,
    /// Ends every wait.
    pub stop: CancellationToken,
}

/// What a rule's read returned for one key.
#[derive(Debug)]
pub enum Fetched {
    /// The document.
    Present(Document),
    /// Nothing: it is gone, or the rule does not take it.
    Absent,
    /// Not read: what was read before it fills the memory that one lookup may take. To be asked
    /// again.
    Unread,
    /// The read fails on this document alone: the server's words.
    Failed(String),
}

/// The answer to a lookup of several keys.
#[derive(Debug)]
pub struct Answer {
    /// One a key, in order.
    pub fetched: Vec<Fetched>,
    /// The newest majority-committed time of the answers.
    pub operation_time: ClusterTime,
}

impl Reading {
    /// Calls the source until it answers or refuses. Waits are shown in the status.
    ///
    /// # Errors
    /// The source's own where waiting can't mend it; `None` where it was stopped.
    pub async fn insist<T, F>(
        &self,
        what: &'static str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, Option<SourceError>>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        self.insist_on(what, |_| call()).await
    }

    /// The same of a read that may take long: each call gets the source that it is to ask.
    ///
    /// # Errors
    /// As [`Self::insist`].
    pub async fn insist_on<T, F>(
        &self,
        what: &'static str,
        mut call: impl FnMut(Source) -> F,
    ) -> Result<T, Option<SourceError>>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        let mut backoff = SourceBackoff::default();
        loop {
            let answer = tokio::select! {
                answer = call(self.source.patient(backoff.patience)) => answer,
                () = self.stop.cancelled() => return Err(None),
            };
            match answer {
                Ok(value) => {
                    if backoff.has_waited() {
                        self.status.source_recovered();
                    }
                    return Ok(value);
                }
                Err(error) if error.remedy() == Remedy::Retry => {
                    self.hold_back(what, &error, &mut backoff).await.map_err(|()| None)?;
                }
                Err(error) => return Err(Some(error)),
            }
        }
    }

    /// Shows the trouble and waits; `Err` where it was stopped.
    pub async fn hold_back(
        &self,
        what: &'static str,
        error: &SourceError,
        backoff: &mut SourceBackoff,
    ) -> Result<(), ()> {
        let wait = backoff.next(error);
        self.status.source_waiting(&error.to_string());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match error.remedy() {
            Remedy::Reject => tracing::warn!(
                what,
                error = error as &dyn std::error::Error,
                wait_ms,
                "the source refuses what it is asked, trying again"
            ),
            Remedy::Retry | Remedy::HistoryLost => tracing::warn!(
                what,
                error = error as &dyn std::error::Error,
                wait_ms,
                "source does not answer, trying again"
            ),
        }
        if pause(wait, &self.stop).await { Ok(()) } else { Err(()) }
    }

    /// Waits before a document that the rule's read fails on is read again; `Err` where it was stopped. The
    /// source itself is in order, and is not said to be waited for.
    async fn doubt(
        &self,
        namespace: &Namespace,
        key: &DocumentKey,
        error: &SourceError,
        backoff: &mut SourceBackoff,
    ) -> Result<(), ()> {
        let wait = backoff.waits.next(None);
        tracing::debug!(
            %namespace,
            id = %key.display(),
            error = error as &dyn std::error::Error,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "the rule's read fails on a document, which is read again before it is refused"
        );
        if pause(wait, &self.stop).await { Ok(()) } else { Err(()) }
    }

    /// Reads documents by key, whatever it takes.
    ///
    /// Where the server fails on a batch but not on the empty one, a document is at fault; halves
    /// are tried until it stands alone. Where it fails on the empty one too (rights, a broken
    /// filter), no document is blamed: the trouble is shown, and waited for.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn fetch(
        &self,
        namespace: &Namespace,
        read: &Read,
        keys: &[DocumentKey],
        after: ClusterTime,
        budget: &Arc<Budget>,
    ) -> Result<Answer, Halt> {
        let mut fetched: Vec<Fetched> = keys.iter().map(|_| Fetched::Unread).collect();
        let mut operation_time = ClusterTime::ZERO;
        // The last is next, so the parts are answered in order.
        let mut parts = parts(keys);
        let mut backoff = SourceBackoff::default();
        let mut failures = 0;
        while let Some(part) = parts.pop() {
            let source = self.source.patient(backoff.patience);
            let lookup = source.lookup(namespace, read, &keys[part.clone()], after, budget);
            let answer = tokio::select! {
                answer = lookup => answer,
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            };
            match answer {
                Ok(LookedUp { documents, complete, operation_time: time }) => {
                    operation_time = operation_time.max(time);
                    for (index, document) in part.zip(documents) {
                        fetched[index] = match document {
                            Some(document) => Fetched::Present(document),
                            None if complete => Fetched::Absent,
                            None => Fetched::Unread,
                        };
                    }
                    if !complete {
                        break;
                    }
                    if backoff.has_waited() {
                        self.status.source_recovered();
                        backoff.reset();
                    }
                }
                Err(error)
                    if error.remedy() == Remedy::Reject
                        && self.is_sound(namespace, read, after, budget).await =>
                {
                    if part.len() == 1 && failures < SINGLE_TRIES {
                        // A cause that passes must not cost a document.
                        failures += 1;
                        let key = &keys[part.start];
                        parts.push(part);
                        self.doubt(namespace, key, &error, &mut backoff)
                            .await
                            .map_err(|()| Halt::Stopped)?;
                    } else if part.len() == 1 {
                        failures = 0;
                        fetched[part.start] = Fetched::Failed(error.to_string());
                    } else {
                        let middle = part.start + part.len() / 2;
                        parts.push(middle..part.end);
                        parts.push(part.start..middle);
                    }
                }
                Err(error) => {
                    parts.push(part);
                    self.hold_back("lookup", &error, &mut backoff)
                        .await
                        .map_err(|()| Halt::Stopped)?;
                }
            }
        }
        Ok(Answer { fetched, operation_time })
    }

    /// Whether the read itself is in order: then it is a document that makes it fail.
    pub async fn is_sound(
        &self,
        namespace: &Namespace,
        read: &Read,
        after: ClusterTime,
        budget: &Arc<Budget>,
    ) -> bool {
        let empty = self.source.lookup(namespace, read, &[], after, budget);
        self.stop.run_until_cancelled(empty).await.is_some_and(|answer| answer.is_ok())
    }
}

/// The keys as one part; each on its own where two have the same `_id`, which happens on a sharded
/// collection only.
fn parts(keys: &[DocumentKey]) -> Vec<std::ops::Range<usize>> {
    let distinct: HashSet<DocumentKey> =
        keys.iter().filter_map(|key| DocumentKey::from_id(key.id()).ok()).collect();
    if distinct.len() == keys.len() {
        return if keys.is_empty() { Vec::new() } else { std::iter::once(0..keys.len()).collect() };
    }
    (0..keys.len()).rev().map(|index| index..index + 1).collect()
}

/// How often a read of one document is tried before the document is blamed.
const SINGLE_TRIES: u32 = 3;

/// How one read goes on after errors.
pub struct SourceBackoff {
    waits: Backoff,
    /// How long it waits for replies.
    pub patience: Patience,
}

impl Default for SourceBackoff {
    /// The driver itself waits for a server to be selected; this only keeps from spinning.
    fn default() -> Self {
        let waits = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self { waits, patience: Patience::FIRST }
    }
}

impl SourceBackoff {
    /// The wait before the next try.
    fn next(&mut self, error: &SourceError) -> Duration {
        self.patience = self.patience.after(error);
        self.waits.next(None)
    }

    /// Whether something has failed since the last success.
    fn has_waited(&self) -> bool {
        self.waits.tries() > 0
    }

    /// Something went through.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[async_trait]
impl Probe for Reading {
    async fn id_types(&self, namespace: &Namespace) -> Result<IdTypes, Halt> {
        let probed = self.insist_on("probing _id types", |source| async move {
            source.id_types(namespace).await
        });
        probed.await.map_err(|error| match error {
            None => Halt::Stopped,
            Some(error) => Halt::Source(format!("{namespace} can't be read: {error}")),
        })
    }
}
