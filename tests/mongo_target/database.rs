//! A database with a collection for each kind of index and option, and what writes to it all the while.

use std::collections::BTreeMap;

use anyhow::Result;
use futures_util::TryStreamExt;
use mongodb::{
    Database,
    bson::{Bson, Document, doc},
};
use rand::{Rng, rngs::StdRng};

use super::indexes;

/// How a collection is made, beside its name.
pub struct Kind {
    pub name: &'static str,
    /// Options of `create`.
    pub options: Document,
    /// As `createIndexes` takes them.
    pub indexes: Vec<Document>,
}

/// Documents that each collection but the empty one begins with.
const DOCUMENTS: i32 = 150;

fn kind(name: &'static str, options: Document, indexes: &[Document]) -> Kind {
    Kind { name, options, indexes: indexes.to_vec() }
}

fn index(name: &str, key: Document, options: Document) -> Document {
    let mut index = doc! { "key": key, "name": name };
    index.extend(options);
    index
}

/// Eighteen of them; [`Kind::make`] makes them, the tests add two that are larger.
pub fn kinds() -> Vec<Kind> {
    let german = || doc! { "collation": { "locale": "de", "strength": 2 } };
    let none = Document::new;
    vec![
        kind("unique", none(), &[index("sku", doc! { "sku": 1 }, doc! { "unique": true })]),
        kind(
            "compound",
            none(),
            &[
                index("abc", doc! { "a": 1, "b": -1, "c": 1 }, none()),
                index("cb", doc! { "c": 1, "b": 1 }, none()),
            ],
        ),
        kind("multikey", none(), &[index("tags", doc! { "tags": 1, "a": 1 }, none())]),
        kind("sparse", none(), &[index("s", doc! { "now_and_then": 1 }, doc! { "sparse": true })]),
        kind(
            "partial",
            none(),
            &[index(
                "p",
                doc! { "sku": 1 },
                doc! { "unique": true, "partialFilterExpression": { "a": { "$gt": 3 } } },
            )],
        ),
        kind(
            "ttl",
            none(),
            &[index("ttl", doc! { "at": 1 }, doc! { "expireAfterSeconds": 1_000_000_000 })],
        ),
        kind(
            "text",
            none(),
            &[index(
                "text",
                doc! { "title": "text", "body": "text" },
                doc! { "weights": { "title": 5 }, "default_language": "german" },
            )],
        ),
        kind("sphere", none(), &[index("where", doc! { "place": "2dsphere", "a": 1 }, none())]),
        kind("flat", none(), &[index("flat", doc! { "spot": "2d" }, doc! { "bits": 20 })]),
        kind("hashed", none(), &[index("h", doc! { "sku": "hashed" }, none())]),
        kind(
            "wild",
            none(),
            &[index("w", doc! { "$**": 1 }, doc! { "wildcardProjection": { "tags": 1, "a": 1 } })],
        ),
        kind("by_language", none(), &[index("de", doc! { "title": 1 }, german())]),
        kind("hidden", none(), &[index("unseen", doc! { "a": 1 }, doc! { "hidden": true })]),
        kind("capped", doc! { "capped": true, "size": 1 << 20, "max": 120 }, &[]),
        kind(
            "collated",
            german(),
            &[
                index("plain", doc! { "a": 1 }, doc! { "collation": { "locale": "simple" } }),
                index("own", doc! { "title": 1, "_id": 1 }, none()),
            ],
        ),
        kind(
            "validated",
            doc! { "validator": { "a": { "$type": "int" } }, "validationAction": "warn" },
            &[index("nested", doc! { "nested.deep.a": 1 }, none())],
        ),
        kind(
            "clustered",
            doc! { "clusteredIndex": { "key": { "_id": 1 }, "unique": true, "name": "by id" } },
            &[index("sku", doc! { "sku": -1 }, none())],
        ),
        kind("empty", none(), &[index("a", doc! { "a": 1 }, none())]),
    ]
}

/// A document that fits all of the indexes. The same for the same numbers.
pub fn document(id: i32, n: i32) -> Document {
    let mut document = doc! {
        "_id": id,
        "sku": format!("{id}-{}", n % 7),
        "title": format!("Straße {n}"),
        "body": "ein langer Text",
        "a": n % 10, "b": f64::from(n % 2) + 1.0, "c": "x",
        "tags": [n % 3, n % 5, "t"],
        "at": mongodb::bson::DateTime::now(),
        "place": { "type": "Point", "coordinates": [f64::from(n % 90), f64::from(id % 80)] },
        "spot": [n % 100, id % 100],
        "nested": { "deep": [{ "a": n }, { "a": id }] },
    };
    if n % 3 == 0 {
        document.insert("now_and_then", n);
    }
    document
}

impl Kind {
    /// Makes it, with documents in it.
    pub async fn make(&self, database: &Database) -> Result<()> {
        let mut command = doc! { "create": self.name };
        command.extend(self.options.clone());
        database.run_command(command).await?;
        if !self.indexes.is_empty() {
            let indexes: Vec<Bson> = self.indexes.iter().cloned().map(Bson::Document).collect();
            database.run_command(doc! { "createIndexes": self.name, "indexes": indexes }).await?;
        }
        if self.name != "empty" {
            let documents = (0..DOCUMENTS).map(|id| document(id, id));
            database.collection(self.name).insert_many(documents).await?;
        }
        Ok(())
    }
}

/// Changes some documents of a collection in every way. What is capped only grows at one end, and falls
/// out at the other.
pub async fn stir(database: &Database, name: &str, round: i32, random: &mut StdRng) -> Result<()> {
    let collection = database.collection::<Document>(name);
    let new = DOCUMENTS + round * 10;
    let fresh = (new..new + 10).map(|id| document(id, id + round));
    if name == "capped" {
        collection.insert_many(fresh).await?;
        return Ok(());
    }
    for id in new..new + 10 {
        collection.replace_one(doc! { "_id": id }, document(id, id + round)).upsert(true).await?;
    }
    for _ in 0..15 {
        let id = random.random_range(0..DOCUMENTS);
        let by_id = doc! { "_id": id };
        match random.random_range(0..4) {
            0 => {
                collection.delete_one(by_id).await?;
            }
            1 => {
                let set = doc! { "$set": { "title": format!("r{round}") }, "$inc": { "a": 10 } };
                collection.update_one(by_id, set).await?;
            }
            2 => drop(collection.update_one(by_id, doc! { "$push": { "tags": round } }).await?),
            _ => {
                let anew = document(id, id + round);
                collection.replace_one(by_id, anew).upsert(true).await?;
            }
        }
    }
    Ok(())
}

/// What a database is made of beside documents: kind, options and indexes of each namespace, as far as
/// they are to be the same on both sides.
pub async fn definitions(database: &Database) -> Result<BTreeMap<String, Document>> {
    let listed = database.run_cursor_command(doc! { "listCollections": 1 }).await?;
    let listed: Vec<Document> = listed.try_collect().await?;
    let mut found = BTreeMap::new();
    for mut one in listed {
        let name = one.get_str("name")?.to_owned();
        if name.starts_with("system.") {
            continue;
        }
        let kind = one.get_str("type")?.to_owned();
        let mut options = match one.remove("options") {
            Some(Bson::Document(options)) => options,
            _ => Document::new(),
        };
        // Capped collections are not capped in the target, and images are the source's own affair.
        for own in ["capped", "size", "max", "autoIndexId", "changeStreamPreAndPostImages"] {
            options.remove(own);
        }
        // What is said of no validator is as good as not said.
        if !options.contains_key("validator") {
            options.remove("validationLevel");
            options.remove("validationAction");
        }
        let sorted: BTreeMap<String, Bson> = options.into_iter().collect();
        let indexes = match kind.as_str() {
            "collection" => indexes(database, &name).await?,
            _ => Vec::new(),
        };
        let options: Document = sorted.into_iter().collect();
        found.insert(name, doc! { "kind": kind, "options": options, "indexes": indexes });
    }
    Ok(found)
}
