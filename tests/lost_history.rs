//! An oplog that really forgets, and a source that is really another one.

use anyhow::{Result, ensure};
use mongodb::bson::{Document, Timestamp, doc};
use mongosync_servers::MongoDb;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        documents::Documents,
        oplog,
        run::{Run, Settings, cluster_time},
        situations::situation,
        writers::stir,
    },
};

/// Everything is settled, and what had to be copied again is.
async fn at_rest(run: &mut Run, world: &World) -> Result<()> {
    run.caught_up(&world.client).await?;
    run.copied().await
}

fn settings() -> Settings {
    Settings { top: "checkpoint: { every: 100ms }".into(), ..Settings::default() }
}

/// While mongosync runs, while it does not, and while its target is away.
#[tokio::test(flavor = "multi_thread")]
async fn an_oplog_that_forgets() -> Result<()> {
    let world = World::with_mongo(oplog::small()).await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 100 }";
    let items = world.collection("forgotten.items");
    fill(&items, 1, 500).await?;
    let rule = "  - namespace: forgotten.items\n    to: search";
    let file = world.rule_file_with(&settings, rule)?;
    let strict = rule.replace("items\n", "items\n    on_history_lost: stop\n");
    let strict = world.rule_file_with(
        &settings,
        &strict.replace("to: search", "to: [{ target: search, index: forgotten-strict }]"),
    )?;
    let mut documents = Documents::new(1);
    let lost = "history lost";

    let mut case = situation("the oplog rolls over while a namespace is quiet");
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    oplog::roll_over(&world.client).await?;
    run.caught_up(&world.client).await?;
    // A kill would leave a position of a moment before, which may be gone.
    assert!(run.terminate().await?.success());
    stir(&items, &mut documents, 1).await?;
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    case.compared(&compare(&items, &world.engine, "forgotten-items").await?)?;
    ensure!(!run.log().contains(lost), "{}", run.log());
    assert!(run.terminate().await?.success());
    let mut run = strict.run(&[])?;
    at_rest(&mut run, &world).await?;
    assert!(run.terminate().await?.success());

    let mut case = situation("the oplog rolls over while mongosync does not run");
    stir(&items, &mut documents, 2).await?;
    items.delete_many(doc! { "_id": { "$gte": 100, "$lt": 150 } }).await?;
    oplog::roll_over(&world.client).await?;
    let (code, log) = strict.run_to_end(&[]).await?;
    assert_eq!(code, Some(5), "{log}");
    let mut run = file.run(&[])?;
    stir(&items, &mut documents, 3).await?;
    at_rest(&mut run, &world).await?;
    case.compared(&compare(&items, &world.engine, "forgotten-items").await?)?;
    ensure!(run.log().contains(lost), "{}", run.log());

    let mut case = situation("the oplog rolls over while the target is away");
    endpoint.refuse_bulks(503, "");
    stir(&items, &mut documents, 4).await?;
    run.waiting().await?;
    oplog::roll_over(&world.client).await?;
    run.says("less than a quarter of the oplog is left").await?;
    stir(&items, &mut documents, 5).await?;
    run.kill().await?;
    endpoint.pass_on();
    let mut run = file.run(&[])?;
    at_rest(&mut run, &world).await?;
    case.compared(&compare(&items, &world.engine, "forgotten-items").await?)?;
    ensure!(run.log().contains(lost), "{}", run.log());
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The same connection string, and behind it another replica set with other documents: a restored
/// backup, a name that was moved.
#[tokio::test(flavor = "multi_thread")]
async fn another_replica_set_in_the_place_of_the_source() -> Result<()> {
    let mut case = situation("the source is another replica set than before");
    let world = World::new().await?;
    let other = MongoDb::builder().cache_gb(0.25).start().await?;
    let items = world.collection("swapped.items");
    fill(&items, 2, 600).await?;
    let mut settings = settings();
    // A store in the source would be another one too.
    settings.top = "checkpoint: { every: 100ms, file: { path: positions } }".into();
    let rule = "  - namespace: swapped.items\n    to: search";
    let file = world.rule_file_with(&settings, rule)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "int": 1 } }).await?;
    at_rest(&mut run, &world).await?;
    assert!(run.terminate().await?.success());

    let others = other.client().database("swapped").collection("items");
    fill(&others, 3, 400).await?;
    others.delete_many(doc! { "_id": { "$lt": 50 } }).await?;
    // A source whose time is earlier is refused, and within one second any of the two may be ahead.
    let seen = cluster_time(&world.client).await?;
    while cluster_time(&other.client()).await? <= seen {}
    file.rewrite(|text| text.replace(world.mongo.uri(), other.uri()))?;
    // The reason is told whatever is to be done about it, before the run and by it.
    file.rewrite(|text| format!("{text}\n    on_history_lost: stop\n"))?;
    let checked = file.command("check", &["--online"]).await?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(said.contains("the source is another replica set or cluster"), "{said}");
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(5), "{log}");
    ensure!(log.contains("error: the source is another replica set or cluster"), "{log}");
    file.rewrite(|text| text.replace("\n    on_history_lost: stop\n", ""))?;
    let mut run = file.run(&[])?;
    run.caught_up(&other.client()).await?;
    run.copied().await?;
    let differences = compare(&others, &world.engine, "swapped-items").await?;
    assert_eq!(case.compared(&differences)?, 350);
    ensure!(run.log().contains("another replica set"), "{}", run.log());
    others.delete_many(doc! { "_id": { "$lt": 60 } }).await?;
    run.caught_up(&other.client()).await?;
    assert_eq!(hits(&world.engine, "swapped-items").await?.len(), 340);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Another replica set whose time is earlier than what the target has seen: none of its documents
/// would count as new.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_with_an_earlier_time_is_refused() -> Result<()> {
    let world = World::new().await?;
    let other = MongoDb::builder().cache_gb(0.25).start().await?;
    let items = world.collection("earlier.items");
    fill(&items, 2, 50).await?;
    let store = format!("mongodb: {{ uri: \"{}\" }}", world.mongo.uri());
    let settings = Settings {
        top: format!("checkpoint: {{ every: 100ms, {store} }}"),
        mongo: Some(other.uri().to_owned()),
        ..Settings::default()
    };
    let others = other.client().database("earlier").collection("items");
    fill(&others, 3, 40).await?;
    let rule = "  - namespace: earlier.items\n    to: search";
    let file = world.rule_file_with(&settings, rule)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());

    let name = file.path.file_stem().expect("a name").to_string_lossy().into_owned();
    let positions = world.client.database("mongosync").collection::<Document>("positions");
    let own = doc! { "_id": { "$regex": format!("^{name}") } };
    let future = Timestamp { time: 4_000_000_000, increment: 1 };
    let moved = positions.update_many(own, doc! { "$set": { "v.time": future } }).await?;
    assert_eq!(moved.modified_count, 1);
    file.rewrite(|text| text.replacen(other.uri(), world.mongo.uri(), 1))?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(1), "{log}");
    ensure!(log.contains("is earlier than what target search has seen"), "{log}");
    assert_eq!(compare(&others, &world.engine, "earlier-items").await?.none()?, 40);
    Ok(())
}

/// Changes are wanted from a time that the oplog does not reach back to: that is said, and nothing is
/// stored of it.
#[tokio::test(flavor = "multi_thread")]
async fn since_before_the_oplog_is_refused() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("bygone.items");
    items.insert_one(doc! { "_id": 1 }).await?;
    let rule = "  - namespace: bygone.items\n    copy: false\n    changes: { since: \
                \"2020-01-01T00:00:00Z\" }\n    to: search";
    let file = world.rule_file_with(&settings(), rule)?;
    for _ in 0..2 {
        let (code, log) = file.run_to_end(&[]).await?;
        assert_eq!(code, Some(1), "{log}");
        ensure!(log.contains("`changes.since` of a rule of target search says"), "{log}");
        ensure!(log.contains("the oplog begins at"), "{log}");
    }
    // So is a time to come, and what happens until then is not passed over.
    file.rewrite(|text| text.replace("2020-01-01", "2090-01-01"))?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(1), "{log}");
    ensure!(log.contains("says 2090-01-01T00:00:00Z, which is yet to come"), "{log}");
    let checked = file.command("check", &["--online"]).await?;
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(said.contains("says 2090-01-01T00:00:00Z, which is yet to come"), "{said}");
    file.rewrite(|text| text.replace("\"2090-01-01T00:00:00Z\"", "now"))?;
    let mut run = file.run(&[])?;
    // It has begun.
    run.caught_up(&world.client).await?;
    items.insert_one(doc! { "_id": 2 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(hits(&world.engine, "bygone-items").await?.len(), 1);
    assert!(run.terminate().await?.success());
    Ok(())
}
