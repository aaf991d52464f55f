//! A rule file that is edited between two runs: what is new, what has changed and what is gone is seen
//! to on its own, while the other rules go on.

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use serde_json::Value;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        endpoint::Play,
        fault::{Fault, Gate, Moment},
        run::{RuleFile, Run, Settings},
    },
};

fn settings() -> Settings {
    Settings { top: "checkpoint: { every: 100ms }".into(), ..Settings::default() }
}

/// Everything is settled, and whatever had to be copied and swept is.
async fn at_rest(run: &mut Run, world: &World) -> Result<()> {
    run.caught_up(&world.client).await?;
    run.copied().await
}

/// What the status says of a rule.
async fn rule(run: &Run, name: &str) -> Result<Value> {
    let status = run.status().await.context("a status")?;
    Ok(status["targets"]["search"]["rules"][name].clone())
}

/// What `check --online` finds, by its codes.
async fn found(file: &RuleFile) -> Result<Vec<String>> {
    let output = file.command("check", &["--online", "--json"]).await?;
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let findings = said["findings"].as_array().context("findings")?;
    Ok(findings.iter().filter_map(|it| it["code"].as_str()).map(str::to_owned).collect())
}

/// One of the collections of a copy that was broken off is gone when the rule has changed, and what it held
/// stays: the others are begun anew once, not again when the stream shows how it went.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_gone_has_nothing_begun_anew_twice() -> Result<()> {
    let world = World::new().await?;
    let [stays, goes] = ["stays", "goes"].map(|name| world.collection(&format!("twice.{name}")));
    fill(&stays, 1, 300).await?;
    fill(&goes, 2, 300).await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.top = "checkpoint: { every: 100ms }".into();
    let file = world.rule_file_with(
        &settings,
        "  - { name: all, namespace: twice.*, on_drop: keep, to: search }",
    )?;
    let gate = Gate::closed();
    let held = Fault::Hold(Moment::Before, gate.clone());
    endpoint.play(move |asked| match asked.is_bulk() {
        true => Play::Struck(held.clone()),
        false => Play::Pass,
    });
    let mut run = file.run(&[])?;
    run.meets("the copy", &gate, 1).await?;
    run.kill().await?;
    gate.discard();
    endpoint.pass_on();
    goes.drop().await?;
    file.rewrite(|text| text.replace("on_drop", "filter: { _id: { $lt: 100 } }, on_drop"))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "twice-stays").await?.len(), 100);
    let said = run.log().matches("the copy is begun anew").count();
    assert_eq!(said, 1, "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_rule_is_copied_while_the_others_go_on() -> Result<()> {
    let world = World::new().await?;
    let [known, new] = ["known", "new"].map(|name| world.collection(&format!("added.{name}")));
    fill(&known, 1, 500).await?;
    fill(&new, 2, 300).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: added.known, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());

    known.delete_many(doc! { "_id": { "$lt": 5 } }).await?;
    known.update_many(doc! { "_id": { "$gte": 497 } }, doc! { "$set": { "int": 1 } }).await?;
    file.rewrite(|text| format!("{text}\n  - {{ namespace: added.new, to: search }}\n"))?;
    ensure!(found(&file).await?.contains(&"new_rules".to_owned()));
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&known, &world.engine, "added-known").await?.none()?, 495);
    assert_eq!(compare(&new, &world.engine, "added-new").await?.none()?, 300);
    let status = rule(&run, "added.known").await?;
    assert_eq!((&status["delivered"], &status["removed"]), (&3.into(), &5.into()), "no copy");
    assert_eq!(rule(&run, "added.new").await?["delivered"], 300);

    // Once copied, it goes on as they do.
    new.delete_one(doc! { "_id": 0 }).await?;
    at_rest(&mut run, &world).await?;
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(rule(&run, "added.new").await?["delivered"], 0);
    assert_eq!(compare(&new, &world.engine, "added-new").await?.none()?, 299);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_rule_is_stale_until_it_is_copied_again() -> Result<()> {
    let world = World::new().await?;
    let [items, others] =
        ["items", "others"].map(|name| world.collection(&format!("stale.{name}")));
    fill(&items, 1, 400).await?;
    fill(&others, 2, 200).await?;
    let rules =
        "  - { namespace: stale.others, to: search }\n  - namespace: stale.items\n    to: search";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(rule(&run, "stale.items").await?["stale_definition"], false);
    assert!(run.terminate().await?.success());

    file.rewrite(|text| format!("{text}\n    filter: {{ _id: {{ $lt: 100 }} }}\n"))?;
    for _ in 0..2 {
        ensure!(found(&file).await?.contains(&"stale".to_owned()));
        let mut run = file.run(&[])?;
        at_rest(&mut run, &world).await?;
        assert_eq!(rule(&run, "stale.items").await?["stale_definition"], true);
        assert_eq!(rule(&run, "stale.others").await?["stale_definition"], false);
        ensure!(run.log().contains("stale definition"), "{}", run.log());
        assert!(run.terminate().await?.success());
    }
    assert_eq!(hits(&world.engine, "stale-items").await?.len(), 400, "as it was delivered");

    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    // The new rule holds for what changes.
    items.update_one(doc! { "_id": 399 }, doc! { "$set": { "int": 1 } }).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "stale-items").await?.len(), 399);
    let asked = file.command("resync", &["stale.items"]).await?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    run.until("the plan", |status| {
        status["targets"]["search"]["rules"]["stale.items"]["stale_definition"] == false
    })
    .await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "stale-items").await?.len(), 100);
    assert_eq!(rule(&run, "stale.others").await?["delivered"], 0, "it is not copied again");
    assert!(run.terminate().await?.success());

    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(rule(&run, "stale.items").await?["stale_definition"], false);
    ensure!(!run.log().contains("stale definition"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_rule_delivered_stays() -> Result<()> {
    let world = World::new().await?;
    let [red, blue] = ["red", "blue"].map(|name| world.collection(&format!("removed.{name}")));
    fill(&red, 1, 200).await?;
    fill(&blue, 2, 100).await?;
    let to = "to: [{ target: search, index: removed-all, id: '{collection}-{_id}' }]";
    let rule = |name: &str| format!("  - {{ name: {name}, namespace: removed.{name}, {to} }}\n");
    let file = world.rule_file_with(&settings(), &format!("{}{}", rule("blue"), rule("red")))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());

    file.rewrite(|text| text.replace(&rule("red"), ""))?;
    ensure!(found(&file).await?.contains(&"rules_gone".to_owned()));
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let said = "the rule is no longer in the file: its progress is forgotten, its documents stay";
    ensure!(run.log().contains(said), "{}", run.log());
    red.delete_many(doc! { "_id": { "$lt": 50 } }).await?;
    blue.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    at_rest(&mut run, &world).await?;
    let count = async |prefix: &str| -> Result<usize> {
        let found = hits(&world.engine, "removed-all").await?;
        Ok(found.iter().filter(|hit| hit.id.starts_with(prefix)).count())
    };
    assert_eq!((count("red-").await?, count("blue-").await?), (200, 90));
    assert!(run.terminate().await?.success());
    // Once it is seen to, there is nothing more to say.
    ensure!(!found(&file).await?.contains(&"rules_gone".to_owned()));
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    ensure!(!run.log().contains(said), "{}", run.log());

    // A neighbour that is copied again takes nothing of it away.
    let asked = file.command("resync", &["blue"]).await?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    at_rest(&mut run, &world).await?;
    assert_eq!((count("red-").await?, count("blue-").await?), (200, 90));
    assert!(run.terminate().await?.success());

    // Nor of one that came, was never copied, and went.
    let green = world.collection("removed.green");
    fill(&green, 3, 10).await?;
    file.rewrite(|text| {
        text.replace(&rule("blue"), &format!("{}{}", rule("blue"), rule("green")))
    })?;
    let mut run = file.run(&["--changes-only"])?;
    at_rest(&mut run, &world).await?;
    green.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(count("green-").await?, 10);
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace(&rule("green"), ""))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let asked = file.command("resync", &["blue"]).await?;
    ensure!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    at_rest(&mut run, &world).await?;
    let counts = (count("red-").await?, count("blue-").await?, count("green-").await?);
    assert_eq!(counts, (200, 90, 10));
    assert!(run.terminate().await?.success());
    Ok(())
}
