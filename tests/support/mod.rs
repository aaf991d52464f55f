//! What the tests with real servers share: servers, documents, the real binary, and the checker
//! that compares source and target document by document.

pub mod bulk;
pub mod checker;
pub mod documents;
pub mod endpoint;
pub mod fail_command;
pub mod fault;
pub mod history;
pub mod mongo_proxy;
pub mod oplog;
pub mod page;
pub mod receiver;
pub mod pipe;
pub mod router;
pub mod run;
pub mod situations;
pub mod sourced;
pub mod tcp_proxy;
pub mod told;
pub mod writers;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use mongodb::{Client, Collection, bson::Document};
use mongosync_servers::{Cluster, Engine, EngineBuilder, MongoDb, MongoDbBuilder};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use endpoint::Endpoint;
use run::{RuleFile, Settings};

/// Started once for all tests of the process; their watchers end them with it.
static MONGO: OnceCell<Arc<MongoDb>> = OnceCell::const_new();
static MIRROR: OnceCell<Arc<MongoDb>> = OnceCell::const_new();
static CLUSTER: OnceCell<Arc<Cluster>> = OnceCell::const_new();
static ENGINE: OnceCell<Arc<Engine>> = OnceCell::const_new();

/// A MongoDB and an engine, and a folder of one's own. The servers are everybody's: a test keeps to
/// a database of its own name, and to indices that begin with it.
pub struct World {
    pub mongo: Arc<MongoDb>,
    pub engine: Arc<Engine>,
    pub folder: TempDir,
    pub client: Client,
}

impl World {
    /// The shared servers.
    pub async fn new() -> Result<Self> {
        Self::on(shared_engine().await?).await
    }

    /// The shared MongoDB, and an engine of one's own, for what would disturb others.
    pub async fn with_engine(engine: EngineBuilder) -> Result<Self> {
        Self::on(Arc::new(engine.start().await?)).await
    }

    /// The shared engine, and a MongoDB of one's own, whose nodes may be killed.
    pub async fn with_mongo(mongo: MongoDbBuilder) -> Result<Self> {
        let engine = shared_engine().await?;
        Self::of(Arc::new(mongo.start().await?), engine)
    }

    async fn on(engine: Arc<Engine>) -> Result<Self> {
        Self::of(mongo().await?, engine)
    }

    fn of(mongo: Arc<MongoDb>, engine: Arc<Engine>) -> Result<Self> {
        Ok(Self { client: mongo.client(), mongo, engine, folder: TempDir::new()? })
    }

    /// The replica set, to end its nodes. Only of a world that has its own.
    pub fn nodes(&mut self) -> &mut MongoDb {
        Arc::get_mut(&mut self.mongo).expect("a MongoDB of one's own")
    }

    /// `HOST:PORT` of the MongoDB's first node, for what stands in front of it.
    pub fn mongo_address(&self) -> Result<String> {
        let uri = self.mongo.node_uri(0);
        let host = uri.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
        host.map(str::to_owned).context("a URI with a host")
    }

    /// A collection of the source.
    pub fn collection(&self, namespace: &str) -> Collection<Document> {
        let (database, collection) = namespace.split_once('.').expect("db.collection");
        self.client.database(database).collection(collection)
    }

    /// Writes a rule file with these rules and one target `search`.
    pub fn rule_file(&self, rules: &str) -> Result<RuleFile> {
        self.rule_file_with(&Settings::default(), rules)
    }

    /// The same with more settings.
    pub fn rule_file_with(&self, settings: &Settings, rules: &str) -> Result<RuleFile> {
        let text = settings.text(self.mongo.uri(), &self.engine.url(), rules);
        RuleFile::written(self.folder.path(), &text)
    }

    /// A bulk endpoint in front of the engine, and settings that send everything through it and
    /// make little of waiting.
    pub async fn endpoint(&self) -> Result<(Endpoint, Settings)> {
        let endpoint = Endpoint::start(&self.engine.url()).await?;
        let settings = Settings {
            top: "checkpoint: { every: 100ms }".into(),
            engine: ", retry: { initial: 20ms, max: 100ms }".into(),
            url: Some(endpoint.url()),
            ..Settings::default()
        };
        Ok((endpoint, settings))
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

/// The shared MongoDB, for tests that need no engine: a test keeps to a database of its own name.
pub async fn mongo() -> Result<Arc<MongoDb>> {
    let start = || async { Ok::<_, anyhow::Error>(Arc::new(MongoDb::start().await?)) };
    Ok(MONGO.get_or_try_init(start).await?.clone())
}

/// The other replica set, which is written to: a test keeps to databases of its own.
pub async fn mirror() -> Result<Arc<MongoDb>> {
    let start = || async { Ok::<_, anyhow::Error>(Arc::new(MongoDb::start().await?)) };
    Ok(MIRROR.get_or_try_init(start).await?.clone())
}

/// The shared cluster, of which `router` makes a sharded source: a test keeps to a database of its own name.
pub async fn cluster() -> Result<Arc<Cluster>> {
    let start = || async { Ok::<_, anyhow::Error>(Arc::new(Cluster::start().await?)) };
    Ok(CLUSTER.get_or_try_init(start).await?.clone())
}

/// The shared engine alone: a test keeps to indices of its own.
pub async fn shared_engine() -> Result<Arc<Engine>> {
    let start = || async { Ok::<_, anyhow::Error>(Arc::new(engine().start().await?)) };
    Ok(ENGINE.get_or_try_init(start).await?.clone())
}

/// An engine as the tests use it: an Elasticsearch, or what `MONGOSYNC_TEST_ENGINE` names.
pub fn engine() -> EngineBuilder {
    let engine = match engine_kind() {
        "opensearch" => Engine::opensearch(),
        _ => Engine::elasticsearch(),
    };
    engine.heap("512m")
}

/// What a rule file calls the engine of the tests.
pub fn engine_kind() -> &'static str {
    match std::env::var("MONGOSYNC_TEST_ENGINE").as_deref() {
        Ok("opensearch") => "opensearch",
        Ok("elasticsearch") | Err(_) => "elasticsearch",
        Ok(other) => panic!("MONGOSYNC_TEST_ENGINE is elasticsearch or opensearch, not {other}"),
    }
}

/// A number that no other call in this process has got.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
