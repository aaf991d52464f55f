//! The process ends, the endpoint refuses, is slow or cuts the connection, the history is lost.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use rstest::rstest;

use super::*;
use crate::support::{fail_command::FailCommand, receiver::Reply, writers::Writers};

const DOCUMENTS: u32 = 200;
const OPERATIONS: u64 = 3_000;
const KILLS: u64 = 8;

/// At any moment, with a backlog: every change is told, in the order of its document, and what is told
/// again has the id that it had.
#[rstest]
#[case::one_by_one("events_kills", "concurrency: 8", 1)]
#[case::in_arrays("events_kills_arrays", "concurrency: 2, max_actions: 50", 2)]
#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_swap_nothing(
    #[case] database: &str,
    #[case] batch: &str,
    #[case] seed: u64,
) -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    let count = AtomicU64::new(0);
    world.receiver.answer(move |_| match count.fetch_add(1, Ordering::Relaxed) % 40 {
        7 => Reply::of(503),
        17 => Reply { cut: true, ..Reply::default() },
        27 => Reply { after: Duration::from_millis(30), ..Reply::of(200) },
        _ => Reply { after: Duration::from_millis(5), ..Reply::of(200) },
    });
    crate::load::fill(&orders, seed, DOCUMENTS).await?;
    let rules = format!("  - {{ namespace: {database}.orders, to: notify }}");
    let file = world.file("/in", &format!(", batch: {{ {batch} }}"), &rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    let mut writers = Writers::new(&world.client, &orders, seed, DOCUMENTS, OPERATIONS);
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..KILLS {
        writers.release(OPERATIONS * (kill + 1) / (KILLS + 1));
        let least = OPERATIONS * kill / (KILLS + 1);
        writers.done(least + random.random_range(1..OPERATIONS / (KILLS + 1))).await?;
        println!("seed {seed}, kill {kill}: {} requests", world.receiver.received().len());
        run.kill().await?;
        run = file.run(&[])?;
    }
    writers.finish().await?;
    world.caught_up(&mut run).await?;
    let repeated = compare(&told(&world.receiver.received()), &happened(&orders, since).await?)?;
    println!("seed {seed}: {repeated} were told again");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A stop with a backlog is clean, and the next run goes on with what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_with_a_backlog() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_stop.orders");
    world.receiver.answer(|_| Reply { after: Duration::from_millis(20), ..Reply::of(200) });
    // With more lanes than one, some are ahead of the position.
    let rule = "  - { namespace: events_stop.orders, to: notify }";
    let file = world.file("/in", ", ordering: total", rule)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    orders.insert_many((0..2_000).map(|id| doc! { "_id": id })).await?;
    until_told(&world, 50).await?;
    assert!(run.terminate().await?.success());
    let before = told(&world.receiver.received()).len();
    ensure!(before < 2_000, "there was no backlog");
    world.receiver.answer(|_| Reply::of(200));
    let mut run = file.run(&[])?;
    world.caught_up(&mut run).await?;
    let repeated = compare(&told(&world.receiver.received()), &happened(&orders, since).await?)?;
    assert_eq!(repeated, 0, "what was answered before the stop is not told again");
    Ok(())
}

/// Whatever an endpoint answers, no change of a document is even tried before an earlier one of it was
/// accepted; with `ordering: total`, no change at all.
#[rstest]
#[case::per_document("events_order", "", false)]
#[case::in_arrays("events_order_arrays", ", batch: { max_actions: 10 }", false)]
#[case::total("events_order_total", ", ordering: total", true)]
#[case::total_in_arrays("events_order_both", ", ordering: total, batch: { max_actions: 10 }", true)]
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overtaken(
    #[case] database: &str,
    #[case] settings: &str,
    #[case] total: bool,
) -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    let count = AtomicU64::new(0);
    world.receiver.answer(move |_| match count.fetch_add(1, Ordering::Relaxed) % 60 {
        7 => Reply { hang: true, ..Reply::default() },
        n => match n % 12 {
            0 => Reply::of(503),
            3 => Reply { cut: true, ..Reply::default() },
            6 => Reply::of(429),
            9 => Reply::of(401),
            _ => Reply::of(200),
        },
    });
    let rules = format!("  - {{ namespace: {database}.orders, to: notify }}");
    // What has different headers goes out in different requests.
    let settings = format!(", headers: {{ X-Op: \"{{op}}\" }}, timeout: 2s{settings}");
    let file = world.file("/in", &settings, &rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    let since = now(&world.client).await?;
    for n in 0..30 {
        let writes = (0..8).map(|id| {
            let orders = orders.clone();
            async move {
                match (n + id) % 5 {
                    4 => {
                        orders.delete_one(doc! { "_id": id }).await?;
                    }
                    _ => {
                        let update = doc! { "$set": { "n": n } };
                        orders.update_one(doc! { "_id": id }, update).upsert(true).await?;
                    }
                }
                Ok::<_, anyhow::Error>(())
            }
        });
        futures_util::future::try_join_all(writes).await?;
    }
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    let all = all_that_happened(&orders, since).await?;
    let place: BTreeMap<(String, Change), usize> = all
        .iter()
        .enumerate()
        .map(|(at, (document, change, _))| ((document.clone(), change.clone()), at))
        .collect();
    // Of each document, or of all: how far it has been told.
    let mut accepted: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for request in &received {
        // What stands before it in its own request comes before it too.
        let mut here = BTreeSet::new();
        for message in request.messages() {
            let data = &message["data"];
            let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
            let document = data["_id"].to_string();
            let Some(&at) = place.get(&(document.clone(), (text("op"), text("cluster_time"))))
            else {
                ensure!(document.contains("the last one"), "{data} has never happened");
                continue;
            };
            let lane = if total { String::new() } else { document };
            let told = accepted.entry(lane.clone()).or_default();
            let before = all[..at].iter().enumerate();
            let before = before.filter(|(_, (document, ..))| total || *document == lane);
            for (earlier, _) in before {
                let is_ahead = told.contains(&earlier) || here.contains(&earlier);
                ensure!(is_ahead, "{data} was sent before {:?}", all[earlier]);
            }
            here.insert(at);
            if request.is_accepted() && !told.contains(&at) {
                told.push(at);
            }
        }
    }
    let history = happened(&orders, since).await?;
    compare(&told(&received), &history)?;
    Ok(())
}

/// The oplog no longer reaches back: by default the run ends with 5; `now` goes on and says so; a rule
/// that copies may have it copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_history_stops_goes_on_or_is_copied_again() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_lost.orders");
    let lose = || async {
        let data = doc! { "failCommands": ["aggregate"], "errorCode": 286 };
        FailCommand::times(&world.client, 1, "events_lost", data).await
    };
    let rule = "  - { name: lost, namespace: events_lost.orders, to: notify }";
    let file = world.file("/in", "", rule)?;
    let uri = world.mongo.uri();
    file.rewrite(|text| text.replace(uri, &format!("{uri}&appName=events_lost")))?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.insert_one(doc! { "_id": 1 }).await?;
    until_told(&world, 1).await?;
    assert!(run.terminate().await?.success());

    let failing = lose().await?;
    let (code, log) = file.run_to_end(&[]).await?;
    assert_eq!(code, Some(5), "{log}");
    ensure!(log.contains("on_history_lost"), "{log}");
    drop(failing);

    file.rewrite(|text| text.replace("to: notify", "on_history_lost: now, to: notify"))?;
    let failing = lose().await?;
    let mut run = file.run(&[])?;
    run.wrote("what it missed stays missing").await?;
    drop(failing);
    world.caught_up(&mut run).await?;
    orders.insert_one(doc! { "_id": 2 }).await?;
    until_told(&world, 2).await?;
    assert!(run.terminate().await?.success());

    file.rewrite(|text| {
        text.replace("on_history_lost: now", "copy: true, on_history_lost: resync")
    })?;
    let failing = lose().await?;
    let mut run = file.run(&[])?;
    run.wrote("the rule is copied again").await?;
    drop(failing);
    let told = until_told(&world, 4).await?;
    let copied = told.iter().filter(|told| told.data["copy"] == true);
    assert_eq!(
        copied.map(|told| told.document.as_str()).collect::<BTreeSet<_>>(),
        BTreeSet::from(["1", "2"])
    );
    assert!(run.terminate().await?.success());
    Ok(())
}
