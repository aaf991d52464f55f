//! Documents by key, through a rule's own `filter`, `project` and `pipeline`: what the change
//! stream did not say is asked here, and MongoDB itself evaluates the rule.

use std::{collections::HashMap, sync::Arc};

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::{
    change::{ClusterTime, Document, DocumentKey, Namespace},
    rules::model::Rule,
};

use super::{CursorCommand, Source, budget::Budget, error::Error, majority_after, reply::Reply};

/// Bytes of replies after which a lookup asks for no more.
pub const MOST_BYTES: usize = 8 << 20;

/// How a rule reads documents. The same for the copy and for changes, so the two can't disagree.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// A query.
    pub filter: Option<RawDocumentBuf>,
    /// A projection.
    pub project: Option<RawDocumentBuf>,
    /// Stages after both.
    pub pipeline: Vec<RawDocumentBuf>,
}

impl Read {
    /// A rule's.
    pub fn of(rule: &Rule) -> Self {
        Self {
            filter: rule.filter.clone(),
            project: rule.project.clone(),
            pipeline: rule.pipeline.clone(),
        }
    }

    /// Whether this read returns a document, and as little of it as can be told without it: stages may
    /// want all fields.
    #[must_use]
    pub fn presence(&self) -> Self {
        match self.pipeline.is_empty() {
            true => Self { project: Self::existence().project, ..self.clone() },
            false => self.clone(),
        }
    }

    /// Only whether a document is there.
    pub fn existence() -> Self {
        Self::keys(&["_id".to_owned()])
    }

    /// Only the fields of the document key, by their dotted paths.
    pub fn keys(paths: &[String]) -> Self {
        let fields: bson::Document = paths.iter().map(|path| (path.clone(), 1.into())).collect();
        let project = RawDocumentBuf::try_from(&fields).expect("paths of fields hold no zero byte");
        Self { project: Some(project), ..Self::default() }
    }
}

/// What a lookup returned.
#[derive(Debug)]
pub struct LookedUp {
    /// One entry a key, in the order of the keys: `None` where the rule's read returned nothing.
    pub documents: Vec<Option<Document>>,
    /// Whether everything was read. Where not, a key without a document was perhaps not reached.
    pub complete: bool,
    /// The majority-committed time of the member that answered, when it answered last.
    pub operation_time: ClusterTime,
}

impl Source {
    /// Lets MongoDB evaluate a rule's read once on nothing.
    ///
    /// # Errors
    /// What the server does not understand or does not allow.
    pub async fn try_read(&self, namespace: &Namespace, read: &Read) -> Result<(), Error> {
        let budget = Budget::new(usize::MAX);
        self.lookup(namespace, read, &[], ClusterTime::ZERO, &budget).await.map(drop)
    }

    /// Reads the documents with these keys. No two keys may have the same `_id`.
    ///
    /// The read is a majority read after `after`: it never sees less than an event of that time
    /// did, on a lagging secondary neither. Replies are paid from `budget` and may overdraw it; past
    /// [`MOST_BYTES`] no further reply is asked for.
    ///
    /// # Errors
    /// Those of the server; `Remedy::Reject` where one document makes the aggregation fail, which
    /// the caller finds by halving.
    pub async fn lookup(
        &self,
        namespace: &Namespace,
        read: &Read,
        keys: &[DocumentKey],
        after: ClusterTime,
        budget: &Arc<Budget>,
    ) -> Result<LookedUp, Error> {
        let database = self.client.database(namespace.database());
        let command = command(namespace, read, keys, after);
        let mut cursor = self
            .cursor(CursorCommand {
                database: &database,
                command,
                batch_size: None,
                max_time: None,
            })
            .await?;
        let mut places: HashMap<DocumentKey, usize> = HashMap::with_capacity(keys.len());
        for (index, key) in keys.iter().enumerate() {
            places.insert(id_key(key.id())?, index);
        }
        let mut documents = vec![None; keys.len()];
        let mut operation_time = ClusterTime::ZERO;
        let mut bytes = 0;
        let mut complete = true;
        while let Some(batch) = cursor.next().await {
            let batch = batch?;
            let cost = Reply::cost(&batch);
            let permit = budget.take(cost);
            let reply = Reply::new(batch, Some(permit));
            operation_time = reply.operation_time();
            for document in reply.documents()? {
                let document = document?;
                let id = id_of(&document)?;
                // A collection whose collation folds case answers with a document of another key;
                // it has an event of its own.
                if let Some(&index) = places.get(&id_key(id)?) {
                    documents[index] = Some(document);
                }
            }
            bytes += cost;
            let found = documents.iter().filter(|document| document.is_some()).count();
            if bytes > MOST_BYTES && found < keys.len() && found > 0 {
                complete = false;
                break;
            }
        }
        Ok(LookedUp { documents, complete, operation_time })
    }
}

fn id_key(id: RawBsonRef<'_>) -> Result<DocumentKey, Error> {
    DocumentKey::from_id(id).map_err(|_| Error::garbled("an _id that can't be read"))
}

/// The `_id` of a document that a rule's read returned.
pub(super) fn id_of(document: &Document) -> Result<RawBsonRef<'_>, Error> {
    match document.raw().get("_id") {
        Ok(Some(id)) => Ok(id),
        _ => Err(Error::Refused(
            "the rule's project or pipeline returned a document without _id; keep _id in it".into(),
        )),
    }
}

fn command(
    namespace: &Namespace,
    read: &Read,
    keys: &[DocumentKey],
    after: ClusterTime,
) -> RawDocumentBuf {
    let query = match &read.filter {
        None => selection(keys),
        Some(filter) => {
            let mut all = RawArrayBuf::new();
            all.push(selection(keys));
            all.push(filter.clone());
            rawdoc! { "$and": all }
        }
    };
    let size = i32::try_from(keys.len()).unwrap_or(i32::MAX).saturating_add(1);
    let concern = majority_after(after);
    if read.pipeline.is_empty() {
        let mut command = rawdoc! {
            "find": namespace.collection(),
            "filter": query,
            "hint": { "_id": 1 },
            "batchSize": size,
            "readConcern": concern,
            "comment": "mongosync",
        };
        if let Some(project) = &read.project {
            command.append(super::stream::cstr("projection"), project.clone());
        }
        return command;
    }
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(rawdoc! { "$match": query });
    if let Some(project) = &read.project {
        pipeline.push(rawdoc! { "$project": project.clone() });
    }
    for stage in &read.pipeline {
        pipeline.push(stage.clone());
    }
    rawdoc! {
        "aggregate": namespace.collection(),
        "pipeline": pipeline,
        "hint": { "_id": 1 },
        "cursor": { "batchSize": size },
        "readConcern": concern,
        "comment": "mongosync",
    }
}

/// `{_id: {$in: […]}}` where that says it exactly.
fn selection(keys: &[DocumentKey]) -> RawDocumentBuf {
    let plain = |key: &DocumentKey| {
        key.raw().iter().count() == 1 && !matches!(key.id(), RawBsonRef::RegularExpression(_))
    };
    if keys.iter().all(plain) {
        let mut ids = RawArrayBuf::new();
        for key in keys {
            ids.push(key.id().to_owned());
        }
        return rawdoc! { "_id": { "$in": ids } };
    }
    // A regular expression inside $in is a pattern, not a value; and a shard key beside the _id
    // lets a mongos ask one shard only.
    let mut any = RawArrayBuf::new();
    for key in keys {
        any.push(equalities(key.raw()));
    }
    rawdoc! { "$or": any }
}

fn equalities(key: &RawDocument) -> RawDocumentBuf {
    let mut all = RawDocumentBuf::new();
    for (name, value) in key.iter().flatten() {
        all.append(name, rawdoc! { "$eq": value.to_owned() });
    }
    all
}
