//! What becomes of collections, indexes and views is followed: `ddl: true`.

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection, Database,
    bson::{Bson, Document, doc},
};
use mongosync_servers::MongoDb;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Duration, interval};

use crate::{
    load::fill,
    support::{
        fail_command::FailCommand,
        fault::{Fault, Gate, Moment},
        mongo_proxy::MongoProxy,
        run::RuleFile,
        writers::Writers,
    },
};

use super::{
    Worlds,
    database::{definitions, document, kinds, stir},
    hashes, indexes,
};

fn rules(database: &str) -> String {
    format!("  - {{ name: all, namespace: '{database}.*', ddl: true, to: search }}")
}

/// Fails where documents or definitions differ.
async fn same(from: &Database, to: &Database, when: &str) -> Result<()> {
    let (one, other) = (definitions(from).await?, definitions(to).await?);
    ensure!(one == other, "{when}:\n{one:#?}\n{other:#?}");
    let (one, other) = (hashes(from).await?, hashes(to).await?);
    let collections = |hashes: Document| -> Vec<(String, Bson)> {
        hashes.into_iter().filter(|(name, _)| !name.starts_with("system.")).collect()
    };
    let (one, other) = (collections(one), collections(other));
    ensure!(one == other, "{when}:\n{one:?}\n{other:?}");
    Ok(())
}

/// What there is in a database, but for what the server keeps for itself.
async fn names(database: &Database) -> Result<Vec<String>> {
    let mut names = database.list_collection_names().await?;
    names.retain(|name| !name.starts_with("system."));
    Ok(names)
}

/// Commands in the order in which they are given, each told to the source and then found in the target.
fn steps() -> Vec<(&'static str, Vec<Document>)> {
    let index = |name: &str, key: Document, options: Document| {
        let mut index = doc! { "key": key, "name": name };
        index.extend(options);
        index
    };
    let create = |name: &str, options: Document| {
        let mut command = doc! { "create": name };
        command.extend(options);
        command
    };
    let built =
        |name: &str, indexes: Vec<Document>| doc! { "createIndexes": name, "indexes": indexes };
    let insert = |name: &str, ids: std::ops::Range<i32>| {
        let documents: Vec<Document> = ids.map(|id| document(id, id)).collect();
        doc! { "insert": name, "documents": documents }
    };
    let german = || doc! { "collation": { "locale": "de", "strength": 2 } };
    let view = |on: &str, a: i32| doc! { "viewOn": on, "pipeline": [{ "$match": { "a": a } }] };
    vec![
        ("an empty collection", vec![create("made", doc! {})]),
        (
            "a collection with options",
            vec![
                create("german", german()),
                insert("german", 0..5),
                create("checked", doc! { "validator": { "a": 1 }, "validationLevel": "moderate" }),
            ],
        ),
        (
            "a clustered collection",
            vec![
                create(
                    "clustered",
                    doc! {
                        "clusteredIndex": { "key": { "_id": 1 }, "unique": true }, "expireAfterSeconds": 1_000_000_000,
                    },
                ),
                insert("clustered", 0..5),
            ],
        ),
        (
            "a capped collection",
            vec![
                create("capped", doc! { "capped": true, "size": 4_096, "max": 3 }),
                insert("capped", 0..6),
            ],
        ),
        ("a view", vec![create("seen", view("made", 1))]),
        (
            "a time series",
            vec![create(
                "series",
                doc! {
                    "timeseries": { "timeField": "t", "metaField": "m", "granularity": "minutes" },
                    "expireAfterSeconds": 1_000_000,
                },
            )],
        ),
        (
            "indexes",
            vec![
                insert("made", 0..50),
                built(
                    "made",
                    vec![
                        index("a", doc! { "a": 1 }, doc! {}),
                        index("sku", doc! { "sku": 1 }, doc! { "unique": true }),
                        index(
                            "ttl",
                            doc! { "at": 1 },
                            doc! { "expireAfterSeconds": 1_000_000_000 },
                        ),
                        index("text", doc! { "title": "text" }, doc! {}),
                    ],
                ),
            ],
        ),
        (
            "an index of a collation",
            vec![built(
                "german",
                vec![
                    index("title", doc! { "title": 1 }, doc! {}),
                    index("simple", doc! { "a": 1 }, doc! { "collation": { "locale": "simple" } }),
                ],
            )],
        ),
        (
            "an index that is hidden, and one whose time is another",
            vec![
                doc! { "collMod": "made", "index": { "name": "a", "hidden": true } },
                doc! { "collMod": "made", "index": { "name": "ttl", "expireAfterSeconds": 1_500_000_000 } },
            ],
        ),
        (
            "an index of the same name",
            vec![
                doc! { "dropIndexes": "made", "index": "sku" },
                built("made", vec![index("sku", doc! { "sku": -1, "a": 1 }, doc! {})]),
            ],
        ),
        (
            "documents that an index did not allow",
            vec![
                doc! { "dropIndexes": "made", "index": "sku" },
                doc! { "update": "made", "updates": [{ "q": {}, "u": { "$set": { "sku": 1 } }, "multi": true }] },
            ],
        ),
        ("no indexes", vec![doc! { "dropIndexes": "made", "index": "*" }]),
        (
            "a validator, and none",
            vec![
                doc! { "collMod": "made", "validator": { "a": { "$type": "int" } }, "validationAction": "warn" },
                doc! { "collMod": "checked", "validator": {}, "validationLevel": "strict" },
            ],
        ),
        (
            "another time to live",
            vec![doc! { "collMod": "clustered", "expireAfterSeconds": 1_500_000_000 }],
        ),
        (
            "another view",
            vec![
                doc! { "collMod": "seen", "viewOn": "german", "pipeline": [{ "$match": { "b": 2 } }] },
            ],
        ),
        ("a collection that is dropped", vec![doc! { "drop": "checked" }]),
        (
            "one made anew of another kind",
            vec![
                doc! { "drop": "german" },
                create("german", doc! { "collation": { "locale": "fr" } }),
                insert("german", 3..20),
            ],
        ),
        (
            "a name that differs",
            vec![
                doc! { "renameCollection": "DB.clustered", "to": "DB.renamed" },
                insert("renamed", 5..9),
            ],
        ),
        (
            "a name that another had",
            vec![
                create("taken", german()),
                insert("taken", 0..30),
                built("made", vec![index("c", doc! { "c": 1 }, doc! {})]),
                doc! { "renameCollection": "DB.made", "to": "DB.taken", "dropTarget": true },
            ],
        ),
        (
            "$out, twice",
            vec![
                doc! { "aggregate": "taken", "pipeline": [{ "$out": "out" }], "cursor": {} },
                doc! { "aggregate": "german", "pipeline": [{ "$out": "out" }], "cursor": {} },
            ],
        ),
        (
            "a collection that is capped later",
            vec![
                doc! { "convertToCapped": "taken", "size": 1 << 20 },
                insert("taken", 1_000..1_005),
            ],
        ),
        (
            "a view that is dropped, and a time series",
            vec![doc! { "drop": "seen" }, doc! { "drop": "series" }],
        ),
        (
            "a view in the stead of a collection",
            vec![doc! { "drop": "out" }, create("out", view("taken", 3))],
        ),
        (
            "a collection in the stead of a view",
            vec![doc! { "drop": "out" }, create("out", doc! {}), insert("out", 0..3)],
        ),
        (
            "all at once",
            vec![
                doc! { "drop": "out" },
                create("out", german()),
                insert("out", 5..40),
                built("out", vec![index("u", doc! { "sku": 1 }, doc! { "unique": true })]),
                doc! { "renameCollection": "DB.out", "to": "DB.last" },
                doc! { "dropIndexes": "last", "index": "u" },
                built("last", vec![index("v", doc! { "sku": 1 }, doc! {})]),
                create("seen again", view("last", 1)),
            ],
        ),
    ]
}

async fn give(database: &Database, mut command: Document) -> Result<()> {
    for key in ["renameCollection", "to"] {
        if let Ok(name) = command.get_str(key) {
            let name = name.replace("DB.", &format!("{}.", database.name()));
            command.insert(key, name);
        }
    }
    let admin = database.client().database("admin");
    let on = if command.contains_key("renameCollection") { &admin } else { database };
    on.run_command(command).await?;
    Ok(())
}

/// Each kind of definition, while a run follows, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_definition_follows() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_kinds"), worlds.to.database("ddl_kinds"));
    from.collection("first").insert_one(doc! { "_id": 1 }).await?;
    let file = worlds.rule_file(&rules("ddl_kinds"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    for (what, commands) in steps() {
        for command in commands {
            give(&from, command).await?;
        }
        worlds.at_rest(&mut run).await?;
        same(&from, &to, what).await.map_err(|error| error.context(run.log()))?;
    }
    from.drop().await?;
    worlds.at_rest(&mut run).await?;
    same(&from, &to, "a database that is dropped").await?;
    assert_eq!(names(&to).await?, [""; 0]);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The same while nobody looks, and with kills at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_definition_is_made_up_for() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_later"), worlds.to.database("ddl_later"));
    from.collection("first").insert_one(doc! { "_id": 1 }).await?;
    let file = worlds.rule_file(&rules("ddl_later"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    run.kill().await?;
    let mut random = StdRng::seed_from_u64(41);
    for (at, (what, commands)) in steps().into_iter().enumerate() {
        let mut run = (at % 3 != 0).then(|| file.run(&[])).transpose()?;
        for command in commands {
            give(&from, command).await?;
        }
        let mut run = match run.take() {
            Some(run) => run,
            None => file.run(&[])?,
        };
        // Somewhere in the middle of it.
        let _ = tokio::time::timeout(
            Duration::from_millis(random.random_range(0..900)),
            worlds.at_rest(&mut run),
        )
        .await;
        run.kill().await?;
        if at % 4 == 3 {
            let mut run = file.run(&[])?;
            worlds.at_rest(&mut run).await?;
            same(&from, &to, what).await.map_err(|error| error.context(run.log()))?;
            run.kill().await?;
        }
    }
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    same(&from, &to, "the end").await.map_err(|error| error.context(run.log()))?;
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A whole database under load, whose definitions change all the while, and kills in between.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_the_same_after_kills_under_load() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_load"), worlds.to.database("ddl_load"));
    for kind in kinds() {
        kind.make(&from).await?;
    }
    let documents: Collection<Document> = from.collection("documents");
    fill(&documents, 51, 3_000).await?;
    let file = worlds.rule_file(
        "  - name: all\n    namespace: ddl_load.*\n    ddl: true\n    \
         copy: { chunk: 1MiB, parallel: 2 }\n    to: search",
    )?;
    let mut writers = Writers::new(&worlds.from, &documents, 53, 3_000, 2_000);
    let mut random = StdRng::seed_from_u64(54);
    for round in 0..6 {
        let mut run = file.run(&[])?;
        run.until("its start", |status| status["targets"]["search"]["position"].is_string())
            .await?;
        writers.release(2_000 * (u64::try_from(round)? + 1) / 7);
        for kind in kinds() {
            match random.random_range(0..9) {
                0 => {
                    from.collection::<Document>(kind.name).drop().await?;
                    kind.make(&from).await?;
                }
                1 => {
                    from.run_command(doc! { "dropIndexes": kind.name, "index": "*" }).await?;
                }
                2 => {
                    let index = doc! { "key": { "c": 1, "a": round }, "name": format!("r{round}") };
                    let built = doc! { "createIndexes": kind.name, "indexes": [index] };
                    from.run_command(built).await.ok();
                }
                3 => {
                    let name = |name: &str| format!("ddl_load.{name}");
                    let command = doc! {
                        "renameCollection": name(kind.name), "to": name(&format!("{}-{round}", kind.name)),
                    };
                    worlds.from.database("admin").run_command(command).await?;
                    kind.make(&from).await?;
                }
                4 => {
                    let valid = doc! { "c": { "$exists": true }, "r": { "$ne": round } };
                    let changed = doc! { "collMod": kind.name, "validator": valid };
                    from.run_command(changed).await?;
                }
                5 => {
                    let name = format!("view-{}-{round}", kind.name);
                    let pipeline = [doc! { "$match": { "a": round } }];
                    let view =
                        doc! { "create": name, "viewOn": kind.name, "pipeline": pipeline.to_vec() };
                    from.run_command(view).await?;
                }
                _ => {}
            }
            // Ids of a capped collection have to rise, so that its order is theirs.
            if kind.name != "capped"
                || from
                    .collection::<Document>("capped")
                    .count_documents(doc! { "_id": { "$gte": 150 + round * 10 } })
                    .await?
                    == 0
            {
                stir(&from, kind.name, round, &mut random).await?;
            }
        }
        writers.done(2_000 * u64::try_from(round)? / 7 + random.random_range(1..2_000 / 7)).await?;
        run.kill().await?;
    }
    let mut run = file.run(&[])?;
    writers.finish().await?;
    worlds.at_rest(&mut run).await?;
    same(&from, &to, "the end").await.map_err(|error| error.context(run.log()))?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Documents are on their way into a collection that is yet to be made when the one that they come from is
/// dropped. What comes in its stead is another one, whatever ours was made like by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_of_nothing_is_made_anew() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let held = mirror.client();
    let (from, to) = (worlds.from.database("ddl_gone"), held.database("ddl_gone"));
    let target = format!("{}&appName=ddl_gone", mirror.uri());
    let node = worlds.source.node_uri(0);
    let address = node.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
    let source = MongoProxy::start(address.context("an address")?).await?;
    let text = worlds.text(&target, &rules("ddl_gone"));
    let text = text.replace(worlds.source.uri(), &source.uri());
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let data = doc! { "failCommands": ["create"], "errorCode": 91 };
    let made = FailCommand::own(&held, 1_000_000, "ddl_gone", data).await?;
    let collated =
        |locale: &str| doc! { "create": "items", "collation": { "locale": locale, "strength": 2 } };
    from.run_command(collated("de")).await?;
    let items: Collection<Document> = from.collection("items");
    items.insert_one(doc! { "_id": 1, "text": "x".repeat(100_000) }).await?;
    run.says("target does not take the batch").await?;
    // The stream shows the drop only once the document is there.
    let gate = Gate::closed();
    let stays = Fault::Hold(Moment::Before, gate.clone());
    source.play(move |command| (command.name == "getMore").then(|| stays.clone()));
    run.meets("the stream", &gate, 1).await?;
    items.drop().await?;
    made.end().await?;
    let there: Collection<Document> = to.collection("items");
    let mut look = interval(Duration::from_millis(20));
    while there.count_documents(doc! {}).await? == 0 {
        look.tick().await;
        run.status().await.context("it runs")?;
    }
    from.run_command(collated("fr")).await?;
    items.insert_many((3..20).map(|id| document(id, id))).await?;
    source.pass_on();
    gate.open();
    worlds.at_rest(&mut run).await?;
    same(&from, &to, "the other one").await.map_err(|error| error.context(run.log()))?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A process is killed after it has made a collection, and before it could remember which one that is.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_before_a_kill_is_known_again() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let held = mirror.client();
    let (from, to) = (worlds.from.database("ddl_torn"), held.database("ddl_torn"));
    let target = format!("{}&appName=ddl_torn", mirror.uri());
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, &rules("ddl_torn")))?;
    let collated = |name: &str, locale: &str| {
        doc! { "create": name, "collation": { "locale": locale, "strength": 2 } }
    };
    for (name, comes_back) in [("gone", false), ("anew", true)] {
        let mut run = file.run(&[])?;
        worlds.at_rest(&mut run).await?;
        // Whether it is empty is asked before whose it is.
        let data = doc! {
            "failCommands": ["find"], "errorCode": 91, "namespace": format!("ddl_torn.{name}"),
        };
        let asked = FailCommand::own(&held, 1_000_000, "ddl_torn", data).await?;
        from.run_command(collated(name, "de")).await?;
        let items: Collection<Document> = from.collection(name);
        items.insert_one(document(1, 1)).await?;
        run.waiting().await?;
        assert_eq!(names(&to).await?, [name]);
        run.kill().await?;
        items.drop().await?;
        if comes_back {
            from.run_command(collated(name, "fr")).await?;
        }
        asked.end().await?;
        let mut run = file.run(&[])?;
        worlds.at_rest(&mut run).await?;
        same(&from, &to, name).await.map_err(|error| error.context(run.log()))?;
        assert!(run.terminate().await?.success());
        items.drop().await?;
    }
    Ok(())
}

/// Whether something is remembered as about to be made.
async fn is_in_the_making(held: &Client, namespace: &str) -> Result<bool> {
    let markers = held.database("mongosync").collection::<Document>("mirrored");
    let making = doc! { "namespace": namespace, "maker": { "$exists": true } };
    Ok(markers.find_one(making).await?.is_some())
}

/// What is made by a try that does not come to the end is remembered by the next one, and is not about to
/// be made any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_in_two_tries_is_remembered_once() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let held = mirror.client();
    let from = worlds.from.database("ddl_tries");
    let target = format!("{}&appName=ddl_tries", mirror.uri());
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, &rules("ddl_tries")))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let data = doc! { "failCommands": ["find"], "errorCode": 91, "namespace": "ddl_tries.items" };
    let asked = FailCommand::own(&held, 3, "ddl_tries", data).await?;
    let items: Collection<Document> = from.collection("items");
    items.insert_one(document(1, 1)).await?;
    worlds.at_rest(&mut run).await?;
    asked.end().await?;
    same(&from, &held.database("ddl_tries"), "made").await?;
    ensure!(!is_in_the_making(&held, "ddl_tries.items").await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A start that may not look at what the last run was about to make leaves it to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_looked_at_is_known_again_later() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let held = mirror.client();
    let (from, to) = (worlds.from.database("ddl_unseen"), held.database("ddl_unseen"));
    let target = format!("{}&appName=ddl_unseen", mirror.uri());
    let file =
        RuleFile::written(worlds.folder.path(), &worlds.text(&target, &rules("ddl_unseen")))?;
    let unseen = |code: i32| doc! { "failCommands": ["find"], "errorCode": code, "namespace": "ddl_unseen.items" };
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let asked = FailCommand::own(&held, 1_000_000, "ddl_unseen", unseen(91)).await?;
    let items: Collection<Document> = from.collection("items");
    items.insert_one(document(1, 1)).await?;
    run.waiting().await?;
    assert_eq!(names(&to).await?, ["items"]);
    run.kill().await?;
    items.drop().await?;
    asked.end().await?;
    let asked = FailCommand::own(&held, 1_000_000, "ddl_unseen", unseen(13)).await?;
    let mut run = file.run(&[])?;
    run.says("what it is in the source can't be followed").await?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    asked.end().await?;
    ensure!(is_in_the_making(&held, "ddl_unseen.items").await?);
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    same(&from, &to, "gone").await.map_err(|error| error.context(run.log()))?;
    ensure!(!is_in_the_making(&held, "ddl_unseen.items").await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What the last run was about to make of one collection is to hold another one's documents.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_be_made_of_another_source_is_this_ones() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let held = mirror.client();
    let from = worlds.from.database("ddl_turned");
    let target = format!("{}&appName=ddl_turned", mirror.uri());
    let rule = "  - { name: all, namespace: ddl_turned.one, ddl: true, on_drop: keep, to: [{ target: search, \
                namespace: ddl_turned.items }] }";
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, rule))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let data = doc! { "failCommands": ["find"], "errorCode": 91, "namespace": "ddl_turned.items" };
    let asked = FailCommand::own(&held, 1_000_000, "ddl_turned", data).await?;
    from.collection("one").insert_one(document(1, 1)).await?;
    run.waiting().await?;
    run.kill().await?;
    asked.end().await?;
    from.collection("other").insert_one(document(2, 2)).await?;
    file.rewrite(|text| text.replace("ddl_turned.one", "ddl_turned.other"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let there = held.database("ddl_turned").collection::<Document>("items");
    let found = there.find_one(doc! {}).await?.context("a document")?;
    assert_eq!(found.get_i32("_id").ok(), Some(2), "{}", run.log());
    ensure!(!is_in_the_making(&held, "ddl_turned.items").await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Under other names, filtered; and what the rule does not read stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_follow_to_other_names() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_names"), worlds.to.database("ddl_named"));
    let other: Collection<Document> = to.collection("own");
    other.insert_one(doc! { "_id": 1 }).await?;
    let file = worlds.rule_file(
        "  - name: all\n    namespace: ddl_names.*\n    exclude: ddl_names.excluded\n    ddl: true\n    \
         filter: { a: { $gte: 5 } }\n    \
         to: [{ target: search, namespace: 'ddl_named.old_{collection}' }]",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..20).map(|id| document(id, id))).await?;
    from.collection("excluded").insert_one(doc! { "_id": 1 }).await?;
    let pipeline = vec![doc! { "$lookup": {
        "from": "others", "localField": "a", "foreignField": "a", "as": "others",
    } }];
    from.run_command(doc! { "create": "seen", "viewOn": "items", "pipeline": pipeline }).await?;
    let index = doc! { "key": { "a": 1 }, "name": "a" };
    from.run_command(doc! { "createIndexes": "items", "indexes": [index] }).await?;
    worlds.at_rest(&mut run).await?;
    let held = definitions(&to).await?;
    let made: Vec<&str> = held.keys().map(String::as_str).collect();
    assert_eq!(made, ["old_items", "old_seen", "own"]);
    let options = held["old_seen"].get_document("options")?;
    assert_eq!(options.get_str("viewOn")?, "old_items");
    ensure!(format!("{options}").contains("\"old_others\""), "{options}");
    assert_eq!(indexes(&from, "items").await?, indexes(&to, "old_items").await?);
    let held: Collection<Document> = to.collection("old_items");
    assert_eq!(held.count_documents(doc! {}).await?, 10);
    from.drop().await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(names(&to).await?, ["own"]);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What is not mongosync's alone keeps its definition; and so does an index that somebody else built.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_alone_keeps_its_definition() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_foreign"), worlds.to.database("ddl_foreign"));
    to.collection("foreign").insert_one(doc! { "_id": "before" }).await?;
    to.run_command(doc! { "create": "view", "viewOn": "foreign", "pipeline": [] }).await?;
    for name in ["foreign", "own"] {
        let collection: Collection<Document> = from.collection(name);
        collection.insert_many((0..5).map(|id| document(id, id))).await?;
    }
    let pipeline = vec![doc! { "$match": { "a": 1 } }];
    from.run_command(doc! { "create": "view", "viewOn": "own", "pipeline": pipeline }).await?;
    let index = |name: &str| doc! { "key": { name: 1 }, "name": name };
    let built = |on: &str, name: &str| doc! { "createIndexes": on, "indexes": [index(name)] };
    let file = worlds.rule_file(&rules("ddl_foreign"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    to.run_command(built("own", "theirs")).await?;
    let mut theirs = definitions(&to).await?;
    for name in ["foreign", "own"] {
        from.run_command(built(name, "a")).await?;
        let validator =
            doc! { "collMod": name, "validator": { "a": 1 }, "validationAction": "warn" };
        from.run_command(validator).await?;
    }
    from.run_command(doc! { "drop": "view" }).await?;
    worlds.at_rest(&mut run).await?;
    let mut now = definitions(&to).await?;
    let own = now.remove("own");
    theirs.remove("own");
    assert_eq!(now, theirs);
    let shown = format!("{own:?}");
    ensure!(shown.contains("theirs") && shown.contains("validator"), "{shown}");
    from.run_command(doc! { "drop": "foreign" }).await?;
    from.run_command(doc! { "dropIndexes": "own", "index": "*" }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(to.collection::<Document>("foreign").count_documents(doc! {}).await?, 6);
    let left: Vec<String> = indexes(&to, "own")
        .await?
        .iter()
        .map(|index| index.get_str("name").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(left, ["_id_", "theirs"]);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// `on_drop: keep`: everything follows but what would take documents away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_stays_where_the_rule_keeps_it() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_kept"), worlds.to.database("ddl_kept"));
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..5).map(|id| document(id, id))).await?;
    let file = worlds.rule_file(
        "  - { name: all, namespace: ddl_kept.*, ddl: true, on_drop: keep, to: search }",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let index = doc! { "key": { "a": 1 }, "name": "a" };
    from.run_command(doc! { "createIndexes": "items", "indexes": [index] }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(indexes(&from, "items").await?, indexes(&to, "items").await?);
    items.drop().await?;
    let german = doc! { "create": "items", "collation": { "locale": "de" } };
    worlds.at_rest(&mut run).await?;
    from.run_command(german).await?;
    items.insert_one(document(9, 9)).await?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = to.collection("items");
    let ids: Vec<Document> = held
        .find(doc! {})
        .projection(doc! { "_id": 1 })
        .sort(doc! { "_id": 1 })
        .await?
        .try_collect()
        .await?;
    let ids: Vec<i32> = ids.iter().filter_map(|id| id.get_i32("_id").ok()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 9]);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An index that documents do not allow yet is built once they do, and holds up no document; what the
/// target refuses for good holds up nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_holds_up_no_document() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("ddl_refused"), worlds.to.database("ddl_refused"));
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..5).map(|id| document(id, id))).await?;
    let file = worlds.rule_file(&rules("ddl_refused"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = to.collection("items");
    held.insert_one(doc! { "_id": "odd", "sku": "0-0" }).await?;
    let unique = doc! { "key": { "sku": 1 }, "name": "sku", "unique": true };
    from.run_command(doc! { "createIndexes": "items", "indexes": [unique] }).await?;
    items.insert_one(document(7, 7)).await?;
    let mut look = interval(Duration::from_millis(20));
    while held.count_documents(doc! { "_id": 7 }).await? == 0 {
        look.tick().await;
    }
    run.says("collections are not what they are in the source yet").await?;
    assert_eq!(indexes(&to, "items").await?.len(), 1);
    held.delete_one(doc! { "_id": "odd" }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(indexes(&from, "items").await?, indexes(&to, "items").await?);

    // A name that is taken by what can't be put aside.
    to.run_command(doc! { "create": "seen", "viewOn": "items", "pipeline": [] }).await?;
    to.collection("buckets").insert_one(doc! { "_id": 1 }).await?;
    let series = doc! { "create": "buckets", "timeseries": { "timeField": "t" } };
    from.run_command(series).await?;
    from.run_command(doc! { "create": "seen" }).await?;
    items.insert_one(document(8, 8)).await?;
    worlds.at_rest(&mut run).await?;
    super::same(&worlds, "ddl_refused.items", "ddl_refused.items").await?;
    run.says("and is left as it is").await?;
    assert!(run.terminate().await?.success());
    Ok(())
}
