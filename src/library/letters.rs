//! What was refused for good, as a program reads it.

use std::{collections::VecDeque, fmt, sync::Arc};

use bson::{DateTime, RawDocumentBuf};

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys::letter_id,
        letters::letters,
        records::DeadLetterRecord,
        store::{RecordKey, Store},
    },
    status::masked,
};

use super::Error;

/// Read at a time: each may hold an event of 8 MiB.
const PAGE: usize = 16;

/// A document or an event that was refused for good.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// What it is called: it depends on target, rule, namespace and document alone.
    pub id: String,
    /// The target that it was for.
    pub target: String,
    /// The rule that it came by.
    pub rule: String,
    /// Where the document lives in the source: `db.collection`.
    pub namespace: String,
    /// The document key.
    pub key: RawDocumentBuf,
    /// The document key as text.
    pub key_text: String,
    /// Where it was to be put, in words; `None` where it did not come so far.
    pub place: Option<String>,
    /// What has refused it: `target`, `transform` and the like.
    pub reason: String,
    /// Why, in the other side's words. Passwords in connection strings are masked.
    pub words: String,
    /// When it was refused for the first time.
    pub first_seen: DateTime,
    /// When it was last refused.
    pub last_seen: DateTime,
    /// How often it was refused.
    pub attempts: u32,
    /// The time of the change that was refused; zero from the copy.
    pub cluster_time: ClusterTime,
    /// The event, in `events` delivery and where it has no more than 8 MiB.
    pub event: Option<RawDocumentBuf>,
}

impl DeadLetter {
    fn new(key: &RecordKey, record: DeadLetterRecord) -> Self {
        let DeadLetterRecord { target, rule, namespace, key_text, place, reason, words, .. } =
            record;
        Self {
            id: letter_id(key),
            target,
            rule,
            namespace,
            key: record.key,
            key_text,
            place,
            reason,
            words: masked(&words).into_owned(),
            first_seen: record.first_seen,
            last_seen: record.last_seen,
            attempts: record.attempts,
            cluster_time: record.cluster_time,
            event: record.event,
        }
    }
}

/// The dead letters of a run, one by one. What is refused or settled meanwhile may be among them or not.
pub struct DeadLetters {
    store: Arc<dyn Store>,
    page: VecDeque<(RecordKey, DeadLetterRecord)>,
    after: Option<RecordKey>,
}

impl DeadLetters {
    pub(super) fn of(store: Arc<dyn Store>) -> Self {
        Self { store, page: VecDeque::new(), after: None }
    }

    /// The next one; `None` behind the last. A few lie in memory at a time. Where it is dropped, or fails,
    /// nothing is passed over.
    ///
    /// # Errors
    /// `Store`
    pub async fn next(&mut self) -> Result<Option<DeadLetter>, Error> {
        if self.page.is_empty() {
            self.page = letters(&*self.store, self.after.as_ref(), PAGE).await?.into();
        }
        let Some((key, record)) = self.page.pop_front() else { return Ok(None) };
        let letter = DeadLetter::new(&key, record);
        self.after = Some(key);
        Ok(Some(letter))
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}
