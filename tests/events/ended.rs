//! Collections that end or are another one now, where the rule sees little of it; and collections that
//! come into being as a rule is planned.

use super::*;
use crate::support::fail_command::FailCommand;

/// A stage of the rule hides `drop` and `invalidate`. What stands behind them is told all the same, in one
/// run and across restarts, whichever of both the position stands behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_hides_the_end_of_its_collection_goes_on_behind_it() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_shaped.orders");
    let rules = "  - name: shaped
    namespace: events_shaped.orders
    changes: { pipeline: [{ $match: { operationType: insert } }] }
    to: notify";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let mut count = 0;
    let insert = async |count: &mut usize| -> Result<()> {
        let first = i32::try_from(*count)?;
        orders.insert_many((first..first + 3).map(|id| doc! { "_id": id })).await?;
        *count += 3;
        Ok(())
    };
    insert(&mut count).await?;
    until_told(&world, count).await?;
    for round in 0..3 {
        match round {
            0 => orders.drop().await?,
            1 => {
                let to =
                    doc! { "renameCollection": "events_shaped.orders", "to": "events_shaped.old" };
                world.client.database("admin").run_command(to).await?;
            }
            _ => world.client.database("events_shaped").drop().await?,
        }
        insert(&mut count).await?;
        until_told(&world, count).await?;
    }
    // The position is behind an invalidate that nobody has shown.
    orders.drop().await?;
    world.caught_up(&mut run).await?;
    assert!(run.terminate().await?.success());
    insert(&mut count).await?;
    // And here it is before one.
    orders.drop().await?;
    insert(&mut count).await?;
    let run = file.run(&[])?;
    until_told(&world, count).await?;
    insert(&mut count).await?;
    let told = until_told(&world, count).await?;
    let documents: BTreeSet<String> = told.into_iter().map(|told| told.document).collect();
    assert_eq!(documents, (0..count).map(|id| id.to_string()).collect());
    ensure!(run.log().contains("the stream was closed"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

fn images_are_on(log: &str) -> usize {
    log.matches("images are switched on").count()
}

/// Another collection takes the rule's name by a rename: it keeps no images of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_was_renamed_into_the_rule_keeps_images_too() -> Result<()> {
    let world = Hooked::new().await?;
    let database = world.client.database("events_renamed");
    let keeping = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    database.run_command(keeping).await?;
    let rules = "  - namespace: events_renamed.orders
    changes: { pre_image: required }
    to: notify";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let other = world.collection("events_renamed.new");
    other.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    assert_eq!(images_are_on(&run.log()), 0, "{}", run.log());
    let rename = doc! {
        "renameCollection": "events_renamed.new", "to": "events_renamed.orders", "dropTarget": true,
    };
    world.client.database("admin").run_command(rename).await?;
    run.wrote("images are switched on").await?;
    let orders = world.collection("events_renamed.orders");
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }).await?;
    let told = until_told(&world, 1).await?;
    assert_eq!(told[0].data["before"], json!({ "_id": 1, "n": 1 }));
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A stage hides the drop, and the stream of a database does not end with a collection: nothing tells that
/// it is another one but the first change without its image.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_its_image_has_images_switched_on_again() -> Result<()> {
    let world = Hooked::new().await?;
    let database = world.client.database("events_unseen");
    let keeping = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    database.run_command(keeping).await?;
    let rules = "  - name: unseen
    namespace: events_unseen.*
    changes:
      pre_image: required
      pipeline: [{ $match: { operationType: { $in: [insert, update] } } }]
    to: notify";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let orders = world.collection("events_unseen.orders");
    orders.drop().await?;
    orders.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }).await?;
    run.wrote("images are switched on").await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 3 } }).await?;
    let told = until_told(&world, 2).await?;
    assert_eq!(told[1].data["before"], json!({ "_id": 1, "n": 2 }));
    world.caught_up(&mut run).await?;
    assert_eq!(file.dead_letters().await?.len(), 1);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A collection that is made while images are switched on: its documents are not in the stream, which
/// begins later, so they are copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_made_while_its_rule_is_planned_is_copied() -> Result<()> {
    let world = Hooked::new().await?;
    world.collection("events_planned.old").insert_one(doc! { "_id": "old" }).await?;
    let rules = "  - name: planned
    namespace: events_planned.*
    copy: true
    changes: { pre_image: required }
    to: notify";
    let file = world.file("/in", "", rules)?;
    let uri = world.mongo.uri();
    file.rewrite(|text| text.replace(uri, &format!("{uri}&appName=events_planned")))?;
    let data = doc! { "failCommands": ["collMod"], "errorCode": 50 };
    let failing = FailCommand::always(&world.client, "events_planned", data).await?;
    let mut run = file.run(&[])?;
    run.wrote("switching images on").await?;
    let new = world.collection("events_planned.new");
    new.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    failing.end().await?;
    let told = until_told(&world, 11).await?;
    let documents: BTreeSet<String> = told.into_iter().map(|told| told.document).collect();
    let expected = (0..10).map(|id| id.to_string()).chain(["\"old\"".to_owned()]).collect();
    assert_eq!(documents, expected);
    assert!(run.terminate().await?.success());
    Ok(())
}
