//! The cases. Each returns how many documents, or events, it has compared.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Duration, interval};

use super::{
    bench::{Bench, OUT},
    side::{Kind, TROUBLES, Trouble},
    table::cell,
};
use crate::{
    load::fill,
    support::{
        documents::Documents,
        run::cluster_time,
        told::{compare, happened, now},
        writers::{Writers, stir},
    },
};

/// Pauses between what goes wrong and what is next: for something to be under way then.
const MOMENT: Duration = Duration::from_millis(100);

/// What the copy has read and what has changed meanwhile come to the present state of each document.
pub async fn a_copy_beside_changes_ends_true(bench: &mut Bench) -> Result<usize> {
    const OPERATIONS: u64 = 600;
    const TURNS: u32 = 10;
    fill(&bench.items, 1, 2_000).await?;
    let mut writers = Writers::new(&bench.sourced.client, &bench.items, 1, 2_000, OPERATIONS);
    let settings = "batch: { max_actions: 50, concurrency: 3 }";
    let file = bench.file(settings, "    copy: { chunk: 512KiB }")?;
    let mut run = bench.run(&file)?;
    let mut moment = interval(MOMENT);
    for turn in 0..TURNS {
        bench.side.jolt(turn).await?;
        writers.release(OPERATIONS * u64::from(turn + 1) / u64::from(TURNS));
        writers.done(OPERATIONS * u64::from(turn) / u64::from(TURNS)).await?;
        moment.tick().await;
    }
    bench.side.calm().await?;
    writers.finish().await?;
    run.copied_to(OUT).await?;
    bench.settled(&mut run).await?;
    let checked = bench.same().await?;
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// In the copy and as changes, in requests with others and in turn.
pub async fn one_refused_item_costs_no_other(bench: &mut Bench) -> Result<usize> {
    bench.side.refuse_the_unfit().await?;
    let unfit = bench.side.unfit();
    let is_unfit = |id: i32| id % 20 == 7;
    let document = |id: i32| {
        let mut document = doc! { "_id": id, "n": 0, "kind": "a" };
        if is_unfit(id) {
            document.extend(unfit.clone());
        }
        document
    };
    bench.items.insert_many((0..400).map(document)).await?;
    let file = bench.file("batch: { max_actions: 40, concurrency: 2 }", "")?;
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    bench.items.insert_many((400..600).map(document)).await?;
    // Some that were fit are no longer, and what is refused changes and is refused again.
    let mut refused: BTreeSet<i32> = (0..600).filter(|id| is_unfit(*id)).collect();
    for id in (0..600).filter(|id| id % 60 == 3) {
        refused.insert(id);
        bench.items.update_one(doc! { "_id": id }, doc! { "$set": unfit.clone() }).await?;
    }
    bench.items.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    bench.items.delete_many(doc! { "_id": { "$mod": [100, 50] } }).await?;
    bench.settled(&mut run).await?;
    let refused: BTreeSet<String> = refused.iter().map(i32::to_string).collect();
    let letters = bench.letters(&file).await?;
    ensure!(letters == refused, "letters of {letters:?}, and refused are {refused:?}");
    let checked = bench.same_but(&refused).await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked + refused.len())
}

/// Whatever fails in between.
pub async fn no_document_goes_back(bench: &mut Bench) -> Result<usize> {
    bench.items.insert_many((0..40).map(|id| doc! { "_id": id, "n": 0_i64 })).await?;
    let file = bench.file("batch: { max_actions: 5, concurrency: 4 }", "")?;
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    let mut moment = interval(MOMENT);
    for n in 1..=30_i64 {
        bench.side.jolt(u32::try_from(n)?).await?;
        bench.items.update_many(doc! {}, doc! { "$set": { "n": n } }).await?;
        if n % 5 == 0 {
            let some = doc! { "_id": { "$mod": [4, n % 4] } };
            let gone: Vec<i32> = (0..40).filter(|id| i64::from(*id) % 4 == n % 4).collect();
            bench.items.delete_many(some).await?;
            let again = gone.into_iter().map(|id| doc! { "_id": id, "n": n });
            bench.items.insert_many(again).await?;
        }
        moment.tick().await;
    }
    bench.side.calm().await?;
    bench.settled(&mut run).await?;
    let checked = bench.same().await?;
    let seen = bench.in_order().await?;
    ensure!(seen > 80, "{seen} states are too few to say anything");
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// No position is stored behind the copy's end: all that changed since comes again, and once more.
pub async fn what_is_delivered_again_makes_no_difference(bench: &mut Bench) -> Result<usize> {
    bench.items.insert_many((0..300).map(|id| doc! { "_id": id, "n": 0_i64 })).await?;
    let settings = "batch: { max_actions: 20, concurrency: 3 }";
    let (target, rule) = (bench.target(settings), bench.rule("documents", OUT, ""));
    let file = bench.file_of("1h", &target, &rule)?;
    let mut run = bench.run(&file)?;
    run.following(OUT).await?;
    let mut checked = 0;
    for round in 1..=3_i64 {
        let n = doc! { "$set": { "n": round } };
        bench.items.update_many(doc! { "_id": { "$mod": [2, round % 2] } }, n).await?;
        bench.items.delete_many(doc! { "_id": { "$mod": [30, round] } }).await?;
        let new = (0..10).map(|id| doc! { "_id": round * 1_000 + id, "n": round });
        bench.items.insert_many(new).await?;
        bench.settled(&mut run).await?;
        checked += bench.same().await?;
        run.kill().await?;
        run = bench.run(&file)?;
    }
    bench.settled(&mut run).await?;
    checked += bench.same().await?;
    bench.in_order().await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// For as long as it takes; nothing is stored meanwhile that it has not got.
pub async fn a_target_that_is_away_is_waited_for(bench: &mut Bench) -> Result<usize> {
    fill(&bench.items, 2, 300).await?;
    let mut documents = Documents::new(2);
    let file = bench.file("batch: { max_actions: 100 }", "")?;
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    let troubles = TROUBLES.iter().filter(|(.., kinds)| kinds.contains(&bench.kind));
    let mut checked = 0;
    for (round, &(trouble, name, ..)) in (0..).zip(troubles) {
        let cell = cell(name, bench.kind);
        bench.side.begin(trouble).await?;
        stir(&bench.items, &mut documents, round).await?;
        // A reader that does not read is told by nobody.
        let is_told = trouble != Trouble::NobodyReads;
        if is_told {
            let written = cluster_time(&bench.sourced.client).await?;
            run.waiting_for(OUT).await?;
            ensure!(
                run.position_of(OUT).await < Some(written),
                "{name}: the position is behind it"
            );
        } else {
            // More than a pipe holds.
            bench.items.update_many(doc! {}, doc! { "$inc": { "int": 1 } }).await?;
            run.until_full().await?;
        }
        if round % 2 == 1 {
            run.kill().await?;
            run = bench.run(&file)?;
            if is_told {
                run.waiting_for(OUT).await?;
            }
        }
        bench.side.end(trouble).await?;
        bench.settled(&mut run).await?;
        let same = bench.same().await.with_context(|| name)?;
        cell.passed(same);
        checked += same;
    }
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// Its letter says why, and is settled by what is delivered later.
pub async fn what_was_refused_is_tried_again(bench: &mut Bench) -> Result<usize> {
    bench.side.refuse_the_unfit().await?;
    let fit = |id: i32| doc! { "_id": id, "n": 0, "kind": "a" };
    bench.items.insert_many((0..60).map(fit)).await?;
    let file = bench.file("", "")?;
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    let unfit: BTreeSet<i32> = (0..60).filter(|id| id % 10 == 4).collect();
    for id in &unfit {
        let set = bench.side.unfit();
        bench.items.update_one(doc! { "_id": id }, doc! { "$set": set }).await?;
    }
    bench.settled(&mut run).await?;
    let mut expected: BTreeSet<String> = unfit.iter().map(i32::to_string).collect();
    for letter in file.dead_letters().await? {
        let words = letter["words"].as_str().unwrap_or_default();
        ensure!(words.contains(bench.side.words()), "{letter:#}");
    }
    ensure!(bench.letters(&file).await? == expected, "{expected:?} were refused");

    // One is mended where it came from, and one is deleted there.
    bench.items.replace_one(doc! { "_id": 4 }, fit(4)).await?;
    bench.items.delete_one(doc! { "_id": 14 }).await?;
    bench.settled(&mut run).await?;
    // Where it does not even let go of what it has refused, a removal there is owed.
    if !bench.side.refuses_removals() {
        expected.retain(|id| !matches!(id.as_str(), "4" | "14"));
    }
    ensure!(bench.letters(&file).await? == expected, "a later success settles a letter");

    // Tried too early, they are refused again.
    let retry = file.command("dead-letters", &["retry", "--all"]).await?;
    let said = String::from_utf8_lossy(&retry.stderr).into_owned();
    ensure!(bench.letters(&file).await? == expected, "{said}");

    bench.side.take_the_unfit().await?;
    let retry = file.command("dead-letters", &["retry", "--all"]).await?;
    ensure!(retry.status.success(), "{}", String::from_utf8_lossy(&retry.stderr));
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    let checked = bench.same().await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// What is under way is finished, and the next run goes on behind it.
pub async fn a_stop_in_the_middle_loses_nothing(bench: &mut Bench) -> Result<usize> {
    const DOCUMENTS: i32 = 6_000;
    bench.items.insert_many((0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let file = bench.file("batch: { max_actions: 20, concurrency: 1 }", "")?;
    bench.side.slow(true);
    let mut run = bench.run(&file)?;
    run.until("the first of them", |status| {
        status["targets"][OUT]["rules"]["items"]["delivered"]
            .as_u64()
            .is_some_and(|count| count > 0)
    })
    .await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    let there = bench.side.held().await?.len();
    ensure!(0 < there && there < 6_000, "{there} of {DOCUMENTS} were there at the stop");
    bench.side.slow(false);
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    bench.settled(&mut run).await?;
    let mut checked = bench.same().await?;

    bench.side.slow(true);
    bench.items.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    bench.items.delete_many(doc! { "_id": { "$mod": [7, 0] } }).await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    bench.side.slow(false);
    let mut run = bench.run(&file)?;
    bench.settled(&mut run).await?;
    checked += bench.same().await?;
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// Each has a pipeline of its own.
pub async fn a_dead_target_holds_up_no_other(bench: &mut Bench) -> Result<usize> {
    fill(&bench.items, 3, 500).await?;
    let targets = format!("{}\n  dead: {}", bench.target(""), bench.side.dead());
    let rule = bench.rule("documents", &format!("[{OUT}, dead]"), "");
    let file = bench.file_of("100ms", &targets, &rule)?;
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    let mut checked = bench.same().await?;
    run.waiting_for("dead").await?;
    let mut documents = Documents::new(3);
    for round in 0..3 {
        stir(&bench.items, &mut documents, round).await?;
        bench.settled(&mut run).await?;
        checked += bench.same().await?;
    }
    let status = run.status().await.context("it answers")?;
    let dead = &status["targets"]["dead"];
    ensure!(dead["rules"]["items"]["delivered"] == 0 && dead["state"] == "waiting", "{dead:#}");
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

/// Those that an earlier state made and the present one does not are removed.
pub async fn what_one_became_several_of_follows_it(bench: &mut Bench) -> Result<usize> {
    let parts = |id: i32, n: i64| doc! { "_id": id, "parts": id % 5, "n": n };
    bench.items.insert_many((0..100).map(|id| parts(id, 0))).await?;
    let script = "    transform: |
      let all = [];
      for part in 0..doc.parts { all.push(#{ _id: doc._id * 10 + part, n: doc.n, part: part }); }
      doc = all;";
    let file = bench.file("batch: { max_actions: 30 }", script)?;
    let is_bson = bench.kind == Kind::MongoDb;
    let part = |n: i64, part: i64| match is_bson {
        true => json!({ "n": long(n), "part": { "$numberInt": part.to_string() } }),
        false => json!({ "n": n, "part": part }),
    };
    let shape = |id: String, document: &Document| -> Vec<(String, Value)> {
        let number = |name: &str| {
            let number = document.get(name);
            number.and_then(|it| it.as_i64().or(it.as_i32().map(i64::from))).expect("a number")
        };
        let parts = 0..number("parts");
        let of = |at: i64| ((number("_id") * 10 + at).to_string(), part(number("n"), at));
        assert_eq!(id, number("_id").to_string());
        parts.map(of).collect()
    };
    let all = BTreeSet::new();
    let mut run = bench.run(&file)?;
    run.copied_to(OUT).await?;
    let mut checked = bench.holds(&all, shape).await?;
    for round in 1..=3_i64 {
        // Fewer, none, more, some where there were none, and gone.
        let of = |remainder: i32| doc! { "_id": { "$mod": [5, remainder] } };
        let set = |count: i64| doc! { "$set": { "parts": count, "n": round } };
        bench.items.update_many(of(4), set(round % 4)).await?;
        bench.items.update_many(of(3), set(0)).await?;
        bench.items.update_many(of(1), set(round + 1)).await?;
        bench.items.update_many(of(0), set(round - 1)).await?;
        bench.items.delete_many(doc! { "_id": { "$mod": [25, 2 + round] } }).await?;
        if round == 2 {
            run.kill().await?;
            run = bench.run(&file)?;
        }
        bench.settled(&mut run).await?;
        checked += bench.holds(&all, shape).await?;
    }
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(checked)
}

fn long(number: i64) -> Value {
    json!({ "$numberLong": number.to_string() })
}

/// Whatever is killed in between; what is told again has the id that it had.
pub async fn each_event_is_told_once_and_in_order(bench: &mut Bench) -> Result<usize> {
    const DOCUMENTS: u32 = 120;
    const OPERATIONS: u64 = 1_000;
    const KILLS: u64 = 4;
    fill(&bench.items, 4, DOCUMENTS).await?;
    let target = bench.target("batch: { max_actions: 20, concurrency: 3 }");
    let file = bench.file_of("100ms", &target, &bench.rule("events", OUT, ""))?;
    let mut run = bench.run(&file)?;
    run.following(OUT).await?;
    let since = now(&bench.sourced.client).await?;
    let mut writers = Writers::new(&bench.sourced.client, &bench.items, 4, DOCUMENTS, OPERATIONS);
    let mut random = StdRng::seed_from_u64(4);
    for kill in 0..KILLS {
        writers.release(OPERATIONS * (kill + 1) / (KILLS + 1));
        let least = OPERATIONS * kill / (KILLS + 1);
        writers.done(least + random.random_range(1..OPERATIONS / (KILLS + 1))).await?;
        run.kill().await?;
        run = bench.run(&file)?;
    }
    writers.finish().await?;
    bench.settled(&mut run).await?;
    let happened = happened(&bench.items, since).await?;
    // The checker's own marks come behind it.
    bench.settled(&mut run).await?;
    let told = bench.side.told().await?;
    let repeated = compare(&told, &happened)?;
    let count = happened.values().map(Vec::len).sum();
    println!("{count} events, {repeated} of them told again");
    ensure!(bench.letters(&file).await?.is_empty(), "{}", run.log());
    ensure!(run.terminate().await?.success(), "a clean end");
    Ok(count)
}
