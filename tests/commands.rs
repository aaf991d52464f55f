//! `mongosync run` with its options, and how it ends.

use anyhow::{Result, ensure};
use mongodb::bson::doc;
use mongosync_servers::free_port;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        run::Settings,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn copy_only_ends_when_all_is_copied_and_changes_only_goes_on() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("once.items");
    fill(&items, 1, 2_000).await?;
    let file = world.rule_file("  - namespace: once.items\n    to: search")?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(compare(&items, &world.engine, "once-items").await?.none()?, 2_000);

    items.delete_many(doc! { "_id": { "$lt": 100 } }).await?;
    items.update_many(doc! { "_id": { "$gt": 1_900 } }, doc! { "$set": { "int": 1 } }).await?;
    let mut run = file.run(&["--changes-only"])?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "once-items").await?.none()?, 1_900);
    assert!(run.terminate().await?.success());

    // Nothing is left to copy.
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    Ok(())
}

/// Without a position, changes begin now: what was there before is not copied, and a later run
/// without the option copies it.
#[tokio::test(flavor = "multi_thread")]
async fn changes_only_does_not_copy() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("following.items");
    items.insert_many((0..100).map(|id| doc! { "_id": id })).await?;
    let file = world.rule_file("  - namespace: following.items\n    to: search")?;
    let mut run = file.run(&["--changes-only"])?;
    run.until("the start", |status| status["targets"]["search"]["position"].is_string()).await?;
    items.insert_one(doc! { "_id": 1_000 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(hits(&world.engine, "following-items").await?.len(), 1);
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(compare(&items, &world.engine, "following-items").await?.none()?, 101);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_only_ends_with_6_where_documents_were_refused() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("partly.items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "n": id })).await?;
    items.insert_one(doc! { "_id": 100, "n": "text" }).await?;
    let file = world.rule_file(
        "  - namespace: partly.items
    to: [{ target: search, index: { mappings: { properties: { n: { type: long } } } } }]",
    )?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(6), "{log}");
    ensure!(log.contains("dead letter"), "{log}");
    assert_eq!(hits(&world.engine, "partly-items").await?.len(), 100);
    assert_eq!(file.dead_letters().await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_reached_in_time_ends_with_3() -> Result<()> {
    let world = World::new().await?;
    world.collection("away.items").insert_one(doc! { "_id": 1 }).await?;
    let rules = "  - namespace: away.items\n    to: search";
    let away = format!("http://127.0.0.1:{}", free_port());
    let settings = Settings { url: Some(away), ..Settings::default() };
    let file = world.rule_file_with(&settings, rules)?;
    let (code, log) = file.run_to_end(&["--copy-only", "--wait", "1s"]).await?;
    assert_eq!(code, Some(3), "{log}");
    ensure!(log.contains("target search was not reached within 1s"), "{log}");

    // Any other run waits for its target.
    let mut run = file.run(&["--wait", "1s"])?;
    run.until("waiting", |status| status["targets"]["search"]["state"] == "waiting").await?;
    assert!(run.terminate().await?.success());

    let file = world.rule_file(rules)?;
    let nobody = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port());
    file.rewrite(|text| text.replace(world.mongo.uri(), &nobody))?;
    let (code, log) = file.run_to_end(&["--wait", "1s"]).await?;
    assert_eq!(code, Some(3), "{log}");
    ensure!(log.contains("the source was not reached within 1s"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_left_out_lose_nothing() -> Result<()> {
    let world = World::new().await?;
    let [a, b] = ["a", "b"].map(|name| world.collection(&format!("chosen.{name}")));
    for collection in [&a, &b] {
        collection.insert_many((0..500).map(|id| doc! { "_id": id, "n": 0 })).await?;
    }
    let file = world.rule_file(
        "  - namespace: chosen.a\n    to: search\n  - namespace: chosen.b\n    to: search",
    )?;
    // One is copied before the other is known.
    let (code, log) = file.run_to_end(&["--copy-only", "--rule", "chosen.a"]).await?;
    assert_eq!(code, Some(0), "{log}");
    a.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&a, &world.engine, "chosen-a").await?.none()?, 490);
    assert_eq!(compare(&b, &world.engine, "chosen-b").await?.none()?, 500);
    assert!(run.terminate().await?.success());

    for round in 1..=2 {
        for collection in [&a, &b] {
            let range = doc! { "_id": { "$gte": 100 * round, "$lt": 100 * round + 50 } };
            collection.update_many(range, doc! { "$set": { "n": round } }).await?;
            collection.delete_one(doc! { "_id": 400 + round }).await?;
        }
        let mut run = file.run(&["--rule", "chosen.a"])?;
        run.caught_up(&world.client).await?;
        compare(&a, &world.engine, "chosen-a").await?.none()?;
        match round {
            1 => run.kill().await?,
            _ => assert!(run.terminate().await?.success()),
        }
    }
    let behind = compare(&b, &world.engine, "chosen-b").await?;
    assert_eq!((behind.stale.len(), behind.extra.len()), (100, 2));
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    compare(&a, &world.engine, "chosen-a").await?.none()?;
    compare(&b, &world.engine, "chosen-b").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Two processes with one rule file: the second stands by, and takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_stands_by_and_takes_over() -> Result<()> {
    stand_by_and_take_over("standby", "").await
}

/// The same with a store in a folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_folder_stands_by_and_takes_over() -> Result<()> {
    stand_by_and_take_over("standby_folder", "checkpoint: { file: { path: positions } }").await
}

async fn stand_by_and_take_over(database: &str, top: &str) -> Result<()> {
    let world = World::new().await?;
    let items = world.collection(&format!("{database}.items"));
    let index = format!("{database}-items");
    fill(&items, 2, 1_000).await?;
    let settings = Settings { top: top.into(), ..Settings::default() };
    let rule = format!("  - namespace: {database}.items\n    to: search");
    let file = world.rule_file_with(&settings, &rule)?;
    let mut first = file.run(&[])?;
    first.copied().await?;
    let mut second = file.run(&[])?;
    second.until("standing by", |status| status["state"] == "standby").await?;
    let (ready, reasons) = second.get("/readyz").await.expect("an answer");
    assert_eq!(ready, 200, "{reasons}");
    first.caught_up(&world.client).await?;

    items.delete_many(doc! { "_id": { "$lt": 100 } }).await?;
    first.kill().await?;
    items.update_many(doc! { "_id": { "$gt": 900 } }, doc! { "$set": { "int": 1 } }).await?;
    second.until("taking over", |status| status["state"] == "active").await?;
    second.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, &index).await?.none()?, 900);

    // The lease is given back: a third does not wait for it.
    let mut third = file.run(&[])?;
    third.until("standing by", |status| status["state"] == "standby").await?;
    assert!(second.terminate().await?.success());
    third.until("taking over", |status| status["state"] == "active").await?;
    items.delete_many(doc! { "_id": { "$lt": 200 } }).await?;
    third.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, &index).await?.none()?, 800);
    assert!(third.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_writes_to_a_target_once() -> Result<()> {
    let world = World::new().await?;
    let file = world.rule_file(
        "  - namespace: doubled.items
    to: [{ target: search, index: one }, { target: search, index: two }]",
    )?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(2), "{log}");
    ensure!(log.contains("this rule writes to the same target twice"), "{log}");
    Ok(())
}

/// Whoever starts it must not start it again for such a file, and nobody must find a secret in a log.
#[tokio::test(flavor = "multi_thread")]
async fn every_broken_rule_file_ends_with_2() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec!["absent.yaml".into(), "tests/rule_files".into()];
    for entry in std::fs::read_dir(root.join("tests/rule_files/broken"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path.strip_prefix(root)?.to_owned());
        }
    }
    ensure!(files.len() > 60, "only {files:?}");
    for file in files {
        let ended = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongosync"))
            .args(["run", "--log-format", "text"])
            .arg(&file)
            .current_dir(root)
            .env_clear()
            .env("SECRET", "hunter2")
            .env("EMPTY", "")
            .env("MONGODB_URI", "mongodb://sync:hunter2@db.example.com/?replicaSet=rs0")
            .env("BAD_URI", "mongodb://sync:hunter2@db.example.com:hunter2/")
            .output()
            .await?;
        let said = String::from_utf8(ended.stderr)?;
        let file = file.display().to_string();
        assert_eq!(ended.status.code(), Some(2), "{file}\n{said}");
        ensure!(ended.stdout.is_empty() && said.contains(&file), "{file}\n{said}");
        ensure!(!said.contains("hunter2"), "{file}\n{said}");
    }
    Ok(())
}
