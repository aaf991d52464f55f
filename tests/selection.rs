//! What a rule selects and how it shapes it: `filter`, `project`, `pipeline`, `on_delete`, patterns
//! of namespaces, views.

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::support::{
    World,
    checker::{Hit, body, compare, compare_shaped, hits, plain_id},
    documents::Documents,
    situations::situation,
};

fn ids(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_leaves_the_filter_leaves_the_target() -> Result<()> {
    let mut case = situation("a document leaves the filter");
    let world = World::new().await?;
    let products = world.collection("filtered.products");
    let mut documents = Documents::new(1);
    let mut document = |id: i32| {
        let mut document = documents.document(id);
        document.insert("active", id % 2 == 0);
        document.insert("price", id);
        document.insert("secret", "password");
        document
    };
    products.insert_many((0..1_000).map(&mut document)).await?;
    let file = world.rule_file(
        "  - namespace: filtered.products
    filter: { active: true, price: { $gte: 100 } }
    project: { secret: 0, 'nested.deep': 0 }
    to: search",
    )?;
    let wanted = |document: &Document| {
        let active = document.get_bool("active").unwrap_or_default();
        let dear = document.get_i32("price").is_ok_and(|price| price >= 100);
        (active && dear).then(|| {
            let mut document = document.clone();
            document.remove("secret");
            if let Ok(nested) = document.get_document_mut("nested") {
                nested.remove("deep");
            }
            (plain_id(document.get("_id").expect("an _id")).expect("a number"), body(&document))
        })
    };
    let mut run = file.run(&[])?;
    run.copied().await?;
    let checked = compare_shaped(&products, &world.engine, "filtered-products", wanted).await?;
    assert_eq!(case.compared(&checked)?, 450);

    // Out, in, out by another field, changed within, deleted from within and from without.
    let range = |from: i32, to: i32| doc! { "_id": { "$gte": from, "$lt": to } };
    products.update_many(range(100, 200), doc! { "$set": { "active": false } }).await?;
    products.update_many(range(200, 300), doc! { "$set": { "active": true } }).await?;
    products.update_many(range(300, 400), doc! { "$set": { "price": 1 } }).await?;
    products.update_many(range(400, 500), doc! { "$set": { "title": "new" } }).await?;
    products.update_many(range(500, 600), doc! { "$unset": { "price": "" } }).await?;
    products.update_many(range(0, 100), doc! { "$inc": { "price": 1_000 } }).await?;
    products.delete_many(range(600, 700)).await?;
    products.insert_many((1_000..1_100).map(&mut document)).await?;
    run.caught_up(&world.client).await?;
    let checked = compare_shaped(&products, &world.engine, "filtered-products", wanted).await?;
    assert_eq!(case.compared(&checked)?, 50 + 100 + 50 + 150 + 50);

    // Not while it runs, too.
    assert!(run.terminate().await?.success());
    products.update_many(range(700, 800), doc! { "$set": { "active": false } }).await?;
    products.update_many(range(100, 200), doc! { "$set": { "active": true } }).await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    let checked = compare_shaped(&products, &world.engine, "filtered-products", wanted).await?;
    assert_eq!(case.compared(&checked)?, 400 - 50 + 100);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_runs_on_the_copy_and_on_changes_alike() -> Result<()> {
    let world = World::new().await?;
    let orders = world.collection("joined.orders");
    let customers = world.collection("joined.customers");
    customers.insert_many((0..10).map(|n| doc! { "_id": n, "name": format!("c{n}") })).await?;
    let order = |id: i32| doc! { "_id": id, "customer": id % 10, "amount": id, "price": 2 };
    orders.insert_many((0..500).map(order)).await?;
    let file = world.rule_file(
        "  - namespace: joined.orders
    filter: { amount: { $gte: 10 } }
    pipeline:
      - $lookup: { from: customers, localField: customer, foreignField: _id, as: found }
      - $set:
          name: { $first: $found.name }
          total: { $multiply: [$amount, $price] }
          ratio: { $divide: [1, { $ifNull: [$divisor, 1] }] }
      - $match: { total: { $lt: 900 } }
      - $unset: found
    to: search",
    )?;
    let wanted = |document: &Document| {
        let number = |field| document.get_i32(field).unwrap_or_default();
        let (amount, total) = (number("amount"), number("amount") * number("price"));
        let mut body = body(document);
        body["name"] = json!(format!("c{}", number("customer")));
        body["total"] = json!(total);
        body["ratio"] = json!(1.0);
        (amount >= 10 && total < 900).then(|| (number("_id").to_string(), body))
    };
    let mut run = file.run(&[])?;
    run.copied().await?;
    let checked = compare_shaped(&orders, &world.engine, "joined-orders", wanted).await?;
    assert_eq!(checked.none()?, 440);

    orders.update_many(doc! { "_id": { "$lt": 20 } }, doc! { "$inc": { "amount": 10 } }).await?;
    orders.update_many(doc! { "_id": { "$gt": 480 } }, doc! { "$set": { "price": 1 } }).await?;
    orders.delete_many(doc! { "_id": { "$gte": 100, "$lt": 110 } }).await?;
    orders.insert_many((500..510).map(order)).await?;
    run.caught_up(&world.client).await?;
    let checked = compare_shaped(&orders, &world.engine, "joined-orders", wanted).await?;
    assert_eq!(checked.none()?, 440 + 10 - 10 + 19);

    // One document that makes the aggregation fail is refused alone.
    orders.update_one(doc! { "_id": 50 }, doc! { "$set": { "divisor": 0 } }).await?;
    orders
        .update_many(doc! { "_id": { "$gte": 60, "$lt": 70 } }, doc! { "$inc": { "amount": 1 } })
        .await?;
    run.caught_up(&world.client).await?;
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0]["key_text"], "50");
    assert_eq!(letters[0]["reason"], "source");
    ensure!(letters[0]["words"].as_str().is_some_and(|words| words.contains("zero")));
    ensure!(!run.log().contains("source does not answer"), "{}", run.log());
    orders.update_one(doc! { "_id": 50 }, doc! { "$unset": { "divisor": "" } }).await?;
    run.caught_up(&world.client).await?;
    let checked = compare_shaped(&orders, &world.engine, "joined-orders", wanted).await?;
    assert_eq!(checked.none()?, 459);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_on_delete_but_not_when_it_no_longer_matches() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("kept.items");
    items.insert_many((0..10).map(|id| doc! { "_id": id, "active": true })).await?;
    let file = world.rule_file(
        "  - namespace: kept.items
    filter: { active: true }
    on_delete: keep
    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    items.delete_many(doc! { "_id": { "$lt": 3 } }).await?;
    items.update_many(doc! { "_id": { "$gte": 7 } }, doc! { "$set": { "active": false } }).await?;
    run.caught_up(&world.client).await?;
    let found = hits(&world.engine, "kept-items").await?;
    assert_eq!(ids(&found), ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_takes_what_comes_later_and_passes_over_the_rest() -> Result<()> {
    let mut case = situation("a time-series collection in the namespaces");
    let world = World::new().await?;
    let database = world.client.database("globbed");
    for name in ["shop_a", "shop_b", "shop_tmp", "other"] {
        world.collection(&format!("globbed.{name}")).insert_one(doc! { "_id": name }).await?;
    }
    database
        .run_command(doc! { "create": "shop_times", "timeseries": { "timeField": "at" } })
        .await?;
    database
        .run_command(doc! { "create": "shop_view", "viewOn": "shop_a", "pipeline": [] })
        .await?;
    let file = world.rule_file(
        "  - name: shops
    namespace: globbed.shop_*
    exclude: [globbed.shop_tmp*]
    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    for name in ["shop_c", "shop_tmp2", "others", "shop_b"] {
        world.collection(&format!("globbed.{name}")).insert_one(doc! { "_id": "later" }).await?;
    }
    let measurement = doc! { "at": mongodb::bson::DateTime::now(), "n": 1 };
    world.collection("globbed.shop_times").insert_one(measurement).await?;
    run.caught_up(&world.client).await?;
    let found = hits(&world.engine, "globbed-*").await?;
    let found: Vec<_> = found.iter().map(|hit| (hit.index.as_str(), hit.id.as_str())).collect();
    assert_eq!(
        found,
        [
            ("globbed-shop_a", "shop_a"),
            ("globbed-shop_b", "later"),
            ("globbed-shop_b", "shop_b"),
            ("globbed-shop_c", "later"),
        ]
    );
    for name in ["shop_a", "shop_b", "shop_c"] {
        let collection = world.collection(&format!("globbed.{name}"));
        let index = format!("globbed-{name}");
        case.compared(&compare(&collection, &world.engine, &index).await?)?;
    }
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_copied_once() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("viewed.items");
    items.insert_many((0..3_000).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    world
        .client
        .database("viewed")
        .run_command(doc! {
            "create": "even", "viewOn": "items",
            "pipeline": [{ "$match": { "even": true } }, { "$set": { "seen": true } }],
        })
        .await?;
    let file = world.rule_file(
        "  - namespace: viewed.even\n    to: search\n  - namespace: viewed.items\n    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let view = world.collection("viewed.even");
    assert_eq!(compare(&view, &world.engine, "viewed-even").await?.none()?, 1_500);
    items.update_many(doc! {}, doc! { "$set": { "even": true } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "viewed-items").await?.none()?, 3_000);
    assert_eq!(hits(&world.engine, "viewed-even").await?.len(), 1_500);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_collection_is_refused_by_name() -> Result<()> {
    let world = World::new().await?;
    world
        .client
        .database("timed")
        .run_command(doc! { "create": "series", "timeseries": { "timeField": "at" } })
        .await?;
    let file = world.rule_file("  - namespace: timed.series\n    to: search")?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(1));
    ensure!(log.contains("timed.series is a time-series collection"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_rules_and_namespaces_share_an_index() -> Result<()> {
    let world = World::new().await?;
    let names = ["a", "b", "c"];
    for name in names {
        let collection = world.collection(&format!("shared.{name}"));
        collection
            .insert_many((0..200).map(|id| doc! { "_id": id, "of": name, "price": id }))
            .await?;
    }
    // The first rule takes two collections whole; the other two share the third, and a document
    // that passes from one to the other stays where it is.
    let file = world.rule_file(
        "  - name: whole
    namespace: [shared.a, shared.b]
    to: [{ target: search, index: shared, id: '{collection}-{_id}' }]
  - name: cheap
    namespace: shared.c
    filter: { price: { $lt: 100 } }
    pipeline: [{ $set: { class: cheap } }]
    to: [{ target: search, index: shared, id: '{collection}-{_id}' }]
  - name: dear
    namespace: shared.c
    filter: { price: { $gte: 100 } }
    pipeline: [{ $set: { class: dear } }]
    to: [{ target: search, index: shared, id: '{collection}-{_id}' }]",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    for round in 0..2 {
        let mut expected = Vec::new();
        for name in names {
            let collection = world.collection(&format!("shared.{name}"));
            let mut all = collection.find(doc! {}).await?;
            while let Some(document) = all.try_next().await? {
                let mut body = body(&document);
                if name == "c" {
                    let dear = document.get_i32("price")? >= 100;
                    body["class"] = json!(if dear { "dear" } else { "cheap" });
                }
                expected.push((format!("{name}-{}", document.get_i32("_id")?), body));
            }
        }
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        let found: Vec<_> = hits(&world.engine, "shared")
            .await?
            .into_iter()
            .map(|hit| (hit.id, hit.source))
            .collect();
        assert_eq!(found, expected, "round {round}");
        if round == 0 {
            for name in names {
                let collection = world.collection(&format!("shared.{name}"));
                let flip = vec![doc! { "$set": { "price": { "$subtract": [199, "$price"] } } }];
                collection.update_many(doc! {}, flip).await?;
                collection.delete_many(doc! { "_id": { "$mod": [7, 0] } }).await?;
            }
            run.caught_up(&world.client).await?;
        }
    }
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The others go on from where they were.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_new_in_the_file_is_copied_alone() -> Result<()> {
    let world = World::new().await?;
    let (old, new) = (world.collection("newcomer.old"), world.collection("newcomer.new"));
    for (collection, count) in [(&old, 500), (&new, 300)] {
        collection.insert_many((0..count).map(|id| doc! { "_id": id, "n": 0 })).await?;
    }
    let rule = "  - { namespace: newcomer.old, to: search }";
    let file = world.rule_file(rule)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());

    old.update_many(doc! { "_id": { "$lt": 20 } }, doc! { "$set": { "n": 1 } }).await?;
    file.rewrite(|text| {
        text.replace(rule, &format!("{rule}\n  - {{ namespace: newcomer.new, to: search }}"))
    })?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    compare(&old, &world.engine, "newcomer-old").await?.none()?;
    assert_eq!(compare(&new, &world.engine, "newcomer-new").await?.none()?, 300);
    let status = run.status().await.expect("a status");
    let rules = &status["targets"]["search"]["rules"];
    let delivered = |rule: &str| rules[rule]["delivered"].as_u64().unwrap_or_default();
    // What changed, perhaps shown twice by a stream that was opened anew; not all of it.
    ensure!((20..100).contains(&delivered("newcomer.old")), "{status:#}");
    ensure!(delivered("newcomer.new") >= 300, "{status:#}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Capitals are lost in the name of an index, and it does not tell where the database's name ends.
#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_never_merge_in_one_default_index() -> Result<()> {
    let world = World::new().await?;
    let [small, large] = ["prod", "Prod"].map(|name| world.collection(&format!("merging.{name}")));
    small.insert_one(doc! { "_id": 1, "of": "small" }).await?;
    let rule = |name| format!("  - name: {name}\n    namespace: 'merging.*'\n    to: search");
    let file = world.rule_file(&rule("merging"))?;
    let mut run = file.run(&[])?;
    run.copied().await?;

    // One that comes later is refused, in whatever it does.
    large.insert_one(doc! { "_id": 1, "of": "large" }).await?;
    large.insert_one(doc! { "_id": 2, "of": "large" }).await?;
    large.delete_one(doc! { "_id": 1 }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&small, &world.engine, "merging-prod").await?.none()?, 1);
    assert!(run.terminate().await?.success());
    let letters = file.dead_letters().await?;
    let words: Vec<_> = letters.iter().map(|letter| letter["words"].to_string()).collect();
    ensure!(
        !words.is_empty() && words.iter().all(|it| it.contains("one default index")),
        "{words:?}"
    );

    // It is none of the others' business, and stays so.
    let mut run = file.run(&[])?;
    run.copied().await?;
    small.insert_one(doc! { "_id": 3, "of": "small" }).await?;
    large.insert_one(doc! { "_id": 3, "of": "large" }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&small, &world.engine, "merging-prod").await?.none()?, 2);
    // Once the first is gone, the place is the other's.
    small.drop().await?;
    run.caught_up(&world.client).await?;
    run.copied().await?;
    large.insert_one(doc! { "_id": 4, "of": "large" }).await?;
    run.caught_up(&world.client).await?;
    let held = hits(&world.engine, "merging-prod").await?;
    ensure!(ids(&held).contains(&"4"), "{held:?}");
    assert!(run.terminate().await?.success());
    small.insert_one(doc! { "_id": 1, "of": "small" }).await?;

    // One that is there at the first start is an error.
    let other = world.rule_file(&rule("other"))?;
    let (code, log) = other.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(1), "{log}");
    ensure!(log.contains("have one default index, merging-prod"), "{log}");
    Ok(())
}

/// Whose a default index is stays so over restarts, whoever changes first then, and whichever rules a run
/// is for; and whoever comes second has it once the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn whose_a_default_index_is_stays_so_over_restarts() -> Result<()> {
    let world = World::new().await?;
    let [one, other] = ["kind", "Kind"].map(|name| world.collection(&format!("keeping.{name}")));
    let namesakes = |names: [&str; 2]| {
        let rule = |name| {
            format!("  - {{ name: {name}, namespace: keeping.{name}, copy: false, to: search }}")
        };
        names.map(rule).join("\n")
    };
    // Neither alone is wrong: only what comes of the pattern is not known beforehand.
    let rules =
        namesakes(["kind", "Kind"]).replace("namespace: keeping.Kind", "namespace: '/^keeping.K/'");
    let file = world.rule_file(&rules)?;
    let mut run = file.run(&[])?;
    run.following("search").await?;
    other.insert_one(doc! { "_id": 1, "of": "other" }).await?;
    run.caught_up(&world.client).await?;
    one.insert_one(doc! { "_id": 1, "of": "one" }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&other, &world.engine, "keeping-kind").await?.none()?, 1);
    assert!(run.terminate().await?.success());
    for arguments in [&[][..], &["--rule", "kind"], &["--changes-only"]] {
        let mut run = file.run(arguments)?;
        run.following("search").await?;
        // The second comes first, and is refused all the same.
        one.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await?;
        run.caught_up(&world.client).await?;
        other.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await?;
        run.caught_up(&world.client).await?;
        let held = hits(&world.engine, "keeping-kind").await?;
        ensure!(held.len() == 1 && held[0].source["of"] == "other", "{arguments:?}: {held:?}");
        assert!(run.terminate().await?.success());
    }
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&other, &world.engine, "keeping-kind").await?.none()?, 1);
    other.drop().await?;
    run.caught_up(&world.client).await?;
    assert!(run.terminate().await?.success());
    let mut run = file.run(&[])?;
    run.following("search").await?;
    one.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&one, &world.engine, "keeping-kind").await?.none()?, 1);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What is made for a name that comes of a pattern is made as the rule says.
#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_makes_its_indices_as_the_rule_says() -> Result<()> {
    let world = World::new().await?;
    world.collection("patterned.items").insert_one(doc! { "_id": 1, "colour": "red" }).await?;
    let file = world.rule_file(
        "  - name: patterned
    namespace: 'patterned.*'
    to: [{ target: search, index: { alias: true, mappings: { properties: { colour: { type: keyword } } } } }]",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    let made = world.engine_json("GET", "/patterned-items/_mapping", "").await?;
    let colour = &made["patterned-items-000001"]["mappings"]["properties"]["colour"]["type"];
    assert_eq!(*colour, json!("keyword"), "{made}");
    Ok(())
}
