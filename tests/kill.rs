//! The process ends at any moment, by `kill -9` or by SIGTERM, and nothing is lost.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    load::fill,
    support::{
        World,
        checker::compare,
        run::{RuleFile, Settings},
        writers::Writers,
    },
};

const DOCUMENTS: u32 = 20_000;
const OPERATIONS: u64 = 4_000;
const KILLS: u64 = 10;

/// Documents of the copy that are settled or under way.
fn copied(status: &Value, rule: &str) -> u64 {
    status["targets"]["search"]["rules"][rule]["copy"]["documents"].as_u64().unwrap_or_default()
}

/// Whether it is known how far the copy was when the run began.
fn is_planned(status: &Value, rule: &str) -> bool {
    status["targets"]["search"]["rules"][rule]["copy"]["expected"].is_u64()
}

fn is_complete(status: &Value, rule: &str) -> bool {
    status["targets"]["search"]["rules"][rule]["copy"]["complete"] == true
}

/// Small chunks and batches, so that there is much to be interrupted.
fn rule(namespace: &str) -> String {
    format!("  - namespace: {namespace}\n    copy: {{ chunk: 1MiB, parallel: 2 }}\n    to: search")
}

fn settings(top: &str) -> Settings {
    Settings {
        top: top.into(),
        engine: ", batch: { max_actions: 200, concurrency: 2 }".into(),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_with_positions_in_mongodb_lose_nothing() -> Result<()> {
    ten_kills("kill_mongodb", "checkpoint: { every: 100ms }", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_with_positions_in_files_lose_nothing() -> Result<()> {
    ten_kills("kill_file", "checkpoint: { every: 100ms, file: { path: positions } }", 2).await
}

async fn ten_kills(database: &str, top: &str, seed: u64) -> Result<()> {
    let world = World::new().await?;
    let namespace = format!("{database}.documents");
    let collection = world.collection(&namespace);
    fill(&collection, seed, DOCUMENTS).await?;
    let mut writers = Writers::new(&world.client, &collection, seed, DOCUMENTS, OPERATIONS);
    let file = world.rule_file_with(&settings(top), &rule(&namespace))?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut resumed_at = Vec::new();
    for kill in 0..KILLS {
        let mut run = file.run(&[])?;
        let status = run.until("its plan", |status| is_planned(status, &namespace)).await?;
        let before = copied(&status, &namespace);
        resumed_at.push(before);
        let more = random.random_range(0..u64::from(DOCUMENTS) / 5);
        run.until("the copy to go on", |status| {
            is_complete(status, &namespace) || copied(status, &namespace) >= before + more
        })
        .await?;
        writers.release(OPERATIONS * (kill + 1) / (KILLS + 1));
        let operations =
            OPERATIONS * kill / (KILLS + 1) + random.random_range(1..OPERATIONS / (KILLS + 1));
        writers.done(operations).await?;
        println!(
            "seed {seed}, kill {kill}: {more} documents on from {before}, after {operations} \
             operations"
        );
        run.kill().await?;
    }
    println!("seed {seed}: resumed at {resumed_at:?}");
    let mut run = file.run(&[])?;
    writers.finish().await?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let index = format!("{database}-documents");
    compare(&collection, &world.engine, &index).await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Chunks that are done when the process ends are not read again by the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_on_where_it_was() -> Result<()> {
    let world = World::new().await?;
    let namespace = "resume.documents";
    let collection = world.collection(namespace);
    fill(&collection, 3, DOCUMENTS).await?;
    let file = world.rule_file_with(&settings("checkpoint: { every: 100ms }"), &rule(namespace))?;
    let mut done = 0;
    for end in ["kill -9", "SIGTERM"] {
        let mut run = file.run(&[])?;
        // What has been read is not done yet.
        let wanted = u64::from(DOCUMENTS) * 2 / 5;
        run.until("a part of the copy", |status| written(status, namespace) >= wanted).await?;
        match end {
            "SIGTERM" => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
        let now = stored_progress(&world, &file).await?;
        println!("{end}: {now} documents are done");
        ensure!(now > done, "{end}: {now} documents, {done} before");
        done = now;
    }
    let mut run = file.run(&[])?;
    run.copied().await?;
    let status = run.until("its status", |_| true).await?;
    assert_eq!(written(&status, namespace), u64::from(DOCUMENTS) - done);
    assert_eq!(copied(&status, namespace), u64::from(DOCUMENTS));
    compare(&collection, &world.engine, "resume-documents").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Documents that this run has written to the target, or found there.
fn written(status: &Value, rule: &str) -> u64 {
    let rule = &status["targets"]["search"]["rules"][rule];
    let count = |name: &str| rule[name].as_u64().unwrap_or_default();
    count("delivered") + count("superseded")
}

/// Documents in chunks that the store holds as done.
async fn stored_progress(world: &World, file: &RuleFile) -> Result<u64> {
    let name = file.path.file_stem().and_then(|name| name.to_str()).expect("a name");
    let progress = world
        .collection("mongosync.copies")
        .find_one(doc! { "name": name, "key": "progress" })
        .await?
        .context("the progress of the copy")?;
    let documents = progress.get_document("v")?.get("documents").context("documents")?;
    let number = documents.as_i64().or(documents.as_i32().map(i64::from));
    Ok(u64::try_from(number.context("a number")?)?)
}

/// SIGTERM while changes wait to be delivered: exit 0, and the next run delivers them.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_with_a_backlog_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let collection = world.collection("backlog.documents");
    fill(&collection, 4, 5_000).await?;
    let settings = Settings {
        engine: ", batch: { max_actions: 50, concurrency: 1 }".into(),
        ..Settings::default()
    };
    let file =
        world.rule_file_with(&settings, "  - namespace: backlog.documents\n    to: search")?;
    let mut run = file.run(&[])?;
    run.until("the middle of the copy", |status| copied(status, "backlog.documents") > 0).await?;
    let mut writers = Writers::new(&world.client, &collection, 5, 5_000, 3_000);
    for stop in 1..=3 {
        writers.release(1_000 * stop);
        writers.done(1_000 * (stop - 1) + 500).await?;
        assert!(run.terminate().await?.success());
        run = file.run(&[])?;
    }
    writers.finish().await?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    compare(&collection, &world.engine, "backlog-documents").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}
