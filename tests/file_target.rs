//! Files and standard output, with a real MongoDB and the real program: what the lines say is what the
//! source holds, whatever ends the process or fills the disk.

mod pipes;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Deref,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::doc;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rstest::rstest;
use serde_json::Value;

use crate::support::{
    run::{RuleFile, Run},
    sourced::{Sourced, documents as source},
    told::{lines, lines_of, states},
};

/// A MongoDB, and a folder of one's own.
struct Filed(Sourced);

impl Deref for Filed {
    type Target = Sourced;

    fn deref(&self) -> &Sourced {
        &self.0
    }
}

impl Filed {
    async fn new() -> Result<Self> {
        Ok(Self(Sourced::new().await?))
    }

    /// A rule file with the target `out`, which is a file with these settings.
    fn file(&self, settings: &str, rules: &str) -> Result<RuleFile> {
        self.file_of(&format!("  out: {{ file: {{ {settings} }} }}"), rules)
    }

    fn file_of(&self, targets: &str, rules: &str) -> Result<RuleFile> {
        self.rule_file("100ms", targets, rules)
    }

    async fn caught_up(&self, run: &mut Run) -> Result<()> {
        self.settled(run, "out").await
    }
}

/// Waits until every copy into `out` is settled.
async fn copied(run: &mut Run) -> Result<()> {
    run.copied_to("out").await
}

/// Waits until so many documents have gone out in this run; fewer behind the copy.
async fn delivered(run: &mut Run, rule: &str, least: u64) -> Result<()> {
    run.until("lines", |status| {
        let rule = &status["targets"]["out"]["rules"][rule];
        let least = if rule["copy"]["complete"] == true { least.min(40) } else { least };
        rule["delivered"].as_u64().unwrap_or_default() >= least
    })
    .await?;
    Ok(())
}

/// What the lines come to, by `_id`: the last one counts.
fn replayed(lines: &[Value]) -> BTreeMap<String, Value> {
    let data: Vec<Value> = lines.iter().map(|line| line["data"].clone()).collect();
    states(&data)
}

/// What is promised of repeated lines: one that stands there again has the id that it had, and tells of
/// the same document; and no line tells of an older state than one before it.
fn repeats_are_harmless(lines: &[Value]) -> Result<usize> {
    let mut told: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    for line in lines {
        let (id, data) = (line["id"].as_str().context("an id")?, &line["data"]);
        if let Some(earlier) = told.insert(id, data) {
            for same in ["_id", "ns", "op", "cluster_time"] {
                ensure!(earlier[same] == data[same], "{id} has another {same}: {earlier} {data}");
            }
        }
        let Some(n) = data["document"]["n"].as_i64() else { continue };
        let before = newest.entry(data["_id"].to_string()).or_insert(n);
        ensure!(*before <= n, "{data} is older than {before}");
        *before = n;
    }
    Ok(lines.len() - told.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_holds_the_copy_and_every_change() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed.orders");
    orders.insert_many((0..200).map(|id| doc! { "_id": id, "n": 0, "text": "ü\n\"" })).await?;
    let rules = "  - { namespace: filed.orders, filter: { n: { $lt: 5 } }, to: out }";
    let file = world.file("path: \"out/{collection}.ndjson\"", rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    orders.update_many(doc! { "_id": { "$lt": 50 } }, doc! { "$inc": { "n": 1 } }).await?;
    orders.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    orders.update_one(doc! { "_id": 60 }, doc! { "$set": { "n": 5 } }).await?;
    orders.insert_one(doc! { "_id": "a/b", "n": 1 }).await?;
    world.caught_up(&mut run).await?;
    let mut expected = source(&orders).await?;
    expected.remove("60").context("it is there, and does not match")?;
    let lines = lines(&world.path("out"), "orders")?;
    assert_eq!(replayed(&lines), expected);
    assert_eq!(lines.iter().filter(|line| line["data"]["copy"] == true).count(), 200);
    repeats_are_harmless(&lines)?;
    ensure!(!run.log().contains("stays in the target"), "nothing is gone yet: {}", run.log());
    assert!(run.terminate().await?.success());
    assert_eq!(run_output(&file).await?, "", "standard output is for the target of that name");
    Ok(())
}

/// What a run that only follows for a moment writes to standard output.
async fn run_output(file: &RuleFile) -> Result<String> {
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let output = run.output();
    assert!(run.terminate().await?.success());
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_ends_by_itself() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_dump.orders");
    orders.insert_many((0..5_000).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let rules = "  - { namespace: filed_dump.orders, to: out }";
    let file = world.file("path: \"{db}.ndjson\", json: extended", rules)?;
    let (code, log) = file.run_to_end(&["--copy-only"]).await?;
    assert_eq!(code, Some(0), "{log}");
    let lines = lines(world.folder.path(), "filed_dump")?;
    let ids: BTreeSet<_> = lines.iter().map(|line| line["data"]["_id"].to_string()).collect();
    assert_eq!((lines.len(), ids.len()), (5_000, 5_000));
    assert!(ids.contains("{\"$numberInt\":\"7\"}"), "every type is kept");
    // What is copied is not copied again.
    assert_eq!(file.run_to_end(&["--copy-only"]).await?.0, Some(0));
    assert_eq!(self::lines(world.folder.path(), "filed_dump")?.len(), 5_000);
    Ok(())
}

/// The process dies again and again, in the copy and behind it, while documents change and go.
#[rstest]
#[case::one_file("filed_kill", "")]
#[case::rotated("filed_kill_rotated", ", rotate: 60KB")]
#[tokio::test(flavor = "multi_thread")]
async fn kills_tear_and_lose_no_line(#[case] database: &str, #[case] rotate: &str) -> Result<()> {
    const KILLS: i64 = 8;
    let world = Filed::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    let fill = "x".repeat(200);
    orders
        .insert_many((0..4_000_i64).map(|id| doc! { "_id": id, "n": 0_i64, "fill": &fill }))
        .await?;
    let rules = format!(
        "  - {{ name: r, namespace: {database}.orders, copy: {{ chunk: 1MiB, parallel: 2 }}, to: out }}"
    );
    let batch = "batch: { max_actions: 50, concurrency: 4 }";
    let file = world.file(&format!("path: out/orders.ndjson, {batch}{rotate}"), &rules)?;
    let mut random = StdRng::seed_from_u64(7);
    let mut repeats = 0;
    for kill in 1..=KILLS {
        let mut run = file.run(&[])?;
        let changing = async {
            for id in (kill * 7..4_000).step_by(97) {
                let n = doc! { "$inc": { "n": 1_i64 } };
                orders.update_one(doc! { "_id": id }, n).await?;
            }
            orders
                .delete_many(doc! { "_id": { "$gte": kill * 100, "$lt": kill * 100 + 9 } })
                .await?;
            anyhow::Ok(())
        };
        let least = random.random_range(1..700);
        tokio::try_join!(changing, delivered(&mut run, "r", least))?;
        run.kill().await?;
        if kill % 2 == 0 {
            tear(&world.path("out/orders.ndjson"))?;
        }
    }
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    let lines = lines(&world.path("out"), "orders")?;
    assert_eq!(replayed(&lines), source(&orders).await?);
    repeats += repeats_are_harmless(&lines)?;
    println!("{} lines, {repeats} of them again", lines.len());
    if !rotate.is_empty() {
        let mut aside = 0;
        for entry in fs::read_dir(world.path("out"))? {
            let size = entry?.metadata()?.len();
            ensure!(size <= 60_000, "{size}");
            aside += 1;
        }
        ensure!(aside > 10, "{aside}");
    }
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Half a line, as a process leaves it that is killed as it writes.
fn tear(path: &Path) -> Result<()> {
    use std::io::Write;
    let text = fs::read_to_string(path).unwrap_or_default();
    let last = text.lines().rfind(|line| line.len() > 100);
    let torn = last.map_or("{\"id\":\"msg_", |line| &line[..line.len() / 2]);
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
    // What the kill itself has torn comes first.
    let torn = if text.is_empty() || text.ends_with('\n') { torn } else { "" };
    Ok(file.write_all(torn.as_bytes())?)
}

/// A document that moves is removed from the file that it leaves, across a kill too.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_moves_leaves_its_file() -> Result<()> {
    let world = Filed::new().await?;
    let orders = world.collection("filed_moves.orders");
    let tenants = ["a", "b/c", ".hidden"];
    let tenant = |id: usize| tenants[id % 3];
    let document = |id: usize| doc! { "_id": id as i64, "tenant": tenant(id) };
    orders.insert_many((0..90).map(document)).await?;
    let rules = "  - { namespace: filed_moves.orders, to: out }";
    let file = world.file("path: \"out/{tenant}.ndjson\"", rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let to = |tenant: &str| doc! { "$set": { "tenant": tenant } };
    orders.update_many(doc! { "_id": { "$lt": 30 } }, to("a")).await?;
    orders.update_many(doc! { "_id": { "$gte": 60 } }, to("b/c")).await?;
    run.kill().await?;
    orders.update_many(doc! { "_id": { "$mod": [4, 0] } }, to(".hidden")).await?;
    orders.delete_many(doc! { "_id": { "$mod": [7, 3] } }).await?;
    orders.update_one(doc! { "_id": 5 }, to("..")).await?;
    // These have no file, and hold up nobody.
    orders.update_one(doc! { "_id": 1 }, to("")).await?;
    orders.update_one(doc! { "_id": 2 }, to(&"x".repeat(300))).await?;
    let mut run = file.run(&[])?;
    world.caught_up(&mut run).await?;
    let expected = source(&orders).await?;
    for (tenant, name) in [("a", "a"), ("b/c", "b%2Fc"), (".hidden", ".hidden"), ("..", "..")] {
        let mut here = expected.clone();
        here.retain(|_, document| document["tenant"] == tenant);
        let found = replayed(&lines(&world.path("out"), name)?);
        let of_letters: BTreeSet<_> = found.keys().filter(|id| !here.contains_key(*id)).collect();
        // What became a dead letter stays where it was.
        ensure!(of_letters.iter().all(|id| matches!(id.as_str(), "1" | "2")), "{of_letters:?}");
        let lost: Vec<_> = here.iter().filter(|(id, it)| found.get(*id) != Some(it)).collect();
        ensure!(lost.is_empty(), "{tenant}: {lost:?}");
    }
    let letters = file.dead_letters().await?;
    let ids: BTreeSet<_> = letters.iter().filter_map(|it| it["key"]["_id"].as_i64()).collect();
    ensure!(ids == BTreeSet::from([1, 2]), "{letters:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}
