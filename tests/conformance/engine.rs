//! An Elasticsearch or OpenSearch, behind an endpoint that answers in its stead and a network that fails.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use mongodb::bson::{Document, doc};
use mongosync_servers::Engine;
use serde_json::{Value, json};

use super::side::{Side, Trouble};
use crate::support::{
    checker::{Hit, hits},
    endpoint::{Endpoint, Play},
    engine_kind,
    fault::{Fault, Moment},
    shared_engine,
    tcp_proxy::{Direction, Flow, TcpProxy},
    told::Told,
};

pub struct EngineSide {
    engine: Arc<Engine>,
    endpoint: Endpoint,
    proxy: TcpProxy,
    index: String,
}

impl EngineSide {
    pub async fn new(index: &str) -> Result<Self> {
        let engine = shared_engine().await?;
        let endpoint = Endpoint::start(&engine.url()).await?;
        let proxy = TcpProxy::in_front_of(&endpoint.url()).await?;
        Ok(Self { engine, endpoint, proxy, index: index.to_owned() })
    }

    async fn tell(&self, method: &str, path: &str, body: Value) -> Result<()> {
        let path = format!("/{}{path}", self.index);
        let answer = self.engine.request(method, &path, &body.to_string()).await?;
        ensure!(answer.status < 300, "{method} {path}: {}", answer.body);
        Ok(())
    }

    async fn hits(&self) -> Result<Vec<Hit>> {
        hits(&self.engine, &self.index).await
    }
}

fn answer(status: u16) -> Play {
    Play::Answer(status, r#"{"error":"not now"}"#.to_owned())
}

#[async_trait]
impl Side for EngineSide {
    fn entry(&self, settings: &str) -> String {
        let (kind, address) = (engine_kind(), self.proxy.address());
        format!(
            "{{ {kind}: {{ urls: [\"http://{address}\"], timeout: 3s, \
             retry: {{ initial: 20ms, max: 100ms }}, {settings} }} }}"
        )
    }

    fn dead(&self) -> String {
        format!("{{ {}: {{ urls: [\"http://127.0.0.1:1\"] }} }}", engine_kind())
    }

    async fn held(&self) -> Result<BTreeMap<String, Value>> {
        Ok(self.hits().await?.into_iter().map(|hit| (hit.id, hit.source)).collect())
    }

    /// Versions of what the engine applied.
    async fn seen(&self) -> Result<Vec<(String, i64)>> {
        let history = self.endpoint.history();
        history.check_order()?;
        let applied = history.operations().iter().filter(|operation| operation.applied());
        let seen = applied.map(|it| Ok((it.place.id.clone(), i64::try_from(it.version)?)));
        seen.collect()
    }

    /// In the order in which the engine appended them.
    async fn told(&self) -> Result<Vec<Told>> {
        let order = "/_search?size=10000&seq_no_primary_term=true";
        let path = format!("/{}", self.index);
        self.engine.request("POST", &format!("{path}/_refresh"), "").await?;
        let answer = self.engine.request("GET", &format!("{path}{order}"), "").await?;
        let mut found: Value = serde_json::from_str(&answer.body)?;
        let hits = found["hits"]["hits"].as_array_mut().context("hits")?;
        hits.sort_by_key(|hit| hit["_seq_no"].as_u64());
        let told = hits.iter().map(|hit| {
            let (id, data) = (hit["_id"].as_str().context("an id")?, &hit["_source"]);
            let document = data["id"].as_str().context("the id of a document")?;
            Ok(Told::about(id, document.to_owned(), data))
        });
        told.collect()
    }

    async fn refuse_the_unfit(&mut self) -> Result<()> {
        let fields = json!({ "n": { "type": "long" }, "kind": { "type": "keyword" } });
        self.tell("PUT", "", json!({ "mappings": { "dynamic": "strict", "properties": fields } }))
            .await
    }

    fn unfit(&self) -> Document {
        doc! { "unknown": 1 }
    }

    fn words(&self) -> &'static str {
        "dynamic introduction of [unknown]"
    }

    async fn take_the_unfit(&mut self) -> Result<()> {
        let more = json!({ "properties": { "unknown": { "type": "long" } } });
        self.tell("PUT", "/_mapping", more).await
    }

    fn slow(&mut self, slow: bool) {
        self.endpoint.pace(slow.then_some(20_000));
    }

    async fn jolt(&mut self, turn: u32) -> Result<()> {
        match turn % 5 {
            0 => self.endpoint.bulks(answer(503)),
            1 => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::After))),
            2 => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::Before))),
            3 => {
                self.endpoint.pass_on();
                self.proxy.reset();
            }
            _ => self.endpoint.pass_on(),
        }
        Ok(())
    }

    async fn calm(&mut self) -> Result<()> {
        self.endpoint.pass_on();
        Ok(())
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Answers(status) => self.endpoint.bulks(answer(status)),
            Trouble::CutBefore => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::Before))),
            Trouble::AnswerLost => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::After))),
            Trouble::NobodyListens => {
                self.proxy.refuse().await;
                self.proxy.reset();
            }
            Trouble::RequestsVanish => self.proxy.set(Direction::ToServer, Flow::Swallow),
            Trouble::AnswersVanish => self.proxy.set(Direction::FromServer, Flow::Swallow),
            other => unreachable!("{other:?} is no trouble of an engine"),
        }
        Ok(())
    }

    async fn end(&mut self, trouble: Trouble) -> Result<()> {
        self.endpoint.pass_on();
        self.proxy.set_both(Flow::Pass);
        if trouble == Trouble::NobodyListens {
            self.proxy.accept().await?;
        }
        Ok(())
    }
}
