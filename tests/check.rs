//! `mongosync check`: what it says of files and of real servers, and that it changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use mongodb::{
    IndexModel,
    bson::{Document, doc},
};
use mongosync_servers::{MongoDb, free_port};
use serde_json::Value;

use crate::support::{
    World, engine_kind,
    run::{RuleFile, Settings},
};

/// How a check ended, and what it said.
struct Checked {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn check(file: &RuleFile, arguments: &[&str]) -> Result<Checked> {
    let output = file.command("check", arguments).await?;
    Ok(Checked {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The object that programs get.
async fn online(file: &RuleFile) -> Result<(Option<i32>, Found)> {
    let checked = check(file, &["--online", "--json"]).await?;
    let json: Value = serde_json::from_str(&checked.stdout)
        .with_context(|| format!("{}\n{}", checked.stdout, checked.stderr))?;
    ensure!(json["ok"] == (checked.code == Some(0)), "{json:#}");
    Ok((checked.code, Found(json)))
}

struct Found(Value);

impl Found {
    /// Severity, part and code of all findings but notes.
    fn troubles(&self) -> Vec<String> {
        let all = self.all().filter(|finding| finding["severity"] != "note");
        all.map(|finding| {
            let text = |field: &str| finding[field].as_str().unwrap_or_default().to_owned();
            let name = match finding["name"].as_str() {
                Some(name) => format!("{} {name}", text("part")),
                None => text("part"),
            };
            format!("{} {name}: {}", text("severity"), text("code"))
        })
        .collect()
    }

    /// The message of the only finding with this code.
    fn message(&self, code: &str) -> Result<&str> {
        let own: Vec<_> = self.all().filter(|finding| finding["code"] == code).collect();
        ensure!(own.len() == 1, "{code}: {:#}", self.0);
        own[0]["message"].as_str().context("a message")
    }

    fn help(&self, code: &str) -> Result<&str> {
        let own = self.all().find(|finding| finding["code"] == code).context("a finding")?;
        own["help"].as_str().context("a way out")
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.0["findings"].as_array().into_iter().flatten()
    }
}

/// Text without what differs from run to run.
fn settled(text: &str, world: &World, file: &RuleFile) -> String {
    let mongo = world.mongo.uri().replace("mongodb://", "");
    let mongo = mongo.split('/').next().unwrap_or_default().to_owned();
    let stem = file.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = text
        .replace(&file.path.display().to_string(), "FILE")
        .replace(&mongo, "MONGODB")
        .replace(&world.engine.url(), "ENGINE")
        .replace(engine_label(), "Engine 1.2.3")
        .replace(engine_kind(), "engine")
        .replace(&stem, "NAME");
    // The oplog of the shared server is as old as the tests.
    let of_oplog = |line: &str| line.contains("the oplog reaches back");
    text.lines().filter(|line| !of_oplog(line)).collect::<Vec<_>>().join("\n")
}

/// What the engine of the tests calls itself.
fn engine_label() -> &'static str {
    match engine_kind() {
        "opensearch" => "OpenSearch 2.18.0",
        _ => "Elasticsearch 7.10.2",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_file_is_fine_and_nothing_is_changed() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("checked.items");
    items.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    let file = world.rule_file(
        "  - namespace: checked.items
    filter: { _id: { $gte: 0 } }
    pipeline: [{ $lookup: { from: others, localField: a, foreignField: _id, as: b } }]
    to: [{ target: search, index: { name: checked, alias: true } }]",
    )?;
    let checked = check(&file, &["--online"]).await?;
    assert_eq!(checked.code, Some(0), "{}\n{}", checked.stdout, checked.stderr);
    insta::assert_snapshot!(settled(&checked.stdout, &world, &file));

    for path in ["/checked", "/checked-000001"] {
        assert_eq!(world.engine.request("GET", path, "").await?.status, 404, "{path}");
    }
    assert_eq!(items.count_documents(doc! {}).await?, 10);
    let name = file.path.file_stem().context("a stem")?.to_string_lossy().into_owned();
    let kept = world.client.database("mongosync");
    for table in kept.list_collection_names().await? {
        let records = kept.collection::<Document>(&table);
        assert_eq!(records.count_documents(doc! { "name": &name }).await?, 0, "{table}");
    }
    Ok(())
}

/// A change stream knows nothing of a collection's collation, whoever else reads the collection does.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_of_events_is_told_where_a_collation_makes_it_mean_two_things() -> Result<()> {
    let world = World::new().await?;
    let database = world.client.database("check_collated");
    let collation = doc! { "locale": "en", "strength": 2 };
    database.run_command(doc! { "create": "items", "collation": collation }).await?;
    let items = world.collection("check_collated.items");
    let matched = [doc! { "$match": { "fullDocument.name": "a" } }];
    let mut stream = items.watch().pipeline(matched).await?;
    items.insert_many([doc! { "_id": 1, "name": "A" }, doc! { "_id": 2, "name": "a" }]).await?;
    assert_eq!(items.count_documents(doc! { "name": "a" }).await?, 2);
    let first = stream.next().await.context("an event")??;
    assert_eq!(first.document_key, Some(doc! { "_id": 2 }));

    let rule = |more: &str, filter: &str| {
        world.rule_file(&format!(
            "  - {{ name: log, namespace: \"check_collated.*\", delivery: events, {more} {filter} \
             to: [{{ target: search, index: check-collated }}] }}"
        ))
    };
    let filter = "filter: { name: a },";
    let (code, found) = online(&rule("copy: true,", filter)?).await?;
    assert_eq!(code, Some(0));
    let words = found.message("filter_collation")?;
    ensure!(words.contains("check_collated.items, and in the copy by that collation"), "{words}");
    let (_, found) = online(&rule("", filter)?).await?;
    ensure!(found.message("filter_collation")?.ends_with("check_collated.items"), "{:#}", found.0);
    let (_, found) = online(&rule("copy: true,", "")?).await?;
    ensure!(found.message("filter_collation").is_err(), "{:#}", found.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_told_on_both_channels() -> Result<()> {
    let world = World::new().await?;
    let file = world.rule_file("  - namespace: a.b\n    too: search\n    copy: perhaps")?;
    for arguments in [&["--json"][..], &["--json", "--online"]] {
        let checked = check(&file, arguments).await?;
        assert_eq!(checked.code, Some(2));
        ensure!(checked.stderr.contains("did you mean `to`?"), "{}", checked.stderr);
        let json: Value = serde_json::from_str(&checked.stdout)?;
        assert_eq!(json["ok"], false);
        let told: Vec<_> = json["findings"]
            .as_array()
            .context("a list")?
            .iter()
            .map(|it| (it["severity"].as_str(), it["line"].as_u64(), it["label"].as_str()))
            .collect();
        assert_eq!(
            told,
            [
                // Nothing writes to the target now.
                (Some("warning"), Some(4), None),
                (Some("error"), Some(7), Some("did you mean `to`?")),
                (Some("error"), Some(8), Some("this is text")),
            ]
        );
    }
    let checked = check(&file, &[]).await?;
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(2), ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_namespaces_come_to() -> Result<()> {
    let world = World::new().await?;
    let database = world.client.database("looked");
    for name in ["products", "Items", "items"] {
        world.collection(&format!("looked.{name}")).insert_one(doc! { "_id": 1 }).await?;
    }
    world.collection("looked.items").insert_one(doc! { "_id": "1" }).await?;
    database.run_command(doc! { "create": "times", "timeseries": { "timeField": "at" } }).await?;
    database.run_command(doc! { "create": "view", "viewOn": "items", "pipeline": [] }).await?;
    let file = world.rule_file(
        "  - { namespace: looked.product, to: search }
  - { name: all, namespace: looked.*, to: search }
  - { name: none, namespace: 'looked.nothing_*', to: search }
  - { namespace: looked.times, to: search }
  - { namespace: looked.view, to: [{ target: search, index: looked-by-name }] }
  - { name: broken, namespace: looked.products, filter: { a: { $gtt: 1 } }, to: [{ target: search, index: looked-broken }] }",
    )?;
    let (code, found) = online(&file).await?;
    assert_eq!(code, Some(1), "{:#}", found.0);
    assert_eq!(
        found.troubles(),
        [
            "warning rule all: same_place",
            "warning rule looked.times: same_place",
            "warning rule looked.product: matches_nothing",
            "warning rule none: matches_nothing",
            "error rule looked.times: time_series",
            "warning rule looked.view: view",
            "error rule broken: refused",
            "error target search: shared_index",
        ]
    );
    assert_eq!(found.help("matches_nothing")?, "did you mean looked.products?");
    ensure!(found.message("views_passed_over")?.ends_with(": looked.view"), "{:#}", found.0);
    ensure!(found.message("time_series_passed_over")?.ends_with(": looked.times"));
    assert_eq!(found.message("matches")?, "reads looked.Items, looked.items, looked.products");
    ensure!(found.message("mixed_ids")?.contains("(string, number)"), "{:#}", found.0);
    let meet =
        "documents of looked.Items and looked.items meet in the index looked-items under one id";
    assert_eq!(found.message("shared_index")?, meet);
    ensure!(found.message("refused")?.contains("unknown operator: $gtt"), "{:#}", found.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_in_an_engine() -> Result<()> {
    let world = World::new().await?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        world.collection(&format!("hindered.{name}")).insert_one(doc! { "_id": 1 }).await?;
    }
    let put = |path: &'static str, body: &'static str| world.engine_json("PUT", path, body);
    put("/hindered-blocked", r#"{ "settings": { "index.blocks.write": true } }"#).await?;
    put("/hindered-plain", "{}").await?;
    put("/hindered-closed", "{}").await?;
    world.engine_json("POST", "/hindered-closed/_close", "").await?;
    put(
        "/hindered-typed",
        r#"{ "mappings": { "properties": { "n": { "type": "keyword" }, "t": { "type": "text" } } } }"#,
    )
    .await?;
    let file = world.rule_file(
        "  - { namespace: hindered.a, to: [{ target: search, index: hindered-blocked }] }
  - { namespace: hindered.b, to: [{ target: search, index: { name: hindered-plain, alias: true } }] }
  - { namespace: hindered.c, to: [{ target: search, index: hindered-closed, ingest_pipeline: hindered }] }
  - namespace: hindered.d
    to:
      - target: search
        index:
          name: hindered-typed
          mappings: { properties: { n: { type: long }, t: { type: text, index: true }, new: { type: date } } }",
    )?;
    let (code, found) = online(&file).await?;
    assert_eq!(code, Some(1), "{:#}", found.0);
    assert_eq!(
        found.troubles(),
        [
            "error target search: index_blocked",
            "error target search: index_unusable",
            "warning target search: mappings_differ",
            "error target search: index_closed",
            "error target search: pipeline_missing",
        ]
    );
    ensure!(found.help("index_blocked")?.starts_with("PUT /hindered-blocked/_settings"));
    ensure!(found.message("index_unusable")?.starts_with("hindered-plain is an index"));
    ensure!(found.message("pipeline_missing")?.contains("the ingest pipeline hindered, and"));
    assert_eq!(
        found.message("mappings_differ")?,
        "the index hindered-typed has other mappings than the rule hindered.d: `n` is long in the \
         rule and keyword in the index, `new` is not in the index"
    );

    // The ways out lead out.
    for (method, path, body) in [
        ("PUT", "/hindered-blocked/_settings", r#"{ "index.blocks.write": null }"#),
        ("DELETE", "/hindered-plain", ""),
        ("DELETE", "/hindered-typed", ""),
        ("POST", "/hindered-closed/_open", ""),
        ("PUT", "/_ingest/pipeline/hindered", r#"{ "processors": [] }"#),
    ] {
        world.engine_json(method, path, body).await?;
    }
    let (code, found) = online(&file).await?;
    assert_eq!(found.troubles(), Vec::<String>::new());
    assert_eq!(code, Some(0));
    // What mongosync makes is what it wants.
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    let (code, found) = online(&file).await?;
    assert_eq!((code, found.troubles()), (Some(0), Vec::new()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_reached_ends_with_3() -> Result<()> {
    let world = World::new().await?;
    world.collection("unreached.items").insert_one(doc! { "_id": 1 }).await?;
    let rules = "  - namespace: unreached.items\n    to: search";
    let away = format!("http://127.0.0.1:{}", free_port());
    let settings = Settings { url: Some(away.clone()), ..Settings::default() };
    let file = world.rule_file_with(&settings, rules)?;
    let checked = check(&file, &["--online", "--wait", "1s"]).await?;
    assert_eq!(checked.code, Some(3), "{}", checked.stderr);
    ensure!(
        checked.stdout.contains("  target search: not reached within 1 s: "),
        "{}",
        checked.stdout
    );
    ensure!(checked.stdout.contains("  source: MongoDB 6.0"), "{}", checked.stdout);
    ensure!(checked.stderr.contains("error: not reached: target search"), "{}", checked.stderr);
    // A file alone is read without any of them.
    assert_eq!(check(&file, &[]).await?.code, Some(0));

    // One node of two.
    let both = format!("{}\", \"{away}", world.engine.url());
    let file = world.rule_file_with(&Settings { url: Some(both), ..Settings::default() }, rules)?;
    let (code, found) = online(&file).await?;
    assert_eq!(
        (code, found.troubles()),
        (Some(0), vec!["warning target search: node_down".into()])
    );

    let file = world.rule_file(rules)?;
    let nobody = format!("mongodb://127.0.0.1:{}/?replicaSet=rs0", free_port());
    file.rewrite(|text| text.replace(world.mongo.uri(), &nobody))?;
    let checked = check(&file, &["--online", "--wait", "1s"]).await?;
    assert_eq!(checked.code, Some(3), "{}", checked.stderr);
    ensure!(checked.stderr.contains("error: not reached: source\n"), "{}", checked.stderr);
    let reached = format!("target search: {}", engine_label());
    ensure!(checked.stdout.contains(&reached), "{}", checked.stdout);
    Ok(())
}

/// What the store remembers: rules that changed, came and went; and who holds the name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_held_against_the_file() -> Result<()> {
    let world = World::new().await?;
    for name in ["a", "b", "c"] {
        world.collection(&format!("stored.{name}")).insert_one(doc! { "_id": 1 }).await?;
    }
    let rule = |name: &str| format!("  - {{ namespace: stored.{name}, to: search }}\n");
    for top in ["", "checkpoint: { file: { path: state } }"] {
        let settings = Settings { top: top.to_owned(), ..Settings::default() };
        let file = world.rule_file_with(&settings, &format!("{}{}", rule("a"), rule("b")))?;
        let (code, found) = online(&file).await?;
        assert_eq!((code, found.troubles()), (Some(0), Vec::new()));
        ensure!(found.message("new_rules")?.ends_with(": stored.a, stored.b"));
        assert!(!world.folder.path().join("state").exists() || !top.is_empty());

        let mut run = file.run(&[])?;
        run.copied().await?;
        let (code, found) = online(&file).await?;
        assert_eq!((code, found.troubles()), (Some(0), Vec::new()));
        ensure!(found.message("lease_held")?.contains("another run would stand by"));
        assert!(run.terminate().await?.success());

        file.rewrite(|text| {
            text.replace("stored.a,", "stored.a, filter: { _id: 1 },")
                .replace("stored.b", "stored.c")
        })?;
        let (code, found) = online(&file).await?;
        assert_eq!(
            (code, found.troubles()),
            (
                Some(0),
                vec![
                    "warning target search: stale".into(),
                    "warning target search: rules_gone".into()
                ]
            )
        );
        ensure!(found.message("stale")?.contains("the rule stored.a has changed"));
        ensure!(found.message("rules_gone")?.contains("stored.b"));
        ensure!(found.message("new_rules")?.ends_with(": stored.c"));
        ensure!(found.message("lease_free")?.starts_with("nobody holds the name"));

        // Another file of the same name.
        let stem = file.path.file_stem().context("a stem")?.to_string_lossy().into_owned();
        let other = world.rule_file_with(&settings, &format!("{}name: {stem}", rule("a")))?;
        let (code, found) = online(&other).await?;
        assert_eq!(code, Some(1), "{:#}", found.0);
        ensure!(found.troubles().contains(&"error checkpoint: name_taken".to_owned()));
    }
    Ok(())
}

/// A server that lets in only who has the right to: each way out that is told is followed, and in the
/// end a run does its work with no more rights than that.
#[tokio::test(flavor = "multi_thread")]
async fn privileges_that_are_missing_are_told_and_enough_when_granted() -> Result<()> {
    let world = World::new().await?;
    let guarded = MongoDb::builder().login("root", "secret").start().await?;
    let admin = guarded.client().database("admin");
    for name in ["items", "others"] {
        let items = guarded.client().database("guarded").collection::<Document>(name);
        items.insert_many((0..100).map(|id| doc! { "_id": id })).await?;
        items.create_index(IndexModel::builder().keys(doc! { "n": 1 }).build()).await?;
    }
    admin.run_command(doc! { "createUser": "sync", "pwd": "hunter2", "roles": [] }).await?;
    let file = world.rule_file(
        "  - { namespace: guarded.items, to: search }
  - name: pattern
    namespace: guarded.oth*
    pipeline: [{ $lookup: { from: items, localField: a, foreignField: b, as: c } }]
    to: search",
    )?;
    let source = |uri: &str| file.rewrite(|text| text.replace(world.mongo.uri(), uri));
    source(&guarded.uri_of("sync", "wrong"))?;
    let checked = check(&file, &["--online"]).await?;
    assert_eq!(checked.code, Some(1), "{}", checked.stderr);
    ensure!(checked.stdout.contains("  source: it lets nobody in: "), "{}", checked.stdout);
    let (code, log) = file.run_to_end(&["--wait", "2s"]).await?;
    assert_eq!(code, Some(3), "{log}");
    let told = "the source lets nobody in with this login, trying again: look at user, password";
    assert_eq!(log.matches(told).count(), 1, "{log}");

    file.rewrite(|text| text.replace("sync:wrong", "sync:hunter2"))?;
    let status = file.command("status", &[]).await?;
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    ensure!(said.contains("refuses this user: not authorized on mongosync"), "{said}");
    ensure!(said.contains("`checkpoint: { file: {} }`") && said.len() < 500, "{said}");
    let (code, found) = online(&file).await?;
    assert_eq!(code, Some(1), "{:#}", found.0);
    assert_eq!(
        found.troubles(),
        [
            "error rule guarded.items: missing_privilege",
            "error rule pattern: missing_privilege",
            "error source: missing_privilege",
            "warning source: oplog_unknown",
            "error checkpoint: missing_privilege",
            "error checkpoint: store_unusable",
        ]
    );
    let told: BTreeMap<_, _> = found
        .all()
        .filter_map(|finding| Some((finding["message"].as_str()?, finding["help"].as_str())))
        .collect();
    let own = |words: &str| {
        let found = told.iter().find(|(message, _)| message.contains(words));
        found.with_context(|| format!("{words}: {told:#?}"))
    };
    let (_, help) = own("the user sync may not `find` on guarded.items")?;
    let grant =
        r#"db.getSiblingDB("admin").grantRolesToUser("sync", [{ role: "read", db: "guarded" }])"#;
    assert_eq!(*help, Some(grant));
    own("the user sync may not `find` on the whole database guarded")?;
    own("the change stream of target search covers the whole database guarded")?;
    own("may not `find` and `insert` and `update` and `remove` in the database mongosync")?;
    let shown = check(&file, &["--online"]).await?;
    for text in [&shown.stdout, &shown.stderr, &found.0.to_string()] {
        ensure!(!text.contains("hunter2") && !text.contains("wrong"), "{text}");
    }

    let grants = [("read", "guarded"), ("readWrite", "mongosync")];
    let roles: Vec<_> = grants.map(|(role, on)| doc! { "role": role, "db": on }).into();
    admin.run_command(doc! { "grantRolesToUser": "sync", "roles": roles }).await?;
    let (code, found) = online(&file).await?;
    assert_eq!((code, found.troubles()), (Some(0), vec!["warning source: oplog_unknown".into()]));
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    let mut run = file.run(&[])?;
    run.caught_up(&guarded.client()).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_server_is_no_source() -> Result<()> {
    let world = World::new().await?;
    let file = world.rule_file("  - namespace: alone.items\n    to: search")?;
    let alone = MongoDb::builder().alone().start().await?;
    file.rewrite(|text| text.replace(world.mongo.uri(), alone.uri()))?;
    let (code, found) = online(&file).await?;
    assert_eq!(code, Some(1), "{:#}", found.0);
    ensure!(found.message("not_a_source")?.contains("run rs.initiate() once"));
    ensure!(found.troubles().contains(&"warning rule alone.items: matches_nothing".to_owned()));
    Ok(())
}

#[tokio::test]
async fn the_schema_is_printed_for_programs() -> Result<()> {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongosync"))
        .arg("schema")
        .output()
        .await?;
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr)?, "");
    let printed: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(printed, mongosync::rules::schema());
    Ok(())
}

/// Where nobody looks at a terminal, what is probably not meant comes as a log line each, in plain words.
#[tokio::test]
async fn warnings_of_a_file_are_plain_words_in_a_log() -> Result<()> {
    let file = "tests/rule_files/warnings/probably_not_meant.yaml";
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongosync"))
        .args(["check", file])
        .output()
        .await?;
    let log = String::from_utf8(output.stderr)?;
    let warnings: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(warnings.len() > 3, "{log}");
    for warning in &warnings {
        let fields = &warning["fields"];
        let place = fields["place"].as_str().context("a place")?;
        ensure!(place.starts_with(&format!("{file}:")), "{place}");
        let message = fields["message"].as_str().context("a message")?;
        ensure!(!message.contains(['\n', '╭', '─']) && !message.is_empty(), "{message}");
    }
    Ok(())
}
