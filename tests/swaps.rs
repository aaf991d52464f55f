//! A rule behind an alias that is copied again fills another index, which is swapped in once it is
//! whole: searches go on in the old one meanwhile, and nothing is lost on the way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mongodb::bson::doc;
use rstest::rstest;
use serde_json::json;
use tokio::time::{Instant, interval};

use crate::{
    load::fill,
    support::{
        World,
        checker::{Hit, compare, hits},
        endpoint::{Endpoint, Play},
        fault::{Fault, Gate, Moment},
        mongo_proxy::MongoProxy,
        run::{Run, Settings},
    },
};

const PATIENCE: Duration = Duration::from_secs(120);

/// Small requests, so that a copy takes several.
fn settings(mut settings: Settings) -> Settings {
    settings.top = "checkpoint: { every: 100ms }".into();
    settings.engine = ", batch: { max_actions: 100 }".into();
    settings
}

/// Holds every bulk request that puts documents into the index that is filled, but for the first few.
fn hold(endpoint: &Endpoint, alias: &str, pass: usize) -> Arc<Gate> {
    let gate = Gate::closed();
    let (fault, seen) = (Fault::Hold(Moment::Before, gate.clone()), AtomicUsize::new(0));
    let filling = format!("{{\"index\":{{\"_index\":\"{alias}-filling-");
    endpoint.play(move |asked| {
        let is_filling = asked.is_bulk()
            && asked.body.windows(filling.len()).any(|part| part == filling.as_bytes());
        match is_filling && seen.fetch_add(1, Ordering::AcqRel) >= pass {
            true => Play::Struck(fault.clone()),
            false => Play::Pass,
        }
    });
    gate
}

/// The indices behind a name.
async fn behind(world: &World, name: &str) -> Result<Vec<String>> {
    let found = world.engine.request("GET", &format!("/{name}"), "").await?;
    if found.status == 404 {
        return Ok(Vec::new());
    }
    let found: serde_json::Value = serde_json::from_str(&found.body)?;
    Ok(found.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default())
}

/// Holds every bulk request but for the first few.
fn hold_all(endpoint: &Endpoint, pass: usize) -> Arc<Gate> {
    let gate = Gate::closed();
    let (fault, seen) = (Fault::Hold(Moment::Before, gate.clone()), AtomicUsize::new(0));
    endpoint.play(move |asked| {
        match asked.is_bulk() && seen.fetch_add(1, Ordering::AcqRel) >= pass {
            true => Play::Struck(fault.clone()),
            false => Play::Pass,
        }
    });
    gate
}

async fn at_rest(run: &mut Run, world: &World) -> Result<()> {
    run.caught_up(&world.client).await?;
    run.copied().await
}

/// The process is killed in the middle of it, and the collection changes all the while.
#[tokio::test(flavor = "multi_thread")]
async fn searches_see_no_half_filled_index() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("swaps.items");
    fill(&items, 1, 2_000).await?;
    let (endpoint, engine) = world.endpoint().await?;
    let file = world.rule_file_with(
        &settings(engine),
        "  - name: items
    namespace: swaps.items
    on_rule_change: resync
    to: [{ target: search, index: { name: swaps, alias: true } }]",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(behind(&world, "swaps").await?, ["swaps-000001"]);
    let readers = json!({ "actions": [{ "add": {
        "index": "swaps-000001", "alias": "swaps-readers", "filter": { "match_all": {} },
    } }] });
    world.engine_json("POST", "/_aliases", &readers.to_string()).await?;
    let before = hits(&world.engine, "swaps").await?;
    assert_eq!(before.len(), 2_000);
    assert!(run.terminate().await?.success());

    items.delete_many(doc! { "_id": { "$lt": 100 } }).await?;
    file.rewrite(|text| {
        text.replace(
            "alias: true }",
            "alias: true, mappings: { properties: { colour: { type: keyword } } } }",
        )
    })?;
    let gate = hold(&endpoint, "swaps", 5);
    let mut run = file.run(&[])?;
    run.meets("the middle of the copy", &gate, 1).await?;
    items.delete_many(doc! { "_id": { "$gte": 1_900 } }).await?;
    items.update_many(doc! {}, doc! { "$set": { "colour": "red" } }).await?;
    items.insert_one(doc! { "_id": 9_000, "colour": "new" }).await?;
    assert_eq!(behind(&world, "swaps").await?, ["swaps-000001"]);
    assert_eq!(hits(&world.engine, "swaps").await?, before, "searches see what they saw");
    let filled = hits(&world.engine, "swaps-000002").await?.len();
    ensure!(0 < filled && filled < 1_900, "{filled} documents");
    run.kill().await?;
    gate.discard();

    // The next one goes on with the same index, and is held once more.
    let gate = hold(&endpoint, "swaps", 5);
    let mut run = file.run(&[])?;
    run.meets("the middle of the copy, again", &gate, 1).await?;
    assert_eq!(hits(&world.engine, "swaps").await?, before, "searches see what they saw");
    endpoint.pass_on();
    gate.open();
    at_rest(&mut run, &world).await?;
    assert_eq!(behind(&world, "swaps").await?, ["swaps-000002"]);
    assert_eq!(behind(&world, "swaps-readers").await?, ["swaps-000002"]);
    assert_eq!(behind(&world, "swaps-000001").await?, [""; 0]);
    assert_eq!(behind(&world, "swaps-filling-*").await?, [""; 0], "taken away with the swap");
    assert_eq!(compare(&items, &world.engine, "swaps").await?.none()?, 1_801);
    let mappings = world.engine_json("GET", "/swaps/_mapping", "").await?;
    let colour = &mappings["swaps-000002"]["mappings"]["properties"]["colour"];
    assert_eq!(*colour, json!({ "type": "keyword" }));

    // What changes from now on goes to the new index, in this run and the next.
    items.delete_many(doc! { "_id": { "$lt": 200 } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "swaps").await?.none()?, 1_701);
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    items.delete_many(doc! { "_id": { "$lt": 300 } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "swaps").await?.none()?, 1_601);
    // Again, and again, in one process.
    for number in [3, 4] {
        assert!(file.command("resync", &["items"]).await?.status.success());
        at_rest(&mut run, &world).await?;
        items.delete_one(doc! { "_id": 400 + number }).await?;
        run.caught_up(&world.client).await?;
        let left = usize::try_from(1_603 - number)?;
        assert_eq!(compare(&items, &world.engine, "swaps").await?.none()?, left);
        assert_eq!(behind(&world, "swaps-0*").await?, [format!("swaps-00000{number}")]);
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What is refused keeps, in the new index, what the old one held of it.
/// A copy that was broken off does not go on by another rule than it was begun with, though the rule says
/// to leave what was delivered as it is: behind an alias, into a plain index, and the first one ever.
#[rstest]
#[case::behind_an_alias("swaps-anew", true, true)]
#[case::into_a_plain_index("swaps-plain", false, true)]
#[case::the_first_copy("swaps-first", false, false)]
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_another_rule_began_is_begun_anew(
    #[case] index: &str,
    #[case] alias: bool,
    #[case] copied_before: bool,
) -> Result<()> {
    let world = World::new().await?;
    let items = world.collection(&format!("{index}.items"));
    fill(&items, 1, 2_000).await?;
    let (endpoint, engine) = world.endpoint().await?;
    let to = format!("to: [{{ target: search, index: {{ name: {index}, alias: {alias} }} }}]");
    let rule = format!("  - name: items\n    namespace: {index}.items\n    {to}\n");
    let file = world.rule_file_with(&settings(engine), &rule)?;
    let (mut run, gate) = match copied_before {
        true => {
            let mut run = file.run(&[])?;
            run.copied().await?;
            let gate = hold_all(&endpoint, 5);
            assert!(file.command("resync", &["items"]).await?.status.success());
            (run, gate)
        }
        false => {
            let gate = hold_all(&endpoint, 5);
            (file.run(&[])?, gate)
        }
    };
    run.meets("the middle of the copy", &gate, 1).await?;
    run.kill().await?;
    gate.discard();
    endpoint.pass_on();

    file.rewrite(|text| format!("{text}    filter: {{ _id: {{ $lt: 100 }} }}\n"))?;
    let told = async || -> Result<bool> {
        let checked = file.command("check", &["--online"]).await?;
        let told = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(told.contains("stale definition"), "{told}");
        Ok(told.contains("the next run begins it anew"))
    };
    assert!(told().await?);
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, index).await?.len(), 100);
    ensure!(run.log().contains("the copy is begun anew"), "{}", run.log());
    let status = run.status().await.context("a status")?;
    let rule = &status["targets"]["search"]["rules"]["items"];
    assert_eq!(rule["stale_definition"], false);
    assert!(run.terminate().await?.success());

    // One that is finished stays as it is, and is only said to be stale.
    file.rewrite(|text| text.replace("$lt: 100", "$lt: 50"))?;
    assert!(!told().await?);
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(hits(&world.engine, index).await?.len(), 100);
    ensure!(run.log().contains("stale definition"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_dead_letters_is_taken_over() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("taken.items");
    items.insert_many((0..50).map(|id| doc! { "_id": id, "n": id })).await?;
    let file = world.rule_file_with(
        &settings(Settings::default()),
        "  - name: items
    namespace: taken.items
    to:
      - target: search
        index: { name: taken, alias: true, mappings: { properties: { n: { type: integer } } } }",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.update_many(doc! { "_id": { "$in": [7, 8] } }, doc! { "$set": { "n": "many" } }).await?;
    // Nobody ever saw this one delivered.
    items.insert_one(doc! { "_id": 100, "n": "none" }).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(file.dead_letters().await?.len(), 3);
    // Somebody put one there by hand.
    world.engine_json("PUT", "/taken/_doc/mine?refresh=true", r#"{"n":5}"#).await?;
    assert!(file.command("resync", &["items"]).await?.status.success());
    at_rest(&mut run, &world).await?;
    assert_eq!(behind(&world, "taken").await?, ["taken-000002"]);
    let found = hits(&world.engine, "taken").await?;
    assert_eq!(found.len(), 50);
    ensure!(found.iter().any(|hit| hit.id == "mine"), "{found:?}");
    world.engine_json("DELETE", "/taken/_doc/mine?refresh=true", "").await?;
    for id in ["7", "8"] {
        let kept = found.iter().find(|hit| hit.id == id).expect("it is taken over");
        assert_eq!(kept.source["n"].to_string(), id);
    }
    items.update_many(doc! { "n": "many" }, doc! { "$set": { "n": 1 } }).await?;
    items.delete_one(doc! { "_id": 100 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "taken").await?.none()?, 49);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The process is killed after the first of its requests that change something other than documents,
/// or after the first write to its store, while a rule is copied again; then after the second, … until
/// one comes to the end. Whatever has been swapped by then, and noted of it: all of it is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_each_step_of_a_swap() -> Result<()> {
    let world = World::new().await?;
    let store = MongoProxy::start(&world.mongo_address()?).await?;
    for at_engine in [true, false] {
        let name = if at_engine { "steps-engine" } else { "steps-store" };
        let items = world.collection(&format!("{name}.items"));
        items.insert_many((0..40).map(|id| doc! { "_id": id, "n": id })).await?;
        let (endpoint, mut settings) = world.endpoint().await?;
        settings.top =
            format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{}\" }} }}", store.uri());
        let rules = format!(
            "  - {{ name: items, namespace: {name}.items, on_rule_change: resync, to: [{{ target: \
             search, index: {{ name: {name}, alias: true, mappings: {{ properties: {{ n: {{ type: \
             integer }} }} }} }} }}] }}"
        );
        let file = world.rule_file_with(&settings, &rules)?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        // Both have to be taken over: what is refused now, and what nobody here has written.
        items.update_one(doc! { "_id": 7 }, doc! { "$set": { "n": "many" } }).await?;
        run.caught_up(&world.client).await?;
        world.engine_json("PUT", &format!("/{name}/_doc/mine?refresh=true"), r#"{"n":5}"#).await?;
        assert!(run.terminate().await?.success());
        items.delete_one(doc! { "_id": 0 }).await?;
        file.rewrite(|text| text.replace("on_rule", "filter: { _id: { $gte: 0 } }, on_rule"))?;
        let mut kills = 0;
        let mut run = loop {
            let (steps, gate) = (AtomicUsize::new(0), Gate::closed());
            let fault = Fault::Hold(Moment::After, gate.clone());
            if at_engine {
                endpoint.play(move |asked| {
                    let counts = !asked.is_bulk() && !asked.body.is_empty();
                    match counts && steps.fetch_add(1, Ordering::AcqRel) == kills {
                        true => Play::Struck(fault.clone()),
                        false => Play::Pass,
                    }
                });
            } else {
                store.play(move |command| {
                    let is_write = ["insert", "update", "delete", "findAndModify"];
                    let counts = is_write.contains(&command.name.as_str())
                        && command.collection != "leases"
                        && steps.fetch_add(1, Ordering::AcqRel) == kills;
                    counts.then(|| fault.clone())
                });
            }
            let mut run = file.run(&[])?;
            let rests = tokio::select! {
                rests = at_rest(&mut run, &world) => rests.map(|()| true),
                () = gate.met(1) => Ok(false),
            };
            if rests? {
                endpoint.pass_on();
                store.pass_on();
                gate.open();
                break run;
            }
            run.kill().await?;
            gate.discard();
            endpoint.pass_on();
            store.pass_on();
            kills += 1;
            items.delete_one(doc! { "_id": i64::try_from(kills)? + 10 }).await?;
        };
        at_rest(&mut run, &world).await?;
        ensure!(kills >= 5, "{kills} steps");
        let indices = behind(&world, name).await?;
        let [index] = indices.as_slice() else { anyhow::bail!("{indices:?}") };
        assert_eq!(behind(&world, &format!("{name}-0*")).await?, [index.as_str()]);
        let found = hits(&world.engine, name).await?;
        assert_eq!(found.len(), 40 - kills, "{found:?}");
        let seven = found.iter().find(|hit| hit.id == "7").expect("it is taken over");
        assert_eq!(seven.source["n"], 7);
        ensure!(found.iter().any(|hit| hit.id == "mine"), "{found:?}");
        let settings = world.engine_json("GET", &format!("/{name}/_settings"), "").await?;
        let settings = &settings[index]["settings"]["index"];
        ensure!(settings["gc_deletes"].is_null() && settings["refresh_interval"].is_null());
        let mine = format!("/{name}/_doc/mine?refresh=true");
        world.engine_json("DELETE", &mine, "").await?;
        items.update_one(doc! { "_id": 7 }, doc! { "$set": { "n": 8 } }).await?;
        run.caught_up(&world.client).await?;
        assert_eq!(compare(&items, &world.engine, name).await?.none()?, 39 - kills);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// A request that was made while an index was filled is under way when that is swapped in: the alias by which it
/// was filled is taken away only behind it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_at_a_swap_arrives() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("swap_way.items");
    items.insert_many((0..40).map(|id| doc! { "_id": id, "n": id })).await?;
    let (endpoint, own) = world.endpoint().await?;
    let own = Settings {
        engine: ", batch: { max_actions: 100, concurrency: 8 }".into(),
        ..settings(own)
    };
    let rules = "  - { name: items, namespace: swap_way.items, to: [{ target: search, index: { name: \
                 swap-way, alias: true } }] }";
    let file = world.rule_file_with(&own, rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let removals = Arc::new(AtomicUsize::new(0));
    let removed = removals.clone();
    let (swap, late, armed) = (Gate::closed(), Gate::closed(), Arc::new(AtomicUsize::new(0)));
    let holds = |gate: &Arc<Gate>| Fault::Hold(Moment::Before, gate.clone());
    let (at_swap, at_late, is_armed) = (holds(&swap), holds(&late), armed.clone());
    endpoint.play(move |asked| {
        let says = |text: &str| asked.body.windows(text.len()).any(|part| part == text.as_bytes());
        match asked.is_bulk() {
            true if is_armed.load(Ordering::Acquire) > 0 && says("swap-way-filling-") => {
                Play::Struck(at_late.clone())
            }
            false if says("remove_index") => Play::Struck(at_swap.clone()),
            false if says("\"remove\"") && says("swap-way-filling-") => {
                removals.fetch_add(1, Ordering::AcqRel);
                Play::Pass
            }
            _ => Play::Pass,
        }
    });
    assert!(file.command("resync", &["items"]).await?.status.success());
    run.meets("the swap", &swap, 1).await?;
    armed.store(1, Ordering::Release);
    items.insert_one(doc! { "_id": 40, "n": 40 }).await?;
    items.delete_one(doc! { "_id": 0 }).await?;
    run.meets("a late request", &late, 1).await?;
    armed.store(0, Ordering::Release);
    swap.open();
    run.says("index swapped in").await?;
    // What comes now goes on meanwhile, by the other name.
    items.insert_many((41..61).map(|id| doc! { "_id": id, "n": id })).await?;
    let mut look = interval(Duration::from_millis(50));
    let deadline = Instant::now() + PATIENCE;
    let is_new = |hit: &Hit| hit.source["n"].as_i64() > Some(40);
    while !hits(&world.engine, "swap-way").await?.iter().any(is_new) {
        look.tick().await;
        ensure!(Instant::now() < deadline, "nothing new arrives\n{}", run.log());
    }
    assert_eq!(removed.load(Ordering::Acquire), 0);
    late.open();
    let deadline = Instant::now() + PATIENCE;
    while !behind(&world, "swap-way-filling-*").await?.is_empty() {
        look.tick().await;
        ensure!(Instant::now() < deadline, "the other name stays\n{}", run.log());
    }
    at_rest(&mut run, &world).await?;
    assert_eq!(removed.load(Ordering::Acquire), 1);
    assert_eq!(behind(&world, "swap-way").await?, ["swap-way-000002"]);
    assert_eq!(compare(&items, &world.engine, "swap-way").await?.none()?, 60);
    ensure!(!run.log().contains("index is gone"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An index that is half filled is not used for another try, and one that is deleted meanwhile is not
/// made up for by an empty one.
#[tokio::test(flavor = "multi_thread")]
async fn another_try_fills_another_index() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("tried.items");
    fill(&items, 1, 1_000).await?;
    let (endpoint, engine) = world.endpoint().await?;
    let file = world.rule_file_with(
        &settings(engine),
        "  - { name: items, namespace: tried.items, to: [{ target: search, index: { name: tried, alias: true } }] }",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let gate = hold(&endpoint, "tried", 3);
    assert!(file.command("resync", &["items"]).await?.status.success());
    run.meets("the middle of the copy", &gate, 1).await?;
    let gate_of_second = hold(&endpoint, "tried", 3);
    gate.discard();
    assert!(file.command("resync", &["items"]).await?.status.success());
    run.says("tried-000003").await?;
    assert_eq!(behind(&world, "tried-0*").await?, ["tried-000001", "tried-000002", "tried-000003"]);

    world.engine_json("DELETE", "/tried-000003", "").await?;
    endpoint.pass_on();
    gate_of_second.open();
    run.says("is gone: `mongosync resync` fills another").await?;
    assert_eq!(compare(&items, &world.engine, "tried").await?.none()?, 1_000);
    items.delete_many(doc! { "_id": { "$lt": 100 } }).await?;
    assert!(file.command("resync", &["items"]).await?.status.success());
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "tried").await?.none()?, 900);
    assert_eq!(behind(&world, "tried-0*").await?.len(), 1);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An index that takes next to nothing is no reason to lose what is there: the alias stays where it is,
/// and that is said, until the mappings are mended.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_takes_nothing_is_not_swapped_in() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("typo.items");
    items.insert_many((0..50).map(|id| doc! { "_id": id, "n": format!("text {id}") })).await?;
    let rule = |mapping: &str| {
        format!(
            "  - name: items
    namespace: typo.items
    on_rule_change: resync
    to: [{{ target: search, index: {{ name: typo, alias: true, mappings: {{ properties: {{ n: \
             {{ type: {mapping} }} }} }} }} }}]"
        )
    };
    let file = world.rule_file_with(&settings(Settings::default()), &rule("text"))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace(&rule("text"), &rule("date")))?;
    let mut run = file.run(&[])?;
    run.says("typo can't lead to its new index yet").await?;
    assert_eq!(behind(&world, "typo").await?, ["typo-000001"]);
    assert_eq!(hits(&world.engine, "typo").await?.len(), 50);
    assert!(run.terminate().await?.success());
    file.rewrite(|text| text.replace(&rule("date"), &rule("keyword")))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(compare(&items, &world.engine, "typo").await?.none()?, 50);
    assert_eq!(behind(&world, "typo-0*").await?, ["typo-000003"]);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A collection that is dropped while its index is filled leaves what the rule says to keep.
#[tokio::test(flavor = "multi_thread")]
async fn what_on_drop_keeps_outlives_a_swap() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("outlives.items");
    fill(&items, 1, 500).await?;
    let (endpoint, engine) = world.endpoint().await?;
    let file = world.rule_file_with(
        &settings(engine),
        "  - { name: items, namespace: outlives.items, on_drop: keep, to: [{ target: search, index: { name: outlives, alias: true } }] }",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    run.caught_up(&world.client).await?;
    let gate = hold(&endpoint, "outlives", 2);
    assert!(file.command("resync", &["items"]).await?.status.success());
    run.meets("the middle of the copy", &gate, 1).await?;
    items.drop().await?;
    items.insert_one(doc! { "_id": 9_000 }).await?;
    endpoint.pass_on();
    gate.open();
    run.says("index swapped in").await?;
    at_rest(&mut run, &world).await?;
    assert_eq!(behind(&world, "outlives").await?, ["outlives-000002"]);
    assert_eq!(hits(&world.engine, "outlives").await?.len(), 491);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What has to stay in the index is not swapped away: by what the rule says, and by a rule that leaves
/// the file while another index is filled.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_with_documents_that_stay_is_copied_in_place() -> Result<()> {
    let world = World::new().await?;
    let (red, blue) = (world.collection("placed.red"), world.collection("placed.blue"));
    fill(&red, 1, 600).await?;
    fill(&blue, 2, 70).await?;
    let rule = |name: &str, says: &str| {
        format!(
            "  - {{ name: {name}, namespace: placed.{name}, {says}to: [{{ target: search, index: \
             {{ name: placed, alias: true }}, id: '{{collection}}-{{_id}}' }}] }}\n"
        )
    };
    let both = [rule("red", ""), rule("blue", "")].concat();
    let (endpoint, engine) = world.endpoint().await?;
    let file = world.rule_file_with(&settings(engine), &both)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let gate = hold(&endpoint, "placed", 2);
    assert!(file.command("resync", &["red", "blue"]).await?.status.success());
    run.meets("the middle of the copy", &gate, 1).await?;
    run.kill().await?;
    gate.discard();
    endpoint.pass_on();
    red.delete_many(doc! { "_id": { "$lt": 5 } }).await?;
    red.insert_one(doc! { "_id": 5_000 }).await?;
    file.rewrite(|text| text.replace(&both, &rule("red", "")))?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert_eq!(behind(&world, "placed").await?, ["placed-000002"]);
    let found = hits(&world.engine, "placed").await?;
    let of = |color: &str| found.iter().filter(|hit| hit.id.starts_with(color)).count();
    assert_eq!((of("red"), of("blue")), (596, 70));
    assert!(run.terminate().await?.success());

    let other = world.collection("stayed.items");
    fill(&other, 3, 20).await?;
    let file = world.rule_file(
        "  - { name: items, namespace: stayed.items, on_delete: keep, to: [{ target: search, index: { name: stayed, alias: true } }] }",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    other.delete_one(doc! { "_id": 1 }).await?;
    run.caught_up(&world.client).await?;
    assert!(file.command("resync", &["items"]).await?.status.success());
    at_rest(&mut run, &world).await?;
    assert_eq!(behind(&world, "stayed").await?, ["stayed-000001"]);
    assert_eq!(hits(&world.engine, "stayed").await?.len(), 20);
    assert!(run.terminate().await?.success());
    Ok(())
}
