//! MongoDB as a target: another replica set holds the same documents, byte for byte, whatever happens
//! on the way.

mod chosen;
mod database;
mod ddl;
mod events;
mod foreign;
mod late;
mod protected;
mod trouble;
mod values;
mod verified;
mod whose;

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection, Database,
    bson::{
        Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, RawDocumentBuf,
        Regex, Timestamp, doc, oid::ObjectId, spec::BinarySubtype,
    },
};
use mongosync_servers::MongoDb;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use self::database::{definitions, kinds, stir};
use crate::{
    load::fill,
    ready_rules::ROOT,
    support::{
        mirror, mongo,
        run::{RuleFile, Run},
        tcp_proxy::TcpProxy,
        writers::Writers,
    },
};

/// A source and another replica set. Both are everybody's: a test keeps to databases of its own.
struct Worlds {
    source: Arc<MongoDb>,
    mirror: Arc<MongoDb>,
    folder: TempDir,
    from: Client,
    to: Client,
}

impl Worlds {
    async fn new() -> Result<Self> {
        let (source, mirror) = (mongo().await?, mirror().await?);
        let (from, to) = (source.client(), mirror.client());
        Ok(Self { source, mirror, folder: TempDir::new()?, from, to })
    }

    fn text(&self, target: &str, rules: &str) -> String {
        format!(
            "source: {}\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n\
             checkpoint: {{ every: 100ms }}\n\
             targets:\n  search: {{ mongodb: {{ uri: \"{target}\", \
             retry: {{ initial: 20ms, max: 500ms }}, batch: {{ max_actions: 200 }} }} }}\n\
             rules:\n{rules}\n",
            self.source.uri()
        )
    }

    fn rule_file(&self, rules: &str) -> Result<RuleFile> {
        RuleFile::written(self.folder.path(), &self.text(self.mirror.uri(), rules))
    }

    /// In front of the mirror, and a URI that leads there.
    async fn proxy(&self) -> Result<(TcpProxy, String)> {
        in_front_of(&self.mirror).await
    }

    async fn at_rest(&self, run: &mut Run) -> Result<()> {
        run.caught_up(&self.from).await?;
        run.copied().await
    }
}

/// In front of a server, and a URI that leads there.
async fn in_front_of(server: &MongoDb) -> Result<(TcpProxy, String)> {
    let node = server.node_uri(0);
    let address = node.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
    let address = address.and_then(|rest| rest.rsplit('@').next()).context("an address")?;
    let proxy = TcpProxy::start(address.parse()?).await?;
    let uri = format!("mongodb://{}/?directConnection=true", proxy.address());
    Ok((proxy, uri))
}

/// All documents in the order of `_id`, as they are stored.
async fn documents(database: &Database, collection: &str) -> Result<Vec<RawDocumentBuf>> {
    let collection = database.collection::<RawDocumentBuf>(collection);
    Ok(collection.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?)
}

/// Fails where a collection is not byte for byte the same; returns how many documents it has.
async fn same(worlds: &Worlds, from: &str, to: &str) -> Result<usize> {
    let split = |name: &str| {
        let (database, collection) = name.split_once('.').expect("a namespace");
        (database.to_owned(), collection.to_owned())
    };
    let ((database, collection), (there, held)) = (split(from), split(to));
    let expected = documents(&worlds.from.database(&database), &collection).await?;
    let found = documents(&worlds.to.database(&there), &held).await?;
    for (one, other) in expected.iter().zip(&found) {
        ensure!(one.as_bytes() == other.as_bytes(), "{from}: {one:?}\n{to}: {other:?}");
    }
    ensure!(expected.len() == found.len(), "{} and {} documents", expected.len(), found.len());
    Ok(found.len())
}

/// The server's own hash over all documents of each collection.
async fn hashes(database: &Database) -> Result<Document> {
    let reply = database.run_command(doc! { "dbHash": 1 }).await?;
    let mut names: Vec<_> = reply.get_document("collections")?.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    Ok(names.into_iter().map(|(name, hash)| (name.clone(), hash.clone())).collect())
}

async fn indexes(database: &Database, collection: &str) -> Result<Vec<Document>> {
    let listed = database.run_cursor_command(doc! { "listIndexes": collection }).await?;
    let mut indexes: Vec<Document> = listed.try_collect().await?;
    indexes.sort_by_key(|index| index.get_str("name").unwrap_or_default().to_owned());
    Ok(indexes)
}

/// A document of every type, in an order that is not the alphabet's.
fn of_every_type(id: impl Into<Bson>) -> Document {
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    doc! {
        "_id": id.into(),
        "z": 1.0, "y": "text \u{0} é", "x": { "b": 1, "a": { "": 2 } }, "w": [1, "2", [3_i64], {}],
        "binary": binary(BinarySubtype::Generic, &[0, 1, 255]),
        "uuid": binary(BinarySubtype::Uuid, &[7; 16]),
        "own": binary(BinarySubtype::UserDefined(200), &[]),
        "id": ObjectId::from_bytes([3; 12]), "true": true, "date": DateTime::from_millis(-1),
        "null": Bson::Null,
        "regex": Regex { pattern: cstring("^a"), options: cstring("im") },
        "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()),
        "scoped": JavaScriptCodeWithScope { code: "f".into(), scope: doc! { "a": 1 } },
        "int": 1, "long": 1_i64, "timestamp": Timestamp { time: 1, increment: 2 },
        "decimal": "1.50".parse::<Decimal128>().expect("a decimal"),
        "nan": f64::NAN, "zero": -0.0, "undefined": Bson::Undefined,
        "min": Bson::MinKey, "max": Bson::MaxKey,
        "nested": { "empty": Timestamp { time: 0, increment: 0 }, "$set": 1, "a.b": { "$inc": 2 } },
        "$dollar": 1, "a.dot": 2, "": 3,
    }
}

fn cstring(text: &str) -> mongodb::bson::raw::CString {
    text.to_owned().try_into().expect("no zero in it")
}

fn ids() -> Vec<Bson> {
    vec![
        Bson::Int32(1),
        Bson::Int64(2),
        Bson::Double(3.5),
        Bson::Decimal128("4.0".parse().expect("a decimal")),
        Bson::String("1".into()),
        Bson::ObjectId(ObjectId::from_bytes([9; 12])),
        Bson::Boolean(true),
        Bson::Null,
        Bson::DateTime(DateTime::from_millis(5)),
        Bson::Timestamp(Timestamp { time: 1, increment: 1 }),
        Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![1; 16] }),
        Bson::Document(doc! { "b": 1, "a": [1.0, 2_i64] }),
        Bson::MinKey,
        Bson::MaxKey,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_byte_for_byte() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source: Collection<Document> = worlds.from.database("types").collection("all");
    source.insert_many(ids().into_iter().map(of_every_type)).await?;
    // An insert would fill in the time.
    let empty = |id: i32| {
        let at = Timestamp { time: 0, increment: 0 };
        vec![doc! { "$replaceWith": { "$literal": { "_id": id, "first": at, "$set": 1, "a": 2 } } }]
    };
    source.update_one(doc! { "_id": 77 }, empty(77)).upsert(true).await?;
    let count = ids().len() + 1;
    let file = worlds.rule_file("  - { namespace: types.all, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "types.all", "types.all").await?, count);

    // As changes: in place, with another order of fields, new, gone, and of another type of `_id`.
    source.update_many(doc! {}, doc! { "$set": { "later": 1 }, "$unset": { "x": 1 } }).await?;
    source.update_one(doc! { "_id": 1 }, empty(1)).await?;
    source.delete_one(doc! { "_id": 2_i64 }).await?;
    source.insert_one(of_every_type(2.0)).await?;
    source.delete_one(doc! { "_id": "1" }).await?;
    source.insert_one(of_every_type("new")).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "types.all", "types.all").await?, count);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_as_large_as_can_be_arrive() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source: Collection<Document> = worlds.from.database("large").collection("documents");
    let full = |id: i32| {
        let beside = RawDocumentBuf::try_from(&doc! { "_id": id, "text": "" });
        let text = "x".repeat((16 << 20) - beside.expect("a document").as_bytes().len());
        doc! { "_id": id, "text": text }
    };
    source.insert_one(full(1)).await?;
    let file = worlds.rule_file("  - { namespace: large.documents, to: search }")?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    source.insert_one(full(2)).await?;
    source.update_one(doc! { "_id": 1 }, doc! { "$set": { "text": "short" } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "large.documents", "large.documents").await?, 2);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Where a document lies may follow from what it holds: it moves, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn documents_lie_where_a_field_or_a_script_puts_them() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("sorted").collection("items");
    let kind = |id: i32| if id % 2 == 0 { "even" } else { "odd" };
    items.insert_many((0..20).map(|id| doc! { "_id": id, "kind": kind(id) })).await?;
    let file = worlds.rule_file(
        "  - name: by field\n    namespace: sorted.items\n    \
         to: [{ target: search, namespace: 'sorted_by_field.{kind}' }]\n  \
         - name: by script\n    namespace: sorted.items\n    to: search\n    transform: |\n      \
         meta.database = \"sorted_by_script\";\n      meta.collection = doc.kind;\n      \
         meta.index = \"of an engine\";",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let lie = |name: &'static str| {
        let (fields, scripts) =
            (worlds.to.database("sorted_by_field"), worlds.to.database("sorted_by_script"));
        async move {
            let held = documents(&fields, name).await?;
            assert_eq!(held, documents(&scripts, name).await?);
            Ok::<_, anyhow::Error>(held.len())
        }
    };
    assert_eq!((lie("even").await?, lie("odd").await?), (10, 10));
    items.update_one(doc! { "_id": 3 }, doc! { "$set": { "kind": "even" } }).await?;
    items.update_one(doc! { "_id": 4 }, doc! { "$set": { "kind": "new" } }).await?;
    items.delete_one(doc! { "_id": 5 }).await?;
    // No name of a collection: a dead letter of each rule, which stays where it lay.
    items.update_one(doc! { "_id": 6 }, doc! { "$set": { "kind": "a$b" } }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!((lie("even").await?, lie("odd").await?, lie("new").await?), (10, 8, 1));
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 2, "{letters:?}");
    ensure!(letters[0].to_string().contains("is no namespace"), "{letters:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_renamed_by_a_template_and_filtered() -> Result<()> {
    let worlds = Worlds::new().await?;
    let source = worlds.from.database("renames");
    let items: Collection<Document> = source.collection("items");
    fill(&items, 1, 500).await?;
    fill(&source.collection("others"), 2, 100).await?;
    let collation = doc! { "locale": "de", "strength": 2 };
    source.run_command(doc! { "create": "empty", "collation": collation }).await?;
    let file = worlds.rule_file(
        "  - name: all\n    namespace: renames.*\n    filter: { hidden: { $ne: true } }\n    \
         to: [{ target: search, namespace: 'renamed_{db}.old_{collection}' }]",
    )?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let both = [("items", 500), ("others", 100)];
    for (name, count) in both {
        let to = format!("renamed_renames.old_{name}");
        assert_eq!(same(&worlds, &format!("renames.{name}"), &to).await?, count);
    }
    // One without documents is there too, as it was made.
    let options = |database: Database, name: &'static str| async move {
        let command = doc! { "listCollections": 1, "filter": { "name": name } };
        let listed: Vec<Document> =
            database.run_cursor_command(command).await?.try_collect().await?;
        Ok::<_, anyhow::Error>(listed[0].get_document("options")?.clone())
    };
    let held = worlds.to.database("renamed_renames");
    assert_eq!(options(source.clone(), "empty").await?, options(held, "old_empty").await?);
    // What leaves the filter leaves the target, and comes back.
    items.update_one(doc! { "_id": 3 }, doc! { "$set": { "hidden": true } }).await?;
    worlds.at_rest(&mut run).await?;
    let held = worlds.to.database("renamed_renames").collection::<Document>("old_items");
    assert_eq!(held.count_documents(doc! { "_id": 3 }).await?, 0);
    items.update_one(doc! { "_id": 3 }, doc! { "$unset": { "hidden": 1 } }).await?;
    items.delete_one(doc! { "_id": 4 }).await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "renames.items", "renamed_renames.old_items").await?, 499);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Twenty collections, with every kind of index and option, changes all the while, and kills in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_the_same_after_kills() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("killed"), worlds.to.database("killed"));
    for kind in kinds() {
        kind.make(&from).await?;
    }
    let documents: Collection<Document> = from.collection("documents");
    fill(&documents, 21, 6_000).await?;
    fill(&from.collection("others"), 22, 1_000).await?;
    assert_eq!(from.list_collection_names().await?.len(), 20);
    let rules = "  - name: all\n    namespace: killed.*\n    copy: { chunk: 1MiB, parallel: 2 }\n    \
                 to: search";
    let file = worlds.rule_file(rules)?;
    let mut writers = Writers::new(&worlds.from, &documents, 23, 6_000, 3_000);
    let mut random = StdRng::seed_from_u64(24);
    for kill in 0..6 {
        let mut run = file.run(&[])?;
        run.until("its start", |status| {
            status["targets"]["search"]["rules"]["all"]["copy"]["expected"].is_u64()
        })
        .await?;
        writers.release(3_000 * (kill + 1) / 7);
        for kind in kinds().iter().filter(|kind| kind.name != "empty") {
            stir(&from, kind.name, i32::try_from(kill)?, &mut random).await?;
        }
        writers.done(3_000 * kill / 7 + random.random_range(1..3_000 / 7)).await?;
        run.kill().await?;
    }
    let mut run = file.run(&[])?;
    writers.finish().await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(hashes(&from).await?, hashes(&to).await?);
    same(&worlds, "killed.documents", "killed.documents").await?;
    assert_eq!(definitions(&from).await?, definitions(&to).await?);
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_is_away_is_waited_for() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("away_mirror").collection("items");
    fill(&items, 5, 2_000).await?;
    let (mut proxy, target) = worlds.proxy().await?;
    let rules = "  - { namespace: away_mirror.items, to: search }";
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, rules))?;
    proxy.refuse().await;
    proxy.cut();
    let mut run = file.run(&[])?;
    run.waiting().await?;
    proxy.accept().await?;
    worlds.at_rest(&mut run).await?;
    for round in 0..3 {
        proxy.refuse().await;
        proxy.cut();
        items.update_many(doc! {}, doc! { "$set": { "round": round } }).await?;
        items.delete_one(doc! { "_id": round }).await?;
        run.waiting().await?;
        proxy.accept().await?;
        worlds.at_rest(&mut run).await?;
        same(&worlds, "away_mirror.items", "away_mirror.items").await?;
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn mirror_yaml_keeps_a_database() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("ready_mirror");
    fill(&from.collection("products"), 7, 1_000).await?;
    let text = std::fs::read_to_string(Path::new(ROOT).join("rules/mirror.yaml"))?
        .replace("${MONGODB_URI}", worlds.source.uri())
        .replace("${MIRROR_URI}", worlds.mirror.uri())
        .replace("namespace: shop.", "namespace: ready_mirror.");
    ensure!(!text.contains("${"), "it needs no other variables");
    let http = "http: { listen: \"127.0.0.1:${STATUS_PORT}\" }";
    let file = RuleFile::written(worlds.folder.path(), &format!("{text}\n{http}\n"))?;
    let mut run = file.run(&[])?;
    let time = crate::support::run::cluster_time(&worlds.from).await?;
    run.target_reaches("mirror", time).await?;
    run.until("the copy's end", |status| {
        status["targets"]["mirror"]["rules"]["shop"]["copy"]["complete"] == true
    })
    .await?;
    from.collection::<Document>("products").delete_one(doc! { "_id": 7 }).await?;
    from.collection("late").insert_one(doc! { "_id": 1 }).await?;
    let time = crate::support::run::cluster_time(&worlds.from).await?;
    run.target_reaches("mirror", time).await?;
    let to = worlds.to.database("ready_mirror");
    assert_eq!(hashes(&from).await?, hashes(&to).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}
