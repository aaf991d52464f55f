//! What is not to be written to, a target that changes its primary, and a source that is no collection.

use anyhow::{Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use mongosync_servers::MongoDb;

use crate::{load::fill, support::run::RuleFile};

use super::{Worlds, documents, same, whose::ids};

/// A script leads into the databases that mongosync keeps its own things in.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_what_is_mongosyncs_own() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("own_things").collection("items");
    items
        .insert_many([
            doc! { "_id": "own.1", "to": "mongosync" },
            doc! { "_id": "own.2", "to": "own_positions" },
            doc! { "_id": "own.3", "to": "own_things" },
        ])
        .await?;
    let rules = "  - name: items\n    namespace: own_things.items\n    to: search\n    transform: |\n      \
                 meta.database = doc.to;\n      meta.collection = \"mirrored\";";
    // The positions lie in the target.
    let text = worlds.text(worlds.mirror.uri(), rules).replace(
        "checkpoint: { every: 100ms }",
        &format!(
            "checkpoint: {{ every: 100ms, mongodb: {{ uri: \"{}\", database: own_positions }} }}",
            worlds.mirror.uri()
        ),
    );
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held = |name: &str| worlds.to.database(name).collection::<Document>("mirrored");
    assert_eq!(ids(&held("own_things")).await?, r#""own.3""#);
    assert_eq!(ids(&held("own_positions")).await?, "");
    let ours = doc! { "_id": { "$regex": "^own\\.[0-9]" } };
    assert_eq!(held("mongosync").count_documents(ours).await?, 0);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 2, "{letters:?}");
    let words = serde_json::to_string(&letters)?;
    for name in ["mongosync", "own_positions"] {
        ensure!(words.contains(&format!("the database {name} is mongosync's own")), "{words}");
    }
    assert!(run.terminate().await?.success());

    // What the rule file says itself ends the run.
    let rules = "  - name: items\n    namespace: own_things.items\n    \
                 to: [{ target: search, namespace: mongosync.items }]";
    let file = worlds.rule_file(rules)?;
    let (code, log) = file.run_to_end(&[]).await?;
    ensure!(code == Some(1) && log.contains("is mongosync's own"), "{code:?} {log}");
    Ok(())
}

/// Another member takes over while documents are copied and change.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_changes_its_primary_ends_true() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::builder().nodes(3).start().await?;
    let items: Collection<Document> = worlds.from.database("elected").collection("items");
    fill(&items, 31, 3_000).await?;
    let text = worlds.text(mirror.uri(), "  - { namespace: elected.items, to: search }");
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    items.update_many(doc! {}, doc! { "$set": { "before": 1 } }).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    mirror.step_down().await?;
    items.update_many(doc! {}, doc! { "$set": { "after": 1 } }).await?;
    items.delete_one(doc! { "_id": 2 }).await?;
    worlds.at_rest(&mut run).await?;
    let expected = documents(&worlds.from.database("elected"), "items").await?;
    let found = documents(&mirror.client().database("elected"), "items").await?;
    ensure!(expected == found, "{} and {} documents", expected.len(), found.len());
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A view that is named exactly becomes a collection.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_copied_into_a_collection() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("mirrored_view");
    let items: Collection<Document> = from.collection("items");
    items.insert_many((0..50).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let pipeline = [doc! { "$match": { "even": true } }, doc! { "$set": { "seen": true } }];
    let view = doc! { "create": "even", "viewOn": "items", "pipeline": pipeline.to_vec() };
    from.run_command(view).await?;
    let rules = "  - { namespace: mirrored_view.even, changes: false, to: search }";
    let file = worlds.rule_file(rules)?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    ensure!(code == Some(0), "{code:?} {log}");
    assert_eq!(same(&worlds, "mirrored_view.even", "mirrored_view.even").await?, 25);
    let listed = worlds.to.database("mirrored_view").list_collections().await?;
    let listed: Vec<_> = futures_util::TryStreamExt::try_collect(listed).await?;
    assert_eq!(listed.len(), 1);
    ensure!(
        matches!(listed[0].collection_type, mongodb::results::CollectionType::Collection),
        "{listed:?}"
    );
    Ok(())
}
