//! A run that is controlled from the program: it waits for the copy, stops, goes on, pauses, resumes,
//! and goes back in time, with its positions in a store of one's own.
//!
//! ```sh
//! cargo run --example control
//! ```

pub mod log_store;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongosync::{Mongosync, Rule, Rules, Running, change::ClusterTime, status::State};
use tokio::sync::mpsc;

use log_store::LogStore;

#[tokio::main]
async fn main() -> Result<()> {
    let mongo = mongosync_servers::MongoDb::start().await?;
    run(mongo.uri()).await
}

/// What the closure was called for: which document, and its time.
type Told = (i32, ClusterTime);

/// Starts the run, with its positions in this store.
fn start(uri: &str, store: LogStore) -> Result<(Running, mpsc::Receiver<Told>)> {
    let (tell, told) = mpsc::channel(16);
    let rule = Rule::of("control.products").name("products").to("shown");
    let running = Mongosync::of(Rules::new("control", uri).rule(rule))
        .each("shown", move |delivery| {
            let tell = tell.clone();
            async move {
                let id = delivery.id().as_i32().unwrap_or_default();
                println!("  {} {id}, of {}", delivery.op(), delivery.cluster_time());
                tell.send((id, delivery.cluster_time())).await?;
                Ok(())
            }
        })
        .store(store)
        .start()?;
    Ok((running, told))
}

/// All of it, on the MongoDB at this connection string.
pub async fn run(uri: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let positions = folder.path().join("positions.log");
    let database = Client::with_uri_str(uri).await?.database("control");
    let products = database.collection::<Document>("products");
    products.insert_many((1..=3).map(|id| doc! { "_id": id })).await?;

    println!("copy what is there, and stop");
    let (running, mut told) = start(uri, LogStore::open(&positions)?)?;
    running.copied().await?;
    ensure!(running.stop().await?.copied == 3);
    let mut copied = BTreeSet::new();
    while let Some((id, _)) = told.recv().await {
        copied.insert(id);
    }
    ensure!(copied == BTreeSet::from([1, 2, 3]), "copied: {copied:?}");

    println!("go on from there, with what has changed meanwhile");
    products.insert_one(doc! { "_id": 4 }).await?;
    let (running, mut told) = start(uri, LogStore::open(&positions)?)?;
    let fourth = until(&mut told, 4).await?;

    println!("pause: what changes is kept for later");
    running.pause(&["shown"]).await?;
    let status = running.status();
    ensure!(status.targets[0].1.state == State::Paused, "{status:?}");
    while told.try_recv().is_ok() {}
    products.insert_one(doc! { "_id": 5 }).await?;
    ensure!(told.try_recv().is_err(), "it is paused");
    running.resume(&["shown"]).await?;
    until(&mut told, 5).await?;

    println!("go back in time: the last two come again");
    running.seek("shown", fourth.before()).await?;
    let mut again = BTreeSet::new();
    while !again.is_superset(&BTreeSet::from([4, 5])) {
        again.insert(next(&mut told).await?.0);
    }

    println!("copy the rule again");
    running.resync(&["products"]).await?;
    running.copied().await?;
    let summary = running.stop().await?;
    ensure!(summary.copied == 5, "{summary:?}");
    Ok(())
}

/// Waits for a document, and tells its time. What was delivered just before the run ended, or was
/// paused, may come once more ahead of it: each comes at least once.
async fn until(told: &mut mpsc::Receiver<Told>, wanted: i32) -> Result<ClusterTime> {
    loop {
        let (id, time) = next(told).await?;
        if id == wanted {
            return Ok(time);
        }
    }
}

async fn next(told: &mut mpsc::Receiver<Told>) -> Result<Told> {
    told.recv().await.context("the run goes on")
}
