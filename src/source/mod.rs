//! Reads MongoDB: namespaces, copies in chunks, the change stream, and documents by key.
//!
//! First of the stages. It reads and waits for the server; it keeps no positions, knows no target,
//! and retries nothing: each call is one attempt, and the pipeline decides what to do about an
//! error by its [`error::Remedy`].

pub mod budget;
pub mod chunks;
pub mod error;
mod event_filter;
mod event_fields;
pub mod events;
mod find;
pub mod images;
pub mod lookup;
pub mod namespaces;
pub mod privileges;
mod replies;
pub mod reply;
mod sample;
pub mod scan;
pub mod selection;
pub mod stream;

use std::{sync::Arc, time::Duration};

use bson::{Document, RawDocumentBuf, doc, oid::ObjectId, rawdoc};
use mongodb::{Client, Database, options::SelectionCriteria};
use tokio::sync::Semaphore;

use crate::{change::ClusterTime, client, rules::model};

use error::Error;
pub use replies::Patience;
use replies::Replies;

/// See [`Source::together`].
const TOGETHER: usize = 8;

/// A connected source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    client: Client,
    criteria: Option<SelectionCriteria>,
    batch_size: u32,
    max_await: Duration,
    sharded: bool,
    /// Whether a change stream can split an event that is too large for one message.
    splits: bool,
    version: String,
    address: String,
    patience: Patience,
    /// Questions that are asked at a time where many are asked together, by all that share the client.
    together: Arc<Semaphore>,
}

/// What the server says that it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// As MongoDB writes it, such as `6.0.5`.
    pub version: String,
    /// The replica set's name; `None` for a single server, and behind a mongos.
    pub set: Option<String>,
    /// Whether it is a mongos.
    pub sharded: bool,
}

impl Identity {
    /// Why it can't be a source, each with the way out; nothing where it can. `address` is for the
    /// messages.
    pub fn faults(&self, address: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.sharded && self.set.is_none() {
            faults.push(format!(
                "the source at {address} is a single server without a replica set, and has no \
                 change streams; start mongod with --replSet rs0 and run rs.initiate() once"
            ));
        }
        let major: u32 =
            self.version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        if major < 6 {
            faults.push(format!(
                "the source at {address} is MongoDB {}; mongosync needs 6.0 or later",
                self.version
            ));
        }
        faults
    }
}

impl Identity {
    /// Whether it knows `$changeStreamSplitLargeEvent`: 6.0.9 and later, and 7.0 and later.
    pub fn splits_events(&self) -> bool {
        let mut parts = self.version.split(['.', '-']).map(|part| part.parse().unwrap_or(0_u32));
        let mut part = || parts.next().unwrap_or_default();
        match (part(), part(), part()) {
            (6, 0, patch) => patch >= 9,
            (major, ..) => major >= 7,
        }
    }
}

/// How far the oplog reaches, and how full it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Oplog {
    /// The time of its oldest entry.
    pub first: ClusterTime,
    /// The time of its newest entry.
    pub last: ClusterTime,
    /// Its size and the size that it may reach, in bytes; `None` where the user may not know.
    pub size: Option<(u64, u64)>,
}

impl Oplog {
    /// Whether it is about as large as it may become, so that old entries go; where that is not known,
    /// it may be.
    pub fn is_full(&self) -> bool {
        self.size.is_none_or(|(size, most)| size >= most / 10 * 9)
    }

    /// How much time lies between its oldest entry and a position.
    pub fn left(&self, position: ClusterTime) -> Duration {
        Duration::from_secs(position.seconds().saturating_sub(self.first.seconds()).into())
    }

    /// How much time lies between its ends.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.last.seconds().saturating_sub(self.first.seconds()).into())
    }
}

/// What a cursor command is run with.
struct CursorCommand<'a> {
    database: &'a Database,
    command: RawDocumentBuf,
    batch_size: Option<u32>,
    max_time: Option<Duration>,
}

/// The server's code for a right that is missing.
const UNAUTHORIZED: i32 = 13;

impl Source {
    /// Connects and asks the server what it is.
    ///
    /// # Errors
    /// `Refused` for a standalone server or one before 6.0; `Driver` where it can't be reached
    /// within `wait`.
    pub async fn connect(settings: &model::Source, wait: Duration) -> Result<Self, Error> {
        let (source, identity) = Self::reach(settings, wait).await?;
        if let Some(fault) = identity.faults(source.address()).into_iter().next() {
            return Err(Error::Refused(fault));
        }
        let Identity { version, sharded, .. } = identity;
        tracing::info!(address = source.address, version, sharded, "source reached");
        Ok(source)
    }

    /// Connects and asks the server what it is, whether or not it can be a source.
    ///
    /// # Errors
    /// `Driver` where it can't be reached within `wait`.
    pub async fn reach(
        settings: &model::Source,
        wait: Duration,
    ) -> Result<(Self, Identity), Error> {
        let mut options = client::options(&settings.uri).await?;
        options.server_selection_timeout.get_or_insert(wait.min(Duration::from_secs(30)));
        let address = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let criteria = options.selection_criteria.clone();
        let client = Client::with_options(options)?;
        let mut source = Self {
            client,
            criteria,
            batch_size: settings.batch_size,
            max_await: settings.max_await,
            sharded: false,
            splits: false,
            version: String::new(),
            address,
            patience: Patience::FIRST,
            together: Arc::new(Semaphore::new(TOGETHER)),
        };
        let identity = source.identify().await?;
        source.sharded = identity.sharded;
        source.splits = identity.splits_events();
        source.version.clone_from(&identity.version);
        Ok((source, identity))
    }

    async fn identify(&self) -> Result<Identity, Error> {
        let admin = self.client.database("admin");
        let hello = self.command(&admin, doc! { "hello": 1 }).await?;
        let info = self.command(&admin, doc! { "buildInfo": 1 }).await?;
        Ok(Identity {
            version: info.get_str("version").unwrap_or("0").to_owned(),
            set: hello.get_str("setName").ok().map(str::to_owned),
            sharded: hello.get_str("msg").is_ok_and(|text| text == "isdbgrid"),
        })
    }

    async fn command(&self, database: &Database, command: Document) -> Result<Document, Error> {
        let mut action = database.run_command(command);
        if let Some(criteria) = &self.criteria {
            action = action.selection_criteria(criteria.clone());
        }
        let answer = async { Ok(action.await?) };
        self.patience.wait("a question about itself", answer).await
    }

    /// The driver's client, for a checkpoint store that lives in the source.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The hosts, without user and password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The server's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the source is a sharded cluster.
    pub fn is_sharded(&self) -> bool {
        self.sharded
    }

    /// A majority-committed time, about now: what is read with it as `afterClusterTime`, and a
    /// stream that is opened at it, miss nothing of each other.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn now(&self) -> Result<ClusterTime, Error> {
        let hello = self.command(&self.client.database("admin"), doc! { "hello": 1 }).await?;
        // `hello` needs no privilege. A mongos has no `lastWrite`; its `operationTime` may belong
        // to a write that is rolled back, but reads and streams wait until it is majority-committed.
        hello
            .get_document("lastWrite")
            .and_then(|write| write.get_document("majorityOpTime"))
            .and_then(|time| time.get_timestamp("ts"))
            .or_else(|_| hello.get_timestamp("operationTime"))
            .map(ClusterTime::from)
            .map_err(|_| Error::garbled("a hello without lastWrite"))
    }

    /// The replica set's or sharded cluster's own id, given when it was set up. `None` where the user
    /// may not read it.
    ///
    /// # Errors
    /// Whatever the driver returns, but for missing rights.
    pub async fn identity(&self) -> Result<Option<ObjectId>, Error> {
        let found = if self.sharded {
            let command = rawdoc! { "find": "version", "limit": 1, "singleBatch": true };
            let found = self.all(&self.client.database("config"), command).await;
            found.map(|found| found.first()?.get_object_id("clusterId").ok())
        } else {
            let command = doc! { "replSetGetConfig": 1 };
            let found = self.command(&self.client.database("admin"), command).await;
            found.map(|found| {
                let settings = found.get_document("config").ok()?.get_document("settings").ok()?;
                settings.get_object_id("replicaSetId").ok()
            })
        };
        match found {
            Err(Error::Driver(error)) if namespaces::code(&error) == Some(UNAUTHORIZED) => Ok(None),
            found => found,
        }
    }

    /// What the server that is read from says of itself.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn hello(&self) -> Result<Document, Error> {
        self.command(&self.client.database("admin"), doc! { "hello": 1 }).await
    }

    /// The oplog without its size; `None` behind a mongos, which has none.
    ///
    /// # Errors
    /// Whatever the driver returns; needs the right to read `local`.
    pub async fn oplog_reach(&self) -> Result<Option<Oplog>, Error> {
        let ends = self.oplog_ends().await?;
        Ok(ends.map(|(first, last)| Oplog { first, last, size: None }))
    }

    /// The time of the oplog's oldest entry; `None` behind a mongos, and where it may not be read.
    ///
    /// # Errors
    /// Whatever else the driver returns.
    pub async fn oplog_first(&self) -> Result<Option<ClusterTime>, Error> {
        match self.oplog_reach().await {
            Err(Error::Driver(error)) if namespaces::code(&error) == Some(UNAUTHORIZED) => Ok(None),
            reach => Ok(reach?.map(|oplog| oplog.first)),
        }
    }

    /// The oplog; `None` behind a mongos, which has none.
    ///
    /// # Errors
    /// As [`Self::oplog_reach`].
    pub async fn oplog(&self) -> Result<Option<Oplog>, Error> {
        let Some((first, last)) = self.oplog_ends().await? else { return Ok(None) };
        let command = rawdoc! {
            "aggregate": "oplog.rs", "cursor": {},
            "pipeline": [
                { "$collStats": { "storageStats": {} } },
                { "$project": { "storageStats.size": 1, "storageStats.maxSize": 1 } },
            ],
        };
        // Another privilege than that to read it.
        let stats = self.all(&self.client.database("local"), command).await.unwrap_or_default();
        let size = stats.first().and_then(|stats| stats.get_document("storageStats").ok());
        let size =
            size.map(|it| (namespaces::number(it, "size"), namespaces::number(it, "maxSize")));
        Ok(Some(Oplog { first, last, size }))
    }

    async fn oplog_ends(&self) -> Result<Option<(ClusterTime, ClusterTime)>, Error> {
        if self.sharded {
            return Ok(None);
        }
        let local = self.client.database("local");
        let mut ends = Vec::with_capacity(2);
        for direction in [1, -1] {
            let command = rawdoc! {
                "find": "oplog.rs", "sort": { "$natural": direction }, "limit": 1,
                "singleBatch": true, "projection": { "ts": 1 },
            };
            let found = self.all(&local, command).await?;
            let entry = found.first().ok_or_else(|| Error::garbled("an empty oplog"))?;
            let time = entry.get_timestamp("ts").map_err(|_| Error::garbled("an oplog entry"))?;
            ends.push(time.into());
        }
        Ok(Some((ends[0], ends[1])))
    }

    /// Opens a cursor.
    async fn cursor(&self, command: CursorCommand<'_>) -> Result<Replies, Error> {
        let mut action = command.database.run_raw_cursor_command(command.command);
        if let Some(criteria) = &self.criteria {
            action = action.selection_criteria(criteria.clone());
        }
        if let Some(size) = command.batch_size {
            action = action.batch_size(size);
        }
        if let Some(time) = command.max_time {
            action = action.max_time(time);
        }
        let opened = async { Ok(action.batch().await?) };
        let cursor = self.patience.wait("a request for a cursor", opened).await?;
        Ok(Replies::new(cursor, self.patience.beyond(command.max_time.unwrap_or_default())))
    }

    /// All documents of a small result that takes no time to make, decoded.
    async fn all(
        &self,
        database: &Database,
        command: RawDocumentBuf,
    ) -> Result<Vec<Document>, Error> {
        let gathered = self.gathered(database, command);
        self.patience.wait("a question about what it holds", gathered).await
    }

    /// All documents of a small result, decoded.
    async fn gathered(
        &self,
        database: &Database,
        command: RawDocumentBuf,
    ) -> Result<Vec<Document>, Error> {
        let mut cursor = self
            .cursor(CursorCommand { database, command, batch_size: None, max_time: None })
            .await?;
        let mut documents = Vec::new();
        while let Some(batch) = cursor.next().await {
            let reply = reply::Reply::new(batch?, None);
            for document in reply.documents()? {
                documents.push(
                    Document::try_from(document?.raw())
                        .map_err(|_| Error::garbled("a broken document"))?,
                );
            }
        }
        Ok(documents)
    }
}

/// `readConcern` for a read that must not miss what the change stream has shown.
fn majority_after(time: ClusterTime) -> RawDocumentBuf {
    if time == ClusterTime::ZERO {
        return rawdoc! { "level": "majority" };
    }
    rawdoc! { "level": "majority", "afterClusterTime": bson::Timestamp::from(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_events_are_split_where_the_server_can() {
        for (version, splits) in [
            ("6.0.5", false),
            ("6.0.9", true),
            ("6.0.15-rc0", true),
            ("6.3.2", false),
            ("7.0.0", true),
            ("8.0.4", true),
            ("", false),
        ] {
            let identity = Identity { version: version.to_owned(), set: None, sharded: false };
            assert_eq!(identity.splits_events(), splits, "{version}");
        }
    }
}
