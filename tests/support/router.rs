//! Stands in front of a cluster of one shard as a `mongos` does, since there is no `mongos` to be had. All
//! that it decides is where a command goes: what is asked of the database `config` to the config server,
//! everything else to the shard, with the version of a sharded collection, by which the shard knows it as
//! one. Events, and what the shard refuses, are the shard's own.
//!
//! What only several shards bring about is not to be had here: an order of their events, and a move from
//! one to another. Such a move is a transaction that removes and inserts; of one shard it is the same.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, ensure};
use mongodb::{
    Client,
    bson::{Document, RawDocument, RawDocumentBuf},
};
use mongosync_servers::Cluster;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::mongo_proxy::{HEADER, OP_MSG, accepted, body, int, message};

/// Of the answer to the handshake, which is of another kind: flags, a cursor, where it begins, how many
/// documents.
const OP_REPLY_HEADER: usize = HEADER + 20;
/// By which a driver knows a member of a replica set.
const OF_A_MEMBER: [&str; 11] = [
    "setName",
    "setVersion",
    "hosts",
    "primary",
    "me",
    "secondary",
    "electionId",
    "lastWrite",
    "topologyVersion",
    "configsvr",
    "passive",
];
/// What a `mongos` sends with the version of the collection.
const VERSIONED: [&str; 5] = ["insert", "update", "delete", "findAndModify", "find"];

/// A running router; gone with its connections once it is dropped.
pub struct Router {
    cluster: Arc<Cluster>,
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

struct Shared {
    shard: String,
    config: String,
    versions: Mutex<HashMap<String, Document>>,
}

impl Router {
    /// In front of this cluster.
    pub async fn start(cluster: Arc<Cluster>) -> Result<Self> {
        let shared = Arc::new(Shared {
            shard: cluster.shard().host(0),
            config: cluster.config().host(0),
            versions: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = shared.clone();
        let acceptor = accepted(listener, move |client| connection(client, accepting.clone()));
        Ok(Self { cluster, address, shared, acceptor })
    }

    /// The connection string that goes through it.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/", self.address)
    }

    /// A client that goes through it.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::with_uri_str(self.uri()).await?)
    }

    /// Makes a new collection that is sharded by these fields.
    pub async fn shard(&self, namespace: &str, key: Document) -> Result<()> {
        let (database, collection) = namespace.split_once('.').context("db.collection")?;
        let version = self.cluster.shard_collection(database, collection, key).await?;
        self.shared.versions.lock().expect("no panic").insert(namespace.to_owned(), version);
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Whatever fails ends the connection.
async fn connection(client: TcpStream, shared: Arc<Shared>) -> Result<()> {
    client.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let mut servers = Vec::with_capacity(2);
    for address in [&shared.shard, &shared.config] {
        let server = TcpStream::connect(address).await?;
        server.set_nodelay(true)?;
        servers.push(server.into_split());
    }
    // A driver asks one thing at a time on each connection.
    loop {
        let mut asked = message(&mut from_client).await?;
        let is_handshake = int(&asked, 12)? != OP_MSG;
        let (mut is_hello, mut is_of_config) = (is_handshake, false);
        if !is_handshake {
            ensure!(int(&asked, HEADER)? == 0, "nothing is asked without an answer");
            let at = body(&asked)?;
            let body = asked.get(at.clone()).context("a body that is cut off")?;
            let command = Document::try_from(RawDocument::from_bytes(body)?)?;
            let name = command.keys().next().context("an empty command")?;
            is_hello = name.eq_ignore_ascii_case("hello") || name.eq_ignore_ascii_case("ismaster");
            is_of_config = command.get_str("$db").is_ok_and(|name| name == "config");
            if let Some(command) = shared.versioned(&command)? {
                asked.splice(at, command.into_bytes());
                seal(&mut asked)?;
            }
        }
        let (from, to) = &mut servers[usize::from(is_of_config)];
        to.write_all(&asked).await?;
        let mut answer = message(from).await?;
        if is_hello {
            answer = as_a_router(answer)?;
        }
        to_client.write_all(&answer).await?;
    }
}

impl Shared {
    /// A command on a sharded collection, with the collection's version.
    fn versioned(&self, command: &Document) -> Result<Option<RawDocumentBuf>> {
        let (name, value) = command.iter().next().context("an empty command")?;
        let (Some(collection), true) = (value.as_str(), VERSIONED.contains(&name.as_str())) else {
            return Ok(None);
        };
        let namespace = format!("{}.{collection}", command.get_str("$db")?);
        let Some(version) = self.versions.lock().expect("no panic").get(&namespace).cloned() else {
            return Ok(None);
        };
        let mut command = command.clone();
        command.insert("shardVersion", version);
        Ok(Some(RawDocumentBuf::try_from(&command)?))
    }
}

/// What a member of a replica set says of itself, as a `mongos` says it.
fn as_a_router(mut answer: Vec<u8>) -> Result<Vec<u8>> {
    let start = match int(&answer, 12)? == OP_MSG {
        true => body(&answer)?.start,
        false => OP_REPLY_HEADER,
    };
    let body = answer.get(start..).context("an answer that is cut off")?;
    let mut hello = Document::try_from(RawDocument::from_bytes(body)?)?;
    for field in OF_A_MEMBER {
        hello.remove(field);
    }
    hello.insert("msg", "isdbgrid");
    answer.splice(start.., RawDocumentBuf::try_from(&hello)?.into_bytes());
    seal(&mut answer)?;
    Ok(answer)
}

/// Writes a message's length anew.
fn seal(message: &mut [u8]) -> Result<()> {
    let length = i32::try_from(message.len())?;
    message[..4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// What is sharded is known as such by its events, and by what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_collection_is_one_behind_the_router() -> Result<()> {
    use mongodb::bson::doc;

    let router = Router::start(super::cluster().await?).await?;
    router.shard("routed.items", doc! { "region": 1 }).await?;
    let client = router.client().await?;
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await?;
    assert_eq!(hello.get_str("msg")?, "isdbgrid");
    let known: mongodb::Collection<Document> = client.database("config").collection("collections");
    let known = known.find_one(doc! { "_id": "routed.items" }).await?.context("it is known")?;
    assert_eq!(known.get_document("key")?, &doc! { "region": 1 });
    let items = client.database("routed").collection::<Document>("items");
    let mut changes = items.watch().await?;
    items.insert_one(doc! { "_id": 1, "region": "a" }).await?;
    let to = |region: &str| doc! { "$set": { "region": region } };
    items.update_one(doc! { "_id": 1, "region": "a" }, to("b")).await?;
    items.delete_one(doc! { "_id": 1, "region": "b" }).await?;
    let mut keys = Vec::new();
    while keys.len() < 3 {
        keys.extend(changes.next_if_any().await?.and_then(|change| change.document_key));
    }
    // An update bears the key that the document had.
    let key = |region: &str| doc! { "region": region, "_id": 1 };
    assert_eq!(keys, [key("a"), key("a"), key("b")]);
    Ok(())
}
