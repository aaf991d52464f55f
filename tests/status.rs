//! What a running process says of itself over HTTP.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{World, run::Run};

/// The value of a metric, all its labels together.
async fn metric(run: &Run, name: &str, labels: &[&str]) -> Option<f64> {
    let (_, text) = run.get("/metrics").await?;
    let mut found = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ')?;
        if series.split('{').next() == Some(name)
            && labels.iter().all(|label| series.contains(label))
        {
            *found.get_or_insert(0.0) += value.parse::<f64>().ok()?;
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_health_and_status() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("observed.items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "n": id })).await?;
    items.insert_one(doc! { "_id": 100, "n": "text" }).await?;
    let file = world.rule_file(
        "  - namespace: observed.items
    to: [{ target: search, index: { mappings: { properties: { n: { type: long } } } } }]",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.update_many(doc! { "_id": { "$lt": 30 } }, doc! { "$inc": { "n": 1 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 90, "$lt": 100 } }).await?;
    run.caught_up(&world.client).await?;

    let all = ["rule=\"observed.items\"", "target=\"search\""];
    let documents = |phase: &'static str, outcome: &'static str| {
        let [rule, target] = all;
        let run = &run;
        async move {
            let labels = [rule, target, phase, outcome];
            metric(run, "mongosync_documents_total", &labels).await
        }
    };
    assert_eq!(documents("phase=\"copy\"", "outcome=\"delivered\"").await, Some(100.0));
    assert_eq!(documents("phase=\"copy\"", "outcome=\"dead_letter\"").await, Some(1.0));
    assert_eq!(documents("phase=\"changes\"", "outcome=\"delivered\"").await, Some(30.0));
    assert_eq!(documents("phase=\"changes\"", "outcome=\"removed\"").await, Some(10.0));
    for (name, labels, expected) in [
        ("mongosync_events_total", &[all[0], all[1], "op=\"update\""][..], 30.0),
        ("mongosync_events_total", &[all[0], all[1], "op=\"delete\""], 10.0),
        ("mongosync_dead_letters_total", &all, 1.0),
        ("mongosync_copy_documents", &all, 101.0),
        ("mongosync_copy_documents_expected", &all, 101.0),
        ("mongosync_build_info", &["version="], 1.0),
        ("mongosync_lag_seconds", &all[1..], 0.0),
        ("mongosync_delivery_seconds_count", &all[1..], 40.0),
    ] {
        assert_eq!(metric(&run, name, labels).await, Some(expected), "{name}");
    }
    for (name, labels) in [
        ("mongosync_batch_seconds_count", &all[1..]),
        ("mongosync_checkpoint_timestamp_seconds", &all[1..]),
        ("mongosync_oplog_window_seconds", &[]),
        ("process_resident_memory_bytes", &[]),
    ] {
        let value = metric(&run, name, labels).await.with_context(|| name.to_owned())?;
        ensure!(value > 0.0, "{name} {value}");
    }
    ensure!(metric(&run, "mongosync_buffer_bytes", &all[1..]).await.is_some(), "buffer_bytes");

    let status = run.status().await.context("a status")?;
    assert_eq!(status["state"], "active");
    ensure!(status["oplog_window_seconds"].is_u64(), "{status:#}");
    let search = &status["targets"]["search"];
    assert_eq!(search["state"], "following");
    assert_eq!(search["last_error"], Value::Null);
    let rule = &search["rules"]["observed.items"];
    let copy = serde_json::json!({ "documents": 101, "expected": 101, "complete": true });
    assert_eq!(rule["copy"], copy);
    let numbers = ["delivered", "removed", "superseded", "dead_letters"].map(|name| &rule[name]);
    assert_eq!(numbers, [130, 10, 0, 1], "{status:#}");

    let (healthy, _) = run.get("/healthz").await.context("an answer")?;
    let (ready, reasons) = run.get("/readyz").await.context("an answer")?;
    assert_eq!((healthy, ready), (200, 200), "{reasons}");
    assert!(run.terminate().await?.success());
    Ok(())
}
