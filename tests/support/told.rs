//! What logs tell, be they webhooks, files or pipes: the states that they come to, and the events in
//! them, compared with what a change stream of the test's own shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, Timestamp, doc},
};
use serde_json::Value;

use super::{receiver::Received, run::cluster_time};

/// The lines of a text; each has to be whole.
pub fn lines_of(text: &str) -> Result<Vec<Value>> {
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line is torn");
    text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

/// All lines of `NAME.ndjson` in a folder, with those of the files that were put aside before it.
pub fn lines(folder: &Path, name: &str) -> Result<Vec<Value>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let file = entry?.file_name().into_string().expect("a name");
        let inner = file.strip_prefix(name).and_then(|rest| rest.strip_suffix("ndjson"));
        files.extend(inner.is_some_and(|inner| inner.starts_with('.')).then_some(file));
    }
    // As a shell lists them: `orders.000001.ndjson` before `orders.ndjson`.
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        lines.extend(lines_of(&fs::read_to_string(folder.join(&file))?).context(file)?);
    }
    Ok(lines)
}

/// What is told of documents comes to this, by `_id`: of each the last one counts.
pub fn states(told: &[Value]) -> BTreeMap<String, Value> {
    let mut held = BTreeMap::new();
    for data in told {
        let id = data["_id"].to_string();
        match data["op"].as_str() {
            Some("put") => drop(held.insert(id, data["document"].clone())),
            Some("remove") => drop(held.remove(&id)),
            other => panic!("no operation: {other:?}"),
        }
    }
    held
}

/// One change, as far as it says which it is: what happened, and when.
pub type Change = (String, String);

/// The changes of each document, in order.
pub type History = BTreeMap<String, Vec<Change>>;

/// What one message or line tells.
#[derive(Clone, Debug)]
pub struct Told {
    pub id: String,
    pub document: String,
    pub change: Change,
    pub data: Value,
}

impl Told {
    /// A message's or a line's own.
    pub fn of(id: &str, data: &Value) -> Self {
        Self::about(id, data["_id"].to_string(), data)
    }

    /// The same of a document whose id stands elsewhere.
    pub fn about(id: &str, document: String, data: &Value) -> Self {
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let change = (text("op"), text("cluster_time"));
        Self { id: id.to_owned(), document, change, data: data.clone() }
    }
}

/// What a receiver accepted, in order.
pub fn told(received: &[Received]) -> Vec<Told> {
    let accepted = received.iter().filter(|request| request.is_accepted());
    let messages = accepted.flat_map(|request| {
        let own = |message: &Value| message["id"].as_str().unwrap_or(request.id()).to_owned();
        request
            .messages()
            .into_iter()
            .map(move |message| Told::of(&own(&message), &message["data"]))
    });
    messages.collect()
}

/// A majority-committed time, as a stream takes it.
pub async fn now(client: &Client) -> Result<Timestamp> {
    let (time, increment) = cluster_time(client).await?;
    Ok(Timestamp { time, increment })
}

/// What has happened to a collection's documents behind a time, all in one order: document, change and
/// resume token.
pub async fn all_that_happened(
    collection: &Collection<Document>,
    since: Timestamp,
) -> Result<Vec<(String, Change, Document)>> {
    let last = format!("the last one {}", super::unique());
    collection.insert_one(doc! { "_id": &last }).await?;
    collection.delete_one(doc! { "_id": &last }).await?;
    let stream = collection.watch().start_at_operation_time(since).await?;
    let mut stream = stream.with_type::<Document>();
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        let event = event?;
        let Ok(key) = event.get_document("documentKey") else { continue };
        let id = key.get("_id").context("an _id")?;
        // Earlier looks have left theirs.
        if let Some(own) = id.as_str().filter(|id| id.starts_with("the last one")) {
            if own == last && event.get_str("operationType")? == "delete" {
                return Ok(all);
            }
            continue;
        }
        let Timestamp { time, increment } = event.get_timestamp("clusterTime")?;
        let change = (event.get_str("operationType")?.to_owned(), format!("{time}.{increment}"));
        all.push((shown(id), change, event.get_document("_id")?.clone()));
    }
    bail!("the stream has ended")
}

/// An `_id` as a message has it.
pub fn shown(id: &Bson) -> String {
    id.clone().into_relaxed_extjson().to_string()
}

/// The same, by document.
pub async fn happened(collection: &Collection<Document>, since: Timestamp) -> Result<History> {
    let mut history = History::new();
    for (id, change, _) in all_that_happened(collection, since).await? {
        history.entry(id).or_default().push(change);
    }
    Ok(history)
}

/// Compares: whatever was told, in the order in which it was told for the first time, is what happened;
/// and what has one id is one change. What is about a document that begins with "the last one" is the
/// checker's own. Returns how often something was told again.
pub fn compare(told: &[Told], happened: &History) -> Result<usize> {
    let mut by_id: BTreeMap<&str, &Told> = BTreeMap::new();
    let mut history = History::new();
    let mut repeated = 0;
    for told in told {
        if told.document.contains("the last one") {
            continue;
        }
        if let Some(known) = by_id.get(told.id.as_str()) {
            let same = |one: &Told| {
                let said = ["updated", "removed", "truncated", "copy", "before"];
                (one.document.clone(), one.change.clone(), said.map(|name| one.data[name].clone()))
            };
            ensure!(same(known) == same(told), "one id for two: {known:?} and {told:?}");
            repeated += 1;
            continue;
        }
        by_id.insert(&told.id, told);
        history.entry(told.document.clone()).or_default().push(told.change.clone());
    }
    let documents: BTreeSet<_> = happened.keys().chain(history.keys()).collect();
    for document in documents {
        let (was, is) = (happened.get(document), history.get(document));
        ensure!(was == is, "{document}: {was:#?} happened, and this was told: {is:#?}");
    }
    Ok(repeated)
}
