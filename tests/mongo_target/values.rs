//! What documents and collections hold that a write has to be careful with.

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document, RawDocumentBuf, doc},
};
use mongosync::{change::Phase, target::Outcome};
use mongosync_servers::MongoDb;

use super::{Worlds, documents, indexes, late::Alone, same};

/// One document of the fields of several, so that names occur twice.
fn joined(parts: &[Document]) -> Result<RawDocumentBuf> {
    let mut bytes = vec![0; 4];
    for part in parts {
        let part = RawDocumentBuf::try_from(part)?;
        bytes.extend_from_slice(&part.as_bytes()[4..part.as_bytes().len() - 1]);
    }
    bytes.push(0);
    let length = i32::try_from(bytes.len())?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(RawDocumentBuf::from_bytes(bytes)?)
}

/// A document within another, under a name.
fn within(name: &str, inner: RawDocumentBuf) -> Result<RawDocumentBuf> {
    let mut outer = RawDocumentBuf::new();
    outer.append(mongodb::bson::raw::cstr!("_id"), 1);
    outer.append(name.to_owned().try_into().map(|name: mongodb::bson::raw::CString| name)?, inner);
    Ok(outer)
}

/// A server that works out what has changed in such a document dies of it.
#[tokio::test(flavor = "multi_thread")]
async fn documents_with_a_name_twice_replace_one_another() -> Result<()> {
    let mirror = MongoDb::start().await?;
    let held: Collection<Document> = mirror.client().database("late").collection("twice");
    let target = Alone::new(mirror.uri(), "twice");
    let id = doc! { "_id": 1 };
    let twice = |a: i32, b: i32| joined(&[doc! { "a": a }, doc! { "b": 2 }, doc! { "a": b }]);
    let states = [
        joined(&[id.clone(), doc! { "a": 1 }, doc! { "b": 2 }, doc! { "a": 3 }])?,
        joined(&[id.clone(), doc! { "a": 9 }, doc! { "b": 2 }, doc! { "a": 4 }])?,
        joined(&[id.clone(), doc! { "b": 5 }])?,
        within("nested", twice(1, 3)?)?,
        within("nested", twice(9, 4)?)?,
        within("nested", joined(&[doc! { "b": 5 }])?)?,
        // With what only a pipeline stores as it is.
        joined(&[id.clone(), doc! { "$a": 1 }, doc! { "b": 2 }, doc! { "$a": 3 }])?,
        joined(&[id.clone(), doc! { "$a": 9 }, doc! { "b": 2 }, doc! { "$a": 4 }])?,
        joined(&[id, doc! { "b": 5 }])?,
    ];
    for state in &states {
        for _ in 0..2 {
            let request = target.request(Phase::Changes, 1, Some(state.clone()))?;
            assert_eq!(target.send(&request).await?, [Outcome::Applied], "{state:?}");
        }
        let found = documents(&mirror.client().database("late"), "twice").await?;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].as_bytes(), state.as_bytes());
    }
    let request = target.request(Phase::Changes, 1, None)?;
    assert_eq!(target.send(&request).await?, [Outcome::Applied]);
    assert_eq!(held.count_documents(doc! {}).await?, 0);
    Ok(())
}

/// The same from end to end, copied and changed.
#[tokio::test(flavor = "multi_thread")]
async fn documents_with_a_name_twice_arrive() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source = worlds.from.database("twice").collection::<RawDocumentBuf>("items");
    let item = |id: i32, a: i32, b: i32| {
        joined(&[doc! { "_id": id }, doc! { "a": a }, doc! { "b": 1 }, doc! { "a": b }])
    };
    let items: Vec<_> = (0..50).map(|id| item(id, 1, 2)).collect::<Result<_>>()?;
    source.insert_many(items).await?;
    let file = worlds.rule_file("  - { namespace: twice.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "twice.items", "twice.items").await?, 50);
    for id in 0..50 {
        source.delete_one(doc! { "_id": id }).await?;
        let new =
            if id % 2 == 0 { item(id, 3, 4)? } else { joined(&[doc! { "_id": id, "b": 5 }])? };
        source.insert_one(new).await?;
    }
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "twice.items", "twice.items").await?, 50);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Where texts are compared by a language, one `_id` finds another.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_a_collation_takes_for_the_same_are_told_apart() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("letters");
    let collation = doc! { "locale": "de", "strength": 2 };
    from.run_command(doc! { "create": "items", "collation": collation }).await?;
    let items: Collection<Document> = from.collection("items");
    let id = |number: i32, upper: bool| match upper {
        true => format!("ITEM-{number}"),
        false => format!("item-{number}"),
    };
    items.insert_many((0..60).map(|n| doc! { "_id": id(n, false), "n": 0 })).await?;
    let file = worlds.rule_file("  - { namespace: letters.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    for round in 1..5 {
        let upper = round % 2 == 1;
        for n in 0..60 {
            items.delete_one(doc! { "_id": id(n, !upper) }).await?;
            items.insert_one(doc! { "_id": id(n, upper), "n": round }).await?;
        }
        worlds.at_rest(&mut run).await?;
        assert_eq!(same(&worlds, "letters.items", "letters.items").await?, 60, "{round}");
    }
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What removes documents by itself would take from the target what it is to keep.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_expires_or_falls_out_of_what_the_target_keeps() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("expiring");
    from.run_command(doc! { "create": "capped", "capped": true, "size": 4_096, "max": 50 }).await?;
    let capped: Collection<Document> = from.collection("capped");
    capped.insert_many((0..40).map(|id| doc! { "_id": id })).await?;
    let items: Collection<Document> = from.collection("items");
    items.insert_one(doc! { "_id": 1, "at": "never" }).await?;
    let ttl = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 1_000_000_000 };
    from.run_command(doc! { "createIndexes": "items", "indexes": [ttl] }).await?;
    let rules = "  - { name: all, namespace: expiring.*, on_delete: keep, to: search }";
    let file = worlds.rule_file(rules)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    capped.insert_many((40..80).map(|id| doc! { "_id": id })).await?;
    worlds.at_rest(&mut run).await?;
    let to = worlds.to.database("expiring");
    assert_eq!(to.collection::<Document>("capped").count_documents(doc! {}).await?, 80);
    let built = indexes(&to, "items").await?;
    let ttl = built.iter().find(|index| index.get_str("name").is_ok_and(|name| name == "ttl"));
    ensure!(!ttl.context("the index")?.contains_key("expireAfterSeconds"), "{built:?}");
    let listed = doc! { "listCollections": 1, "filter": { "name": "capped" } };
    let listed: Vec<Document> = to.run_cursor_command(listed).await?.try_collect().await?;
    assert_eq!(listed[0].get_document("options")?, &doc! {});
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A document of the past, which nobody looked at as it left the source, holds a value that another
/// has by now.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_a_document_of_the_past_holds_is_set_free() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("freed").collection("items");
    items.insert_many((0..20).map(|id| doc! { "_id": id, "sku": id })).await?;
    let unique = doc! { "key": { "sku": 1 }, "name": "sku", "unique": true };
    let built = doc! { "createIndexes": "items", "indexes": [unique] };
    worlds.from.database("freed").run_command(built).await?;
    let file = worlds.rule_file("  - { namespace: freed.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held: Collection<Document> = worlds.to.database("freed").collection("items");
    held.insert_many((100..120).map(|id| doc! { "_id": id, "sku": id })).await?;
    for id in 0..20 {
        items.update_one(doc! { "_id": id }, doc! { "$set": { "sku": id + 100 } }).await?;
    }
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "freed.items", "freed.items").await?, 20);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Values of a unique index that change hands in the source, in an order that the lanes do not know.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_unique_index_change_hands() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("unique").collection("items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "sku": id })).await?;
    // A value that reads like a message about `_id`s.
    let odd = doc! { "sku": "index: _id_ " };
    items.update_one(doc! { "_id": 98 }, doc! { "$set": odd.clone() }).await?;
    let unique = mongodb::options::IndexOptions::builder().unique(true).build();
    let index = mongodb::IndexModel::builder().keys(doc! { "sku": 1 }).options(unique).build();
    items.create_index(index).await?;
    let file = worlds.rule_file("  - { namespace: unique.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let set = |id: i32, sku: i32| {
        let items = items.clone();
        async move { items.update_one(doc! { "_id": id }, doc! { "$set": { "sku": sku } }).await }
    };
    for round in 0..4 {
        // All at once behind a stop, then while it runs.
        let mut under_way = match round < 2 {
            true => {
                assert!(run.terminate().await?.success());
                None
            }
            false => Some(run),
        };
        // Pairs swap, a ring goes round, and a chain moves on by one.
        for pair in 0..10 {
            let (a, b) = (2 * pair, 2 * pair + 1);
            let sku = |id| items.find_one(doc! { "_id": id });
            let (x, y) = (sku(a).await?.context("a")?, sku(b).await?.context("b")?);
            set(a, -1).await?;
            set(b, x.get_i32("sku")?).await?;
            set(a, y.get_i32("sku")?).await?;
        }
        let ring: Vec<i32> = (20..40).collect();
        let first = items.find_one(doc! { "_id": 20 }).await?.context("20")?.get_i32("sku")?;
        set(20, -2).await?;
        let mut free = first;
        for &id in ring[1..].iter().rev() {
            let own = items.find_one(doc! { "_id": id }).await?.context("one")?.get_i32("sku")?;
            set(id, free).await?;
            free = own;
        }
        set(20, free).await?;
        for id in (40..100).rev() {
            set(id, 1_000 * (round + 1) + id + 1).await?;
        }
        let (one, other) = (98 - i32::from(round % 2 == 1), 97 + i32::from(round % 2 == 1));
        set(one, -3 - round).await?;
        items.update_one(doc! { "_id": other }, doc! { "$set": odd.clone() }).await?;
        items.delete_one(doc! { "_id": 99 }).await?;
        items.insert_one(doc! { "_id": 99, "sku": 5_000 + round }).await?;
        run = match under_way.take() {
            Some(run) => run,
            None => file.run(&[])?,
        };
        worlds.at_rest(&mut run).await?;
        assert_eq!(same(&worlds, "unique.items", "unique.items").await?, 100);
    }
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The same within an `_id` that is a document.
#[tokio::test(flavor = "multi_thread")]
async fn texts_within_ids_are_told_apart() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("letters_within");
    let collation = doc! { "locale": "de", "strength": 2 };
    from.run_command(doc! { "create": "items", "collation": collation }).await?;
    let items: Collection<Document> = from.collection("items");
    let id = |number: i32, upper: bool| {
        let text = if upper { "ITEM" } else { "item" };
        doc! { "n": number, "of": { "a.b": [1, text] } }
    };
    items.insert_many((0..60).map(|n| doc! { "_id": id(n, false), "round": 0 })).await?;
    let file = worlds.rule_file("  - { namespace: letters_within.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    for round in 1..4 {
        let upper = round % 2 == 1;
        for n in 0..60 {
            items.delete_one(doc! { "_id": id(n, !upper) }).await?;
            items.insert_one(doc! { "_id": id(n, upper), "round": round }).await?;
        }
        worlds.at_rest(&mut run).await?;
        assert_eq!(
            same(&worlds, "letters_within.items", "letters_within.items").await?,
            60,
            "{round}"
        );
    }
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A unique index over some documents only: the twin that is not in it holds nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_holder_is_the_one_that_the_index_has() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("partial_index");
    let items: Collection<Document> = from.collection("items");
    items
        .insert_many([
            doc! { "_id": 0, "email": "a", "deleted": true },
            doc! { "_id": 9, "email": "z", "deleted": false },
        ])
        .await?;
    let unique = doc! {
        "key": { "email": 1 }, "name": "email", "unique": true,
        "partialFilterExpression": { "deleted": false },
    };
    from.run_command(doc! { "createIndexes": "items", "indexes": [unique] }).await?;
    let file = worlds.rule_file("  - { namespace: partial_index.items, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    // Of the past, and not in the source any more.
    let held: Collection<Document> = worlds.to.database("partial_index").collection("items");
    held.insert_one(doc! { "_id": 5, "email": "a", "deleted": false }).await?;
    items.update_one(doc! { "_id": 9 }, doc! { "$set": { "email": "a" } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "partial_index.items", "partial_index.items").await?, 2);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}
