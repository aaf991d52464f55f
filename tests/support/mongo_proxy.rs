//! A proxy in front of a MongoDB that knows where one command ends and the next begins, so that a
//! fault can strike a chosen command at a chosen moment: above all the writes of a checkpoint store.
//!
//! It stands in front of one node; who uses it says `directConnection=true`, or the driver would
//! learn the node's own address and go past it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

use super::fault::{Fault, Moment};

/// Length, request id, id of the request that is answered, kind of message.
pub(super) const HEADER: usize = 16;
/// The kind of message that all commands have but the first one of a connection.
pub(super) const OP_MSG: i32 = 2013;

/// A command as it goes by.
pub struct Command {
    /// Such as `update`.
    pub name: String,
    /// The collection, for commands that have one.
    pub collection: String,
}

impl Command {
    /// Whether it writes to this collection.
    pub fn writes_to(&self, collection: &str) -> bool {
        let writes = ["insert", "update", "delete", "findAndModify"];
        writes.contains(&self.name.as_str()) && self.collection == collection
    }
}

type Script = dyn Fn(&Command) -> Option<Fault> + Send + Sync;

/// A running proxy; gone with its connections once it is dropped.
pub struct MongoProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

struct Shared {
    server: String,
    script: Mutex<Option<Arc<Script>>>,
    /// A collection that so many listings leave out.
    unlisted: Mutex<(String, usize)>,
}

impl Shared {
    /// What the answer to this command leaves out.
    fn leaves_out(&self, command: &Command) -> Option<String> {
        let mut unlisted = self.unlisted.lock().expect("no panic");
        let (name, left) = &mut *unlisted;
        let is_it = command.name == "listCollections" && *left > 0;
        is_it.then(|| {
            *left -= 1;
            name.clone()
        })
    }
}

impl MongoProxy {
    /// In front of the node at `HOST:PORT`; everything passes.
    pub async fn start(server: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            script: Mutex::default(),
            unlisted: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accepting = shared.clone();
        let acceptor = accepted(listener, move |client| connection(client, accepting.clone()));
        Ok(Self { address, shared, acceptor })
    }

    /// The connection string that goes through it.
    pub fn uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true", self.address)
    }

    /// From now on the script says what becomes of each command.
    pub fn play(&self, script: impl Fn(&Command) -> Option<Fault> + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no panic") = Some(Arc::new(script));
    }

    /// The next so many lists of collections leave this one out, as a server does that has committed it a
    /// moment ago.
    pub fn leave_out(&self, collection: &str, lists: usize) {
        *self.shared.unlisted.lock().expect("no panic") = (collection.to_owned(), lists);
    }

    /// How many of those are still to come.
    pub fn to_leave_out(&self) -> usize {
        self.shared.unlisted.lock().expect("no panic").1
    }

    /// From now on everything passes.
    pub fn pass_on(&self) {
        *self.shared.script.lock().expect("no panic") = None;
    }
}

impl Drop for MongoProxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// Serves connections until it is aborted, which ends them too. Whatever ends one ends that alone.
pub(super) fn accepted<F>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    // Whoever holds the handle aborts it once it is dropped.
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            connections.spawn(serve(client));
            while connections.try_join_next().is_some() {}
        }
    })
}

/// What waits for the answer to a request, by its id: a fault, or what it leaves out.
#[derive(Default)]
struct Due {
    faults: Mutex<HashMap<i32, Fault>>,
    unlisted: Mutex<HashMap<i32, String>>,
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(&shared.server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let due = Due::default();
    // Whichever ends, for whatever reason, ends the connection.
    tokio::select! {
        _ = requests(from_client, to_server, &shared, &due) => {}
        _ = answers(from_server, to_client, &due) => {}
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    due: &Due,
) -> Result<()> {
    loop {
        let message = message(&mut from).await?;
        let script = shared.script.lock().expect("no panic").clone();
        let command = command(&message)?;
        if let Some(name) = command.as_ref().and_then(|command| shared.leaves_out(command)) {
            due.unlisted.lock().expect("no panic").insert(int(&message, 4)?, name);
        }
        match script.zip(command).and_then(|(script, command)| script(&command)) {
            None => {}
            Some(Fault::Cut(Moment::Before)) => return Ok(()),
            Some(Fault::Hold(Moment::Before, gate)) => match gate.pass().await {
                true => {}
                false => return Ok(()),
            },
            Some(fault) => {
                due.faults.lock().expect("no panic").insert(int(&message, 4)?, fault);
            }
        }
        to.write_all(&message).await?;
    }
}

async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, due: &Due) -> Result<()> {
    loop {
        let mut message = message(&mut from).await?;
        let answered = int(&message, 8)?;
        let unlisted = due.unlisted.lock().expect("no panic").remove(&answered);
        if let Some(name) = unlisted {
            message = without(&message, &name)?;
        }
        let fault = due.faults.lock().expect("no panic").remove(&answered);
        match fault {
            None => {}
            Some(Fault::Cut(_)) => return Ok(()),
            Some(Fault::Hold(_, gate)) => match gate.pass().await {
                true => {}
                false => return Ok(()),
            },
        }
        to.write_all(&message).await?;
    }
}

pub(super) async fn message(from: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    from.read_exact(&mut message).await?;
    let length = usize::try_from(int(&message, 0)?)?;
    ensure!(length >= HEADER, "a message shorter than its head");
    message.resize(length, 0);
    from.read_exact(&mut message[HEADER..]).await?;
    Ok(message)
}

pub(super) fn int(message: &[u8], at: usize) -> Result<i32> {
    let bytes = message.get(at..at + 4).context("a message that is cut off")?;
    Ok(i32::from_le_bytes(bytes.try_into()?))
}

/// The command that a message is; `None` for the handshake, which is of another kind.
fn command(message: &[u8]) -> Result<Option<Command>> {
    if int(message, 12)? != OP_MSG {
        return Ok(None);
    }
    let body = message.get(body(message)?).context("a body that is cut off")?;
    parsed(RawDocument::from_bytes(body)?).map(Some)
}

/// Where the command stands in a message of kind [`OP_MSG`]: behind the flags come sections, one of kind
/// 0, the command, and lists of documents (kind 1).
pub(super) fn body(message: &[u8]) -> Result<Range<usize>> {
    let mut at = HEADER + 4;
    loop {
        let kind = *message.get(at).context("a command without a body")?;
        let length = usize::try_from(int(message, at + 1)?)?;
        if kind == 0 {
            return Ok(at + 1..at + 1 + length);
        }
        at += 1 + length;
    }
}

/// A list of collections without one of them.
fn without(message: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut answer = Document::from_reader(&message[body(message)?])?;
    let cursor = answer.get_document_mut("cursor")?;
    let listed = cursor.get_array_mut("firstBatch")?;
    listed.retain(|it| it.as_document().and_then(|it| it.get_str("name").ok()) != Some(name));
    // Flags of which none is set, then the answer alone.
    let mut made = message[..HEADER].to_vec();
    made.extend([0; 5]);
    made.extend(RawDocumentBuf::try_from(&answer)?.as_bytes());
    let length = i32::try_from(made.len())?.to_le_bytes();
    made[..4].copy_from_slice(&length);
    Ok(made)
}

fn parsed(body: &RawDocument) -> Result<Command> {
    let (name, value) = body.iter().next().context("an empty command")??;
    Ok(Command {
        name: name.to_string(),
        collection: value.as_str().unwrap_or_default().to_owned(),
    })
}

/// A command is struck before or after it was carried out, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_chosen_command_is_struck_at_a_chosen_moment() -> Result<()> {
    use mongodb::{Client, bson::doc};

    use super::{World, fault::Gate};

    let world = World::new().await?;
    let proxy = MongoProxy::start(&world.mongo_address()?).await?;
    let options = "&retryWrites=false";
    let client = Client::with_uri_str(proxy.uri() + options).await?;
    let struck = client.database("struck").collection::<RawDocumentBuf>("struck");
    let document = |id: i32| RawDocumentBuf::try_from(&doc! { "_id": id });
    struck.insert_one(document(0)?).await?;
    for (id, moment) in [(1, Moment::Before), (2, Moment::After)] {
        proxy.play(move |command| command.writes_to("struck").then_some(Fault::Cut(moment)));
        let cut = struck.insert_one(document(id)?).await;
        ensure!(cut.is_err(), "{moment:?}: {cut:?}");
        let found = struck.find_one(doc! { "_id": id }).await?;
        assert_eq!(found.is_some(), moment == Moment::After);
    }
    for (id, moment) in [(3, Moment::Before), (4, Moment::After)] {
        let gate = Gate::closed();
        let fault = Fault::Hold(moment, gate.clone());
        proxy.play(move |command| command.writes_to("struck").then(|| fault.clone()));
        let insert = tokio::spawn({
            let (struck, document) = (struck.clone(), document(id)?);
            async move { struck.insert_one(document).await }
        });
        gate.met(1).await;
        let found = world.collection("struck.struck").find_one(doc! { "_id": id }).await?;
        assert_eq!(found.is_some(), moment == Moment::After);
        assert!(!insert.is_finished());
        gate.open();
        insert.await??;
        proxy.pass_on();
    }
    assert_eq!(struck.count_documents(doc! {}).await?, 4);
    Ok(())
}
