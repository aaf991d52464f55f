//! Reads MongoDB: namespaces, copies in chunks, the change stream, and documents by key.
//!
//! First of the stages. It reads and waits for the server; it keeps no positions, knows no target,
//! and retries nothing: each call is one attempt, and the pipeline decides what to do about an
//! error by its [`error::Remedy`].

pub mod budget;
pub mod chunks;
pub mod error;
mod find;
pub mod lookup;
pub mod namespaces;
pub mod reply;
pub mod scan;
pub mod stream;

use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc, rawdoc};
use futures_util::StreamExt;
use mongodb::{
    Client, Database,
    options::{ClientOptions, SelectionCriteria},
    raw_batch_cursor::RawBatchCursor,
};

use crate::{change::ClusterTime, rules::model};

use error::Error;

/// A connected source. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    client: Client,
    criteria: Option<SelectionCriteria>,
    batch_size: u32,
    max_await: Duration,
    sharded: bool,
    address: String,
}

/// What a cursor command is run with.
struct CursorCommand<'a> {
    database: &'a Database,
    command: RawDocumentBuf,
    batch_size: Option<u32>,
    max_time: Option<Duration>,
}

impl Source {
    /// Connects and asks the server what it is.
    ///
    /// # Errors
    /// `Refused` for a standalone server or one before 6.0; `Driver` where it can't be reached
    /// within `wait`.
    pub async fn connect(settings: &model::Source, wait: Duration) -> Result<Self, Error> {
        let mut options = ClientOptions::parse(settings.uri.expose()).await?;
        options.app_name.get_or_insert_with(|| "mongosync".into());
        options.server_selection_timeout.get_or_insert(wait.min(Duration::from_secs(30)));
        options.connect_timeout.get_or_insert(Duration::from_secs(10));
        let address = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let criteria = options.selection_criteria.clone();
        let client = Client::with_options(options)?;
        let mut source = Self {
            client,
            criteria,
            batch_size: settings.batch_size,
            max_await: settings.max_await,
            sharded: false,
            address,
        };
        source.identify().await?;
        Ok(source)
    }

    async fn identify(&mut self) -> Result<(), Error> {
        let admin = self.client.database("admin");
        let hello = self.command(&admin, doc! { "hello": 1 }).await?;
        self.sharded = hello.get_str("msg").is_ok_and(|text| text == "isdbgrid");
        if !self.sharded && hello.get_str("setName").is_err() {
            return Err(Error::Refused(format!(
                "the source at {} is a single server without a replica set, and has no change \
                 streams; start mongod with --replSet rs0 and run rs.initiate() once",
                self.address
            )));
        }
        let info = self.command(&admin, doc! { "buildInfo": 1 }).await?;
        let version = info.get_str("version").unwrap_or("0").to_owned();
        let major: u32 =
            version.split('.').next().and_then(|text| text.parse().ok()).unwrap_or_default();
        if major < 6 {
            return Err(Error::Refused(format!(
                "the source at {} is MongoDB {version}; mongosync needs 6.0 or later",
                self.address
            )));
        }
        tracing::info!(address = self.address, version, sharded = self.sharded, "source reached");
        Ok(())
    }

    async fn command(&self, database: &Database, command: Document) -> Result<Document, Error> {
        let mut action = database.run_command(command);
        if let Some(criteria) = &self.criteria {
            action = action.selection_criteria(criteria.clone());
        }
        Ok(action.await?)
    }

    /// The driver's client, for a checkpoint store that lives in the source.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The hosts, without user and password.
    pub fn address(&self) -> &str {
        &self.address
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

    /// How much time lies between the oldest and the newest entry of the oplog; `None` behind a
    /// mongos, which has none.
    ///
    /// # Errors
    /// Whatever the driver returns; needs the right to read `local`.
    pub async fn oplog_window(&self) -> Result<Option<Duration>, Error> {
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
            ends.push(time.time);
        }
        Ok(Some(Duration::from_secs(u64::from(ends[1].saturating_sub(ends[0])))))
    }

    async fn cursor(&self, command: CursorCommand<'_>) -> Result<RawBatchCursor, Error> {
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
        Ok(action.batch().await?)
    }

    /// All documents of a small result, decoded.
    async fn all(
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
