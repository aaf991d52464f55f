//! What is measured against: a MongoDB full of documents, and the same documents as bulk bodies.

use std::{io::Write as _, ops::Range, sync::Arc};

use anyhow::{Context, Result, ensure};
use bson::{DateTime, Document, RawDocument, RawDocumentBuf, Timestamp, doc, oid::ObjectId};
use bytes::Bytes;
use futures_util::StreamExt;
use mongodb::{Collection, IndexModel};
use mongosync::target::json::{Mode, Options, write_document};
use mongosync_servers::MongoDb;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::endpoint::Endpoint;

/// Bytes of a ready-made bulk body: the product's default.
pub const BODY: usize = 8 << 20;
/// Actions in one: the product's default.
pub const ACTIONS: usize = 5_000;
const INSERT: u64 = 2_000;
/// Bytes in one insert.
const INSERTED: u64 = 16 << 20;
/// Bytes of the documents that most rows have.
pub const ORDINARY: usize = 1_100;
/// The collection.
pub const NAMESPACE: &str = "numbers.products";
/// Where its documents go.
pub const INDEX: &str = "numbers-products";

/// The servers that all rows share.
pub struct World {
    /// The source.
    pub mongo: MongoDb,
    /// Its collection.
    pub collection: Collection<Document>,
    /// How many documents there are.
    pub documents: u64,
    /// The target that answers at once.
    pub endpoint: Endpoint,
    bodies: Option<Arc<[Bytes]>>,
}

impl World {
    /// Starts the servers and writes the documents.
    pub async fn new(documents: u64) -> Result<Self> {
        let mongo = MongoDb::builder().cache_gb(1.0).start().await?;
        let collection = mongo.client().database("numbers").collection("products");
        fill(&collection, 0..documents, ORDINARY).await?;
        let endpoint = Endpoint::start().await?;
        Ok(Self { mongo, collection, documents, endpoint, bodies: None })
    }

    /// The documents as bulk bodies, made once.
    pub async fn bodies(&mut self) -> Result<Arc<[Bytes]>> {
        if let Some(bodies) = &self.bodies {
            return Ok(bodies.clone());
        }
        let mut bodies = Vec::new();
        let (mut body, mut actions) = (Vec::with_capacity(BODY + (64 << 10)), 0);
        let mut cursor = self.collection.find(doc! {}).batch().await?;
        while let Some(batch) = cursor.next().await {
            for document in batch?.doc_slices()? {
                write_action(document?.as_document().context("a document")?, &mut body)?;
                actions += 1;
                if body.len() >= BODY || actions == ACTIONS {
                    bodies.push(std::mem::take(&mut body).into());
                    actions = 0;
                }
            }
        }
        if !body.is_empty() {
            bodies.push(body.into());
        }
        let bodies: Arc<[Bytes]> = bodies.into();
        self.bodies = Some(bodies.clone());
        Ok(bodies)
    }

    /// Forgets all positions and copies, so that the next run begins anew.
    pub async fn forget(&self) -> Result<()> {
        Ok(self.collection.client().database("mongosync").drop().await?)
    }

    /// Sets a field of the first `count` documents, and says when the first of it may have been.
    pub async fn update(&self, count: u64, round: u64) -> Result<Timestamp> {
        update(&self.collection, count, round).await
    }
}

/// Appends what puts a document into the index.
pub fn write_action(document: &RawDocument, body: &mut Vec<u8>) -> Result<()> {
    let id = document.get_object_id("_id")?.to_hex();
    writeln!(
        body,
        "{{\"index\":{{\"_index\":\"{INDEX}\",\"_id\":\"{id}\",\
         \"version\":1,\"version_type\":\"external_gte\"}}}}"
    )?;
    write_document(document, Options { mode: Mode::Plain, skip_id: true }, body)?;
    body.push(b'\n');
    Ok(())
}

/// The same in any collection that was filled.
pub async fn update(
    collection: &Collection<Document>,
    count: u64,
    round: u64,
) -> Result<Timestamp> {
    let admin = collection.client().database("admin");
    let hello = admin.run_command(doc! { "hello": 1 }).await?;
    let before = hello.get_timestamp("operationTime")?;
    let chosen = doc! { "number": { "$lt": i64::try_from(count)? } };
    let changed = doc! { "$set": { "round": i64::try_from(round)? } };
    let done = collection.update_many(chosen, changed).await?;
    ensure!(done.modified_count == count, "{} of {count}", done.modified_count);
    Ok(Timestamp { time: before.time, increment: before.increment + 1 })
}

/// Writes documents of about so many `bytes`, with these numbers, and the index that updates need; the
/// copy reads by `_id`. Returns their bytes together.
pub async fn fill(
    collection: &Collection<Document>,
    numbers: Range<u64>,
    bytes: usize,
) -> Result<u64> {
    let mut maker = Maker(StdRng::seed_from_u64(1 + numbers.start));
    let most = (INSERTED / bytes as u64).clamp(1, INSERT);
    let (mut next, mut written) = (numbers.start, 0);
    while next < numbers.end {
        let end = numbers.end.min(next + most);
        let batch =
            (next..end).map(|number| Ok(RawDocumentBuf::try_from(&maker.sized(number, bytes))?));
        let batch: Vec<RawDocumentBuf> = batch.collect::<Result<_>>()?;
        written += batch.iter().map(|document| document.as_bytes().len() as u64).sum::<u64>();
        collection.clone_with_type::<RawDocumentBuf>().insert_many(batch).await?;
        next = end;
    }
    let number = IndexModel::builder().keys(doc! { "number": 1 }).build();
    collection.create_index(number).await?;
    Ok(written)
}

struct Maker(StdRng);

impl Maker {
    /// Words of random letters, so that they compress as text does.
    fn text(&mut self, words: usize) -> String {
        let mut text = String::new();
        for word in 0..words {
            if word > 0 {
                text.push(' ');
            }
            let length = self.0.random_range(3..10);
            text.extend((0..length).map(|_| char::from(self.0.random_range(b'a'..=b'z'))));
        }
        text
    }

    fn id(&mut self) -> ObjectId {
        ObjectId::from_bytes(self.0.random())
    }

    /// As drivers make them: in the order of time, so that `_id` and the order of insertion agree.
    fn key(number: u64) -> ObjectId {
        const SECOND: u64 = 1_000;
        let mut id = [0; 12];
        let seconds = u32::try_from(1_700_000_000 + number / SECOND).expect("a time before 2106");
        id[..4].copy_from_slice(&seconds.to_be_bytes());
        id[4..9].copy_from_slice(b"bench");
        id[9..].copy_from_slice(&number.to_be_bytes()[5..]);
        ObjectId::from_bytes(id)
    }

    /// One of about so many bytes: a few fields, or the ordinary one with as many reviews as it takes.
    fn sized(&mut self, number: u64, bytes: usize) -> Document {
        if bytes < ORDINARY {
            return doc! {
                "_id": Self::key(number),
                "number": i64::try_from(number).expect("a small number"),
                "sku": format!("SKU-{number:010}"),
                "title": self.text(12),
                "price": f64::from(self.0.random_range(100..100_000_u32)) / 100.0,
                "status": "live",
            };
        }
        let mut document = self.document(number);
        let mut left = bytes - ORDINARY;
        let mut more = Vec::new();
        loop {
            let (user, text) = (self.text(1), self.text(12));
            // What BSON adds to the two, at the most.
            let size = user.len() + text.len() + 48;
            if size > left {
                break;
            }
            left -= size;
            more.push(doc! { "user": user, "stars": self.0.random_range(1..6_i32), "text": text });
        }
        if !more.is_empty() {
            document.insert("more", more);
        }
        document
    }

    /// 15 fields, nested, 1.1 KB.
    fn document(&mut self, number: u64) -> Document {
        let created = 1_700_000_000_000 + self.0.random_range(0..90_000_000_000_i64);
        let price = f64::from(self.0.random_range(100..100_000_u32)) / 100.0;
        doc! {
            "_id": Self::key(number),
            "number": i64::try_from(number).expect("a small number"),
            "sku": format!("SKU-{number:010}"),
            "title": self.text(7),
            "description": self.text(55),
            "price": price,
            "cost": price * 0.6,
            "stock": self.0.random_range(0..10_000_i32),
            "status": "live",
            "created": DateTime::from_millis(created),
            "updated": DateTime::from_millis(created + 86_400_123),
            "category": self.id(),
            "tags": [self.text(1), self.text(1), self.text(1), "Größe L"],
            "supplier": {
                "name": self.text(2),
                "country": "DE",
                "rating": f64::from(self.0.random_range(0..50_u32)) / 10.0,
                "since": DateTime::from_millis(created - 1_000_000),
                "id": self.id(),
            },
            "reviews": [
                { "user": self.text(1), "stars": self.0.random_range(1..6_i32), "text": self.text(12) },
                { "user": self.text(1), "stars": self.0.random_range(1..6_i32), "text": self.text(12) },
            ],
        }
    }
}
