//! A clean stop, one that is not waited for, and a process that is stopped for a while and does not
//! know it.

use anyhow::{Result, ensure};
use mongodb::bson::{Document, doc};

use crate::{
    load::fill,
    support::{
        World,
        checker::compare,
        documents::Documents,
        endpoint::{Endpoint, Play},
        fault::{Fault, Gate, Moment},
        run::{RuleFile, Run},
        situations::situation,
        writers::stir,
    },
};

fn hold(endpoint: &Endpoint) -> std::sync::Arc<Gate> {
    let gate = Gate::closed();
    endpoint.bulks(Play::Struck(Fault::Hold(Moment::Before, gate.clone())));
    gate
}

/// By either signal, with a request under way: it is finished, what it settled is stored. One that
/// gets no answer is not waited for longer than ten seconds; a second signal does not wait at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_a_request_under_way() -> Result<()> {
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("stopped.items");
    fill(&items, 1, 500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: stopped.items\n    to: search")?;
    let mut documents = Documents::new(1);
    let mut run = file.run(&[])?;
    run.copied().await?;
    for (round, name, signals, answered, code) in [
        (1, "SIGTERM with a bulk under way, which is answered", &["TERM"][..], true, Some(0)),
        (2, "SIGINT with a bulk under way, which is answered", &["INT"], true, Some(0)),
        (3, "SIGTERM with a bulk under way, which is not answered", &["TERM"], false, Some(0)),
        (4, "a second SIGTERM with a bulk under way", &["TERM", "TERM"], false, Some(143)),
        (5, "a second SIGINT with a bulk under way", &["INT", "INT"], false, Some(130)),
    ] {
        let mut case = situation(name);
        let gate = hold(&endpoint);
        stir(&items, &mut documents, round).await?;
        run.meets("a bulk", &gate, 1).await?;
        for signal in signals {
            run.signal(signal).await?;
            // Two that came at once would be one.
            run.says("what is in flight is finished first").await?;
        }
        if answered {
            gate.open();
        }
        let ended = run.ended().await?;
        gate.discard();
        endpoint.pass_on();
        assert_eq!(ended.code(), code, "{name}");
        let before = endpoint.history().operations().len();
        run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "stopped-items").await?)?;
        let again = endpoint.history().operations().len() - before;
        println!("{name}: {again} operations after the start");
    }
    endpoint.history().check()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// At every stage of its life.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_any_stage() -> Result<()> {
    let mut case = situation("SIGTERM while it starts, plans, copies, waits and stands by");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 100 }";
    let items = world.collection("staged.items");
    fill(&items, 2, 3_000).await?;
    let rules = "  - namespace: staged.items\n    copy: { chunk: 256KiB }\n    to: search";
    let file = world.rule_file_with(&settings, rules)?;
    let rule = |status: &serde_json::Value| {
        status["targets"]["search"]["rules"]["staged.items"]["copy"].clone()
    };
    for stage in ["status", "lease", "plan", "copy", "more", "waiting"] {
        if stage == "waiting" {
            endpoint.refuse_bulks(503, "");
            items.update_many(doc! {}, doc! { "$set": { "int": 1 } }).await?;
        }
        let mut run = file.run(&[])?;
        match stage {
            "status" => run.until(stage, |_| true).await?,
            "lease" => run.until(stage, |status| status["state"] == "active").await?,
            "plan" => run.until(stage, |status| rule(status)["expected"].is_u64()).await?,
            "copy" => run.until(stage, |s| rule(s)["documents"].as_u64() > Some(300)).await?,
            "more" => run.until(stage, |s| rule(s)["documents"].as_u64() > Some(1_500)).await?,
            _ => run.waiting().await?.into(),
        };
        assert!(run.terminate().await?.success(), "{stage}");
    }
    endpoint.pass_on();
    let mut run = file.run(&[])?;
    // Or the second might be the first.
    run.until("the lease", |status| status["state"] == "active").await?;
    let mut standby = file.run(&[])?;
    standby.until("standing by", |status| status["state"] == "standby").await?;
    assert!(standby.terminate().await?.success());
    run.copied().await?;
    case.compared(&compare(&items, &world.engine, "staged-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A process that is frozen with a request under way loses its lease without knowing. What it still
/// had on its way lands behind the writes of the one that took over, and when it goes on it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_that_wakes_up_changes_nothing() -> Result<()> {
    let mut case = situation("a frozen process wakes up after another has taken over");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    // One lane: another could be frozen on its way to the endpoint.
    settings.engine += ", batch: { concurrency: 1 }";
    let items = world.collection("frozen.items");
    items.insert_many((0..300).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let file = world.rule_file_with(&settings, "  - namespace: frozen.items\n    to: search")?;
    let mut first = file.run(&[])?;
    first.copied().await?;
    let mut second = file.run(&[])?;
    second.until("standing by", |status| status["state"] == "standby").await?;

    let gate = hold(&endpoint);
    items.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await?;
    first.meets("the old holder's bulk", &gate, 1).await?;
    first.signal("STOP").await?;
    endpoint.pass_on();
    items.update_many(doc! { "_id": { "$lt": 200 } }, doc! { "$set": { "n": 2 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 200 } }).await?;
    second.until("taking over", |status| status["state"] == "active").await?;
    second.caught_up(&world.client).await?;
    let late = endpoint.history().operations().len();
    gate.open();
    second
        .until("the late write", |_| endpoint.history().operations().iter().all(|o| o.answered()))
        .await?;
    case.compared(&compare(&items, &world.engine, "frozen-items").await?)?;

    first.signal("CONT").await?;
    let ended = first.ended().await?;
    assert_eq!(ended.code(), Some(1));
    let written = stored(&world, &file).await?;
    ensure!(written.get_i64("epoch")? == 2, "the old holder has written: {written}");
    assert_eq!(endpoint.history().operations().len(), late, "it has sent nothing more");
    items.update_many(doc! {}, doc! { "$set": { "n": 3 } }).await?;
    second.caught_up(&world.client).await?;
    let differences = compare(&items, &world.engine, "frozen-items").await?;
    assert_eq!(case.compared(&differences)?, 200);
    assert!(second.terminate().await?.success());
    Ok(())
}

/// The record of the position.
async fn stored(world: &World, file: &RuleFile) -> Result<Document> {
    let name = file.path.file_stem().and_then(|name| name.to_str()).expect("a name");
    let positions = world.collection("mongosync.positions");
    let found = positions.find_one(doc! { "name": name }).await?;
    found.ok_or_else(|| anyhow::anyhow!("no position of {name}"))
}

/// Many short runs, one after the other, each ended in the middle of what it does.
#[tokio::test(flavor = "multi_thread")]
async fn many_short_runs_come_to_the_same_end() -> Result<()> {
    let mut case = situation("twelve short runs, by turns kill -9, SIGTERM and a second process");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 50, concurrency: 3 }";
    let items = world.collection("short.items");
    fill(&items, 3, 2_000).await?;
    let rules = "  - namespace: short.items\n    copy: { chunk: 128KiB }\n    to: search";
    let file = world.rule_file_with(&settings, rules)?;
    let mut documents = Documents::new(3);
    let mut standby: Option<Run> = None;
    for round in 1..=12 {
        let mut run = match standby.take() {
            Some(run) => run,
            None => file.run(&[])?,
        };
        let before = endpoint.bulk_requests();
        stir(&items, &mut documents, round).await?;
        run.until("some bulks", |_| endpoint.bulk_requests() >= before + 3).await?;
        if round % 4 == 0 {
            let mut next = file.run(&[])?;
            next.until("standing by", |status| status["state"] == "standby").await?;
            standby = Some(next);
        }
        match round % 3 {
            0 => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
    }
    let mut run = match standby {
        Some(run) => run,
        None => file.run(&[])?,
    };
    run.copied().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "short-items").await?)?;
    endpoint.history().check()?;
    assert!(run.terminate().await?.success());
    Ok(())
}
