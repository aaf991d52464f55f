//! The change stream of a rule that delivers events: each change with all that it says.
//!
//! Beside `stream`, which tells the documents rules of a target no more than which keys have changed.
//! A position here is a resume token: two events of a transaction have one time, and two tokens.

use std::{sync::Arc, time::Duration};

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, doc, rawdoc};
use bytes::Bytes;

use crate::{
    change::{
        ClusterTime, Document, DocumentKey, Namespace,
        event::{Happened, Lack, Op, Truncated},
    },
    rules::model::{EventSettings, FullDocument, PreImage, Rule},
};

use super::{
    CursorCommand, Source,
    budget::{Budget, Permit},
    error::Error,
    event_fields::Fields,
    event_filter,
    replies::Replies,
    reply::Reply,
    stream::{Scope, cstr, frontier, namespace_of, selection},
};

pub use super::reply::ResumeToken;

/// Bytes of an event that came in parts, at the most: three documents and what beside them.
const MOST_BYTES: usize = 64 << 20;

/// What the server calls it when a collection or database ends or gets another name.
const ENDS: [&str; 3] = ["drop", "rename", "dropDatabase"];

/// Where to open a stream.
#[derive(Clone, PartialEq, Debug)]
pub enum EventStart {
    /// At a time; events with this very time are returned.
    At(ClusterTime),
    /// Behind this.
    After(ResumeToken),
}

/// What of the events is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// All that the rule says.
    Whole,
    /// The same, one event at a time: to find the one that is too large.
    Single,
    /// One event at a time, without what makes it large.
    Slim,
}

/// How a rule's events are asked for, and how they are read.
pub struct EventQuery {
    scope: Scope,
    selection: RawDocumentBuf,
    /// Behind that.
    stages: Vec<RawDocumentBuf>,
    settings: EventSettings,
    /// Whether there is a filter, which takes no update without its document.
    filtered: bool,
    fields: Option<Fields>,
    /// The rule's name, which ids are made of.
    rule: String,
}

/// One event of the stream.
#[derive(Debug)]
pub enum StreamEvent {
    /// To a document.
    Happened(Box<Seen>),
    /// A collection or database ended or got another name.
    Ended {
        /// What the server calls it.
        op: &'static str,
        /// The collection; for `dropDatabase` nothing.
        namespace: Option<Namespace>,
        /// Its new name, which another collection may have had.
        to: Option<Namespace>,
        /// The event's cluster time.
        time: ClusterTime,
        /// Behind it.
        token: ResumeToken,
    },
    /// The stream is closed by the server after this.
    Invalidated {
        /// The event's cluster time.
        time: ClusterTime,
        /// Behind it.
        token: ResumeToken,
    },
}

/// An event to a document, and where it stands.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where the document lives.
    pub namespace: Namespace,
    /// Which one it is.
    pub key: DocumentKey,
    /// When.
    pub time: ClusterTime,
    /// The server's clock then.
    pub wall_time: Option<bson::DateTime>,
    /// Behind it.
    pub token: ResumeToken,
    /// What it says.
    pub event: Happened,
}

impl StreamEvent {
    /// The event's cluster time.
    pub fn time(&self) -> ClusterTime {
        match self {
            Self::Happened(seen) => seen.time,
            Self::Ended { time, .. } | Self::Invalidated { time, .. } => *time,
        }
    }

    /// Behind it.
    pub fn token(&self) -> &ResumeToken {
        match self {
            Self::Happened(seen) => &seen.token,
            Self::Ended { token, .. } | Self::Invalidated { token, .. } => token,
        }
    }
}

/// One reply of the stream.
#[derive(Debug)]
pub struct EventBatch {
    /// In the order of the stream.
    pub events: Vec<StreamEvent>,
    /// Every event up to and including this time has been returned, by this batch or before.
    pub frontier: ClusterTime,
    /// A stream that is opened behind this shows what comes next; `None` in the midst of an event that
    /// comes in parts.
    pub token: Option<ResumeToken>,
    /// No document in the events is newer.
    pub read: ClusterTime,
}

/// An open stream.
pub struct EventStream<'a> {
    query: &'a EventQuery,
    cursor: Replies,
    budget: Arc<Budget>,
    sharded: bool,
    opened: bool,
    parts: Parts,
}

/// Of an update: the fields that were set, those that are no more, and the arrays that were cut off.
type Said = (Option<Document>, Vec<String>, Vec<Truncated>);

impl EventQuery {
    /// Of a rule that delivers events.
    pub fn new(rule: &Rule, settings: &EventSettings) -> Self {
        let scope = Scope::of([&rule.namespaces]);
        let mut stages = Vec::new();
        let ends = ENDS.into_iter().chain(["invalidate"]);
        let operations = settings.operations.iter().map(|op| op.as_str()).chain(ends);
        let operations: Vec<&str> = operations.collect();
        stages.push(doc! { "$match": { "operationType": { "$in": operations } } });
        if let Some(filter) = &rule.filter {
            stages.push(doc! { "$match": event_filter::passes(filter) });
        }
        let raw = |stage: &bson::Document| {
            RawDocumentBuf::try_from(stage).expect("its keys hold no zero character")
        };
        let mut stages: Vec<_> = stages.iter().map(raw).collect();
        stages.extend(settings.pipeline.iter().cloned());
        stages.extend(rule.project.iter().map(|project| raw(&Fields::stage(project))));
        Self {
            selection: selection(&scope, &[&rule.namespaces], false),
            scope,
            stages,
            settings: settings.clone(),
            filtered: rule.filter.is_some(),
            fields: rule.project.as_deref().map(Fields::of),
            rule: rule.name.clone(),
        }
    }

    /// What its stream watches.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether stages of the rule's own may change events.
    pub fn is_shaped(&self) -> bool {
        !self.settings.pipeline.is_empty()
    }

    fn pipeline(
        &self,
        start: &EventStart,
        whole: bool,
        extent: Extent,
        splits: bool,
    ) -> RawArrayBuf {
        let mut stage = RawDocumentBuf::new();
        match start {
            EventStart::At(time) => {
                stage.append(cstr("startAtOperationTime"), bson::Timestamp::from(*time));
            }
            // Unlike `resumeAfter` it goes on behind an invalidate too.
            EventStart::After(token) => stage.append(cstr("startAfter"), token.document()),
        }
        if self.scope == Scope::Deployment {
            stage.append(cstr("allChangesForCluster"), true);
        }
        // `required` of the server ends the stream at the first event that lacks an image; here that is
        // one dead letter.
        let full_document = match self.settings.full_document {
            FullDocument::UpdateLookup => Some("updateLookup"),
            _ if whole => Some("updateLookup"),
            FullDocument::WhenAvailable | FullDocument::Required => Some("whenAvailable"),
            FullDocument::Off => None,
        };
        if let Some(full_document) = full_document {
            stage.append(cstr("fullDocument"), full_document);
        }
        if self.settings.pre_image != PreImage::Off {
            stage.append(cstr("fullDocumentBeforeChange"), "whenAvailable");
        }
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$changeStream": stage });
        pipeline.push(rawdoc! { "$match": self.selection.clone() });
        for stage in &self.stages {
            pipeline.push(stage.clone());
        }
        if extent == Extent::Slim {
            pipeline.push(rawdoc! { "$project": {
                "fullDocument": 0, "fullDocumentBeforeChange": 0, "updateDescription": 0,
            } });
        } else if splits {
            pipeline.push(rawdoc! { "$changeStreamSplitLargeEvent": {} });
        }
        pipeline
    }

    /// Reads a change event, in full.
    ///
    /// # Errors
    /// Where it lacks what every change event has.
    fn read_as(
        &self,
        raw: &Document,
        token: ResumeToken,
        id: Arc<str>,
    ) -> Result<StreamEvent, Error> {
        let part = |part: &RawDocument| {
            let bytes = raw.bytes().slice_ref(part.as_bytes());
            Document::from_bytes(bytes).map_err(|_| Error::garbled("a broken document in an event"))
        };
        let (mut op, mut key, mut time) = ("", None, ClusterTime::ZERO);
        let (mut namespace, mut to) = (None, None);
        let (mut wall_time, mut document, mut before, mut description) = (None, None, None, None);
        for element in raw.raw().iter() {
            let (name, value) = element.map_err(|_| Error::garbled("a broken change event"))?;
            match (name.as_str(), value) {
                ("operationType", RawBsonRef::String(text)) => op = text,
                ("ns", RawBsonRef::Document(raw)) => namespace = namespace_of(raw),
                ("to", RawBsonRef::Document(raw)) => to = namespace_of(raw),
                ("documentKey", RawBsonRef::Document(raw)) => key = Some(raw),
                ("clusterTime", RawBsonRef::Timestamp(at)) => time = at.into(),
                ("wallTime", RawBsonRef::DateTime(at)) => wall_time = Some(at),
                ("fullDocument", RawBsonRef::Document(raw)) => document = Some(part(raw)?),
                ("fullDocumentBeforeChange", RawBsonRef::Document(raw)) => {
                    before = Some(part(raw)?)
                }
                ("updateDescription", RawBsonRef::Document(raw)) => description = Some(raw),
                _ => {}
            }
        }
        if op == "invalidate" {
            return Ok(StreamEvent::Invalidated { time, token });
        }
        if let Some(op) = ENDS.into_iter().find(|end| *end == op) {
            return Ok(StreamEvent::Ended { op, namespace, to, time, token });
        }
        let op = Op::named(op).ok_or_else(|| self.lacking("operationType"))?;
        let key = key.ok_or_else(|| self.lacking("documentKey"))?;
        let namespace = namespace.ok_or_else(|| self.lacking("ns"))?;
        if time == ClusterTime::ZERO {
            return Err(self.lacking("clusterTime"));
        }
        let said = description.map(|raw| self.said(raw, part)).transpose()?;
        let (updated, removed, truncated) = said.unwrap_or_default();
        let images = (op, document.is_some(), before.is_some());
        let lacks = match (images, self.settings.pre_image, self.settings.full_document) {
            ((Op::Update | Op::Replace | Op::Delete, _, false), PreImage::Required, _) => {
                Some(Lack::PreImage)
            }
            ((Op::Update, false, _), _, FullDocument::Required) => Some(Lack::PostImage),
            ((Op::Update, false, _), _, FullDocument::WhenAvailable) if self.filtered => {
                Some(Lack::Filtered)
            }
            _ => None,
        };
        // Asked for while documents are copied; nobody else has to do with it.
        let document = if op == Op::Delete { before.clone() } else { document };
        Ok(StreamEvent::Happened(Box::new(Seen {
            namespace,
            key: DocumentKey::from_document_key(key)
                .map_err(|_| Error::garbled("a broken document key"))?,
            time,
            wall_time,
            token,
            event: Happened {
                id,
                op,
                copy: false,
                raw: Some(raw.clone()),
                document,
                before,
                updated,
                removed,
                truncated,
                lacks,
            },
        })))
    }

    /// What an update says of single fields, as far as the rule's projection keeps them.
    fn said(
        &self,
        description: &RawDocument,
        part: impl Fn(&RawDocument) -> Result<Document, Error>,
    ) -> Result<Said, Error> {
        let keep = |path: &str| self.fields.as_ref().is_none_or(|fields| fields.keep(path));
        let updated = match (description.get_document("updatedFields"), &self.fields) {
            (Ok(raw), None) => Some(part(raw)?),
            (Ok(raw), Some(fields)) => Some(Document::from(fields.of_updated(raw))),
            (Err(_), _) => None,
        };
        let list = |name: &str| description.get_array(name).ok().into_iter().flatten().flatten();
        let removed = list("removedFields").filter_map(|path| match path {
            RawBsonRef::String(path) if keep(path) => Some(path.to_owned()),
            _ => None,
        });
        let truncated = list("truncatedArrays").filter_map(|array| {
            let RawBsonRef::Document(array) = array else { return None };
            let field = array.get_str("field").ok().filter(|field| keep(field))?;
            let new_size = match array.get("newSize").ok()?? {
                RawBsonRef::Int32(size) => size.into(),
                RawBsonRef::Int64(size) => size,
                _ => return None,
            };
            Some(Truncated { field: field.to_owned(), new_size })
        });
        Ok((updated, removed.collect(), truncated.collect()))
    }

    fn lacking(&self, field: &str) -> Error {
        match self.is_shaped() {
            true => Error::Refused(format!(
                "an event came without `{field}`: leave it in, in `changes.pipeline` of rule {}",
                self.rule
            )),
            false => Error::garbled("an event that lacks what every event has"),
        }
    }

    /// An event that was kept to be told again ([`Happened::record`]), with the id that it had, and without
    /// what the rule leaves out by now. `None` where it can't be read.
    pub fn kept(&self, record: &RawDocument) -> Option<Seen> {
        let id = record.get_str("id").ok()?;
        let copy = record.get_bool("copy").ok()?;
        let raw = Document::from(record.get_document("change").ok()?);
        let token =
            ResumeToken::read(raw.raw().get_document("_id").unwrap_or(&RawDocumentBuf::new()));
        let token = token.unwrap_or_else(ResumeToken::none);
        let StreamEvent::Happened(mut seen) = self.read_as(&raw, token, id.into()).ok()? else {
            return None;
        };
        seen.event.copy = copy;
        if let Some(fields) = &self.fields {
            for document in [&mut seen.event.document, &mut seen.event.before] {
                let of = |document: Document| Document::from(fields.of_updated(document.raw()));
                *document = document.take().map(of);
            }
        }
        // Whoever asks for it again takes it as it is.
        seen.event.lacks = None;
        Some(*seen)
    }
}

impl Source {
    /// Opens a rule's stream. `whole` has every update bring its document, whatever the rule says; `max_await`
    /// is how long an idle reply is waited for, `None` is the rule file's.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn watch_events<'a>(
        &self,
        query: &'a EventQuery,
        start: &EventStart,
        (whole, extent): (bool, Extent),
        max_await: Option<Duration>,
        budget: &Arc<Budget>,
    ) -> Result<EventStream<'a>, Error> {
        let (database, collection) = query.scope.aggregated();
        let command = rawdoc! {
            "aggregate": collection,
            "pipeline": query.pipeline(start, whole, extent, self.splits),
            // The first reply comes at once, so that opening never waits for an event.
            "cursor": { "batchSize": 0 },
            "readConcern": { "level": "majority" },
            "comment": "mongosync",
        };
        let batch_size = match extent {
            Extent::Single | Extent::Slim => 1,
            Extent::Whole => self.batch_size.min(i32::MAX as u32),
        };
        let cursor = self
            .cursor(CursorCommand {
                database: &self.client.database(database),
                command,
                batch_size: Some(batch_size),
                max_time: Some(max_await.unwrap_or(self.max_await)),
            })
            .await?;
        Ok(EventStream {
            query,
            cursor,
            budget: budget.clone(),
            sharded: self.sharded,
            opened: false,
            parts: Parts::default(),
        })
    }
}

impl EventStream<'_> {
    /// The next reply once there is [room](Parts::room) for it, empty where nothing happened within `max_await`. Cancel
    /// safe.
    ///
    /// # Errors
    /// Those of the server; [`Error::Garbled`] where it has closed the stream. The stream is then of no
    /// more use; open it again behind the last token.
    pub async fn next(&mut self) -> Result<EventBatch, Error> {
        self.parts.room(&self.budget).await;
        let Some(batch) = self.cursor.next().await else { return Err(Error::garbled(CLOSED)) };
        let batch = batch?;
        let permit = self.budget.take(Reply::cost(&batch));
        let reply = Reply::new(batch, Some(permit));
        let opened = std::mem::replace(&mut self.opened, true);
        let mut events = Vec::new();
        let mut last = None;
        for raw in reply.documents()? {
            let raw = raw?;
            let token = raw.raw().get_document("_id").ok().and_then(ResumeToken::read);
            let token = token.ok_or_else(|| self.query.lacking("_id"))?;
            last = raw.raw().get_timestamp("clusterTime").ok().map(ClusterTime::from).or(last);
            if let Some(whole) = self.parts.take(raw, &token, &self.budget)? {
                let id = Happened::id_in_stream(&self.query.rule, &token.of_event());
                events.push(self.query.read_as(&whole, token, id)?);
            }
        }
        let last = last.or_else(|| events.last().map(StreamEvent::time));
        Ok(EventBatch {
            frontier: frontier(last, self.sharded || !opened || !self.parts.is_empty(), &reply)?,
            token: if self.parts.is_empty() { Some(reply.post_batch_token()?) } else { None },
            read: reply.operation_time(),
            events,
        })
    }
}

/// What it says where the server has closed the stream: after an invalidate, or because the collection
/// or database is gone.
pub const CLOSED: &str = "the end of the change stream";

/// The parts of an event that is larger than a message.
#[derive(Default, Debug)]
struct Parts {
    parts: Vec<Document>,
    bytes: usize,
}

/// Bytes of an event that was put together, and what pays for them.
struct Assembled {
    bytes: Vec<u8>,
    _permit: Permit,
}

impl AsRef<[u8]> for Assembled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Waits until another reply may be asked for. In the midst of an event that is at once, whatever the
    /// budget says: nothing but the next part lets go of those that are held. Cancel safe.
    async fn room(&self, budget: &Budget) {
        if self.is_empty() {
            budget.available().await;
        }
    }

    /// Takes what came; an event that is whole is given back, with the token of its last part.
    fn take(
        &mut self,
        raw: Document,
        token: &ResumeToken,
        budget: &Arc<Budget>,
    ) -> Result<Option<Document>, Error> {
        let Ok(split) = raw.raw().get_document("splitEvent") else {
            *self = Self::default();
            return Ok(Some(raw));
        };
        let (Ok(part), Ok(of)) = (split.get_i32("fragment"), split.get_i32("of")) else {
            return Err(Error::garbled("a part of an event without its number"));
        };
        if usize::try_from(part).ok() != Some(self.parts.len() + 1) {
            *self = Self::default();
            return Err(Error::garbled("parts of an event in another order"));
        }
        self.bytes += raw.size();
        if self.bytes > MOST_BYTES {
            *self = Self::default();
            return Err(Error::garbled("an event of more parts than there can be"));
        }
        self.parts.push(raw);
        if part < of {
            return Ok(None);
        }
        let Self { parts, .. } = std::mem::take(self);
        let mut whole = RawDocumentBuf::new();
        for part in &parts {
            for element in part.raw().iter() {
                let (name, value) =
                    element.map_err(|_| Error::garbled("a broken part of an event"))?;
                if !matches!(name.as_str(), "_id" | "splitEvent") {
                    whole.append(name, value);
                }
            }
        }
        whole.append(cstr("_id"), token.document());
        let bytes = whole.into_bytes();
        let permit = budget.take(bytes.len());
        let bytes = Bytes::from_owner(Assembled { bytes, _permit: permit });
        let whole =
            Document::from_bytes(bytes).map_err(|_| Error::garbled("parts that make no event"))?;
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests;
