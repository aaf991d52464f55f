//! What a person asks of a running process: `resync`, `pause`, `resume`, `seek`, and dead letters that
//! are shown, tried again, or forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use mongodb::bson::doc;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        engine_kind,
        run::{RuleFile, Settings, cluster_time},
    },
};

fn settings() -> Settings {
    Settings { top: "checkpoint: { every: 100ms }".into(), ..Settings::default() }
}

/// Runs a command that has to succeed, and returns what it prints.
async fn ask(file: &RuleFile, command: &str, arguments: &[&str]) -> Result<String> {
    let output = file.command(command, arguments).await?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command} {arguments:?}: {problem}");
    ensure!(!problem.contains("panicked"), "{command} {arguments:?}: {problem}");
    Ok(String::from_utf8(output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_copied_again_on_request() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("asked.items");
    fill(&items, 1, 1_000).await?;
    let rules = "  - { name: items, namespace: asked.items, to: search }";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    // Somebody has had a hand in the index.
    for id in ["1", "2", "3"] {
        world.engine_json("DELETE", &format!("/asked-items/_doc/{id}?refresh=true"), "").await?;
    }
    assert_eq!(compare(&items, &world.engine, "asked-items").await?.missing.len(), 3);
    let said = ask(&file, "resync", &["items"]).await?;
    assert_eq!(said, "target search: is copied again\n");
    run.copied().await?;
    assert_eq!(compare(&items, &world.engine, "asked-items").await?.none()?, 1_000);

    let unknown = file.command("resync", &["item"]).await?;
    assert_eq!(unknown.status.code(), Some(2));
    ensure!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean"));
    assert!(run.terminate().await?.success());

    // While nothing runs it is left for the next run.
    let output = file.command("resync", &["items", "--wait", "1s"]).await?;
    assert!(output.status.success());
    ensure!(String::from_utf8_lossy(&output.stderr).contains("no process runs the rule file"));
    world.engine_json("DELETE", "/asked-items/_doc/5?refresh=true", "").await?;
    let mut run = file.run(&[])?;
    run.until("the copy", |status| {
        let copied = &status["targets"]["search"]["rules"]["items"];
        copied["delivered"].as_u64() >= Some(1) && copied["copy"]["complete"] == true
    })
    .await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "asked-items").await?.none()?, 1_000);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// However many rules begin to copy, what one of them writes is not looked for again for the others.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_copy_look_for_their_indices_once() -> Result<()> {
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let names = ["one", "two", "three", "four", "five"];
    for name in names {
        fill(&world.collection(&format!("together.{name}")), 1, 10).await?;
    }
    let rule = |name| format!("  - {{ namespace: together.{name}, to: search }}\n");
    let rules: String = names.into_iter().map(rule).collect();
    let file = world.rule_file_with(&settings, &rules)?;
    let looks = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let seen = looks.clone();
    endpoint.play(move |asked| {
        *seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(asked.path.to_owned())
            .or_default() += 1;
        None::<(u16, String)>
    });
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    let looks = looks.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for name in names {
        let index = format!("together-{name}");
        assert_eq!(
            compare(&world.collection(&format!("together.{name}")), &world.engine, &index)
                .await?
                .none()?,
            10
        );
        // It is looked for, made, and arranged.
        assert_eq!(looks.get(&format!("/{index}")), Some(&3), "{looks:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_paused_and_goes_on() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("paused.items");
    fill(&items, 1, 100).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: paused.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(ask(&file, "pause", &[]).await?, "target search: is paused\n");
    let paused = |status: &serde_json::Value| status["targets"]["search"]["state"] == "paused";
    run.until("the pause", paused).await?;
    items.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    let letters = file.command("dead-letters", &["retry", "--all"]).await?;
    assert_eq!(letters.status.code(), Some(1));
    ensure!(String::from_utf8_lossy(&letters.stderr).contains("it is paused"));
    // What is asked for meanwhile outlives the process.
    for id in [20, 21] {
        let path = format!("/paused-items/_doc/{id}?refresh=true");
        world.engine_json("DELETE", &path, "").await?;
    }
    let said = ask(&file, "resync", &["paused.items"]).await?;
    assert_eq!(said, "target search: is copied again once it is resumed\n");
    run.kill().await?;

    let mut run = file.run(&[])?;
    run.until("the pause after a restart", paused).await?;
    assert_eq!(hits(&world.engine, "paused-items").await?.len(), 98);
    let said = ask(&file, "resume", &["--target", "search"]).await?;
    assert_eq!(said, "target search: goes on\n");
    run.caught_up(&world.client).await?;
    run.copied().await?;
    assert_eq!(compare(&items, &world.engine, "paused-items").await?.none()?, 90);
    assert_eq!(ask(&file, "resume", &[]).await?, "target search: is not paused\n");

    let unknown = file.command("pause", &["--target", "serch"]).await?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_goes_on_from_an_earlier_time() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("sought.items");
    fill(&items, 1, 100).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: sought.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let (seconds, increment) = cluster_time(&world.client).await?;
    items.update_one(doc! { "_id": 7 }, doc! { "$set": { "int": 7 } }).await?;
    run.caught_up(&world.client).await?;
    let delivered = |status: &serde_json::Value| {
        status["targets"]["search"]["rules"]["sought.items"]["delivered"].as_u64()
    };
    let before = delivered(&run.status().await.expect("a status"));
    let to = format!("{seconds}.{increment}");
    let said = ask(&file, "seek", &["--target", "search", "--to", &to]).await?;
    assert_eq!(said, format!("target search: goes on from {to}\n"));
    run.until("the change once more", |status| delivered(status) > before).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "sought-items").await?.none()?, 100);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_shown_tried_again_and_forgotten() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("lettered.items");
    items.insert_many((0..20).map(|id| doc! { "_id": id, "bad": id % 5 == 0 })).await?;
    let rules = "  - namespace: lettered.items
    transform: |
      if doc.bad { fail(\"it is bad\"); }
    to: search";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 4);
    let id = letters[0]["id"].as_str().expect("an id");
    let shown = ask(&file, "dead-letters", &["show", id]).await?;
    ensure!(shown.contains("it is bad"), "{shown}");
    for action in ["show", "retry", "purge"] {
        let unknown = file.command("dead-letters", &[action, "nothing"]).await?;
        assert_eq!(unknown.status.code(), Some(2), "{action}");
        ensure!(
            String::from_utf8_lossy(&unknown.stderr).contains("there is no dead letter nothing")
        );
    }
    let said = ask(&file, "dead-letters", &["retry", id]).await?;
    assert_eq!(said, "target search: 1 delivered again, 1 of them refused again\n");

    // The script is mended; the documents have not changed.
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace("if doc.bad", "if doc._id == 15"))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let said = ask(&file, "dead-letters", &["retry", "--all"]).await?;
    assert_eq!(said, "target search: 4 delivered again, 1 of them refused again\n");
    assert_eq!(hits(&world.engine, "lettered-items").await?.len(), 19);
    assert_eq!(file.dead_letters().await?.len(), 1);

    // One whose document is gone is settled by that.
    items.delete_one(doc! { "_id": 15 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    items.insert_one(doc! { "_id": 15 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(file.dead_letters().await?.len(), 1);
    let said = ask(&file, "dead-letters", &["purge", "--all"]).await?;
    assert_eq!(said, "target search: 1 forgotten\n");
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A target that only copies has come to its end: what is asked of all targets is done by the others,
/// once, and answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_has_come_to_its_end_is_named_in_the_answer() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("finished.items");
    fill(&items, 1, 50).await?;
    let rules = "  - { name: items, namespace: finished.items, to: search }
  - { name: once, namespace: finished.items, changes: false, to: [{ target: archive, index: finished-once }] }";
    let file = world.rule_file_with(&settings(), rules)?;
    let (kind, url) = (engine_kind(), world.engine.url());
    let archive = format!("targets:\n  archive: {{ {kind}: {{ urls: [\"{url}\"] }} }}\n");
    file.rewrite(|text| text.replace("targets:\n", &archive))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.until("the end of the archive's copy", |status| {
        status["targets"]["archive"]["rules"]["once"]["copy"]["complete"] == true
    })
    .await?;
    let output = file.command("pause", &[]).await?;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("target archive: it has come to its end"), "{said}");
    ensure!(said.contains("target search: is paused"), "{said}");
    items.delete_one(doc! { "_id": 1 }).await?;
    assert_eq!(ask(&file, "resume", &["--target", "search"]).await?, "target search: goes on\n");
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "finished-items").await?.none()?, 49);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Requests that were left one after the other while nothing ran are carried out in that order.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_carried_out_in_their_order() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("queued.items");
    fill(&items, 1, 20).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: queued.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    // More than can be right by chance.
    for _ in 0..6 {
        for command in ["pause", "resume"] {
            assert!(file.command(command, &["--wait", "1ms"]).await?.status.success());
        }
    }
    items.delete_one(doc! { "_id": 1 }).await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "queued-items").await?.none()?, 19);
    assert!(run.terminate().await?.success());
    Ok(())
}
