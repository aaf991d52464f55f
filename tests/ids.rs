//! Every type of `_id` arrives whole and separate from every other.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use mongodb::bson::{
    Binary, Bson, DateTime, Document, Timestamp, Uuid, doc, oid::ObjectId, spec::BinarySubtype,
};

use crate::support::{
    World,
    checker::{Differences, hits, read_index},
    documents::decimal,
    run::Settings,
    situations::{Situation, situation},
};

const KINDS: u32 = 10;
const OF_EACH: u32 = 6_000;

/// The `_id` number `n` of a kind.
fn id(kind: u32, n: u32) -> Bson {
    let bytes = u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_be_bytes();
    match kind {
        0 => Bson::Int32(i32::try_from(n).expect("a small number")),
        1 => Bson::Int64((i64::from(n) + 1) << 32),
        2 => Bson::Double(f64::from(n) + 0.5),
        3 => Bson::Decimal128(decimal(&format!("{n}.1"))),
        4 => Bson::String(n.to_string()),
        5 => Bson::ObjectId(ObjectId::from_bytes(bytes[..12].try_into().expect("12 bytes"))),
        6 => Uuid::from_bytes(bytes).into(),
        7 => Bson::Document(doc! { "a": i64::from(n), "b": { "c": "x" } }),
        8 => Bson::DateTime(DateTime::from_millis(1_700_000_000_000 + i64::from(n))),
        9 => Bson::String(ObjectId::from_bytes(bytes[..12].try_into().expect("12 bytes")).to_hex()),
        _ => unreachable!("ten kinds"),
    }
}

/// `_id`s whose texts are alike.
fn alike() -> Vec<Bson> {
    let bytes = [7_u8; 16];
    vec![
        Bson::Boolean(true),
        Bson::Boolean(false),
        "true".into(),
        "false".into(),
        Bson::Null,
        "null".into(),
        "".into(),
        Bson::Document(doc! {}),
        "{}".into(),
        Bson::Document(doc! { "x": 1 }),
        Bson::Document(doc! { "x": "1" }),
        r#"{"x":1}"#.into(),
        Bson::Document(doc! { "x": 1, "y": 2 }),
        Bson::Document(doc! { "y": 2, "x": 1 }),
        Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() }.into(),
        Uuid::from_bytes(bytes).into(),
        Uuid::from_bytes(bytes).to_string().into(),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Timestamp(Timestamp { time: 5, increment: 1 }),
        "number~1".into(),
        "string~1".into(),
    ]
}

fn marked(id: Bson, mark: String) -> Document {
    doc! { "_id": id, "mark": mark }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_thousand_ids_of_every_type_stay_apart() -> Result<()> {
    let mut case = situation("_ids of every type in one collection");
    let world = World::new().await?;
    let collection = world.collection("ids.mixed");
    let mut expected: BTreeMap<String, u32> = BTreeMap::new();
    let mut all = Vec::new();
    for n in 0..OF_EACH {
        for kind in 0..KINDS {
            all.push(marked(id(kind, n), format!("{kind}/{n}")));
        }
    }
    for (n, id) in alike().into_iter().enumerate() {
        all.push(marked(id, format!("alike/{n}")));
    }
    for document in &all {
        *expected.entry(document.get_str("mark")?.to_owned()).or_default() += 1;
    }
    // Not in the order of `_id`s, nor of types.
    for part in all.chunks(5_000).rev() {
        collection.insert_many(part).await?;
    }
    let settings = Settings { top: "checkpoint: { every: 200ms }".into(), ..Settings::default() };
    let rules = "  - namespace: ids.mixed\n    copy: { chunk: 500KB }\n    to: search";
    let file = world.rule_file_with(&settings, rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    assert_same(&mut case, &marks(&world, "ids-mixed").await?, &expected)?;

    // Each is found again by a change, and by nothing else's.
    for n in 0..OF_EACH {
        if n % 600 == 0 {
            for kind in 0..KINDS {
                let by_id = doc! { "_id": id(kind, n) };
                let mark = format!("{kind}/{n}");
                expected.remove(&mark);
                if n % 1_200 == 0 {
                    collection.delete_one(by_id).await?;
                } else {
                    let mark = format!("{mark} changed");
                    collection.update_one(by_id, doc! { "$set": { "mark": &mark } }).await?;
                    expected.insert(mark, 1);
                }
            }
        }
    }
    for (n, id) in alike().into_iter().enumerate() {
        expected.remove(&format!("alike/{n}"));
        let mark = format!("alike/{n} again");
        collection.delete_one(doc! { "_id": { "$eq": &id } }).await?;
        if n % 2 == 0 {
            collection.insert_one(marked(id, mark.clone())).await?;
            expected.insert(mark, 1);
        }
    }
    run.caught_up(&world.client).await?;
    assert_same(&mut case, &marks(&world, "ids-mixed").await?, &expected)?;
    ensure!(file.dead_letters().await?.is_empty(), "none is refused");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Fails with what differs alone.
fn assert_same(
    case: &mut Situation,
    found: &BTreeMap<String, u32>,
    expected: &BTreeMap<String, u32>,
) -> Result<()> {
    let only = |one: &BTreeMap<String, u32>, other: &BTreeMap<String, u32>| {
        let differs = |(mark, count): &(&String, &u32)| other.get(*mark) != Some(*count);
        one.iter().filter(differs).map(|(mark, count)| format!("{mark} ({count})")).collect()
    };
    let [missing, extra]: [Vec<_>; 2] = [only(expected, found), only(found, expected)];
    let differences =
        Differences { checked: expected.len(), missing, extra, ..Differences::default() };
    case.compared(&differences)?;
    Ok(())
}

/// How often each mark is in the index.
async fn marks(world: &World, index: &str) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    read_index(&world.engine, index, |hit| {
        let mark = hit.source["mark"].as_str().unwrap_or_default().to_owned();
        *found.entry(mark).or_default() += 1;
    })
    .await?;
    Ok(found)
}

/// MongoDB takes 1, 1L, 1.0 and Decimal 1 for one key, also inside a sub-document: so does the
/// target.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_one_key_to_mongodb_is_one_document() -> Result<()> {
    let world = World::new().await?;
    let collection = world.collection("ids.equal");
    let forms: [[Bson; 2]; 4] = [
        [Bson::Int32(1), Bson::Document(doc! { "a": 1, "b": "x" })],
        [Bson::Int64(1), Bson::Document(doc! { "a": 1_i64, "b": "x" })],
        [Bson::Double(1.0), Bson::Document(doc! { "a": 1.0, "b": "x" })],
        [Bson::Decimal128(decimal("1")), Bson::Document(doc! { "a": decimal("1.00"), "b": "x" })],
    ];
    for id in &forms[0] {
        collection.insert_one(marked(id.clone(), "first".into())).await?;
    }
    let file = world.rule_file("  - namespace: ids.equal\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let ids = |hits: &[crate::support::checker::Hit]| {
        hits.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>()
    };
    let first = ids(&hits(&world.engine, "ids-equal").await?);
    for (round, form) in forms.iter().enumerate() {
        for id in form {
            let mark = format!("round {round}");
            collection.delete_one(doc! { "_id": { "$eq": id } }).await?;
            collection.insert_one(marked(id.clone(), mark)).await?;
        }
        run.caught_up(&world.client).await?;
        let found = hits(&world.engine, "ids-equal").await?;
        assert_eq!(ids(&found), first, "{form:?}");
        let mark = format!("round {round}");
        assert!(found.iter().all(|hit| hit.source["mark"] == *mark), "{found:?}");
    }
    collection.delete_many(doc! {}).await?;
    run.caught_up(&world.client).await?;
    assert_eq!(hits(&world.engine, "ids-equal").await?, []);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A type that comes only after the copy does not touch the ids that are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_comes_later_stays_apart() -> Result<()> {
    let world = World::new().await?;
    let collection = world.collection("ids.later");
    collection.insert_many((0..100).map(|n| marked(Bson::Int32(n), format!("int {n}")))).await?;
    let file = world.rule_file("  - namespace: ids.later\n    to: search")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    run.kill().await?;
    collection
        .insert_many((0..100).map(|n| marked(n.to_string().into(), format!("string {n}"))))
        .await?;
    let mut run = file.run(&[])?;
    run.caught_up(&world.client).await?;
    let found: HashMap<_, _> = hits(&world.engine, "ids-later")
        .await?
        .into_iter()
        .map(|hit| (hit.source["mark"].as_str().unwrap_or_default().to_owned(), hit.id))
        .collect();
    assert_eq!(found.len(), 200);
    assert_eq!(found["int 7"], "7");
    assert_ne!(found["string 7"], "7");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What a script gives as `_id` is never taken for a document that has it from the source.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_from_a_script_takes_no_others_place() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("ids.scripted");
    items.insert_many([doc! { "_id": "5" }, doc! { "_id": "x", "as": 5 }]).await?;
    let file = world.rule_file(
        "  - namespace: ids.scripted
    transform: 'if \"as\" in doc { doc._id = doc[\"as\"]; }'
    to: search",
    )?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let held = hits(&world.engine, "ids-scripted").await?;
    let ids: Vec<&str> = held.iter().map(|hit| hit.id.as_str()).collect();
    assert_eq!(ids, ["5", "number~5"]);
    // Nor does one go with the other.
    items.delete_one(doc! { "_id": "x" }).await?;
    run.caught_up(&world.client).await?;
    let held = hits(&world.engine, "ids-scripted").await?;
    assert_eq!(held.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), ["5"]);
    assert!(run.terminate().await?.success());
    Ok(())
}
