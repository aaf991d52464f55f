//! The servers as tests use them: each starts, does its work, fails as asked and ends with its
//! handle.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::{Collection, change_stream::event::OperationType};
use mongosync_servers::{Engine, MongoDb};

fn products(set: &MongoDb) -> Collection<Document> {
    set.client().database("shop").collection("products")
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Runs `start` and prints how long it took, shown with `--nocapture`.
async fn timed<T>(what: &str, start: impl Future<Output = Result<T>>) -> Result<T> {
    let began = Instant::now();
    let server = start.await?;
    println!("{what}: {:.1} s", began.elapsed().as_secs_f64());
    Ok(server)
}

#[tokio::test]
async fn a_single_node_takes_writes_and_streams_changes() -> Result<()> {
    let set = timed("MongoDB, one node", MongoDb::start()).await?;
    let products = products(&set);
    products.insert_one(doc! { "_id": 0 }).await?;
    let mut changes = products.watch().await?;
    products.insert_one(doc! { "_id": 1, "title": "Lamp" }).await?;
    let change = loop {
        if let Some(change) = changes.next_if_any().await? {
            break change;
        }
    };
    assert_eq!(change.operation_type, OperationType::Insert);
    assert_eq!(change.document_key, Some(doc! { "_id": 1 }));
    Ok(())
}

#[tokio::test]
async fn a_set_with_a_login_lets_nobody_else_in() -> Result<()> {
    let set = MongoDb::builder().login("root", "secret").start().await?;
    products(&set).insert_one(doc! { "_id": 1 }).await?;
    let anybody = mongodb::Client::with_uri_str(set.uri().replace("root:secret@", "")).await?;
    let found = anybody.database("shop").collection::<Document>("products").find_one(doc! {}).await;
    ensure!(found.is_err_and(|error| error.to_string().contains("requires authentication")));
    Ok(())
}

#[tokio::test]
async fn a_single_node_steps_down_and_comes_back() -> Result<()> {
    let mut set = MongoDb::start().await?;
    set.step_down().await?;
    assert_eq!(set.primary().await?, 0);
    products(&set).insert_one(doc! { "_id": 1 }).await?;
    timed("MongoDB, stop", set.stop_node(0)).await?;
    assert_eq!(set.node_pid(0), None);
    timed("MongoDB, restart", set.restart_node(0)).await?;
    set.primary().await?;
    assert_eq!(products(&set).count_documents(doc! {}).await?, 1);
    Ok(())
}

#[tokio::test]
async fn three_nodes_fail_over_when_the_primary_is_killed() -> Result<()> {
    let start = MongoDb::builder().nodes(3).oplog_size_mb(990).start();
    let mut set = timed("MongoDB, three nodes", start).await?;
    let products = products(&set);
    products.insert_one(doc! { "_id": 1 }).await?;

    let first = set.primary().await?;
    set.kill_node(first).await?;
    let second = timed("MongoDB, election after a crash", set.primary()).await?;
    assert_ne!(first, second);
    products.insert_one(doc! { "_id": 2 }).await?;

    timed("MongoDB, restart of a killed node", set.restart_node(first)).await?;
    let before = set.primary().await?;
    set.step_down().await?;
    let after = timed("MongoDB, handover", set.primary()).await?;
    assert_ne!(before, after);
    products.insert_one(doc! { "_id": 3 }).await?;
    assert_eq!(products.count_documents(doc! {}).await?, 3);
    assert!(set.log_tail().contains("node 2:"));
    Ok(())
}

#[tokio::test]
async fn a_fail_command_failpoint_can_be_set() -> Result<()> {
    let set = MongoDb::builder().parameter("periodicNoopIntervalSecs", "1").start().await?;
    let admin = set.client().database("admin");
    let failpoint = doc! {
        "configureFailPoint": "failCommand",
        "mode": { "times": 1 },
        "data": { "failCommands": ["insert"], "errorCode": 2 },
    };
    admin.run_command(failpoint).await?;
    let products = products(&set);
    let error = products.insert_one(doc! { "_id": 1 }).await.unwrap_err();
    assert!(error.to_string().contains("failCommand"), "{error}");
    products.insert_one(doc! { "_id": 1 }).await?;

    let parameters = doc! {
        "getParameter": 1, "periodicNoopIntervalSecs": 1, "diagnosticDataCollectionEnabled": 1,
    };
    let parameters = admin.run_command(parameters).await?;
    assert_eq!(parameters.get_i32("periodicNoopIntervalSecs")?, 1);
    assert!(!parameters.get_bool("diagnosticDataCollectionEnabled")?);
    Ok(())
}

#[tokio::test]
async fn a_set_that_does_not_come_up_shows_its_log() {
    let error = MongoDb::builder().parameter("noSuchParameter", "1").start().await.err().unwrap();
    let error = format!("{error:#}");
    assert!(error.contains("noSuchParameter"), "{error}");
}

#[tokio::test]
async fn elasticsearch_indexes_and_survives_a_crash_and_a_restart() -> Result<()> {
    let start = Engine::elasticsearch().heap("512m").start();
    let engine = timed("Elasticsearch", start).await?;
    indexes_and_survives(engine, "7.10.2").await
}

#[tokio::test]
async fn opensearch_indexes_and_survives_a_crash_and_a_restart() -> Result<()> {
    let start = Engine::opensearch().heap("512m").for_throughput().start();
    let engine = timed("OpenSearch", start).await?;
    indexes_and_survives(engine, "2.18.0").await
}

async fn indexes_and_survives(mut engine: Engine, version: &str) -> Result<()> {
    let expect = async |engine: &Engine, method, path, body, status, contains: &str| {
        let answer = engine.request(method, path, body).await?;
        ensure!(answer.status == status && answer.body.contains(contains), "{path}: {answer:?}");
        Ok(())
    };
    let number = format!(r#""number" : "{version}""#);
    expect(&engine, "GET", "/", "", 200, &number).await?;
    let pipeline = r#"{"processors": [{"set": {"field": "seen", "value": true}}]}"#;
    expect(&engine, "PUT", "/_ingest/pipeline/see", pipeline, 200, "true").await?;
    let bulk = "{\"index\":{\"_id\":\"1\"}}\n{\"title\":\"Lamp\"}\n";
    expect(&engine, "POST", "/products/_bulk?pipeline=see", bulk, 200, "\"errors\":false").await?;
    let url = engine.url();

    engine.kill().await?;
    assert_eq!(engine.pid(), None);
    assert!(engine.request("GET", "/", "").await.is_err());
    timed("  restart after a crash", engine.restart()).await?;
    expect(&engine, "GET", "/products/_source/1", "", 200, "Lamp").await?;

    timed("  stop", engine.stop()).await?;
    timed("  restart after a stop", engine.restart()).await?;
    assert_eq!(engine.url(), url);
    expect(&engine, "GET", "/products/_source/1", "", 200, "\"seen\":true").await?;

    let pid = engine.pid().context("it runs")?;
    drop(engine);
    assert!(!alive(pid));
    Ok(())
}

#[tokio::test]
async fn an_engine_takes_settings() -> Result<()> {
    let engine = Engine::opensearch().setting("action.auto_create_index", "false").start().await?;
    let answer = engine.request("PUT", "/products/_doc/1", "{}").await?;
    assert_eq!(answer.status, 404, "{answer:?}");
    let error = Engine::opensearch().setting("no.such.setting", "1").start().await.err().unwrap();
    assert!(format!("{error:#}").contains("no.such.setting"), "{error:#}");
    Ok(())
}

#[tokio::test]
async fn dropping_a_handle_ends_its_processes() -> Result<()> {
    let set = MongoDb::builder().nodes(2).start().await?;
    let pids = [0, 1].map(|node| set.node_pid(node).unwrap());
    assert!(pids.into_iter().all(alive));
    drop(set);
    assert!(!pids.into_iter().any(alive));
    Ok(())
}

/// The test binary runs itself once more as the owner of a server, and is killed.
#[tokio::test]
async fn a_server_does_not_outlive_an_owner_that_was_killed() -> Result<()> {
    const NAME: &str = "a_server_does_not_outlive_an_owner_that_was_killed";
    const OWNER: &str = "MONGOSYNC_SERVERS_TEST_OWNER";
    if std::env::var_os(OWNER).is_some() {
        let set = MongoDb::start().await?;
        println!("\nserver {} {}", set.node_pid(0).context("it runs")?, set.node_uri(0));
        return std::future::pending().await;
    }
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", NAME, "--nocapture"])
        .env(OWNER, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(owner.stdout.take().context("a piped stdout")?);
    let line = output.lines().map_while(Result::ok).find(|line| line.starts_with("server "));
    let line = line.context("the owner says which server it has")?;
    let pid: u32 = line.split(' ').nth(1).context("a process id")?.parse()?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let data = command.split('\0').find(|part| part.ends_with("/db")).context("--dbpath")?;
    let address = line.split(['/', ' ']).find(|part| part.starts_with("127.")).context("a host")?;
    let mut connection = TcpStream::connect(address)?;

    owner.kill()?;
    owner.wait()?;
    // The end of the connection is the end of the server; its folder goes right after it.
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let end = connection.read(&mut [0]);
    ensure!(
        matches!(end, Ok(0))
            || end.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock)
    );
    let set = Path::new(data).ancestors().nth(2).context("the set's folder")?;
    let gone = async {
        while alive(pid) || set.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone).await.context("it is still there")
}
