//! What is refused for good is kept with its event, and told again under its id.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::support::receiver::Reply;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_holds_its_event_and_is_told_again() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("events_refused.orders");
    let refuses = Arc::new(AtomicBool::new(true));
    let flag = refuses.clone();
    world.receiver.answer(move |request| {
        let n = request.json()["data"]["document"]["n"].as_i64().unwrap_or_default();
        match n % 2 == 1 && flag.load(Ordering::SeqCst) {
            true => Reply::with(422, "odd"),
            false => Reply::of(200),
        }
    });
    let rules = "  - name: refused
    namespace: events_refused.orders
    changes: { pre_image: required }
    transform: |
      if doc == () { fail(`gone`); }
    to: notify
  - { name: kept, namespace: events_refused.kept, delivery: documents, to: notify }";
    let file = world.file("/in", "", rules)?;
    let mut run = file.run(&[])?;
    following(&mut run).await?;
    orders.insert_one(doc! { "_id": 1, "n": 0 }).await?;
    world.caught_up(&mut run).await?;
    for n in 1..=4 {
        orders.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": n, "was": n - 1 } }).await?;
        // Each is looked up before the next one.
        world.caught_up(&mut run).await?;
    }
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 2, "two events of one document: {letters:#?}");
    ensure!(letters.iter().all(|letter| letter.to_string().contains("odd")), "{letters:#?}");
    let refused = world.receiver.received();
    let refused: BTreeMap<String, Value> = refused
        .iter()
        .filter(|request| request.answered == Some(422))
        .map(|request| (request.id().to_owned(), request.json()["data"].clone()))
        .collect();
    assert_eq!(refused.len(), 2);
    let accepted = told(&world.receiver.received());
    ensure!(accepted.iter().all(|told| !refused.contains_key(&told.id)), "{accepted:#?}");

    // The document has changed since; what is told again is what happened then.
    refuses.store(false, Ordering::SeqCst);
    let answer = file.command("dead-letters", &["retry", "--all"]).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let words = format!("{}{}", text(&answer.stdout), text(&answer.stderr));
    assert!(answer.status.success(), "{words}");
    ensure!(words.contains("2 told again, 0 of them refused again"), "{words}");
    let again: BTreeMap<String, Value> = told(&world.receiver.received())
        .into_iter()
        .filter(|told| refused.contains_key(&told.id))
        .map(|told| (told.id, told.data))
        .collect();
    assert_eq!(again, refused, "the very same, under the ids that they had");
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
