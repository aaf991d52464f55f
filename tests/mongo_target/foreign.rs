//! Values of a unique index that are held by what no rule is to remove.

use anyhow::{Result, ensure};
use mongodb::{
    Collection, Database,
    bson::{Document, doc},
};

use super::{Worlds, whose::ids};

async fn unique_by_sku(database: &Database, collection: &str) -> Result<()> {
    let index = doc! { "key": { "sku": 1 }, "name": "sku", "unique": true };
    let command = doc! { "createIndexes": collection, "indexes": [index] };
    database.run_command(command).await?;
    Ok(())
}

/// Documents that were there before, that another rule file keeps, and that another rule makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_not_of_the_rule_stays() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("foreign"), worlds.to.database("foreign"));
    let held = |name: &str| to.collection::<Document>(name);
    held("before").insert_one(doc! { "_id": "theirs", "sku": 1 }).await?;
    unique_by_sku(&to, "before").await?;
    let before: Collection<Document> = from.collection("before");
    before.insert_many([doc! { "_id": 1, "sku": 1 }, doc! { "_id": 2, "sku": 2 }]).await?;

    from.collection("one").insert_one(doc! { "_id": 1, "sku": 1 }).await?;
    let two: Collection<Document> = from.collection("two");
    two.insert_many([doc! { "_id": 2, "sku": 1 }, doc! { "_id": 3, "sku": 3 }]).await?;
    let shared = |name: &str| {
        format!(
            "  - {{ name: {name}, namespace: foreign.{name}, \
             to: [{{ target: search, namespace: foreign.shared }}] }}\n"
        )
    };
    let other = worlds.rule_file(&shared("one"))?;
    let mut run = other.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    unique_by_sku(&to, "shared").await?;

    let made: Collection<Document> = from.collection("made");
    made.insert_many([doc! { "_id": "1", "sku": "x" }, doc! { "_id": "2", "sku": "z" }]).await?;
    unique_by_sku(&from, "made").await?;
    let rules = shared("two")
        + "  - { name: before, namespace: foreign.before, to: search }\n  \
           - { name: plain, namespace: foreign.made, to: search }\n  \
           - name: parts\n    namespace: foreign.made\n    to: search\n    transform: |\n      \
           doc = [#{ _id: `${doc._id}-a`, sku: `y${doc._id}` }];\n";
    let file = worlds.rule_file(&rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    made.update_one(doc! { "_id": "2" }, doc! { "$set": { "sku": "y1" } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(ids(&held("before")).await?, r#"2 "theirs""#);
    assert_eq!(ids(&held("shared")).await?, "1 3");
    ensure!(held("made").find_one(doc! { "_id": "1-a", "sku": "y1" }).await?.is_some());
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 3, "{letters:?}");
    let words = serde_json::to_string(&letters)?;
    assert_eq!(words.matches("E11000").count(), 3, "{words}");
    assert!(run.terminate().await?.success());
    Ok(())
}
