//! An oplog that really forgets: a set whose oplog is as small as a server allows, and writes that
//! push out of it what was there.

use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::{
    Client,
    bson::{Binary, Document, Timestamp, doc, spec::BinarySubtype},
};
use mongosync_servers::{MongoDb, MongoDbBuilder};

/// A server takes less at its start than by `replSetResizeOplog`.
const MEGABYTES: u32 = 16;
/// Bytes of one write.
const NOISE: usize = 4 << 20;

/// A set of one node whose oplog holds some megabytes.
pub fn small() -> MongoDbBuilder {
    MongoDb::builder().oplog_size_mb(MEGABYTES).checkpoint_every(Duration::from_secs(1))
}

/// Writes until the oldest entry of the oplog is newer than everything that was there before.
pub async fn roll_over(client: &Client) -> Result<()> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let end = async |direction: i32| -> Result<Timestamp> {
        let entry = oplog.find_one(doc! {}).sort(doc! { "$natural": direction }).await?;
        Ok(entry.context("an oplog is never empty")?.get_timestamp("ts")?)
    };
    let newest = end(-1).await?;
    let noise = client.database("noise").collection::<Document>("noise");
    let mut number = 0_u8;
    while end(1).await? <= newest {
        number = number.wrapping_add(1);
        // Each one differs, or it would be no change and leave no entry.
        let data = Binary { subtype: BinarySubtype::Generic, bytes: vec![number; NOISE] };
        let update = doc! { "$set": { "data": data } };
        noise.update_one(doc! { "_id": 1 }, update).upsert(true).await?;
    }
    Ok(())
}

/// A stream that is opened at the time of before is told that its history is lost.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_has_rolled_over_has_lost_its_history() -> Result<()> {
    let mongo = small().start().await?;
    let client = mongo.client();
    let items = client.database("shop").collection::<Document>("items");
    items.insert_one(doc! { "_id": 1 }).await?;
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
    let time = hello.get_timestamp("operationTime")?;
    roll_over(&client).await?;
    let lost = items.watch().start_at_operation_time(time).await;
    let code = lost.err().and_then(|error| match *error.kind {
        mongodb::error::ErrorKind::Command(error) => Some(error.code),
        _ => None,
    });
    assert_eq!(code, Some(286));
    Ok(())
}
