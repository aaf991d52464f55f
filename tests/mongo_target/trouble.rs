//! A MongoDB that refuses: for a while, for one collection, or altogether.

use anyhow::{Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use mongosync_servers::MongoDb;
use tokio::time::{Duration, interval};

use crate::support::{fail_command::FailCommand, run::RuleFile};

use super::{Worlds, documents, same};

/// A cluster that lets nobody write is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_blocks_all_writes_is_waited_for() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let items: Collection<Document> = worlds.from.database("closed").collection("items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let text = worlds.text(mirror.uri(), "  - { namespace: closed.items, to: search }");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let admin = mirror.client().database("admin");
    let block = |on: bool| admin.run_command(doc! { "setUserWriteBlockMode": 1, "global": on });
    block(true).await?;
    items.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    run.waiting().await?;
    block(false).await?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = mirror.client().database("closed").collection("items");
    assert_eq!(held.count_documents(doc! { "n": 1 }).await?, 99);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What can't be written to is told document by document, and holds up no other collection.
#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_one_collection_leaves_the_others_alone() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("troubled"), worlds.to.database("troubled"));
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..100).map(|id| doc! { "_id": id })).await?;
    let seen: Collection<Document> = from.collection("seen");
    seen.insert_many((0..100).map(|id| doc! { "_id": id })).await?;
    to.run_command(doc! { "create": "seen", "viewOn": "elsewhere", "pipeline": [] }).await?;
    // Its name differs from that of another database in case alone.
    let other: Collection<Document> = worlds.from.database("cased").collection("items");
    other.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    worlds.to.database("Cased").collection::<Document>("items").insert_one(doc! {}).await?;
    let rules = "  - { name: all, namespace: troubled.*, to: search }\n  \
                 - { namespace: cased.items, to: search }";
    let file = worlds.rule_file(rules)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    for id in 0..100 {
        for collection in [&items, &seen] {
            collection.update_one(doc! { "_id": id }, doc! { "$set": { "n": 1 } }).await?;
        }
    }
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "troubled.items", "troubled.items").await?, 100);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 110);
    let words = serde_json::to_string(&letters)?;
    ensure!(words.contains("is a view") && words.contains("can't be made"), "{words}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A right that is missing is waited for, costs no document, and holds up no other collection.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_for_one_database_is_waited_for() -> Result<()> {
    let worlds = Worlds::new().await?;
    let locked = MongoDb::builder().login("root", "secret").start().await?;
    let client = locked.client();
    let admin = client.database("admin");
    let role = |name: &str| doc! { "role": "readWrite", "db": name };
    let bypass = |name: &str| {
        let on = doc! { "db": name, "collection": "" };
        doc! { "resource": on, "actions": ["bypassDocumentValidation"] }
    };
    let rights = vec![bypass("allowed"), bypass("denied")];
    let no_roles: Vec<Document> = Vec::new();
    let role_of_all = doc! { "createRole": "bypass", "privileges": rights, "roles": no_roles };
    admin.run_command(role_of_all).await?;
    let bypasses = doc! { "role": "bypass", "db": "admin" };
    let roles = vec![role("allowed"), role("mongosync"), bypasses];
    admin.run_command(doc! { "createUser": "sync", "pwd": "secret", "roles": roles }).await?;
    for name in ["allowed", "denied"] {
        let items: Collection<Document> = worlds.from.database(name).collection("items");
        items.insert_many((0..50).map(|id| doc! { "_id": id })).await?;
    }
    let rules = "  - { name: all, namespace: [allowed.items, denied.items], to: search }";
    let text = worlds.text(&locked.uri_of("sync", "secret"), rules);
    let text = text.replace("max_actions: 200", "max_actions: 200, concurrency: 1");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    let count = |name: &str| {
        let items: Collection<Document> = client.database(name).collection("items");
        async move { items.count_documents(doc! {}).await }
    };
    let said = run.waiting().await?;
    ensure!(said.contains("denied.items: not authorized"), "{said}");
    // In the same lane.
    for name in ["denied", "allowed"] {
        let items: Collection<Document> = worlds.from.database(name).collection("items");
        items.insert_many((50..100).map(|id| doc! { "_id": id })).await?;
        items.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    }
    let mut look = interval(Duration::from_millis(20));
    while count("allowed").await? != 90 {
        look.tick().await;
    }
    run.waiting().await?;
    let more = doc! { "grantRolesToUser": "sync", "roles": [role("denied")] };
    admin.run_command(more).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!((count("allowed").await?, count("denied").await?), (90, 90));
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A server without an oplog numbers no attempts.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_set_is_refused() -> Result<()> {
    let worlds = Worlds::new().await?;
    let alone = MongoDb::builder().alone().start().await?;
    let text = worlds.text(alone.uri(), "  - { namespace: refused.items, to: search }");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let (code, log) = file.run_to_end(&["--copy-only", "--wait", "1s"]).await?;
    assert_eq!(code, Some(3), "{log}");
    ensure!(log.contains("is no replica set"), "{log}");
    Ok(())
}

/// What a server refuses without saying whose fault it is costs no document, and holds up no other
/// collection.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_waited_for() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let client = mirror.client();
    let from = worlds.from.database("doubtful");
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..100).map(|id| doc! { "_id": id })).await?;
    let (made, others): (Collection<Document>, Collection<Document>) =
        (from.collection("made"), from.collection("others"));
    others.insert_one(doc! { "_id": 0 }).await?;
    let target = format!("{}&appName=doubtful", mirror.uri());
    let text = worlds.text(&target, "  - { name: all, namespace: doubtful.*, to: search }");
    let text = text.replace("max_actions: 200", "max_actions: 200, concurrency: 1");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let mut look = interval(Duration::from_millis(20));
    // A place in the server's source, and what a server says that is too old for a command.
    for (round, (code, commands, namespace)) in [
        (7_654_321, ["update", "delete"], "doubtful.items"),
        (40_415, ["update", "delete"], "doubtful.items"),
        (7_654_321, ["create", "create"], "doubtful.made"),
    ]
    .into_iter()
    .enumerate()
    {
        let data = doc! {
            "failCommands": commands.to_vec(), "errorCode": code, "namespace": namespace,
        };
        let point = FailCommand::own(&client, 1_000_000, "doubtful", data).await?;
        let round = i32::try_from(round)?;
        items.update_many(doc! {}, doc! { "$set": { "round": round } }).await?;
        items.delete_one(doc! { "_id": round }).await?;
        if commands[0] == "create" {
            made.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
        }
        run.waiting().await?;
        if round == 0 {
            let told = |status: &serde_json::Value| {
                let words = status["targets"]["search"]["last_error"].as_str().unwrap_or_default();
                words.contains("whether it would be the same with others is not known")
            };
            run.until("what is not known", told).await?;
        }
        let id = doc! { "_id": 100 + round };
        others.insert_one(id.clone()).await?;
        let held: Collection<Document> = client.database("doubtful").collection("others");
        while held.count_documents(id.clone()).await? == 0 {
            look.tick().await;
        }
        run.waiting().await?;
        point.end().await?;
        worlds.at_rest(&mut run).await?;
        let expected = documents(&from, "items").await?;
        ensure!(expected == documents(&client.database("doubtful"), "items").await?, "{code}");
        assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new(), "{code}");
    }
    let held: Collection<Document> = client.database("doubtful").collection("made");
    assert_eq!(held.count_documents(doc! {}).await?, 10);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// One document is refused at a place in the server's source: it alone is a dead letter, alone in its
/// request too, and what was there before stays.
#[tokio::test(flavor = "multi_thread")]
async fn one_document_that_a_server_refuses_is_a_dead_letter() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) =
        (worlds.from.database("refusing_mirror"), worlds.to.database("refusing_mirror"));
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..20).map(|id| doc! { "_id": id, "a": 1, "$b": 1 })).await?;
    let file = worlds.rule_file("  - { namespace: refusing_mirror.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let hashed =
        doc! { "createIndexes": "items", "indexes": [{ "key": { "a": "hashed" }, "name": "a" }] };
    to.run_command(hashed).await?;
    for id in [3, 4] {
        items.update_one(doc! { "_id": id }, doc! { "$set": { "a": [1, 2] } }).await?;
        worlds.at_rest(&mut run).await?;
    }
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 2, "{letters:?}");
    // Such a document is removed first, for the sake of its `$b`.
    let held: Collection<Document> = to.collection("items");
    assert_eq!(held.count_documents(doc! { "a": 1 }).await?, 20);
    items.update_many(doc! {}, doc! { "$set": { "a": 2 } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "refusing_mirror.items", "refusing_mirror.items").await?, 20);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}
