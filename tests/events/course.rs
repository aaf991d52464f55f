//! Where a rule's stream begins, what of it is taken, and how it goes on.

use super::*;

/// The last write before the first run has the very time at which that begins.
#[tokio::test(flavor = "multi_thread")]
async fn what_happened_before_the_first_run_is_no_news() -> Result<()> {
    let world = Hooked::new().await?;
    for round in 0..3 {
        let namespace = format!("events_news{round}.orders");
        let orders = world.collection(&namespace);
        orders.insert_many((0..5).map(|id| doc! { "_id": id })).await?;
        let rules = format!("  - namespace: {namespace}\n    to: notify");
        let file = world.file(&format!("/news{round}"), "", &rules)?;
        let mut run = file.run(&[])?;
        following(&mut run).await?;
        orders.insert_one(doc! { "_id": "new" }).await?;
        let told = until_told(&world, round + 1).await?;
        assert!(told.iter().all(|told| told.document == "\"new\""), "{told:?}");
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_these_operations_these_documents_and_these_fields() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_some.orders");
    let rules = "  - name: some
    namespace: events_some.orders
    operations: [insert, update, delete]
    filter: { $or: [{ n: { $gte: 5 } }, { tags: { $elemMatch: { $eq: x } } }] }
    project: { secret: 0 }
    changes: { pipeline: [{ $match: { \"fullDocument.hidden\": { $ne: true } } }] }
    to: notify";
    let file = world.file("/in", ", headers: { X-Op: \"{op}\" }", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    for id in 0..10 {
        orders.insert_one(doc! { "_id": id, "n": id, "secret": "s", "hidden": id == 9 }).await?;
    }
    orders.update_one(doc! { "_id": 6 }, doc! { "$set": { "secret": "t", "m": 1 } }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "tags": ["x"] } }).await?;
    orders.replace_one(doc! { "_id": 7 }, doc! { "n": 100 }).await?;
    orders.delete_one(doc! { "_id": 0 }).await?;
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    let told = told(&received);
    let all: Vec<String> =
        told.iter().map(|told| format!("{} {}", told.change.0, told.document)).collect();
    let expected = BTreeSet::from(
        ["insert 5", "insert 6", "insert 7", "insert 8", "update 6", "update 1", "delete 0"]
            .map(str::to_owned),
    );
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), expected);
    for request in &received {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        ensure!(!body.contains("secret"), "{body}");
        assert_eq!(request.header("x-op"), request.json()["data"]["op"]);
    }
    let update = told.iter().find(|told| told.document == "6" && told.change.0 == "update");
    assert_eq!(update.context("an update")?.data["updated"], json!({ "m": 1 }));
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_sees_the_event_and_says_what_is_told() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_script.orders");
    let rules = "  - name: scripted
    namespace: events_script.orders
    changes: { pre_image: required }
    transform: |
      if event.op == \"replace\" { skip(); }
      if event.op == \"update\" && !(\"status\" in event.updated) { remove(); }
      if event.op == \"update\" { doc = [#{ from: event.before.status }, #{ to: event.updated.status }]; }
      if event.op == \"delete\" { doc = #{ was: event.before.status, id: event.id }; }
    to: notify";
    let file = world.file("/in", "", rules)?;
    // A collection that is there keeps images before anything happens.
    orders.insert_one(doc! { "_id": 0 }).await?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.insert_one(doc! { "_id": 1, "status": "new" }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 1 } }).await?;
    orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "status": "paid" } }).await?;
    orders.replace_one(doc! { "_id": 1 }, doc! { "status": "sent" }).await?;
    orders.delete_one(doc! { "_id": 1 }).await?;
    world.caught_up(&mut run).await?;
    let told = told(&world.receiver.received());
    let documents: Vec<&Value> = told.iter().map(|told| &told.data["document"]).collect();
    let expected = [
        json!({ "_id": 1, "status": "new" }),
        json!({ "from": "new" }),
        json!({ "to": "paid" }),
        json!({ "was": "sent", "id": 1 }),
    ];
    assert_eq!(documents, expected.iter().collect::<Vec<_>>());
    let ids: BTreeSet<_> = told.iter().map(|told| &told.id).collect();
    assert_eq!(ids.len(), 4, "each of an array has an id of its own");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_run_begins_where_since_says() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_since.orders");
    orders.insert_one(doc! { "_id": "before" }).await?;
    let since = now(&world.client).await?;
    orders.insert_many((0..5).map(|id| doc! { "_id": id })).await?;
    let Timestamp { time, increment } = since;
    let rules = format!(
        "  - {{ namespace: events_since.orders, changes: {{ since: \"{time}.{increment}\" }}, to: notify }}"
    );
    let file = world.file("/in", "", &rules)?;
    let mut run = file.run(&[])?;
    world.caught_up(&mut run).await?;
    compare(&told(&world.receiver.received()), &happened(&orders, since).await?)?;
    assert!(run.terminate().await?.success());

    // It is for the first run alone.
    let count = world.receiver.received().len();
    let mut run = file.run(&[])?;
    orders.insert_one(doc! { "_id": "after" }).await?;
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    let first: BTreeSet<_> = received[..count].iter().map(Received::id).collect();
    let second = told(&received[count..]).into_iter().filter(|told| !first.contains(&*told.id));
    let second: Vec<String> = second.map(|told| told.document).collect();
    let own: Vec<_> = second.iter().filter(|document| !document.contains("the last one")).collect();
    assert_eq!(own, ["\"after\""]);
    Ok(())
}

/// The stream can't go on behind an event that the rule hides now (280): it goes on by that event's time,
/// and nothing is told twice or lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_hides_its_last_event_goes_on_behind_it() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_hidden.orders");
    let rules = "  - { name: some, namespace: events_hidden.orders, to: notify }";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    // One time for all of them: behind which one the stream goes on is known by its token alone.
    let mut session = world.client.start_session().await?;
    session.start_transaction().await?;
    for id in 0..6 {
        orders.insert_one(doc! { "_id": id, "n": id }).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    world.caught_up(&mut run).await?;
    assert!(run.terminate().await?.success());
    let before = world.receiver.received().len();

    // As if it had ended behind the third one, which the new rule hides.
    let all = all_that_happened(&orders, since).await?;
    let (document, (_, time), token) = &all[2];
    assert_eq!(document, "2");
    ensure!(all[..6].iter().all(|(_, (_, own), _)| own == time), "{all:?}");
    let name = file.path.file_stem().context("a stem")?.to_string_lossy().into_owned();
    let positions = world.client.database("mongosync").collection::<Document>("positions");
    let own = doc! { "name": name, "key": ["notify", "some"] };
    let (seconds, increment) = time.split_once('.').context("a time")?;
    let time = Timestamp { time: seconds.parse()?, increment: increment.parse()? };
    let set = doc! { "$set": { "v.token": token, "v.time": time } };
    assert_eq!(positions.update_one(own, set).await?.modified_count, 1);

    file.rewrite(|text| {
        text.replace("to: notify", "filter: { n: { $in: [0, 1, 4, 5, 7] } }, to: notify")
    })?;
    orders.insert_many([doc! { "_id": 6, "n": 6 }, doc! { "_id": 7, "n": 7 }]).await?;
    let mut run = file.run(&[])?;
    world.caught_up(&mut run).await?;
    let again: Vec<Told> = told(&world.receiver.received()[before..]);
    let inserts = again.iter().filter(|told| told.change.0 == "insert");
    let inserts: BTreeSet<&str> = inserts.map(|told| told.document.as_str()).collect();
    assert_eq!(inserts, BTreeSet::from(["4", "5", "7"]), "{}", run.log());
    ensure!(run.log().contains("from the time of that event"), "{}", run.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_dropped_renamed_and_made_again() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_ends.orders");
    let file = world.file("/in", "", "  - { namespace: events_ends.orders, to: notify }")?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let mut expected = Vec::new();
    let told = |count: usize| until_told(&world, count);
    for round in 0..3 {
        let id = |n: i32| round * 10 + n;
        orders.insert_many((0..3).map(|n| doc! { "_id": id(n) })).await?;
        expected.extend((0..3).map(|n| id(n).to_string()));
        told(expected.len()).await?;
        match round {
            0 => orders.drop().await?,
            1 => {
                let to = doc! { "renameCollection": "events_ends.orders", "to": "events_ends.old" };
                world.client.database("admin").run_command(to).await?;
            }
            _ => world.client.database("events_ends").drop().await?,
        }
    }
    // Across a restart too: the position is that of an invalidate.
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    orders.insert_one(doc! { "_id": 100 }).await?;
    expected.push("100".to_owned());
    world.caught_up(&mut run).await?;
    let told = told(expected.len()).await?;
    let documents: Vec<String> = told.iter().map(|told| told.document.clone()).collect();
    assert_eq!(
        documents.into_iter().collect::<BTreeSet<_>>(),
        expected.into_iter().collect::<BTreeSet<_>>()
    );
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The update says 9 MB of its document and 9 MB of what has changed: more than a message can hold.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_is_told_as_such_and_passed() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_large.orders");
    let file =
        world.file("/in", "", "  - { name: large, namespace: events_large.orders, to: notify }")?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    orders.insert_many((0..20).map(|id| doc! { "_id": id })).await?;
    let text = "x".repeat(9_000_000);
    orders.update_one(doc! { "_id": 7 }, doc! { "$set": { "text": &text } }).await?;
    orders.insert_many((20..40).map(|id| doc! { "_id": id })).await?;
    world.caught_up(&mut run).await?;
    let mut expected = happened(&orders, since).await?;
    let large = expected.get_mut("7").context("it is there")?.pop().context("two changes")?;
    compare(&told(&world.receiver.received()), &expected)?;
    let letters = file.dead_letters().await?;
    let [letter] = letters.as_slice() else { bail!("{letters:#?}") };
    let words = letter["words"].as_str().unwrap_or_default();
    ensure!(words.contains("larger than the 16 MiB"), "{letter}");
    let time = &letter["cluster_time"]["$timestamp"];
    assert_eq!(format!("{}.{}", time["t"], time["i"]), large.1);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_gone_begins_anew_when_it_comes_back() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_gone.orders");
    let others = "  - { name: other, namespace: events_gone.others, to: notify }";
    let both = format!("{others}\n  - {{ name: gone, namespace: events_gone.orders, to: notify }}");
    let file = world.file("/in", "", &both)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.insert_one(doc! { "_id": 1 }).await?;
    until_told(&world, 1).await?;
    assert!(run.terminate().await?.success());
    let whole = std::fs::read_to_string(&file.path)?;
    file.rewrite(|text| text.replace(&both, others))?;
    let mut run = file.run(&[])?;
    run.wrote("its position is forgotten").await?;
    orders.insert_one(doc! { "_id": 2 }).await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|_| whole)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.insert_one(doc! { "_id": 3 }).await?;
    let told = until_told(&world, 2).await?;
    let documents: Vec<&str> = told.iter().map(|told| told.document.as_str()).collect();
    assert_eq!(documents, ["1", "3"]);
    Ok(())
}
