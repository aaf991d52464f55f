//! Documents whose index, id or routing is taken from their fields: one that moves leaves nothing
//! behind, and a delete finds it.

use anyhow::Result;
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{
    World,
    checker::{Hit, body, hits},
    run::{RuleFile, Settings},
};

const DOCUMENTS: i32 = 400;
const KINDS: [&str; 3] = ["red", "green", "blue"];
const TENANTS: i32 = 5;

fn item(random: &mut StdRng, id: i32) -> Document {
    doc! {
        "_id": id,
        "kind": KINDS[random.random_range(0..KINDS.len())],
        "tenant": format!("t{}", random.random_range(0..TENANTS)),
        "sku": { "code": format!("s{}", random.random_range(0..3)) },
        "n": random.random_range(0..1_000),
    }
}

/// Where all documents must lie.
async fn expected(world: &World, namespace: &str, prefix: &str) -> Result<Vec<Hit>> {
    let all: Vec<Document> = world.collection(namespace).find(doc! {}).await?.try_collect().await?;
    let mut expected = Vec::new();
    for document in all {
        let code = document.get_document("sku")?.get_str("code")?;
        expected.push(Hit {
            index: format!("{prefix}-{}", document.get_str("kind")?),
            id: format!("{code}-{}", document.get_i32("_id")?),
            routing: Some(document.get_str("tenant")?.to_owned()),
            source: body(&document),
        });
    }
    expected.sort_by(|one, other| (&one.index, &one.id).cmp(&(&other.index, &other.id)));
    Ok(expected)
}

/// Moves, deletes and adds some documents.
async fn shuffle(world: &World, namespace: &str, random: &mut StdRng, count: usize) -> Result<()> {
    let collection = world.collection(namespace);
    for _ in 0..count {
        let id = random.random_range(0..DOCUMENTS);
        let by_id = doc! { "_id": id };
        if random.random_bool(0.2) {
            collection.delete_one(by_id).await?;
        } else {
            let item = item(random, id);
            collection.replace_one(by_id, item).upsert(true).await?;
        }
    }
    Ok(())
}

fn rule_file(world: &World, namespace: &str, prefix: &str) -> Result<RuleFile> {
    // More than one shard, or routing would not matter.
    let settings = Settings {
        top: "checkpoint: { every: 100ms }".into(),
        engine: ", batch: { max_actions: 40, concurrency: 3 }".into(),
        ..Settings::default()
    };
    let rules = format!(
        "  - namespace: {namespace}
    to:
      - target: search
        id: '{{sku.code}}-{{_id}}'
        routing: '{{tenant}}'
        index: {{ name: '{prefix}-{{kind}}', settings: {{ number_of_shards: 3 }} }}"
    );
    world.rule_file_with(&settings, &rules)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_moves_leaves_nothing_behind() -> Result<()> {
    let world = World::new().await?;
    let mut random = StdRng::seed_from_u64(1);
    let items: Vec<_> = (0..DOCUMENTS).map(|id| item(&mut random, id)).collect();
    world.collection("moving.items").insert_many(items).await?;
    let file = rule_file(&world, "moving.items", "moving")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let all = "moving-*";
    assert_eq!(hits(&world.engine, all).await?, expected(&world, "moving.items", "moving").await?);
    for _ in 0..3 {
        shuffle(&world, "moving.items", &mut random, 300).await?;
        run.caught_up(&world.client).await?;
        let expected = expected(&world, "moving.items", "moving").await?;
        assert_eq!(hits(&world.engine, all).await?, expected);
    }
    world.collection("moving.items").delete_many(doc! {}).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(hits(&world.engine, all).await?, []);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_moves_across_a_kill_leaves_nothing_behind() -> Result<()> {
    let world = World::new().await?;
    let mut random = StdRng::seed_from_u64(2);
    let namespace = "moved.items";
    let items: Vec<_> = (0..DOCUMENTS).map(|id| item(&mut random, id)).collect();
    world.collection(namespace).insert_many(items).await?;
    let file = rule_file(&world, namespace, "moved")?;
    for round in 0..6_u64 {
        let mut run = file.run(&[])?;
        shuffle(&world, namespace, &mut random, 60).await?;
        let delivered = random.random_range(0..400);
        println!("kill {round}: after {delivered} documents");
        // The first run copies; each later one has 60 changes or more.
        run.until("some deliveries", |status| {
            let rule = &status["targets"]["search"]["rules"][namespace];
            let count = |what: &str| rule[what].as_u64().unwrap_or_default();
            let most = if round == 0 { 100 + delivered / 2 } else { delivered / 10 };
            count("delivered") + count("removed") >= most
        })
        .await?;
        run.kill().await?;
        shuffle(&world, namespace, &mut random, 60).await?;
    }
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let expected = expected(&world, namespace, "moved").await?;
    assert_eq!(hits(&world.engine, "moved-*").await?, expected);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
