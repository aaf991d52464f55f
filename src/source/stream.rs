//! The keys-only change stream: which documents changed, and when; never what they hold.
//!
//! It is opened by cluster time, never by resume token. A token is bound to the pipeline that made
//! it (a changed rule file would make it unusable, error 280) and a collection stream can't be
//! resumed after an invalidate; a time has neither fault. The price is that events with exactly the
//! starting time are returned again, which `documents` delivery does not notice.

use std::time::Duration;

use bson::{RawArrayBuf, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::{
    change::{ClusterTime, DocumentKey, Namespace, event::Op},
    rules::model::{NamespacePattern, Selector},
};

use super::{CursorCommand, Source, error::Error, replies::Replies, reply::Reply};

/// What a stream watches: the smallest that holds all its rules' namespaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One collection.
    Collection(Namespace),
    /// One database.
    Database(String),
    /// The whole deployment.
    Deployment,
}

impl Scope {
    /// The smallest scope for these selectors.
    pub fn of<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Self {
        let mut scope: Option<Self> = None;
        for pattern in selectors.into_iter().flat_map(|selector| &selector.include) {
            let own = match pattern {
                NamespacePattern::Exact(namespace) => Self::Collection(namespace.clone()),
                NamespacePattern::Glob(glob) => {
                    glob.literal_database.clone().map_or(Self::Deployment, Self::Database)
                }
                NamespacePattern::Regex(_) => Self::Deployment,
            };
            scope = Some(match scope {
                None => own,
                Some(other) => other.join(own),
            });
        }
        scope.unwrap_or(Self::Deployment)
    }

    /// The database and the collection of the `aggregate` that opens its stream.
    pub(super) fn aggregated(&self) -> (&str, bson::RawBson) {
        match self {
            Self::Collection(namespace) => {
                (namespace.database(), bson::RawBson::String(namespace.collection().to_owned()))
            }
            Self::Database(database) => (database, bson::RawBson::Int32(1)),
            Self::Deployment => ("admin", bson::RawBson::Int32(1)),
        }
    }

    fn database(&self) -> Option<&str> {
        match self {
            Self::Collection(namespace) => Some(namespace.database()),
            Self::Database(database) => Some(database),
            Self::Deployment => None,
        }
    }

    fn join(self, other: Self) -> Self {
        if self == other {
            return self;
        }
        match (self.database(), other.database()) {
            (Some(one), Some(two)) if one == two => Self::Database(one.to_owned()),
            _ => Self::Deployment,
        }
    }
}

/// One event of the stream.
#[derive(Debug)]
pub enum Event {
    /// A document was inserted, updated, replaced or deleted; which of these does not matter,
    /// since its present state is looked up.
    Changed {
        /// Where.
        namespace: Namespace,
        /// Which document.
        key: DocumentKey,
        /// The event's cluster time.
        time: ClusterTime,
        /// The server's clock when it was written, in milliseconds since 1970.
        wall_time: Option<bson::DateTime>,
        /// What happened, for metrics.
        op: Op,
    },
    /// A collection or a view was made or changed, or its indexes were. Only of streams that show
    /// definitions.
    Defined {
        /// What the server calls it: `create`, `modify`, `createIndexes`, `dropIndexes`.
        op: &'static str,
        /// Which.
        namespace: Namespace,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// A collection or database ended or got another name.
    Ended {
        /// What the server calls it: `drop`, `rename`, `dropDatabase`.
        op: &'static str,
        /// The collection, or for `dropDatabase` nothing.
        namespace: Option<Namespace>,
        /// A rename's new name.
        to: Option<Namespace>,
        /// The event's cluster time.
        time: ClusterTime,
    },
    /// The stream is closed by the server after this; it has to be opened behind this event.
    Invalidated {
        /// The event's cluster time.
        time: ClusterTime,
        /// The only thing that a stream can be opened behind.
        token: RawDocumentBuf,
    },
}

/// One reply of the stream.
#[derive(Debug)]
pub struct Batch {
    /// In the order of the stream.
    pub events: Vec<Event>,
    /// Every event up to and including this time has been returned, by this batch or before.
    pub frontier: ClusterTime,
}

/// Where to open a stream.
#[derive(Clone, Debug)]
pub enum Start {
    /// At a time; events with this very time are returned.
    At(ClusterTime),
    /// Behind an invalidate.
    After(RawDocumentBuf),
}

/// An open change stream.
pub struct ChangeStream {
    cursor: Replies,
    sharded: bool,
    opened: bool,
}

impl Source {
    /// Opens a stream over all namespaces that the selectors take.
    ///
    /// `max_await` is how long an idle reply is waited for; `None` is the rule file's. `definitions` says
    /// whether it shows what is made and changed beside documents, and views that are dropped.
    ///
    /// # Errors
    /// Those of the server; `Remedy::HistoryLost` where the oplog does not reach back to `start`.
    pub async fn watch(
        &self,
        scope: &Scope,
        selectors: &[&Selector],
        start: &Start,
        max_await: Option<Duration>,
        definitions: bool,
    ) -> Result<ChangeStream, Error> {
        let mut stage = RawDocumentBuf::new();
        match start {
            Start::At(time) => {
                stage.append(cstr("startAtOperationTime"), bson::Timestamp::from(*time));
            }
            Start::After(token) => stage.append(cstr("startAfter"), token.clone()),
        }
        if definitions {
            stage.append(cstr("showExpandedEvents"), true);
        }
        if *scope == Scope::Deployment {
            stage.append(cstr("allChangesForCluster"), true);
        }
        let (database, collection) = scope.aggregated();
        let mut pipeline = RawArrayBuf::new();
        pipeline.push(rawdoc! { "$changeStream": stage });
        pipeline.push(rawdoc! { "$match": selection(scope, selectors, definitions) });
        pipeline.push(rawdoc! { "$project": {
            "operationType": 1, "ns": 1, "to": 1, "documentKey": 1, "clusterTime": 1, "wallTime": 1,
        } });
        let batch_size = i32::try_from(self.batch_size).unwrap_or(i32::MAX);
        let command = rawdoc! {
            "aggregate": collection,
            "pipeline": pipeline,
            // The first reply comes at once, so that opening never waits for an event.
            "cursor": { "batchSize": 0 },
            "readConcern": { "level": "majority" },
            "comment": "mongosync",
        };
        let cursor = self
            .cursor(CursorCommand {
                database: &self.client.database(database),
                command,
                batch_size: Some(batch_size as u32),
                max_time: Some(max_await.unwrap_or(self.max_await)),
            })
            .await?;
        Ok(ChangeStream { cursor, sharded: self.sharded, opened: false })
    }
}

pub(super) fn cstr(text: &'static str) -> &'static bson::raw::CStr {
    <&bson::raw::CStr>::try_from(text).expect("a literal without a zero byte")
}

impl ChangeStream {
    /// The next reply, empty where nothing happened within `max_await`. Cancel safe.
    ///
    /// # Errors
    /// Those of the server. The stream is then of no more use; open it again at the last frontier.
    pub async fn next(&mut self) -> Result<Batch, Error> {
        let Some(batch) = self.cursor.next().await else {
            // The server closed the cursor: after an invalidate, or a dropped database.
            return Err(Error::garbled("the end of the change stream"));
        };
        let reply = Reply::new(batch?, None);
        let opened = std::mem::replace(&mut self.opened, true);
        let events = reply
            .batch()?
            .into_iter()
            .map(|element| match element {
                Ok(RawBsonRef::Document(event)) => parse(event),
                _ => Err(Error::garbled("a batch that holds something else than documents")),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let frontier = frontier(events.last().map(Event::time), self.sharded || !opened, &reply)?;
        Ok(Batch { events, frontier })
    }
}

/// Up to which time every event has been returned, after a reply whose last event is of the time
/// `last`. `coming` says whether events of the time of an empty reply may still come.
pub(super) fn frontier(
    last: Option<ClusterTime>,
    coming: bool,
    reply: &Reply,
) -> Result<ClusterTime, Error> {
    Ok(match last {
        // More events of the same transaction, with the same time, may follow.
        Some(last) => last.before(),
        // The first reply only tells where the stream begins, events at that time are to come;
        // and a mongos promises no more than that nothing before the time follows.
        None if coming => reply.post_batch_time()?.before(),
        None => reply.post_batch_time()?,
    })
}

impl Event {
    /// The event's cluster time.
    pub fn time(&self) -> ClusterTime {
        match self {
            Self::Changed { time, .. }
            | Self::Defined { time, .. }
            | Self::Ended { time, .. }
            | Self::Invalidated { time, .. } => *time,
        }
    }
}

/// What happens to collections, views and indexes as such.
const DEFINITIONS: [&str; 4] = ["create", "modify", "createIndexes", "dropIndexes"];

/// The server-side selection. It may let through more than the rules take, never less: patterns are
/// matched by the selectors themselves.
pub(super) fn selection(
    scope: &Scope,
    selectors: &[&Selector],
    definitions: bool,
) -> RawDocumentBuf {
    // Without this clause dropDatabase would close a database stream in silence.
    let mut any = RawArrayBuf::new();
    any.push(rawdoc! { "operationType": { "$in": ["dropDatabase", "invalidate"] } });
    for pattern in selectors.iter().flat_map(|selector| &selector.include) {
        match pattern {
            NamespacePattern::Exact(name) => {
                for field in ["ns", "to"] {
                    any.push(clause(field, Some(name.database()), Some(name.collection())));
                }
            }
            NamespacePattern::Glob(glob) => {
                for field in ["ns", "to"] {
                    any.push(clause(field, glob.literal_database.as_deref(), None));
                }
            }
            NamespacePattern::Regex(_) => any.push(rawdoc! {}),
        }
    }
    let mut all = RawArrayBuf::new();
    let mut operations = RawArrayBuf::new();
    for operation in
        ["insert", "update", "replace", "delete", "drop", "rename", "dropDatabase", "invalidate"]
    {
        operations.push(operation);
    }
    if definitions {
        DEFINITIONS.iter().for_each(|operation| operations.push(*operation));
    }
    all.push(rawdoc! { "operationType": { "$in": operations } });
    all.push(rawdoc! { "$or": any });
    if *scope == Scope::Deployment {
        all.push(rawdoc! { "ns.db": { "$nin": ["admin", "config", "local"] } });
    }
    rawdoc! { "$and": all }
}

fn clause(field: &str, database: Option<&str>, collection: Option<&str>) -> RawDocumentBuf {
    let mut clause = bson::Document::new();
    if let Some(database) = database {
        clause.insert(format!("{field}.db"), database);
    }
    match collection {
        Some(collection) => clause.insert(format!("{field}.coll"), collection),
        None => clause.insert(format!("{field}.coll"), bson::doc! { "$exists": true }),
    };
    RawDocumentBuf::try_from(&clause).expect("names of namespaces hold no zero bytes")
}

fn parse(event: &RawDocument) -> Result<Event, Error> {
    let (mut op, mut token, mut namespace, mut to) = ("", None, None, None);
    let (mut key, mut time, mut wall_time) = (None, ClusterTime::ZERO, None);
    for element in event.iter() {
        let (name, value) = element.map_err(|_| Error::garbled("a broken change event"))?;
        match (name.as_str(), value) {
            ("operationType", RawBsonRef::String(text)) => op = text,
            ("_id", RawBsonRef::Document(raw)) => token = Some(raw),
            ("ns", RawBsonRef::Document(raw)) => namespace = namespace_of(raw),
            ("to", RawBsonRef::Document(raw)) => to = namespace_of(raw),
            ("documentKey", RawBsonRef::Document(raw)) => key = Some(raw),
            ("clusterTime", RawBsonRef::Timestamp(at)) => time = at.into(),
            ("wallTime", RawBsonRef::DateTime(at)) => wall_time = Some(at),
            _ => {}
        }
    }
    if let Some(op) = DEFINITIONS.into_iter().find(|known| *known == op) {
        let namespace = namespace.ok_or_else(|| Error::garbled("an event without a namespace"))?;
        return Ok(Event::Defined { op, namespace, time });
    }
    let operation = match op {
        "invalidate" => {
            let token = token.ok_or_else(|| Error::garbled("an event without a token"))?;
            return Ok(Event::Invalidated { time, token: token.to_owned() });
        }
        "drop" => return Ok(Event::Ended { op: "drop", namespace, to, time }),
        "rename" => return Ok(Event::Ended { op: "rename", namespace, to, time }),
        "dropDatabase" => return Ok(Event::Ended { op: "dropDatabase", namespace, to, time }),
        op => Op::named(op).ok_or_else(|| Error::garbled("an event that was not asked for"))?,
    };
    let key = key.ok_or_else(|| Error::garbled("an event without a document key"))?;
    Ok(Event::Changed {
        namespace: namespace.ok_or_else(|| Error::garbled("an event without a namespace"))?,
        key: DocumentKey::from_document_key(key)
            .map_err(|_| Error::garbled("a broken document key"))?,
        time,
        wall_time,
        op: operation,
    })
}

pub(super) fn namespace_of(raw: &RawDocument) -> Option<Namespace> {
    Some(Namespace::new(raw.get_str("db").ok()?, raw.get_str("coll").ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::model::NamespaceGlob;

    fn exact(name: &str) -> Selector {
        let namespace = Namespace::parse(name).expect("a namespace");
        Selector { include: vec![NamespacePattern::Exact(namespace)], exclude: vec![] }
    }

    fn glob(database: &str, collection: &str) -> Selector {
        let matcher = |text| globset::Glob::new(text).expect("a glob").compile_matcher();
        let literal = !database.contains('*');
        Selector {
            include: vec![NamespacePattern::Glob(Box::new(NamespaceGlob {
                text: format!("{database}.{collection}"),
                database: matcher(database),
                literal_database: literal.then(|| database.to_owned()),
                collection: matcher(collection),
            }))],
            exclude: vec![],
        }
    }

    #[test]
    fn the_scope_is_the_smallest_that_holds_all() {
        let database = |name: &str| Scope::Database(name.into());
        let rows = [
            (vec![exact("a.b")], Scope::Collection(Namespace::new("a", "b"))),
            (vec![exact("a.b"), exact("a.b")], Scope::Collection(Namespace::new("a", "b"))),
            (vec![exact("a.b"), exact("a.c")], database("a")),
            (vec![exact("a.b"), exact("c.b")], Scope::Deployment),
            (vec![glob("a", "*")], database("a")),
            (vec![glob("a", "*"), exact("a.x")], database("a")),
            (vec![glob("*", "x"), exact("a.x")], Scope::Deployment),
        ];
        for (selectors, expected) in rows {
            assert_eq!(Scope::of(&selectors), expected);
        }
    }

    #[test]
    fn an_event_is_read() {
        let event = rawdoc! {
            "_id": { "_data": "82" },
            "operationType": "update",
            "clusterTime": bson::Timestamp { time: 7, increment: 2 },
            "ns": { "db": "shop", "coll": "a.b" },
            "documentKey": { "_id": 5 },
        };
        let Event::Changed { namespace, time, op, .. } = parse(&event).expect("an event") else {
            panic!("not a change")
        };
        assert_eq!(namespace, Namespace::new("shop", "a.b"));
        assert_eq!((time.seconds(), time.increment()), (7, 2));
        assert_eq!(op, Op::Update);
    }

    #[test]
    fn a_frontier_never_covers_the_time_of_the_last_event() {
        assert_eq!(ClusterTime(8).before(), ClusterTime(7));
        assert_eq!(ClusterTime::ZERO.before(), ClusterTime::ZERO);
    }
}
