//! What other processes ask of the one that holds the name: `mongosync resync`, `pause` and the like
//! leave a request in the store, the holder carries it out and leaves its answer.
//!
//! A request that nobody has answered is carried out by the next one who holds the name.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bson::{DateTime, Timestamp, oid::ObjectId};
use serde::{Deserialize, Serialize};
use tokio::{sync::OnceCell, time::Instant};

use crate::rules::model::RuleFile;

use super::{
    keys, open,
    records::{Record, load, load_all, put, removal},
    store::{RecordKey, Store, StoreError, Table},
};

/// Answers are kept so long for whoever asked.
const KEPT: Duration = Duration::from_secs(600);

/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// By so much two clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

/// Whether a time is yet to come: from there on, everything that happens until then would be passed
/// over.
pub fn is_to_come(time: Timestamp, now: SystemTime) -> bool {
    UNIX_EPOCH + Duration::from_secs(time.time.into()) > now + SKEW
}

/// The way to whoever holds a rule file's name, by a handle of one's own, without the lease.
pub struct Requests {
    /// `None` where there is a store from the start.
    rules: Option<Arc<RuleFile>>,
    store: OnceCell<Arc<dyn Store>>,
}

impl Requests {
    /// Through the store that the rule file names, which is opened for the first request.
    pub fn of(rules: Arc<RuleFile>) -> Self {
        Self { rules: Some(rules), store: OnceCell::new() }
    }

    /// Through this store.
    pub fn over(store: Arc<dyn Store>) -> Self {
        Self { rules: None, store: OnceCell::new_with(Some(store)) }
    }

    /// Leaves a request. The key leads to the answer.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn leave(&self, asked: Asked) -> Result<RecordKey, StoreError> {
        ask(&**self.store().await?, asked).await
    }

    /// See [`wait_for_answer`].
    ///
    /// # Errors
    /// Those of the store.
    pub async fn answer(
        &self,
        request: &RecordKey,
        wait: Duration,
    ) -> Result<Option<Answer>, StoreError> {
        wait_for_answer(&**self.store().await?, request, wait).await
    }

    /// The store itself, to read what the holder leaves in it.
    ///
    /// # Errors
    /// Where it can't be opened.
    pub async fn store(&self) -> Result<&Arc<dyn Store>, StoreError> {
        let open = || async {
            let rules = self.rules.as_ref().expect("without a store it has the rules");
            open::open(rules, None).await
        };
        self.store.get_or_try_init(open).await
    }
}

/// What is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Asked {
    /// Copy rules again, in every target that they write to.
    Resync {
        /// Their names.
        rules: Vec<String>,
    },
    /// Stop writing to targets, until they are resumed.
    Pause {
        /// Their names; all where empty.
        targets: Vec<String>,
    },
    /// Go on with targets that were paused.
    Resume {
        /// Their names; all where empty.
        targets: Vec<String>,
    },
    /// Go on from another point of the oplog.
    Seek {
        /// The target.
        target: String,
        /// Where.
        to: Timestamp,
    },
    /// Deliver dead letters again, from the present state of their documents.
    RetryLetters {
        /// Their short names; all where empty.
        letters: Vec<String>,
    },
    /// Forget dead letters.
    PurgeLetters {
        /// Their short names; all where empty.
        letters: Vec<String>,
    },
    /// Deliver documents again, from their present state.
    Redeliver {
        /// The target.
        target: String,
        /// `db.collection`
        namespace: String,
        /// Their document keys: BSON, as base64.
        keys: Vec<String>,
    },
    /// Take out of a target what it holds and should not, unless that has been written since.
    Remove {
        /// The target.
        target: String,
        /// A rule whose documents lie there.
        rule: String,
        /// What is to be removed.
        places: Vec<OldPlace>,
    },
}

/// A place, and when what it is to hold no longer was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OldPlace {
    /// The target's own encoding, as base64.
    pub place: String,
    /// What was written after this stays.
    pub written: Timestamp,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// For a person.
    pub words: String,
}

/// A request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RequestRecord {
    /// What is asked.
    pub asked: Asked,
    /// When, by the asking host's clock.
    pub asked_at: DateTime,
    /// `None` until it is carried out.
    pub answer: Option<Answer>,
}

impl Record for RequestRecord {
    const TABLE: Table = Table::Leases;
    const KIND: &'static str = "a request";
}

/// Leaves a request. The key leads to the answer.
///
/// # Errors
/// Those of the store.
pub async fn ask(store: &dyn Store, asked: Asked) -> Result<RecordKey, StoreError> {
    let key = keys::requests().with(ObjectId::new().to_hex());
    let record = RequestRecord { asked, asked_at: DateTime::now(), answer: None };
    store.write(vec![put(key.clone(), &record)]).await?;
    Ok(key)
}

/// The answer to a request, once there is one.
///
/// # Errors
/// Those of the store.
pub async fn answer_to(store: &dyn Store, key: &RecordKey) -> Result<Option<Answer>, StoreError> {
    Ok(load::<RequestRecord>(store, key).await?.and_then(|record| record.answer))
}

/// Waits for the answer to a request, and takes it out. `None` where none comes within `wait`: the
/// request then stays, and is carried out by whoever holds the name next.
///
/// # Errors
/// Those of the store.
pub async fn wait_for_answer(
    store: &dyn Store,
    key: &RecordKey,
    wait: Duration,
) -> Result<Option<Answer>, StoreError> {
    let deadline = Instant::now() + wait;
    loop {
        if let Some(answer) = answer_to(store, key).await? {
            forget(store, key).await?;
            return Ok(Some(answer));
        }
        if Instant::now() + LOOK > deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes a request back, or its answer out.
///
/// # Errors
/// Those of the store.
pub async fn forget(store: &dyn Store, key: &RecordKey) -> Result<(), StoreError> {
    store.write(vec![removal::<RequestRecord>(key.clone())]).await
}

/// The requests that nobody has answered, oldest first. Answers that nobody has fetched for ten
/// minutes are forgotten.
///
/// # Errors
/// Those of the store.
pub async fn pending(store: &dyn Store) -> Result<Vec<(RecordKey, RequestRecord)>, StoreError> {
    let all = load_all::<RequestRecord>(store, &keys::requests()).await?;
    let now = DateTime::now();
    let (answered, mut pending): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, record)| record.answer.is_some());
    // In the order in which they were made, as far as clocks agree.
    pending.sort_by_key(|(_, record)| record.asked_at);
    let old = |record: &RequestRecord| {
        let age = now.timestamp_millis() - record.asked_at.timestamp_millis();
        u128::try_from(age).is_ok_and(|age| age > KEPT.as_millis())
    };
    let outdated: Vec<_> = answered
        .into_iter()
        .filter(|(_, record)| old(record))
        .map(|(key, _)| removal::<RequestRecord>(key))
        .collect();
    if !outdated.is_empty() {
        store.write(outdated).await?;
    }
    Ok(pending)
}

/// Leaves the answer.
///
/// # Errors
/// Those of the store.
pub async fn answer(
    store: &dyn Store,
    key: RecordKey,
    record: RequestRecord,
    answer: Answer,
) -> Result<(), StoreError> {
    let record = RequestRecord { answer: Some(answer), ..record };
    store.write(vec![put(key, &record)]).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::memory::MemoryStore;

    #[tokio::test]
    async fn a_request_waits_for_its_answer_and_old_answers_go() {
        let store = MemoryStore::new("shop");
        let asked = Asked::Resync { rules: vec!["a".into()] };
        let first = ask(&store, asked.clone()).await.unwrap();
        let second = ask(&store, Asked::Pause { targets: vec![] }).await.unwrap();
        let found = pending(&store).await.unwrap();
        assert_eq!(found.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&first, &second]);
        assert_eq!(found[0].1.asked, asked);
        assert_eq!(answer_to(&store, &first).await.unwrap(), None);

        let done = Answer { done: true, words: "copied".into() };
        answer(&store, first.clone(), found[0].1.clone(), done.clone()).await.unwrap();
        assert_eq!(answer_to(&store, &first).await.unwrap(), Some(done));
        assert_eq!(pending(&store).await.unwrap().len(), 1);

        let old = RequestRecord {
            asked_at: DateTime::from_millis(0),
            answer: Some(Answer { done: false, words: String::new() }),
            ..found[1].1.clone()
        };
        store.write(vec![put(second.clone(), &old)]).await.unwrap();
        assert_eq!(pending(&store).await.unwrap(), []);
        assert_eq!(answer_to(&store, &second).await.unwrap(), None);
        forget(&store, &first).await.unwrap();
        assert_eq!(answer_to(&store, &first).await.unwrap(), None);
    }

    #[tokio::test]
    async fn every_request_is_read_as_it_was_written() {
        let names = || vec!["a".to_owned()];
        let time = Timestamp { time: 1_795_227_029, increment: 7 };
        for asked in [
            Asked::Resync { rules: names() },
            Asked::Pause { targets: names() },
            Asked::Resume { targets: Vec::new() },
            Asked::Seek { target: "a".into(), to: time },
            Asked::RetryLetters { letters: names() },
            Asked::PurgeLetters { letters: Vec::new() },
            Asked::Redeliver { target: "a".into(), namespace: "b.c".into(), keys: names() },
            Asked::Remove {
                target: "a".into(),
                rule: "r".into(),
                places: vec![OldPlace { place: "AQ==".into(), written: time }],
            },
        ] {
            let store = MemoryStore::new("shop");
            ask(&store, asked.clone()).await.unwrap();
            assert_eq!(pending(&store).await.unwrap()[0].1.asked, asked);
        }
    }

    #[test]
    fn a_time_to_come_is_known() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_227_029);
        let to = |seconds| Timestamp { time: seconds, increment: 1 };
        for (seconds, expected) in
            [(1, false), (1_795_227_029, false), (1_795_227_089, false), (1_795_227_090, true)]
        {
            assert_eq!(is_to_come(to(seconds), now), expected, "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_and_taken_out() {
        let store = MemoryStore::new("shop");
        let key = ask(&store, Asked::Pause { targets: vec![] }).await.unwrap();
        let wait = Duration::from_secs(1);
        assert_eq!(wait_for_answer(&store, &key, wait).await.unwrap(), None);
        let (_, record) = pending(&store).await.unwrap().remove(0);
        let done = Answer { done: true, words: "is paused".into() };
        let later = async {
            tokio::time::sleep(wait / 2).await;
            answer(&store, key.clone(), record, done.clone()).await
        };
        let (answered, left) = tokio::join!(wait_for_answer(&store, &key, wait), later);
        left.unwrap();
        assert_eq!(answered.unwrap(), Some(done));
        assert_eq!(answer_to(&store, &key).await.unwrap(), None);
    }
}
