//! What shows what a rule does before it does it: `test`, `try`, `run --dry-run`.

use std::{collections::BTreeSet, process::Output};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc, oid::ObjectId};
use serde_json::Value;

use crate::support::{
    World,
    run::{RuleFile, Settings},
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, standard output, standard error.
async fn command(
    file: &RuleFile,
    command: &str,
    arguments: &[&str],
) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = file.command(command, arguments).await?;
    Ok((status.code(), text(&stdout), text(&stderr)))
}

/// Every database of the server, and every index of the engine.
async fn traces(world: &World) -> Result<(Vec<String>, Vec<String>)> {
    let mut databases = world.client.list_database_names().await?;
    databases.sort();
    let indices = world.engine_json("GET", "/_cat/indices?format=json", "").await?;
    let name = |index: &Value| index["index"].as_str().map(str::to_owned);
    let mut indices: Vec<String> =
        indices.as_array().context("a list")?.iter().filter_map(name).collect();
    indices.sort();
    Ok((databases, indices))
}

fn with_test(expected: &str) -> String {
    format!(
        "  - name: products
    namespace: tested.products
    transform: doc.n += 1
    to: search
  - name: other
    namespace: tested.other
    to: search
tests:
  - name: one more
    rule: products
    given: {{ document: {{ _id: 1, n: 1 }} }}
    expect: {{ document: {{ _id: 1, n: {expected} }} }}
  - name: another
    rule: other
    given: {{ document: {{ _id: 1 }} }}
    expect: {{ document: {{ _id: 1 }} }}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn test_needs_no_server_and_says_what_differs() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let written = |expected: &str| {
        let nobody = "mongodb://127.0.0.1:1/?replicaSet=rs0";
        let text = Settings::default().text(nobody, "http://127.0.0.1:1", &with_test(expected));
        RuleFile::written(folder.path(), &text)
    };
    let good = written("2")?;
    let (code, out, err) = command(&good, "test", &[]).await?;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out, "ok    products: one more\nok    other: another\n2 passed, 0 failed\n");

    let bad = written("3")?;
    let (code, out, err) = command(&bad, "test", &[]).await?;
    assert_eq!(code, Some(4), "{out}{err}");
    ensure!(out.contains("FAIL  products: one more\n      at "), "{out}");
    ensure!(out.contains("      -   \"n\": 3\n      +   \"n\": 2\n"), "{out}");
    ensure!(out.ends_with("1 passed, 1 failed\n"), "{out}");
    ensure!(err.contains("error: 1 of 2 tests failed"), "{err}");

    let (code, out, _) = command(&bad, "test", &["--rule", "other", "--json"]).await?;
    assert_eq!(code, Some(0), "{out}");
    let lines: Vec<Value> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(
        (lines.len(), &lines[0]["name"], &lines[0]["passed"]),
        (1, &"another".into(), &true.into())
    );

    let (code, _, err) = command(&bad, "test", &["--rule", "othr"]).await?;
    assert_eq!(code, Some(2), "{err}");
    ensure!(err.contains("did you mean \"other\"?"), "{err}");

    let none =
        Settings::default().text("mongodb://h", "http://h", "  - namespace: a.b\n    to: search");
    let (code, out, err) = command(&RuleFile::written(folder.path(), &none)?, "test", &[]).await?;
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    ensure!(err.contains("there are no tests"), "{err}");
    Ok(())
}

const RULES: &str = r#"  - name: products
    namespace: tried.products
    filter: { active: true }
    project: { secret: 0 }
    pipeline:
      - $match: { hidden: { $exists: false } }
      - $set: { double: { $multiply: [$n, 2] } }
    transform: |
      if doc.status == "draft" { remove(); }
      if doc.status == "locked" { skip(); }
      if doc.status == "bad" { fail("it is bad"); }
      let category = lookup("tried.categories", #{ _id: doc.category });
      doc.category = if category == () { "none" } else { category.name };
    to: [{ target: search, index: tried, routing: "{category}" }]
  - name: moving
    namespace: "tried.m*"
    transform: |
      if doc._id == 1 { remove(); }
      doc = [#{ _id: `${doc._id}-a` }, #{ _id: `${doc._id}-b` }];
    to: search
  - name: seen
    namespace: tried.seen
    changes: false
    to: search"#;

/// Fills a database of this name, and writes rules for it.
async fn tried(world: &World, database: &str) -> Result<RuleFile> {
    let collection = |name: &str| world.collection(&format!("{database}.{name}"));
    let products = collection("products");
    let product = |id: i32, more: Document| {
        let mut product = doc! { "_id": id, "n": id, "active": true, "secret": "s3cr3t" };
        product.extend(more);
        product
    };
    products
        .insert_many([
            product(1, doc! { "category": 5 }),
            product(2, doc! { "active": false }),
            product(3, doc! { "hidden": true }),
            product(4, doc! { "status": "draft" }),
            product(5, doc! { "status": "locked" }),
            product(6, doc! { "status": "bad" }),
            product(7, doc! { "n": "text" }),
        ])
        .await?;
    products.insert_one(doc! { "_id": "7", "active": true }).await?;
    let id = ObjectId::parse_str("64b007090102030405060708")?;
    products.insert_one(doc! { "_id": id, "active": true }).await?;
    collection("categories").insert_one(doc! { "_id": 5, "name": "Lighting" }).await?;
    collection("moved").insert_many([doc! { "_id": 1 }, doc! { "_id": 2 }]).await?;
    collection("more").insert_one(doc! { "_id": 3 }).await?;
    let view =
        doc! { "create": "seen", "viewOn": "products", "pipeline": [{ "$match": { "_id": 1 } }] };
    world.client.database(database).run_command(view).await?;
    world.rule_file(&RULES.replace("tried", database))
}

#[tokio::test(flavor = "multi_thread")]
async fn try_shows_what_becomes_of_a_document() -> Result<()> {
    let world = World::new().await?;
    let file = tried(&world, "tried").await?;
    let one = async |id: &str| -> Result<String> {
        let (code, out, err) = command(&file, "try", &["--rule", "products", "--id", id]).await?;
        ensure!(code == Some(0), "{id}: {code:?} {out}{err}");
        Ok(out)
    };
    let out = one("1").await?;
    let (before, after) = out
        .split_once("\nafter filter, project, pipeline and transform:\n")
        .context(out.clone())?;
    let (after, request) =
        after.split_once("\nthe request that search would get:\n").context(out.clone())?;
    ensure!(
        before.starts_with(
            "tried.products  _id 1\n\nbefore, as it lies in the collection:\n{\n  \"_id\": 1,\n"
        ),
        "{before}"
    );
    ensure!(
        before.contains("\"secret\": \"s3cr3t\"") && before.contains("\"category\": 5"),
        "{before}"
    );
    let after: Value = serde_json::from_str(after)?;
    assert_eq!(
        after,
        serde_json::json!({ "_id": 1, "n": 1, "active": true, "category": "Lighting", "double": 2 })
    );
    let lines: Vec<Value> = request.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [action, body] = lines.as_slice() else { panic!("{request}") };
    let action = &action["index"];
    assert_eq!((&action["_index"], &action["routing"]), (&"tried".into(), &"Lighting".into()));
    assert_eq!((&action["_id"], &action["version_type"]), (&"1".into(), &"external_gte".into()));
    assert_eq!(
        body,
        &serde_json::json!({ "n": 1, "active": true, "category": "Lighting", "double": 2 })
    );

    for (id, expected) in [
        ("2", "not sent: the filter does not match"),
        ("3", "not sent: the pipeline leaves it out"),
        ("4", "after: remove(), it would be taken out where it lies"),
        ("5", "not sent: skip(), the target is left as it is"),
        ("6", "not sent: it would become a dead letter:\nit is bad"),
        ("64b007090102030405060708", "_id {\"$oid\":\"64b007090102030405060708\"}"),
        ("{\"$oid\":\"64b007090102030405060708\"}", "_id {\"$oid\":\"64b007090102030405060708\"}"),
    ] {
        let out = one(id).await?;
        ensure!(out.contains(expected), "{id}: {out}");
        ensure!(out.matches("before, as it lies").count() == 1, "{id}: {out}");
    }
    // The text and the number; MongoDB can't multiply a text.
    let out = one("7").await?;
    assert_eq!(out.matches("before, as it lies").count(), 2, "{out}");
    ensure!(out.contains("not sent: it would become a dead letter, MongoDB fails on it:"), "{out}");

    let (code, _, err) = command(&file, "try", &["--rule", "products", "--id", "99"]).await?;
    assert_eq!(code, Some(1), "{err}");
    ensure!(err.contains("has a document with the _id 99"), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn try_takes_a_few_and_leaves_no_trace() -> Result<()> {
    let world = World::new().await?;
    let own = mongosync_servers::MongoDb::start().await?;
    let world = World { client: own.client(), mongo: own.into(), ..world };
    let file = tried(&world, "tried_few").await?;
    let (databases, _) = traces(&world).await?;
    let (code, out, err) = command(&file, "try", &["--rule", "products"]).await?;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(out.matches("before, as it lies").count(), 3, "{out}");
    ensure!(!out.contains("the filter does not match"), "{out}");
    let (_, out, _) = command(&file, "try", &["--rule", "products", "--limit", "100"]).await?;
    assert_eq!(out.matches("before, as it lies").count(), 8, "{out}");
    // From two collections; the script makes two documents of each.
    let (_, out, _) = command(&file, "try", &["--rule", "moving", "--limit", "3"]).await?;
    let headings: Vec<&str> = out.lines().filter(|line| line.contains("  _id ")).collect();
    assert_eq!(
        headings,
        ["tried_few.more  _id 3", "tried_few.moved  _id 1", "tried_few.moved  _id 2"],
        "{out}"
    );
    assert_eq!(out.matches("the request that search would get:").count(), 4, "{out}");
    ensure!(out.contains("after: remove(), it would be taken out where it lies"), "{out}");
    let (_, out, err) = command(&file, "try", &["--rule", "seen"]).await?;
    ensure!(
        out.contains("tried_few.seen  _id 1") && out.contains("\nafter: the same\n"),
        "{out}{err}"
    );
    let (after, indices) = traces(&world).await?;
    assert_eq!(after, databases);
    ensure!(!indices.iter().any(|index| index.starts_with("tried_few")), "{indices:?}");

    file.rewrite(|text| text.replace("filter: { active: true }", "filter: { $foo: 1 }"))?;
    let (code, _, err) = command(&file, "try", &["--rule", "products"]).await?;
    assert_eq!(code, Some(1), "{err}");
    ensure!(err.contains("$foo"), "{err}");
    file.rewrite(|text| text.replace(world.mongo.uri(), "mongodb://127.0.0.1:1/?replicaSet=rs0"))?;
    let (code, _, err) = command(&file, "try", &["--rule", "products", "--wait", "1s"]).await?;
    assert_eq!(code, Some(3), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_requests_and_leaves_no_trace() -> Result<()> {
    let world = World::new().await?;
    let own = mongosync_servers::MongoDb::start().await?;
    let world = World { client: own.client(), mongo: own.into(), ..world };
    let file = tried(&world, "tried_dry").await?;
    let (databases, _) = traces(&world).await?;
    let (code, out, err) =
        command(&file, "run", &["--dry-run", "--copy-only", "--rule", "products"]).await?;
    assert_eq!(code, Some(6), "{out}{err}");
    let lines: Vec<Value> = out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ids: BTreeSet<&str> =
        lines.iter().filter_map(|line| line["index"]["_id"].as_str()).collect();
    assert_eq!(ids, ["1", "64b007090102030405060708", "string~7"].into(), "{out}");
    ensure!(err.contains("these would become dead letters") && err.contains("it is bad"), "{err}");
    ensure!(err.contains("2 documents would become dead letters"), "{err}");
    let (after, indices) = traces(&world).await?;
    assert_eq!(after, databases);
    ensure!(!indices.iter().any(|index| index.starts_with("tried_dry")), "{indices:?}");

    // Beside a run, whose name and port it does not take; what changes is shown as it changes.
    let moving = ["--rule", "moving"];
    let mut run = file.run(&moving)?;
    run.copied().await?;
    let mut dry = file.run(&["--dry-run", "--rule", "moving"])?;
    dry.wrote("\"_id\":\"3-b\"").await?;
    world.collection("tried_dry.more").delete_one(doc! { "_id": 3 }).await?;
    dry.wrote("{\"delete\":{\"_index\":\"tried_dry-more\",\"_id\":\"3-a\"").await?;
    assert!(dry.terminate().await?.success());
    run.caught_up(&world.client).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_ends_with_its_reader() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("piped.items");
    items.insert_many((0..5_000).map(|id| doc! { "_id": id, "text": "x".repeat(1000) })).await?;
    let file = world.rule_file("  - namespace: piped.items\n    to: search")?;
    let run = format!(
        "'{}' run '{}' --dry-run | head -n 2; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_mongosync"),
        file.path.display()
    );
    let ended = tokio::process::Command::new("bash")
        .args(["-c", &run])
        .env("STATUS_PORT", "1")
        .output()
        .await?;
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert_eq!(text(&ended.stdout).lines().count(), 2);
    Ok(())
}
