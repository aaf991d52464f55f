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
use mongodb::bson::{Bson, Document, Timestamp, doc};
use serde_json::{Value, json};

use crate::{
    support::{
        receiver::{Received, first_of_each},
        run::Run,
        told::{Change, History, Told, all_that_happened, compare, happened, now, shown, told},
    },
    webhook_target::Hooked,
};

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
    run.following("notify").await
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
    let told = told(&received);
    compare(&told, &happened(&orders, since).await?)?;
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
