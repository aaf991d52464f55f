//! The connection to a MongoDB that is written to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bson::{Document, doc, oid::ObjectId};
use mongodb::{
    Client,
    options::{ReadPreference, SelectionCriteria},
};
use tokio::{
    sync::{OnceCell, OwnedMutexGuard},
    time::Instant,
};
use tracing::info;

use crate::{
    client,
    rules::model::{Secret, address},
    target::{Deployment, Pressure, Retry, Right},
};

use super::{
    answer,
    fence::{self, Clock, LaneSession},
};

/// A server that can't be reached is waited for by `delivery`, not by the driver.
const SELECTION: Duration = Duration::from_secs(5);
/// The first version that takes comments in all commands.
const OLDEST: (u32, u32) = (4, 4);

/// A MongoDB that answers.
pub(super) struct Connection {
    pub client: Client,
    /// Whether it is a mongos.
    pub sharded: bool,
    pub clock: Clock,
    owner: String,
    /// In the comment of every write.
    pub run: String,
    reached: Instant,
    alone: OnceCell<()>,
    lanes: Mutex<HashMap<usize, Arc<tokio::sync::Mutex<LaneSession>>>>,
}

impl Connection {
    /// Connects, and writes nothing. `only_append` says that nothing but events is written: whoever ends
    /// what an earlier process left behind lets them alone.
    pub async fn open(
        uri: &Secret,
        (owner, run): (&str, &str),
        only_append: bool,
    ) -> Result<Self, Retry> {
        let failed = |error: mongodb::error::Error| answer::refusal(&error);
        let mut options = client::options(uri).await.map_err(failed)?;
        options.server_selection_timeout.get_or_insert(SELECTION);
        // Attempts are numbered and repeated here, and by nobody else.
        options.retry_writes = Some(false);
        // What is read here decides what is written, and what a secondary says may be old.
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        options.selection_criteria = Some(primary);
        let client = Client::with_options(options).map_err(failed)?;
        let admin = client.database("admin");
        let info = admin.run_command(doc! { "buildInfo": 1 }).await.map_err(failed)?;
        let version = info.get_str("version").unwrap_or("0");
        if !is_supported(version) {
            return Err(unusable(format!("MongoDB {version} is too old: 4.4 at least")));
        }
        let hello = admin.run_command(doc! { "hello": 1 }).await.map_err(failed)?;
        let deployment = Deployment::of(&hello, None);
        if !deployment.sharded && deployment.set.is_none() {
            return Err(unusable(
                "a MongoDB that is no replica set can't tell a write that comes late from a newer \
                 one: start it with --replSet, one member is enough"
                    .to_owned(),
            ));
        }
        info!(address = address(uri), version, "MongoDB reached");
        Ok(Self {
            clock: Clock::read(&client).await?,
            sharded: deployment.sharded,
            client,
            owner: owner.to_owned(),
            run: fence::mark(owner, run, only_append),
            reached: Instant::now(),
            alone: OnceCell::new(),
            lanes: Mutex::default(),
        })
    }

    /// To be called before the first write: see [`fence::is_alone`].
    pub async fn alone(&self, right: Option<&Right>, limit: Duration) -> Result<(), Retry> {
        let names = (self.owner.as_str(), self.run.as_str());
        let look = || fence::is_alone(&self.client, names, right, (self.reached, limit));
        self.alone.get_or_try_init(look).await.copied()
    }

    /// A lane's session. Nobody waits for it: a lane has one request under way at a time.
    pub async fn lane(&self, lane: usize) -> Result<OwnedMutexGuard<LaneSession>, Retry> {
        let known = || {
            let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.get(&lane).cloned()
        };
        let session = match known() {
            Some(session) => session,
            None => {
                let new = LaneSession::start(&self.client).await?;
                let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                lanes.entry(lane).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(new))).clone()
            }
        };
        Ok(session.lock_owned().await)
    }

    /// Which deployment it is.
    pub async fn deployment(&self) -> Result<Deployment, Retry> {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await;
        let hello = hello.map_err(|error| answer::refusal(&error))?;
        Ok(Deployment::of(&hello, self.identity().await?))
    }

    /// The replica set's or sharded cluster's own id. `None` where the user may not read it.
    async fn identity(&self) -> Result<Option<ObjectId>, Retry> {
        let found = if self.sharded {
            let versions = self.client.database("config").collection::<Document>("version");
            let found = versions.find_one(doc! {}).await;
            found.map(|found| found.and_then(|found| found.get_object_id("clusterId").ok()))
        } else {
            let admin = self.client.database("admin");
            let reply = admin.run_command(doc! { "replSetGetConfig": 1 }).await;
            reply.map(|reply| {
                let settings = reply.get_document("config").ok()?.get_document("settings").ok()?;
                settings.get_object_id("replicaSetId").ok()
            })
        };
        match found {
            Ok(found) => Ok(found),
            Err(error) if answer::code(&error).is_some_and(answer::is_denied) => Ok(None),
            Err(error) => Err(answer::refusal(&error)),
        }
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
