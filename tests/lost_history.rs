//! An oplog that really forgets, and a source that is really another one.

use anyhow::{Result, ensure};
use mongodb::bson::doc;
use mongosync_servers::MongoDb;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        documents::Documents,
        oplog,
        run::{Run, Settings},
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
    file.rewrite(|text| text.replace(world.mongo.uri(), other.uri()))?;
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
