//! What was refused for good: kept durably with the reason, before the position may pass it.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    change::RuleIndex,
    checkpoint::{
        keys,
        records::{DeadLetterRecord, Record, put, removal},
        store::{RecordKey, Store, Table},
    },
    rules::model::OnRejected,
};

use super::{Halt, batch::Origin, insist, insist_on_writing, lane::Subject};

/// Where a document was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// MongoDB could not evaluate the rule's read on it.
    Source,
    /// The transform failed on it, or called `fail()`.
    Transform,
    /// It has no place: a template that can't be filled, or two documents in one place.
    Place,
    /// The target refused it.
    Target,
}

impl Stage {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Place => "place",
            Self::Target => "target",
        }
    }
}

/// One refused document.
#[derive(Clone, Debug)]
pub struct Letter {
    origin: Arc<Origin>,
    stage: Stage,
    words: String,
    place: Option<String>,
    owed: bool,
}

impl Letter {
    /// `words` are the other side's own.
    pub fn new(origin: Arc<Origin>, stage: Stage, words: String, place: Option<String>) -> Self {
        let mut words = words;
        words.truncate(words.floor_char_boundary(MOST_WORDS));
        Self { origin, stage, words, place, owed: false }
    }

    /// Whether it is about a removal that is owed: one that a letter told of before. It takes that
    /// one's stead, and is no new refusal.
    pub fn owed(self, owed: bool) -> Self {
        Self { owed, ..self }
    }

    /// See [`Self::owed`].
    pub fn is_owed(&self) -> bool {
        self.owed
    }

    /// Why it was refused.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Where the document came from.
    pub fn origin(&self) -> &Arc<Origin> {
        &self.origin
    }
}

/// The dead letters of one target.
pub struct DeadLetters {
    store: Arc<dyn Store>,
    target: String,
    rules: Vec<Arc<str>>,
    policy: OnRejected,
    /// Hashes of the keys of the records that there are, so that a success costs no read. Two keys
    /// with one hash cost a removal of nothing.
    known: Mutex<HashSet<u64>>,
    hasher: RandomState,
    /// Those that a person has asked to deliver again, for as long as that lasts.
    asked_for: Mutex<HashSet<RecordKey>>,
    /// When the log last told of letters.
    told: Mutex<Option<Instant>>,
    count: AtomicU64,
}

/// Bytes of the other side's words that are kept.
const MOST_WORDS: usize = 4_096;
/// How often the log tells of letters.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Keys read at once at the start.
const PAGE: usize = 1_000;

impl DeadLetters {
    /// Reads which dead letters there are of these rules, and nothing of what is in them: each may hold an
    /// event of 8 MiB.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn load(
        store: Arc<dyn Store>,
        target: &str,
        rules: Vec<Arc<str>>,
        policy: OnRejected,
        stop: &CancellationToken,
    ) -> Result<Self, Halt> {
        let hasher = RandomState::new();
        let mut known = HashSet::new();
        for rule in &rules {
            let prefix = keys::dead_letters(target, rule);
            let mut after = None;
            loop {
                let scan = || store.scan_keys(Table::DeadLetters, &prefix, after.as_ref(), PAGE);
                let found = insist(stop, scan).await?;
                let complete = found.len() < PAGE;
                known.extend(found.iter().map(|key| hasher.hash_one(key)));
                after = found.into_iter().next_back();
                if complete {
                    break;
                }
            }
        }
        Ok(Self {
            store,
            target: target.to_owned(),
            rules,
            policy,
            known: Mutex::new(known),
            hasher,
            asked_for: Mutex::default(),
            told: Mutex::new(None),
            count: AtomicU64::new(0),
        })
    }

    /// How many are stored now.
    pub fn stored(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many this run has written.
    pub fn written(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there is a letter of this rule's document, as far as hashes tell.
    pub fn has(&self, rule: &str, document: &Subject) -> bool {
        let Subject { namespace, key } = document;
        let key = keys::dead_letter(&self.target, rule, namespace.as_str(), key.canonical());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&self.hasher.hash_one(key))
    }

    /// Whether there is a letter of this document, of any rule of the run, as far as hashes tell.
    pub fn has_any(&self, document: &Subject) -> bool {
        self.rules.iter().any(|rule| self.has(rule, document))
    }

    /// From now on these are asked for, or no more.
    pub fn ask_for(&self, letters: &[RecordKey], asked: bool) {
        let mut asked_for = self.asked_for.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            true => asked_for.extend(letters.iter().cloned()),
            false => asked_for.retain(|letter| !letters.contains(letter)),
        }
    }

    /// Whether the letter of this is asked for.
    pub fn is_asked_for(&self, origin: &Origin) -> bool {
        let asked_for = self.asked_for.lock().unwrap_or_else(PoisonError::into_inner);
        !asked_for.is_empty() && asked_for.contains(&self.key(origin))
    }

    fn key(&self, origin: &Origin) -> RecordKey {
        let rule = &self.rules[usize::from(origin.rule.0)];
        let (namespace, document) = (origin.namespace.as_str(), origin.key.canonical());
        match &origin.event {
            None => keys::dead_letter(&self.target, rule, namespace, document),
            Some(event) => {
                keys::dead_event(&self.target, rule, namespace, document, event.id.as_bytes())
            }
        }
    }

    /// Stores letters durably. A second letter of the same document and rule, or of the same event,
    /// takes the stead of the first and counts its tries.
    ///
    /// # Errors
    /// `TooManyRejected` where the target's policy says so, once the letters are stored.
    pub async fn bury(&self, letters: Vec<Letter>, stop: &CancellationToken) -> Result<(), Halt> {
        if letters.is_empty() {
            return Ok(());
        }
        let count = letters.iter().filter(|letter| !letter.owed).count() as u64;
        let mut latest: HashMap<RecordKey, Letter> = HashMap::with_capacity(letters.len());
        for letter in letters {
            latest.insert(self.key(&letter.origin), letter);
        }
        let keys: Vec<_> = latest.keys().cloned().collect();
        let earlier = insist(stop, || self.store.get_many(Table::DeadLetters, &keys)).await?;
        let now = bson::DateTime::now();
        let mut writes = Vec::with_capacity(keys.len());
        for (key, earlier) in keys.iter().zip(earlier) {
            let Some(letter) = latest.get(key) else { continue };
            // One that can't be read is written anew rather than kept.
            let earlier = earlier
                .and_then(|record| DeadLetterRecord::decode(&record, self.store.place()).ok());
            let record = self.record(letter, earlier.as_ref(), now);
            writes.push(put(key.clone(), &record));
        }
        insist_on_writing(&*self.store, writes, stop).await?;
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(keys.iter().map(|key| self.hasher.hash_one(key)));
        if count == 0 {
            return Ok(());
        }
        self.tell(latest.values().next(), count);
        let total = self.count.fetch_add(count, Ordering::AcqRel) + count;
        let limit = match self.policy {
            OnRejected::DeadLetter => return Ok(()),
            OnRejected::Stop => 1,
            OnRejected::StopAfter(limit) => limit,
        };
        if total >= limit {
            return Err(Halt::TooManyRejected { target: self.target.clone(), count: total });
        }
        Ok(())
    }

    /// Says in the log that documents are refused, with one of them; not more often than a person
    /// can read.
    fn tell(&self, example: Option<&Letter>, count: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|at| at.elapsed() < TELL_EVERY) {
            return;
        }
        *told = Some(Instant::now());
        let Some(letter) = example else { return };
        tracing::warn!(
            target = self.target,
            rule = %self.rule(letter.origin.rule),
            count,
            by = letter.stage.as_str(),
            id = letter.origin.key.display(),
            words = letter.words,
            "documents refused for good; `mongosync dead-letters FILE list` shows them"
        );
    }

    fn record(
        &self,
        letter: &Letter,
        earlier: Option<&DeadLetterRecord>,
        now: bson::DateTime,
    ) -> DeadLetterRecord {
        let origin = &letter.origin;
        let mut record = DeadLetterRecord {
            target: self.target.clone(),
            rule: self.rules[usize::from(origin.rule.0)].to_string(),
            namespace: origin.namespace.to_string(),
            key: origin.key.raw().to_owned(),
            key_text: origin.key.display(),
            place: letter.place.clone(),
            reason: letter.stage.as_str().to_owned(),
            words: letter.words.clone(),
            first_seen: earlier.map_or(now, |record| record.first_seen),
            last_seen: now,
            attempts: earlier.map_or(0, |record| record.attempts).saturating_add(1),
            cluster_time: origin.time,
            event: None,
            deleted: origin.deleted,
        };
        if let Some(event) = &origin.event
            && !event.is_partial()
        {
            let (time, since) = (origin.time, origin.since);
            let kept = event.record(&origin.namespace, &origin.key, time, since);
            if !record.keep_event(&kept) {
                record.words.push_str(" (the event itself is too large to be kept)");
            }
        }
        record
    }

    /// Forgets the letters of documents that have gone through.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn settle(
        &self,
        through: impl IntoIterator<Item = &Origin>,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let settled: Vec<RecordKey> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_empty() {
                return Ok(());
            }
            through
                .into_iter()
                .map(|origin| self.key(origin))
                .filter(|key| known.contains(&self.hasher.hash_one(key)))
                .collect()
        };
        let writes = settled.iter().map(|key| removal::<DeadLetterRecord>(key.clone())).collect();
        insist_on_writing(&*self.store, writes, stop).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &settled {
            known.remove(&self.hasher.hash_one(key));
        }
        Ok(())
    }

    /// Forgets letters, whatever has become of their documents.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn purge(
        &self,
        letters: Vec<RecordKey>,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let writes = letters.iter().map(|key| removal::<DeadLetterRecord>(key.clone())).collect();
        insist_on_writing(&*self.store, writes, stop).await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &letters {
            known.remove(&self.hasher.hash_one(key));
        }
        Ok(())
    }

    /// The rule's name.
    pub fn rule(&self, rule: RuleIndex) -> &Arc<str> {
        &self.rules[usize::from(rule.0)]
    }
}
