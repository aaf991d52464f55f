//! The Elasticsearch/OpenSearch target against a real one of each: what the engine decides (versions,
//! mappings, blocks, limits), and what is made in it.
//!
//! One engine a flavour, started once; each scenario keeps to indices of its own. Nothing here plays
//! an engine: what none does on demand is tested beside the target itself.

mod copy;
mod indices;
mod looks;
mod writes;

use std::{sync::Arc, time::Duration};

use bson::{RawDocumentBuf, rawdoc};
use bytes::Bytes;
use mongosync::{
    change::{Cause, ClusterTime, Document, Namespace, Phase},
    rules::model::{self, EngineAuth, EngineFlavor, Tls},
    target::{
        Action, Item, Operation, Outcome, PlaceKey, Request, Retry, Target,
        elasticsearch::{EngineTarget, IndexPlan, place_key},
    },
};
use mongosync_servers::{Engine, EngineBuilder};
use serde_json::Value;

/// What a body may have at most here: the default of 100 MiB is the same limit.
const MAX_BODY: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elasticsearch() {
    every_scenario(Engine::elasticsearch(), EngineFlavor::Elasticsearch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opensearch() {
    every_scenario(Engine::opensearch(), EngineFlavor::OpenSearch).await;
}

/// An engine takes a good part of a small machine.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn every_scenario(engine: EngineBuilder, flavor: EngineFlavor) {
    let _turn = ONE_AT_A_TIME.lock().await;
    let limit = MAX_BODY.to_string() + "b";
    let engine = engine.setting("http.max_content_length", &limit).start().await.unwrap();
    let mut bench = Bench { target: target(&[&engine.url()], flavor, false), flavor, engine };
    bench.target.prepare().await.unwrap();

    writes::later_wins_and_late_is_refused(&bench).await;
    writes::what_a_mapping_refuses_leaves_the_rest_alone(&bench).await;
    writes::ids_up_to_512_bytes(&bench).await;
    writes::numbers_that_json_has_not(&bench).await;
    writes::routing_is_part_of_the_place(&bench).await;
    writes::ingest_pipelines(&bench).await;
    writes::closed_and_blocked_indices_are_waited_for(&bench).await;
    writes::a_shard_that_is_away_holds_up_no_other(&bench).await;
    writes::compressed(&bench).await;
    writes::too_large(&bench).await;
    writes::with_one_node_down(&bench).await;

    indices::made_as_planned(&bench).await;
    indices::made_once_by_many_lanes(&bench).await;
    indices::made_where_the_engine_makes_none(&bench).await;
    indices::that_can_not_be_made(&bench).await;
    indices::behind_an_alias(&bench).await;
    indices::an_alias_that_is_an_index(&bench).await;
    indices::an_alias_that_vanishes(&bench).await;
    indices::a_plain_index_that_vanishes(&bench).await;

    looks::at_what_rules_name(&bench).await;

    copy::arranges_and_puts_back(&bench).await;
    copy::puts_back_after_a_crash(&bench).await;
    copy::leaves_alone_what_is_written_or_was_there(&bench).await;
    copy::keeps_what_an_index_template_says(&bench).await;
    copy::ends_for_each_rule_by_itself(&bench).await;

    writes::through_a_crash_of_the_engine(&mut bench).await;
}

/// A running engine and a target that writes to it.
struct Bench {
    engine: Engine,
    flavor: EngineFlavor,
    target: EngineTarget,
}

fn target(urls: &[&str], flavor: EngineFlavor, gzip: bool) -> EngineTarget {
    let settings = settings(urls, flavor, gzip);
    EngineTarget::new(&settings, "shop", Duration::from_secs(60), Vec::new()).unwrap()
}

fn settings(urls: &[&str], flavor: EngineFlavor, gzip: bool) -> model::Engine {
    model::Engine {
        flavor,
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        auth: EngineAuth::None,
        tls: Tls::default(),
        gzip,
        extended_json: false,
    }
}

impl Bench {
    /// Another target for the same engine, as a restarted process has it: it knows nothing.
    fn restarted(&self) -> EngineTarget {
        target(&[&self.engine.url()], self.flavor, false)
    }

    async fn send(&self, operations: &[Operation]) -> Vec<Outcome> {
        self.target.send(&request(&self.target, operations)).await.unwrap()
    }

    /// The outcome of a single operation.
    async fn send_one(&self, operation: Operation) -> Outcome {
        self.send(&[operation]).await.remove(0)
    }

    /// Asks the engine itself; `{}` where the answer is not JSON.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let answer = self.engine.request(method, path, body).await.unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
    }

    /// Tells the engine something that it must take.
    async fn tell(&self, method: &str, path: &str, body: Value) {
        let (status, answer) = self.ask(method, path, &body.to_string()).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
    }

    /// The source of a document; `None` where it is not there.
    async fn source(&self, index: &str, id: &str) -> Option<Value> {
        let (status, mut answer) = self.ask("GET", &format!("/{index}/_doc/{id}"), "").await;
        (status == 200).then(|| answer["_source"].take())
    }

    /// An index's settings, in one level.
    async fn settings(&self, index: &str) -> Value {
        let path = format!("/{index}/_settings?flat_settings=true");
        let (_, answer) = self.ask("GET", &path, "").await;
        answer.as_object().unwrap().values().next().unwrap()["settings"].clone()
    }

    async fn mappings(&self, index: &str) -> Value {
        let (_, answer) = self.ask("GET", &format!("/{index}/_mapping"), "").await;
        answer.as_object().unwrap().values().next().unwrap()["mappings"].clone()
    }
}

fn plan(rule: &str, alias: bool, settings: Value, mappings: Value) -> Arc<IndexPlan> {
    let some = |value: Value| (!value.is_null()).then_some(value);
    let (settings, mappings) = (some(settings), some(mappings));
    Arc::new(IndexPlan { rule: rule.to_owned(), alias, appends: false, settings, mappings })
}

fn at(place: PlaceKey, time: u64, action: Action) -> Operation {
    Operation {
        place,
        action,
        time: ClusterTime(time),
        cause: Cause::Event(ClusterTime(time)),
        extra: Bytes::new(),
        namespace: Namespace::new("shop", "products"),
        phase: Phase::Changes,
    }
}

fn put(index: &str, id: &str, time: u64, document: RawDocumentBuf) -> Operation {
    at(place_key(index, id, None), time, Action::Put(Document::from(document)))
}

fn remove(index: &str, id: &str, time: u64) -> Operation {
    at(place_key(index, id, None), time, Action::Remove)
}

/// A small document, where its content is of no interest.
fn small(index: &str, id: &str, time: u64) -> Operation {
    put(index, id, time, rawdoc! { "n": i64::try_from(time).unwrap() })
}

fn request(target: &EngineTarget, operations: &[Operation]) -> Request {
    let mut body = Vec::new();
    let mut items = Vec::new();
    for operation in operations {
        let start = body.len();
        target.encode(operation, &mut body).unwrap();
        items.push(Item { range: start..body.len(), place: operation.place.clone() });
    }
    Request { body: body.into(), items, lane: 0, right: None, standing: None }
}

/// The retry that an outcome must be.
fn retry(outcome: Outcome) -> Retry {
    match outcome {
        Outcome::Retry(retry) => retry,
        other => panic!("a retry was expected, not {other:?}"),
    }
}

/// The words of the refusal that an outcome must be.
fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected(words) => words,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}
