//! Reads one range of a collection (or a whole view) in `_id` order, reply by reply.

use std::sync::Arc;

use bson::{Bson, RawBson, RawDocumentBuf, rawdoc};

use crate::change::{ClusterTime, Document, Namespace};

use super::{
    CursorCommand, Source, budget::Budget, chunks::Range, error::Error, lookup::Read,
    majority_after, replies::Replies, reply::Reply, stream::cstr,
};

/// Bytes of documents that one reply is asked to hold, about.
const REPLY: u64 = 1 << 20;
/// Documents in a reply, at the most.
const MOST: u64 = 5_000;

/// Documents in one reply, for documents of this average size in bytes.
pub fn reply_documents(average: u64) -> u32 {
    u32::try_from((REPLY / average.max(1)).clamp(1, MOST)).expect("at most 5,000")
}

/// One reply of a scan.
#[derive(Debug)]
pub struct Page {
    /// In `_id` order.
    pub documents: Vec<Document>,
    /// The majority-committed time of the member when it answered: the state that was read is not
    /// newer.
    pub operation_time: ClusterTime,
    /// Bytes of the reply.
    pub bytes: usize,
}

/// An open scan.
pub struct Scan {
    cursor: Replies,
    budget: Arc<Budget>,
    /// What is read behind the cursor's end.
    rest: Option<Rest>,
}

/// The document whose `_id` is MaxKey. Without `max` the server ends a scan that has a `min` before
/// that key, and not at the end of the index.
struct Rest {
    source: Source,
    database: String,
    command: RawDocumentBuf,
}

impl Source {
    /// Opens a scan of one range. Of a rule's read, `filter` and `project` are evaluated; a rule
    /// with a `pipeline` scans keys only (`Read::existence`) and looks the documents up.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn scan(
        &self,
        namespace: &Namespace,
        read: &Read,
        range: &Range,
        after: ClusterTime,
        batch: u32,
        budget: Arc<Budget>,
    ) -> Result<Scan, Error> {
        let mut command = find(namespace, read.project.as_ref(), after, batch);
        if let Some(filter) = &read.filter {
            command.append(cstr("filter"), filter.clone());
        }
        // `min` and `max` are positions in the index, so they cross types.
        for (name, bound) in [("min", &range.from), ("max", &range.to)] {
            if let Some(bound) = bound {
                let bound = RawBson::try_from(bound.clone())
                    .map_err(|_| Error::garbled("an _id that can't be written"))?;
                command.append(cstr(name), rawdoc! { "_id": bound });
            }
        }
        let mut scan = self.open(namespace, command, batch, budget).await?;
        if range.from.is_some() && range.to.is_none() {
            let mut command = find(namespace, read.project.as_ref(), after, batch);
            let mut all = bson::RawArrayBuf::new();
            all.push(rawdoc! { "_id": { "$eq": RawBson::MaxKey } });
            if let Some(filter) = &read.filter {
                all.push(filter.clone());
            }
            command.append(cstr("filter"), rawdoc! { "$and": all });
            let database = namespace.database().to_owned();
            scan.rest = Some(Rest { source: self.clone(), database, command });
        }
        Ok(scan)
    }

    /// Opens a scan of a view, which has no index and is read by one cursor.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn scan_view(
        &self,
        namespace: &Namespace,
        read: &Read,
        after: ClusterTime,
        batch: u32,
        allow_disk_use: bool,
        budget: Arc<Budget>,
    ) -> Result<Scan, Error> {
        let mut pipeline = bson::RawArrayBuf::new();
        if let Some(filter) = &read.filter {
            pipeline.push(rawdoc! { "$match": filter.clone() });
        }
        if let Some(project) = &read.project {
            pipeline.push(rawdoc! { "$project": project.clone() });
        }
        for stage in &read.pipeline {
            pipeline.push(stage.clone());
        }
        let command = rawdoc! {
            "aggregate": namespace.collection(),
            "pipeline": pipeline,
            "cursor": { "batchSize": i64::from(batch) },
            "readConcern": majority_after(after),
            "allowDiskUse": allow_disk_use,
            "comment": "mongosync",
        };
        self.open(namespace, command, batch, budget).await
    }

    async fn open(
        &self,
        namespace: &Namespace,
        command: RawDocumentBuf,
        batch: u32,
        budget: Arc<Budget>,
    ) -> Result<Scan, Error> {
        budget.available().await;
        let database = self.client.database(namespace.database());
        let cursor = self
            .cursor(CursorCommand {
                database: &database,
                command,
                batch_size: Some(batch),
                max_time: None,
            })
            .await?;
        Ok(Scan { cursor, budget, rest: None })
    }
}

/// A find in the order of `_id`, without filter and bounds.
fn find(
    namespace: &Namespace,
    project: Option<&RawDocumentBuf>,
    after: ClusterTime,
    batch: u32,
) -> RawDocumentBuf {
    let mut command = rawdoc! {
        "find": namespace.collection(),
        "hint": { "_id": 1 },
        "batchSize": i64::from(batch),
        "readConcern": majority_after(after),
        "comment": "mongosync",
    };
    if let Some(project) = project {
        command.append(cstr("projection"), project.clone());
    }
    command
}

impl Rest {
    async fn open(&self) -> Result<Replies, Error> {
        let database = self.source.client.database(&self.database);
        let command = self.command.clone();
        self.source
            .cursor(CursorCommand {
                database: &database,
                command,
                batch_size: None,
                max_time: None,
            })
            .await
    }
}

impl Scan {
    /// The next reply, once the budget has room; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// Those of the server. The scan is then of no more use; open it again behind the last
    /// document.
    pub async fn next(&mut self) -> Option<Result<Page, Error>> {
        self.budget.available().await;
        let batch = loop {
            match (self.cursor.next().await, &self.rest) {
                (Some(Ok(batch)), _) => break batch,
                (Some(Err(error)), _) => return Some(Err(error)),
                (None, None) => return None,
                (None, Some(rest)) => match rest.open().await {
                    Ok(cursor) => {
                        self.cursor = cursor;
                        self.rest = None;
                    }
                    Err(error) => return Some(Err(error)),
                },
            }
        };
        let bytes = Reply::cost(&batch);
        let reply = Reply::new(batch, Some(self.budget.take(bytes)));
        Some(reply.documents().and_then(Iterator::collect).map(|documents| Page {
            documents,
            operation_time: reply.operation_time(),
            bytes,
        }))
    }
}

/// The `_id` of the last document of a page, to go on behind it.
///
/// # Errors
/// Where it has none.
pub fn last_id(page: &Page) -> Result<Option<Bson>, Error> {
    let Some(last) = page.documents.last() else { return Ok(None) };
    let id = super::lookup::id_of(last)?;
    Bson::try_from(id).map(Some).map_err(|_| Error::garbled("an _id that can't be read"))
}
