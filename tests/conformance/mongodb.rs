//! Another MongoDB, behind a network that fails.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt};
use mongodb::{
    Collection, IndexModel,
    bson::{Bson, Document, Timestamp, doc},
};
use mongosync_servers::MongoDb;
use serde_json::Value;

use super::side::{Side, Trouble};
use crate::support::{
    checker::plain_id,
    fail_command::FailCommand,
    mirror,
    tcp_proxy::{Direction, Flow, TcpProxy},
    told::{self, Told, now},
};

/// What is lost is noticed soon.
const IMPATIENT: &str =
    "connectTimeoutMS=1000&serverSelectionTimeoutMS=2000&heartbeatFrequencyMS=500";
/// Commands that write documents.
const WRITES: [&str; 3] = ["insert", "update", "delete"];

pub struct MongoSide {
    mirror: Arc<MongoDb>,
    held: Collection<Document>,
    proxy: TcpProxy,
    /// The name of the application, by which only its own commands fail.
    name: String,
    since: Timestamp,
    point: Option<FailCommand>,
}

impl MongoSide {
    pub async fn new(database: &str) -> Result<Self> {
        let mirror = mirror().await?;
        let client = mirror.client();
        let node = mirror.node_uri(0);
        let address = node.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
        Ok(Self {
            held: client.database(database).collection("items"),
            proxy: TcpProxy::start(address.context("an address")?.parse()?).await?,
            name: database.to_owned(),
            since: now(&client).await?,
            point: None,
            mirror,
        })
    }

    async fn fail(&mut self, data: Document) -> Result<()> {
        let node = self.mirror.node_client(self.mirror.primary().await?);
        self.point = Some(FailCommand::always(&node, &self.name, data).await?);
        Ok(())
    }
}

/// Every type is told apart.
fn shown(document: &Document) -> Value {
    let mut document = document.clone();
    document.remove("_id");
    Bson::Document(document).into_canonical_extjson()
}

#[async_trait]
impl Side for MongoSide {
    fn entry(&self, settings: &str) -> String {
        let (address, name) = (self.proxy.address(), &self.name);
        format!(
            "{{ mongodb: {{ uri: \"mongodb://{address}/?directConnection=true&{IMPATIENT}&appName={name}\", \
             timeout: 3s, retry: {{ initial: 20ms, max: 100ms }}, {settings} }} }}"
        )
    }

    fn dead(&self) -> String {
        "{ mongodb: { uri: \"mongodb://127.0.0.1:1/?directConnection=true\" } }".to_owned()
    }

    fn shown(&self, document: &Document) -> Value {
        shown(document)
    }

    async fn held(&self) -> Result<BTreeMap<String, Value>> {
        let documents: Vec<Document> = self.held.find(doc! {}).await?.try_collect().await?;
        let held = documents.iter().map(|document| {
            let id = document.get("_id").and_then(plain_id).context("a plain id")?;
            Ok((id, shown(document)))
        });
        held.collect()
    }

    /// As its own change stream shows it.
    async fn seen(&self) -> Result<Vec<(String, i64)>> {
        let last = doc! { "_id": "the last one" };
        self.held.insert_one(last.clone()).await?;
        self.held.delete_one(last).await?;
        let mut stream = self.held.watch().start_at_operation_time(self.since).await?;
        let mut seen = Vec::new();
        while let Some(event) = stream.next().await {
            let event = event?;
            let Some(key) = event.document_key else { continue };
            let id = key.get("_id").and_then(plain_id).context("a plain id")?;
            if id == "the last one" {
                return Ok(seen);
            }
            let updated = event.update_description.map(|update| update.updated_fields);
            let n = event.full_document.or(updated).and_then(|fields| fields.get("n").cloned());
            seen.extend(n.and_then(|n| n.as_i64()).map(|n| (id, n)));
        }
        bail!("the stream has ended")
    }

    /// In the order in which they were inserted.
    async fn told(&self) -> Result<Vec<Told>> {
        let found = self.held.find(doc! {}).sort(doc! { "$natural": 1 }).await?;
        let events: Vec<Document> = found.try_collect().await?;
        let told = events.into_iter().map(|mut event| {
            let Timestamp { time, increment } = event.get_timestamp("cluster_time")?;
            let id = event.get_document("key")?.get("_id").context("an _id")?;
            let (document, event_id) = (told::shown(id), event.get_str("_id")?.to_owned());
            event.insert("cluster_time", format!("{time}.{increment}"));
            let data = Bson::Document(event).into_relaxed_extjson();
            Ok(Told::about(&event_id, document, &data))
        });
        told.collect()
    }

    /// An index that takes no place that is none.
    async fn refuse_the_unfit(&mut self) -> Result<()> {
        let index = IndexModel::builder().keys(doc! { "place": "2dsphere" }).build();
        self.held.create_index(index).await?;
        Ok(())
    }

    fn unfit(&self) -> Document {
        doc! { "place": { "type": "Point", "coordinates": [999, 999] } }
    }

    fn words(&self) -> &'static str {
        "Can't extract geo keys"
    }

    async fn take_the_unfit(&mut self) -> Result<()> {
        Ok(self.held.drop_index("place_2dsphere").await?)
    }

    fn slow(&mut self, slow: bool) {
        self.proxy.set(Direction::ToServer, if slow { Flow::Pace(20_000) } else { Flow::Pass });
    }

    async fn jolt(&mut self, turn: u32) -> Result<()> {
        match turn % 3 {
            0 => self.proxy.reset(),
            1 => self.proxy.cut(),
            _ => {}
        }
        Ok(())
    }

    async fn calm(&mut self) -> Result<()> {
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        let writes = WRITES.to_vec();
        match trouble {
            Trouble::CutBefore => {
                self.fail(doc! { "failCommands": writes, "closeConnection": true }).await?;
            }
            Trouble::NotPrimary => {
                self.fail(doc! { "failCommands": writes, "errorCode": 10_107 }).await?;
            }
            Trouble::NoMajority => {
                let error = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
                self.fail(doc! { "failCommands": writes, "writeConcernError": error }).await?;
            }
            Trouble::NobodyListens => {
                self.proxy.refuse().await;
                self.proxy.reset();
            }
            Trouble::RequestsVanish => self.proxy.set(Direction::ToServer, Flow::Swallow),
            Trouble::AnswersVanish => self.proxy.set(Direction::FromServer, Flow::Swallow),
            other => unreachable!("{other:?} is no trouble of a MongoDB"),
        }
        Ok(())
    }

    async fn end(&mut self, trouble: Trouble) -> Result<()> {
        self.proxy.set_both(Flow::Pass);
        if trouble == Trouble::NobodyListens {
            self.proxy.accept().await?;
        }
        if let Some(point) = self.point.take() {
            point.end().await?;
        }
        Ok(())
    }
}
