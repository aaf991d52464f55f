//! The main job, end to end, with real servers and the real binary.

use anyhow::Result;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::{
    load::fill,
    support::{
        World,
        checker::compare,
        documents::Documents,
        endpoint::Play,
        fault::{Fault, Gate, Moment},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_arrives_and_its_changes_follow() -> Result<()> {
    let world = World::new().await?;
    let products = world.collection("shop.products");
    let mut documents = Documents::new(1);
    let all: Vec<Document> = (0..3_000).map(|id| documents.document(id)).collect();
    products.insert_many(all).await?;
    let file = world.rule_file("  - namespace: shop.products\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_eq!(compare(&products, &world.engine, "shop-products").await?.none()?, 3_000);

    products.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$set": { "int": 1 } }).await?;
    products.delete_many(doc! { "_id": { "$gte": 2_900 } }).await?;
    products.insert_one(documents.document(5_000)).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&products, &world.engine, "shop-products").await?.none()?, 2_901);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An index that is filled is searched by nobody yet: however the copy is begun, it is arranged for that,
/// and as it was afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_arranged_for_its_copy() -> Result<()> {
    let world = World::new().await?;
    fill(&world.collection("arranged.items"), 1, 100).await?;
    let (endpoint, engine) = world.endpoint().await?;
    for (index, arguments) in [("arranged-once", &["--copy-only"][..]), ("arranged", &[])] {
        let rule = format!(
            "  - name: {index}\n    namespace: arranged.items\n    to: [{{ target: search, index: {index} }}]"
        );
        let file = world.rule_file_with(&engine, &rule)?;
        let gate = Gate::closed();
        let fault = Fault::Hold(Moment::Before, gate.clone());
        endpoint.play(move |asked| match asked.is_bulk() {
            true => Play::Struck(fault.clone()),
            false => Play::Pass,
        });
        let mut run = file.run(arguments)?;
        run.meets("the copy", &gate, 1).await?;
        assert_eq!(refreshed(&world, index).await?, json!("30s"), "{index}");
        endpoint.pass_on();
        gate.open();
        match arguments {
            [] => {
                run.copied().await?;
                assert!(run.terminate().await?.success());
            }
            _ => assert!(run.ended().await?.success()),
        }
        assert_eq!(refreshed(&world, index).await?, json!(null), "{index}");
    }
    Ok(())
}

/// How often what was written to an index becomes visible, as far as that is set.
async fn refreshed(world: &World, index: &str) -> Result<Value> {
    let found = world.engine_json("GET", &format!("/{index}/_settings"), "").await?;
    Ok(found[index]["settings"]["index"]["refresh_interval"].clone())
}
