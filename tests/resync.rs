//! Collections that are dropped, renamed and replaced, rules that change, come and go, and a history
//! that is lost: the target ends up as the rules say, and nothing but what was mongosync's is touched.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use mongodb::bson::{Document, Timestamp, doc};
use mongosync::change::ClusterTime;

use crate::{
    load::fill,
    support::{
        World,
        checker::{Hit, body, compare, compare_shaped, hits, plain_id},
        endpoint::Play,
        fault::{Fault, Gate, Moment},
        mongo_proxy::MongoProxy,
        run::{RuleFile, Run, Settings},
    },
};

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

/// How many owners have marked an index.
async fn marks(world: &World, index: &str) -> Result<usize> {
    let aliases = world.engine_json("GET", &format!("/{index}/_alias"), "").await?;
    let all = aliases[index]["aliases"].as_object().expect("aliases").keys();
    Ok(all.filter(|alias| alias.starts_with("mongosync-owner-")).count())
}

/// Everything is settled, and whatever had to be copied again and swept is.
async fn at_rest(run: &mut Run, world: &World) -> Result<()> {
    run.caught_up(&world.client).await?;
    run.copied().await
}

/// The server has one fail point of this name, for all tests.
static FAIL_POINT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The next change stream that this application opens finds that the oplog begins too late.
async fn lose_history(world: &World, application: &str) -> Result<()> {
    let command = doc! {
        "configureFailPoint": "failCommand", "mode": { "times": 1 },
        "data": {
            "failCommands": ["aggregate"], "errorCode": 286, "appName": application,
        },
    };
    world.client.database("admin").run_command(command).await?;
    Ok(())
}

fn settings(application: &str) -> Settings {
    Settings {
        top: "checkpoint: { every: 100ms }".into(),
        source: format!("&appName={application}"),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_dropped_and_made_again() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("dropped.items");
    let others = world.collection("dropped.others");
    fill(&items, 1, 500).await?;
    fill(&others, 2, 100).await?;
    let file = world.rule_file("  - { name: all, namespace: dropped.*, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.drop().await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "dropped-items").await?, []);
    assert_eq!(compare(&others, &world.engine, "dropped-others").await?.none()?, 100);

    fill(&items, 3, 50).await?;
    items.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "dropped-items").await?.none()?, 40);

    // All of it while nothing runs, and before a kill.
    assert!(run.terminate().await?.success());
    items.drop().await?;
    fill(&items, 4, 30).await?;
    let run = file.run(&[])?;
    run.kill().await?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "dropped-items").await?.none()?, 30);
    let log = run.log();
    assert!(run.terminate().await?.success());

    // Once seen to, it is not done again.
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let ended = "a collection has ended";
    ensure!(log.contains(ended) && !run.log().contains(ended), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_dropped_and_made_again() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("gone.items");
    fill(&items, 1, 300).await?;
    let file = world.rule_file("  - { name: all, namespace: 'gone.*', to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.insert_one(doc! { "_id": 1_000, "late": true }).await?;
    world.client.database("gone").drop().await?;
    let later = world.collection("gone.later");
    fill(&later, 2, 20).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "gone-items").await?, []);
    assert_eq!(compare(&later, &world.engine, "gone-later").await?.none()?, 20);
    fill(&items, 3, 20).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "gone-items").await?.none()?, 20);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// `$out` replaces a collection by a rename; one may be renamed into a rule, out of it, and within.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_renamed() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("renamed.items");
    let staged = world.collection("renamed.staged");
    fill(&items, 1, 300).await?;
    let file = world.rule_file("  - { namespace: renamed.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;

    fill(&staged, 2, 100).await?;
    staged.delete_many(doc! { "_id": { "$lt": 20 } }).await?;
    staged.insert_one(doc! { "_id": 5_000, "new": true }).await?;
    let out = doc! { "$out": "items" };
    staged.aggregate([doc! { "$match": { "_id": { "$gte": 50 } } }, out]).await?;
    items.update_one(doc! { "_id": 60 }, doc! { "$set": { "after": true } }).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "renamed-items").await?.none()?, 51);

    let admin = world.client.database("admin");
    let rename = |from: &str, to: &str| {
        let command = doc! {
            "renameCollection": format!("renamed.{from}"), "to": format!("renamed.{to}"),
            "dropTarget": true,
        };
        admin.run_command(command)
    };
    rename("items", "away").await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "renamed-items").await?, []);
    rename("staged", "items").await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "renamed-items").await?.none()?, 81);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_on_drop_keeps_stays_for_ever() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("stays.items");
    items.insert_many((0..10).map(|id| doc! { "_id": id, "n": 1 })).await?;
    let file = world.rule_file_with(
        &settings("stays"),
        "  - namespace: stays.items
    on_drop: keep
    on_rule_change: resync
    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.drop().await?;
    items.insert_many((5..15).map(|id| doc! { "_id": id, "n": 2 })).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "stays-items").await?.len(), 15);
    // What goes of the collection as it is now is still removed, by a copy too.
    items.delete_one(doc! { "_id": 14 }).await?;
    at_rest(&mut run, &world).await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| {
        text.replace("on_drop: keep", "on_drop: keep\n    filter: { _id: { $ne: 13 } }")
    })?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "stays-items").await?;
    assert_eq!(found.len(), 13, "{found:?}");
    assert!(!ids(&found).contains(&"13") && !ids(&found).contains(&"14"));
    let old = found.iter().filter(|hit| hit.source["n"] == 1).count();
    assert_eq!(old, 5);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What was written by hand into an index.
async fn by_hand(world: &World, index: &str) -> Result<()> {
    world.engine_json("PUT", &format!("/{index}/_doc/by-hand"), r#"{"hand":true}"#).await?;
    Ok(())
}

fn even(document: &Document) -> Option<(String, serde_json::Value)> {
    let id = plain_id(document.get("_id")?)?;
    let even = id.parse::<i64>().ok()? % 2 == 0;
    even.then(|| (id, body(document)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_changes_is_copied_again_where_it_says_so() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("changed.items");
    fill(&items, 1, 2_000).await?;
    let rules = "  - namespace: changed.items\n    to: search";
    let file = world.rule_file_with(&settings("changed"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    by_hand(&world, "changed-items").await?;
    assert!(run.terminate().await?.success());

    // It is said, and what was delivered stays.
    let narrowed = "to: search\n    filter: { _id: { $mod: [2, 0] } }";
    file.rewrite(|text| text.replace("to: search", narrowed))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let status = run.status().await.expect("a status");
    let rule = &status["targets"]["search"]["rules"]["changed.items"];
    assert_eq!(rule["stale_definition"], true, "{status:#}");
    ensure!(run.log().contains("stale definition"), "{}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(hits(&world.engine, "changed-items").await?.len(), 2_001);

    // It is done, changes meanwhile and a kill included.
    file.rewrite(|text| format!("{text}    on_rule_change: resync\n"))?;
    let mut run = file.run(&[])?;
    items.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "int": 7 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 1_900 } }).await?;
    run.until("the plan", |status| {
        status["targets"]["search"]["rules"]["changed.items"]["stale_definition"] == false
    })
    .await?;
    run.kill().await?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    world.engine_json("DELETE", "/changed-items/_doc/by-hand?refresh=true", "").await?;
    let checked = compare_shaped(&items, &world.engine, "changed-items", even).await?;
    assert_eq!(checked.none()?, 950);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_comes_back_finds_what_is_gone() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("back.items");
    let others = world.collection("back.others");
    fill(&items, 1, 200).await?;
    fill(&others, 2, 20).await?;
    let one = "  - { namespace: back.others, to: search }";
    let both = format!("{one}\n  - {{ namespace: back.items, to: search }}");
    let file = world.rule_file_with(&settings("back"), &both)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    by_hand(&world, "back-items").await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace(&both, one))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    items.delete_many(doc! { "_id": { "$lt": 50 } }).await?;
    at_rest(&mut run, &world).await?;
    ensure!(run.log().contains("its documents stay"), "{}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(hits(&world.engine, "back-items").await?.len(), 201, "its documents stay");
    file.rewrite(|text| text.replace(one, &both))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let left = hits(&world.engine, "back-items").await?;
    assert_eq!(left.len(), 151);
    assert!(ids(&left).contains(&"by-hand"), "what others wrote is not touched");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Changes of every kind while nothing runs, and an oplog that no longer tells of them.
async fn missed(world: &World, file: &RuleFile, namespace: &str, application: &str) -> Result<Run> {
    let items = world.collection(namespace);
    items.delete_many(doc! { "_id": { "$lt": 100 } }).await?;
    let change = doc! { "$set": { "int": 5, "kind": "moved" } };
    items.update_many(doc! { "_id": { "$gte": 100, "$lt": 200 } }, change).await?;
    let leave = doc! { "$set": { "active": false } };
    items.update_many(doc! { "_id": { "$gte": 200, "$lt": 300 } }, leave).await?;
    items.insert_many((5_000..5_050).map(|id| doc! { "_id": id, "kind": "new" })).await?;
    forgotten(world, file, application).await
}

/// A run that finds its history lost, at rest.
async fn forgotten(world: &World, file: &RuleFile, application: &str) -> Result<Run> {
    let fail_point = FAIL_POINT.lock().await;
    lose_history(world, application).await?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, world).await?;
    drop(fail_point);
    ensure!(run.log().contains("history lost"), "{}", run.log());
    Ok(run)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_is_made_up_for() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("lost.items");
    fill(&items, 1, 1_000).await?;
    let rules = "  - namespace: lost.items
    filter: { active: { $ne: false } }
    to: [{ target: search, index: { name: lost-items, mappings: { properties: { int: { type: integer } } } } }]";
    let file = world.rule_file_with(&settings("lost"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    by_hand(&world, "lost-items").await?;
    // One that the engine refuses from now on: what it holds of it is spared.
    items.update_one(doc! { "_id": 400 }, doc! { "$set": { "int": "no number" } }).await?;
    run.until("a dead letter", |status| {
        status["targets"]["search"]["rules"]["lost.items"]["dead_letters"] == 1
    })
    .await?;
    assert!(run.terminate().await?.success());
    let run = missed(&world, &file, "lost.items", "lost").await?;
    let found = hits(&world.engine, "lost-items").await?;
    let found = ids(&found);
    assert_eq!(found.len(), 1_000 - 100 - 100 + 50 + 1);
    assert!(found.contains(&"by-hand") && found.contains(&"400"));
    world.engine_json("DELETE", "/lost-items/_doc/by-hand?refresh=true", "").await?;
    let checked = compare_shaped(&items, &world.engine, "lost-items", |document| {
        let matches = document.get_bool("active").unwrap_or(true);
        matches.then(|| {
            (plain_id(document.get("_id").expect("one")).expect("a number"), body(document))
        })
    })
    .await?;
    assert_eq!(
        (checked.missing.len(), checked.extra.len(), checked.stale),
        (0, 0, vec!["400".to_owned()])
    );
    assert_eq!(file.dead_letters().await?.len(), 1);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_removes_what_left_the_filter_and_keeps_what_was_deleted() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("lostkept.items");
    items.insert_many((0..400).map(|id| doc! { "_id": id, "n": 1 })).await?;
    let rules = "  - namespace: lostkept.items
    filter: { active: { $ne: false } }
    on_delete: keep
    to: search";
    let file = world.rule_file_with(&settings("lostkept"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    let run = missed(&world, &file, "lostkept.items", "lostkept").await?;
    let found = hits(&world.engine, "lostkept-items").await?;
    assert_eq!(found.len(), 400 - 100 + 50);
    assert!(ids(&found).contains(&"1") && !ids(&found).contains(&"250"));
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_of_documents_that_move() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("lostmoved.items");
    items.insert_many((0..400).map(|id| doc! { "_id": id, "kind": "old", "n": id })).await?;
    let rules = "  - namespace: lostmoved.items
    filter: { active: { $ne: false } }
    to: [{ target: search, index: 'lostmoved-{kind}' }]";
    let file = world.rule_file_with(&settings("lostmoved"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    let run = missed(&world, &file, "lostmoved.items", "lostmoved").await?;
    let count = |hits: Vec<Hit>| hits.len();
    assert_eq!(count(hits(&world.engine, "lostmoved-old").await?), 400 - 300);
    assert_eq!(count(hits(&world.engine, "lostmoved-moved").await?), 100);
    assert_eq!(count(hits(&world.engine, "lostmoved-new").await?), 50);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_ends_the_run_where_the_rule_says_so() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("lostend.items");
    fill(&items, 1, 100).await?;
    let rules = "  - namespace: lostend.items\n    on_history_lost: stop\n    to: search";
    let file = world.rule_file_with(&settings("lostend"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    items.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    let fail_point = FAIL_POINT.lock().await;
    lose_history(&world, "lostend").await?;
    let (code, log) = file.run_to_end(&[]).await?;
    drop(fail_point);
    assert_eq!(code, Some(5), "{log}");
    ensure!(log.contains("on_history_lost"), "{log}");
    // The position is as it was: where the history is there after all, nothing is lost.
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "lostend-items").await?.none()?, 90);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Two namespaces in one index: when one is dropped, the other's documents stay.
#[tokio::test(flavor = "multi_thread")]
async fn what_shares_an_index_is_copied_and_swept_together() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("shared.red"), world.collection("shared.blue"));
    fill(&red, 1, 200).await?;
    fill(&blue, 2, 300).await?;
    let rules = "  - { name: red, namespace: shared.red, to: [{ target: search, index: shared-all, id: '{collection}-{_id}' }] }
  - { name: blue, namespace: shared.blue, to: [{ target: search, index: shared-all, id: '{collection}-{_id}' }] }";
    let file = world.rule_file(rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    red.drop().await?;
    blue.delete_many(doc! { "_id": { "$lt": 30 } }).await?;
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "shared-all").await?;
    assert_eq!(found.len(), 270);
    assert!(found.iter().all(|hit| hit.id.starts_with("blue-")));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What another rule file writes into the same index is not taken for one's own.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_two_rule_files_is_not_swept() -> Result<()> {
    let world = World::new().await?;
    let (one, two) = (world.collection("both.one"), world.collection("both.two"));
    one.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    two.insert_many((100..110).map(|id| doc! { "_id": id })).await?;
    let rule = |name: &str| {
        format!("  - {{ namespace: both.{name}, to: [{{ target: search, index: both-all }}] }}")
    };
    let (first, second) = (world.rule_file(&rule("one"))?, world.rule_file(&rule("two"))?);
    for file in [&first, &second] {
        let mut run = file.run(&[])?;
        run.copied().await?;
        assert!(run.terminate().await?.success());
    }
    let mut run = first.run(&[])?;
    one.drop().await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "both-all").await?.len(), 20);
    ensure!(run.log().contains("others write to it"), "{}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(marks(&world, "both-all").await?, 2);
    Ok(())
}

/// What held documents before mongosync came is not swept, whatever their versions look like.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_held_documents_before_is_not_swept() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("before.items");
    items.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    let old = ClusterTime::from(Timestamp { time: 1_700_000_000, increment: 1 }).version();
    let path =
        format!("/before-items/_doc/theirs?version={old}&version_type=external&refresh=true");
    world.engine_json("PUT", &path, r#"{"theirs":true}"#).await?;
    let file = world.rule_file("  - { namespace: before.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "before-items").await?;
    ensure!(found.len() == 10 && ids(&found).contains(&"theirs"), "{found:?}");
    ensure!(run.log().contains("held documents before"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A rule that has left the file leaves its documents, though its neighbour in the index is copied
/// again, and is swept itself once it is back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_rule_wrote_stays_beside_a_rule_that_is_copied_again() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("leaves.red"), world.collection("leaves.blue"));
    fill(&red, 1, 50).await?;
    fill(&blue, 2, 70).await?;
    let rule = |name: &str| {
        format!(
            "  - {{ name: {name}, namespace: leaves.{name}, to: [{{ target: search, index: \
             leaves-all, id: '{{collection}}-{{_id}}' }}] }}\n"
        )
    };
    let both = [rule("red"), rule("blue")].concat();
    let file = world.rule_file_with(&settings("leaves"), &both)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace(&both, &rule("blue")))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    red.delete_many(doc! { "_id": { "$lt": 5 } }).await?;
    blue.drop().await?;
    fill(&blue, 3, 7).await?;
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "leaves-all").await?;
    let of =
        |color: &str, found: &[Hit]| found.iter().filter(|hit| hit.id.starts_with(color)).count();
    assert_eq!(of("red", &found), 50, "they stay");
    // Of before the rule left, nobody can say whose they were.
    assert_eq!(of("blue", &found), 70);
    assert!(run.terminate().await?.success());

    file.rewrite(|text| text.replace(&rule("blue"), &both))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert!(file.command("resync", &["red", "blue"]).await?.status.success());
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "leaves-all").await?;
    assert_eq!((of("red", &found), of("blue", &found)), (45, 7));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Changes that were under way when a collection was dropped find nothing any more: what was not
/// deleted stays as the target has it.
#[tokio::test(flavor = "multi_thread")]
async fn what_on_drop_keeps_outlives_a_backlog() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("heldlate.items");
    items.insert_many((0..20).map(|id| doc! { "_id": id, "n": 1, "active": true })).await?;
    let file = world.rule_file_with(
        &settings("heldlate"),
        "  - namespace: heldlate.items
    filter: { active: true }
    on_drop: keep
    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    items.update_many(doc! { "_id": { "$lt": 10 } }, doc! { "$set": { "n": 2 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 15 } }).await?;
    items.insert_one(doc! { "_id": 15, "n": 3, "active": true }).await?;
    items.drop().await?;
    items.insert_one(doc! { "_id": 100, "n": 4, "active": true }).await?;
    items.insert_one(doc! { "_id": 101, "n": 4, "active": true }).await?;
    items.update_one(doc! { "_id": 101 }, doc! { "$set": { "active": false } }).await?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "heldlate-items").await?;
    // 0 to 14 were there when it was dropped, and 15 was there again.
    assert_eq!(found.len(), 17, "{found:?}");
    assert!(ids(&found).contains(&"15") && ids(&found).contains(&"100"));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Collections that came after their rule was copied, and were dropped or made anew while nobody
/// looked, keep what the rule says to keep: when their neighbours in an index are copied again before
/// the stream shows what happened, and when it never does.
#[tokio::test(flavor = "multi_thread")]
async fn what_on_drop_keeps_of_collections_that_came_later() -> Result<()> {
    let world = World::new().await?;
    for (database, lost) in [("came", false), ("camelost", true)] {
        let of = |name: &str| world.collection(&format!("{database}.{name}"));
        let (first, gone, anew) = (of("first"), of("gone"), of("anew"));
        let with =
            |ids: std::ops::Range<i32>, n: i32| ids.map(move |id| doc! { "_id": id, "n": n });
        first.insert_many(with(0..20, 1)).await?;
        let to = match lost {
            true => "search".to_owned(),
            false => {
                format!(
                    "[{{ target: search, index: {database}-all, id: '{{collection}}-{{_id}}' }}]"
                )
            }
        };
        let rules = format!(
            "  - {{ name: all, namespace: '{database}.*', on_drop: keep, on_rule_change: resync, to: \
             {to} }}"
        );
        let file = world.rule_file_with(&settings(database), &rules)?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        gone.insert_many(with(0..10, 1)).await?;
        anew.insert_many(with(0..10, 1)).await?;
        at_rest(&mut run, &world).await?;
        assert!(run.terminate().await?.success());
        // Their copies are complete, though nothing of them was ever copied.
        let mut run = file.run(&[])?;
        at_rest(&mut run, &world).await?;
        assert!(run.terminate().await?.success());
        gone.drop().await?;
        anew.drop().await?;
        anew.insert_many(with(5..15, 2)).await?;
        first.delete_many(doc! { "_id": { "$lt": 5 } }).await?;
        let mut run = match lost {
            true => forgotten(&world, &file, database).await?,
            false => {
                file.rewrite(|text| {
                    text.replace("on_drop", "filter: { n: { $gte: 0 } }, on_drop")
                })?;
                file.run(&[])?
            }
        };
        at_rest(&mut run, &world).await?;
        let found = hits(&world.engine, &format!("{database}-*")).await?;
        let count = |name: &str, n: i32| {
            let of = |hit: &&Hit| {
                hit.source["n"] == n
                    && match lost {
                        true => hit.index == format!("{database}-{name}"),
                        false => hit.id.starts_with(name),
                    }
            };
            found.iter().filter(of).count()
        };
        let counted = (count("first", 1), count("gone", 1), count("anew", 1), count("anew", 2));
        assert_eq!(counted, (15, 10, 5, 10), "{database}");
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// The process is killed at the first write to its store after it finds out that something has to be
/// copied again, then at the second, … until one comes to the end; before each write, and after.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_each_write_to_the_store_while_something_is_copied_again() -> Result<()> {
    let world = World::new().await?;
    let store = MongoProxy::start(&world.mongo_address()?).await?;
    let mut settings = settings("anew");
    settings.top =
        format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{}\" }} }}", store.uri());
    for (moment, keep) in [
        (Moment::Before, false),
        (Moment::After, false),
        (Moment::Before, true),
        (Moment::After, true),
    ] {
        let database = format!("anew_{moment:?}_{keep}").to_lowercase();
        let items = world.collection(&format!("{database}.items"));
        let beside = world.collection(&format!("{database}.beside"));
        let (on_drop, index) = match keep {
            true => ("keep", format!("{database}-items")),
            false => ("remove", format!("{database}-all")),
        };
        let rules = format!(
            "  - {{ name: items, namespace: {database}.items, on_drop: {on_drop}, to: [{{ target: \
             search, index: {index}, id: 'items-{{_id}}' }}] }}\n  - {{ name: beside, namespace: \
             {database}.beside, to: [{{ target: search, index: {database}-all, id: \
             'beside-{{_id}}' }}] }}"
        );
        items.insert_many((0..60).map(|id| doc! { "_id": id, "n": 1 })).await?;
        beside.insert_many((0..40).map(|id| doc! { "_id": id, "n": 1 })).await?;
        let file = world.rule_file_with(&settings, &rules)?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        assert!(run.terminate().await?.success());
        items.drop().await?;
        items.insert_many((30..70).map(|id| doc! { "_id": id, "n": 2 })).await?;
        beside.delete_many(doc! { "_id": { "$gte": 35 } }).await?;
        let mut kills = 0;
        let mut run = loop {
            let (writes, gate) = (AtomicUsize::new(0), Gate::closed());
            let fault = Fault::Hold(moment, gate.clone());
            store.play(move |command| {
                let is_write = ["insert", "update", "delete", "findAndModify"];
                let counts = is_write.contains(&command.name.as_str())
                    && command.collection != "leases"
                    && writes.fetch_add(1, Ordering::AcqRel) == kills;
                counts.then(|| fault.clone())
            });
            let mut run = file.run(&[])?;
            let rests = tokio::select! {
                rests = at_rest(&mut run, &world) => rests.map(|()| true),
                () = gate.met(1) => Ok(false),
            };
            if rests? {
                store.pass_on();
                gate.open();
                break run;
            }
            run.kill().await?;
            gate.discard();
            store.pass_on();
            kills += 1;
            let touch = doc! { "$set": { "kills": i64::try_from(kills)? } };
            items.update_one(doc! { "_id": 40 }, touch).await?;
        };
        at_rest(&mut run, &world).await?;
        ensure!(kills >= 5, "{kills} writes to the store");
        let found = hits(&world.engine, &index).await?;
        let of = |name: &str, n: i64| {
            let own = |hit: &&Hit| hit.id.starts_with(name) && hit.source["n"] == n;
            found.iter().filter(own).count()
        };
        let expected = if keep { (30, 40, 0) } else { (0, 40, 35) };
        assert_eq!((of("items", 1), of("items", 2), of("beside", 1)), expected, "{database}");
        let touched = found.iter().find(|hit| hit.id == "items-40").expect("it is there");
        assert_eq!(touched.source["kills"], u64::try_from(kills)?);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// What a rule no longer reads leaves the target when the rule is copied again, though it is still in
/// the source.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_a_rule_leaves_the_target_with_the_next_copy() -> Result<()> {
    let world = World::new().await?;
    let (stays, leaves) = (world.collection("narrow.stays"), world.collection("narrow.leaves"));
    let later = world.collection("narrow.later");
    fill(&stays, 1, 60).await?;
    fill(&leaves, 2, 40).await?;
    let rules = "  - { name: all, namespace: 'narrow.*', to: search }";
    let file = world.rule_file_with(&settings("narrow"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    // It was not there when the rule was copied.
    fill(&later, 3, 20).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(hits(&world.engine, "narrow-later").await?.len(), 20);
    assert!(run.terminate().await?.success());
    file.rewrite(|text| {
        text.replace(
            "to: search }",
            "exclude: [narrow.leaves, narrow.later], on_rule_change: resync, to: search }",
        )
    })?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "narrow-leaves").await?, []);
    assert_eq!(hits(&world.engine, "narrow-later").await?, []);
    assert_eq!(compare(&stays, &world.engine, "narrow-stays").await?.none()?, 60);
    leaves.update_one(doc! { "_id": 1 }, doc! { "$set": { "late": true } }).await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, "narrow-leaves").await?, []);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A rule that writes elsewhere since it was changed, and was not copied again, has all of its
/// documents in the old place: they stay when their neighbour there is copied again.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stale_rule_wrote_elsewhere_stays() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("astray.red"), world.collection("astray.blue"));
    fill(&red, 1, 50).await?;
    fill(&blue, 2, 70).await?;
    let rules = "  - { name: red, namespace: astray.red, to: [{ target: search, index: astray-all, id: 'red-{_id}' }] }
  - { name: blue, namespace: astray.blue, to: [{ target: search, index: astray-all, id: 'blue-{_id}' }] }";
    let file = world.rule_file_with(&settings("astray"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| {
        text.replace("index: astray-all, id: 'red-{_id}'", "index: astray-red, id: 'red-{_id}'")
    })?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    blue.delete_one(doc! { "_id": 1 }).await?;
    assert!(file.command("resync", &["blue"]).await?.status.success());
    at_rest(&mut run, &world).await?;
    let found = hits(&world.engine, "astray-all").await?;
    let of = |color: &str| found.iter().filter(|hit| hit.id.starts_with(color)).count();
    assert_eq!((of("red"), of("blue")), (50, 69));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A run of some rules can't make up for what concerns all: it says so, and the next whole run does.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_needs_all_rules() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("some.red"), world.collection("some.blue"));
    fill(&red, 1, 50).await?;
    fill(&blue, 2, 70).await?;
    let rules = "  - { name: red, namespace: some.red, to: search }
  - { name: blue, namespace: some.blue, to: search }";
    let file = world.rule_file_with(&settings("some-rules"), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    red.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    blue.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    let (code, log) = {
        let _point = FAIL_POINT.lock().await;
        lose_history(&world, "some-rules").await?;
        file.run_to_end(&["--rule", "red"]).await?
    };
    assert_eq!(code, Some(1), "{log}");
    ensure!(log.contains("concerns all its rules: run without --rule"), "{log}");
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&red, &world.engine, "some-red").await?.none()?, 40);
    assert_eq!(compare(&blue, &world.engine, "some-blue").await?.none()?, 60);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Two rules in one index, of which one keeps what is dropped: it stays, and so does what can't be
/// told apart from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_beside_what_is_removed_stays() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("beside.red"), world.collection("beside.blue"));
    let rule = |name: &str, on_drop: &str| {
        format!(
            "  - {{ name: {name}, namespace: beside.{name}, on_drop: {on_drop}, to: [{{ target: \
             search, index: beside-all, id: '{name}-{{_id}}' }}] }}\n"
        )
    };
    for (database_first, red_left) in [("red", 50), ("blue", 50)] {
        fill(&red, 1, 50).await?;
        fill(&blue, 2, 70).await?;
        let rules = [rule("red", "keep"), rule("blue", "remove")].concat();
        let file = world.rule_file_with(&settings("beside"), &rules)?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        for name in [database_first, if database_first == "red" { "blue" } else { "red" }] {
            world.collection(&format!("beside.{name}")).drop().await?;
        }
        blue.insert_one(doc! { "_id": 900 }).await?;
        at_rest(&mut run, &world).await?;
        let found = hits(&world.engine, "beside-all").await?;
        let of = |color: &str| found.iter().filter(|hit| hit.id.starts_with(color)).count();
        assert_eq!(of("red"), red_left, "{database_first} first");
        ensure!(ids(&found).contains(&"blue-900"), "{found:?}");
        if of("blue") > 1 {
            ensure!(run.log().contains("stays in the target"), "{}", run.log());
        }
        assert!(run.terminate().await?.success());
        blue.drop().await?;
        world.engine_json("DELETE", "/beside-all", "").await?;
    }
    Ok(())
}

/// Two that write to one index for the first time at the same moment both leave their mark.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_mark_an_index_at_once_are_both_known() -> Result<()> {
    let world = World::new().await?;
    let (one, two) = (world.collection("marks.one"), world.collection("marks.two"));
    one.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    two.insert_many((100..110).map(|id| doc! { "_id": id })).await?;
    world.engine_json("PUT", "/marks-all", "").await?;
    let (endpoint, through) = world.endpoint().await?;
    // The first has read the marks, and is held before it writes its own.
    let gate = Gate::closed();
    let fault = Fault::Hold(Moment::Before, gate.clone());
    endpoint.play(move |asked| {
        let own = b"mongosync-owner-";
        let marks = asked.path == "/_aliases";
        let marks = marks && asked.body.windows(own.len()).any(|part| part == own);
        if marks { Play::Struck(fault.clone()) } else { Play::Pass }
    });
    let rule = |name: &str| {
        format!("  - {{ namespace: marks.{name}, to: [{{ target: search, index: marks-all }}] }}")
    };
    let first = world.rule_file_with(&through, &rule("one"))?;
    let second = world.rule_file(&rule("two"))?;
    let mut held = first.run(&[])?;
    held.meets("its mark", &gate, 1).await?;
    let mut run = second.run(&[])?;
    run.copied().await?;
    endpoint.pass_on();
    gate.open();
    held.copied().await?;
    assert_eq!(marks(&world, "marks-all").await?, 2);
    assert!(held.terminate().await?.success() && run.terminate().await?.success());
    Ok(())
}
