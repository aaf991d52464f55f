//! Events in a collection: every value as MongoDB has told it, each event once, whatever is killed.

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use mongodb::{
    Collection, IndexModel,
    bson::{
        Document, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc,
        raw::cstr,
    },
    options::{FullDocumentBeforeChangeType, FullDocumentType, IndexOptions},
};
use mongosync_servers::MongoDb;
use serde_json::Value;

use super::{Worlds, documents, ids as kinds_of_ids, in_front_of, of_every_type, same, whose::ids};
use crate::support::{
    run::{RuleFile, Run},
    told::now,
};

/// What the collection's own stream shows behind a time, as it is to lie in the log, but for the `_id`.
async fn expected(orders: &Collection<Document>, since: Timestamp) -> Result<Vec<Vec<u8>>> {
    let last = doc! { "_id": format!("the last one {}", crate::support::unique()) };
    orders.insert_one(last.clone()).await?;
    orders.delete_one(last.clone()).await?;
    let stream = orders.watch().start_at_operation_time(since);
    let stream = stream.full_document(FullDocumentType::Required);
    let stream = stream.full_document_before_change(FullDocumentBeforeChangeType::Required).await?;
    let mut stream = stream.with_type::<RawDocumentBuf>();
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event?;
        let Ok(key) = event.get_document("documentKey") else { continue };
        let (op, namespace) = (event.get_str("operationType")?, event.get_document("ns")?);
        let namespace = format!("{}.{}", namespace.get_str("db")?, namespace.get_str("coll")?);
        let image = |name: &str| whole(event.get_document(name).ok());
        let before = image("fullDocumentBeforeChange");
        let description = event.get_document("updateDescription").ok();
        let array = |name: &str| {
            let found = description.and_then(|found| found.get_array(name).ok());
            found.map_or_else(RawArrayBuf::new, |found| found.to_owned())
        };
        let mut made = RawDocumentBuf::new();
        made.append(cstr!("op"), op);
        made.append(cstr!("ns"), namespace);
        made.append(cstr!("key"), key.to_owned());
        made.append(cstr!("cluster_time"), event.get_timestamp("clusterTime")?);
        made.append(cstr!("wall_time"), event.get_datetime("wallTime")?);
        made.append(cstr!("copy"), false);
        // Of a delete it is that of before.
        let document = if op == "delete" { before.clone() } else { image("fullDocument") };
        made.append(cstr!("document"), document);
        made.append(cstr!("before"), before);
        let updated = description.and_then(|found| found.get_document("updatedFields").ok());
        made.append(cstr!("updated"), whole(updated));
        made.append(cstr!("removed"), array("removedFields"));
        made.append(cstr!("truncated"), array("truncatedArrays"));
        all.push(made.into_bytes());
        if op == "delete" && key.as_bytes() == RawDocumentBuf::try_from(&last)?.as_bytes() {
            break;
        }
    }
    all.sort();
    Ok(all)
}

fn whole(document: Option<&RawDocument>) -> RawBson {
    document.map_or(RawBson::Null, |document| RawBson::Document(document.to_owned()))
}

/// What lies in a log, but for the `_id`s, of which each is text.
async fn appended(worlds: &Worlds, database: &str, collection: &str) -> Result<Vec<Vec<u8>>> {
    let found = documents(&worlds.to.database(database), collection).await?;
    let mut all = Vec::new();
    for found in found {
        let mut bare = RawDocumentBuf::new();
        for element in found.iter() {
            let (name, value) = element?;
            match (name.as_str(), value) {
                ("_id", RawBsonRef::String(id)) => ensure!(id.len() >= 32, "{id}"),
                ("_id", other) => anyhow::bail!("{other:?} is no id of an event"),
                _ => bare.append(name, value),
            }
        }
        all.push(bare.into_bytes());
    }
    all.sort();
    Ok(all)
}

/// Fails where a log is not byte for byte what has happened; returns how many events it holds.
async fn tells_all(
    worlds: &Worlds,
    run: &mut Run,
    orders: &Collection<Document>,
    since: Timestamp,
) -> Result<usize> {
    let expected = expected(orders, since).await?;
    run.caught_up(&worlds.from).await?;
    let found = appended(worlds, "events_log", orders.name()).await?;
    for (one, other) in expected.iter().zip(&found) {
        let show = |bytes: &[u8]| RawDocumentBuf::from_bytes(bytes.to_vec());
        ensure!(one == other, "{:?} happened\n{:?} was told", show(one), show(other));
    }
    ensure!(expected.len() == found.len(), "{} and {} events", expected.len(), found.len());
    Ok(found.len())
}

const LOG: &str = "  - name: log
    namespace: events_from.orders
    delivery: events
    changes: { full_document: required, pre_image: required }
    to: [{ target: search, namespace: 'events_log.{collection}' }]";

/// Beside a rule that keeps the documents. No position is stored before the kill, so that all comes again.
#[tokio::test(flavor = "multi_thread")]
async fn each_event_lies_there_once_with_every_value_as_it_was() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("events_from");
    from.create_collection("orders").await?;
    let orders: Collection<Document> = from.collection("orders");
    let file = worlds.rule_file(&format!(
        "  - {{ name: kept, namespace: events_from.orders, to: search }}\n{LOG}"
    ))?;
    file.rewrite(|text| text.replace("every: 100ms", "every: 1h"))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.following("search").await?;
    let since = now(&worlds.from).await?;
    orders.insert_many(kinds_of_ids().into_iter().map(of_every_type)).await?;
    orders
        .update_many(doc! {}, doc! { "$set": { "x.b": 2_i64, "new": { "z": 1, "a": 2.5 } } })
        .await?;
    orders.update_many(doc! {}, doc! { "$unset": { "int": "" }, "$set": { "w.3": 1 } }).await?;
    let cut = vec![doc! { "$set": { "w": { "$slice": ["$w", 2] } } }];
    orders.update_one(doc! { "_id": 1 }, cut).await?;
    orders.replace_one(doc! { "_id": 2_i64 }, doc! { "b": 1, "a": 2 }).await?;
    orders.delete_one(doc! { "_id": "1" }).await?;
    // Several changes of one document, at one time.
    let mut session = worlds.from.start_session().await?;
    session.start_transaction().await?;
    for n in 0..2 {
        orders.insert_one(doc! { "_id": "t", "n": n }).session(&mut session).await?;
        orders.delete_one(doc! { "_id": "t" }).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    let before = tells_all(&worlds, &mut run, &orders, since).await?;
    run.kill().await?;

    let mut run = file.run(&[])?;
    orders.insert_one(of_every_type("later")).await?;
    let count = tells_all(&worlds, &mut run, &orders, since).await?;
    let status = run.status().await.context("it answers")?;
    let superseded = status["targets"]["search"]["rules"]["log"]["superseded"].as_u64();
    ensure!(superseded.is_some_and(|it| it >= before as u64), "{before}: {status:#}");
    same(&worlds, "events_from.orders", "events_from.orders").await?;
    assert!(run.terminate().await?.success());

    // A further run goes on behind it, and adds nothing of its own.
    let mut run = file.run(&[])?;
    orders.delete_one(doc! { "_id": "later" }).await?;
    ensure!(tells_all(&worlds, &mut run, &orders, since).await? > count, "more was told");
    same(&worlds, "events_from.orders", "events_from.orders").await?;
    // What is over is not compared.
    let answer = file.command("verify", &[]).await?;
    let words = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(answer.status.success(), "{words}{}", String::from_utf8_lossy(&answer.stderr));
    ensure!(words.contains("rule log delivers events, and was not compared"), "{words}");
    assert_eq!(file.dead_letters().await?, Vec::<Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Another event has the value for ever: a dead letter at once, and its own log stays in order.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_unique_index_refuses_is_a_letter() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("events_refused_by");
    from.create_collection("orders").await?;
    let orders: Collection<Document> = from.collection("orders");
    let log: Collection<Document> = worlds.to.database("events_refused_by").collection("log");
    let of = doc! { "document.sku": { "$exists": true } };
    let options = IndexOptions::builder().unique(true).partial_filter_expression(of);
    let options = options.name("sku".to_owned()).build();
    let index = IndexModel::builder().keys(doc! { "document.sku": 1 }).options(options).build();
    log.create_index(index).await?;
    let file = worlds.rule_file(
        "  - name: log\n    namespace: events_refused_by.orders\n    delivery: events\n    \
         to: [{ target: search, namespace: events_refused_by.log }]",
    )?;
    let mut run = file.run(&[])?;
    run.following("search").await?;
    orders.insert_one(doc! { "_id": 1, "sku": "a" }).await?;
    // Between documents there is no order.
    run.caught_up(&worlds.from).await?;
    orders.insert_one(doc! { "_id": 2, "sku": "a" }).await?;
    orders.insert_one(doc! { "_id": 3, "sku": "b" }).await?;
    orders.delete_one(doc! { "_id": 2 }).await?;
    run.caught_up(&worlds.from).await?;
    let told = |log: Collection<Document>| async move {
        let database = log.client().database(&log.namespace().db);
        let found = documents(&database, log.name()).await?;
        let mut told = Vec::new();
        for event in found {
            let id = event.get_document("key")?.get_i32("_id")?;
            told.push(format!("{} {id}", event.get_str("op")?));
        }
        told.sort();
        Ok::<_, anyhow::Error>(told)
    };
    assert_eq!(told(log.clone()).await?, ["delete 2", "insert 1", "insert 3"]);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    ensure!(letters[0].to_string().contains("E11000"), "{letters:#?}");

    log.drop_index("sku").await?;
    let answer = file.command("dead-letters", &["retry", "--all"]).await?;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert_eq!(told(log.clone()).await?, ["delete 2", "insert 1", "insert 2", "insert 3"]);
    assert_eq!(file.dead_letters().await?, Vec::<Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The server does not say whose fault it is, nothing else is on its way, and a login that may only append
/// can't ask in another way: what lies there already tells.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_stands_alone_holds_up_nothing() -> Result<()> {
    let worlds = Worlds::new().await?;
    let locked = MongoDb::builder().login("root", "secret").start().await?;
    let client = locked.client();
    let (admin, to) = (client.database("admin"), client.database("events_alone"));
    let rights = |database: &str, collection: &str, actions: &[&str]| {
        doc! { "resource": { "db": database, "collection": collection }, "actions": actions }
    };
    let privileges = vec![
        rights("events_alone", "", &["find", "insert", "bypassDocumentValidation"]),
        rights("events_alone", "", &["listCollections", "createCollection"]),
        rights("mongosync", "mirrored", &["find", "insert", "update"]),
    ];
    let role = doc! { "createRole": "append", "privileges": privileges, "roles": [] };
    admin.run_command(role).await?;
    admin.run_command(doc! { "createUser": "sync", "pwd": "secret", "roles": ["append"] }).await?;
    let orders: Collection<Document> = worlds.from.database("events_alone").collection("orders");
    let text = worlds.text(
        &locked.uri_of("sync", "secret"),
        "  - { name: log, namespace: events_alone.orders, delivery: events, to: search }",
    );
    let text = text.replace("max_actions: 200", "concurrency: 1");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    run.following("search").await?;
    orders.insert_one(doc! { "_id": 1, "a": 1 }).await?;
    run.caught_up(&worlds.from).await?;
    // It takes no arrays.
    let hashed = doc! {
        "createIndexes": "orders", "indexes": [{ "key": { "document.a": "hashed" }, "name": "a" }],
    };
    to.run_command(hashed).await?;
    assert!(run.terminate().await?.success());
    // Not a single one was told in this run.
    orders.insert_one(doc! { "_id": 2, "a": [1, 2] }).await?;
    let mut run = file.run(&[])?;
    run.caught_up(&worlds.from).await?;
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    ensure!(letters[0].to_string().contains("hashed"), "{letters:#?}");
    orders.insert_one(doc! { "_id": 3, "a": 3 }).await?;
    run.caught_up(&worlds.from).await?;
    let log: Collection<Document> = to.collection("orders");
    assert_eq!(log.count_documents(doc! {}).await?, 2);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Starts, lets a document come, and returns what became a dead letter of it.
async fn letters(worlds: &Worlds, file: &RuleFile, namespace: &str) -> Result<String> {
    let (database, collection) = namespace.split_once('.').context("a namespace")?;
    let items: Collection<Document> = worlds.from.database(database).collection(collection);
    let mut run = file.run(&[])?;
    run.following("search").await?;
    items.insert_one(doc! { "n": 1 }).await?;
    run.caught_up(&worlds.from).await?;
    let letters = file.dead_letters().await?;
    assert!(run.terminate().await?.success());
    Ok(Value::from(letters).to_string())
}

/// What is kept for ever, and what is removed once the source has it no longer.
#[tokio::test(flavor = "multi_thread")]
async fn events_and_documents_do_not_share_a_collection() -> Result<()> {
    let worlds = Worlds::new().await?;
    let rule = |name: &str, to: &str, more: &str| {
        format!(
            "  - {{ name: r, namespace: events_mixed.{name}, {more} \
             to: [{{ target: search, namespace: events_mixed_to.{to} }}] }}"
        )
    };
    let events = "delivery: events,";
    // By one rule file, at another time.
    let file = worlds.rule_file(&rule("a", "documents", ""))?;
    assert_eq!(letters(&worlds, &file, "events_mixed.a").await?, "[]");
    file.rewrite(|text| text.replace("to: [{", "delivery: events, to: [{"))?;
    let words = letters(&worlds, &file, "events_mixed.a").await?;
    let expected = "documents of events_mixed.a lie in events_mixed_to.documents, and events would";
    ensure!(words.contains(expected), "{words}");

    let file = worlds.rule_file(&rule("b", "log", events))?;
    assert_eq!(letters(&worlds, &file, "events_mixed.b").await?, "[]");
    file.rewrite(|text| text.replace(events, "copy: false,"))?;
    let words = letters(&worlds, &file, "events_mixed.b").await?;
    let expected = "events lie in events_mixed_to.log, and documents of events_mixed.b would";
    ensure!(words.contains(expected), "{words}");

    // By two rule files: nothing is swept there.
    let source: Collection<Document> = worlds.from.database("events_mixed").collection("c");
    source.insert_many((0..4).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let one = worlds.rule_file(&rule("c", "both", "on_rule_change: resync,"))?;
    assert_eq!(letters(&worlds, &one, "events_mixed.c").await?, "[]");
    let other = worlds.rule_file(&rule("d", "both", events))?;
    assert_eq!(letters(&worlds, &other, "events_mixed.d").await?, "[]");
    one.rewrite(|text| text.replace("to: [{", "filter: { even: true }, to: [{"))?;
    let mut run = one.run(&[])?;
    worlds.at_rest(&mut run).await?;
    ensure!(run.log().contains("another rule file writes there too"), "{}", run.log());
    let both: Collection<Document> = worlds.to.database("events_mixed_to").collection("both");
    assert_eq!(both.count_documents(doc! {}).await?, 6, "{}", ids(&both).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Nobody may write there as the rules say, which is told before anything is written.
async fn refused(file: &RuleFile, expected: &str) -> Result<()> {
    let checked = file.command("check", &["--online"]).await?;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(checked.status.code() == Some(1) && told.contains(expected), "{checked:?}");
    let (code, log) = file.run_to_end(&[]).await?;
    ensure!(code == Some(1) && log.contains(expected), "{code:?} {log}");
    assert_eq!(file.dead_letters().await?, Vec::<Value>::new());
    Ok(())
}

/// Their names say nothing of what they reach, and by two addresses only the servers can tell.
#[tokio::test(flavor = "multi_thread")]
async fn events_and_documents_of_two_targets_do_not_share_a_collection() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (_proxy, uri) = worlds.proxy().await?;
    let items: Collection<Document> = worlds.from.database("events_twice").collection("items");
    items.insert_many((0..4).map(|id| doc! { "_id": id })).await?;
    let to = |target: &str| format!("to: [{{ target: {target}, namespace: events_twice_to.all }}]");
    let kept = format!("  - {{ name: kept, namespace: events_twice.items, {} }}", to("search"));
    let file = worlds.rule_file(&kept)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    let target = |uri: &str| format!("targets:\n  log: {{ mongodb: {{ uri: \"{uri}\" }} }}\n");
    let log = "{ name: log, namespace: events_twice.*, delivery: events, copy: true,";
    let log = format!("\n  - {log} {} }}\n", to("log"));
    file.rewrite(|text| text.replace("targets:\n", &target(&uri)) + log.as_str())?;
    refused(&file, "documents of events_twice.items lie in events_twice_to.all, and events")
        .await?;
    let all: Collection<Document> = worlds.to.database("events_twice_to").collection("all");
    assert_eq!(ids(&all).await?, "0 1 2 3");
    Ok(())
}

/// What both tell of one change has one id, and the second would count as told.
#[tokio::test(flavor = "multi_thread")]
async fn two_rule_files_do_not_tell_under_one_id() -> Result<()> {
    let worlds = Worlds::new().await?;
    let orders: Collection<Document> = worlds.from.database("events_named").collection("orders");
    let rule = |more: &str| {
        format!(
            "  - {{ name: log, namespace: events_named.orders, delivery: events, {more} \
             to: [{{ target: search, namespace: events_named.log }}] }}"
        )
    };
    let one = worlds.rule_file(&rule(""))?;
    assert_eq!(letters(&worlds, &one, "events_named.orders").await?, "[]");
    let other = worlds.rule_file(&rule("filter: { n: { $gt: 1 } },"))?;
    refused(&other, "has told events of its own rule log in events_named.log").await?;

    // By another name each tells its own, in the same collection.
    other.rewrite(|text| text.replace("name: log", "name: large"))?;
    let log: Collection<Document> = worlds.to.database("events_named").collection("log");
    let (mut run, mut beside) = (other.run(&[])?, one.run(&[])?);
    run.following("search").await?;
    beside.following("search").await?;
    let before = log.count_documents(doc! {}).await?;
    orders.insert_many([doc! { "n": 1 }, doc! { "n": 2 }]).await?;
    run.caught_up(&worlds.from).await?;
    beside.caught_up(&worlds.from).await?;
    assert_eq!(log.count_documents(doc! {}).await?, before + 3);
    assert!(run.terminate().await?.success() && beside.terminate().await?.success());
    Ok(())
}

/// Where the target is the source, nothing that a rule reads is written to.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_not_appended_to_itself() -> Result<()> {
    let worlds = Worlds::new().await?;
    // By another address, so that only the servers can tell.
    let (_proxy, uri) = in_front_of(&worlds.source).await?;
    let rule = "  - name: log\n    namespace: events_loop.*\n    delivery: events\n    \
                to: [{ target: search, namespace: events_loop.log }]";
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&uri, rule))?;
    let items: Collection<Document> = worlds.from.database("events_loop").collection("items");
    items.insert_one(doc! { "_id": 1 }).await?;
    let (code, log) = file.run_to_end(&[]).await?;
    ensure!(code == Some(1) && log.contains("would be read again for ever"), "{code:?} {log}");
    let names = worlds.from.database("events_loop").list_collection_names().await?;
    assert_eq!(names, ["items"]);
    Ok(())
}
