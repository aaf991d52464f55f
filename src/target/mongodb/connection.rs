//! The connection to a MongoDB that is written to, and its clock.
//!
//! A write of a process that has lost its lease must do no harm, however late it arrives: each one
//! bears the time, by the server's clock, at which the right to write ends, and fails after it
//! (`command`). What a process that is dead left running in the server is ended before the first
//! write of the next.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bson::{Document, doc, oid::ObjectId};
use futures_util::TryStreamExt;
use mongodb::{Client, options::ClientOptions};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    rules::model::{Secret, address},
    target::{Pressure, Retry},
};

use super::answer;

/// How often the driver looks at a server.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// A server that can't be reached is waited for by `delivery`, not by the driver.
const SELECTION: Duration = Duration::from_secs(5);
/// Where nothing says how long the right to write lasts.
const WINDOW: Duration = Duration::from_secs(60);
/// The first version that takes comments in all commands.
const OLDEST: (u32, u32) = (4, 4);

/// A MongoDB that answers.
pub(super) struct Connection {
    pub client: Client,
    /// In the comment of every write.
    pub run: String,
    /// The server's clock, in milliseconds, at a moment of ours.
    clock: Mutex<(i64, Instant)>,
}

impl Connection {
    /// Connects and ends what earlier runs of `owner` left behind.
    pub async fn open(uri: &Secret, owner: &str, run: &str) -> Result<Self, Retry> {
        let failed = |error: mongodb::error::Error| answer::refusal(&error);
        let mut options = ClientOptions::parse(uri.expose()).await.map_err(failed)?;
        options.app_name.get_or_insert_with(|| "mongosync".into());
        options.server_selection_timeout.get_or_insert(SELECTION);
        options.connect_timeout.get_or_insert(Duration::from_secs(10));
        options.heartbeat_freq.get_or_insert(HEARTBEAT);
        let client = Client::with_options(options).map_err(failed)?;
        let admin = client.database("admin");
        let info = admin.run_command(doc! { "buildInfo": 1 }).await.map_err(failed)?;
        let version = info.get_str("version").unwrap_or("0");
        if !is_supported(version) {
            return Err(unusable(format!("MongoDB {version} is too old: 4.4 at least")));
        }
        let clock = Mutex::new(read_clock(&client).await?);
        let run = format!("mongosync {owner} {run}");
        end_others(&client, owner, &run).await;
        info!(address = address(uri), version, "MongoDB reached");
        Ok(Self { client, run, clock })
    }

    /// The replica set's or sharded cluster's own id. `None` where the user may not read it.
    pub async fn identity(&self) -> Result<Option<ObjectId>, Retry> {
        let admin = self.client.database("admin");
        let set = match admin.run_command(doc! { "replSetGetConfig": 1 }).await {
            Ok(reply) => reply
                .get_document("config")
                .and_then(|config| config.get_document("settings"))
                .and_then(|settings| settings.get_object_id("replicaSetId"))
                .ok(),
            Err(error) if answer::code(&error).is_some() => None,
            Err(error) => return Err(answer::refusal(&error)),
        };
        if set.is_some() {
            return Ok(set);
        }
        let versions = self.client.database("config").collection::<Document>("version");
        match versions.find_one(doc! {}).await {
            Ok(found) => Ok(found.and_then(|found| found.get_object_id("clusterId").ok())),
            Err(error) if answer::code(&error).is_some() => Ok(None),
            Err(error) => Err(answer::refusal(&error)),
        }
    }

    /// Looks at the server's clock again: it was set, or another member writes now.
    pub async fn read_clock(&self) -> Result<(), Retry> {
        let now = read_clock(&self.client).await?;
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// When, by the server's clock, a write that may have no effect after `expires` is over.
    pub fn deadline(&self, expires: Option<Instant>) -> bson::DateTime {
        let (server, ours) = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let until = expires.unwrap_or_else(|| Instant::now() + WINDOW);
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let (after, before) =
            (until.saturating_duration_since(ours), ours.saturating_duration_since(until));
        bson::DateTime::from_millis(
            server.saturating_add(millis(after)).saturating_sub(millis(before)),
        )
    }
}

/// That it can't be written to as it is.
pub(super) fn unusable(message: String) -> Retry {
    Retry { reason: "unexpected", message, after: None, pressure: Pressure::Same }
}

fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= OLDEST,
        _ => true,
    }
}

async fn read_clock(client: &Client) -> Result<(i64, Instant), Retry> {
    let hello = client
        .database("admin")
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(|error| answer::refusal(&error))?;
    let time = hello
        .get_datetime("localTime")
        .map_err(|_| unusable("the MongoDB does not tell the time".to_owned()))?;
    // It was that time a little before: no write is given more time than it has.
    Ok((time.timestamp_millis(), Instant::now()))
}

/// Ends writes of processes that are no more. A user may see and end what is his own; who may not is
/// told by nothing, since the next write is guarded all the same.
async fn end_others(client: &Client, owner: &str, run: &str) {
    let admin = client.database("admin");
    let comment = doc! { "$regex": format!("^mongosync {} ", regex::escape(owner)), "$ne": run };
    let pipeline = [
        doc! { "$currentOp": { "allUsers": false } },
        doc! { "$match": { "command.comment": comment } },
        doc! { "$project": { "opid": 1 } },
    ];
    for _ in 0..20 {
        let Ok(found) = admin.aggregate(pipeline.clone()).await else { return };
        let Ok(running) = found.try_collect::<Vec<Document>>().await else { return };
        if running.is_empty() {
            return;
        }
        warn!(count = running.len(), "ending writes that an earlier process left behind");
        for operation in &running {
            let Some(id) = operation.get("opid") else { continue };
            // One that has ended by itself is gone all the same.
            let _ = admin.run_command(doc! { "killOp": 1, "op": id }).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_are_too_old() {
        for (version, expected) in
            [("4.2.24", false), ("4.4.0", true), ("6.0.5", true), ("10.0", true), ("x", true)]
        {
            assert_eq!(is_supported(version), expected, "{version}");
        }
    }
}
