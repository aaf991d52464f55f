//! A closure for each change: orders above a sum are told of, as they come and go.
//!
//! ```sh
//! cargo run --example closure
//! ```

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongosync::{Delivery, Failure, Mongosync, Rule, Rules};
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<()> {
    let mongo = mongosync_servers::MongoDb::start().await?;
    run(mongo.uri()).await
}

/// All of it, on the MongoDB at this connection string.
pub async fn run(uri: &str) -> Result<()> {
    let database = Client::with_uri_str(uri).await?.database("closure");
    let orders = database.collection::<Document>("orders");
    let three = [(1, 40), (2, 5), (3, 70)].map(|(id, total)| doc! { "_id": id, "total": total });
    orders.insert_many(three).await?;

    let large = doc! { "total": { "$gt": 10 } };
    let rule = Rule::of("closure.orders").filter(large).to("large orders");
    let (tell, mut told) = mpsc::channel(16);
    let running = Mongosync::of(Rules::new("closure", uri).rule(rule))
        .each("large orders", move |delivery| line(delivery, tell.clone()))
        .start()?;

    // What is there already comes first, in no order among different orders.
    running.copied().await?;
    let mut heard = BTreeSet::new();
    let copied =
        BTreeSet::from([next(&mut told, &mut heard).await?, next(&mut told, &mut heard).await?]);
    ensure!(copied.iter().eq(["put 1 for 40", "put 3 for 70"]), "copied: {copied:?}");

    // Then what changes. An order that no longer matches is one that is gone.
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "total": 50 } }).await?;
    ensure!(next(&mut told, &mut heard).await? == "put 2 for 50");
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "total": 1 } }).await?;
    ensure!(next(&mut told, &mut heard).await? == "remove 1");
    orders.delete_one(doc! { "_id": 3 }).await?;
    ensure!(next(&mut told, &mut heard).await? == "remove 3");

    let summary = running.stop().await?;
    ensure!(summary.copied == 2 && summary.dead_letters == 0, "{summary:?}");
    while let Some(line) = told.recv().await {
        ensure!(heard.contains(&line), "{line} was told, and has not happened");
    }
    println!("stopped; the next start goes on from here");
    Ok(())
}

/// The closure's work. An error that `?` meets is one that may pass: the order is told again.
async fn line(delivery: Delivery, tell: mpsc::Sender<String>) -> Result<(), Failure> {
    let mut line = format!("{} {}", delivery.op(), delivery.id_text());
    if let Some(order) = delivery.document() {
        line = format!("{line} for {}", order.get_i32("total")?);
    }
    println!("{line}");
    tell.send(line).await?;
    Ok(())
}

/// The next line that has not been heard yet: a change may be told twice.
async fn next(told: &mut mpsc::Receiver<String>, heard: &mut BTreeSet<String>) -> Result<String> {
    loop {
        let line = told.recv().await.context("the run goes on")?;
        if heard.insert(line.clone()) {
            return Ok(line);
        }
    }
}
