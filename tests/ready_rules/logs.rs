//! Rule files that write lines: a dump, an archive, an audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};
use serde_json::{Value, json};

use super::ready_in;
use crate::support::{self, documents::Documents, sourced::Sourced, told::lines};

#[tokio::test(flavor = "multi_thread")]
async fn dump_yaml_writes_a_file_for_each_collection() -> Result<()> {
    let mongo = support::mongo().await?;
    let (database, folder) = (mongo.client().database("ready_dump"), tempfile::TempDir::new()?);
    super::shop::fill(&database).await?;
    let variables = [("${MONGODB_URI}", mongo.uri()), ("${DUMP_FOLDER:-dump}", "dump")];
    let file = ready_in(folder.path(), "dump.yaml", "ready_dump", &variables)?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    for (name, shown) in [("products", 0), ("categories", 0), ("orders", 500)] {
        let text = fs::read_to_string(folder.path().join(format!("dump/{name}.ndjson")))?;
        let mut held = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line)?;
            held.insert(line["data"]["_id"].to_string(), line["data"]["document"].clone());
        }
        let count = database.collection::<Document>(name).count_documents(doc! {}).await?;
        assert_eq!((held.len() as u64, text.lines().count() as u64), (count, count), "{name}");
        let numbers = held.values().filter_map(|it| it["customer"].as_str());
        assert_eq!(numbers.filter(|it| it.len() == 64).count(), shown, "{name}");
        ensure!(!text.contains('@'), "{name} tells who it was");
    }
    Ok(())
}

/// What is deleted in whatever way, over a kill too, is there with every type that it had.
#[tokio::test(flavor = "multi_thread")]
async fn archive_yaml_keeps_what_is_deleted() -> Result<()> {
    let sourced = Sourced::new().await?;
    let database = sourced.client.database("ready_archive");
    let (orders, others): (Collection<Document>, Collection<Document>) =
        (database.collection("orders"), database.collection("others"));
    let mut documents = Documents::new(1);
    orders.insert_many((0..200).map(|id| documents.document(i64::from(id)))).await?;
    others.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    let variables =
        [("${MONGODB_URI}", sourced.mongo.uri()), ("${ARCHIVE_FOLDER:-archive}", "archive")];
    let file = ready_in(sourced.folder.path(), "archive.yaml", "ready_archive", &variables)?;
    let mut run = file.run(&[])?;
    run.following("archive").await?;
    let of = |remainder: i32| doc! { "_id": { "$mod": [4, remainder] } };
    let gone = doc! { "$or": [of(0), of(1), of(2)] };
    // As each was last, not as it was first.
    orders.update_many(of(1), doc! { "$set": { "title": "the last one" } }).await?;
    let last: Vec<Document> = orders.find(gone).await?.try_collect().await?;
    let expected: BTreeMap<String, Value> = last
        .into_iter()
        .map(|document| Bson::from(document).into_canonical_extjson())
        .map(|document| (document["_id"].to_string(), document))
        .collect();
    orders.delete_many(of(0)).await?;
    orders.find_one_and_delete(doc! { "_id": 1 }).await?;
    orders.delete_many(of(1)).await?;
    run.kill().await?;
    orders.delete_many(of(2)).await?;
    orders.insert_one(doc! { "_id": 0_i64 }).await?;
    let mut run = file.run(&[])?;
    others.delete_one(doc! { "_id": 7 }).await?;
    sourced.settled(&mut run, "archive").await?;

    let archived = |name: &str| -> Result<BTreeMap<String, Value>> {
        let mut archived = BTreeMap::new();
        for line in lines(&sourced.path("archive"), name)? {
            let mut document = line["data"]["document"].clone();
            let deleted = document.as_object_mut().context("a document")?.remove("deleted");
            ensure!(deleted.is_some_and(|it| it["$date"].is_object()), "{line}");
            archived.insert(document["_id"].to_string(), document);
        }
        Ok(archived)
    };
    assert_eq!(archived("orders")?, expected);
    assert_eq!(archived("others")?.into_keys().collect::<Vec<_>>(), [r#"{"$numberInt":"7"}"#]);
    ensure!(file.dead_letters().await?.is_empty(), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_yaml_tells_who_changed_what() -> Result<()> {
    let sourced = Sourced::new().await?;
    let orders = sourced.collection("ready_audit.orders");
    orders.insert_one(doc! { "_id": 1, "status": "placed", "updated_by": "ann" }).await?;
    let variables = [
        ("${MONGODB_URI}", sourced.mongo.uri()),
        ("${AUDIT_FOLDER:-audit}", "audit"),
        ("rotate: 100MiB", "rotate: 2KiB"),
    ];
    let file = ready_in(sourced.folder.path(), "audit.yaml", "ready_audit", &variables)?;
    let mut run = file.run(&[])?;
    run.following("audit").await?;
    let card = doc! { "number": "4111", "name": "B" };
    orders.insert_one(doc! { "_id": 2, "status": "placed", "customer": { "card": card } }).await?;
    let by = |who: &str, status: &str| doc! { "$set": { "status": status, "updated_by": who } };
    orders.update_one(doc! { "_id": 1 }, by("bob", "paid")).await?;
    orders.update_one(doc! { "_id": 1 }, by("cyd", "shipped")).await?;
    let paid = doc! { "$set": { "customer.card.number": "4222" } };
    orders.update_one(doc! { "_id": 2 }, paid).await?;
    run.kill().await?;
    orders.replace_one(doc! { "_id": 1 }, doc! { "status": "lost", "updated_by": "dan" }).await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    let mut run = file.run(&[])?;
    sourced.settled(&mut run, "audit").await?;

    let mut known = BTreeSet::new();
    let lines = lines(&sourced.path("audit"), "orders")?;
    ensure!(!lines.iter().any(|line| line.to_string().contains("4222")), "{lines:#?}");
    let first = lines.iter().filter(|line| known.insert(line["id"].to_string()));
    let told: Vec<Value> = first
        .filter(|line| line["data"]["_id"] == 1)
        .map(|line| {
            let data = &line["data"];
            let (before, document) = (&data["before"]["status"], &data["document"]);
            ensure!(document["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
            Ok(json!([data["op"], document["by"], before, document["after"]["status"]]))
        })
        .collect::<Result<_>>()?;
    let expected = [
        json!(["update", "bob", "placed", "paid"]),
        json!(["update", "cyd", "paid", "shipped"]),
        json!(["replace", "dan", "shipped", "lost"]),
        json!(["delete", null, "lost", null]),
    ];
    assert_eq!(told, expected);
    ensure!(sourced.path("audit/orders.000001.ndjson").exists(), "nothing was put aside");
    ensure!(file.dead_letters().await?.is_empty(), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}
