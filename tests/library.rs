//! mongosync as a library, with real servers: the examples, and what they do not show.

mod kills;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use mongosync::{
    DeadLetter, Error, Failure, Mongosync, Op, Rule, Rules, Running,
    checkpoint::store::{RecordKey, Store, Table, Write},
    pipeline,
    status::{State, Trouble},
};
use tokio::sync::{mpsc, watch};

use crate::{
    checkpoint::conformance::{Stores, conformance},
    support::mongo,
};

#[expect(dead_code, reason = "its `main` is that of a program of its own")]
#[path = "../examples/closure.rs"]
mod closure;
#[expect(dead_code, reason = "its `main` is that of a program of its own")]
#[path = "../examples/control/main.rs"]
mod control;
#[expect(dead_code, reason = "its `main` is that of a program of its own")]
#[path = "../examples/own_target.rs"]
mod own_target;
#[expect(dead_code, reason = "its `main` is that of a program of its own")]
#[path = "../examples/typed.rs"]
mod typed;

use control::log_store::LogStore;

#[tokio::test]
async fn the_example_closure_shows_what_it_says() -> Result<()> {
    closure::run(mongo().await?.uri()).await
}

#[tokio::test]
async fn the_example_typed_shows_what_it_says() -> Result<()> {
    typed::run(mongo().await?.uri()).await
}

#[tokio::test]
async fn the_example_own_target_shows_what_it_says() -> Result<()> {
    own_target::run(mongo().await?.uri()).await
}

#[tokio::test]
async fn the_example_control_shows_what_it_says() -> Result<()> {
    control::run(mongo().await?.uri()).await
}

struct Logs {
    folder: tempfile::TempDir,
    opened: HashMap<String, LogStore>,
}

impl Stores for Logs {
    async fn open(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        if !self.opened.contains_key(name) {
            let path = self.folder.path().join(format!("{}.log", self.opened.len()));
            self.opened.insert(name.to_owned(), LogStore::open(&path)?);
        }
        Ok(Arc::new(self.opened[name].another()))
    }
}

#[tokio::test]
async fn the_examples_own_store_conforms() -> Result<()> {
    let folder = tempfile::tempdir()?;
    conformance(&mut Logs { folder, opened: HashMap::new() }).await
}

#[tokio::test]
async fn the_examples_own_store_outlives_its_process_and_half_a_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("positions.log");
    let key = RecordKey::text(&["a", "b"]);
    let value = |n: i32| bson::rawdoc! { "n": n };
    let put = |n| Write { table: Table::Facts, key: key.clone(), value: Some(value(n)) };
    let first = LogStore::open(&path)?;
    first.fence(1).await?;
    first.write(vec![put(1), put(2)]).await?;
    drop(first);
    let mut torn = std::fs::read(&path)?;
    torn.extend_from_slice(&[200, 0, 0, 0, 2, b't']);
    std::fs::write(&path, torn)?;
    for _ in 0..2 {
        let again = LogStore::open(&path)?;
        assert_eq!(again.get(Table::Facts, &key).await?, Some(value(2)));
    }
    Ok(())
}

/// A collection of the shared MongoDB, and the connection string.
async fn collection(name: &str) -> Result<(String, Collection<Document>)> {
    let mongo = mongo().await?;
    let collection = mongo.client().database("library").collection(name);
    Ok((mongo.uri().to_owned(), collection))
}

/// Rules of a test's own over one collection, with short pauses for the target `mine`.
fn rules(uri: &str, name: &str) -> Rules {
    let retry = doc! { "initial": "5ms", "max": "20ms" };
    Rules::new(format!("library-{name}"), uri)
        .set("checkpoint", doc! { "every": "50ms" })
        .target("mine", doc! { "own": { "retry": retry } })
}

/// The next thing that was sent.
async fn next<T>(told: &mut mpsc::Receiver<T>) -> Result<T> {
    told.recv().await.context("the run goes on")
}

#[tokio::test]
async fn a_value_in_code_reaches_mongodb_as_it_is() -> Result<()> {
    let (uri, notes) = collection("values").await?;
    let text = "${HOME} or $${x} or \"${\"\n\u{2028}";
    notes.insert_many([doc! { "_id": text }, doc! { "_id": "other" }]).await?;
    let (tell, mut told) = mpsc::channel(4);
    let rule = Rule::of("library.values")
        .filter(doc! { "_id": text })
        .pipeline([doc! { "$set": { "n": { "$literal": { "a": 1_i64, "b": "${HOME}" } } } }])
        .transform("doc.m = `${doc.n.b}`;")
        .to("mine");
    let running = Mongosync::of(rules(&uri, "values").rule(rule))
        .each("mine", move |delivery| {
            let tell = tell.clone();
            async move {
                let document = delivery.document().ok_or_else(|| Failure::reject("none"))?;
                tell.send(Document::try_from(document)?).await?;
                Ok(())
            }
        })
        .start()?;
    running.copied().await?;
    running.stop().await?;
    let expected = doc! { "_id": text, "n": { "a": 1_i64, "b": "${HOME}" }, "m": "${HOME}" };
    assert_eq!(next(&mut told).await?, expected);
    assert_eq!(told.recv().await, None, "the filter takes this one alone");
    Ok(())
}

#[tokio::test]
async fn a_refusal_becomes_a_dead_letter_and_the_rest_goes_on() -> Result<()> {
    let (uri, notes) = collection("refused").await?;
    notes.insert_many((1..=20).map(|id| doc! { "_id": id })).await?;
    let taken = Arc::new(AtomicU32::new(0));
    let count = taken.clone();
    let rule = Rule::of("library.refused").name("notes").to("mine");
    let running = Mongosync::of(rules(&uri, "refused").rule(rule))
        .each("mine", move |delivery| {
            let count = count.clone();
            async move {
                if delivery.id().as_i32() == Some(7) {
                    return Err(Failure::reject("seven is too many"));
                }
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .start()?;
    let mut troubles = running.troubles();
    running.copied().await?;
    let expected = Trouble::Refused {
        target: "mine".to_owned(),
        rule: "notes".to_owned(),
        namespace: "library.refused".to_owned(),
        id: "7".to_owned(),
        words: "seven is too many".to_owned(),
    };
    assert_eq!(troubles.next().await, Some(expected));
    let summary = running.stop().await?;
    assert_eq!((taken.load(Ordering::SeqCst), summary.dead_letters), (19, 1));
    assert_eq!(troubles.next().await, None, "the stream ends with the run");
    Ok(())
}

/// As `mongosync dead-letters` does it.
#[tokio::test]
async fn dead_letters_are_read_tried_again_and_forgotten() -> Result<()> {
    let (uri, notes) = collection("letters").await?;
    notes.insert_many((1..=20).map(|id| doc! { "_id": id })).await?;
    let refuses = Arc::new(AtomicBool::new(true));
    let shuts = refuses.clone();
    let rule = Rule::of("library.letters").name("notes").to("mine");
    let running = Mongosync::of(rules(&uri, "letters").rule(rule))
        .each("mine", move |_| {
            let shut = shuts.load(Ordering::SeqCst);
            let words = "not now: mongodb://me:secret@h";
            async move { if shut { Err(Failure::reject(words)) } else { Ok(()) } }
        })
        .start()?;
    running.copied().await?;
    let mut found = running.dead_letters().await?;
    let mut letters = Vec::new();
    while let Some(letter) = found.next().await? {
        letters.push(letter);
    }
    assert_eq!(letters.len(), 20);
    let DeadLetter { target, rule, namespace, words, attempts, .. } = &letters[0];
    let told = (&**target, &**rule, &**namespace, &**words, *attempts);
    let words = "not now: mongodb://me:…@h";
    assert_eq!(told, ("mine", "notes", "library.letters", words, 1));
    let mut ids: Vec<i32> = letters.iter().filter_map(|it| it.key.get_i32("_id").ok()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());

    let unknown = [letters[0].id.as_str(), "nothing"];
    for refused in
        [running.retry_dead_letters(&unknown).await, running.purge_dead_letters(&unknown).await]
    {
        let words = refused.map_err(|error| error.to_string());
        assert_eq!(words, Err("there is no dead letter nothing".to_owned()));
    }
    // None is not all.
    running.purge_dead_letters(&[]).await?;
    running.retry_dead_letters(&[&letters[0].id]).await?;
    let left = async || -> Result<Vec<(String, u32)>> {
        let (mut left, mut found) = (Vec::new(), running.dead_letters().await?);
        while let Some(letter) = found.next().await? {
            left.push((letter.id, letter.attempts));
        }
        Ok(left)
    };
    let before = left().await?;
    assert_eq!(before.len(), 20);
    assert_eq!(before[0], (letters[0].id.clone(), 2), "it was refused again");
    refuses.store(false, Ordering::SeqCst);
    running.retry_dead_letters(&[&letters[0].id, &letters[7].id]).await?;
    let after = left().await?;
    assert_eq!(after.len(), 18);
    ensure!(after.iter().all(|(id, _)| *id != letters[0].id && *id != letters[7].id), "{after:?}");
    running.purge_dead_letters(&[&letters[1].id]).await?;
    assert_eq!(left().await?.len(), 17);
    running.retry_all_dead_letters().await?;
    assert_eq!(left().await?, []);
    running.stop().await?;
    Ok(())
}

/// Every event of a document that is not taken is told again, and the next ones wait for it.
#[tokio::test]
async fn what_may_pass_is_tried_again_and_its_document_waits() -> Result<()> {
    let (uri, notes) = collection("tried").await?;
    let (tell, mut told) = mpsc::channel(64);
    let tries = Arc::new(AtomicU32::new(0));
    let rule = Rule::of("library.tried").events().to("mine");
    let running = Mongosync::of(rules(&uri, "tried").rule(rule.set("copy", true)))
        .each("mine", move |delivery| {
            let (tell, tries) = (tell.clone(), tries.clone());
            async move {
                let n = delivery.document().and_then(|it| it.get_i32("n").ok());
                let failing = delivery.id().as_i32() == Some(1) && n == Some(1);
                if failing && tries.fetch_add(1, Ordering::SeqCst) < 3 {
                    return Err(Failure::retry("not yet"));
                }
                tell.send((delivery.id().as_i32(), delivery.op(), n)).await?;
                Ok(())
            }
        })
        .start()?;
    running.copied().await?;
    let mut troubles = running.troubles();
    for id in [1, 2] {
        notes.insert_one(doc! { "_id": id, "n": 0 }).await?;
        for _ in 0..3 {
            notes.update_one(doc! { "_id": id }, doc! { "$inc": { "n": 1 } }).await?;
        }
        notes.delete_one(doc! { "_id": id }).await?;
    }
    let mut seen: HashMap<_, Vec<_>> = HashMap::new();
    for _ in 0..10 {
        let (id, op, n) = next(&mut told).await?;
        seen.entry(id).or_default().push((op, n));
    }
    for id in [1, 2] {
        let ops: Vec<_> = seen[&Some(id)].iter().map(|(op, _)| *op).collect();
        assert_eq!(ops, [Op::Insert, Op::Update, Op::Update, Op::Update, Op::Delete], "{seen:?}");
    }
    let Some(Trouble::Waiting { target, words }) = troubles.next().await else {
        anyhow::bail!("it is waited for")
    };
    assert_eq!((target.as_str(), words.as_str()), ("mine", "not yet"));
    running.stop().await?;
    Ok(())
}

/// Waits until a target has seen a document.
async fn sees(seen: &mut watch::Receiver<i32>, id: i32) -> Result<()> {
    seen.wait_for(|last| *last >= id).await?;
    Ok(())
}

#[tokio::test]
async fn a_pause_holds_until_it_is_resumed() -> Result<()> {
    let (uri, notes) = collection("paused").await?;
    let ((one, mut paused), (other, mut running_on)) = (watch::channel(0), watch::channel(0));
    let last = |seen: watch::Sender<i32>| {
        move |delivery: mongosync::Delivery| {
            // Two documents may come in either order.
            let id = delivery.id().as_i32().unwrap_or_default();
            seen.send_modify(|seen| *seen = id.max(*seen));
            async { Ok(()) }
        }
    };
    let rule = Rule::of("library.paused").to("mine").to("other");
    let start = |one: watch::Sender<i32>, other| -> Result<Running> {
        let rules = rules(&uri, "paused").rule(rule.clone());
        let mongosync = Mongosync::of(rules).each("mine", last(one)).each("other", last(other));
        Ok(mongosync.start()?)
    };
    let running = start(one.clone(), other.clone())?;
    running.copied().await?;
    notes.insert_one(doc! { "_id": 1 }).await?;
    sees(&mut paused, 1).await?;

    running.pause(&["mine"]).await?;
    notes.insert_one(doc! { "_id": 2 }).await?;
    sees(&mut running_on, 2).await?;
    let state = |running: &Running, name: &str| {
        let status = running.status();
        status.targets.into_iter().find(|(own, _)| own == name).map(|(_, target)| target.state)
    };
    assert_eq!(state(&running, "mine"), Some(State::Paused));
    assert_eq!(state(&running, "other"), Some(State::Following));
    assert_eq!(*paused.borrow(), 1);
    // Over a restart too.
    running.stop().await?;
    let running = start(one, other)?;
    notes.insert_one(doc! { "_id": 3 }).await?;
    sees(&mut running_on, 3).await?;
    assert_eq!(*paused.borrow(), 1);

    let unknown = running.resume(&["mime"]).await;
    assert!(matches!(&unknown, Err(Error::Refused(words)) if words.contains("no target mime")));
    running.resume(&["mine"]).await?;
    sees(&mut paused, 3).await?;
    let to_come = std::time::SystemTime::now() + Duration::from_secs(3600);
    let refused = running.seek("mine", to_come).await;
    assert!(matches!(&refused, Err(Error::Refused(words)) if words.contains("yet to come")));
    running.stop().await?;
    Ok(())
}

/// A run whose handle was dropped stops as one does that was told to: the next one need not wait for its
/// lease, and goes on where it was.
#[tokio::test]
async fn a_run_that_is_dropped_stops_by_itself() -> Result<()> {
    let (uri, notes) = collection("dropped").await?;
    notes.insert_one(doc! { "_id": 1 }).await?;
    let start = |tell: mpsc::Sender<i32>| {
        let rules = rules(&uri, "dropped").rule(Rule::of("library.dropped").to("mine"));
        let mongosync = Mongosync::of(rules).each("mine", move |delivery| {
            let tell = tell.clone();
            async move { Ok(tell.send(delivery.id().as_i32().unwrap_or_default()).await?) }
        });
        mongosync.start()
    };
    let (tell, mut told) = mpsc::channel(4);
    let running = start(tell)?;
    running.copied().await?;
    let mut troubles = running.troubles();
    drop(running);
    assert_eq!(next(&mut told).await?, 1);
    assert_eq!(told.recv().await, None, "the closure is gone with the run");
    assert_eq!(troubles.next().await, None);
    notes.insert_one(doc! { "_id": 2 }).await?;
    let (tell, mut told) = mpsc::channel(4);
    let running = start(tell)?;
    assert_eq!(next(&mut told).await?, 2, "the copy is not made again");
    running.stop().await?;
    Ok(())
}

#[tokio::test]
async fn copied_fails_where_the_run_ends_before() -> Result<()> {
    let uri = format!(
        "mongodb://127.0.0.1:{}/?replicaSet=rs0&serverSelectionTimeoutMS=50",
        mongosync_servers::free_port()
    );
    let rule = || Rule::of("library.nothing").to("mine");
    let running = Mongosync::of(rules(&uri, "nothing").rule(rule()))
        .each("mine", |_| async { Ok(()) })
        .wait(Duration::from_millis(100))
        .start()?;
    let copied = running.copied().await;
    let told = "the source was not reached within";
    assert!(
        matches!(&copied, Err(Error::Ended(Some(words))) if words.contains(told)),
        "{copied:?}"
    );
    // It came to no target, and is told all the same.
    let mut troubles = running.troubles();
    let Some(Trouble::Ended { words }) = troubles.next().await else {
        anyhow::bail!("why it has ended")
    };
    ensure!(words.starts_with(told) && words.len() > told.len() + 20, "{words}");
    assert_eq!(troubles.next().await, None);
    // So does what is asked of it.
    let paused = running.pause(&[]).await;
    assert!(matches!(&paused, Err(Error::Ended(_) | Error::Store(_))), "{paused:?}");
    let ended = running.stop().await;
    assert!(matches!(ended, Err(Error::Run(pipeline::Error::NotReached { .. }))), "{ended:?}");
    Ok(())
}

#[tokio::test]
async fn a_closure_that_panics_ends_the_run_with_an_error() -> Result<()> {
    let (uri, notes) = collection("panics").await?;
    notes.insert_one(doc! { "_id": 1 }).await?;
    let running = Mongosync::of(rules(&uri, "panics").rule(Rule::of("library.panics").to("mine")))
        .each("mine", |_| async { panic!("this closure has a hole") })
        .start()?;
    running.ended().await;
    let copied = running.copied().await;
    assert!(matches!(copied, Err(Error::Ended(Some(_)))), "{copied:?}");
    let ended = running.stop().await.map_err(|error| error.to_string());
    ensure!(ended.as_ref().is_err_and(|words| words.contains("panic")), "{ended:?}");
    Ok(())
}

/// What a closure was given, for tests that look at all of it.
type Heard = Arc<Mutex<Vec<(i32, Option<i32>)>>>;
