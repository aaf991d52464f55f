//! Transforms that look other documents up.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Bson, Document, doc},
};
use mongosync_servers::MongoDb;
use serde_json::json;

use crate::support::{
    World,
    checker::{self, hits},
};

/// Puts the category and the other products of it into the product.
const SCRIPT: &str = r#"
    transform: |
      let category = lookup("DATABASE.categories", #{ _id: doc.category });
      doc.category = if category == () { () } else { category.name };
      let others = lookup_all("DATABASE.categories", #{ kind: doc.kind }, 10);
      let names = others.map(|other| other.name);
      names.sort();
      doc.others = names;
    to: search"#;

fn rule(database: &str) -> String {
    format!("  - namespace: {database}.products{SCRIPT}").replace("DATABASE", database)
}

/// Compares the index with a join that is made here, of what the source holds now.
async fn compare(world: &World, database: &str) -> Result<usize> {
    let mut categories: Vec<Document> = Vec::new();
    let mut found = world.collection(&format!("{database}.categories")).find(doc! {}).await?;
    while found.advance().await? {
        categories.push(found.deserialize_current()?);
    }
    let names: HashMap<i32, String> = categories
        .iter()
        .map(|category| Ok((category.get_i32("_id")?, category.get_str("name")?.to_owned())))
        .collect::<Result<_>>()?;
    let of_kind = |kind: &str| {
        let of = categories
            .iter()
            .filter(|category| category.get_str("kind").is_ok_and(|own| own == kind));
        let mut names: Vec<_> = of.filter_map(|category| category.get_str("name").ok()).collect();
        names.sort_unstable();
        json!(names)
    };
    let shaped = |product: &Document| {
        let mut body = checker::body(product);
        body["category"] = json!(names.get(&product.get_i32("category").ok()?));
        body["others"] = of_kind(product.get_str("kind").ok()?);
        Some((checker::plain_id(product.get("_id")?)?, body))
    };
    let products = world.collection(&format!("{database}.products"));
    let index = format!("{database}-products");
    checker::compare_shaped(&products, &world.engine, &index, shaped).await?.none()
}

async fn fill(
    products: &Collection<Document>,
    categories: &Collection<Document>,
    count: i32,
) -> Result<()> {
    let kinds = ["a", "b"];
    let category =
        |id: i32| doc! { "_id": id, "name": format!("{id}"), "kind": kinds[id as usize % 2] };
    categories.insert_many((0..20).map(category)).await?;
    // Of every 21st product the category is not there.
    let product = |id: i32| {
        doc! { "_id": id, "category": id % 21, "kind": kinds[id as usize % 2], "text": "x".repeat(500) }
    };
    products.insert_many((0..count).map(product)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_is_not_older_than_the_document() -> Result<()> {
    let world = World::new().await?;
    let [products, categories] =
        ["products", "categories"].map(|name| world.collection(&format!("joined.{name}")));
    fill(&products, &categories, 20_000).await?;
    let file = world.rule_file(&rule("joined"))?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(compare(&world, "joined").await?, 20_000);

    // Each product changes right after its categories did, while the rounds before are still on
    // their way.
    for round in 1..=30 {
        let name = vec![
            doc! { "$set": { "name": { "$concat": [{ "$toString": "$_id" }, format!("-{round}")] } } },
        ];
        categories.update_many(doc! {}, name).await?;
        let some = doc! { "_id": { "$mod": [100, round] } };
        products.update_many(some, doc! { "$set": { "round": round } }).await?;
    }
    products.update_many(doc! {}, doc! { "$inc": { "round": 1 } }).await?;
    run.caught_up(&world.client).await?;
    compare(&world, "joined").await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_mongodb_refuses_is_a_dead_letter() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("refused_lookup.items");
    items.insert_many((0..50).map(|id| doc! { "_id": id, "wrong": id == 7 })).await?;
    let file = world.rule_file(
        r#"  - namespace: refused_lookup.items
    transform: |
      let query = #{ _id: 1 };
      if doc.wrong {
        query = #{ _id: #{ "$foo": 1 } };
      }
      doc.other = lookup("refused_lookup.items", query)._id;
    to: search"#,
    )?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(6), "{log}");
    assert_eq!(hits(&world.engine, "refused_lookup-items").await?.len(), 49);
    let letters = file.dead_letters().await?;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let words = letter["words"].as_str().context("words")?;
    let expected =
        "line 5, column 13: the lookup in refused_lookup.items is refused: unknown operator: $foo";
    ensure!(words.starts_with(expected), "{words}");
    Ok(())
}

/// Only the lookups fail: the documents themselves can be read.
#[tokio::test(flavor = "multi_thread")]
async fn lookups_wait_for_the_source_and_a_stop_ends_the_wait() -> Result<()> {
    let world = World::new().await?;
    let own = MongoDb::start().await?;
    let world = World { client: own.client(), mongo: own.into(), ..world };
    let [products, categories] =
        ["products", "categories"].map(|name| world.collection(&format!("away.{name}")));
    fill(&products, &categories, 500).await?;
    let admin = world.client.database("admin");
    let fail = |mode: Bson| {
        admin.run_command(doc! {
            "configureFailPoint": "failCommand", "mode": mode,
            "data": {
                "failCommands": ["find"], "errorCode": 91, "namespace": "away.categories",
                "appName": "mongosync",
            },
        })
    };
    fail("alwaysOn".into()).await?;
    let file = world.rule_file(&rule("away"))?;
    let mut run = file.run(&[])?;
    run.wrote("looking up for a transform").await?;
    assert!(run.terminate().await?.success());
    ensure!(file.dead_letters().await?.is_empty());

    let mut run = file.run(&[])?;
    run.wrote("looking up for a transform").await?;
    fail("off".into()).await?;
    run.copied().await?;
    assert_eq!(compare(&world, "away").await?, 500);
    fail(doc! { "times": 5 }.into()).await?;
    products.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&world, "away").await?, 500);
    ensure!(file.dead_letters().await?.is_empty());
    assert!(run.terminate().await?.success());
    Ok(())
}
