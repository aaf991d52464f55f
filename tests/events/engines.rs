//! Into an engine: one document per event, by the event's id.

use mongodb::Collection;
use mongosync_servers::Engine;

use super::*;
use crate::support::{World, run::Settings, sourced::Sourced};

async fn asked(engine: &Engine, method: &str, path: &str, body: &str) -> Result<Value> {
    let answer = engine.request(method, path, body).await?;
    ensure!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.body);
    Ok(serde_json::from_str(&answer.body)?)
}

async fn appended(engine: &Engine, index: &str) -> Result<Vec<Value>> {
    asked(engine, "POST", &format!("/{index}/_refresh"), "").await?;
    let path = format!("/{index}/_search");
    let found = asked(engine, "POST", &path, r#"{"size":1000}"#).await?;
    let mut hits = found["hits"]["hits"].as_array().context("hits")?.clone();
    hits.sort_by_key(|hit| {
        let time = hit["_source"]["cluster_time"].as_str().unwrap_or_default();
        let parts = time.split('.').map(|part| part.parse().unwrap_or_default());
        parts.collect::<Vec<u64>>()
    });
    Ok(hits)
}

fn changes(appended: &[Value]) -> Vec<Change> {
    let text =
        |hit: &Value, name: &str| hit["_source"][name].as_str().unwrap_or_default().to_owned();
    appended.iter().map(|hit| (text(hit, "op"), text(hit, "cluster_time"))).collect()
}

/// What the collection's own stream shows.
async fn expected(orders: &Collection<Document>, since: Timestamp) -> Result<Vec<Change>> {
    let happened = all_that_happened(orders, since).await?;
    Ok(happened.into_iter().map(|(_, change, _)| change).collect())
}

/// A log beside the index of the documents themselves, and over a kill: no event twice.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_a_document_of_its_own() -> Result<()> {
    let world = World::new().await?;
    let orders = world.collection("events_log.orders");
    let rules = "  - { name: kept, namespace: events_log.orders, to: search }
  - name: log
    namespace: events_log.orders
    delivery: events
    to: [{ target: search, index: events-log }]";
    let settings = Settings { top: "checkpoint: { every: 1h }".into(), ..Settings::default() };
    let file = world.rule_file_with(&settings, rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.until("following", |status| status["targets"]["search"]["position"].is_string()).await?;
    let since = now(&world.client).await?;
    for n in 0..5 {
        orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": n } }).upsert(true).await?;
    }
    orders.delete_one(doc! { "_id": 1 }).await?;
    orders.insert_one(doc! { "_id": 2, "n": 0 }).await?;
    run.caught_up(&world.client).await?;
    // No position was stored since the start: all of it is sent again.
    run.kill().await?;
    let mut run = file.run(&[])?;
    orders.insert_one(doc! { "_id": 3, "n": 0 }).await?;
    run.caught_up(&world.client).await?;
    let appended = appended(&world.engine, "events-log").await?;
    assert_eq!(changes(&appended), expected(&orders, since).await?);
    let update = &appended[1]["_source"];
    assert_eq!(update["updated"], json!({ "n": 1 }));
    assert_eq!((&update["ns"], &update["id"]), (&json!("events_log.orders"), &json!("1")));
    ensure!(update["@timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{update}");
    assert_eq!(appended[5]["_source"]["document"], Value::Null);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A template makes a data stream of the name. What comes again after a kill is there already, and the
/// stream goes on over a rollover.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_stream_holds_each_event_once() -> Result<()> {
    // An Elasticsearch without X-Pack has none.
    let engine = Engine::opensearch().heap("512m").start().await?;
    let template = json!({
        "index_patterns": ["audit-*"],
        "data_stream": {},
        "template": { "mappings": { "properties": { "updated": { "type": "object", "enabled": false } } } },
    });
    asked(&engine, "PUT", "/_index_template/audit", &template.to_string()).await?;
    let world = Sourced::new().await?;
    let orders = world.collection("events_stream.orders");
    let targets = format!("  search: {{ opensearch: {{ urls: [\"{}\"] }} }}", engine.url());
    let rules = "  - name: log
    namespace: events_stream.orders
    delivery: events
    to: [{ target: search, index: audit-orders }]";
    let file = world.rule_file("1h", &targets, rules)?;
    let mut run = file.run(&[])?;
    run.following("search").await?;
    let since = now(&world.client).await?;
    for n in 0..20 {
        orders.update_one(doc! { "_id": n % 3 }, doc! { "$set": { "n": n } }).upsert(true).await?;
    }
    orders.delete_one(doc! { "_id": 1 }).await?;
    world.settled(&mut run, "search").await?;
    let stream = asked(&engine, "GET", "/_data_stream/audit-orders", "").await?;
    assert_eq!(stream["data_streams"][0]["name"], "audit-orders", "{stream}");
    // No position was stored since the start: all of it is sent again.
    run.kill().await?;
    let mut run = file.run(&[])?;
    orders.insert_one(doc! { "_id": 10, "n": 0 }).await?;
    world.settled(&mut run, "search").await?;
    let status = run.status().await.context("it answers")?;
    let superseded = &status["targets"]["search"]["rules"]["log"]["superseded"];
    ensure!(superseded.as_u64().is_some_and(|count| count >= 21), "{status:#}");
    asked(&engine, "POST", "/audit-orders/_rollover", "").await?;
    orders.delete_many(doc! {}).await?;
    world.settled(&mut run, "search").await?;
    let appended = appended(&engine, "audit-orders").await?;
    let expected = expected(&orders, since).await?;
    assert_eq!(changes(&appended), expected);
    let indices: BTreeSet<&str> =
        appended.iter().filter_map(|hit| hit["_index"].as_str()).collect();
    assert_eq!(indices.len(), 2, "{indices:?}");
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
