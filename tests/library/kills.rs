//! A run that is killed: its runtime is taken away, with whatever was under way.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongosync::{Mongosync, Rule, Running};
use tokio::{runtime::Runtime, sync::mpsc};

use super::{Heard, LogStore, collection, rules};

const DOCUMENTS: i32 = 40;
/// For what should take seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run in a runtime of its own, whose closure does not answer to the delivery of this number and to
/// none behind it; `stuck` tells when it has come.
fn start(
    uri: &str,
    store: &LogStore,
    heard: &Heard,
    answers: usize,
) -> Result<(Runtime, Running, mpsc::Receiver<()>)> {
    let (tell, stuck) = mpsc::channel(1);
    let heard = heard.clone();
    let mongosync = Mongosync::of(rules(uri, "kills").rule(Rule::of("library.kills").to("mine")))
        .each("mine", move |delivery| {
            let n = delivery.document().and_then(|document| document.get_i32("n").ok());
            let count = {
                let mut heard = heard.lock().expect("nothing panics");
                heard.push((delivery.id().as_i32().unwrap_or_default(), n));
                heard.len()
            };
            let tell = tell.clone();
            async move {
                if count >= answers {
                    let _ = tell.try_send(());
                    pending::<()>().await;
                }
                Ok(())
            }
        })
        .store(store.another());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let running = {
        let _inside = runtime.enter();
        mongosync.start()?
    };
    Ok((runtime, running, stuck))
}

/// Whatever was delivered last of each document is what the source holds, though the run was killed in
/// the copy and in the changes; and no document went back but where a run began anew.
#[tokio::test]
async fn a_closure_misses_nothing_across_kills() -> Result<()> {
    let (uri, notes) = collection("kills").await?;
    notes.insert_many((0..DOCUMENTS).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let folder = tempfile::tempdir()?;
    let store = LogStore::open(&folder.path().join("positions.log"))?;
    let mut all: Vec<Vec<(i32, Option<i32>)>> = Vec::new();

    // As long as runs are killed, and some more.
    let over = AtomicBool::new(false);
    let changes = async {
        let mut left = 3;
        for round in 1.. {
            left -= i32::from(over.load(Ordering::SeqCst));
            if left == 0 {
                break;
            }
            for id in 0..DOCUMENTS {
                match (id + round) % 7 {
                    0 => {
                        notes.delete_one(doc! { "_id": id }).await?;
                    }
                    _ => {
                        let set = doc! { "$set": { "n": round } };
                        notes.update_one(doc! { "_id": id }, set).upsert(true).await?;
                    }
                }
            }
        }
        Ok::<_, mongodb::error::Error>(())
    };
    let kills = async {
        for answers in [usize::try_from(DOCUMENTS / 2)?, 60] {
            let heard = Heard::default();
            let (runtime, running, mut stuck) = start(&uri, &store, &heard, answers)?;
            let come = tokio::time::timeout(PATIENCE, stuck.recv()).await;
            come.context("so many come")?;
            runtime.shutdown_background();
            drop(running);
            all.push(std::mem::take(&mut *heard.lock().expect("nothing panics")));
        }
        Ok::<_, anyhow::Error>(())
    };
    let runs = async {
        let killed = kills.await;
        over.store(true, Ordering::SeqCst);
        killed
    };
    let (changed, killed) = tokio::join!(changes, runs);
    changed?;
    killed?;

    let mut source = BTreeMap::new();
    let found: Vec<Document> = notes.find(doc! {}).await?.try_collect().await?;
    for document in found {
        source.insert(document.get_i32("_id")?, document.get_i32("n")?);
    }
    let heard = Heard::default();
    let (runtime, running, _stuck) = start(&uri, &store, &heard, usize::MAX)?;
    running.copied().await?;
    let arrived = || {
        let mut held = BTreeMap::new();
        let last = heard.lock().expect("nothing panics").clone();
        for (id, n) in all.iter().flatten().copied().chain(last) {
            match n {
                Some(n) => held.insert(id, n),
                None => held.remove(&id),
            };
        }
        held
    };
    let mut look = tokio::time::interval(Duration::from_millis(20));
    let caught_up = async {
        while arrived() != source {
            look.tick().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, caught_up).await;
    ensure!(in_time.is_ok(), "source {source:?}\ndelivered {:?}", arrived());
    running.stop().await?;
    runtime.shutdown_background();
    all.push(std::mem::take(&mut *heard.lock().expect("nothing panics")));

    for run in &all {
        let mut newest = BTreeMap::new();
        for (id, n) in run.iter().filter_map(|(id, n)| Some((*id, (*n)?))) {
            let before = newest.insert(id, n);
            assert!(before.is_none_or(|before| before <= n), "document {id}: {run:?}");
        }
    }
    Ok(())
}
