//! `mongosync verify`: what differs is found and mended, and what is only on its way is no difference.

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Binary, Bson, Document, doc, oid::ObjectId, spec::BinarySubtype},
};
use serde_json::Value;

use crate::{
    load::fill,
    support::{
        World,
        checker::{compare, hits},
        fail_command::FailCommand,
        receiver::Receiver,
        run::{RuleFile, Settings},
        writers::Writers,
    },
};

/// A time long before any test, as a version: what mongosync would have written then.
const LONG_AGO: u64 = 1_600_000_000 << 32;

fn settings() -> Settings {
    Settings { top: "checkpoint: { every: 100ms }".into(), ..Settings::default() }
}

/// Runs `verify --json`, whose exit code has to fit what it says.
async fn verify(file: &RuleFile, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["--json"], arguments].concat();
    let output = file.command("verify", &arguments).await?;
    let problem = String::from_utf8_lossy(&output.stderr);
    ensure!(!problem.contains("panicked"), "{problem}");
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: {problem}", output.status))?;
    let expected = if report["differ"] == 0 { 0 } else { 4 };
    ensure!(output.status.code() == Some(expected), "{}: {report:#}\n{problem}", output.status);
    Ok(report)
}

/// Some counts of the only rule, and of what is extra.
fn counts(report: &Value) -> Vec<(&'static str, u64)> {
    let search = &report["targets"]["search"];
    let rule = search["rules"].as_object().and_then(|rules| rules.values().next());
    let mut counts = Vec::new();
    for name in ["missing", "different", "not_delivered", "dead_letters", "repaired"] {
        counts.push((name, rule.and_then(|rule| rule[name].as_u64()).unwrap_or_default()));
    }
    for name in ["extra", "extra_repaired", "extra_not_delivered"] {
        counts.push((name, search[name].as_u64().unwrap_or_default()));
    }
    counts.retain(|(_, count)| *count > 0);
    counts
}

/// Puts a document into an index as mongosync would have done long ago.
async fn haunt(world: &World, path: &str) -> Result<()> {
    let sign = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{sign}version={LONG_AGO}&version_type=external");
    world.engine_json("PUT", &path, r#"{"ghost":true}"#).await?;
    Ok(())
}

async fn delete(world: &World, path: &str) -> Result<()> {
    world.engine_json("DELETE", path, "").await?;
    Ok(())
}

/// Of ids of several types, under a filter.
#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_found_and_repaired() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("verified.items");
    let ids: Vec<Bson> = (0..300)
        .map(|n| match n % 3 {
            0 => Bson::Int32(n),
            1 => Bson::String(format!("s {n}/é")),
            _ => Bson::ObjectId(ObjectId::from_bytes([u8::try_from(n % 251).expect("a byte"); 12])),
        })
        .collect();
    for (n, id) in (0..).zip(&ids) {
        items.insert_one(doc! { "_id": id, "n": n, "active": n % 10 != 0, "x": 1.0 }).await?;
    }
    let rules =
        "  - { name: items, namespace: verified.items, filter: { active: true }, to: search }";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), []);
    assert_eq!(report["targets"]["search"]["rules"]["items"]["equal"], 270);
    assert_eq!(report["targets"]["search"]["held"], 270);

    let index = "/verified-items/_doc";
    let mine = hits(&world.engine, "verified-items").await?;
    let path = |at: usize| format!("{index}/{}", urlencoded(&mine[at].id));
    delete(&world, &path(0)).await?;
    delete(&world, &path(150)).await?;
    let mut changed = mine[269].source.clone();
    changed["x"] = 2.into();
    world.engine_json("PUT", &path(269), &changed.to_string()).await?;
    // The same in another spelling is the same.
    let mut same = mine[100].source.clone();
    same["x"] = 1.into();
    world.engine_json("PUT", &path(100), &same.to_string()).await?;
    haunt(&world, &format!("{index}/ghost")).await?;
    // What somebody put there by hand is none of our business.
    world.engine_json("PUT", &format!("{index}/own"), r#"{"by":"hand"}"#).await?;

    let expected = [("missing", 2), ("different", 1), ("extra", 1)];
    let report = verify(&file, &["--limit", "1"]).await?;
    assert_eq!(counts(&report), expected, "{report:#}");
    let shown = report["targets"]["search"]["differences"].as_array().context("a list")?;
    assert_eq!(shown.len(), 3, "{report:#}");
    // Nothing has been mended by looking.
    assert_eq!(counts(&verify(&file, &[]).await?), expected);

    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("repaired", 3), ("extra_repaired", 1)], "{report:#}");
    assert_eq!(counts(&verify(&file, &[]).await?), []);
    let now = hits(&world.engine, "verified-items").await?;
    assert_eq!(now.len(), mine.len() + 1);
    assert!(now.iter().any(|hit| hit.id == "own"));
    assert!(run.terminate().await?.success());
    Ok(())
}

fn urlencoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte.is_ascii_alphanumeric() {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// While every document changes, comes and goes, nothing that is on its way is taken for a difference;
/// and what differs is found all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_no_difference() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("stirred.items");
    let quiet = 2_000;
    fill(&items, 1, quiet).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: stirred.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let mut writers = Writers::new(&world.client, &items, 7, quiet, 12_000);
    for round in 1..=3 {
        writers.release(round * 3_000);
        let report = verify(&file, &[]).await?;
        assert_eq!(report["differ"], 0, "{report:#}");
    }
    // Documents that the writers leave alone.
    items.insert_many((-20_i64..0).map(|id| doc! { "_id": id, "n": id })).await?;
    run.caught_up(&world.client).await?;
    writers.release(11_000);
    for id in -3..0 {
        delete(&world, &format!("/stirred-items/_doc/{id}")).await?;
    }
    haunt(&world, "/stirred-items/_doc/ghost").await?;
    let report = verify(&file, &["--repair"]).await?;
    let repaired: Vec<_> =
        counts(&report).into_iter().filter(|(name, _)| !name.contains("not_delivered")).collect();
    assert_eq!(repaired, [("repaired", 3), ("extra_repaired", 1)], "{report:#}");
    writers.finish().await?;
    run.caught_up(&world.client).await?;
    assert_eq!(counts(&verify(&file, &[]).await?), []);
    compare(&items, &world.engine, "stirred-items").await?.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Nobody runs: what changed since is not delivered yet, what differs differs, and a repair waits for
/// the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_told_from_a_difference() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("backlog.items");
    fill(&items, 1, 500).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: backlog.items, to: search }")?;

    // Before anything has been delivered there is nothing to compare.
    let output = file.command("verify", &[]).await?;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("nothing has been delivered to target search yet"), "{said}");

    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    assert!(run.terminate().await?.success());
    assert_eq!(counts(&verify(&file, &[]).await?), []);
    items.insert_many((1_000..1_050).map(|id| doc! { "_id": id })).await?;
    items.update_many(doc! { "_id": { "$lt": 20 } }, doc! { "$set": { "int": 1.5 } }).await?;
    items.delete_many(doc! { "_id": { "$gte": 20, "$lt": 30 } }).await?;
    for id in 100..103 {
        delete(&world, &format!("/backlog-items/_doc/{id}")).await?;
    }
    haunt(&world, "/backlog-items/_doc/ghost").await?;
    let expected =
        [("missing", 3), ("not_delivered", 70), ("extra", 1), ("extra_not_delivered", 10)];
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), expected, "{report:#}");

    let report = verify(&file, &["--repair", "--wait", "1s"]).await?;
    assert_eq!(counts(&report), expected, "{report:#}");
    assert_eq!(report["targets"]["search"]["repair_left"], true);
    let mut run = file.run(&[])?;
    run.says("3 delivered again").await?;
    run.says("1 removed").await?;
    run.caught_up(&world.client).await?;
    assert_eq!(counts(&verify(&file, &["--repair"]).await?), []);
    assert_eq!(compare(&items, &world.engine, "backlog-items").await?.none()?, 540);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A transform that makes several documents of one, each with a routing of its own.
#[tokio::test(flavor = "multi_thread")]
async fn several_of_one_document_are_compared_each() -> Result<()> {
    let world = World::new().await?;
    let orders = world.collection("pieces.orders");
    let order = |id: i32| {
        doc! { "_id": format!("o{id}"), "tenant": format!("t{}", id % 5), "lines": 1 + id % 3 }
    };
    orders.insert_many((0..100).map(order)).await?;
    let rules = "  - name: orders
    namespace: pieces.orders
    transform: |
      let all = [];
      for n in range(0, doc.lines) {
        all.push(#{ _id: `${doc._id}-${n}`, tenant: doc.tenant, n: n });
      }
      doc = all;
    to:
      - target: search
        routing: '{tenant}'
        index: { name: pieces, settings: { number_of_shards: 3 } }";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let all: i32 = (0..100).map(|id| 1 + id % 3).sum();
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), []);
    let own = &report["targets"]["search"]["rules"]["orders"];
    assert_eq!((own["documents"].as_u64(), own["equal"].as_i64()), (Some(100), Some(all.into())));

    delete(&world, "/pieces/_doc/o5-1?routing=t0").await?;
    let piece = r#"{"tenant":"t3","n":7}"#;
    world.engine_json("PUT", "/pieces/_doc/o8-0?routing=t3", piece).await?;
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), [("missing", 1), ("different", 1)], "{report:#}");
    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("repaired", 2)], "{report:#}");
    assert_eq!(counts(&verify(&file, &[]).await?), []);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Where the routing is a field of the document, what is extra is removed with the routing it has.
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_under_another_routing_is_extra() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("routed.items");
    items
        .insert_many((0..50).map(|id| doc! { "_id": id, "tenant": format!("t{}", id % 4) }))
        .await?;
    let rules = "  - namespace: routed.items
    to: [{ target: search, routing: '{tenant}', index: { name: routed, settings: { number_of_shards: 3 } } }]";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    assert_eq!(counts(&verify(&file, &[]).await?), []);
    // In another shard than the document's own.
    for routing in 0..9 {
        haunt(&world, &format!("/routed/_doc/g{routing}?routing=r{routing}")).await?;
    }
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), [("extra", 9)], "{report:#}");
    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("extra_repaired", 9)], "{report:#}");
    assert_eq!(hits(&world.engine, "routed").await?.len(), 50);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_16_mib_is_compared() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("verified_vast.items");
    let vast = |id: i32| {
        let bytes = vec![u8::try_from(id % 251).expect("a byte"); (16 << 20) - 128];
        doc! { "_id": id, "data": Binary { subtype: BinarySubtype::Generic, bytes } }
    };
    for id in 0..3 {
        items.insert_one(vast(id)).await?;
    }
    items.insert_many((10..30).map(|id| doc! { "_id": id })).await?;
    let rules = "  - namespace: verified_vast.items
    to: [{ target: search, index: { mappings: { dynamic: false } } }]";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), [], "{report:#}");
    let rule = &report["targets"]["search"]["rules"]["verified_vast.items"];
    assert_eq!(rule["equal"], 23);
    let path = "/verified_vast-items/_doc/1";
    world.engine_json("PUT", path, r#"{"data":"AQ=="}"#).await?;
    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("repaired", 1)], "{report:#}");
    assert_eq!(compare(&items, &world.engine, "verified_vast-items").await?.none()?, 23);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What was refused is known already; what a new rule has not copied yet is on its way; and of a join the
/// target holds what it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_else_may_differ_is_told_apart() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("apart.items");
    let kinds = world.collection("apart.kinds");
    kinds.insert_many((0..2).map(|id| doc! { "_id": id, "name": format!("kind {id}") })).await?;
    items.insert_many((0..40).map(|id| doc! { "_id": id, "kind": id % 2, "n": id })).await?;
    let rules = "  - name: items
    namespace: apart.items
    pipeline:
      - { $lookup: { from: kinds, localField: kind, foreignField: _id, as: kinds } }
    transform: |
      if doc.n == 7 { fail(\"it is seven\"); }
    to:
      - target: search
        index: { mappings: { properties: { n: { type: integer } } } }";
    let file = world.rule_file_with(&settings(), rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    // The mapping refuses it, and the index keeps what it had.
    items.update_one(doc! { "_id": 9 }, doc! { "$set": { "n": "nine" } }).await?;
    run.caught_up(&world.client).await?;
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), [("dead_letters", 2)], "{report:#}");

    kinds.update_one(doc! { "_id": 0 }, doc! { "$set": { "name": "another" } }).await?;
    run.caught_up(&world.client).await?;
    let report = verify(&file, &[]).await?;
    assert_eq!(counts(&report), [("different", 20), ("dead_letters", 2)], "{report:#}");
    let notes = report["targets"]["search"]["notes"].to_string();
    ensure!(notes.contains("a join is as of the document's own last change"), "{notes}");
    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("dead_letters", 2), ("repaired", 20)], "{report:#}");
    assert!(run.terminate().await?.success());

    let more = "  - { name: kinds, namespace: apart.kinds, to: search }\n";
    file.rewrite(|text| format!("{text}{more}"))?;
    let report = verify(&file, &["--rule", "kinds"]).await?;
    assert_eq!(counts(&report), [("not_delivered", 2)], "{report:#}");
    assert_eq!(report["targets"]["search"]["rules"]["kinds"]["copying"], true);
    Ok(())
}

/// What can't be compared, or is not there, is said.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_said() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("unverified.items");
    items.insert_many((0..5).map(|id| doc! { "_id": id })).await?;
    let receiver = Receiver::start().await?;
    let file =
        world.rule_file_with(&settings(), "  - { namespace: unverified.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    assert!(run.terminate().await?.success());
    let told = async |arguments: &[&str], code: i32, words: &str| -> Result<()> {
        let output = file.command("verify", arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{arguments:?} {}: {said}", output.status);
        ensure!(said.contains(words), "{arguments:?}: {said}");
        Ok(())
    };
    told(&["--rule", "unverified"], 2, "did you mean").await?;
    told(&["--target", "serch"], 2, "did you mean").await?;
    // As a person reads it.
    let output = file.command("verify", &[]).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(said.contains("5 documents in the source; equal: 5"), "{said}");

    let hook = format!("targets:\n  hook: {{ webhook: {{ url: {} }} }}\n", receiver.url());
    file.rewrite(|text| {
        let text = text.replace("targets:\n", &hook);
        text.replace("to: search", "delivery: documents, to: [search, hook]")
    })?;
    let report = verify(&file, &[]).await?;
    let hook = &report["targets"]["hook"]["unreadable"];
    assert_eq!(hook, "what it was sent can't be read back", "{report:#}");
    told(&["--target", "hook"], 1, "target hook can't be compared").await?;

    let url = world.engine.url();
    file.rewrite(|text| text.replace(&url, "http://127.0.0.1:9"))?;
    told(&["--target", "search", "--wait", "1s"], 3, "target search was not reached").await?;
    file.rewrite(|text| text.replace(world.mongo.uri(), "mongodb://127.0.0.1:9/?replicaSet=rs0"))?;
    told(&["--wait", "1s"], 3, "the source was not reached").await?;
    Ok(())
}

/// Documents of every kind, for a look at many pages at once.
#[tokio::test(flavor = "multi_thread")]
async fn many_documents_are_compared_page_by_page() -> Result<()> {
    let world = World::new().await?;
    let items: Collection<Document> = world.collection("paged.items");
    fill(&items, 3, 6_000).await?;
    let file = world.rule_file_with(&settings(), "  - { namespace: paged.items, to: search }")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    for id in (0..6_000).step_by(17) {
        delete(&world, &format!("/paged-items/_doc/{id}")).await?;
    }
    let report = verify(&file, &[]).await?;
    let missing = 6_000_u64.div_ceil(17);
    assert_eq!(counts(&report), [("missing", missing)], "{report:#}");
    let rule = &report["targets"]["search"]["rules"]["paged.items"];
    assert_eq!(rule["equal"], 6_000 - missing);
    let report = verify(&file, &["--repair"]).await?;
    assert_eq!(counts(&report), [("repaired", missing)], "{report:#}");
    assert_eq!(compare(&items, &world.engine, "paged-items").await?.none()?, 6_000);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A cursor that is lost is opened again behind what it has shown: each document counts once.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cursor_is_opened_again_where_it_was() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("resumed.items");
    fill(&items, 5, 6_000).await?;
    let settings = Settings { source: "&appName=verified-source".into(), ..settings() };
    let rules = "  - { name: plain, namespace: resumed.items, to: search }
  - name: piped
    namespace: resumed.items
    pipeline: [{ $set: { seen: true } }]
    to: [{ target: search, index: resumed-piped }]";
    let file = world.rule_file_with(&settings, rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    assert!(run.terminate().await?.success());
    delete(&world, "/resumed-items/_doc/2999").await?;
    let data = doc! { "failCommands": ["getMore"], "errorCode": 43 };
    let point = FailCommand::times(&world.client, 2, "verified-source", data).await?;
    let report = verify(&file, &[]).await?;
    point.end().await?;
    let rules = &report["targets"]["search"]["rules"];
    for (name, equal, missing) in [("plain", 5_999, 1), ("piped", 6_000, 0)] {
        let own = &rules[name];
        assert_eq!(own["documents"], 6_000, "{report:#}");
        assert_eq!(own["equal"], equal, "{name}");
        assert_eq!(own["missing"], missing, "{name}");
    }
    assert_eq!(report["differ"], 1, "{report:#}");
    Ok(())
}
