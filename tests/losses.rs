//! How a well-known tool for this job loses data, situation by situation: each is brought about
//! here, and nothing is lost.

use anyhow::{Result, ensure};
use mongodb::bson::{Binary, Document, doc, spec::BinarySubtype};
use serde_json::{Value, json};

use crate::{
    load::fill,
    support::{
        World,
        checker::{body, compare, compare_shaped, hits, plain_id},
        documents::Documents,
        engine,
        proxy::Proxy,
        run::{Run, Settings},
    },
};

async fn through(world: &World) -> Result<(Proxy, Settings)> {
    let proxy = Proxy::start(&world.engine.url()).await?;
    let settings = Settings {
        top: "checkpoint: { every: 100ms }".into(),
        engine: ", retry: { initial: 20ms, max: 100ms }".into(),
        url: Some(proxy.url()),
        ..Settings::default()
    };
    Ok((proxy, settings))
}

/// Waits until the target is waited for, and says why.
async fn waiting(run: &mut Run) -> Result<String> {
    let waits = |status: &Value| {
        let search = &status["targets"]["search"];
        search["state"] == "waiting" && search["last_error"].is_string()
    };
    let status = run.until("waiting for the target", waits).await?;
    Ok(status["targets"]["search"]["last_error"].to_string())
}

/// The position had moved before the acknowledgement: 500 of 500 and 300 of 300 were lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_answers_503_until_after_the_end() -> Result<()> {
    let world = World::new().await?;
    let (proxy, settings) = through(&world).await?;
    let items = world.collection("unavailable.items");
    let mut documents = Documents::new(1);
    items.insert_many((0..1_000).map(|id| documents.document(id))).await?;
    let file =
        world.rule_file_with(&settings, "  - namespace: unavailable.items\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let mut next = 1_000;
    for (end, count) in [("kill -9", 500), ("SIGTERM", 300)] {
        proxy.refuse_bulks(503, r#"{"error":"overloaded","status":503}"#);
        items.insert_many((next..next + count).map(|id| documents.document(id))).await?;
        items.delete_many(doc! { "_id": { "$gte": next - 900, "$lt": next - 890 } }).await?;
        next += count;
        let error = waiting(&mut run).await?;
        ensure!(error.contains("503"), "{error}");
        // The stream has been read to its end; none of it may count as done.
        run.until("all events", |_| proxy.played() >= 5).await?;
        match end {
            "SIGTERM" => assert!(run.terminate().await?.success()),
            _ => run.kill().await?,
        }
        // Nor may it after a start at which the target is still away.
        run = file.run(&[])?;
        waiting(&mut run).await?;
        assert!(run.terminate().await?.success());
        proxy.pass_on();
        run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        compare(&items, &world.engine, "unavailable-items").await?.none()?;
    }
    // It is back while the process runs.
    proxy.refuse_bulks(503, "");
    items.insert_many((next..next + 100).map(|id| documents.document(id))).await?;
    waiting(&mut run).await?;
    proxy.pass_on();
    run.caught_up(&world.client).await?;
    compare(&items, &world.engine, "unavailable-items").await?.none()?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// It ended with exit code 0, no document in the target, and no error line.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_every_request_is_waited_for() -> Result<()> {
    let world = World::new().await?;
    let (proxy, settings) = through(&world).await?;
    let items = world.collection("refused.items");
    fill(&items, 2, 2_000).await?;
    let file = world.rule_file_with(&settings, "  - namespace: refused.items\n    to: search")?;
    let refusal = r#"{"error":{"type":"security_exception","reason":"not for you"},"status":403}"#;
    proxy.refuse_bulks(403, refusal);
    let mut run = file.run(&[])?;
    let error = waiting(&mut run).await?;
    ensure!(error.contains("not for you"), "{error}");
    let (ready, reasons) = run.get("/readyz").await.expect("an answer");
    assert_eq!(ready, 503, "{reasons}");
    let (healthy, _) = run.get("/healthz").await.expect("an answer");
    assert_eq!(healthy, 200);
    run.until("several tries", |_| proxy.played() >= 5).await?;
    ensure!(run.log().contains("not for you"), "{}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(file.dead_letters().await?.len(), 0);

    proxy.pass_on();
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(compare(&items, &world.engine, "refused-items").await?.none()?, 2_000);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// It was stuck at half of the collection, and its health said ok.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mapping_refuses_does_not_hold_up_the_rest() -> Result<()> {
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
    assert_eq!(checked.none()?, 3_980);
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
    assert_eq!(checked.none()?, 1_000 + 1_990 + 398);
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
    compare(&items, &world.engine, "mapped-items").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 0 of 50 arrived.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_inserted_between_two_idle_runs_arrives() -> Result<()> {
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
        let found = compare(&items, &world.engine, "idle-items").await?.none()?;
        assert_eq!(i32::try_from(found)?, next);
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// 424 MB were sent again and again, and the position moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_large_for_the_engine_is_sent_in_parts() -> Result<()> {
    let own = engine().setting("http.max_content_length", "1mb");
    let world = World::with_engine(own).await?;
    let (proxy, settings) = through(&world).await?;
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
    assert_eq!(checked.none()?, 210);
    let mut refused: Vec<String> = Vec::new();
    for letter in file.dead_letters().await? {
        refused.push(letter["key_text"].as_str().unwrap_or_default().to_owned());
        ensure!(letter["words"].as_str().is_some_and(|words| words.contains("413")), "{letter}");
    }
    refused.sort();
    assert_eq!(refused, ["210", "211", "212"]);
    // 24 MB of documents as base64, and of each size one request too many for each lane.
    ensure!(proxy.bytes() < 100 << 20, "{} bytes were sent", proxy.bytes());

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
    assert_eq!(compare(&items, &world.engine, "again-items").await?.none()?, 36);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// 2,073 of 40,000 were copied, and the copy was marked as done.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_the_server_ends_half_way_is_opened_again() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("cut.items");
    fill(&items, 6, 20_000).await?;
    let settings = Settings { source: "&appName=cut".into(), ..Settings::default() };
    let file = world.rule_file_with(
        &settings,
        "  - namespace: cut.items\n    copy: { chunk: 8MiB }\n    to: search",
    )?;
    let admin = world.client.database("admin");
    let fail = |mode: mongodb::bson::Bson| {
        admin.run_command(doc! {
            "configureFailPoint": "failCommand", "mode": mode,
            "data": {
                "failCommands": ["getMore"], "errorCode": 43, "appName": "cut",
                "namespace": "cut.items",
            },
        })
    };
    // Each second reply is lost, for the stream's cursor too.
    fail(doc! { "times": 12 }.into()).await?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    fail("off".into()).await?;
    assert_eq!(compare(&items, &world.engine, "cut-items").await?.none()?, 20_000);
    items.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "int": 1 } }).await?;
    run.caught_up(&world.client).await?;
    compare(&items, &world.engine, "cut-items").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The field stayed.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_unset_is_gone() -> Result<()> {
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
    assert!(run.terminate().await?.success());
    Ok(())
}
