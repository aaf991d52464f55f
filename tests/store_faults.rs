//! The checkpoint store fails: it is full, away, slow or refuses. Nothing may count as settled that
//! it does not hold, and nothing is lost.

use anyhow::{Result, ensure};
use mongodb::bson::{Document, doc};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::{
    load::fill,
    support::{
        World,
        checker::{body, compare, compare_shaped},
        documents::Documents,
        fail_command::FailCommand,
        run::{RuleFile, Run, Settings},
        situations::situation,
        tcp_proxy::{Direction, Flow, TcpProxy},
        writers::stir,
    },
};

/// Blocks of 512 bytes, as `ulimit` counts them, that any file of the process may have.
const BLOCKS: u32 = 400;

/// The process gets `EFBIG` instead of the signal that would end it.
fn on_a_small_disk(file: &RuleFile) -> Result<Run> {
    file.run_after(&format!("trap '' XFSZ; ulimit -S -f {BLOCKS}"), &[])
}

/// From now on its files may grow again.
fn make_room(run: &Run) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(run.pid()?)?);
    prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None })?;
    Ok(())
}

/// A store in a folder whose disk is full, from the middle of a copy on. The log is on it too.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_a_file_on_a_full_disk() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("crammed.items");
    let kinds = ["red", "green", "blue"];
    let kind = |id: i64| kinds[usize::try_from(id % 3).expect("not negative")];
    let document = |id: i64| doc! { "_id": id, "kind": kind(id), "n": 0 };
    items.insert_many((0..3_000).map(document)).await?;
    // Where a document lies is stored, so that the store grows with the documents.
    let settings = Settings {
        top: "checkpoint: { every: 100ms, file: { path: positions } }".into(),
        engine: ", batch: { max_actions: 100 }".into(),
        ..Settings::default()
    };
    let rules =
        "  - namespace: crammed.items\n    to: [{ target: search, index: 'crammed-{kind}' }]";
    let file = world.rule_file_with(&settings, rules)?;
    let full = "checkpoint store can't be used";
    let mut first = situation("a full disk under a store in a file, kill -9, room");
    let mut run = on_a_small_disk(&file)?;
    run.says(full).await?;
    items.delete_many(doc! { "_id": { "$mod": [10, 3] } }).await?;
    run.kill().await?;
    let mut second = situation("a full disk under a store in a file, then room");
    let mut run = on_a_small_disk(&file)?;
    run.says(full).await?;
    let moved = vec![doc! { "$set": { "kind": "blue", "n": 1 } }];
    items.update_many(doc! { "_id": { "$mod": [7, 3] } }, moved).await?;
    make_room(&run)?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    for case in [&mut first, &mut second] {
        for kind in kinds {
            let here = |document: &Document| {
                let id = document.get_i64("_id").expect("a number").to_string();
                let here = document.get_str("kind").expect("a kind") == kind;
                here.then(|| (id, body(document)))
            };
            let index = format!("crammed-{kind}");
            case.compared(&compare_shaped(&items, &world.engine, &index, here).await?)?;
        }
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A store in MongoDB whose writes fail for a while, in every way in which that passes.
#[tokio::test(flavor = "multi_thread")]
async fn each_error_of_a_store_in_mongodb_is_got_over() -> Result<()> {
    let world = World::new().await?;
    let name = "struck-store";
    let options = format!("&appName={name}&heartbeatFrequencyMS=500");
    let uri = format!("{}{options}", world.mongo.uri());
    let settings = Settings {
        top: format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{uri}\" }} }}"),
        ..Settings::default()
    };
    let mut documents = Documents::new(1);
    let commands =
        || doc! { "failCommands": ["update", "find", "findAndModify", "insert", "delete"] };
    let with = |field: &str, value: mongodb::bson::Bson| {
        let mut data = commands();
        data.insert(field, value);
        data
    };
    let concern = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    let rows = [
        ("the store fails with OutOfDiskSpace", with("errorCode", 14031.into())),
        ("the store fails with NotWritablePrimary", with("errorCode", 10107.into())),
        ("the store fails with MaxTimeMSExpired", with("errorCode", 50.into())),
        ("the store's writes get no majority in time", with("writeConcernError", concern.into())),
        ("the store loses its connections", with("closeConnection", true.into())),
    ];
    for (number, (name_of_case, data)) in (0..).zip(rows) {
        let mut case = situation(name_of_case);
        let (namespace, index) =
            (format!("struck_store.items{number}"), format!("struck_store-items{number}"));
        let items = world.collection(&namespace);
        fill(&items, 1, 500).await?;
        let rule =
            format!("  - namespace: {namespace}\n    copy: {{ chunk: 64KiB }}\n    to: search");
        let file = world.rule_file_with(&settings, &rule)?;
        // From the first call on; then at the next ones; then until the process is killed.
        let point = FailCommand::times(&world.client, 6, name, data.clone()).await?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        point.end().await?;
        let point = FailCommand::times(&world.client, 4, name, data.clone()).await?;
        stir(&items, &mut documents, 1).await?;
        run.caught_up(&world.client).await?;
        point.end().await?;
        case.compared(&compare(&items, &world.engine, &index).await?)?;

        let point = FailCommand::always(&world.client, name, data).await?;
        stir(&items, &mut documents, 2).await?;
        run.says("the lease could not be renewed").await?;
        run.kill().await?;
        point.end().await?;
        stir(&items, &mut documents, 3).await?;
        let mut run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, &index).await?)?;
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// What stays as it is until a person does something ends the process; nothing is lost by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_for_good_ends_the_process() -> Result<()> {
    let mut case = situation("the store fails with Unauthorized, and mongosync ends");
    let world = World::new().await?;
    let name = "refusing-store";
    let uri = format!("{}&appName={name}", world.mongo.uri());
    let settings = Settings {
        top: format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{uri}\" }} }}"),
        ..Settings::default()
    };
    let items = world.collection("forbidden.items");
    fill(&items, 2, 500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: forbidden.items\n    to: search")?;
    let mut documents = Documents::new(2);
    let mut run = file.run(&[])?;
    run.copied().await?;
    let refuse = doc! { "failCommands": ["update"], "errorCode": 13 };
    let point = FailCommand::always(&world.client, name, refuse).await?;
    stir(&items, &mut documents, 1).await?;
    let ended = run.ended().await?;
    assert_eq!(ended.code(), Some(1));
    point.end().await?;
    stir(&items, &mut documents, 2).await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "forbidden-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A store that can't be reached, at the start and later. The lease runs out meanwhile: nothing is
/// delivered then, and all of it afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for() -> Result<()> {
    let world = World::new().await?;
    let mut proxy = TcpProxy::start(world.mongo_address()?.parse()?).await?;
    let uri = format!(
        "mongodb://{}/?directConnection=true&heartbeatFrequencyMS=500&serverSelectionTimeoutMS=1000",
        proxy.address()
    );
    let settings = Settings {
        top: format!("checkpoint: {{ every: 50ms, mongodb: {{ uri: \"{uri}\" }} }}"),
        ..Settings::default()
    };
    let items = world.collection("afar.items");
    fill(&items, 3, 500).await?;
    let file = world.rule_file_with(&settings, "  - namespace: afar.items\n    to: search")?;
    let mut documents = Documents::new(3);

    let mut case = situation("nobody listens at the store's address at the start");
    proxy.refuse().await;
    let mut run = file.run(&[])?;
    run.says("the checkpoint store").await?;
    proxy.accept().await?;
    run.copied().await?;
    case.compared(&compare(&items, &world.engine, "afar-items").await?)?;

    let mut case = situation("nobody listens at the store's address for longer than the lease");
    proxy.refuse().await;
    proxy.reset();
    stir(&items, &mut documents, 1).await?;
    run.says("the lease could not be renewed").await?;
    stir(&items, &mut documents, 2).await?;
    let (ready, reasons) = run.get("/healthz").await.unwrap_or_default();
    ensure!(ready == 200, "{reasons}");
    proxy.accept().await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "afar-items").await?)?;

    let mut case = situation("SIGTERM while the store is away");
    proxy.refuse().await;
    proxy.reset();
    stir(&items, &mut documents, 3).await?;
    assert!(run.terminate().await?.success());
    proxy.accept().await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "afar-items").await?)?;

    let mut case = situation("what is sent to the store is lost, and what it says comes");
    let before = proxy.connections();
    proxy.set(Direction::ToServer, Flow::Swallow);
    stir(&items, &mut documents, 4).await?;
    run.says("the lease could not be renewed").await?;
    // Each of them says hello, and waits for the answer for ever.
    run.until("one connection after another", |_| proxy.connections() >= before + 6).await?;
    proxy.set(Direction::ToServer, Flow::Pass);
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "afar-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}
