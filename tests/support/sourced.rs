//! A MongoDB and a folder of one's own, for tests whose target is no engine.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use anyhow::Result;
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};
use mongosync_servers::MongoDb;
use serde_json::Value;
use tempfile::TempDir;

use super::run::{RuleFile, Run, cluster_time};

/// The MongoDB is everybody's, unless it is one's own: a test keeps to a database of its own name.
pub struct Sourced {
    pub mongo: Arc<MongoDb>,
    pub client: Client,
    pub folder: TempDir,
}

impl Sourced {
    pub async fn new() -> Result<Self> {
        Self::on(super::mongo().await?)
    }

    /// With a MongoDB of one's own.
    pub fn on(mongo: Arc<MongoDb>) -> Result<Self> {
        Ok(Self { client: mongo.client(), mongo, folder: TempDir::new()? })
    }

    pub fn collection(&self, namespace: &str) -> Collection<Document> {
        let (database, collection) = namespace.split_once('.').expect("db.collection");
        self.client.database(database).collection(collection)
    }

    /// A rule file with these lines of targets and rules, and positions that are stored so often.
    pub fn rule_file(&self, every: &str, targets: &str, rules: &str) -> Result<RuleFile> {
        let mongo = self.mongo.uri();
        let (targets, rules) = (targets.trim_end(), rules.trim_end());
        let text = format!(
            "source: {mongo}\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n\
             checkpoint: {{ every: {every} }}\ntargets:\n{targets}\nrules:\n{rules}\n"
        );
        RuleFile::written(self.folder.path(), &text)
    }

    /// What lies under a name in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until a target has settled everything that the source has acknowledged by now.
    pub async fn settled(&self, run: &mut Run, target: &str) -> Result<()> {
        let time = cluster_time(&self.client).await?;
        run.target_reaches(target, time).await
    }
}

/// What a collection holds, as JSON of whole numbers and texts, by `_id`.
pub async fn documents(collection: &Collection<Document>) -> Result<BTreeMap<String, Value>> {
    let documents: Vec<Document> = collection.find(doc! {}).await?.try_collect().await?;
    let json = |document: &Document| {
        let fields = document
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into_relaxed_extjson()));
        Value::Object(fields.collect())
    };
    Ok(documents.iter().map(json).map(|document| (document["_id"].to_string(), document)).collect())
}
