use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use bson::rawdoc;

use super::*;
use crate::{
    change::{Cause, DocumentKey, Phase},
    target::{Item, Standing},
};

/// A put of a document under a rule, as it lies in a request.
fn push(target: &Each, rule: &str, id: i32, n: i32, body: &mut Vec<u8>) -> Item {
    let (namespace, meta) = (Namespace::new("shop", "products"), Meta::default());
    let document = rawdoc! { "_id": id, "n": n };
    let key = DocumentKey::from_document_key(&rawdoc! { "_id": id }).expect("a key");
    let placing = Placing {
        namespace: &namespace,
        key: &key,
        id: &id.to_string(),
        op: "put",
        document: Some(&document),
        event: None,
        meta: &meta,
    };
    let Placed { place, extra } = target.place(rule, &placing).expect("it has a place");
    let time = ClusterTime(1);
    let action = Action::Put(document.clone().into());
    let (cause, phase) = (Cause::Event(time), Phase::Changes);
    let operation =
        Operation { place: place.clone(), action, time, cause, extra, namespace, phase };
    let start = body.len();
    target.encode(&operation, body).expect("it can be written");
    Item { range: start..body.len(), place }
}

#[tokio::test]
async fn what_comes_behind_of_a_document_that_was_not_taken_is_not_called() {
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = called.clone();
    let target = Each::new(move |delivery| {
        let n = delivery.document().and_then(|it| it.get_i32("n").ok()).unwrap_or_default();
        calls.lock().unwrap().push(n);
        async move {
            match n {
                10 => Err(Failure::retry("not yet")),
                20 => Err(Failure::reject("never")),
                _ => Ok(()),
            }
        }
    });
    let mut body = Vec::new();
    let items: Vec<Item> = [("a", 1, 10), ("a", 2, 20), ("b", 1, 11), ("b", 2, 21), ("a", 3, 30)]
        .into_iter()
        .map(|(rule, id, n)| push(&target, rule, id, n, &mut body))
        .collect();
    assert_ne!(items[0].place, items[2].place, "each rule tells of its own");
    assert_eq!(target.thing(&items[0].place), target.thing(&items[2].place));
    assert_eq!(target.describe(&items[0].place), "shop.products 1");
    let request = Request { body: body.into(), items, lane: 0, right: None, standing: None };
    let outcomes = target.send(&request).await.unwrap();
    let shown: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Applied => "applied",
            Outcome::Retry(retry) => &retry.message,
            Outcome::Rejected(words) => words,
            other => panic!("{other:?}"),
        })
        .collect();
    let waits = "what came before of this document was not taken";
    assert_eq!(shown, ["not yet", "never", waits, "applied", "applied"]);
    assert_eq!(*called.lock().unwrap(), [10, 20, 21, 30]);
}

/// Another process may have taken over while a call was waited for.
#[tokio::test]
async fn nothing_more_is_called_once_the_lease_is_lost() {
    let called = Arc::new(AtomicUsize::new(0));
    let (calls, held) = (called.clone(), called.clone());
    let target = Each::new(move |_| {
        calls.fetch_add(1, Ordering::AcqRel);
        async { Ok(()) }
    });
    let mut body = Vec::new();
    let items = (1..4).map(|id| push(&target, "a", id, id, &mut body)).collect();
    let standing = Standing::new(move || held.load(Ordering::Acquire) < 2);
    let request =
        Request { body: body.into(), items, lane: 0, right: None, standing: Some(standing) };
    let outcomes = target.send(&request).await.unwrap();
    assert_eq!(outcomes[..2], [Outcome::Applied, Outcome::Applied]);
    assert!(matches!(&outcomes[2], Outcome::Retry(retry) if retry.reason == "lease"));
    assert_eq!(called.load(Ordering::Acquire), 2);
}

/// Between two messages of one document.
#[tokio::test]
async fn nothing_overtakes_what_was_not_called_for_the_lease() {
    let called = Arc::new(AtomicUsize::new(0));
    let calls = called.clone();
    let target = Each::new(move |_| {
        calls.fetch_add(1, Ordering::AcqRel);
        async { Ok(()) }
    });
    let mut body = Vec::new();
    let items = [("a", 1), ("b", 1), ("a", 2)]
        .into_iter()
        .map(|(rule, id)| push(&target, rule, id, id, &mut body))
        .collect();
    let asked = AtomicUsize::new(0);
    let standing = Standing::new(move || asked.fetch_add(1, Ordering::AcqRel) > 0);
    let request =
        Request { body: body.into(), items, lane: 0, right: None, standing: Some(standing) };
    let outcomes = target.send(&request).await.unwrap();
    for waits in &outcomes[..2] {
        assert!(matches!(waits, Outcome::Retry(retry) if retry.reason == LEASE), "{waits:?}");
    }
    assert_eq!(outcomes[2], Outcome::Applied);
    assert_eq!(called.load(Ordering::Acquire), 1);
}

/// None takes the time of another, and none is called twice for that.
#[tokio::test(start_paused = true)]
async fn each_call_has_its_own_time() {
    let second = Duration::from_secs(1);
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = called.clone();
    let target = Each::new(move |delivery| {
        let n = delivery.document().and_then(|it| it.get_i32("n").ok()).unwrap_or_default();
        calls.lock().unwrap().push(n);
        async move {
            tokio::time::sleep(u32::try_from(n).expect("it is small") * second).await;
            Ok(())
        }
    });
    let target = target.within(10 * second);
    let outcomes = async |times: &[i32]| {
        let mut body = Vec::new();
        let put = |(id, n): (i32, &i32)| push(&target, "a", id, *n, &mut body);
        let items = (1..).zip(times).map(put).collect();
        let request = Request { body: body.into(), items, lane: 0, right: None, standing: None };
        let limit = target.longest(10 * second);
        let sent = tokio::time::timeout(limit + second, target.send(&request)).await;
        let outcomes = sent.expect("an answer in time").unwrap();
        let shown = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Retry(retry) => Some((retry.reason, retry.pressure)),
            outcome => {
                assert_eq!(outcome, Outcome::Applied);
                None
            }
        });
        shown.collect::<Vec<_>>()
    };
    let (late, left) = (Some(("timeout", Pressure::Same)), Some(("timeout", Pressure::Split)));
    assert_eq!(outcomes(&[6, 7, 8]).await, [None, None, left]);
    assert_eq!(outcomes(&[9, 99, 1]).await, [None, late, left]);
    assert_eq!(*called.lock().unwrap(), [6, 7, 9, 99]);
}
