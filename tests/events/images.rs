//! Pre- and post-images: switched on where a rule requires them, again for a collection that is made
//! anew, and told where that is not allowed.

use std::sync::Arc;

use mongosync_servers::MongoDb;

use super::*;

async fn keeps_images(world: &Hooked, database: &str) -> Result<bool> {
    let command = doc! { "listCollections": 1, "filter": { "name": "orders" } };
    let listed = world.client.database(database).run_command(command).await?;
    let first = listed.get_document("cursor")?.get_array("firstBatch")?.first();
    let options =
        first.and_then(Bson::as_document).context("it is there")?.get_document("options")?;
    Ok(options
        .get_document("changeStreamPreAndPostImages")
        .and_then(|images| images.get_bool("enabled"))
        .unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_switched_on_and_on_again() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_images.orders");
    orders.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    assert!(!keeps_images(&world, "events_images").await?);
    let rules = "  - namespace: events_images.orders
    changes: { pre_image: required, full_document: required }
    to: notify";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    assert!(keeps_images(&world, "events_images").await?);
    for round in 0..2 {
        let id = round + 1;
        // The image behind each change, not what has become of it since.
        orders.update_one(doc! { "_id": id }, doc! { "$set": { "n": 2 } }).await?;
        orders.update_one(doc! { "_id": id }, doc! { "$set": { "n": 3 } }).await?;
        orders.delete_one(doc! { "_id": id }).await?;
        world.caught_up(&mut run).await?;
        let told = told(&world.receiver.received());
        let own = told.iter().filter(|told| told.document == id.to_string());
        let own: Vec<_> = own
            .filter(|told| told.change.0 != "insert")
            .map(|told| (told.data["before"]["n"].clone(), told.data["document"]["n"].clone()))
            .collect();
        // Of a delete the document is that of before.
        let expected =
            [(1, 2), (2, 3), (3, 3)].map(|(before, after)| (json!(before), json!(after)));
        assert_eq!(own, expected, "{:#?}", file.dead_letters().await?);
        if round == 0 {
            orders.drop().await?;
            // Told once images are on again.
            orders.insert_one(doc! { "_id": 2, "n": 1 }).await?;
            world.caught_up(&mut run).await?;
            assert!(keeps_images(&world, "events_images").await?);
        }
    }
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Before images were kept there are none: such a change is a dead letter, and tried again it is told
/// without. `when_available` takes what there is.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_its_image() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_missing.orders");
    orders.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    let Timestamp { time, increment } = now(&world.client).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }).await?;
    for (word, letters) in [("when_available", 0), ("required", 1)] {
        let before = told(&world.receiver.received()).len();
        let rules = format!(
            "  - {{ namespace: events_missing.orders, changes: {{ pre_image: {word}, since: \
             \"{time}.{increment}\" }}, to: notify }}"
        );
        let file = world.file("/in", "", &rules)?;
        let mut run = file.run(&[])?;
        world.caught_up(&mut run).await?;
        assert_eq!(file.dead_letters().await?.len(), letters, "{word}");
        if letters > 0 {
            let words = file.dead_letters().await?[0].to_string();
            ensure!(words.contains("pre_image: required"), "{words}");
            let answer = file.command("dead-letters", &["retry", "--all"]).await?;
            assert!(answer.status.success());
        }
        let told = told(&world.receiver.received());
        let [one] = &told[before..] else { bail!("{:#?}", &told[before..]) };
        assert_eq!((one.change.0.as_str(), &one.data["before"]), ("update", &Value::Null));
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_not_switch_them_on_is_told_the_way_out() -> Result<()> {
    let guarded = Arc::new(MongoDb::builder().login("root", "secret").start().await?);
    let world = Hooked::on(guarded.clone()).await?;
    let orders = world.collection("events_guarded.orders");
    orders.insert_one(doc! { "_id": 1 }).await?;
    let roles = [("read", "events_guarded"), ("readWrite", "mongosync")];
    let roles: Vec<_> = roles.map(|(role, on)| doc! { "role": role, "db": on }).into();
    let user = doc! { "createUser": "sync", "pwd": "hunter2", "roles": roles };
    world.client.database("admin").run_command(user).await?;
    let rules =
        "  - { namespace: events_guarded.orders, changes: { pre_image: required }, to: notify }";
    let file = world.file("/in", "", rules)?;
    file.rewrite(|text| text.replace(guarded.uri(), &guarded.uri_of("sync", "hunter2")))?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(1), "{log}");
    ensure!(log.contains("may not switch them on") && log.contains("collMod"), "{log}");
    ensure!(!log.contains("hunter2"), "{log}");

    // Somebody else does it.
    let images = doc! {
        "collMod": "orders", "changeStreamPreAndPostImages": { "enabled": true },
    };
    world.client.database("events_guarded").run_command(images).await?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    assert_eq!(until_told(&world, 1).await?[0].data["before"], json!({ "_id": 1 }));
    assert!(run.terminate().await?.success());
    Ok(())
}
