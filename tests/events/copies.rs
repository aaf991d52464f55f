//! `copy: true`: what is there is told first, and nothing is lost or told backwards at the handover.

use super::*;
use crate::{load::fill, support::writers::Writers, webhook_target::copied};

const DOCUMENTS: u32 = 2_000;
const OPERATIONS: u64 = 1_500;

/// The first message of each document brings it, unless that had gone by the time it was looked up: then
/// its delete comes next.
fn begins_with_a_document(told: &[Told]) -> Result<()> {
    let (mut known, mut gone) = (BTreeSet::new(), BTreeSet::new());
    for told in told {
        let id = told.document.as_str();
        let brings = told.change.0 == "delete" || !told.data["document"].is_null();
        if brings {
            known.insert(id);
            gone.remove(id);
        } else if !known.contains(id) {
            gone.insert(id);
        }
    }
    ensure!(gone.is_empty(), "never told in full: {gone:?}");
    Ok(())
}

/// While the copy runs, documents are changed, deleted and inserted again. The rule asks for no document
/// with an update: all the same the first that is told of any brings it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_while_the_collection_is_written_to() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_copy.orders");
    fill(&orders, 1, DOCUMENTS).await?;
    let mut writers = Writers::new(&world.client, &orders, 1, DOCUMENTS, OPERATIONS);
    let rules = "  - namespace: events_copy.orders
    copy: { chunk: 64KiB, parallel: 2 }
    changes: { full_document: off }
    to: notify";
    let settings = ", batch: { max_actions: 20 }";
    let file = world.file("/in", settings, rules)?;
    let since = now(&world.client).await?;
    let mut run = file.run(&[])?;
    run.until("its plan", |status| {
        status["targets"]["notify"]["rules"]["events_copy.orders"]["copy"]["expected"].is_u64()
    })
    .await?;
    writers.release(OPERATIONS / 2);
    writers.done(OPERATIONS / 4).await?;
    run.kill().await?;
    let mut run = file.run(&[])?;
    writers.release(OPERATIONS);
    writers.finish().await?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    let told = told(&world.receiver.received());
    let told: Vec<Told> =
        told.into_iter().filter(|told| !told.document.contains("the last one")).collect();
    ensure!(told.iter().any(|told| told.data["copy"] == true), "nothing was copied");
    ensure!(told.iter().any(|told| told.change.0 == "update"), "nothing was changed meanwhile");
    begins_with_a_document(&told)?;

    // Every document that is there was told, and none that is not as the last of it.
    let mut last: BTreeMap<String, &Told> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for one in told.iter().filter(|one| known.insert(one.id.clone())) {
        last.insert(one.document.clone(), one);
    }
    let history = happened(&orders, since).await?;
    let ids = orders.distinct("_id", doc! {}).await?;
    let there: BTreeSet<String> = ids.iter().map(shown).collect();
    for (id, told) in &last {
        assert_eq!(there.contains(id), told.change.0 != "delete", "{told:?}");
    }
    ensure!(there.iter().all(|id| last.contains_key(id)), "a document was never told");
    // The last that is told of a document that has changed is its last change.
    for (id, told) in last.iter().filter(|(_, told)| told.data["copy"] == false) {
        let newest = history.get(id).and_then(|changes| changes.last());
        assert_eq!(Some(&told.change), newest, "{id}");
    }
    // All that has happened, in its order; the copy is as of some time between.
    let mut by_document = History::new();
    let mut known = BTreeSet::new();
    for one in told.iter().filter(|one| one.data["copy"] == false && known.insert(&one.id)) {
        by_document.entry(one.document.clone()).or_default().push(one.change.clone());
    }
    assert_eq!(by_document, history);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The copy again on request: under other ids, since it is another copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_again_on_request() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_again.orders");
    orders.insert_many((0..10).map(|id| doc! { "_id": id })).await?;
    let rules = "  - { name: again, namespace: events_again.orders, copy: true, to: notify }";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let first = told(&world.receiver.received());
    assert_eq!(first.len(), 10);
    ensure!(first.iter().all(|told| told.data["copy"] == true && told.change.0 == "insert"));
    let answer = file.command("resync", &["again"]).await?;
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let both = until_told(&world, 20).await?;
    let documents: BTreeSet<_> = both[10..].iter().map(|told| told.document.clone()).collect();
    assert_eq!(documents.len(), 10);
    assert!(run.terminate().await?.success());

    // What an earlier run has copied is not copied again.
    let mut run = file.run(&[])?;
    orders.insert_one(doc! { "_id": 100 }).await?;
    world.caught_up(&mut run).await?;
    let all = until_told(&world, 21).await?;
    let ids: BTreeSet<_> = all.into_iter().map(|told| told.id).collect();
    assert_eq!(ids.len(), 21);
    Ok(())
}
