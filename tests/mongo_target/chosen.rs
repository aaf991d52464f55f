//! Where a field, a template or a script chooses: the collection, and the `_id`.

use std::time::Duration;

use anyhow::{Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, Regex, doc},
};
use tokio::time::interval;

use super::{Worlds, cstring, same, whose::ids};

/// A new process has placed nothing yet, and the first thing that it is to do is to take a document away.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_the_first_after_a_restart() -> Result<()> {
    let worlds = Worlds::new().await?;
    let orders: Collection<Document> = worlds.from.database("by_region").collection("orders");
    let order = |id: i32, region: &str| doc! { "_id": id, "region": region };
    let regions = ["eu", "eu", "us", "us", "asia"];
    orders.insert_many((0..).zip(regions).map(|(id, region)| order(id, region))).await?;
    let file = worlds.rule_file(
        "  - name: orders\n    namespace: by_region.orders\n    \
         to: [{ target: search, namespace: 'by_region_to.{region}' }]",
    )?;
    let held = worlds.to.database("by_region_to");
    let lie = |region: &str| {
        let collection: Collection<Document> = held.collection(region);
        async move { ids(&collection).await }
    };
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());

    // One goes, and one moves.
    orders.delete_one(doc! { "_id": 0 }).await?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    orders.insert_one(order(5, "eu")).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!((lie("eu").await?, lie("us").await?), ("1 5".into(), "2 3".into()));
    assert!(run.terminate().await?.success());
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "region": "asia" } }).await?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    orders.insert_one(order(6, "us")).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!((lie("us").await?, lie("asia").await?), ("3 6".into(), "2 4".into()));
    assert!(run.terminate().await?.success());

    // Nor does it make a collection that is gone, or say whose that would be.
    held.collection::<Document>("asia").drop().await?;
    orders.delete_one(doc! { "_id": 4 }).await?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let mut names = held.list_collection_names().await?;
    names.sort();
    assert_eq!(names, ["eu", "us"]);
    for id in 7..9 {
        orders.insert_one(order(id, "asia")).await?;
        worlds.at_rest(&mut run).await?;
        assert!(run.terminate().await?.success());
        run = file.run(&[])?;
        worlds.at_rest(&mut run).await?;
    }
    assert_eq!(lie("asia").await?, "7 8");
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A namespace leaves a rule that writes to places with other names.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_with_a_template_reads_no_more_is_removed() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("left_by_template");
    for name in ["a", "b"] {
        let items: Collection<Document> = from.collection(name);
        items.insert_many((0..300).map(|id| doc! { "_id": id })).await?;
    }
    let file = worlds.rule_file(
        "  - name: all\n    namespace: left_by_template.*\n    on_rule_change: resync\n    \
         to: [{ target: search, namespace: 'left_archive.old_{collection}' }]",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    file.rewrite(|text| {
        text.replace("template.*\n", "template.*\n    exclude: left_by_template.b\n")
    })?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "left_by_template.a", "left_archive.old_a").await?, 300);
    let held: Collection<Document> = worlds.to.database("left_archive").collection("old_b");
    let mut look = interval(Duration::from_millis(50));
    while held.count_documents(doc! {}).await? > 0 {
        let letters = file.dead_letters().await?;
        ensure!(letters.is_empty(), "{letters:?}");
        run.status().await;
        look.tick().await;
    }
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A script makes `_id`s of what documents hold. As queries they would find others.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_reads_like_a_query_finds_no_other_document() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("queries").collection("items");
    let pattern = Regex { pattern: cstring("^a"), options: cstring("") };
    items
        .insert_many([
            doc! { "_id": "abc" },
            doc! { "_id": "abd" },
            doc! { "_id": 1, "id": pattern },
            doc! { "_id": 2, "id": { "dollar": "$gt" } },
            doc! { "_id": 3, "id": { "$gt": "" }, "$odd": 1 },
        ])
        .await?;
    let file = worlds.rule_file(
        "  - name: items\n    namespace: queries.items\n    to: search\n    transform: |\n      \
         if \"id\" in doc { doc._id = doc.id; }",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = worlds.to.database("queries").collection("items");
    let there = r#""abc" "abd" { "dollar": "$gt" }"#;
    assert_eq!(ids(&held).await?, there);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 2, "{letters:?}");
    let words = serde_json::to_string(&letters)?;
    ensure!(words.contains("is a regular expression") && words.contains("a field $gt"), "{words}");
    items.delete_many(doc! { "_id": { "$in": [1, 3] } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(ids(&held).await?, there);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}
