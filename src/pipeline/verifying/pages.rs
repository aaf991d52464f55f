//! What a rule reads from a namespace, page by page in the order of `_id`: as the copy reads it, and
//! from where it was after a cursor was lost.

use bson::Bson;

use crate::{
    change::{ClusterTime, Document, DocumentKey, State},
    source::{
        chunks::Range,
        error::{Error as SourceError, Remedy},
        lookup::Read,
        scan::{Scan, last_id},
    },
};

use super::{Error, Part, Verifying};
use crate::pipeline::reading::{Fetched, SourceBackoff};

/// Some documents, each as the rule reads it.
pub(super) struct Page {
    pub documents: Vec<(DocumentKey, State)>,
    /// No state in them is newer.
    pub read: ClusterTime,
}

pub(super) struct Pages<'a> {
    verifying: &'a Verifying<'a>,
    part: &'a Part,
    /// Nothing that is read is older.
    after: ClusterTime,
    scan: Option<Scan>,
    from: Option<Bson>,
    last: Option<DocumentKey>,
    /// Whether documents are looked up by key, rather than scanned.
    looks_up: bool,
    /// Keys of the last page that were not reached.
    unread: Vec<DocumentKey>,
    backoff: SourceBackoff,
    ended: bool,
}

impl<'a> Pages<'a> {
    pub(super) fn new(verifying: &'a Verifying<'a>, part: &'a Part, after: ClusterTime) -> Self {
        let rule = verifying.set.get(part.rule);
        // A sharded document's key can't be told from what a projection leaves of it.
        let projected = part.shape.paths().len() > 1 && rule.read.project.is_some();
        Self {
            verifying,
            part,
            after,
            scan: None,
            from: None,
            last: None,
            looks_up: !part.view && (projected || !rule.read.pipeline.is_empty()),
            unread: Vec::new(),
            backoff: SourceBackoff::default(),
            ended: false,
        }
    }

    /// The next page, perhaps without documents; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, Error> {
        if !self.unread.is_empty() {
            let keys = std::mem::take(&mut self.unread);
            return self.look_up(keys).await.map(Some);
        }
        let reading = &self.verifying.reading;
        while !self.ended {
            let error = match self.scanned().await {
                Ok(None) => {
                    self.ended = true;
                    break;
                }
                Ok(Some((documents, read))) => {
                    self.backoff.reset();
                    if self.looks_up {
                        let keys = self.keys(&documents)?;
                        drop(documents);
                        return self.look_up(keys).await.map(Some);
                    }
                    let keys = self.keys(&documents)?;
                    let states = documents.into_iter().map(State::Present);
                    return Ok(Some(Page {
                        documents: keys.into_iter().zip(states).collect(),
                        read,
                    }));
                }
                Err(error) => error,
            };
            self.scan = None;
            match error.remedy() {
                // A view is read by one cursor, which can't go on where it was.
                Remedy::Retry if !self.part.view || self.last.is_none() => {
                    let held = reading.hold_back("verify", &error, &mut self.backoff).await;
                    held.map_err(|()| Error::Stopped)?;
                }
                // A document on which the rule's filter or projection fails: by key it is found.
                Remedy::Reject if !self.looks_up && !self.part.view => self.looks_up = true,
                _ => {
                    let namespace = &self.part.namespace;
                    return Err(Error::Refused(format!("{namespace} can't be read: {error}")));
                }
            }
        }
        Ok(None)
    }

    /// The next reply, without what an earlier scan has shown already.
    async fn scanned(&mut self) -> Result<Option<(Vec<Document>, ClusterTime)>, SourceError> {
        if self.scan.is_none() {
            self.scan = Some(self.open().await?);
        }
        let scan = self.scan.as_mut().expect("it was opened just now");
        let Some(page) = scan.next().await else { return Ok(None) };
        let page = page?;
        let read = page.operation_time;
        if !self.part.view
            && let Some(last) = last_id(&page)?
        {
            self.from = Some(last);
        }
        let mut documents = page.documents;
        let key = |document: &Document| self.part.shape.key_of(document).ok();
        let again = documents.first().and_then(key);
        let last = documents.last().and_then(key);
        if again.is_some() && again == self.last {
            documents.remove(0);
        }
        self.last = last.or(self.last.take());
        Ok(Some((documents, read)))
    }

    async fn open(&self) -> Result<Scan, SourceError> {
        let Verifying { reading, set, budget, .. } = self.verifying;
        let Part { rule, namespace, batch, .. } = self.part;
        let rule = set.get(*rule);
        let (budget, source) = (budget.clone(), reading.source.patient(self.backoff.patience));
        if self.part.view {
            let disk = rule.rule().copy.is_some_and(|copy| copy.allow_disk_use);
            let view = source.scan_view(namespace, &rule.read, self.after, *batch, disk, budget);
            return view.await;
        }
        let keys = Read::keys(self.part.shape.paths());
        let read = if self.looks_up { &keys } else { &rule.read };
        let range = Range { from: self.from.clone(), to: None };
        source.scan(namespace, read, &range, self.after, *batch, budget).await
    }

    fn keys(&self, documents: &[Document]) -> Result<Vec<DocumentKey>, Error> {
        let unreadable = |error| {
            let namespace = &self.part.namespace;
            Error::Refused(format!("{namespace} holds a document without its key: {error}"))
        };
        let shape = &self.part.shape;
        documents.iter().map(|document| shape.key_of(document).map_err(unreadable)).collect()
    }

    async fn look_up(&mut self, keys: Vec<DocumentKey>) -> Result<Page, Error> {
        let (page, unread) = self.verifying.fetch(self.part, keys, self.after).await?;
        self.unread = unread;
        Ok(page)
    }
}

impl Verifying<'_> {
    /// What the rule's read returns for some keys, without those for which that is nothing; and the
    /// keys that were not reached.
    pub(super) async fn fetch(
        &self,
        part: &Part,
        keys: Vec<DocumentKey>,
        after: ClusterTime,
    ) -> Result<(Page, Vec<DocumentKey>), Error> {
        let read = &self.set.get(part.rule).read;
        let fetch = self.reading.fetch(&part.namespace, read, &keys, after, &self.budget);
        let answer = fetch.await?;
        let mut page = Page { documents: Vec::new(), read: answer.operation_time };
        let mut unread = Vec::new();
        for (key, fetched) in keys.into_iter().zip(answer.fetched) {
            match fetched {
                Fetched::Present(document) => page.documents.push((key, State::Present(document))),
                Fetched::Failed(words) => page.documents.push((key, State::Failed(words))),
                Fetched::Unread => unread.push(key),
                Fetched::Absent => {}
            }
        }
        Ok((page, unread))
    }
}
