//! The target fails in every way that it can: it is waited for, nothing is lost, no position moves
//! past what it did not take, and work goes on when it is back.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};

use crate::{
    load::fill,
    support::{
        World,
        bulk::Refusal,
        checker::{body, compare, compare_shaped},
        documents::Documents,
        endpoint::{Asked, Endpoint, Play},
        engine_kind,
        fault::{Fault, Gate, Moment},
        history::{History, Operation},
        run::{RuleFile, Settings, cluster_time},
        situations::situation,
        tcp_proxy::{Direction, Flow, TcpProxy},
        writers::{Writers, stir},
    },
};

/// Refusals of whole requests, each under the name of its situation.
fn refusals() -> Vec<(&'static str, Play)> {
    let answer = |status: u16, body: &str| Play::Answer(status, body.to_owned());
    let error = |status: u16, kind: &str| {
        let body = format!(r#"{{"error":{{"type":"{kind}","reason":"why"}},"status":{status}}}"#);
        Play::Answer(status, body)
    };
    vec![
        ("bulk requests answered 401", error(401, "security_exception")),
        ("bulk requests answered 403", error(403, "security_exception")),
        ("bulk requests answered 404", answer(404, "no such page")),
        ("bulk requests answered 408", answer(408, "")),
        ("bulk requests answered 429", error(429, "es_rejected_execution_exception")),
        (
            "bulk requests answered 429 with Retry-After",
            Play::Later(429, r#"{"error":"slow down"}"#.to_owned(), 1),
        ),
        ("bulk requests answered 500", error(500, "illegal_state_exception")),
        ("bulk requests answered 502", answer(502, "<html>bad gateway</html>")),
        ("bulk requests answered 503", error(503, "cluster_block_exception")),
        ("bulk requests answered 504", answer(504, "")),
        ("bulk requests answered 301", answer(301, "")),
        ("bulk requests answered 200, and no JSON", answer(200, "<html>welcome</html>")),
        ("bulk requests answered 200, for no item", answer(200, r#"{"items":[]}"#)),
        ("connections cut before a bulk is written", Play::Struck(Fault::Cut(Moment::Before))),
        ("bulks written, their answers lost", Play::Struck(Fault::Cut(Moment::After))),
    ]
}

/// Each of them strikes a stream of changes; every other time the process is killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_waited_for() -> Result<()> {
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("refusing.items");
    fill(&items, 1, 500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: refusing.items\n    to: search")?;
    let mut documents = Documents::new(1);
    let mut run = file.run(&[])?;
    run.copied().await?;
    for (round, (name, play)) in (0..).zip(refusals()) {
        let mut case = situation(name);
        endpoint.bulks(play);
        let played = endpoint.played();
        stir(&items, &mut documents, round).await?;
        let written = cluster_time(&world.client).await?;
        run.waiting().await?;
        let status = run.until("several tries", |_| endpoint.played() >= played + 4).await?;
        ensure!(run.position().await < Some(written), "{name}: {status:#}");
        if round % 2 == 1 {
            run.kill().await?;
            run = file.run(&[])?;
            run.waiting().await?;
        }
        endpoint.pass_on();
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "refusing-items").await?)?;
    }
    endpoint.history().check()?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The same ones, every third request of a copy another one, while documents change.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_to_a_target_that_fails_at_every_third_request() -> Result<()> {
    let mut case = situation("every third bulk of a copy fails, each in another way");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 100, concurrency: 3 }";
    let items = world.collection("failing.items");
    fill(&items, 2, 6_000).await?;
    let mut writers = Writers::new(&world.client, &items, 2, 6_000, 600);
    let plays: Vec<Play> = refusals().into_iter().map(|(_, play)| play).collect();
    let turn = Mutex::new(0);
    endpoint.play(move |asked: &Asked<'_>| {
        if !asked.is_bulk() {
            return Play::Pass;
        }
        let mut turn = turn.lock().expect("no panic");
        *turn += 1;
        match (*turn % 3, plays[*turn / 3 % plays.len()].clone()) {
            // A second is long here.
            (0, Play::Later(status, body, _)) => Play::Answer(status, body),
            (0, play) => play,
            _ => Play::Pass,
        }
    });
    let rules = "  - namespace: failing.items\n    copy: { chunk: 512KiB }\n    to: search";
    let file = world.rule_file_with(&settings, rules)?;
    let mut run = file.run(&[])?;
    writers.release(300);
    run.copied().await?;
    writers.finish().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "failing-items").await?)?;
    endpoint.history().check()?;
    ensure!(endpoint.played() >= 20, "{} requests failed", endpoint.played());
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A queue of the engine is full for some items of a batch: these are sent again, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn items_that_are_refused_for_now_are_sent_again_alone() -> Result<()> {
    let mut case = situation("429 for single items of a bulk");
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("busy.items");
    fill(&items, 3, 2_000).await?;
    // A third of the documents, twice each.
    let is_busy = |id: &str| id.parse::<u32>().is_ok_and(|id| id % 3 == 0);
    let seen: Mutex<HashMap<String, u32>> = Mutex::default();
    endpoint.play(move |asked: &Asked<'_>| {
        let mut seen = seen.lock().expect("no panic");
        let refused = asked.items.iter().enumerate().filter(|(_, item)| {
            let times = seen.entry(item.place.id.clone()).or_default();
            *times += 1;
            is_busy(&item.place.id) && *times <= 2
        });
        match refused.map(|(place, _)| (place, Refusal::BUSY)).collect::<Vec<_>>() {
            none if none.is_empty() => Play::Pass,
            refused => Play::Refuse(refused),
        }
    });
    let file = world.rule_file_with(&settings, "  - namespace: busy.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    case.compared(&compare(&items, &world.engine, "busy-items").await?)?;
    let mut sent: BTreeMap<String, u32> = BTreeMap::new();
    for operation in endpoint.history().operations() {
        *sent.entry(operation.place.id.clone()).or_default() += 1;
    }
    for (id, times) in &sent {
        assert_eq!(*times, if is_busy(id) { 3 } else { 1 }, "document {id}");
    }
    assert_eq!(sent.len(), 2_000);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An engine that takes no more than so many items, or bytes, at once gets less, and all of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_takes_little_at_once_gets_little_at_once() -> Result<()> {
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("little.items");
    fill(&items, 4, 1_500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: little.items\n    to: search")?;
    let mut case = situation("429 to bulks of more than 40 items");
    endpoint.play(|asked: &Asked<'_>| {
        (asked.items.len() > 40).then(|| (429, r#"{"error":"too many"}"#.to_owned()))
    });
    let mut run = file.run(&[])?;
    run.copied().await?;
    case.compared(&compare(&items, &world.engine, "little-items").await?)?;
    ensure!(endpoint.played() > 0, "no request was too large");

    let mut case = situation("413 to bulks of more than 20 kB");
    let before = endpoint.bytes();
    endpoint.at_most(20_000);
    items.update_many(doc! {}, doc! { "$set": { "int": 1 } }).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "little-items").await?)?;
    // 1.7 MB of documents; of each size one request too many for each lane.
    let sent = endpoint.bytes() - before;
    ensure!(sent < 12 << 20, "{sent} bytes were sent");
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What the network between does to requests and answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_to_the_target_that_fails() -> Result<()> {
    let world = World::new().await?;
    let mut proxy = TcpProxy::in_front_of(&world.engine.url()).await?;
    let settings = Settings {
        top: "checkpoint: { every: 100ms }".into(),
        engine: ", timeout: 1s, retry: { initial: 20ms, max: 100ms }".into(),
        url: Some(format!("http://{}", proxy.address())),
        ..Settings::default()
    };
    let items = world.collection("network.items");
    fill(&items, 5, 500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: network.items\n    to: search")?;
    let mut documents = Documents::new(5);

    let mut case = situation("nobody listens at the target's address at the start");
    proxy.refuse().await;
    let mut run = file.run(&[])?;
    let error = run.waiting().await?;
    ensure!(error.contains("refused"), "{error}");
    proxy.accept().await?;
    run.copied().await?;
    case.compared(&compare(&items, &world.engine, "network-items").await?)?;

    let mut round = 100;
    let mut change = async || {
        round += 1;
        stir(&items, &mut documents, round).await
    };
    let mut case = situation("nobody listens at the target's address any more");
    proxy.refuse().await;
    proxy.reset();
    change().await?;
    run.waiting().await?;
    proxy.accept().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "network-items").await?)?;

    for (name, direction) in [
        ("requests to the target vanish on the way", Direction::ToServer),
        ("answers of the target vanish on the way", Direction::FromServer),
    ] {
        let mut case = situation(name);
        proxy.set(direction, Flow::Swallow);
        change().await?;
        run.waiting().await?;
        change().await?;
        proxy.set(direction, Flow::Pass);
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "network-items").await?)?;
    }
    for (name, direction) in [
        ("requests to the target arrive when nobody waits any more", Direction::ToServer),
        ("answers of the target arrive when nobody waits any more", Direction::FromServer),
    ] {
        let mut case = situation(name);
        proxy.set(direction, Flow::Hold);
        change().await?;
        run.waiting().await?;
        change().await?;
        proxy.set(direction, Flow::Pass);
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "network-items").await?)?;
    }
    let mut case = situation("connections to the target reset again and again");
    for _ in 0..10 {
        let before = proxy.bytes(Direction::ToServer);
        change().await?;
        run.until("a request", |_| proxy.bytes(Direction::ToServer) > before).await?;
        proxy.reset();
    }
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "network-items").await?)?;

    let mut case = situation("a slow line to the target");
    proxy.set(Direction::ToServer, Flow::Pace(512 << 10));
    proxy.set(Direction::FromServer, Flow::Delay(Duration::from_millis(50)));
    change().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "network-items").await?)?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    proxy.set_both(Flow::Pass);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The engine's own states, and not a document's fault.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_takes_nothing_is_waited_for() -> Result<()> {
    let world = World::new().await?;
    let (_, mut settings) = world.endpoint().await?;
    settings.url = None;
    let items = world.collection("blocked.items");
    fill(&items, 6, 300).await?;
    let file = world.rule_file_with(&settings, "  - namespace: blocked.items\n    to: search")?;
    let mut documents = Documents::new(6);
    let mut run = file.run(&[])?;
    run.copied().await?;
    let block = |value: &str| format!(r#"{{"index.blocks.write":{value}}}"#);
    for (round, (name, [method, path], (begin, end))) in (0..).zip([
        (
            "the index is closed",
            ["POST", "/blocked-items"],
            (("/_close", String::new()), ("/_open", String::new())),
        ),
        (
            "the index is blocked for writes",
            ["PUT", "/blocked-items"],
            (("/_settings", block("true")), ("/_settings", block("null"))),
        ),
    ]) {
        let mut case = situation(name);
        world.engine_json(method, &format!("{path}{}", begin.0), &begin.1).await?;
        stir(&items, &mut documents, round).await?;
        run.waiting().await?;
        world.engine_json(method, &format!("{path}{}", end.0), &end.1).await?;
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "blocked-items").await?)?;
    }
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A write whose answer did not come in time lands after newer ones of the same documents: it is
/// refused by its version, also where the newer one was a delete.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_lands_late_changes_nothing() -> Result<()> {
    let mut case = situation("a write lands after newer ones of the same documents");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", timeout: 1s";
    let items = world.collection("late.items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let file = world.rule_file_with(&settings, "  - namespace: late.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let gate = hold(&endpoint, Moment::Before);
    items.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await?;
    run.meets("the update", &gate, 1).await?;
    // Whatever these hold changes again; a lane that is slow may first send what is newer.
    let under_way = |history: &History| -> HashSet<u64> {
        let open = history.operations().iter().filter(|operation| !operation.answered());
        open.map(|operation| operation.request).collect()
    };
    let first = under_way(&endpoint.history());
    items.update_many(doc! { "_id": { "$lt": 50 } }, doc! { "$set": { "n": 2 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 50 } }).await?;
    run.waiting().await?;
    // The next try goes through, and what changed behind it.
    endpoint.pass_on();
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "late-items").await?)?;
    let history = endpoint.history();
    let before = history.check()?;
    let is_late = |it: &&Operation| !it.answered() && first.contains(&it.request);
    let late = history.operations().iter().filter(is_late).count();
    ensure!(late > 0, "{history:?}");
    gate.open();
    run.until("the late write", |_| {
        let operations = endpoint.history();
        operations.operations().iter().all(|operation| operation.answered())
    })
    .await?;
    let differences = compare(&items, &world.engine, "late-items").await?;
    assert_eq!(case.compared(&differences)?, 50);
    let after = endpoint.history().check()?;
    ensure!(after.superseded >= before.superseded + late, "{late} late: {before:?}, {after:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// From now on bulk requests wait at the gate that is returned.
fn hold(endpoint: &Endpoint, moment: Moment) -> Arc<Gate> {
    let gate = Gate::closed();
    endpoint.bulks(Play::Struck(Fault::Hold(moment, gate.clone())));
    gate
}

/// The batches of other lanes are through long before: the position waits for the one that is not.
#[tokio::test(flavor = "multi_thread")]
async fn no_position_passes_what_one_lane_still_holds() -> Result<()> {
    let mut case = situation("one lane's bulk under way, the others' done, kill -9");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 20, concurrency: 4 }";
    let items = world.collection("held.items");
    items.insert_many((0..400).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let file = world.rule_file_with(&settings, "  - namespace: held.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    // The first request with document 7 waits, and its lane with it.
    let gate = Gate::closed();
    let fault = Fault::Hold(Moment::Before, gate.clone());
    endpoint.play(move |asked: &Asked<'_>| {
        let held = asked.items.iter().any(|item| item.place.id == "7");
        if held { Play::Struck(fault.clone()) } else { Play::Pass }
    });
    items.update_one(doc! { "_id": 7 }, doc! { "$set": { "n": 1 } }).await?;
    let first = cluster_time(&world.client).await?;
    run.meets("the held one", &gate, 1).await?;
    for round in 1..=20 {
        items.update_many(doc! { "_id": { "$ne": 7 } }, doc! { "$set": { "n": round } }).await?;
    }
    run.until("the other lanes", |_| {
        let newest = endpoint.history().operations().iter().filter(|o| o.applied()).count();
        newest > 400 + 200
    })
    .await?;
    ensure!(run.position().await < Some(first), "the position has passed the held one");
    ensure!(stored_position(&world, &file).await? < first, "the stored one has");
    run.kill().await?;
    gate.discard();
    endpoint.pass_on();
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "held-items").await?)?;
    ensure!(stored_position(&world, &file).await? > first, "and goes on behind it");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The position that the checkpoint store holds.
async fn stored_position(world: &World, file: &RuleFile) -> Result<(u32, u32)> {
    let name = file.path.file_stem().and_then(|name| name.to_str()).context("a name")?;
    let positions = world.collection("mongosync.positions");
    let found = positions.find_one(doc! { "name": name }).await?.context("a position")?;
    let time = found.get_document("v")?.get_timestamp("time")?;
    Ok((time.time, time.increment))
}

/// A target that is away holds up no other.
#[tokio::test(flavor = "multi_thread")]
async fn another_target_goes_on_while_one_is_away() -> Result<()> {
    let mut case = situation("one of two targets is away, then back");
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("twofold.items");
    fill(&items, 8, 1_000).await?;
    let to =
        "to: [{ target: search, index: twofold-search }, { target: other, index: twofold-other }]";
    let rules = format!("  - namespace: twofold.items\n    {to}");
    let file = world.rule_file_with(&settings, &rules)?;
    let (kind, url) = (engine_kind(), world.engine.url());
    let other = format!("  other: {{ {kind}: {{ urls: [\"{url}\"] }} }}");
    file.rewrite(|text| text.replace("rules:\n", &format!("{other}\nrules:\n")))?;
    endpoint.refuse_bulks(503, "");
    let mut run = file.run(&[])?;
    run.until("the other target's copy", |status| {
        status["targets"]["other"]["rules"]["twofold.items"]["copy"]["complete"] == true
    })
    .await?;
    let mut documents = Documents::new(8);
    for round in 0..3 {
        stir(&items, &mut documents, round).await?;
        let time = cluster_time(&world.client).await?;
        run.target_reaches("other", time).await?;
        case.compared(&compare(&items, &world.engine, "twofold-other").await?)?;
    }
    run.waiting().await?;
    endpoint.pass_on();
    run.copied().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "twofold-search").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Documents that the target refuses for good, in between everything else that fails: each has its
/// dead letter, and no other document has one.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_refused_for_good_becomes_a_dead_letter() -> Result<()> {
    let mut case = situation("some items refused for good, some for now, some requests fail");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 50 }";
    let items = world.collection("unfit.items");
    items.insert_many((0..1_000).map(|id| doc! { "_id": id, "n": id })).await?;
    let is_unfit = |id: &str| id.parse::<u32>().is_ok_and(|id| id % 97 == 5);
    let turn = Mutex::new(0_usize);
    endpoint.play(move |asked: &Asked<'_>| {
        if !asked.is_bulk() {
            return Play::Pass;
        }
        let mut turn = turn.lock().expect("no panic");
        *turn += 1;
        if (*turn).is_multiple_of(4) {
            return Play::Answer(503, String::new());
        }
        let refused = asked.items.iter().enumerate().filter_map(|(place, item)| {
            if is_unfit(&item.place.id) {
                Some((place, Refusal::UNFIT))
            } else {
                (place + *turn).is_multiple_of(5).then_some((place, Refusal::BUSY))
            }
        });
        Play::Refuse(refused.collect())
    });
    let file = world.rule_file_with(&settings, "  - namespace: unfit.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.update_many(doc! { "_id": { "$lt": 300 } }, doc! { "$inc": { "n": 1 } }).await?;
    run.caught_up(&world.client).await?;
    let wanted = |document: &Document| {
        let id = document.get_i32("_id").expect("a number").to_string();
        (!is_unfit(&id)).then(|| (id, body(document)))
    };
    let differences = compare_shaped(&items, &world.engine, "unfit-items", wanted).await?;
    let through = case.compared(&differences)?;
    let mut refused: Vec<u32> = Vec::new();
    for letter in file.dead_letters().await? {
        refused.push(letter["key_text"].as_str().context("a key")?.parse()?);
    }
    refused.sort_unstable();
    let expected: Vec<u32> = (0..1_000).filter(|id| is_unfit(&id.to_string())).collect();
    assert_eq!(refused, expected);
    assert_eq!(through + refused.len(), 1_000);
    assert!(run.terminate().await?.success());
    Ok(())
}
