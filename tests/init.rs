//! `mongosync init`: what it writes is a rule file that runs as it is.

use std::process::{Output, Stdio};

use anyhow::{Result, ensure};
use mongodb::bson::{Bson, doc};
use tokio::process::Command;

use crate::{
    load::fill,
    support::{World, checker::compare, engine_kind},
};

const PASSWORD: &str = "hunter2-and-more";

/// Runs the program with the variables that the written file reads.
async fn mongosync(world: &World, arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_mongosync"))
        .args(arguments)
        .current_dir(world.folder.path())
        .env("MONGODB_URI", world.mongo.uri())
        .env("ELASTICSEARCH_URL", world.engine.url())
        .stdin(Stdio::null())
        .output()
        .await?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_runs_as_it_is() -> Result<()> {
    let world = World::new().await?;
    let items = world.collection("drafted.items");
    fill(&items, 1, 500).await?;
    let mixed = world.collection("drafted.Mixed ones");
    mixed
        .insert_many([
            doc! { "_id": 1, "a": 1, "b": "x", "c": { "d": 1 }, "e": [{ "f": 1 }], "g": Bson::Null },
            doc! { "_id": 2, "a": "one", "b": true, "c": "plain", "e": { "f": "two words" }, "g": [] },
            doc! { "_id": 3, "a": 1.5, "b": 7, "c": [1, { "d": "x" }], "on": 1, "a b: c # d": 2 },
        ])
        .await?;
    world.collection("drafted.empty").insert_one(doc! { "_id": 1 }).await?;
    world
        .client
        .database("drafted")
        .run_command(doc! {
            "create": "few", "viewOn": "items", "pipeline": [{ "$limit": 1 }],
        })
        .await?;

    let uri = world.mongo.uri();
    let output = mongosync(&world, &["init", uri, "--database", "drafted"]).await?;
    ensure!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout)?;
    for part in ["namespace: drafted.items", "type: date", "\"drafted.Mixed ones\"", "few, a view"]
    {
        ensure!(text.contains(part), "no {part} in\n{text}");
    }
    let text = text.replace("elasticsearch:", &format!("{}:", engine_kind()));
    std::fs::write(world.folder.path().join("drafted-rules.yaml"), &text)?;
    let checked = mongosync(&world, &["check", "drafted-rules.yaml"]).await?;
    ensure!(checked.status.success(), "{}\n{text}", stderr(&checked));
    // With dead letters it would end with 6.
    let ran = mongosync(&world, &["run", "drafted-rules.yaml", "--copy-only"]).await?;
    ensure!(ran.status.code() == Some(0), "{}\n{text}", stderr(&ran));
    assert_eq!(compare(&items, &world.engine, "drafted-items").await?.none()?, 500);
    assert_eq!(compare(&mixed, &world.engine, "drafted-mixed-ones").await?.none()?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_over_and_no_password_is_shown() -> Result<()> {
    let world = World::new().await?;
    world.collection("drafted_once.items").insert_one(doc! { "_id": 1 }).await?;
    let uri = world.mongo.uri();
    let init = ["init", uri, "--database", "drafted_once", "--output", "new.yaml"];
    let path = world.folder.path().join("new.yaml");
    let output = mongosync(&world, &init).await?;
    ensure!(output.status.success(), "{}", stderr(&output));
    let written = std::fs::read_to_string(&path)?;
    ensure!(output.stdout.is_empty() && written.contains("drafted_once.items"), "{written}");
    std::fs::write(&path, "mine")?;
    let output = mongosync(&world, &init).await?;
    assert_eq!(output.status.code(), Some(2));
    ensure!(stderr(&output).contains("is there already"), "{}", stderr(&output));
    assert_eq!(std::fs::read_to_string(&path)?, "mine");

    // Several databases: one has to be named.
    world.collection("drafted_twice.items").insert_one(doc! { "_id": 1 }).await?;
    let output = mongosync(&world, &["init", uri]).await?;
    assert_eq!(output.status.code(), Some(2));
    ensure!(stderr(&output).contains("drafted_once, "), "{}", stderr(&output));
    let output = mongosync(&world, &["init", uri, "--database", "not_there"]).await?;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));

    // An address where nothing is, a login that is refused, and one that is none.
    let host = world.mongo_address()?;
    for (uri, code) in [
        (format!("mongodb://me:{PASSWORD}@127.0.0.1:9/?replicaSet=rs0"), 3),
        (format!("mongodb://me:{PASSWORD}@{host}/?authSource=admin"), 3),
        (format!("mongodb://me:{PASSWORD}:x@{host}/"), 2),
    ] {
        let output = mongosync(&world, &["init", &uri, "--wait", "1s"]).await?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        ensure!(!said.contains(PASSWORD), "{said}");
    }
    Ok(())
}
