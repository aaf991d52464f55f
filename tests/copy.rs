//! The main job, end to end, with real servers and the real binary.

use anyhow::Result;
use mongodb::bson::{Document, doc};

use crate::support::{World, checker::compare, documents::Documents};

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
