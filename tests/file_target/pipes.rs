//! Standard output, and those who read it.

use std::{collections::BTreeSet, process::Stdio};

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use super::{Filed, lines_of, replayed, source};
use crate::support::run::RuleFile;

const SCREEN: &str = "  out: { stdout: {} }";

/// The program with a pipe behind it.
fn piped(file: &RuleFile, arguments: &[&str]) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mongosync"))
        .arg("run")
        .arg(&file.path)
        .args(arguments)
        .env("STATUS_PORT", mongosync_servers::free_port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let out = child.stdout.take().context("a pipe")?;
    Ok((child, BufReader::new(out)))
}

async fn next(reader: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    serde_json::from_str(&line).context(line)
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_output_holds_lines_and_nothing_else() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("piped.orders");
    orders.insert_many((0..2_000).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let rules = "  - { namespace: piped.orders, delivery: documents, to: out }";
    let file = world.file_of(SCREEN, rules)?;
    let mut run = file.run(&[])?;
    super::copied(&mut run).await?;
    orders.update_many(doc! { "_id": { "$lt": 100 } }, doc! { "$inc": { "n": 1 } }).await?;
    orders.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    world.caught_up(&mut run).await?;
    assert_eq!(replayed(&lines_of(&run.output())?), source(&orders).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// `mongosync run rules.yaml | head -1`: it ends, though nothing more is to be written, and what the
/// reader has not been given comes in the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_the_run() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("piped_head.orders");
    orders.insert_many((0..3).map(|id| doc! { "_id": id })).await?;
    let rules = "  - { namespace: piped_head.orders, delivery: documents, to: out }";
    let file = world.file_of(SCREEN, rules)?;
    let (mut child, mut reader) = piped(&file, &[])?;
    let first = next(&mut reader).await?;
    ensure!(first["data"]["op"] == "put", "{first}");
    drop(reader);
    let status = child.wait().await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}

/// It goes in the middle of all that there is to be read, more than a pipe holds.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_did_not_get_comes_again() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("piped_rest.orders");
    let fill = "x".repeat(1_000);
    orders.insert_many((0..3_000).map(|id| doc! { "_id": id, "fill": &fill })).await?;
    let rules =
        "  - { namespace: piped_rest.orders, delivery: documents, copy: { chunk: 1MiB }, to: out }";
    let file = world.file_of("  out: { stdout: { batch: { max_actions: 100 } } }", rules)?;
    let mut read = BTreeSet::new();
    for count in [700, usize::MAX] {
        let (mut child, mut reader) = piped(&file, &["--copy-only"])?;
        let mut lines = 0;
        while lines < count {
            let mut line = String::new();
            if reader.read_line(&mut line).await? == 0 {
                break;
            }
            let line: Value = serde_json::from_str(&line).context(line)?;
            read.insert(line["data"]["_id"].as_i64().context("an id")?);
            lines += 1;
        }
        drop(reader);
        assert_eq!(child.wait().await?.code(), Some(0));
        println!("{lines} lines, {} documents", read.len());
    }
    // What lay in the pipe when the reader went had been handed over.
    let handed_over = 64 << 10;
    let lost = 3_000 - read.len();
    ensure!(lost * 1_000 <= handed_over, "{lost} are lost");
    Ok(())
}
