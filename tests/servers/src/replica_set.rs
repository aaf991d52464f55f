//! A MongoDB replica set of one node or several, whose nodes can be killed, stopped and started
//! again.
//!
//! Place in the flow: what tests use as the product's source, and as the target that is a MongoDB.
//! It must not add to the driver: what a test wants of the data it asks through `client()`.

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use mongodb::{Client, options::ClientOptions};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    child::{POLL, ServerProcess, tail},
    downloads,
    node::{Node, READY_WITHIN, Role, role},
};

/// What a replica set is in a sharded cluster. There no two sets have one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// It is in none.
    Alone,
    /// The config server.
    Config,
    /// A shard.
    Shard,
}

impl Part {
    fn set_name(self) -> &'static str {
        match self {
            Self::Alone => "rs0",
            Self::Config => "config",
            Self::Shard => "shard",
        }
    }
}

/// A running replica set `rs0` on 127.0.0.1, without a login unless [`MongoDbBuilder::login`] asks for
/// one. Dropping it kills its nodes and removes their data.
pub struct MongoDb {
    // The nodes stand before the folder: they are dropped in this order.
    nodes: Vec<Node>,
    uri: String,
    options: ClientOptions,
    part: Part,
    _folder: TempDir,
}

/// What a replica set is started with.
#[derive(Debug, Clone)]
#[must_use = "nothing runs before `start`"]
pub struct MongoDbBuilder {
    nodes: usize,
    oplog_size_mb: u32,
    cache_gb: f64,
    election_timeout: Duration,
    checkpoint_every: Duration,
    parameters: Vec<(String, String)>,
    login: Option<(String, String)>,
    alone: bool,
    part: Part,
}

impl MongoDbBuilder {
    /// How many nodes that bear data the set has, 1 by default. Three of them survive the loss of
    /// one.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// The size that the oplog may reach in MB, 990 by default. A small one loses its history soon.
    pub fn oplog_size_mb(mut self, megabytes: u32) -> Self {
        self.oplog_size_mb = megabytes;
        self
    }

    /// The WiredTiger cache of each node in GB, 0.5 by default.
    pub fn cache_gb(mut self, gigabytes: f64) -> Self {
        self.cache_gb = gigabytes;
        self
    }

    /// How long the nodes do without a primary before they elect one, 2 s by default (the server's
    /// own default is 10 s).
    pub fn election_timeout(mut self, timeout: Duration) -> Self {
        self.election_timeout = timeout;
        self
    }

    /// How often the storage makes a checkpoint, every 60 s by default, in whole seconds. The oplog
    /// keeps what no checkpoint holds, however small it is.
    pub fn checkpoint_every(mut self, time: Duration) -> Self {
        self.checkpoint_every = time;
        self
    }

    /// A server parameter for every node (`--setParameter`), such as
    /// `("periodicNoopIntervalSecs", "1")`.
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lets nobody in without a login, and makes a user with the role `root`, whom [`MongoDb::uri`]
    /// and [`MongoDb::client`] log in. What commands a single node can't be used then.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// A single server that is no replica set, and so has no change streams.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// A part of a sharded cluster.
    pub(crate) fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    /// Starts the nodes, initiates the set and returns when it has a primary that takes writes and
    /// all its other nodes are secondaries.
    ///
    /// # Errors
    /// Where MongoDB can't be had (says what to install), or the set does not come up within two
    /// minutes (shows the end of each log).
    pub async fn start(self) -> Result<MongoDb> {
        ensure!(self.nodes > 0, "a replica set has one node at least");
        let mongod = downloads::mongod().await?;
        let folder = tempfile::Builder::new().prefix("mongosync-mongodb-").tempdir()?;
        let mut arguments = self.arguments();
        if self.login.is_some() {
            let key = folder.path().join("key");
            fs::write(&key, "bW9uZ29zeW5j")?;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
            arguments.push(format!("--keyFile={}", key.display()));
        }
        let mut nodes = Vec::with_capacity(self.nodes);
        for index in 0..self.nodes {
            let mut command = vec![OsString::from(&mongod)];
            command.extend(arguments.iter().map(OsString::from));
            let mut node = Node {
                port: 0,
                command,
                folder: folder.path().join(format!("node-{index}")),
                process: None,
            };
            fs::create_dir_all(node.folder.join("db"))?;
            node.start_on_a_free_port().await?;
            nodes.push(node);
        }
        let hosts: Vec<String> = nodes.iter().map(Node::host).collect();
        let uri = match self.alone {
            true => format!("mongodb://{}/?directConnection=true", hosts.join(",")),
            false => format!("mongodb://{}/?replicaSet={}", hosts.join(","), self.part.set_name()),
        };
        let options = ClientOptions::parse(&uri).await?;
        let mut set = MongoDb { nodes, uri, options, part: self.part, _folder: folder };
        if self.alone {
            return Ok(set);
        }
        set.initiate(&hosts, self.election_timeout).await?;
        if let Some((user, password)) = &self.login {
            // The first user is made by whoever comes from the same machine.
            let first = doc! { "createUser": user, "pwd": password, "roles": ["root"] };
            set.client().database("admin").run_command(first).await?;
            set.uri = set.uri_of(user, password);
            set.options = ClientOptions::parse(&set.uri).await?;
        }
        Ok(set)
    }

    /// What every node is started with, but for its port and folder.
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = vec![
            "--bind_ip=127.0.0.1".into(),
            // Its socket file would lie outside the private folder.
            "--nounixsocket".into(),
            format!("--oplogSize={}", self.oplog_size_mb),
            format!("--syncdelay={}", self.checkpoint_every.as_secs()),
            format!("--wiredTigerCacheSizeGB={}", self.cache_gb),
        ];
        if !self.alone {
            arguments.push(format!("--replSet={}", self.part.set_name()));
        }
        match self.part {
            Part::Alone => {}
            Part::Config => arguments.push("--configsvr".into()),
            Part::Shard => arguments.push("--shardsvr".into()),
        }
        let ours = [
            ("enableTestCommands", "1"),
            ("diagnosticDataCollectionEnabled", "false"),
            // A node that is stopped would otherwise go on for 15 s, for clients of a real set.
            ("shutdownTimeoutMillisForSignaledShutdown", "100"),
        ];
        let theirs = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.into_iter().chain(theirs) {
            arguments.push(format!("--setParameter={name}={value}"));
        }
        arguments
    }
}

impl MongoDb {
    /// A set of one node with the defaults of [`MongoDb::builder`].
    ///
    /// # Errors
    /// Those of [`MongoDbBuilder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The defaults: one node, an oplog of 990 MB, a cache of 0.5 GB.
    pub fn builder() -> MongoDbBuilder {
        MongoDbBuilder {
            nodes: 1,
            oplog_size_mb: 990,
            cache_gb: 0.5,
            election_timeout: Duration::from_secs(2),
            checkpoint_every: Duration::from_secs(60),
            parameters: Vec::new(),
            login: None,
            alone: false,
            part: Part::Alone,
        }
    }

    /// The connection string with all nodes and the set's name.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The connection string that logs a user of the database `admin` in.
    pub fn uri_of(&self, user: &str, password: &str) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(Node::host).collect();
        let hosts = hosts.join(",");
        let set = self.part.set_name();
        format!("mongodb://{user}:{password}@{hosts}/?replicaSet={set}&authSource=admin")
    }

    /// `127.0.0.1:PORT` of a node.
    pub fn host(&self, node: usize) -> String {
        self.nodes[node].host()
    }

    /// The connection string of one node alone, whatever its state is.
    ///
    /// # Panics
    /// Where the set has no such node; so do all methods that take a node.
    pub fn node_uri(&self, node: usize) -> String {
        format!("mongodb://{}/?directConnection=true", self.nodes[node].host())
    }

    /// A new client of the set. A client belongs to the runtime that it was made in, so a set that
    /// several tests share gives each its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn client(&self) -> Client {
        Client::with_options(self.options.clone()).expect("options that were parsed from a URI")
    }

    /// A new client of one node alone, for what is set node by node (failpoints, parameters).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn node_client(&self, node: usize) -> Client {
        self.nodes[node].client()
    }

    /// How many nodes the set has, running or not.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The process id of a node; `None` while it is killed or stopped.
    pub fn node_pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].process.as_ref().map(ServerProcess::pid)
    }

    /// Ends a node at once with SIGKILL, as a crash does, and returns when it is gone.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn kill_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take_process()?.kill().await
    }

    /// Ends a node with SIGTERM, as an orderly shutdown does (a primary hands over first), and
    /// returns when it is gone.
    ///
    /// # Errors
    /// Where it does not run, or is still there after a minute.
    pub async fn stop_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].take_process()?.stop().await
    }

    /// Starts a node that was killed or stopped, on the same port with the same data, and returns
    /// when it is primary or secondary again.
    ///
    /// # Errors
    /// Where it runs, or does not come up within two minutes.
    pub async fn restart_node(&mut self, node: usize) -> Result<()> {
        ensure!(self.nodes[node].process.is_none(), "node {node} runs");
        ensure!(self.nodes[node].launch().await?, "{}", self.failure("its port is taken"));
        let client = self.node_client(node);
        let deadline = Instant::now() + READY_WITHIN;
        while !matches!(role(&client).await, Some(Role::Primary | Role::Secondary)) {
            ensure!(Instant::now() < deadline, "{}", self.failure("a node did not rejoin"));
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Makes the primary step down and returns when it has. Of several nodes another one takes
    /// over; a single node is secondary for a second and then primary again.
    /// [`MongoDb::primary`] waits for that.
    ///
    /// # Errors
    /// Where the set gets no primary within two minutes, or the primary refuses.
    pub async fn step_down(&self) -> Result<()> {
        let primary = self.primary().await?;
        let command = if self.nodes.len() == 1 {
            doc! { "replSetStepDown": 1, "secondaryCatchUpPeriodSecs": 0, "force": true }
        } else {
            doc! { "replSetStepDown": 30, "secondaryCatchUpPeriodSecs": 10 }
        };
        self.node_client(primary).database("admin").run_command(command).await?;
        Ok(())
    }

    /// The node that is primary and takes writes; waits for an election that is under way.
    ///
    /// # Errors
    /// Where there is none within two minutes.
    pub async fn primary(&self) -> Result<usize> {
        let clients = self.running_clients();
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            for (node, client) in &clients {
                if role(client).await == Some(Role::Primary) {
                    return Ok(*node);
                }
            }
            sleep(POLL).await;
        }
        bail!(self.failure("the set got no primary"))
    }

    /// The last lines of each node's log, for the message of a test that fails.
    pub fn log_tail(&self) -> String {
        let tails = self.nodes.iter().enumerate();
        tails.map(|(index, node)| format!("node {index}:\n{}\n", tail(&node.folder))).collect()
    }

    async fn initiate(&self, hosts: &[String], election_timeout: Duration) -> Result<()> {
        let members: Vec<Document> =
            (0i32..).zip(hosts).map(|(id, host)| doc! { "_id": id, "host": host }).collect();
        let timeout = i32::try_from(election_timeout.as_millis())?;
        let mut config = doc! {
            "_id": self.part.set_name(),
            "members": members,
            "settings": {
                "electionTimeoutMillis": timeout,
                "heartbeatIntervalMillis": (timeout / 4).max(1),
            },
        };
        if self.part == Part::Config {
            config.insert("configsvr", true);
        }
        let admin = self.node_client(0).database("admin");
        admin
            .run_command(doc! { "replSetInitiate": config })
            .await
            .with_context(|| self.failure("the set could not be initiated"))?;
        // A primary alone is not enough: were it killed while the others still copy their first
        // data, they could not elect one.
        let clients = self.running_clients();
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let mut roles = Vec::with_capacity(clients.len());
            for (_, client) in &clients {
                roles.push(role(client).await);
            }
            if roles.contains(&Some(Role::Primary)) && !roles.contains(&None) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{}", self.failure("the set did not come up"));
            sleep(POLL).await;
        }
    }

    fn running_clients(&self) -> Vec<(usize, Client)> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.process.is_some());
        running.map(|(index, node)| (index, node.client())).collect()
    }

    fn failure(&self, what: &str) -> String {
        format!("MongoDB: {what}\n{}", self.log_tail())
    }
}
