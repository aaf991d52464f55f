//! What a running process says of itself over HTTP.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use serde_json::Value;

use crate::support::World;

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
            run.metric("mongosync_documents_total", &labels).await
        }
    };
    assert_eq!(documents("phase=\"copy\"", "outcome=\"delivered\"").await, Some(100.0));
    assert_eq!(documents("phase=\"copy\"", "outcome=\"dead_letter\"").await, Some(1.0));
    for (name, labels, expected) in [
        ("mongosync_dead_letters_total", &all[..], 1.0),
        ("mongosync_copy_documents", &all, 101.0),
        ("mongosync_copy_documents_expected", &all, 101.0),
        ("mongosync_build_info", &["version="], 1.0),
        ("mongosync_lag_seconds", &all[1..], 0.0),
    ] {
        assert_eq!(run.metric(name, labels).await, Some(expected), "{name}");
    }
    // The stream is opened anew at the copy's end, and may show some events twice.
    let (delivered, removed) = ("outcome=\"delivered\"", "outcome=\"removed\"");
    let changes = [all[0], all[1], "phase=\"changes\""];
    for (name, labels, least) in [
        ("mongosync_documents_total", &[&changes[..], &[delivered]].concat()[..], 30.0),
        ("mongosync_documents_total", &[&changes[..], &[removed]].concat(), 10.0),
        ("mongosync_events_total", &[all[0], all[1], "op=\"update\""], 30.0),
        ("mongosync_events_total", &[all[0], all[1], "op=\"delete\""], 10.0),
        ("mongosync_delivery_seconds_count", &all[1..], 40.0),
    ] {
        let value = run.metric(name, labels).await.with_context(|| name.to_owned())?;
        ensure!(value >= least, "{name} {labels:?}: {value}");
    }
    for (name, labels) in [
        ("mongosync_batch_seconds_count", &all[1..]),
        ("mongosync_checkpoint_timestamp_seconds", &all[1..]),
        ("process_resident_memory_bytes", &[]),
    ] {
        let value = run.metric(name, labels).await.with_context(|| name.to_owned())?;
        ensure!(value > 0.0, "{name} {value}");
    }
    // Nothing may lie in memory any more, and the source may be younger than a second.
    for (name, labels) in
        [("mongosync_buffer_bytes", &all[1..]), ("mongosync_oplog_window_seconds", &[])]
    {
        ensure!(run.metric(name, labels).await.is_some(), "{name}");
    }

    let status = run.status().await.context("a status")?;
    assert_eq!(status["state"], "active");
    ensure!(status["oplog_window_seconds"].is_u64(), "{status:#}");
    let search = &status["targets"]["search"];
    assert_eq!(search["state"], "following");
    assert_eq!(search["last_error"], Value::Null);
    let rule = &search["rules"]["observed.items"];
    let copy = serde_json::json!({ "documents": 101, "expected": 101, "complete": true });
    assert_eq!(rule["copy"], copy);
    for (name, least) in [("delivered", 130), ("removed", 10), ("dead_letters", 1)] {
        ensure!(rule[name].as_u64() >= Some(least), "{name}: {status:#}");
    }

    let (healthy, _) = run.get("/healthz").await.context("an answer")?;
    let (ready, reasons) = run.get("/readyz").await.context("an answer")?;
    assert_eq!((healthy, ready), (200, 200), "{reasons}");
    assert!(run.terminate().await?.success());
    Ok(())
}
