//! Documents as a type of one's own, from a rule file: a table of prices that is always current. What
//! does not fit the type is a dead letter, which the stream of troubles tells of at once.
//!
//! ```sh
//! cargo run --example typed
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use mongodb::{
    Client,
    bson::{Document, doc},
};
use mongosync::{Mongosync, Typed, status::Trouble};
use serde::Deserialize;
use tokio::sync::watch;

const RULES: &str = "
name: typed
source: ${MONGODB_URI}
rules:
  - namespace: typed.products
    project: { title: 1, price: 1 }
    to: prices
";

#[derive(Debug, Deserialize)]
struct Product {
    #[serde(rename = "_id")]
    id: i32,
    title: String,
    price: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mongo = mongosync_servers::MongoDb::start().await?;
    run(mongo.uri()).await
}

/// All of it, on the MongoDB at this connection string.
pub async fn run(uri: &str) -> Result<()> {
    let database = Client::with_uri_str(uri).await?.database("typed");
    let products = database.collection::<Document>("products");
    products
        .insert_many([
            doc! { "_id": 1, "title": "Lamp", "price": 19.5 },
            doc! { "_id": 2, "title": "Desk", "price": 240 },
            doc! { "_id": 3, "title": "Chair", "price": "on request" },
        ])
        .await?;

    let (prices, mut table) = watch::channel(BTreeMap::new());
    let variables = {
        let uri = uri.to_owned();
        move |name: &str| (name == "MONGODB_URI").then(|| uri.clone())
    };
    let running = Mongosync::from_text("typed.yaml", RULES)
        .variables(variables)
        .each_as("prices", move |Typed { document, delivery }: Typed<Product>| {
            prices.send_modify(|prices| match document {
                Some(Product { id, title, price }) => {
                    println!("{id}: {title} costs {price}");
                    prices.insert(id.to_string(), price);
                }
                None => {
                    println!("{}: is gone", delivery.id_text());
                    prices.remove(delivery.id_text());
                }
            });
            async { Ok(()) }
        })
        .start()?;

    running.copied().await?;
    let copied = BTreeMap::from([("1".to_owned(), 19.5), ("2".to_owned(), 240.0)]);
    ensure!(*table.borrow() == copied, "copied: {:?}", table.borrow());

    let trouble = running.troubles().next().await.context("the chair has no price")?;
    let Trouble::Refused { id, words, .. } = trouble else { bail!("something else: {trouble:?}") };
    println!("{id}: refused, {words}");
    ensure!(id == "3" && words.contains("at `price`"), "{id}: {words}");

    // With a price it is delivered after all, and its dead letter is forgotten.
    products.update_one(doc! { "_id": 3 }, doc! { "$set": { "price": 99 } }).await?;
    table.wait_for(|prices| prices.get("3") == Some(&99.0)).await?;
    products.delete_one(doc! { "_id": 1 }).await?;
    table.wait_for(|prices| !prices.contains_key("1")).await?;

    let summary = running.stop().await?;
    ensure!(summary.dead_letters >= 1, "{summary:?}");
    Ok(())
}
