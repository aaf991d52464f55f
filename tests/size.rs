//! Documents as large as MongoDB takes them, and a target so slow that everything gathers behind it.

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use serde_json::Value;

use crate::support::{World, checker::compare, run::Settings, situations::situation};

/// MongoDB's limit, and what a document here needs beside its payload.
const LARGEST: usize = 16 << 20;
const BESIDE: usize = 128;

fn document(id: i32, bytes: usize) -> Document {
    let fill = u8::try_from(id % 251).expect("a byte");
    let data = Binary { subtype: BinarySubtype::Generic, bytes: vec![fill; bytes] };
    doc! { "_id": id, "n": 0, "data": data }
}

/// By the copy and by changes, among small ones.
#[tokio::test(flavor = "multi_thread")]
async fn documents_of_16_mib_arrive() -> Result<()> {
    let mut case = situation("documents of 16 MiB among small ones, copied and changed");
    let world = World::new().await?;
    let items = world.collection("vast_documents.items");
    for id in 0..3 {
        items.insert_one(document(id * 10, LARGEST - BESIDE)).await?;
        items.insert_many((1..10).map(|n| document(id * 10 + n, 1_000))).await?;
    }
    let rules = "  - namespace: vast_documents.items
    to: [{ target: search, index: { mappings: { dynamic: false } } }]";
    let file = world.rule_file(rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let index = "vast_documents-items";
    assert_eq!(case.compared(&compare(&items, &world.engine, index).await?)?, 30);
    items.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    items.replace_one(doc! { "_id": 5 }, document(5, LARGEST - BESIDE)).await?;
    items.delete_one(doc! { "_id": 10 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(case.compared(&compare(&items, &world.engine, index).await?)?, 29);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Megabytes of the source; an environment variable asks for more.
fn megabytes() -> Result<i32> {
    match std::env::var("MONGOSYNC_TEST_MEGABYTES") {
        Ok(number) => number.parse().context("MONGOSYNC_TEST_MEGABYTES is a number"),
        Err(_) => Ok(100),
    }
}

/// Bytes of a document: some of them fill a batch.
const DOCUMENT: usize = 16 << 10;

/// The target takes 2 MiB a second while a copy reads and every document changes.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_the_target_is_slow() -> Result<()> {
    let mut case = situation("a target that takes 2 MiB a second, memory under 256 MiB");
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("heavy.items");
    let count = megabytes()? << 6;
    for start in (0..count).step_by(500) {
        let end = count.min(start + 500);
        items.insert_many((start..end).map(|id| document(id, DOCUMENT))).await?;
    }
    let rules = "  - namespace: heavy.items
    to: [{ target: search, index: { mappings: { dynamic: false } } }]";
    let settings = Settings { engine: ", retry: { max: 1s }".into(), ..settings };
    let file = world.rule_file_with(&settings, rules)?;
    endpoint.pace(Some(2 << 20));
    let mut run = file.run(&[])?;
    let delivered = |status: &Value| {
        status["targets"]["search"]["rules"]["heavy.items"]["delivered"].as_u64().unwrap_or(0)
    };
    run.until("the first documents", |status| delivered(status) > 0).await?;
    items.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    // 16 MB of the usual 100 at this pace: by then all buffers are full. All of it where more is asked
    // for.
    let slow = u64::try_from(if count > 100 << 6 { count } else { 1 << 7 })?;
    // Part by part, since patience is for each.
    for part in 1..=20 {
        run.until("a part of it", |status| delivered(status) >= slow * part / 20).await?;
    }
    let while_slow = run.peak_memory()?;
    endpoint.pace(None);
    println!("{} MiB resident while the target is slow", while_slow >> 20);
    for part in 1..=20 {
        let wanted = u64::try_from(count)? * part / 20;
        run.until("the copy to go on", |status| {
            let copy = &status["targets"]["search"]["rules"]["heavy.items"]["copy"];
            copy["complete"] == true || copy["documents"].as_u64() >= Some(wanted)
        })
        .await?;
    }
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let peak = run.peak_memory()?;
    println!("{} MiB: {} MiB resident, then {} MiB", megabytes()?, while_slow >> 20, peak >> 20);
    ensure!(peak < 256 << 20, "{} MiB resident", peak >> 20);
    let differences = compare(&items, &world.engine, "heavy-items").await?;
    assert_eq!(case.compared(&differences)?, usize::try_from(count)?);
    assert!(run.terminate().await?.success());
    Ok(())
}
