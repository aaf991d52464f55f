//! The answers to `lookup()` in transforms: reads of the source, waited for, and kept for as long as
//! they are not older than the document that asks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Document, Namespace},
    source::Source,
    status::TargetStatus,
    transform::{Lookup, Query, Unanswered},
};

use super::reading::Reading;

/// Bytes of answers that one target keeps.
const KEPT: usize = 8 << 20;
/// What an answer takes beside its documents and its query, about.
const BESIDE: usize = 200;

/// Reads the source for the scripts of one target.
pub struct SourceLookup {
    source: Source,
    status: Arc<TargetStatus>,
    /// Drives the reads: scripts run on threads of their own.
    runtime: Handle,
    answers: Mutex<Answers>,
}

impl SourceLookup {
    /// To be made within the runtime that drives the source's connections.
    pub fn new(source: Source, status: Arc<TargetStatus>) -> Self {
        Self { source, status, runtime: Handle::current(), answers: Mutex::new(Answers::new(KEPT)) }
    }
}

impl Lookup for SourceLookup {
    fn find(
        &self,
        query: &Query,
        after: ClusterTime,
        stop: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered> {
        let asked = Asked {
            namespace: query.namespace.clone(),
            filter: query.filter.bytes().clone(),
            limit: query.limit,
        };
        let kept = self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&asked, after);
        if let Some(documents) = kept {
            return Ok(documents.to_vec());
        }
        let reading = Reading {
            source: self.source.clone(),
            status: self.status.clone(),
            stop: stop.clone(),
        };
        let filter = query.filter.raw();
        let read = reading.insist_on("looking up for a transform", |source| async move {
            source.find(&query.namespace, filter, query.limit, after).await
        });
        let documents = self.runtime.block_on(read).map_err(|error| match error {
            None => Unanswered::Stopped,
            Some(error) => Unanswered::Refused(error.to_string()),
        })?;
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.put(asked, after, &documents);
        Ok(documents)
    }
}

/// A query, to be found by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Asked {
    namespace: Namespace,
    filter: Bytes,
    limit: u32,
}

struct Answer {
    /// It was read after this time.
    after: ClusterTime,
    documents: Arc<[Document]>,
    size: usize,
}

/// Answers in two generations. What is asked for again moves to the younger one; once that holds half
/// of what may be kept, it becomes the older one, and what was that is let go.
struct Answers {
    half: usize,
    young: HashMap<Asked, Answer>,
    old: HashMap<Asked, Answer>,
    /// Bytes of the younger one.
    size: usize,
}

impl Answers {
    fn new(most: usize) -> Self {
        Self { half: most / 2, young: HashMap::new(), old: HashMap::new(), size: 0 }
    }

    /// An answer that was read after `after` or later. One that was read before may be older than the
    /// document that asks: it is no answer.
    fn get(&mut self, asked: &Asked, after: ClusterTime) -> Option<Arc<[Document]>> {
        let serves = |answer: &Answer| answer.after >= after;
        if let Some(answer) = self.young.get(asked) {
            return serves(answer).then(|| answer.documents.clone());
        }
        let answer = self.old.remove(asked).filter(serves)?;
        let documents = answer.documents.clone();
        self.insert(asked.clone(), answer);
        Some(documents)
    }

    /// Keeps an answer that was read after `after`; where that time is not known, it serves nobody.
    fn put(&mut self, asked: Asked, after: ClusterTime, documents: &[Document]) {
        let size = BESIDE
            + asked.namespace.as_str().len()
            + asked.filter.len()
            + documents.iter().map(Document::size).sum::<usize>();
        let newer = self.young.get(&asked).is_some_and(|kept| kept.after > after);
        if after == ClusterTime::ZERO || size > self.half || newer {
            return;
        }
        self.old.remove(&asked);
        self.insert(asked, Answer { after, documents: documents.into(), size });
    }

    fn insert(&mut self, asked: Asked, answer: Answer) {
        if self.size + answer.size > self.half {
            self.old = std::mem::take(&mut self.young);
            self.size = 0;
        }
        self.size += answer.size;
        if let Some(before) = self.young.insert(asked, answer) {
            self.size -= before.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    fn asked(id: i32) -> Asked {
        let filter: Document = rawdoc! { "_id": id }.into();
        let namespace = Namespace::new("shop", "categories");
        Asked { namespace, filter: filter.bytes().clone(), limit: 1 }
    }

    fn documents(text: &str) -> Vec<Document> {
        vec![rawdoc! { "_id": 1, "text": text }.into()]
    }

    fn text(answer: Option<Arc<[Document]>>) -> Option<String> {
        let document = answer?.first()?.clone();
        Some(document.raw().get_str("text").expect("a text").to_owned())
    }

    #[test]
    fn an_answer_serves_nobody_who_saw_more() {
        let mut answers = Answers::new(KEPT);
        answers.put(asked(1), ClusterTime(5), &documents("five"));
        for (after, expected) in [(0, Some("five")), (5, Some("five")), (6, None), (99, None)] {
            let answer = text(answers.get(&asked(1), ClusterTime(after)));
            assert_eq!(answer.as_deref(), expected, "{after}");
        }
        answers.put(asked(1), ClusterTime(7), &documents("seven"));
        // A read that began earlier came later.
        answers.put(asked(1), ClusterTime(6), &documents("six"));
        assert_eq!(text(answers.get(&asked(1), ClusterTime(6))).as_deref(), Some("seven"));
        assert!(answers.get(&asked(2), ClusterTime(1)).is_none());
    }

    #[test]
    fn without_a_time_nothing_is_kept() {
        let mut answers = Answers::new(KEPT);
        answers.put(asked(1), ClusterTime::ZERO, &documents("x"));
        assert!(answers.get(&asked(1), ClusterTime::ZERO).is_none());
    }

    #[test]
    fn other_queries_have_other_answers() {
        let mut answers = Answers::new(KEPT);
        answers.put(asked(1), ClusterTime(5), &documents("x"));
        let elsewhere = Asked { namespace: Namespace::new("shop", "other"), ..asked(1) };
        let more = Asked { limit: 2, ..asked(1) };
        for other in [elsewhere, more, asked(2)] {
            assert!(answers.get(&other, ClusterTime(5)).is_none());
        }
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_stays() {
        let most = 64 << 10;
        let mut answers = Answers::new(most);
        let text = "x".repeat(1000);
        for id in 0..1000 {
            answers.put(asked(id), ClusterTime(5), &documents(&text));
            assert!(answers.get(&asked(0), ClusterTime(5)).is_some(), "{id}");
            let kept = answers.young.values().chain(answers.old.values());
            let size: usize = kept.map(|answer| answer.size).sum();
            assert!(size <= most, "{size}");
            let young: usize = answers.young.values().map(|answer| answer.size).sum();
            assert_eq!(answers.size, young);
        }
        answers.put(asked(1), ClusterTime(9), &documents(&"x".repeat(most)));
        assert!(answers.get(&asked(1), ClusterTime(9)).is_none(), "it is too large to be kept");
    }
}
