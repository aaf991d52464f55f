//! A sharded cluster of one shard and its config server, as far as it can be had: no registry has a
//! `mongos`, so none stands in front of it, and its config server is asked for what a `mongos` asks of it.
//!
//! Place in the flow: over `MongoDb`, for tests of a sharded source. What stands in front of it must send
//! with each command the version of the collection that [`Cluster::shard_collection`] returns, or the shard
//! takes the collection for one that is not sharded.

use anyhow::{Context, Result};
use bson::{Document, doc};

use crate::replica_set::{MongoDb, Part};

/// A running cluster. Dropping it ends its servers and removes their data.
pub struct Cluster {
    config: MongoDb,
    shard: MongoDb,
}

impl Cluster {
    /// Starts both servers, and makes the one a shard of the other.
    ///
    /// # Errors
    /// Those of [`MongoDbBuilder::start`](crate::MongoDbBuilder::start), and what the servers refuse.
    pub async fn start() -> Result<Self> {
        let config = MongoDb::builder().part(Part::Config).start().await?;
        let shard = MongoDb::builder().part(Part::Shard).start().await?;
        let add = doc! {
            "_configsvrAddShard": format!("shard/{}", shard.host(0)),
            "name": "shard",
            "writeConcern": { "w": "majority" },
        };
        config.client().database("admin").run_command(add).await?;
        Ok(Self { config, shard })
    }

    /// Makes a new collection that is sharded by `key`, with one chunk. Returns its version, which the
    /// shard wants to see as `shardVersion`.
    ///
    /// # Errors
    /// What the servers refuse.
    pub async fn shard_collection(
        &self,
        database: &str,
        collection: &str,
        key: Document,
    ) -> Result<Document> {
        let majority = || doc! { "w": "majority" };
        let create = doc! {
            "_configsvrCreateDatabase": database,
            "primaryShardId": "shard",
            "writeConcern": majority(),
        };
        let created = self.config.client().database("admin").run_command(create).await?;
        let create = doc! {
            "_shardsvrCreateCollection": collection,
            "shardKey": key,
            "databaseVersion": created.get_document("databaseVersion")?,
            "writeConcern": majority(),
        };
        let created = self.shard.client().database(database).run_command(create).await?;
        created.get_document("collectionVersion").cloned().context("a sharded collection")
    }

    /// What holds the data.
    pub fn shard(&self) -> &MongoDb {
        &self.shard
    }

    /// What knows which collections are sharded, in its database `config`.
    pub fn config(&self) -> &MongoDb {
        &self.config
    }
}
