//! The checkpoint stores: each does what the contract says, and what is particular to MongoDB.

pub mod conformance;

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use bson::{Document, doc, rawdoc};
use mongodb::Client;
use mongosync::checkpoint::{
    file::FileStore,
    lease::{self, Identity},
    memory::MemoryStore,
    mongodb::MongoStore,
    store::{RecordKey, Store, StoreError, Table, Write},
};
use mongosync_servers::MongoDb;
use tokio_util::sync::CancellationToken;

use self::conformance::{Stores, conformance};

struct InMemory(std::collections::HashMap<String, MemoryStore>);

impl Stores for InMemory {
    async fn open(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        let first = self.0.entry(name.to_owned()).or_insert_with(|| MemoryStore::new(name));
        Ok(Arc::new(first.another()))
    }
}

struct InFolder(tempfile::TempDir);

impl Stores for InFolder {
    async fn open(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(FileStore::open(self.0.path().join("state"), name).await?))
    }
}

struct InMongoDb<'a> {
    server: &'a MongoDb,
    database: &'static str,
}

impl Stores for InMongoDb<'_> {
    /// Each with a client of its own, as processes have.
    async fn open(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(MongoStore::open(&self.server.client(), self.database, name)))
    }
}

#[tokio::test]
async fn the_store_in_memory_conforms() -> Result<()> {
    conformance(&mut InMemory(Default::default())).await
}

#[tokio::test]
async fn the_store_in_a_file_conforms() -> Result<()> {
    conformance(&mut InFolder(tempfile::tempdir()?)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_mongodb_conforms() -> Result<()> {
    let server = MongoDb::start().await?;
    conformance(&mut InMongoDb { server: &server, database: "mongosync" }).await?;
    an_interrupted_takeover_loses_nothing(&server).await?;
    records_can_be_read_by_people(&server).await?;
    the_clients_own_concerns_do_not_weaken_it(&server).await
}

fn position(text: &str, value: i32) -> Write {
    let value = Some(rawdoc! { "n": value });
    Write { table: Table::Positions, key: RecordKey::text(&[text]), value }
}

/// The process that takes over is itself killed between raising the epoch and the last stamp.
async fn an_interrupted_takeover_loses_nothing(server: &MongoDb) -> Result<()> {
    let mut stores = InMongoDb { server, database: "interrupted" };
    let first = stores.open("shop").await?;
    first.fence(1).await?;
    first.write(vec![position("a", 1), position("b", 1)]).await?;
    let database = server.client().database("interrupted");
    let fences = database.collection::<Document>("fences");
    fences.update_one(doc! { "_id": "shop" }, doc! { "$set": { "epoch": 2_i64 } }).await?;
    let positions = database.collection::<Document>("positions");
    let one = doc! { "key": ["a"] };
    positions.update_one(one, doc! { "$set": { "epoch": 2_i64 } }).await?;

    let third = stores.open("shop").await?;
    third.fence(3).await?;
    let all = third.scan(Table::Positions, &RecordKey::text(&[]), None, 10).await?;
    assert_eq!(all.len(), 2);
    assert!(matches!(first.write(vec![position("b", 2)]).await, Err(StoreError::LostLease { .. })));
    // What a shut-out process inserts nevertheless is swept by the next takeover but one.
    let stale = first.write(vec![position("c", 1)]).await;
    assert!(matches!(stale, Err(StoreError::LostLease { .. })));
    assert_eq!(positions.count_documents(doc! {}).await?, 3);
    third.fence(4).await?;
    third.fence(5).await?;
    assert_eq!(positions.count_documents(doc! {}).await?, 2);
    Ok(())
}

async fn records_can_be_read_by_people(server: &MongoDb) -> Result<()> {
    let mut stores = InMongoDb { server, database: "readable" };
    let store = stores.open("shop").await?;
    store.fence(7).await?;
    let key = RecordKey::text(&["search", "shop.products"]).with([0xff, 0]);
    let value = Some(rawdoc! { "n": 1 });
    store.write(vec![Write { table: Table::Facts, key, value }]).await?;
    let facts = server.client().database("readable").collection::<Document>("facts");
    let found = facts.find_one(doc! { "name": "shop" }).await?.expect("it was written");
    assert_eq!(
        found,
        doc! {
            "_id": "shop\u{1}search\u{1}shop.products\u{1}ÿ\u{2}\u{3}\u{1}",
            "name": "shop",
            "key": ["search", "shop.products", "ff00"],
            "epoch": 7_i64,
            "v": { "n": 1 },
        }
    );
    Ok(())
}

/// A source's URI may ask for secondaries and for less than a majority.
async fn the_clients_own_concerns_do_not_weaken_it(server: &MongoDb) -> Result<()> {
    let options = "&readPreference=secondary&readConcernLevel=local&w=0&journal=false";
    let client = Client::with_uri_str(format!("{}{options}", server.uri())).await?;
    let store = MongoStore::open(&client, "weak", "shop");
    store.fence(1).await?;
    store.write(vec![position("a", 1)]).await?;
    let key = RecordKey::text(&["a"]);
    assert_eq!(store.get(Table::Positions, &key).await?, Some(rawdoc! { "n": 1 }));
    assert!(store.swap(&key, None, &rawdoc! { "n": 1 }).await?);
    assert!(!store.swap(&key, None, &rawdoc! { "n": 2 }).await?);
    Ok(())
}

async fn fail(server: &MongoDb, mode: Document, data: Document) -> Result<()> {
    let mut command = doc! { "configureFailPoint": "failCommand", "mode": mode };
    let mut data = data;
    data.insert("appName", "store-under-test");
    command.insert("data", data);
    server.node_client(0).database("admin").run_command(command).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_mongodb_are_tried_again_and_told_apart() -> Result<()> {
    let server = MongoDb::start().await?;
    let uri = format!("{}&appName=store-under-test", server.uri());
    let store = MongoStore::open(&Client::with_uri_str(uri).await?, "mongosync", "shop");
    store.fence(1).await?;

    let update = |code: i32| doc! { "failCommands": ["update"], "errorCode": code };
    fail(&server, doc! { "times": 2 }, update(89)).await?;
    store.write(vec![position("a", 1)]).await?;

    let cut = doc! { "failCommands": ["update", "find"], "closeConnection": true };
    fail(&server, doc! { "times": 1 }, cut).await?;
    store.write(vec![position("a", 2)]).await?;

    let late = doc! {
        "failCommands": ["update"],
        "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
    };
    fail(&server, doc! { "times": 1 }, late.clone()).await?;
    store.write(vec![position("a", 3)]).await?;
    fail(&server, doc! { "times": 3 }, late).await?;
    let error = store.write(vec![position("a", 4)]).await.unwrap_err();
    assert!(error.passes(), "{error:?}");

    fail(&server, doc! { "times": 3 }, update(89)).await?;
    let error = store.write(vec![position("a", 5)]).await.unwrap_err();
    assert!(error.passes(), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the checkpoint store in the MongoDB database \"mongosync\" can't be used now"
    );

    fail(&server, doc! { "times": 1 }, update(13)).await?;
    let error = store.write(vec![position("a", 6)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Broken { .. }), "{error:?}");

    let find = doc! { "failCommands": ["find"], "errorCode": 89 };
    fail(&server, doc! { "times": 2 }, find).await?;
    let found = store.get(Table::Positions, &RecordKey::text(&["a"])).await?;
    assert!(found.is_some());

    // A single node that steps down is primary again after some seconds.
    server.step_down().await?;
    loop {
        match store.write(vec![position("a", 7)]).await {
            Ok(()) => break,
            Err(error) => assert!(error.passes(), "{error:?}"),
        }
    }
    let found = store.get(Table::Positions, &RecordKey::text(&["a"])).await?;
    assert_eq!(found, Some(rawdoc! { "n": 7 }));
    Ok(())
}

/// Two processes with one name: one works, the other has to wait, and gets everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_in_mongodb_goes_from_hand_to_hand() -> Result<()> {
    let server = MongoDb::start().await?;
    let mut stores = InMongoDb { server: &server, database: "mongosync" };
    let identity = |host: &str| Identity {
        name: "shop".into(),
        file: "/srv/shop.yaml".into(),
        host: host.into(),
        pid: 1,
        started: String::new(),
        boot: String::new(),
    };
    let (here, there) = (identity("here"), identity("there"));
    let never = CancellationToken::new();
    let (first, second) = (stores.open("shop").await?, stores.open("shop").await?);

    let held = lease::acquire(Arc::clone(&first), &here, |_| {}, &never).await?;
    first.write(vec![position("a", 1)]).await?;
    // Cancelled once it has seen that the holder lives.
    let (stop, cancel) = (CancellationToken::new(), CancellationToken::new());
    let behind = cancel.clone();
    let tell = move |standby: &lease::Standby| {
        if standby.alive {
            behind.cancel();
        }
    };
    let (kept, ()) = tokio::join!(held.keep(&stop), async {
        let waited = lease::acquire(Arc::clone(&second), &there, tell, &cancel).await;
        assert!(matches!(waited, Err(lease::AcquireError::Cancelled)));
        stop.cancel();
    });
    kept?;
    held.release().await?;

    let began = std::time::Instant::now();
    let next = lease::acquire(Arc::clone(&second), &there, |_| {}, &never).await?;
    assert!(began.elapsed() < Duration::from_secs(2), "a lease that was given back is free");
    assert_eq!(next.epoch(), 2);
    let lost = first.write(vec![position("a", 2)]).await;
    assert!(matches!(lost, Err(StoreError::LostLease { .. })));
    second.write(vec![position("b", 2)]).await?;
    let all = second.scan(Table::Positions, &RecordKey::text(&[]), None, 10).await?;
    assert_eq!(all.len(), 2);

    // The holder dies without a word.
    drop(next);
    let died = std::time::Instant::now();
    let last = lease::acquire(Arc::clone(&first), &here, |_| {}, &never).await?;
    assert!(died.elapsed() < Duration::from_secs(10), "{:?}", died.elapsed());
    assert_eq!(last.epoch(), 3);
    first.write(vec![position("a", 3)]).await?;
    Ok(())
}
