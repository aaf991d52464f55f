//! What no copy can be faster than: the source alone, and the target alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, doc, raw::cstr, rawdoc};
use bytes::Bytes;
use futures_util::StreamExt;
use mongodb::{
    Collection, IndexModel,
    options::{FindOptions, Hint},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
};

use crate::{
    endpoint::{WEBHOOK, content_length},
    world::{ACTIONS, BODY, write_action},
};

/// Documents in a reply: some 2 MB, with which a cursor is fastest.
const REPLY: u32 = 2_000;
/// As many as the product uses by default.
const CONNECTIONS: usize = 2;
/// The same for the parts of a collection that are read at once.
const CURSORS: u64 = 4;
/// The same for a MongoDB.
const INSERTERS: usize = 4;

/// One raw cursor draining the collection.
pub async fn cursor(collection: &Collection<Document>, expected: u64) -> Result<Duration> {
    let started = Instant::now();
    let mut cursor = collection.find(doc! {}).batch_size(REPLY).batch().await?;
    let mut documents = 0;
    while let Some(batch) = cursor.next().await {
        for document in batch?.doc_slices()? {
            document?;
            documents += 1;
        }
    }
    ensure!(documents == expected, "{documents} documents of {expected}");
    Ok(started.elapsed())
}

/// The collection read by one raw cursor and inserted, unordered, over four connections; then its index.
pub async fn inserted(
    from: &Collection<Document>,
    to: &Collection<RawDocumentBuf>,
    expected: u64,
) -> Result<Duration> {
    let started = Instant::now();
    let (sender, receiver) = mpsc::channel::<Vec<RawDocumentBuf>>(INSERTERS);
    let receiver = Arc::new(Mutex::new(receiver));
    let mut inserters = JoinSet::new();
    for _ in 0..INSERTERS {
        let (receiver, to) = (receiver.clone(), to.clone());
        inserters.spawn(async move {
            let mut inserted = 0;
            loop {
                let batch = receiver.lock().await.recv().await;
                let Some(batch) = batch else { return anyhow::Ok(inserted) };
                inserted += batch.len() as u64;
                to.insert_many(batch).ordered(false).await?;
            }
        });
    }
    let mut cursor = from.find(doc! {}).batch_size(REPLY).batch().await?;
    while let Some(batch) = cursor.next().await {
        let batch = batch?;
        let documents = batch
            .doc_slices()?
            .into_iter()
            .map(|document| Ok(document?.as_document().context("a document")?.to_owned()));
        let documents: Vec<RawDocumentBuf> = documents.collect::<Result<_>>()?;
        // The first reply may be empty, and nothing can't be inserted.
        if !documents.is_empty() {
            sender.send(documents).await?;
        }
    }
    drop(sender);
    let mut inserted = 0;
    while let Some(done) = inserters.join_next().await {
        inserted += done??;
    }
    ensure!(inserted == expected, "{inserted} documents of {expected}");
    to.create_index(IndexModel::builder().keys(doc! { "number": 1 }).build()).await?;
    Ok(started.elapsed())
}

/// The change stream from `start` on, without full documents, until so many events were read.
pub async fn stream(
    collection: &Collection<Document>,
    start: Timestamp,
    events: u64,
) -> Result<Duration> {
    let started = Instant::now();
    let command: RawDocumentBuf = rawdoc! {
        "aggregate": collection.name(),
        "pipeline": [{ "$changeStream": { "startAtOperationTime": start } }],
        "cursor": {},
        "readConcern": { "level": "majority" },
    };
    let database = collection.client().database(&collection.namespace().db);
    let mut cursor = database.run_raw_cursor_command(command).batch().await?;
    let mut read = 0;
    while read < events {
        let batch = cursor.next().await.context("the change stream has ended")??;
        for event in batch.doc_slices()? {
            event?;
            read += 1;
        }
    }
    Ok(started.elapsed())
}

/// Ready-made bulk bodies sent over two connections, each waiting for its answers.
pub async fn bodies(url: &str, bodies: &Arc<[Bytes]>) -> Result<Duration> {
    let started = Instant::now();
    let next = Arc::new(AtomicUsize::new(0));
    let address = url.trim_start_matches("http://").to_owned();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, bodies, address) = (next.clone(), bodies.clone(), address.clone());
        connections.spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut answer = Vec::new();
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                send(&mut stream, &address, body, &mut answer).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

/// The least that copies: four cursors by `_id`, each document written as an action into a body, and
/// bodies sent over two connections. It keeps neither order nor position, knows nothing of what became of
/// a document, and follows no change. With `transform`, each is first [`shaped`].
pub async fn least(
    collection: &Collection<Document>,
    url: &str,
    expected: u64,
    transform: bool,
) -> Result<Duration> {
    let mut bounds = vec![None];
    for part in 1..CURSORS {
        let number = i64::try_from(expected * part / CURSORS)?;
        let found = collection.find_one(doc! { "number": number }).await?;
        bounds.push(Some(doc! { "_id": found.context("a document")?.get_object_id("_id")? }));
    }
    bounds.push(None);
    let started = Instant::now();
    let (full, bodies) = mpsc::channel::<Vec<u8>>(CONNECTIONS);
    let bodies = Arc::new(Mutex::new(bodies));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let address = url.trim_start_matches("http://").to_owned();
        let bodies = bodies.clone();
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut answer = Vec::new();
            loop {
                let body = bodies.lock().await.recv().await;
                let Some(body) = body else { return anyhow::Ok(0) };
                send(&mut stream, &address, &body.into(), &mut answer).await?;
            }
        });
    }
    for bounds in bounds.windows(2) {
        let mut options = FindOptions::default();
        (options.min, options.max) = (bounds[0].clone(), bounds[1].clone());
        options.hint = Some(Hint::Keys(doc! { "_id": 1 }));
        options.batch_size = Some(REPLY / 2);
        let (collection, full) = (collection.clone(), full.clone());
        tasks.spawn(async move {
            let mut cursor = collection.find(doc! {}).with_options(options).batch().await?;
            let (mut body, mut actions, mut documents) = (Vec::with_capacity(BODY), 0, 0_u64);
            while let Some(batch) = cursor.next().await {
                for document in batch?.doc_slices()? {
                    let document = document?;
                    let document = document.as_document().context("a document")?;
                    documents += 1;
                    match transform {
                        false => write_action(document, &mut body)?,
                        true => match shaped(document)? {
                            Some(document) => write_action(&document, &mut body)?,
                            None => continue,
                        },
                    }
                    actions += 1;
                    if body.len() >= BODY || actions == ACTIONS {
                        full.send(body).await?;
                        (body, actions) = (Vec::with_capacity(BODY), 0);
                    }
                }
            }
            if actions > 0 {
                full.send(body).await?;
            }
            anyhow::Ok(documents)
        });
    }
    drop(full);
    let mut documents = 0;
    while let Some(done) = tasks.join_next().await {
        documents += done??;
    }
    ensure!(documents == expected, "{documents} documents of {expected}");
    Ok(started.elapsed())
}

/// What the six lines of the script come to, by hand and for such documents alone.
fn shaped(document: &RawDocument) -> Result<Option<RawDocumentBuf>> {
    let (mut price, mut cost, mut stock) = (0.0, 0.0, 0);
    let (mut title, mut sku, mut country) = ("", "", None);
    let mut made = RawDocumentBuf::new();
    for element in document {
        let (name, value) = element?;
        match (name.as_str(), value) {
            ("number", _) => continue,
            ("status", RawBsonRef::String("draft")) => return Ok(None),
            ("price", RawBsonRef::Double(value)) => price = value,
            ("cost", RawBsonRef::Double(value)) => cost = value,
            ("stock", RawBsonRef::Int32(value)) => stock = value,
            ("title", RawBsonRef::String(value)) => title = value,
            ("sku", RawBsonRef::String(value)) => sku = value,
            ("supplier", RawBsonRef::Document(value)) => country = value.get("country")?,
            _ => {}
        }
        made.append(name, value);
    }
    made.append(cstr!("margin"), price - cost);
    made.append(cstr!("in_stock"), stock > 0);
    made.append(cstr!("label"), format!("{title} {sku}"));
    made.append(cstr!("country"), country.context("a country")?);
    Ok(Some(made))
}

/// Webhooks sent over so many connections, each waiting for its answers.
pub async fn webhooks(url: &str, connections: u64, count: u64) -> Result<Duration> {
    let started = Instant::now();
    let address = url.trim_start_matches("http://").to_owned();
    let body = Bytes::from(format!("{{\"data\":\"{}\"}}", "x".repeat(1_100)));
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (address, body) = (address.clone(), body.clone());
        senders.spawn(async move {
            let mut stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let mut answer = Vec::new();
            for _ in 0..count / connections {
                exchange(&mut stream, &address, WEBHOOK, &body, &mut answer).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

async fn send(
    stream: &mut TcpStream,
    address: &str,
    body: &Bytes,
    answer: &mut Vec<u8>,
) -> Result<()> {
    const BULK: &str = "/_bulk?filter_path=errors,took,items.*.status,items.*.error";
    let start = exchange(stream, address, BULK, body, answer).await?;
    let beginning = String::from_utf8_lossy(&answer[start..answer.len().min(start + 300)]);
    ensure!(beginning.contains(r#""errors":false"#), "{beginning}");
    Ok(())
}

/// Sends one request, reads the whole answer, and says where its body begins.
async fn exchange(
    stream: &mut TcpStream,
    address: &str,
    path: &str,
    body: &Bytes,
    answer: &mut Vec<u8>,
) -> Result<usize> {
    let head = format!(
        "POST {path} HTTP/1.1\r\n\
         Host: {address}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    answer.clear();
    let body = loop {
        ensure!(stream.read_buf(answer).await? > 0, "no answer");
        if let Some(at) = memchr::memmem::find(answer, b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = str::from_utf8(&answer[..body])?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = content_length(head)?;
    ensure!(length > 0, "an answer of unknown length");
    while answer.len() < body + length {
        ensure!(stream.read_buf(answer).await? > 0, "an answer that breaks off");
    }
    Ok(body)
}
