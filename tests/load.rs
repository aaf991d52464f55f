//! A whole collection is copied while it is written to, and compared afterwards.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};

use crate::support::{World, checker::compare, documents::Documents, writers::Writers};

/// Documents; an environment variable asks for more.
fn documents() -> Result<u32> {
    match std::env::var("MONGOSYNC_TEST_DOCUMENTS") {
        Ok(number) => number.parse().context("MONGOSYNC_TEST_DOCUMENTS is a number"),
        Err(_) => Ok(30_000),
    }
}

/// Fills a collection with documents whose `_id`s are 0, 1, 2 …
pub async fn fill(collection: &Collection<Document>, seed: u64, count: u32) -> Result<()> {
    let mut documents = Documents::new(seed);
    let mut id = 0;
    while id < count {
        let until = count.min(id + 5_000);
        let batch: Vec<_> = (id..until).map(|id| documents.document(i64::from(id))).collect();
        collection.insert_many(batch).await?;
        id = until;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_while_the_collection_is_written_to_ends_true() -> Result<()> {
    let world = World::new().await?;
    let count = documents()?;
    let operations = u64::from(count / 15);
    let collection = world.collection("load.documents");
    fill(&collection, 1, count).await?;
    let mut writers = Writers::new(&world.client, &collection, 2, count, operations);
    let file = world.rule_file("  - namespace: load.documents\n    to: search")?;

    let begin = Instant::now();
    let mut run = file.run(&[])?;
    // The writers keep step with the copy: some write before each chunk is read, some after.
    for step in 0..20 {
        let copied = u64::from(count) * step / 20;
        run.until("the copy to go on", |status| {
            status["targets"]["search"]["rules"]["load.documents"]["copy"]["documents"]
                .as_u64()
                .is_some_and(|documents| documents >= copied)
        })
        .await?;
        writers.release(operations * (step + 1) / 20);
    }
    run.copied().await?;
    let copied = begin.elapsed();
    writers.finish().await?;
    run.caught_up(&world.client).await?;
    let caught_up = begin.elapsed();
    let peak = run.peak_memory()?;
    println!(
        "{count} documents, {operations} operations: copied after {copied:.1?}, caught up after \
         {caught_up:.1?}, at most {} MiB resident",
        peak >> 20
    );
    let differences = compare(&collection, &world.engine, "load-documents").await?;
    println!("{differences}");
    let expected = collection.count_documents(doc! {}).await?;
    assert_eq!(differences.none()? as u64, expected);
    ensure!(peak <= 256 << 20, "{} MiB resident", peak >> 20);
    assert!(run.terminate().await?.success());
    Ok(())
}
