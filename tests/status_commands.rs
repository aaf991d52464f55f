//! `mongosync status` from another process, the status page, and what is asked over HTTP.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{Instant, interval},
};

use crate::{
    load::fill,
    support::{
        World,
        checker::compare,
        run::{RuleFile, Run, Settings},
    },
};

/// Longer than anything takes that is told in the end.
const PATIENCE: Duration = Duration::from_secs(60);

async fn text(file: &RuleFile) -> Result<String> {
    let output = file.command("status", &[]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn json(file: &RuleFile) -> Result<Value> {
    let output = file.command("status", &["--json"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until the command tells it so.
async fn until(file: &RuleFile, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    let mut look = interval(Duration::from_millis(200));
    loop {
        look.tick().await;
        let told = json(file).await?;
        if wanted(&told) {
            return Ok(told);
        }
        ensure!(Instant::now() < deadline, "no sign of {what}: {told:#}");
    }
}

/// Without what moves by itself.
fn still(mut status: Value) -> Value {
    let clear = |value: &mut Value, keys: &[&str]| {
        for key in keys {
            value[*key] = Value::Null;
        }
    };
    clear(&mut status, &["age_seconds", "oplog_window_seconds"]);
    for target in status["targets"].as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        clear(target, &["position", "lag_seconds", "oplog_left_seconds"]);
        for rule in target["rules"].as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
            clear(rule, &["position"]);
        }
    }
    status
}

/// The names of all fields, in their order.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| json!({ name: shape(value) })).collect()
        }
        _ => Value::Null,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_told_from_elsewhere_of_a_process_that_works_stands_by_or_is_dead()
-> Result<()> {
    of_a_process("told", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_told_from_positions_in_a_folder() -> Result<()> {
    of_a_process("told_folder", "checkpoint: { file: { path: positions } }").await
}

async fn of_a_process(database: &str, top: &str) -> Result<()> {
    let world = World::new().await?;
    let items = world.collection(&format!("{database}.items"));
    fill(&items, 1, 500).await?;
    items.insert_one(doc! { "_id": 1_000, "n": "text" }).await?;
    let settings = Settings { top: top.into(), ..Settings::default() };
    let rules = format!(
        "  - name: items
    namespace: {database}.items
    to: [{{ target: search, index: {{ mappings: {{ properties: {{ n: {{ type: long }} }} }} }} }}]"
    );
    let file = world.rule_file_with(&settings, &rules)?;

    let never = json(&file).await?;
    assert_eq!((&never["state"], &never["holder"]), (&json!("stopped"), &Value::Null));
    assert_eq!(never["targets"]["search"]["rules"]["items"]["copy"]["complete"], false);
    ensure!(text(&file).await?.contains("no process has run it yet"));

    let mut run = file.run(&[])?;
    run.copied().await?;
    run.caught_up(&world.client).await?;
    let own = still(run.status().await.context("a status")?);
    let told = until(&file, "what the process says", |told| still(told.clone()) == own).await?;
    assert_eq!(shape(&told), shape(&run.status().await.context("a status")?));
    assert_eq!((&told["state"], &told["holder"]["pid"]), (&json!("active"), &json!(run.pid()?)));
    ensure!(told["age_seconds"].as_f64() < Some(5.0), "{told:#}");
    ensure!(told["targets"]["search"]["position"].is_string(), "{told:#}");
    let said = text(&file).await?;
    ensure!(said.contains(&format!("process {} on ", run.pid()?)), "{said}");
    ensure!(said.contains("target search: following, up to date, all settled up to 20"), "{said}");
    let row = said.lines().find(|line| line.trim_start().starts_with("items")).context("a row")?;
    let cells: Vec<_> = row.split_whitespace().collect();
    // The stream may show again what the copy has read; the letter in the store is one.
    let [_, copy, delivered, _, _, letters] = cells[..] else { anyhow::bail!("{said}") };
    assert_eq!((copy, letters), ("complete", "1"), "{said}");
    ensure!(delivered.replace(',', "").parse::<u64>()? >= 500, "{said}");

    // Another one stands by, and whoever asks is told of the one that works.
    let mut second = file.run(&[])?;
    second.until("standing by", |status| status["state"] == "standby").await?;
    let own = second.status().await.context("a status")?;
    assert_eq!(own["holder"]["pid"], json!(run.pid()?));
    assert_eq!(json(&file).await?["holder"]["pid"], json!(run.pid()?));

    // What is asked of the one that stands by is done by the other.
    let (code, answer) = second.post("/api/pause", &[], r#"{"target": "search"}"#).await?;
    assert_eq!((code, &answer["outcome"]), (200, &json!("done")), "{answer}");
    assert_eq!(answer["answer"], "target search: is paused");
    let paused = |status: &Value| status["targets"]["search"]["state"] == "paused";
    run.until("the pause", paused).await?;
    until(&file, "the pause", paused).await?;
    ensure!(text(&file).await?.contains("target search: paused"));

    second.kill().await?;
    run.kill().await?;
    // A process of this host is known to be dead at once.
    let dead = json(&file).await?;
    assert_eq!((&dead["state"], paused(&dead)), (&json!("stopped"), true), "{dead:#}");
    ensure!(dead["age_seconds"].is_number());
    assert_eq!(dead["targets"]["search"]["lag_seconds"], Value::Null);
    let letters = &dead["targets"]["search"]["rules"]["items"]["dead_letters"];
    ensure!(letters.as_u64() >= Some(1), "{dead:#}");
    let said = text(&file).await?;
    ensure!(said.contains("no process holds the name"), "{said}");
    ensure!(said.contains("it did not end by itself"), "{said}");
    ensure!(said.contains("target search: was paused"), "{said}");

    // A target that stays paused over a restart falls behind; that is told too.
    let mut run = file.run(&[])?;
    let behind = |status: &Value| {
        let search = &status["targets"]["search"];
        paused(status) && search["lag_seconds"].is_number() && search["position"].is_string()
    };
    run.until("the pause after a restart", behind).await?;
    until(&file, "the new process", |told| told["state"] == "active" && behind(told)).await?;
    assert!(run.terminate().await?.success());
    let said = text(&file).await?;
    ensure!(said.contains("gave it back"), "{said}");
    Ok(())
}

/// The last words of a process that can't go on are there when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn why_a_process_has_failed_is_told_once_it_is_gone() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("gave_up.items");
    items.insert_one(doc! { "_id": 1, "n": "text" }).await?;
    let settings = Settings { engine: ", on_rejected: stop".into(), ..Settings::default() };
    let rules = "  - name: items
    namespace: gave_up.items
    to: [{ target: search, index: { mappings: { properties: { n: { type: long } } } } }]";
    let file = world.rule_file_with(&settings, rules)?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(1), "{log}");
    let told = json(&file).await?;
    let search = &told["targets"]["search"];
    assert_eq!((&told["state"], &search["state"]), (&json!("stopped"), &json!("failed")));
    let error = search["last_error"].as_str().context("an error")?;
    ensure!(error.contains("on_rejected says to stop"), "{error}");
    let said = text(&file).await?;
    ensure!(said.contains("target search: was failed\n") || said.contains("was failed,"), "{said}");
    ensure!(said.contains(error), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_over_http_is_what_the_commands_do() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("posted.items");
    fill(&items, 1, 200).await?;
    let rules = "  - { name: items, namespace: posted.items, to: search }
  - { name: later, namespace: posted.later, copy: false, to: search }";
    let file = world.rule_file(rules)?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let state =
        |wanted: &'static str| move |status: &Value| status["targets"]["search"]["state"] == wanted;

    let (code, answer) = run.post("/api/pause?target=search", &[], "").await?;
    assert_eq!((code, &answer["answer"]), (200, &json!("target search: is paused")));
    run.until("the pause", state("paused")).await?;
    items.delete_one(doc! { "_id": 1 }).await?;
    let (code, answer) = run.post("/api/resume", &[], "").await?;
    assert_eq!((code, &answer["answer"]), (200, &json!("target search: goes on")));
    run.caught_up(&world.client).await?;
    assert_eq!(compare(&items, &world.engine, "posted-items").await?.none()?, 199);

    world.engine_json("DELETE", "/posted-items/_doc/7?refresh=true", "").await?;
    let (code, answer) = run.post("/api/resync", &[], r#"{"rules": ["items"]}"#).await?;
    assert_eq!((code, &answer["answer"]), (200, &json!("target search: is copied again")));
    run.copied().await?;
    assert_eq!(compare(&items, &world.engine, "posted-items").await?.none()?, 199);

    let (code, answer) = run.post("/api/pause?target=serch", &[], "").await?;
    assert_eq!((code, &answer["targets"]), (404, &json!(["search"])), "{answer}");
    ensure!(answer["error"].as_str().is_some_and(|words| words.contains("did you mean")));
    let (code, answer) = run.post("/api/resync", &[], r#"{"rule": "item"}"#).await?;
    assert_eq!((code, &answer["rules"]), (404, &json!(["items", "later"])), "{answer}");
    let (code, answer) = run.post("/api/resync", &[], r#"{"rule": "later"}"#).await?;
    assert_eq!((code, &answer["outcome"]), (409, &json!("refused")), "{answer}");
    assert_eq!(run.post("/api/resync", &[], "").await?.0, 400);
    assert_eq!(run.get("/api/pause").await.context("an answer")?.0, 405);

    // Nothing comes of what another page, or another name of this machine, asks for.
    let foreign: [&[(&str, &str)]; 4] = [
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("host", "rebound.example:7800")],
    ];
    for headers in foreign {
        let (code, answer) = run.post("/api/pause", headers, "").await?;
        assert_eq!(code, 403, "{headers:?} {answer}");
    }
    items.delete_one(doc! { "_id": 2 }).await?;
    run.caught_up(&world.client).await?;
    ensure!(state("following")(&run.status().await.context("a status")?));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Nothing of a login, a token or a connection string's password is in what is stored, told or shown.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_what_is_stored_or_told() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("hushed.items");
    items.insert_one(doc! { "_id": 1 }).await?;
    let port = mongosync_servers::free_port();
    let settings = Settings {
        url: Some(format!("http://127.0.0.1:{port}")),
        engine: ", auth: { username: sync, password: hunter2-pw }".into(),
        ..Settings::default()
    };
    let file = world.rule_file_with(&settings, "  - { namespace: hushed.items, to: search }")?;
    file.rewrite(|text| {
        text.replace("STATUS_PORT}\" }", "STATUS_PORT}\", token: hunter2-token }")
    })?;
    let run = file.run(&[])?;
    let told = until(&file, "an error", |told| {
        told["targets"]["search"]["last_error"].is_string() && told["state"] == "active"
    })
    .await?;
    assert_eq!(told["targets"]["search"]["state"], "waiting");

    let own = ("authorization", "Bearer hunter2-token");
    let mut shown = vec![told.to_string(), text(&file).await?];
    for path in ["/", "/page.js", "/page.css"] {
        let (code, body) = run.get(path).await.context("an answer")?;
        assert_eq!(code, 200, "the page is given to anybody: {path}");
        shown.push(body);
    }
    let (code, _) = run.get("/api/status").await.context("an answer")?;
    assert_eq!(code, 401);
    assert_eq!(run.post("/api/pause", &[], "").await?.0, 401);
    let wrong = ("authorization", "Bearer hunter2");
    assert_eq!(run.post("/api/pause", &[wrong], "").await?.0, 401);
    // With a token there may be a proxy of another name in front.
    let proxied = [own, ("origin", "https://sync.example")];
    let (code, answer) = run.post("/api/pause", &proxied, "").await?;
    assert_eq!(code, 200, "{answer}");
    shown.push(answer.to_string());
    let facts = world.client.database("mongosync").collection::<Document>("facts");
    let filter = doc! { "name": file.path.file_stem().and_then(|name| name.to_str()) };
    let mut stored = facts.find(filter).await?;
    let mut reports = 0;
    while stored.advance().await? {
        let record = stored.deserialize_current()?;
        reports += usize::from(record["key"] == mongodb::bson::bson!(["report"]));
        shown.push(record.to_string());
    }
    assert_eq!(reports, 1, "one record a name");
    for text in shown {
        ensure!(!text.contains("hunter2"), "{text}");
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_again_and_ends_with_the_signal_or_its_reader() -> Result<()> {
    let world = World::new().await?;
    let file = world.rule_file("  - { name: items, namespace: watched.items, to: search }")?;
    for (arguments, first, ended_by_reader) in [
        (&["--watch", "--json"][..], "{\"name\":", false),
        (&["--watch"], "rules-", false),
        (&["--watch", "--json"], "{\"name\":", true),
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mongosync"))
            .arg("status")
            .arg(&file.path)
            .args(arguments)
            .env("STATUS_PORT", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let mut seen = 0;
        while seen < 2 {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
            seen += usize::from(line.context("it goes on")?.starts_with(first));
        }
        if ended_by_reader {
            drop(lines);
        } else {
            let pid = child.id().context("it runs")?.to_string();
            assert!(Command::new("kill").args(["-INT", &pid]).status().await?.success());
        }
        let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
        assert_eq!(status.code(), Some(0), "{arguments:?}");
    }
    Ok(())
}

/// What a run that leaves rules out does not know, the store does.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_a_run_leaves_out_are_told_from_what_is_stored() -> Result<()> {
    let world = World::new().await?;
    for name in ["one", "two"] {
        fill(&world.collection(&format!("left_out.{name}")), 1, 50).await?;
    }
    let rules = "  - { name: one, namespace: left_out.one, to: search }
  - { name: two, namespace: left_out.two, to: search }";
    let file = world.rule_file(rules)?;
    let mut run: Run = file.run(&[])?;
    run.copied().await?;
    assert!(run.terminate().await?.success());
    let run = file.run(&["--rule", "one"])?;
    let told = until(&file, "the process", |told| {
        told["state"] == "active" && told["targets"]["search"]["position"].is_string()
    })
    .await?;
    let copy = json!({ "documents": 50, "expected": 50, "complete": true });
    assert_eq!(told["targets"]["search"]["rules"]["two"]["copy"], copy, "{told:#}");
    assert!(run.terminate().await?.success());
    Ok(())
}
