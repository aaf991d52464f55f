//! What the tests with real servers share: servers, documents, the real binary, and the checker
//! that compares source and target document by document.

pub mod checker;
pub mod documents;
pub mod run;

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use mongodb::{Client, Collection, bson::Document};
use mongosync_servers::{Engine, MongoDb};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// One engine at a time on a machine with little memory: whoever needs one waits for it.
static ENGINE: Mutex<()> = Mutex::const_new(());

/// A MongoDB, an engine and a folder of one's own.
pub struct World {
    pub mongo: MongoDb,
    pub engine: Engine,
    pub folder: TempDir,
    pub client: Client,
    _alone: MutexGuard<'static, ()>,
}

impl World {
    /// One node of MongoDB and an Elasticsearch.
    pub async fn new() -> Result<Self> {
        Self::with(MongoDb::start().await?).await
    }

    /// This MongoDB and an Elasticsearch.
    pub async fn with(mongo: MongoDb) -> Result<Self> {
        let alone = ENGINE.lock().await;
        let engine = Engine::elasticsearch().heap("512m").start().await?;
        let client = mongo.client();
        Ok(Self { client, mongo, engine, folder: TempDir::new()?, _alone: alone })
    }

    /// A collection of the source.
    pub fn collection(&self, namespace: &str) -> Collection<Document> {
        let (database, collection) = namespace.split_once('.').expect("db.collection");
        self.client.database(database).collection(collection)
    }

    /// Writes a rule file with these rules, one target `search`, and a status port of its own.
    pub fn rule_file(&self, rules: &str) -> Result<run::RuleFile> {
        run::RuleFile::new(self.folder.path(), self.mongo.uri(), &self.engine.url(), rules)
    }

    /// Asks the engine for JSON.
    pub async fn engine_json(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<serde_json::Value> {
        let answer = self.engine.request(method, path, body).await?;
        anyhow::ensure!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.body);
        serde_json::from_str(&answer.body).context("the engine answers with JSON")
    }
}

/// A number that no other call in this process has got.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
