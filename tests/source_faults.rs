//! The source fails over, restarts, is cut off, or answers with errors: what reads it goes on where
//! it was, and nothing that is rolled back is ever delivered.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client,
    bson::{Binary, Bson, Document, doc, spec::BinarySubtype},
    options::{Acknowledgment, WriteConcern},
};
use mongosync::{
    change::{Namespace, id::IdType},
    source::{Source, namespaces::Size},
};
use mongosync_servers::MongoDb;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        documents::Documents,
        fail_command::FailCommand,
        fault::{Fault, Gate, Moment},
        mongo_proxy::{Command, MongoProxy},
        run::Settings,
        situations::situation,
        tcp_proxy::{Direction, Flow, TcpProxy},
        writers::{Writers, stir},
    },
};

/// Errors of single commands: those that a driver would take for a reason to go on, those of a
/// server that goes down, and connections that are lost. During a copy, then during changes.
#[tokio::test(flavor = "multi_thread")]
async fn each_error_of_the_source_is_got_over() -> Result<()> {
    let world = World::new().await?;
    // What the driver takes for lost it looks at again with its next heartbeat.
    let source = "&appName=struck-source&heartbeatFrequencyMS=500".into();
    let settings = Settings { source, ..Settings::default() };
    let mut documents = Documents::new(1);
    let closed = || doc! { "closeConnection": true };
    let code = |code: i32| doc! { "errorCode": code };
    let rows = [
        ("getMore fails with InterruptedAtShutdown", "getMore", code(11600)),
        ("getMore fails with ShutdownInProgress", "getMore", code(91)),
        ("getMore fails with CursorNotFound", "getMore", code(43)),
        ("getMore fails with NotWritablePrimary", "getMore", code(10107)),
        ("getMore fails with ChangeStreamFatalError", "getMore", code(280)),
        ("getMore loses its connection", "getMore", closed()),
        ("find fails with PrimarySteppedDown", "find", code(189)),
        ("find loses its connection", "find", closed()),
        ("aggregate fails with FailedToSatisfyReadPreference", "aggregate", code(133)),
        ("aggregate loses its connection", "aggregate", closed()),
    ];
    for (number, (name, command, mut data)) in (0..).zip(rows) {
        let mut case = situation(name);
        let (namespace, index) =
            (format!("struck_source.items{number}"), format!("struck_source-items{number}"));
        let items = world.collection(&namespace);
        fill(&items, 1, 2_000).await?;
        let rule = format!(
            "  - namespace: {namespace}\n    copy: {{ chunk: 512KiB }}
    pipeline: [{{ $set: {{ seen: true }} }}, {{ $unset: seen }}]\n    to: search"
        );
        // A pipeline is read by aggregate, plain documents by find.
        let rule = match command {
            "aggregate" => rule,
            _ => {
                format!("  - namespace: {namespace}\n    copy: {{ chunk: 512KiB }}\n    to: search")
            }
        };
        let file = world.rule_file_with(&settings, &rule)?;
        data.insert("failCommands", vec![command]);
        let point = FailCommand::times(&world.client, 4, "struck-source", data.clone()).await?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        let struck = point.end().await?;
        case.compared(&compare(&items, &world.engine, &index).await?)?;

        let point = FailCommand::times(&world.client, 2, "struck-source", data).await?;
        for round in 1..=2 {
            stir(&items, &mut documents, round).await?;
            run.caught_up(&world.client).await?;
        }
        let struck = struck + point.end().await?;
        println!("{name}: struck {struck} times");
        case.compared(&compare(&items, &world.engine, &index).await?)?;
        assert_eq!(file.dead_letters().await?.len(), 0);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// Only the source is behind the proxy.
fn behind(proxy: &MongoProxy, world: &World) -> Settings {
    Settings {
        top: format!("checkpoint: {{ mongodb: {{ uri: \"{}\" }} }}", world.mongo.uri()),
        mongo: Some(proxy.uri()),
        ..Settings::default()
    }
}

/// Requests that are swallowed on connections that stay open: nothing ever comes back. Of the stream
/// and of the copy at one time, then of the lookup of a change.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_never_comes_is_not_waited_for() -> Result<()> {
    let world = World::new().await?;
    let proxy = MongoProxy::start(&world.mongo_address()?).await?;
    let settings = behind(&proxy, &world);
    let items = world.collection("swallowed.items");
    fill(&items, 3, 500).await?;
    let mut case = situation("replies of the source that never come");
    // The plan tries the rule's read with one find.
    let swallow = |name: &'static str, which: usize, gate: &Arc<Gate>| {
        let (seen, fault) = (AtomicUsize::new(0), Fault::Hold(Moment::Before, gate.clone()));
        move |command: &Command| {
            let is_of_items = command.name == "getMore" || command.collection == "items";
            let is_it =
                command.name == name && is_of_items && seen.fetch_add(1, Ordering::AcqRel) == which;
            is_it.then(|| fault.clone())
        }
    };
    let gate = Gate::closed();
    let (stream, copy) = (swallow("getMore", 0, &gate), swallow("find", 1, &gate));
    proxy.play(move |command| stream(command).or_else(|| copy(command)));
    let file = world.rule_file_with(&settings, "  - { namespace: swallowed.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.meets("the stream and the copy", &gate, 2).await?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "swallowed-items").await?)?;

    let gate = Gate::closed();
    proxy.play(swallow("find", 0, &gate));
    items.update_one(doc! { "_id": 1 }, doc! { "$set": { "late": true } }).await?;
    items.delete_one(doc! { "_id": 2 }).await?;
    run.meets("the lookup", &gate, 1).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "swallowed-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A server shows in its stream what it lists a moment later. A plan that took it for gone would leave it out for
/// ever: what the stream shows of it is from before the plan.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_yet_is_not_gone() -> Result<()> {
    let world = World::new().await?;
    let proxy = MongoProxy::start(&world.mongo_address()?).await?;
    let settings = behind(&proxy, &world);
    // The plan looks behind so many others.
    for (database, named, looks) in [("unlisted", "items", 3), ("unlisted_all", "*", 2)] {
        let items = world.collection(&format!("{database}.items"));
        let staged = world.collection(&format!("{database}.staged"));
        fill(&items, 1, 30).await?;
        fill(&staged, 2, 40).await?;
        let file = world.rule_file_with(
            &settings,
            &format!("  - {{ name: {database}, namespace: '{database}.{named}', to: search }}"),
        )?;
        let index = format!("{database}-items");
        // A first plan.
        proxy.leave_out("items", looks);
        let mut run = file.run(&[])?;
        run.copied().await?;
        run.caught_up(&world.client).await?;
        assert_eq!(proxy.to_leave_out(), 0);
        assert_eq!(compare(&items, &world.engine, &index).await?.none()?, 30);
        // One that follows what the stream has shown.
        proxy.leave_out("items", 1);
        let out = doc! { "$out": "items" };
        staged.aggregate([doc! { "$match": { "_id": { "$gte": 20 } } }, out]).await?;
        run.caught_up(&world.client).await?;
        run.copied().await?;
        assert_eq!(proxy.to_leave_out(), 0);
        assert_eq!(compare(&items, &world.engine, &index).await?.none()?, 20);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// What the network between does to the source's connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_to_the_source_that_fails() -> Result<()> {
    let world = World::new().await?;
    let mut proxy = TcpProxy::start(world.mongo_address()?.parse()?).await?;
    let uri = format!(
        "mongodb://{}/?directConnection=true&connectTimeoutMS=1000&serverSelectionTimeoutMS=2000\
         &heartbeatFrequencyMS=500",
        proxy.address()
    );
    let settings = Settings {
        top: format!(
            "checkpoint: {{ every: 100ms, mongodb: {{ uri: \"{}\" }} }}",
            world.mongo.uri()
        ),
        mongo: Some(uri),
        ..Settings::default()
    };
    let items = world.collection("severed.items");
    fill(&items, 2, 6_000).await?;
    let rule = "  - namespace: severed.items\n    copy: { chunk: 512KiB }\n    to: search";
    let file = world.rule_file_with(&settings, rule)?;
    let mut documents = Documents::new(2);

    let mut case = situation("the source's connections are cut all through a copy");
    let mut run = file.run(&[])?;
    for part in 1..=8 {
        run.until("the copy to go on", |status| {
            let copy = &status["targets"]["search"]["rules"]["severed.items"]["copy"];
            copy["complete"] == true || copy["documents"].as_u64() >= Some(part * 600)
        })
        .await?;
        if part % 2 == 0 {
            proxy.reset()
        } else {
            proxy.cut()
        }
        stir(&items, &mut documents, i64::try_from(part)?).await?;
    }
    run.copied().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "severed-items").await?)?;

    let mut round = 100;
    let mut change = async || {
        round += 1;
        stir(&items, &mut documents, round).await
    };
    let mut case = situation("the source's connections are reset among changes");
    for _ in 0..8 {
        let before = proxy.bytes(Direction::FromServer);
        change().await?;
        run.until("an answer", |_| proxy.bytes(Direction::FromServer) > before).await?;
        proxy.reset();
    }
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "severed-items").await?)?;

    let mut case = situation("nobody listens at the source's address for a while");
    proxy.refuse().await;
    proxy.reset();
    change().await?;
    run.until("waiting for the source", |status| {
        status["targets"]["search"]["last_error"].is_string()
    })
    .await?;
    proxy.accept().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "severed-items").await?)?;

    for (name, flow) in [
        ("the line to the source is dead for a while", Flow::Hold),
        ("the line to the source has died, and nobody is told", Flow::Swallow),
    ] {
        let mut case = situation(name);
        proxy.set_both(flow);
        change().await?;
        run.until("waiting for the source", |status| {
            status["targets"]["search"]["last_error"].is_string()
        })
        .await?;
        change().await?;
        proxy.set_both(Flow::Pass);
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "severed-items").await?)?;
    }

    let mut case = situation("what is sent to the source is lost, and what it says comes");
    let before = proxy.connections();
    proxy.set(Direction::ToServer, Flow::Swallow);
    change().await?;
    // Each of them says hello, and waits for the answer for ever.
    run.until("one connection after another", |status| {
        let waits = status["targets"]["search"]["last_error"].is_string();
        waits && proxy.connections() >= before + CONNECTIONS
    })
    .await?;
    change().await?;
    proxy.set(Direction::ToServer, Flow::Pass);
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "severed-items").await?)?;

    let mut case = situation("a slow line to the source");
    proxy.set(Direction::FromServer, Flow::Delay(Duration::from_millis(30)));
    change().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "severed-items").await?)?;
    proxy.set(Direction::FromServer, Flow::Pass);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// More than a driver has under way at once by itself, and those that look at the server.
const CONNECTIONS: u64 = 6;

/// A set of three: elections, a crash of its primary, a restart of all of it, and a write that is
/// rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_set_that_fails_over() -> Result<()> {
    let mut world = World::with_mongo(MongoDb::builder().nodes(3).cache_gb(0.25)).await?;
    let items = world.collection("failover.items");
    fill(&items, 3, 6_000).await?;
    let settings = Settings { top: "checkpoint: { every: 100ms }".into(), ..Settings::default() };
    let rule = "  - namespace: failover.items\n    copy: { chunk: 512KiB }\n    to: search";
    let file = world.rule_file_with(&settings, rule)?;
    let mut writers = Writers::new(&world.client, &items, 3, 6_000, 1_200);
    let mut run = file.run(&[])?;

    let mut case = situation("the primary steps down while a copy runs");
    run.until("the copy to go on", |status| {
        let copy = &status["targets"]["search"]["rules"]["failover.items"]["copy"];
        copy["documents"].as_u64() >= Some(1_000)
    })
    .await?;
    writers.release(200);
    writers.done(100).await?;
    world.mongo.step_down().await?;
    writers.release(400);
    run.copied().await?;
    writers.done(400).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "failover-items").await?)?;

    let mut case = situation("kill -9 of the primary among changes, and its return");
    writers.release(600);
    writers.done(450).await?;
    let primary = world.mongo.primary().await?;
    world.nodes().kill_node(primary).await?;
    writers.release(800);
    writers.done(800).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "failover-items").await?)?;
    world.nodes().restart_node(primary).await?;

    let mut case = situation("the primary steps down, mongosync is killed meanwhile");
    writers.release(1_000);
    writers.done(850).await?;
    world.mongo.step_down().await?;
    run.kill().await?;
    writers.done(1_000).await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "failover-items").await?)?;

    let mut case = situation("the whole replica set is down for a while");
    writers.finish().await?;
    for node in 0..3 {
        world.nodes().kill_node(node).await?;
    }
    run.until("waiting for the source", |status| {
        status["targets"]["search"]["last_error"].is_string()
    })
    .await?;
    restart(world.nodes(), &[0, 1, 2]).await?;
    world.mongo.primary().await?;
    let mut documents = Documents::new(3);
    stir(&items, &mut documents, 1).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "failover-items").await?)?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Starts nodes side by side: one alone would wait for a majority.
async fn restart(set: &mut MongoDb, nodes: &[usize]) -> Result<()> {
    for &node in nodes {
        set.restart_node(node).await?;
    }
    Ok(())
}

/// A primary that has lost the others takes writes that no majority gets, and they are rolled back
/// when it comes back: none of them is ever seen in the target, neither by a copy nor by changes.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_rolls_back_is_never_delivered() -> Result<()> {
    let mut case = situation("writes that the source rolls back, during a copy and changes");
    let mut world = World::with_mongo(MongoDb::builder().nodes(3).cache_gb(0.25)).await?;
    let items = world.collection("rolled.items");
    let late = world.collection("rolled.late");
    items.insert_many((0..500).map(|id| doc! { "_id": id, "n": 0 })).await?;
    late.insert_many((0..500).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    // A store in the source would have to wait for its majority.
    settings.top = "checkpoint: { every: 100ms, file: { path: positions } }".into();
    let followed = "  - namespace: rolled.items\n    to: search";
    let file = world.rule_file_with(&settings, followed)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;

    // The secondaries stop fetching: what is written now stays on the primary.
    let primary = world.mongo.primary().await?;
    let secondaries: Vec<usize> = (0..3).filter(|node| *node != primary).collect();
    for &node in &secondaries {
        replication(&world.mongo.node_client(node), "alwaysOn").await?;
    }
    let alone = world.mongo.node_client(primary);
    let unsure = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    for name in ["items", "late"] {
        let collection = alone.database("rolled").collection::<Document>(name);
        let doomed = collection.clone();
        doomed
            .update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "doomed": true } })
            .write_concern(unsure.clone())
            .await?;
        let more = (1_000..1_100).map(|id| doc! { "_id": id, "doomed": true });
        doomed.insert_many(more).write_concern(unsure.clone()).await?;
        doomed
            .delete_many(doc! { "_id": { "$gte": 400, "$lt": 500 } })
            .write_concern(unsure.clone())
            .await?;
        assert_eq!(collection.count_documents(doc! { "doomed": true }).await?, 200);
    }
    // A copy is made while they are there.
    let copied = world.rule_file_with(&settings, "  - namespace: rolled.late\n    to: search")?;
    let mut copy = copied.run(&[])?;
    copy.copied().await?;

    world.nodes().kill_node(primary).await?;
    for &node in &secondaries {
        replication(&world.mongo.node_client(node), "off").await?;
    }
    world.mongo.primary().await?;
    world.nodes().restart_node(primary).await?;
    for collection in [&items, &late] {
        assert_eq!(collection.count_documents(doc! { "doomed": true }).await?, 0);
        assert_eq!(collection.count_documents(doc! {}).await?, 500);
        collection.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 1 } }).await?;
    }
    run.caught_up(&world.client).await?;
    copy.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "rolled-items").await?)?;
    case.compared(&compare(&late, &world.engine, "rolled-late").await?)?;
    for operation in endpoint.history().operations() {
        let id: u32 = operation.place.id.parse().context("a number")?;
        ensure!(id < 1_000 && operation.op == "index", "{operation:?} was delivered");
    }
    assert_eq!(hits(&world.engine, "rolled-*").await?.len(), 1_000);
    assert!(run.terminate().await?.success());
    assert!(copy.terminate().await?.success());
    Ok(())
}

/// Documents may be read from a member that lags; what there is is asked of the primary, since a list
/// bears no time, and a collection that it leaves out would never be copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_hides_no_collection() -> Result<()> {
    let mongo = MongoDb::builder().nodes(3).cache_gb(0.25).start().await?;
    let primary = mongo.primary().await?;
    let secondaries: Vec<usize> = (0..3).filter(|node| *node != primary).collect();
    for &node in &secondaries {
        replication(&mongo.node_client(node), "alwaysOn").await?;
    }
    let unsure = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    let items = mongo.node_client(primary).database("hidden").collection::<Document>("items");
    items.insert_one(doc! { "_id": 1 }).write_concern(unsure).await?;
    let uri = format!("{}&readPreference=secondary", mongo.uri());
    let source = source(&uri).await?;
    ensure!(source.databases().await?.contains(&"hidden".to_owned()));
    assert_eq!(source.collections("hidden").await?.len(), 1);
    assert_eq!(source.collection_ids("hidden").await?.map(|ids| ids.len()), Some(1));
    for &node in &secondaries {
        replication(&mongo.node_client(node), "off").await?;
    }
    Ok(())
}

/// Whatever the types of a collection's `_id`s, looking for them reads a key of each, and not the index
/// from end to end.
#[tokio::test(flavor = "multi_thread")]
async fn the_types_of_ids_are_found_without_a_walk_through_them() -> Result<()> {
    let mongo = MongoDb::start().await?;
    let database = mongo.client().database("typed");
    database.run_command(doc! { "profile": 2 }).await?;
    let ids: [fn(i32) -> Bson; 4] = [
        |id| Bson::Int32(id),
        |id| Bson::String(format!("k{id}")),
        |id| Bson::Double(f64::from(id) + 0.5),
        |id| {
            Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: id.to_be_bytes().into() })
        },
    ];
    let source = source(mongo.uri()).await?;
    let profile = database.collection::<Document>("system.profile");
    for (number, make) in ids.into_iter().enumerate() {
        let name = format!("ids{number}");
        let collection = database.collection::<Document>(&name);
        collection.insert_many((0..500).map(|id| doc! { "_id": make(id) })).await?;
        let found = source.id_types(&Namespace::new("typed", &name)).await?;
        ensure!(!found.is_empty(), "{name}");
        let ours = doc! { "op": "query", "ns": format!("typed.{name}") };
        let looks: Vec<Document> = profile.find(ours).await?.try_collect().await?;
        assert_eq!(looks.len(), 2, "{looks:?}");
        for look in looks {
            ensure!(look.get_i32("keysExamined")? <= 2, "{look:?}");
        }
    }
    let mixed = database.collection::<Document>("mixed");
    let all = ids.iter().flat_map(|make| (0..500).map(|id| doc! { "_id": make(id) }));
    mixed.insert_many(all).await?;
    let found = source.id_types(&Namespace::new("typed", "mixed")).await?;
    assert_eq!(
        found,
        [IdType::Number, IdType::String, IdType::Uuid, IdType::Binary].into_iter().collect()
    );
    let ours = doc! { "op": "query", "ns": "typed.mixed" };
    let looks: Vec<Document> = profile.find(ours).await?.try_collect().await?;
    assert_eq!(looks.len(), 2 + 12, "{looks:?}");
    for look in looks {
        ensure!(look.get_i32("keysExamined")? <= 2, "{look:?}");
    }
    assert!(source.id_types(&Namespace::new("typed", "none")).await?.is_empty());
    Ok(())
}

/// What it is cut up by is counted along by the server, also where that has to be asked for in another way.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_as_large_as_the_server_counts() -> Result<()> {
    let mongo = MongoDb::start().await?;
    let database = mongo.client().database("sized");
    let items = database.collection::<Document>("items");
    let all: Vec<Document> =
        (0..100).map(|id| doc! { "_id": id, "text": "x".repeat(100) }).collect();
    let bytes =
        all.iter().map(|it| it.to_vec().map(|it| it.len() as u64)).sum::<Result<u64, _>>()?;
    items.insert_many(all).await?;
    let view = doc! { "create": "view", "viewOn": "items", "pipeline": [] };
    database.run_command(view).await?;
    let source = source(mongo.uri()).await?;
    let size = async |name| source.size(&Namespace::new("sized", name)).await;
    assert_eq!(size("items").await?, Size { documents: 100, bytes });
    assert_eq!(size("view").await?, Size::default());
    assert_eq!(size("none").await?, Size::default());
    let refused = |code: i32| {
        doc! {
            "configureFailPoint": "failCommand", "mode": "alwaysOn",
            "data": { "failCommands": ["dataSize"], "errorCode": code },
        }
    };
    let admin = mongo.client().database("admin");
    admin.run_command(refused(59)).await?;
    assert_eq!(size("items").await?, Size { documents: 100, bytes });
    assert_eq!(size("none").await?, Size::default());
    admin.run_command(refused(13)).await?;
    assert!(size("items").await.is_err());
    Ok(())
}

/// The source as a rule file reads it.
async fn source(uri: &str) -> Result<Source> {
    let text = format!(
        "source: '{uri}'\ntargets: {{ out: {{ stdout: {{}} }} }}\nrules: [{{ namespace: a.b, to: out }}]"
    );
    let loaded = mongosync::rules::parse(&text, Path::new("source.yaml"), &|_| None);
    let loaded = loaded.map_err(|report| anyhow!("{report:?}"))?;
    Ok(Source::connect(&loaded.rules.source, Duration::from_secs(30)).await?)
}

/// Lets a secondary fetch from its primary, or keeps it from that.
async fn replication(node: &Client, mode: &str) -> Result<()> {
    let stop = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    node.database("admin").run_command(stop).await?;
    Ok(())
}
