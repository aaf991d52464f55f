//! `events` delivery, with a real MongoDB, real HTTP and the real program. What the receiver was told is
//! compared with what a change stream of the test's own shows: per document in order, nothing missing,
//! and what is told again under the id that it had.

mod copies;
mod course;
mod ended;
mod engines;
mod images;
mod letters;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, Timestamp, doc},
};
use serde_json::{Value, json};

use crate::{
    support::{
        receiver::{Received, first_of_each},
        run::{Run, cluster_time},
    },
    webhook_target::{Hooked, messages},
};

/// One change, as far as it says which it is: what happened, and when.
type Change = (String, String);

/// The changes of each document, in order.
type History = BTreeMap<String, Vec<Change>>;

fn shown(id: &Bson) -> String {
    id.clone().into_relaxed_extjson().to_string()
}

/// A majority-committed time, as a stream takes it.
async fn now(client: &Client) -> Result<Timestamp> {
    let (time, increment) = cluster_time(client).await?;
    Ok(Timestamp { time, increment })
}

/// What has happened to a collection's documents behind a time, all in one order: document, change and
/// resume token.
async fn all_that_happened(
    collection: &Collection<Document>,
    since: Timestamp,
) -> Result<Vec<(String, Change, Document)>> {
    let last = format!("the last one {}", crate::support::unique());
    collection.insert_one(doc! { "_id": &last }).await?;
    collection.delete_one(doc! { "_id": &last }).await?;
    let stream = collection.watch().start_at_operation_time(since).await?;
    let mut stream = stream.with_type::<Document>();
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event?;
        let Ok(key) = event.get_document("documentKey") else { continue };
        let id = key.get("_id").context("an _id")?;
        // Earlier looks have left theirs.
        if let Some(own) = id.as_str().filter(|id| id.starts_with("the last one")) {
            if own == last && event.get_str("operationType")? == "delete" {
                return Ok(all);
            }
            continue;
        }
        let Timestamp { time, increment } = event.get_timestamp("clusterTime")?;
        let change = (event.get_str("operationType")?.to_owned(), format!("{time}.{increment}"));
        all.push((shown(id), change, event.get_document("_id")?.clone()));
    }
    bail!("the stream has ended")
}

/// The same, by document.
async fn happened(collection: &Collection<Document>, since: Timestamp) -> Result<History> {
    let mut history = History::new();
    for (id, change, _) in all_that_happened(collection, since).await? {
        history.entry(id).or_default().push(change);
    }
    Ok(history)
}

/// What one message tells.
#[derive(Clone, Debug)]
struct Told {
    id: String,
    document: String,
    change: Change,
    data: Value,
}

/// What was accepted, in order.
fn told(received: &[Received]) -> Vec<Told> {
    let mut told = Vec::new();
    for request in received.iter().filter(|request| request.is_accepted()) {
        for message in messages(request) {
            let id = message["id"].as_str().unwrap_or(request.id()).to_owned();
            let data = message["data"].clone();
            let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
            let change = (text("op"), text("cluster_time"));
            let document = data["_id"].to_string();
            told.push(Told { id, document, change, data });
        }
    }
    told
}

/// Compares: whatever was told, in the order in which it was told for the first time, is what happened;
/// and what has one id is one change. What is about a document that begins with "the last one" is the
/// checker's own.
fn compare(received: &[Received], happened: &History) -> Result<usize> {
    let mut by_id: BTreeMap<String, Told> = BTreeMap::new();
    let mut history = History::new();
    let mut repeated = 0;
    for told in told(received) {
        if told.document.contains("the last one") {
            continue;
        }
        if let Some(known) = by_id.get(&told.id) {
            let same = |one: &Told| {
                let said = ["updated", "removed", "truncated", "copy", "before"];
                (one.document.clone(), one.change.clone(), said.map(|name| one.data[name].clone()))
            };
            ensure!(same(known) == same(&told), "one id for two: {known:?} and {told:?}");
            repeated += 1;
            continue;
        }
        by_id.insert(told.id.clone(), told.clone());
        history.entry(told.document).or_default().push(told.change);
    }
    let documents: BTreeSet<_> = happened.keys().chain(history.keys()).collect();
    for document in documents {
        let (was, is) = (happened.get(document), history.get(document));
        ensure!(was == is, "{document}: {was:#?} happened, and this was told: {is:#?}");
    }
    Ok(repeated)
}

/// Waits until so many different messages have been accepted.
async fn until_told(world: &Hooked, count: usize) -> Result<Vec<Told>> {
    let received = world
        .receiver
        .until(|received| {
            let ids: BTreeSet<String> = told(received).into_iter().map(|told| told.id).collect();
            ids.len() >= count
        })
        .await?;
    Ok(told(&received))
}

async fn following(run: &mut Run) -> Result<()> {
    // A position says that the stream's start is stored.
    run.until("following", |status| {
        let notify = &status["targets"]["notify"];
        notify["state"] == "following" && notify["position"].is_string()
    })
    .await?;
    Ok(())
}

/// No `delivery`: a webhook is told events, and what was there before is not copied.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_all_that_it_says() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_all.orders");
    orders.insert_one(doc! { "_id": 0, "n": 0 }).await?;
    let file = world.file("/in", "", "  - { namespace: events_all.orders, to: notify }")?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    orders.insert_one(doc! { "_id": 1, "n": 0, "list": (0..50).collect::<Vec<_>>() }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 1, "a.b": 2 } }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$unset": { "a": "" } }).await?;
    let cut = vec![doc! { "$set": { "list": { "$slice": ["$list", 3] } } }];
    orders.update_one(doc! { "_id": 1 }, cut).await?;
    orders.replace_one(doc! { "_id": 1 }, doc! { "n": 2 }).await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    // Four changes of one document, at one time.
    let mut session = world.client.start_session().await?;
    session.start_transaction().await?;
    for n in 0..2 {
        orders.insert_one(doc! { "_id": 2, "n": n }).session(&mut session).await?;
        orders.delete_one(doc! { "_id": 2 }).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    world.caught_up(&mut run).await?;

    let received = world.receiver.received();
    compare(&received, &happened(&orders, since).await?)?;
    let told = told(&received);
    let one: Vec<&Told> = told.iter().filter(|told| told.document == "1").collect();
    let ops: Vec<&str> = one.iter().map(|told| told.change.0.as_str()).collect();
    assert_eq!(ops, ["insert", "update", "update", "update", "replace", "delete"]);
    for told in &one {
        let is = |name: &str| told.data[name].clone();
        assert_eq!((is("ns"), is("copy")), (json!("events_all.orders"), json!(false)));
        assert_eq!((is("before"), is("_id")), (Value::Null, json!(1)));
    }
    assert_eq!(one[0].data["document"]["n"], 0);
    assert_eq!(one[0].data["updated"], Value::Null);
    assert_eq!(one[1].data["updated"], json!({ "n": 1, "a": { "b": 2 } }));
    assert_eq!((&one[2].data["updated"], &one[2].data["removed"]), (&json!({}), &json!(["a"])));
    assert_eq!(one[3].data["truncated"], json!([{ "field": "list", "newSize": 3 }]));
    assert_eq!(one[4].data["document"], json!({ "_id": 1, "n": 2 }));
    assert_eq!(one[5].data["document"], Value::Null);
    let in_transaction: Vec<&Told> = told.iter().filter(|told| told.document == "2").collect();
    let times: BTreeSet<_> = in_transaction.iter().map(|told| &told.change.1).collect();
    assert_eq!((in_transaction.len(), times.len()), (4, 1), "{in_transaction:?}");
    let types: Vec<Value> = received.iter().map(|request| request.json()["type"].clone()).collect();
    ensure!(types.contains(&json!("events_all.orders.update")), "{types:?}");
    let first = first_of_each(&received);
    assert_eq!(first.len(), told.len(), "nothing was told twice");
    assert!(run.terminate().await?.success());
    Ok(())
}
