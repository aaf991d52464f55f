//! Into an engine: one document per event, by the event's id.

use super::*;
use crate::support::{World, run::Settings};

async fn appended(world: &World, index: &str) -> Result<Vec<Value>> {
    let refresh = format!("/{index}/_refresh");
    world.engine_json("POST", &refresh, "").await?;
    let path = format!("/{index}/_search");
    let found = world.engine_json("POST", &path, r#"{"size":1000}"#).await?;
    let mut hits = found["hits"]["hits"].as_array().context("hits")?.clone();
    hits.sort_by_key(|hit| {
        let time = hit["_source"]["cluster_time"].as_str().unwrap_or_default();
        let parts = time.split('.').map(|part| part.parse().unwrap_or_default());
        parts.collect::<Vec<u64>>()
    });
    Ok(hits)
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
    let appended = appended(&world, "events-log").await?;
    let happened = all_that_happened(&orders, since).await?;
    let expected: Vec<Change> = happened.into_iter().map(|(_, change, _)| change).collect();
    let told: Vec<Change> = appended
        .iter()
        .map(|hit| {
            let text = |name: &str| hit["_source"][name].as_str().unwrap_or_default().to_owned();
            (text("op"), text("cluster_time"))
        })
        .collect();
    assert_eq!(told, expected);
    let update = &appended[1]["_source"];
    assert_eq!(update["updated"], json!({ "n": 1 }));
    assert_eq!((&update["ns"], &update["id"]), (&json!("events_log.orders"), &json!("1")));
    ensure!(update["@timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{update}");
    assert_eq!(appended[5]["_source"]["document"], Value::Null);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
