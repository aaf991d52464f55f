//! A target of one's own: a table in SQLite that holds the documents of a collection as JSON.
//!
//! Retries, batches, order and positions are not its business: it says where a document lies, makes
//! bytes of it, and writes a request once.
//!
//! ```sh
//! cargo run --example own_target
//! ```

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongosync::{
    Mongosync, Rule, Rules,
    change::{ClusterTime, Namespace},
    target::{
        Action, Listing, Operation, Outcome, PlaceKey, Placed, Placing, Pressure, Request, Retry,
        Target,
        json::{Options, write_document},
    },
};
use rusqlite::{Connection, params};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};

/// How long anything may take that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each row has the time of the document that it is made from, so that one that comes late or twice
/// changes nothing that is newer. For the same reason the row of a document that is gone stays, empty.
#[derive(Clone)]
struct Table(Arc<Mutex<Connection>>);

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS documents (id TEXT PRIMARY KEY, time INTEGER, json TEXT)",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All in one transaction: done, or not done, for each item whether there was nothing newer.
    fn write(&self, request: &Request) -> rusqlite::Result<Vec<Outcome>> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let mut outcomes = Vec::with_capacity(request.items.len());
        let mut insert = transaction.prepare_cached(
            "INSERT INTO documents (id, time, json) VALUES (?1, ?2, ?3) ON CONFLICT (id) \
             DO UPDATE SET time = excluded.time, json = excluded.json \
             WHERE excluded.time >= documents.time",
        )?;
        for item in &request.items {
            let id = String::from_utf8_lossy(&item.place.0);
            let (time, json) = request.body[item.range.clone()].split_at(8);
            let time = i64::from_be_bytes(time.try_into().expect("`encode` begins with 8 bytes"));
            let json = Some(String::from_utf8_lossy(json)).filter(|json| !json.is_empty());
            let written = insert.execute(params![id, time, json])?;
            outcomes.push(if written > 0 { Outcome::Applied } else { Outcome::Superseded });
        }
        drop(insert);
        transaction.commit()?;
        Ok(outcomes)
    }

    /// The ids of what is there, written within these times.
    fn ids(&self, written: &Range<ClusterTime>) -> rusqlite::Result<Vec<PlaceKey>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(
            "SELECT id FROM documents WHERE json IS NOT NULL AND time >= ?1 AND time < ?2",
        )?;
        let times = params![written.start.version(), written.end.version()];
        let ids = query.query_map(times, |row| row.get::<_, String>(0))?;
        ids.map(|id| Ok(PlaceKey(id?.into_bytes().into()))).collect()
    }

    fn json(&self, id: &str) -> rusqlite::Result<Option<String>> {
        let query = "SELECT max(json) FROM documents WHERE id = ?1";
        self.connection().query_row(query, [id], |row| row.get(0))
    }

    /// Does something where it may wait for the disk.
    async fn away<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Retry> {
        let table = self.clone();
        let done = tokio::task::spawn_blocking(move || work(table)).await;
        let failed = match done {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        let message = format!("the table can't be used: {failed}");
        Err(Retry { reason: "unavailable", message, after: None, pressure: Pressure::Same })
    }
}

#[async_trait::async_trait]
impl Target for Table {
    fn place(&self, _rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let place = PlaceKey(format!("{} {}", placing.namespace, placing.id).into_bytes().into());
        Ok(Placed { place, extra: bytes::Bytes::new() })
    }

    fn place_is_fixed(&self, _rule: &str) -> bool {
        true
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let start = body.len();
        body.extend_from_slice(&operation.time.version().to_be_bytes());
        let written = match &operation.action {
            Action::Put(document) => {
                let written = write_document(document.raw(), Options::default(), body);
                written.map_err(|error| error.to_string())
            }
            Action::Remove => Ok(()),
            Action::Append(_) => Err("this table holds documents, and no events".to_owned()),
        };
        written.inspect_err(|_| body.truncate(start))
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let request = request.clone();
        self.away(move |table| table.write(&request)).await
    }

    /// All documents of a namespace, so that what is old behind a second copy is found and removed.
    fn container(&self, _rule: &str, _namespace: &Namespace) -> Option<String> {
        Some("documents".to_owned())
    }

    async fn list(
        &self,
        _container: &str,
        written: Range<ClusterTime>,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        let ids = self.away(move |table| table.ids(&written)).await?;
        // Nobody may listen any more.
        let _ = found.send(ids).await;
        Ok(Listing::Whole)
    }

    fn describe(&self, place: &PlaceKey) -> String {
        String::from_utf8_lossy(&place.0).into_owned()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mongo = mongosync_servers::MongoDb::start().await?;
    run(mongo.uri()).await
}

/// All of it, on the MongoDB at this connection string.
pub async fn run(uri: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let table = Table::open(&folder.path().join("documents.db"))?;
    let database = Client::with_uri_str(uri).await?.database("own_target");
    let products = database.collection::<Document>("products");
    let three = (1..=3).map(|id| doc! { "_id": id, "title": format!("Lamp {id}"), "secret": id });
    products.insert_many(three).await?;

    let rule = Rule::of("own_target.products").project(doc! { "secret": 0 }).to("table");
    let running = Mongosync::of(Rules::new("own_target", uri).rule(rule))
        .target("table", table.clone())
        .start()?;
    running.copied().await?;
    shows(&table, 2, Some(r#"{"_id":2,"title":"Lamp 2"}"#)).await?;

    products.update_one(doc! { "_id": 2 }, doc! { "$set": { "title": "Desk" } }).await?;
    shows(&table, 2, Some(r#"{"_id":2,"title":"Desk"}"#)).await?;
    products.delete_one(doc! { "_id": 3 }).await?;
    shows(&table, 3, None).await?;

    let summary = running.stop().await?;
    ensure!(summary.copied == 3, "{summary:?}");
    Ok(())
}

/// Waits until the table holds a product so.
async fn shows(table: &Table, id: i32, expected: Option<&str>) -> Result<()> {
    let mut look = interval(Duration::from_millis(5));
    let arrival = async {
        loop {
            look.tick().await;
            let found = table.json(&format!("own_target.products {id}"))?;
            if found.as_deref() == expected {
                return Ok::<_, rusqlite::Error>(());
            }
        }
    };
    timeout(PATIENCE, arrival).await??;
    println!("product {id} in the table: {}", expected.unwrap_or("none"));
    Ok(())
}
