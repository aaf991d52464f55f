//! The process ends at exactly the points where it could lose something: between a write and its
//! answer, between an answer and the position, at each single write to its store.
//!
//! Nothing in the product knows of these points. The servers in between decide: a request is held
//! there, and then the process is killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use tokio::time::{Instant, interval};

use crate::{
    load::fill,
    support::{
        World,
        checker::{Differences, body, compare, compare_shaped, hits},
        documents::Documents,
        endpoint::{Endpoint, Play},
        fault::{Fault, Gate, Moment},
        mongo_proxy::{Command, MongoProxy},
        run::{RuleFile, Run, Settings},
        situations::situation,
        writers::stir,
    },
};

/// How long something may take that comes behind a position.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a process ends here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Kill,
    Terminate,
}

/// A file whose bulk requests go through an endpoint and whose store is behind a proxy, so that
/// either can stop the process anywhere.
struct Stage {
    world: World,
    endpoint: Endpoint,
    store: MongoProxy,
    settings: Settings,
}

impl Stage {
    async fn new() -> Result<Self> {
        let world = World::new().await?;
        let (endpoint, mut settings) = world.endpoint().await?;
        let store = MongoProxy::start(&world.mongo_address()?).await?;
        settings.top =
            format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{}\" }} }}", store.uri());
        settings.engine += ", batch: { max_actions: 50 }";
        Ok(Self { world, endpoint, store, settings })
    }

    fn file(&self, rules: &str) -> Result<RuleFile> {
        self.world.rule_file_with(&self.settings, rules)
    }

    /// From now on the chosen writes to the store wait at the gate that is returned.
    fn hold_store(
        &self,
        moment: Moment,
        chosen: impl Fn(&Command) -> bool + Send + Sync + 'static,
    ) -> Arc<Gate> {
        let gate = Gate::closed();
        let fault = Fault::Hold(moment, gate.clone());
        self.store.play(move |command| chosen(command).then(|| fault.clone()));
        gate
    }

    /// From now on the bulk request or the write to the store that comes after so many others waits at the
    /// gate that is returned; renewals of the lease and positions, which come at any time, are none of them.
    fn hold_writes(&self, moment: Moment, others: usize) -> Arc<Gate> {
        let writes = Arc::new(AtomicUsize::new(0));
        let is_chosen = {
            let writes = writes.clone();
            move || writes.fetch_add(1, Ordering::AcqRel) == others
        };
        let gate = self.hold_store(moment, {
            let is_chosen = is_chosen.clone();
            move |command| {
                let kept = ["places", "dead_letters"];
                kept.iter().any(|kept| command.writes_to(kept)) && is_chosen()
            }
        });
        let fault = Fault::Hold(moment, gate.clone());
        self.endpoint.play(move |asked| match asked.is_bulk() && is_chosen() {
            true => Play::Struck(fault.clone()),
            false => Play::Pass,
        });
        gate
    }

    /// From now on bulk requests wait at the gate that is returned.
    fn hold_bulks(&self, moment: Moment) -> Arc<Gate> {
        let gate = Gate::closed();
        self.endpoint.bulks(Play::Struck(Fault::Hold(moment, gate.clone())));
        gate
    }

    /// Ends a process that waits at a gate. A clean stop goes on through the gate once it has been
    /// asked for.
    async fn end(&self, run: Run, end: End, gate: &Gate) -> Result<()> {
        match end {
            End::Kill => {
                run.kill().await?;
                gate.discard();
            }
            End::Terminate => {
                run.signal("TERM").await?;
                gate.open();
                assert!(run.ended().await?.success());
            }
        }
        self.endpoint.pass_on();
        self.store.pass_on();
        Ok(())
    }
}

/// A point in the life of a change.
#[derive(Clone, Copy, Debug)]
enum Point {
    Bulk(Moment),
    Position(Moment),
}

/// Changes of every kind are under way when it ends, by `kill -9` and by SIGTERM.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_between_a_change_and_its_position() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, engine) = (stage.world.client.clone(), stage.world.engine.clone());
    let items = stage.world.collection("points.items");
    fill(&items, 1, 400).await?;
    let file = stage.file("  - namespace: points.items\n    to: search")?;
    let mut documents = Documents::new(1);
    let mut run = file.run(&[])?;
    run.copied().await?;
    let points = [
        ("a bulk has arrived, and is not written", Point::Bulk(Moment::Before)),
        ("a bulk is written, and not answered", Point::Bulk(Moment::After)),
        ("a position has arrived, and is not written", Point::Position(Moment::Before)),
        ("a position is written, and not answered", Point::Position(Moment::After)),
    ];
    let mut round = 0;
    for (name, point) in points {
        let mut case = situation(name);
        for end in [End::Kill, End::Terminate] {
            let gate = match point {
                Point::Bulk(moment) => stage.hold_bulks(moment),
                Point::Position(moment) => {
                    stage.hold_store(moment, |command| command.writes_to("positions"))
                }
            };
            round += 1;
            stir(&items, &mut documents, round).await?;
            run.meets(name, &gate, 1).await?;
            // More behind what is held.
            round += 1;
            stir(&items, &mut documents, round).await?;
            stage.end(run, end, &gate).await?;
            round += 1;
            stir(&items, &mut documents, round).await?;
            run = file.run(&[])?;
            run.caught_up(&client).await?;
            case.compared(&compare(&items, &engine, "points-items").await?)?;
        }
    }
    stage.endpoint.history().check()?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A new file, killed at its first write to the store, then at its second, its third … until one
/// gets to the end of its copy; and all of it again, with the write done and its answer not given.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_each_write_to_the_store_from_the_first_on() -> Result<()> {
    for (moment, name, database) in [
        (Moment::Before, "kill -9 before each write to the store", "each_before"),
        (Moment::After, "kill -9 after each write to the store", "each_after"),
    ] {
        let mut case = situation(name);
        let stage = Stage::new().await?;
        let (client, engine) = (stage.world.client.clone(), stage.world.engine.clone());
        let namespace = format!("{database}.items");
        let items = stage.world.collection(&namespace);
        fill(&items, 2, 300).await?;
        let rule =
            format!("  - namespace: {namespace}\n    copy: {{ chunk: 64KiB }}\n    to: search");
        let file = stage.file(&rule)?;
        let mut documents = Documents::new(2);
        let mut kills = 0;
        let mut run = loop {
            let writes = AtomicUsize::new(0);
            let gate = stage.hold_store(moment, move |command| {
                let is_write = ["insert", "update", "delete", "findAndModify"];
                // A renewal of the lease comes at any time.
                is_write.contains(&command.name.as_str())
                    && !(command.name == "update" && command.collection == "leases")
                    && writes.fetch_add(1, Ordering::AcqRel) == kills
            });
            let mut run = file.run(&[])?;
            let copied = tokio::select! {
                copied = run.copied() => copied.map(|()| true),
                () = gate.met(1) => Ok(false),
            };
            if copied? {
                stage.store.pass_on();
                gate.open();
                break run;
            }
            stage.end(run, End::Kill, &gate).await?;
            kills += 1;
            stir(&items, &mut documents, i64::try_from(kills)?).await?;
        };
        run.caught_up(&client).await?;
        case.compared(&compare(&items, &engine, &namespace.replace('.', "-")).await?)?;
        println!("{name}: {kills} kills");
        ensure!(kills >= 8, "{kills} writes to the store");
        stage.endpoint.history().check()?;
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// Where a document lies is stored before it is written there, and trimmed after.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_documents_move() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, engine) = (stage.world.client.clone(), stage.world.engine.clone());
    let items = stage.world.collection("wander.items");
    let kinds = ["red", "green", "blue"];
    let document = |id: i32| doc! { "_id": id, "kind": kinds[id as usize % 3], "n": 0 };
    items.insert_many((0..60).map(document)).await?;
    let rule = "  - namespace: wander.items\n    to: [{ target: search, index: 'wander-{kind}' }]";
    let file = stage.file(rule)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let mut case = situation("kill -9 while documents move between indices");
    let mut round = 0;
    // A place is written before the batch (the first write) and trimmed after it (the second).
    for (moment, write) in
        [(Moment::Before, 0), (Moment::After, 0), (Moment::Before, 1), (Moment::After, 1)]
    {
        round += 1;
        let writes = AtomicUsize::new(0);
        let gate = stage.hold_store(moment, move |command| {
            command.writes_to("places") && writes.fetch_add(1, Ordering::AcqRel) == write
        });
        // All at once, so that they are one batch.
        let moved = vec![doc! { "$set": {
            "kind": { "$arrayElemAt": [kinds.to_vec(), { "$mod": [{ "$add": ["$_id", round] }, 3] }] },
        } }];
        items.update_many(doc! { "_id": { "$mod": [2, 0] } }, moved).await?;
        run.meets("places", &gate, 1).await?;
        items.delete_one(doc! { "_id": round * 2 }).await?;
        stage.end(run, End::Kill, &gate).await?;
        items.update_one(doc! { "_id": round * 2 + 1 }, doc! { "$set": { "kind": "red" } }).await?;
        run = file.run(&[])?;
        run.caught_up(&client).await?;
        for kind in kinds {
            let here = |document: &Document| {
                let id = document.get_i32("_id").expect("a number").to_string();
                let here = document.get_str("kind").expect("a kind") == kind;
                here.then(|| (id, body(document)))
            };
            let index = format!("wander-{kind}");
            case.compared(&compare_shaped(&items, &engine, &index, here).await?)?;
        }
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A document leaves its place, and the one that was refused for that is asked for: no position waits for
/// it. The process is killed at the first write to the store or the target that comes of this, then at the
/// second, to the last.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_a_place_is_given_on() -> Result<()> {
    /// Two that free the place, and four that give it on.
    const WRITES: i32 = 6;
    for (moment, name, database) in [
        (Moment::Before, "kill -9 before each write while a place is given on", "given_before"),
        (Moment::After, "kill -9 after each write while a place is given on", "given_after"),
    ] {
        let mut case = situation(name);
        let stage = Stage::new().await?;
        let items = stage.world.collection(&format!("{database}.items"));
        let rule = format!(
            "  - namespace: {database}.items\n    \
             to: [{{ target: search, index: '{database}', id: '{{at}}' }}]"
        );
        let file = stage.file(&rule)?;
        let given_on = async || -> Result<Differences> {
            let mut look = interval(Duration::from_millis(50));
            let deadline = Instant::now() + PATIENCE;
            loop {
                look.tick().await;
                let shape = |document: &Document| {
                    let at = document.get_str("at").expect("a text").to_owned();
                    Some((at, body(document)))
                };
                let found = compare_shaped(&items, &stage.world.engine, database, shape).await?;
                let is_right = found.none().is_ok() && file.dead_letters().await?.is_empty();
                if is_right || Instant::now() > deadline {
                    return Ok(found);
                }
            }
        };
        let mut run = file.run(&[])?;
        run.copied().await?;
        for kills in 0..WRITES {
            let at = format!("p{kills}");
            for id in [2 * kills, 2 * kills + 1] {
                items.insert_one(doc! { "_id": id, "at": &at }).await?;
                run.caught_up(&stage.world.client).await?;
            }
            assert_eq!(file.dead_letters().await?.len(), 1);
            let gate = stage.hold_writes(moment, usize::try_from(kills)?);
            items.delete_one(doc! { "_id": 2 * kills }).await?;
            // The last of them, which forgets who was asked for, comes when all is right already.
            run.meets("a write", &gate, 1).await?;
            stage.end(run, End::Kill, &gate).await?;
            run = file.run(&[])?;
            case.compared(&given_on().await?)?;
            assert!(file.dead_letters().await?.is_empty(), "{kills}");
        }
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// Waits until this is what lies in an index, of which document each, and has letters.
async fn lie(
    world: &World,
    file: &RuleFile,
    index: &str,
    held: &[(&str, i64)],
    refused: &[i64],
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut look = interval(Duration::from_millis(100));
    loop {
        look.tick().await;
        let hits = hits(&world.engine, index).await?;
        let lies: Vec<_> = hits
            .iter()
            .filter_map(|hit| Some((hit.id.as_str(), hit.source["of"].as_i64()?)))
            .collect();
        let letters = file.dead_letters().await?;
        let of: Vec<_> = letters.iter().filter_map(|it| it["key"]["_id"].as_i64()).collect();
        if lies == held && of == refused {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{lies:?}, {letters:?}");
    }
}

/// A process is frozen as it takes away whose a place is, since its document has left it. By the time
/// that is carried out the document is there again, by the process that has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_takes_away_no_place() -> Result<()> {
    let stage = Stage::new().await?;
    let items = stage.world.collection("frozen_place.items");
    let file = stage.file(
        "  - namespace: frozen_place.items\n    \
         to: [{ target: search, index: 'frozen_place', id: '{at}' }]",
    )?;
    let at = |at: &str| doc! { "$set": { "at": at } };
    items.insert_one(doc! { "_id": 1, "of": 1, "at": "a" }).await?;
    let mut first = file.run(&[])?;
    first.copied().await?;
    let mut second = file.run(&[])?;
    second.until("standing by", |status| status["state"] == "standby").await?;
    let bulk = stage.hold_bulks(Moment::After);
    items.update_one(doc! { "_id": 1 }, at("b")).await?;
    first.meets("the bulk that moves it", &bulk, 1).await?;
    let gate = stage.hold_store(Moment::Before, |command| {
        command.name == "delete" && command.collection == "places"
    });
    stage.endpoint.pass_on();
    bulk.open();
    first.meets("what takes its old place away", &gate, 1).await?;
    first.signal("STOP").await?;
    stage.store.pass_on();
    items.update_one(doc! { "_id": 1 }, at("a")).await?;
    second.until("taking over", |status| status["state"] == "active").await?;
    second.caught_up(&stage.world.client).await?;
    lie(&stage.world, &file, "frozen_place", &[("a", 1)], &[]).await?;
    gate.open();
    first.signal("CONT").await?;
    assert_eq!(first.ended().await?.code(), Some(1));
    items.insert_one(doc! { "_id": 2, "of": 2, "at": "a" }).await?;
    lie(&stage.world, &file, "frozen_place", &[("a", 1)], &[2]).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    lie(&stage.world, &file, "frozen_place", &[("a", 2)], &[]).await?;
    assert!(second.terminate().await?.success());
    Ok(())
}

/// A process is lost at one of the first writes of those that give a place on, and another one, which
/// stands by, goes on with it. What the frozen one still had on its way comes behind that.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_on_by_who_takes_over() -> Result<()> {
    let stage = Stage::new().await?;
    let items = stage.world.collection("taken_over.items");
    let file = stage.file(
        "  - namespace: taken_over.items\n    \
         to: [{ target: search, index: 'taken_over', id: '{at}' }]",
    )?;
    let (mut owner, mut next) = (1, 2);
    items.insert_one(doc! { "_id": owner, "of": owner, "at": "a" }).await?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    for (write, is_frozen) in [(0, false), (1, true), (2, false), (2, true), (3, true), (4, true)] {
        let mut other = file.run(&[])?;
        other.until("standing by", |status| status["state"] == "standby").await?;
        lie(&stage.world, &file, "taken_over", &[("a", owner)], &[]).await?;
        items.insert_one(doc! { "_id": next, "of": next, "at": "a" }).await?;
        lie(&stage.world, &file, "taken_over", &[("a", owner)], &[next]).await?;
        run.caught_up(&stage.world.client).await?;
        let gate = stage.hold_writes(Moment::Before, write);
        items.delete_one(doc! { "_id": owner }).await?;
        run.meets("a write", &gate, 1).await?;
        let frozen = match is_frozen {
            true => {
                run.signal("STOP").await?;
                Some(run)
            }
            false => {
                run.kill().await?;
                gate.discard();
                None
            }
        };
        stage.store.pass_on();
        stage.endpoint.pass_on();
        // One more that is to be refused, and to follow later.
        items.insert_one(doc! { "_id": next + 1, "of": next + 1, "at": "b" }).await?;
        other.until("taking over", |status| status["state"] == "active").await?;
        other.caught_up(&stage.world.client).await?;
        lie(&stage.world, &file, "taken_over", &[("a", next), ("b", next + 1)], &[]).await?;
        items.update_one(doc! { "_id": next + 1 }, doc! { "$set": { "at": "a" } }).await?;
        lie(&stage.world, &file, "taken_over", &[("a", next)], &[next + 1]).await?;
        if let Some(frozen) = frozen {
            gate.open();
            frozen.signal("CONT").await?;
            assert_eq!(frozen.ended().await?.code(), Some(1), "{write}");
            lie(&stage.world, &file, "taken_over", &[("a", next)], &[next + 1]).await?;
        }
        items.delete_one(doc! { "_id": next }).await?;
        lie(&stage.world, &file, "taken_over", &[("a", next + 1)], &[]).await?;
        (owner, next, run) = (next + 1, next + 2, other);
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A document that was asked for lies in the target with a time that the stream has not reached. What the
/// stream shows then of what it was before is taken away all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_is_taken_away_by_a_stream_that_lags() -> Result<()> {
    let world = World::new().await?;
    let source = MongoProxy::start(&world.mongo_address()?).await?;
    let store =
        format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{}\" }} }}", world.mongo.uri());
    let rules = "  - namespace: lagging.items\n    \
                 to: [{ target: search, index: 'lagging', id: '{at}' }]";
    let settings = Settings { top: store, mongo: Some(source.uri()), ..Settings::default() };
    let file = world.rule_file_with(&settings, rules)?;
    // An answer of the stream comes when something happens, and never for itself.
    let uri = format!("source: {}", source.uri());
    let patient = format!("source: {{ uri: \"{}\", max_await: 60s }}", source.uri());
    file.rewrite(|text| text.replace(&uri, &patient))?;
    let items = world.collection("lagging.items");
    let here = async |held: &[(&str, i64)], refused: &[i64]| {
        lie(&world, &file, "lagging", held, refused).await
    };
    let to = async |id: i32, at: &str| -> Result<()> {
        items.update_one(doc! { "_id": id }, doc! { "$set": { "at": at } }).await?;
        Ok(())
    };
    let retried = async || -> Result<()> {
        let retried = file.command("dead-letters", &["retry", "--all"]).await?;
        ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
        Ok(())
    };
    items.insert_one(doc! { "_id": 1, "of": 1, "at": "a" }).await?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    for id in [2, 3] {
        items.insert_one(doc! { "_id": id, "of": id, "at": "a" }).await?;
    }
    here(&[("a", 1)], &[2, 3]).await?;
    let gate = Gate::closed();
    let fault = Fault::Hold(Moment::After, gate.clone());
    source.play(move |command| (command.name == "getMore").then(|| fault.clone()));
    // The question that is open already is answered by this.
    items.insert_one(doc! { "_id": 9, "of": 9, "at": "z" }).await?;
    here(&[("a", 1), ("z", 9)], &[2, 3]).await?;
    to(2, "b").await?;
    run.meets("the answer that tells of it", &gate, 1).await?;
    retried().await?;
    here(&[("a", 1), ("b", 2), ("z", 9)], &[3]).await?;
    // It is asked for once more, since another is to lie there.
    to(3, "b").await?;
    retried().await?;
    here(&[("a", 1), ("b", 2), ("z", 9)], &[3]).await?;
    to(3, "c").await?;
    items.delete_one(doc! { "_id": 2 }).await?;
    let seen = |status: &serde_json::Value| {
        let rule = &status["targets"]["search"]["rules"]["lagging.items"];
        let count = |what: &str| rule[what].as_u64().unwrap_or_default();
        count("removed") + count("superseded")
    };
    let before = seen(&run.status().await.context("a status")?);
    // What tells that it was deleted comes behind all that came of the first answer.
    let next = Gate::closed();
    let fault = Fault::Hold(Moment::Before, next.clone());
    source.play(move |command| (command.name == "getMore").then(|| fault.clone()));
    gate.open();
    run.until("what comes of the answer", |status| seen(status) > before).await?;
    source.pass_on();
    next.open();
    here(&[("a", 1), ("c", 3), ("z", 9)], &[]).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A dead letter is stored before the position may pass its document.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_a_dead_letter_is_written() -> Result<()> {
    let stage = Stage::new().await?;
    let (client, engine) = (stage.world.client.clone(), stage.world.engine.clone());
    let items = stage.world.collection("buried.items");
    items.insert_many((0..50).map(|id| doc! { "_id": id, "n": id })).await?;
    let rule = "  - namespace: buried.items
    to: [{ target: search, index: { mappings: { properties: { n: { type: long } } } } }]";
    let file = stage.file(rule)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let mut case = situation("kill -9 while dead letters are written, and taken away");
    for (round, moment) in (0..).zip([Moment::Before, Moment::After]) {
        let unfit = doc! { "_id": { "$mod": [10, round] } };
        for (what, update) in [("written", "not a number".into()), ("taken away", 7.into())] {
            let update: mongodb::bson::Bson = update;
            let gate = stage.hold_store(moment, |command| command.writes_to("dead_letters"));
            items.update_many(unfit.clone(), doc! { "$set": { "n": &update } }).await?;
            run.meets(what, &gate, 1).await?;
            stage.end(run, End::Kill, &gate).await?;
            run = file.run(&[])?;
            run.caught_up(&client).await?;
            let expected = if update.as_str().is_some() { 5 } else { 0 };
            assert_eq!(file.dead_letters().await?.len(), expected, "{what} {moment:?}");
        }
        case.compared(&compare(&items, &engine, "buried-items").await?)?;
    }
    assert_eq!(hits(&engine, "buried-items").await?.len(), 50);
    assert!(run.terminate().await?.success());
    Ok(())
}
