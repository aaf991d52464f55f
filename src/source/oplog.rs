//! How far back the oplog reaches: how long a reader may be away and still go on.

use std::time::Duration;

use bson::rawdoc;

use crate::change::ClusterTime;

use super::{Source, error::Error};

impl Source {
    /// The time between the oldest and the newest entry of the oplog; `None` behind a mongos, which
    /// shows none.
    ///
    /// # Errors
    /// Those of the server; reading the oplog takes a right (`find` on `local.oplog.rs`) that
    /// nothing else needs.
    pub async fn oplog_window(&self) -> Result<Option<Duration>, Error> {
        if self.sharded {
            return Ok(None);
        }
        let (oldest, newest) = (self.oplog_end(1).await?, self.oplog_end(-1).await?);
        let seconds = newest.seconds().saturating_sub(oldest.seconds());
        Ok(Some(Duration::from_secs(seconds.into())))
    }

    async fn oplog_end(&self, direction: i32) -> Result<ClusterTime, Error> {
        let command = rawdoc! {
            "find": "oplog.rs", "sort": { "$natural": direction }, "limit": 1, "singleBatch": true,
            "projection": { "ts": 1 }, "comment": "mongosync",
        };
        let found = self.all(&self.client.database("local"), command).await?;
        let time = found.first().and_then(|entry| entry.get_timestamp("ts").ok());
        time.map(ClusterTime::from).ok_or_else(|| Error::garbled("an oplog without entries"))
    }
}
