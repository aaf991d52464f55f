//! Compares what the source holds with what the target holds, document by document.
//!
//! How BSON becomes JSON is written here a second time, slowly and from the specification, so that
//! an error in the product can't hide in the comparison.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Bson, Document, spec::BinarySubtype},
};
use mongosync_servers::Engine;
use serde_json::{Map, Value, json};

/// What differs.
#[derive(Default, Debug, PartialEq)]
pub struct Differences {
    /// Documents in the source.
    pub checked: usize,
    /// In the source only.
    pub missing: Vec<String>,
    /// In the target only.
    pub extra: Vec<String>,
    /// In both, with another content.
    pub stale: Vec<String>,
}

impl Differences {
    /// Fails, with examples, where there are any.
    pub fn none(&self) -> Result<usize> {
        let empty = self.missing.is_empty() && self.extra.is_empty() && self.stale.is_empty();
        ensure!(empty, "{self}");
        Ok(self.checked)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} documents in the source", self.checked)?;
        for (what, ids) in
            [("missing", &self.missing), ("extra", &self.extra), ("stale", &self.stale)]
        {
            let first: Vec<_> = ids.iter().take(5).collect();
            write!(f, ", {} {what} {first:?}", ids.len())?;
        }
        Ok(())
    }
}

/// The documents of an index, by id, each with a hash of its content.
pub async fn indexed(engine: &Engine, index: &str) -> Result<HashMap<String, u64>> {
    let mut found = HashMap::new();
    read_index(engine, index, |hit| {
        found.insert(hit.id, hash(&hit.source));
    })
    .await?;
    Ok(found)
}

/// A document as an engine holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub index: String,
    pub id: String,
    pub routing: Option<String>,
    pub source: Value,
}

/// All documents of an index (or several, by a pattern), in the order of index and id.
pub async fn hits(engine: &Engine, index: &str) -> Result<Vec<Hit>> {
    let mut found = Vec::new();
    read_index(engine, index, |hit| found.push(hit)).await?;
    found.sort_by(|one, other| (&one.index, &one.id).cmp(&(&other.index, &other.id)));
    Ok(found)
}

/// Reads a whole index, refreshed before.
pub async fn read_index(engine: &Engine, index: &str, mut each: impl FnMut(Hit)) -> Result<()> {
    engine.request("POST", &format!("/{index}/_refresh"), "").await?;
    let query = r#"{"size":2000,"sort":["_doc"]}"#;
    let mut answer = engine.request("POST", &format!("/{index}/_search?scroll=2m"), query).await?;
    loop {
        ensure!(answer.status == 200, "reading {index}: {} {}", answer.status, answer.body);
        let mut page: Value = serde_json::from_str(&answer.body)?;
        // An engine gives what it has of a search that failed in part.
        ensure!(page["_shards"]["failed"] == 0, "reading {index}: {}", page["_shards"]);
        let Value::Array(hits) = page["hits"]["hits"].take() else {
            anyhow::bail!("a page without hits")
        };
        if hits.is_empty() {
            let scroll = json!({ "scroll_id": page["_scroll_id"] }).to_string();
            engine.request("DELETE", "/_search/scroll", &scroll).await?;
            return Ok(());
        }
        for mut hit in hits {
            let text = |field: &str| hit[field].as_str().map(str::to_owned);
            let (index, id, routing) = (text("_index"), text("_id"), text("_routing"));
            each(Hit {
                index: index.context("a hit has an index")?,
                id: id.context("a hit has an id")?,
                routing,
                source: hit["_source"].take(),
            });
        }
        let next = json!({ "scroll": "2m", "scroll_id": page["_scroll_id"] }).to_string();
        answer = engine.request("POST", "/_search/scroll", &next).await?;
    }
}

/// Compares an index with a collection whose documents are delivered as they are.
pub async fn compare(
    collection: &Collection<Document>,
    engine: &Engine,
    index: &str,
) -> Result<Differences> {
    compare_shaped(collection, engine, index, |document| {
        Some((plain_id(document.get("_id")?)?, body(document)))
    })
    .await
}

/// Compares an index with what `shape` makes of each document: id and body, or nothing.
pub async fn compare_shaped(
    collection: &Collection<Document>,
    engine: &Engine,
    index: &str,
    shape: impl Fn(&Document) -> Option<(String, Value)>,
) -> Result<Differences> {
    let mut found = indexed(engine, index).await?;
    let mut differences = Differences::default();
    let mut cursor = collection.find(Document::new()).batch_size(5_000).await?;
    while let Some(document) = cursor.try_next().await? {
        let Some((id, expected)) = shape(&document) else { continue };
        differences.checked += 1;
        match found.remove(&id) {
            None => differences.missing.push(id),
            Some(content) if content != hash(&expected) => differences.stale.push(id),
            Some(_) => {}
        }
    }
    differences.extra = found.into_keys().collect();
    Ok(differences)
}

/// A document as JSON, without its `_id`.
pub fn body(document: &Document) -> Value {
    let mut fields = Map::new();
    for (name, value) in document.iter().filter(|(name, _)| *name != "_id") {
        fields.insert(name.clone(), to_json(value));
    }
    Value::Object(fields)
}

/// The id of a document whose collection holds no other type of `_id`.
pub fn plain_id(id: &Bson) -> Option<String> {
    Some(match id {
        Bson::String(text) => text.clone(),
        Bson::ObjectId(id) => id.to_hex(),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        _ => return None,
    })
}

/// `rules.md`, "How BSON becomes JSON".
pub fn to_json(value: &Bson) -> Value {
    match value {
        Bson::Double(number) => json!(number),
        Bson::String(text) | Bson::Symbol(text) | Bson::JavaScriptCode(text) => json!(text),
        Bson::JavaScriptCodeWithScope(code) => json!(code.code),
        Bson::Array(items) => items.iter().map(to_json).collect(),
        Bson::Document(inner) => Value::Object(
            inner.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
        ),
        Bson::Boolean(flag) => json!(flag),
        Bson::Int32(number) => json!(number),
        Bson::Int64(number) => json!(number),
        Bson::Decimal128(number) => {
            serde_json::from_str(&number.to_string()).unwrap_or(Value::Null)
        }
        Bson::Timestamp(time) => json!({ "t": time.time, "i": time.increment }),
        Bson::Binary(binary) if binary.subtype == BinarySubtype::Uuid => {
            json!(binary.to_uuid().expect("16 bytes").to_string())
        }
        Bson::Binary(binary) => json!(BASE64_STANDARD.encode(&binary.bytes)),
        Bson::ObjectId(id) => json!(id.to_hex()),
        Bson::DateTime(date) => {
            let date = chrono::DateTime::from_timestamp_millis(date.timestamp_millis());
            json!(date.expect("a date").to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        }
        Bson::RegularExpression(regex) => {
            json!(format!("/{}/{}", regex.pattern.as_str(), regex.options.as_str()))
        }
        _ => Value::Null,
    }
}

/// A hash that does not depend on the order of fields.
fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    feed(value, &mut hasher);
    hasher.finish()
}

fn feed(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            (0_u8, sorted.len()).hash(hasher);
            for (name, value) in sorted {
                name.hash(hasher);
                feed(value, hasher);
            }
        }
        Value::Array(items) => {
            (1_u8, items.len()).hash(hasher);
            items.iter().for_each(|item| feed(item, hasher));
        }
        scalar => (2_u8, scalar.to_string()).hash(hasher),
    }
}
