//! How a well-known tool for this job loses data, situation by situation: each is brought about
//! here, and nothing is lost.

use anyhow::{Result, ensure};
use futures_util::StreamExt;
use mongodb::{
    bson::{Binary, Bson, Document, Timestamp, doc, spec::BinarySubtype},
    error::ErrorKind,
};
use serde_json::json;

use crate::{
    load::fill,
    support::{
        World,
        checker::{body, compare, compare_shaped, hits, plain_id},
        documents::Documents,
        engine,
        fail_command::FailCommand,
        run::{Settings, cluster_time},
        situations::situation,
        writers::Writers,
    },
};

/// The position had moved before the acknowledgement: 500 of 500 and 300 of 300 were lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_503_until_after_the_end() -> Result<()> {
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("unavailable.items");
    let mut documents = Documents::new(1);
    items.insert_many((0..1_000).map(|id| documents.document(id))).await?;
    let file =
        world.rule_file_with(&settings, "  - namespace: unavailable.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let mut next = 1_000;
    for (end, count) in [("kill -9", 500), ("SIGTERM", 300)] {
        let mut case = situation(match end {
            "SIGTERM" => "503, then SIGTERM",
            _ => "503, then kill -9",
        });
        endpoint.refuse_bulks(503, r#"{"error":"overloaded","status":503}"#);
        items.insert_many((next..next + count).map(|id| documents.document(id))).await?;
        items.delete_many(doc! { "_id": { "$gte": next - 900, "$lt": next - 890 } }).await?;
        next += count;
        let error = run.waiting().await?;
        ensure!(error.contains("503"), "{error}");
        // The stream has been read to its end; none of it may count as done.
        run.until("all events", |_| endpoint.played() >= 5).await?;
        match end {
            "SIGTERM" => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
        // Nor may it after a start at which the target is still away.
        run = file.run(&[])?;
        run.waiting().await?;
        assert!(run.terminate().await?.success());
        endpoint.pass_on();
        run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        case.compared(&compare(&items, &world.engine, "unavailable-items").await?)?;
    }
    // It is back while the process runs.
    endpoint.refuse_bulks(503, "");
    items.insert_many((next..next + 100).map(|id| documents.document(id))).await?;
    run.waiting().await?;
    endpoint.pass_on();
    run.caught_up(&world.client).await?;
    compare(&items, &world.engine, "unavailable-items").await?.none()?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// It ended with exit code 0, no document in the target, and no error line.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_every_request_is_waited_for() -> Result<()> {
    let mut case = situation("every bulk refused during a copy");
    let world = World::new().await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("refused.items");
    fill(&items, 2, 2_000).await?;
    let file = world.rule_file_with(&settings, "  - namespace: refused.items\n    to: search")?;
    let refusal = r#"{"error":{"type":"security_exception","reason":"not for you"},"status":403}"#;
    endpoint.refuse_bulks(403, refusal);
    let mut run = file.run(&[])?;
    let error = run.waiting().await?;
    ensure!(error.contains("not for you"), "{error}");
    let (ready, reasons) = run.get("/readyz").await.expect("an answer");
    assert_eq!(ready, 503, "{reasons}");
    let (healthy, _) = run.get("/healthz").await.expect("an answer");
    assert_eq!(healthy, 200);
    run.until("several tries", |_| endpoint.played() >= 5).await?;
    ensure!(run.log().contains("not for you"), "{}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(file.dead_letters().await?.len(), 0);

    endpoint.pass_on();
    let mut run = file.run(&[])?;
    run.copied().await?;
    let differences = compare(&items, &world.engine, "refused-items").await?;
    assert_eq!(case.compared(&differences)?, 2_000);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// It was stuck at half of the collection, and its health said ok.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mapping_refuses_does_not_hold_up_the_rest() -> Result<()> {
    let mut case = situation("0.5 % of the documents refused by the mapping");
    let world = World::new().await?;
    let items = world.collection("mapped.items");
    let mut documents = Documents::new(3);
    let bad = |id: i32| id % 200 == 7;
    let mut document = |id: i32| {
        let mut document = documents.document(id);
        if bad(id) {
            document.insert("price", "not a number");
        } else {
            document.insert("price", id);
        }
        document
    };
    items.insert_many((0..4_000).map(&mut document)).await?;
    let file = world.rule_file(
        "  - namespace: mapped.items
    to: [{ target: search, index: { mappings: { properties: { price: { type: integer } } } } }]",
    )?;
    let wanted = |document: &Document| {
        let fits = document.get_i32("price").is_ok();
        let id = plain_id(document.get("_id").expect("an _id")).expect("a number");
        fits.then(|| (id, body(document)))
    };
    let mut run = file.run(&[])?;
    run.copied().await?;
    let checked = compare_shaped(&items, &world.engine, "mapped-items", wanted).await?;
    assert_eq!(case.compared(&checked)?, 3_980);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 20);
    for letter in &letters {
        let key: i32 = letter["key_text"].as_str().unwrap_or_default().parse()?;
        ensure!(bad(key), "{letter}");
        assert_eq!(letter["reason"], "target");
        assert_eq!(letter["rule"], "mapped.items");
        let words = letter["words"].as_str().unwrap_or_default();
        ensure!(words.contains("mapper_parsing_exception"), "{letter}");
        ensure!(words.contains("price"), "{letter}");
    }
    let status = run.status().await.expect("a status");
    let rule = &status["targets"]["search"]["rules"]["mapped.items"];
    assert_eq!(rule["dead_letters"], 20, "{status:#}");

    // By changes too; and one that is right again, or gone, is forgotten.
    items.insert_many((4_000..4_400).map(&mut document)).await?;
    items.update_many(doc! { "_id": { "$lt": 1_000 } }, doc! { "$set": { "price": 1 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 1_000, "$lt": 2_000 } }).await?;
    run.caught_up(&world.client).await?;
    let checked = compare_shaped(&items, &world.engine, "mapped-items", wanted).await?;
    assert_eq!(case.compared(&checked)?, 1_000 + 1_990 + 398);
    let mut left: Vec<i32> = Vec::new();
    for letter in file.dead_letters().await? {
        left.push(letter["key_text"].as_str().unwrap_or_default().parse()?);
    }
    left.sort_unstable();
    let expected: Vec<i32> = (2_000..4_400).filter(|&id| bad(id)).collect();
    assert_eq!(left, expected);

    // They are still known after a restart.
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    items.update_many(doc! {}, doc! { "$set": { "price": 2 } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    case.compared(&compare(&items, &world.engine, "mapped-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 0 of 50 arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_inserted_between_two_idle_runs_arrives() -> Result<()> {
    let mut case = situation("started idle, stopped, 50 insertions, started");
    let world = World::new().await?;
    let items = world.collection("idle.items");
    let mut documents = Documents::new(4);
    let file = world.rule_file("  - namespace: idle.items\n    to: search")?;
    let mut next = 0;
    for end in ["SIGTERM", "kill -9", "SIGTERM"] {
        let mut run = file.run(&[])?;
        run.copied().await?;
        match end {
            "SIGTERM" => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
        items.insert_many((next..next + 50).map(|id| documents.document(id))).await?;
        next += 50;
        let mut run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        let differences = compare(&items, &world.engine, "idle-items").await?;
        assert_eq!(i32::try_from(case.compared(&differences)?)?, next);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// 424 MB were sent again and again, and the position moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_large_for_the_engine_is_sent_in_parts() -> Result<()> {
    let mut case = situation("413 from the engine");
    let own = engine().setting("http.max_content_length", "1mb");
    let world = World::with_engine(own).await?;
    let (endpoint, settings) = world.endpoint().await?;
    let items = world.collection("large.items");
    let large = |id: i32, bytes: usize| {
        let bytes = vec![u8::try_from(id % 256).expect("a byte"); bytes];
        doc! { "_id": id, "n": id, "data": Binary { subtype: BinarySubtype::Generic, bytes } }
    };
    // Half a megabyte is the largest; what none can take is refused alone.
    items.insert_many((0..200).map(|id| large(id, 30_000))).await?;
    items.insert_many((200..210).map(|id| large(id, 500_000))).await?;
    items.insert_many((210..213).map(|id| large(id, 2_000_000))).await?;
    let rules = "  - namespace: large.items
    to: [{ target: search, index: { mappings: { properties: { data: { type: binary } } } } }]";
    let file = world.rule_file_with(&settings, rules)?;
    let wanted = |document: &Document| {
        let id = document.get_i32("_id").expect("a number");
        (id < 210).then(|| (id.to_string(), body(document)))
    };
    let mut run = file.run(&[])?;
    run.copied().await?;
    let checked = compare_shaped(&items, &world.engine, "large-items", wanted).await?;
    assert_eq!(case.compared(&checked)?, 210);
    let mut refused: Vec<String> = Vec::new();
    for letter in file.dead_letters().await? {
        refused.push(letter["key_text"].as_str().unwrap_or_default().to_owned());
        ensure!(letter["words"].as_str().is_some_and(|words| words.contains("413")), "{letter}");
    }
    refused.sort();
    assert_eq!(refused, ["210", "211", "212"]);
    // 24 MB of documents as base64, and of each size one request too many for each lane.
    ensure!(endpoint.bytes() < 100 << 20, "{} bytes were sent", endpoint.bytes());

    let smaller = large(210, 1_000);
    items.replace_one(doc! { "_id": 210 }, smaller).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(file.dead_letters().await?.len(), 2);
    assert_eq!(hits(&world.engine, "large-items").await?.len(), 211);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 20 of 20 were lost: the version of the delete beat that of the insertion.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_deleted_and_inserted_again_is_there() -> Result<()> {
    let mut case = situation("delete and insertion of one _id, also in one transaction");
    let world = World::new().await?;
    let items = world.collection("again.items");
    let mut documents = Documents::new(5);
    items.insert_many((0..40).map(|id| documents.document(id))).await?;
    let file = world.rule_file("  - namespace: again.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    for round in 0..5 {
        for id in 0..20 {
            items.delete_one(doc! { "_id": id }).await?;
            items.insert_one(documents.document(id)).await?;
        }
        let mut session = world.client.start_session().await?;
        for id in 20..40 {
            // Four operations with one cluster time, that end with the document there, or not.
            session.start_transaction().await?;
            items.delete_one(doc! { "_id": id }).session(&mut session).await?;
            items.insert_one(documents.document(id)).session(&mut session).await?;
            let update = doc! { "$set": { "round": round } };
            items.update_one(doc! { "_id": id }, update).session(&mut session).await?;
            if id % 5 == 0 && round == 4 {
                items.delete_one(doc! { "_id": id }).session(&mut session).await?;
            }
            session.commit_transaction().await?;
        }
    }
    run.caught_up(&world.client).await?;
    let differences = compare(&items, &world.engine, "again-items").await?;
    assert_eq!(case.compared(&differences)?, 36);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 2,073 of 40,000 were copied, and the copy was marked as done.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_the_server_ends_half_way_is_opened_again() -> Result<()> {
    let mut case = situation("a copy's cursor lost half-way");
    let world = World::new().await?;
    let items = world.collection("cut.items");
    fill(&items, 6, 20_000).await?;
    let settings = Settings { source: "&appName=cut".into(), ..Settings::default() };
    let file = world.rule_file_with(
        &settings,
        "  - namespace: cut.items\n    copy: { chunk: 8MiB }\n    to: search",
    )?;
    let lost = doc! { "failCommands": ["getMore"], "errorCode": 43, "namespace": "cut.items" };
    // Each second reply is lost, for the stream's cursor too.
    let point = FailCommand::times(&world.client, 12, "cut", lost).await?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(point.end().await?, 12);
    let differences = compare(&items, &world.engine, "cut-items").await?;
    assert_eq!(case.compared(&differences)?, 20_000);
    items.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "int": 1 } }).await?;
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "cut-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The field stayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_unset_is_gone() -> Result<()> {
    let mut case = situation("$unset");
    let world = World::new().await?;
    let items = world.collection("unset.items");
    items.insert_one(doc! { "_id": 1, "a": 1, "b": { "c": 1, "d": [1, 2, 3] } }).await?;
    let file = world.rule_file("  - namespace: unset.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let change = doc! { "$unset": { "a": "", "b.c": "" }, "$pop": { "b.d": 1 } };
    items.update_one(doc! { "_id": 1 }, change).await?;
    run.caught_up(&world.client).await?;
    let found = hits(&world.engine, "unset-items").await?;
    assert_eq!(found[0].source, json!({ "b": { "d": [1, 2] } }));
    case.compared(&compare(&items, &world.engine, "unset-items").await?)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 445 stale and 41 resurrected of 27,000.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_to_a_slow_target_while_documents_change() -> Result<()> {
    let mut case = situation("updates and deletes while a slow copy runs");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 100 }";
    let items = world.collection("slow.items");
    fill(&items, 7, 5_000).await?;
    let mut writers = Writers::new(&world.client, &items, 7, 5_000, 2_000);
    // The engine forgets the version of a delete at once: what brings a document back later is not
    // refused by it.
    let rules = "  - namespace: slow.items
    copy: { chunk: 256KiB }
    to: [{ target: search, index: { settings: { index.gc_deletes: 0s } } }]";
    let file = world.rule_file_with(&settings, rules)?;
    endpoint.pace(Some(3 << 20));
    let mut run = file.run(&[])?;
    for step in 1..=20 {
        run.until("the copy to go on", |status| {
            let copy = &status["targets"]["search"]["rules"]["slow.items"]["copy"];
            copy["documents"].as_u64() >= Some(5_000 / 20 * (step - 1))
        })
        .await?;
        writers.release(100 * step);
        writers.done(100 * (step - 1)).await?;
    }
    writers.finish().await?;
    run.copied().await?;
    endpoint.pace(None);
    run.caught_up(&world.client).await?;
    case.compared(&compare(&items, &world.engine, "slow-items").await?)?;
    let told = endpoint.history().check()?;
    ensure!(told.operations > 5_000, "{told:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 19,428 of 20,000 were stale after the restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_at_the_end_of_the_copy_with_a_backlog() -> Result<()> {
    let mut case = situation("SIGTERM at the end of the copy, with a backlog of changes");
    let world = World::new().await?;
    let (endpoint, mut settings) = world.endpoint().await?;
    settings.engine += ", batch: { max_actions: 50, concurrency: 1 }";
    let items = world.collection("behind.items");
    fill(&items, 8, 4_000).await?;
    let file = world.rule_file_with(&settings, "  - namespace: behind.items\n    to: search")?;
    endpoint.pace(Some(2 << 20));
    let mut run = file.run(&[])?;
    run.until("the middle of the copy", |status| {
        status["targets"]["search"]["rules"]["behind.items"]["delivered"].as_u64() >= Some(2_000)
    })
    .await?;
    items.update_many(doc! {}, doc! { "$set": { "title": "after" } }).await?;
    items.delete_many(doc! { "_id": { "$mod": [10, 3] } }).await?;
    run.copied().await?;
    // So slow that the ten seconds of a clean stop do not take it all.
    endpoint.pace(Some(128 << 10));
    items.update_many(doc! {}, doc! { "$set": { "title": "later" } }).await?;
    assert!(run.terminate().await?.success());
    let behind = compare(&items, &world.engine, "behind-items").await?;
    ensure!(behind.stale.len() > 100, "there is no backlog: {behind}");

    endpoint.pace(None);
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    let differences = compare(&items, &world.engine, "behind-items").await?;
    assert_eq!(case.compared(&differences)?, 3_600);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// That one and 199 of the next 200 were lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_event_is_over_16_mib_and_those_behind_it() -> Result<()> {
    let mut case = situation("a change event over 16 MiB, and 200 changes behind it");
    let world = World::new().await?;
    let items = world.collection("vast.items");
    items.insert_many((0..200).map(|id| doc! { "_id": id, "n": 0 })).await?;
    // The event names each of the fields that changed by its whole path.
    let long = "p".repeat(2_000);
    let inner: Document = (0..20_000).map(|n| (format!("k{n}"), Bson::Int32(n))).collect();
    items.insert_one(doc! { "_id": 1_000, &long: inner }).await?;
    let rules = "  - namespace: vast.items
    to: [{ target: search, index: { mappings: { dynamic: false } } }]";
    let file = world.rule_file(rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;

    let before = cluster_time(&world.client).await?;
    let even = doc! { "$eq": [{ "$mod": ["$$this.v", 2] }, 0] };
    let changed = doc! { "$cond": [even, { "$add": ["$$this.v", 100_000] }, "$$this.v"] };
    let fields = doc! { "$objectToArray": format!("${long}") };
    let each = doc! { "$map": { "input": fields, "in": { "k": "$$this.k", "v": changed } } };
    let update = vec![doc! { "$set": { &long: { "$arrayToObject": each } } }];
    items.update_one(doc! { "_id": 1_000 }, update).await?;
    for id in 0..200 {
        let by_id = doc! { "_id": id };
        match id % 10 {
            0 => {
                items.delete_one(by_id).await?;
            }
            _ => {
                items.update_one(by_id, doc! { "$set": { "n": id } }).await?;
            }
        }
    }
    let (time, increment) = before;
    let stream = items.watch().start_at_operation_time(Timestamp { time, increment });
    let failed = async { stream.await?.next().await.transpose() }.await;
    let code = failed.err().and_then(|error| match *error.kind {
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    });
    assert_eq!(code, Some(10334), "the event is not too large for a stream");

    run.caught_up(&world.client).await?;
    let differences = compare(&items, &world.engine, "vast-items").await?;
    assert_eq!(case.compared(&differences)?, 181);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
