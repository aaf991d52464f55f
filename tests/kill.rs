//! The process ends at any moment, by `kill -9` or by SIGTERM, and nothing is lost.

use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::{
    load::fill,
    support::{
        World,
        checker::compare,
        run::{Run, Settings},
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
        let operations = OPERATIONS * kill / (KILLS + 1)
            + random.random_range(1..OPERATIONS / (KILLS + 1));
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
    let collection = world.collection("resume.documents");
    fill(&collection, 3, DOCUMENTS).await?;
    let settings = settings("checkpoint: { every: 100ms }");
    let file = world.rule_file_with(&settings, &rule("resume.documents"))?;
    let mut earlier = 0;
    for end in ["kill -9", "SIGTERM"] {
        let mut run = file.run(&[])?;
        let wanted = earlier + u64::from(DOCUMENTS) / 4;
        run.until("a part of the copy", |status| copied(status, "resume.documents") >= wanted)
            .await?;
        until_stored(&mut run, earlier).await?;
        match end {
            "SIGTERM" => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
        let mut next = file.run(&["--log", "debug"])?;
        let planned = |status: &Value| is_planned(status, "resume.documents");
        let status = next.until("its plan", planned).await?;
        let resumed = copied(&status, "resume.documents");
        println!("after {end}: {resumed} documents are not read again");
        ensure!(resumed > earlier, "{end}: resumed at {resumed}, earlier at {earlier}");
        earlier = resumed;
        next.kill().await?;
    }
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    compare(&collection, &world.engine, "resume-documents").await?.none()?;
    // What this run delivered is what was left.
    let status = run.until("its status", |_| true).await?;
    let delivered = status["targets"]["search"]["rules"]["resume.documents"]["delivered"].as_u64();
    let most = u64::from(DOCUMENTS) - earlier;
    ensure!(delivered.is_some_and(|delivered| delivered <= most), "{delivered:?} of {most}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Waits until the store holds a finished chunk more than before.
async fn until_stored(run: &mut Run, earlier: u64) -> Result<()> {
    // A chunk is at most two batches of lanes away from being stored once twice as much is read.
    run.until("more of the copy", |status| {
        is_complete(status, "resume.documents")
            || copied(status, "resume.documents") >= earlier + u64::from(DOCUMENTS) / 2
    })
    .await?;
    Ok(())
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
    let file = world.rule_file_with(&settings, "  - namespace: backlog.documents\n    to: search")?;
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
