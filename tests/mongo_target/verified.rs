//! `mongosync verify` of a MongoDB: by the bytes of each document, on live data too.

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use serde_json::Value;

use crate::{
    load::fill,
    support::{run::RuleFile, writers::Writers},
};

use super::{Worlds, ids, of_every_type, same};

/// Runs `verify --json`, and gives the counts that are not zero.
async fn verify(file: &RuleFile, arguments: &[&str]) -> Result<Vec<(String, u64)>> {
    let output = file.command("verify", &[&["--json"], arguments].concat()).await?;
    let problem = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: {problem}", output.status))?;
    let search = &report["targets"]["search"];
    ensure!(search["unreadable"].is_null(), "{report:#}");
    let mut counts = Vec::new();
    let rules = search["rules"].as_object().context("rules")?;
    for name in ["missing", "different", "not_delivered", "dead_letters", "repaired"] {
        let count = rules.values().filter_map(|rule| rule[name].as_u64()).sum::<u64>();
        counts.push((name.to_owned(), count));
    }
    for name in ["extra", "extra_repaired", "extra_not_delivered"] {
        counts.push((name.to_owned(), search[name].as_u64().unwrap_or_default()));
    }
    counts.retain(|(_, count)| *count > 0);
    Ok(counts)
}

fn counted(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_in_a_mongodb_is_found_and_repaired() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source: Collection<Document> = worlds.from.database("verified_mirror").collection("items");
    source.insert_many(ids().into_iter().map(of_every_type)).await?;
    source.insert_many((100..400).map(|id| doc! { "_id": id, "n": id, "x": 1.0 })).await?;
    let to = "to: [{ target: search, namespace: 'verified_to.items' }]";
    let file = worlds
        .rule_file(&format!("  - {{ name: items, namespace: verified_mirror.items, {to} }}"))?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(verify(&file, &[]).await?, []);

    let held: Collection<Document> = worlds.to.database("verified_to").collection("items");
    held.delete_one(doc! { "_id": 100 }).await?;
    held.delete_one(doc! { "_id": "1" }).await?;
    held.update_one(doc! { "_id": 101 }, doc! { "$set": { "n": 0 } }).await?;
    // The same number of another type, and the same fields in another order.
    held.update_one(doc! { "_id": 102 }, doc! { "$set": { "x": 1 } }).await?;
    held.replace_one(doc! { "_id": 103 }, doc! { "x": 1.0, "n": 103 }).await?;
    held.insert_many([doc! { "_id": 900 }, doc! { "_id": "ghost" }]).await?;
    let expected = counted(&[("missing", 2), ("different", 3), ("extra", 2)]);
    assert_eq!(verify(&file, &[]).await?, expected);
    assert_eq!(verify(&file, &[]).await?, expected, "nothing has been mended by looking");
    let repaired = counted(&[("repaired", 5), ("extra_repaired", 2)]);
    assert_eq!(verify(&file, &["--repair"]).await?, repaired);
    assert_eq!(verify(&file, &[]).await?, []);
    same(&worlds, "verified_mirror.items", "verified_to.items").await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What comes and goes meanwhile is no difference, and is not removed for one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_to_a_mongodb_is_no_difference() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source: Collection<Document> = worlds.from.database("verified_live").collection("items");
    fill(&source, 61, 3_000).await?;
    let file =
        worlds.rule_file("  - { name: items, namespace: verified_live.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = worlds.to.database("verified_live").collection("items");
    held.insert_one(doc! { "_id": "ghost" }).await?;
    let mut writers = Writers::new(&worlds.from, &source, 62, 3_000, 4_000);
    for round in 1..=3 {
        writers.release(1_000 * round);
        let mut counts = verify(&file, &["--repair"]).await?;
        counts.retain(|(name, _)| !name.ends_with("not_delivered"));
        let expected = if round == 1 { counted(&[("extra_repaired", 1)]) } else { Vec::new() };
        assert_eq!(counts, expected, "round {round}");
    }
    writers.finish().await?;
    worlds.at_rest(&mut run).await?;
    same(&worlds, "verified_live.items", "verified_live.items").await?;
    assert_eq!(verify(&file, &[]).await?, []);
    assert!(run.terminate().await?.success());
    Ok(())
}
