//! A disk that is full, a folder that is not there, another process, more files than can be open.

use std::fs;

use anyhow::{Result, ensure};
use mongodb::bson::doc;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{Filed, copied, lines, lines_of, repeats_are_harmless, replayed, source};
use crate::support::run::Run;

/// Waits until the target is waited for, and returns what the status says why.
async fn waiting(run: &mut Run) -> Result<String> {
    let status = run
        .until("waiting for the target", |status| {
            let out = &status["targets"]["out"];
            out["state"] == "waiting" && out["last_error"].is_string()
        })
        .await?;
    Ok(status["targets"]["out"]["last_error"].to_string())
}

/// No file of the process may have more than 200 KB, until there is room. What did not fit is taken
/// back, so that no line is torn meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_full.orders");
    orders.insert_many((0..3_000).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let rules = "  - { namespace: filed_full.orders, to: out }";
    let file = world.file("path: orders.ndjson, batch: { max_actions: 300 }", rules)?;
    let small_disk = "trap '' XFSZ; ulimit -S -f 400";
    let mut run = file.run_after(small_disk, &[])?;
    let words = waiting(&mut run).await?;
    ensure!(words.contains("orders.ndjson can't be written: File too large"), "{words}");
    let part = lines_of(&fs::read_to_string(world.path("orders.ndjson"))?)?;
    ensure!(!part.is_empty() && part.len() < 3_000, "{}", part.len());
    orders.update_many(doc! { "_id": { "$mod": [3, 0] } }, doc! { "$inc": { "n": 1 } }).await?;
    // It is killed on the full disk, and the next one finds it full.
    run.kill().await?;
    let mut run = file.run_after(small_disk, &[])?;
    waiting(&mut run).await?;
    let pid = Pid::from_raw(i32::try_from(run.pid()?)?);
    prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None })?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    let lines = lines(world.folder.path(), "orders")?;
    assert_eq!(replayed(&lines), source(&orders).await?);
    repeats_are_harmless(&lines)?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_can_not_be_written_to_is_waited_for() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_folder.orders");
    orders.insert_many((0..100).map(|id| doc! { "_id": id, "n": 0 })).await?;
    // Whoever runs the tests may write everywhere, but not below a file.
    fs::write(world.path("out"), "in the way")?;
    let rules = "  - { namespace: filed_folder.orders, to: out }";
    let file = world.file("path: out/orders.ndjson", rules)?;
    let mut run = file.run(&[])?;
    let words = waiting(&mut run).await?;
    ensure!(words.contains("out can't be written to: not a directory"), "{words}");
    fs::remove_file(world.path("out"))?;
    copied(&mut run).await?;
    // The folder goes away under its files.
    fs::rename(world.path("out"), world.path("old"))?;
    fs::write(world.path("out"), "in the way")?;
    orders.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    waiting(&mut run).await?;
    fs::remove_file(world.path("out"))?;
    world.caught_up(&mut run).await?;
    assert_eq!(lines(&world.path("old"), "orders")?.len(), 100);
    let lines = lines(&world.path("out"), "orders")?;
    assert_eq!(replayed(&lines), source(&orders).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_write_to_one_file() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_two.orders");
    orders.insert_many((0..100).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let rules = "  - { namespace: filed_two.orders, to: out }";
    let mut first = world.file("path: orders.ndjson", rules)?.run(&[])?;
    copied(&mut first).await?;
    let mut second = world.file("path: orders.ndjson", rules)?.run(&[])?;
    let words = waiting(&mut second).await?;
    ensure!(words.contains("orders.ndjson is written to by another process"), "{words}");
    assert_eq!(lines(world.folder.path(), "orders")?.len(), 100);
    assert!(first.terminate().await?.success());
    copied(&mut second).await?;
    assert_eq!(lines(world.folder.path(), "orders")?.len(), 200);
    assert!(second.terminate().await?.success());
    Ok(())
}

/// Each document has a file; the process may have 300 open, with its connections.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_are_not_open_at_once() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_many.orders");
    orders.insert_many((0..10_000).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let rules = "  - { namespace: filed_many.orders, to: out }";
    let file = world.file("path: \"out/{_id}.ndjson\"", rules)?;
    let mut run = file.run_after("ulimit -n 300", &[])?;
    copied(&mut run).await?;
    orders.update_many(doc! { "_id": { "$lt": 500 } }, doc! { "$inc": { "n": 1 } }).await?;
    world.caught_up(&mut run).await?;
    let mut found = Vec::new();
    for entry in fs::read_dir(world.path("out"))? {
        found.extend(lines_of(&fs::read_to_string(entry?.path())?)?);
    }
    assert_eq!(replayed(&found), source(&orders).await?);
    ensure!(!run.log().contains("can't be opened"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}
