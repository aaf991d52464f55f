//! Webhooks, with real HTTP, a real MongoDB and the real program: what is told, in which order, by
//! which id and signature, and what becomes of what an endpoint answers.

mod answers;
mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac};
use mongodb::bson::doc;
use mongosync_servers::MongoDb;
use rstest::rstest;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    receiver::{End, Received, Receiver, Reply, first_of_each},
    run::{RuleFile, Run},
    sourced::{Sourced, documents as source},
    told::states,
};

const SECRETS: [&str; 2] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
];

/// A MongoDB, a receiver, and a folder of one's own.
pub struct Hooked {
    sourced: Sourced,
    pub receiver: Receiver,
}

impl Deref for Hooked {
    type Target = Sourced;

    fn deref(&self) -> &Sourced {
        &self.sourced
    }
}

impl Hooked {
    pub async fn new() -> Result<Self> {
        Ok(Self { sourced: Sourced::new().await?, receiver: Receiver::start().await? })
    }

    /// With a MongoDB of one's own.
    pub async fn on(mongo: Arc<MongoDb>) -> Result<Self> {
        Ok(Self { sourced: Sourced::on(mongo)?, receiver: Receiver::start().await? })
    }

    /// A rule file with the target `notify`, of these settings beside `url`.
    pub fn file(&self, path: &str, settings: &str, rules: &str) -> Result<RuleFile> {
        self.file_of(&self.target(path, settings), "100ms", rules)
    }

    pub fn target(&self, path: &str, settings: &str) -> String {
        let url = self.receiver.url();
        format!(
            "  notify: {{ webhook: {{ url: \"{url}{path}\", retry: {{ initial: 20ms, max: 100ms }}{settings} \
             }} }}\n"
        )
    }

    pub fn file_of(&self, targets: &str, every: &str, rules: &str) -> Result<RuleFile> {
        self.rule_file(every, targets, rules)
    }

    pub async fn caught_up(&self, run: &mut Run) -> Result<()> {
        self.settled(run, "notify").await
    }
}

/// Waits until every copy into `notify` is settled.
pub async fn copied(run: &mut Run) -> Result<()> {
    run.copied_to("notify").await
}

/// The messages of the format `standard`, one a request.
fn data(received: &[Received]) -> Vec<Value> {
    received.iter().map(|request| request.json()["data"].clone()).collect()
}

/// What a receiver holds that does as it is told, by `_id`.
fn held(received: &[Received]) -> BTreeMap<String, Value> {
    let accepted: Vec<Received> = received.iter().filter(|it| it.is_accepted()).cloned().collect();
    states(&data(&accepted))
}

/// The signatures that the specification asks for, written from it.
fn by_hand(request: &Received, secret: &str) -> String {
    let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    mac.update(request.id().as_bytes());
    mac.update(b".");
    mac.update(request.header("webhook-timestamp").as_bytes());
    mac.update(b".");
    mac.update(&request.body);
    format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
}

/// By the specification's own library.
fn verified(request: &Received, secret: &str) -> Result<()> {
    let mut headers = axum::http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, request.header(name).parse()?);
    }
    let webhook = standardwebhooks::Webhook::new(secret)?;
    webhook.verify(&request.body, &headers).context("the signature")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_is_told_and_signed() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_signed.orders");
    orders.insert_many((0..50).map(|id| doc! { "_id": id, "n": 0, "name": "ü\n" })).await?;
    let settings =
        format!(", secret: [{}, \"{}\"], headers: {{ X-Env: prod }}", SECRETS[0], SECRETS[1]);
    let rules = "  - { delivery: documents, namespace: hook_signed.orders, filter: { n: { $lt: 5 } }, to: notify }";
    let file = world.file("/in/{collection}?id={_id}", &settings, rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    orders.update_many(doc! { "_id": { "$lt": 10 } }, doc! { "$inc": { "n": 1 } }).await?;
    orders.delete_one(doc! { "_id": 3 }).await?;
    orders.update_one(doc! { "_id": 4 }, doc! { "$set": { "n": 5 } }).await?;
    orders.insert_one(doc! { "_id": "a b/ü", "n": 1 }).await?;
    world.caught_up(&mut run).await?;

    let received = world.receiver.received();
    let mut expected = source(&orders).await?;
    expected.remove("4").context("it is there, and does not match")?;
    assert_eq!(held(&received), expected);
    for request in &received {
        let [first, second] = SECRETS.map(|secret| by_hand(request, secret));
        assert_eq!(request.header("webhook-signature"), format!("{first} {second}"));
        SECRETS.iter().try_for_each(|secret| verified(request, secret))?;
        assert_eq!(request.header("content-type"), "application/json");
        assert!(request.header("user-agent").starts_with("mongosync/"));
        assert_eq!((request.method.as_str(), request.header("x-env")), ("POST", "prod"));
        let (json, data) = (request.json(), request.json()["data"].clone());
        assert_eq!(
            json["type"],
            format!("hook_signed.orders.{}", data["op"].as_str().unwrap_or(""))
        );
        let id = data["_id"]
            .as_str()
            .map_or(data["_id"].to_string(), |_| "string~a%20b%2F%C3%BC".into());
        assert_eq!(request.path, format!("/in/orders?id={id}"));
    }
    let copied = first_of_each(&received);
    assert_eq!(copied.iter().filter(|it| it.json()["data"]["copy"] == true).count(), 50);
    // What a stream that was opened anew shows again is told again, under the id that it had.
    let change = |request: &Received| {
        (request.path.clone(), request.json()["data"]["cluster_time"].to_string())
    };
    let ids: BTreeMap<_, _> = received.iter().map(|it| (it.id(), change(it))).collect();
    let changes: BTreeSet<_> = received.iter().map(change).collect();
    assert_eq!(ids.len(), changes.len(), "each change has an id of its own");
    for request in &received {
        assert_eq!(ids[request.id()], change(request));
    }
    // The copy, and one at the least for each that has changed since.
    ensure!(changes.len() >= 50 + 11, "{changes:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}

/// No position is stored behind the copy's end, so that all that changed since is told again after
/// `kill -9`. The copy of another rule, which is new by then, makes no difference.
#[tokio::test(flavor = "multi_thread")]
async fn ids_outlive_a_kill() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_ids.orders");
    let others = world.collection("hook_ids.others");
    orders.insert_many((0..20).map(|id| doc! { "_id": id, "n": 0 })).await?;
    others.insert_many((0..20).map(|id| doc! { "_id": format!("o{id}"), "n": 0 })).await?;
    let rules = "  - { delivery: documents, namespace: hook_ids.orders, to: notify }";
    let file = world.file_of(&world.target("/in", ""), "1h", rules)?;
    let mut run = file.run(&[])?;
    // What the copy's end has to store is stored before that is said.
    run.until("following", |status| status["targets"]["notify"]["state"] == "following").await?;
    let told = world.receiver.received().len();
    for n in 1..4 {
        orders.update_many(doc! {}, doc! { "$set": { "n": n } }).await?;
    }
    orders.delete_one(doc! { "_id": 7 }).await?;
    world.caught_up(&mut run).await?;
    run.kill().await?;
    let before = world.receiver.received();

    // Several changes of a document may be told as one: the newest stands for all of them. Nothing
    // else of a message says which change it is, so that the id can't follow from what is compared.
    let newest = |requests: &[Received]| -> BTreeMap<String, String> {
        let requests = requests.iter();
        requests.map(|it| (it.json()["data"]["_id"].to_string(), it.id().to_owned())).collect()
    };
    let (count, newest) = (before.len(), newest(&before[told..]));
    assert_eq!(newest.len(), 20);
    file.rewrite(|text| {
        let other = rules.replace("hook_ids.orders", "hook_ids.others");
        format!("{text}{other}\n")
    })?;
    let run = file.run(&[])?;
    let after = world
        .receiver
        .until(|received| {
            let ids: BTreeSet<&str> = received[count..].iter().map(Received::id).collect();
            newest.values().all(|id| ids.contains(id.as_str()))
        })
        .await?;
    // What is told under the id of the newest change is what that change left.
    for request in &after[count..] {
        let data = &request.json()["data"];
        let id = data["_id"].to_string();
        if newest.get(&id).is_some_and(|newest| newest == request.id()) {
            assert_eq!(data["op"], if id == "7" { "remove" } else { "put" });
            ensure!(id == "7" || data["document"]["n"] == 3, "{data}");
            assert_eq!(data["copy"], false);
        }
    }
    drop(run);
    Ok(())
}

/// Every request of the documents' own may fail in one way or another; the documents move between
/// two URLs and back, and one of both can be waited for in vain.
#[rstest]
#[case::one_by_one("hook_order", "concurrency: 8")]
#[case::in_arrays("hook_order_arrays", "concurrency: 4, max_actions: 5")]
#[tokio::test(flavor = "multi_thread")]
async fn no_document_is_told_backwards(#[case] database: &str, #[case] batch: &str) -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    let count = AtomicU64::new(0);
    world.receiver.answer(move |_| match count.fetch_add(1, Ordering::Relaxed) % 60 {
        7 => Reply { hang: true, ..Reply::default() },
        n => match n % 12 {
            0 => Reply::of(503),
            3 => Reply { cut: true, ..Reply::default() },
            6 => Reply::of(429),
            9 => Reply::of(500),
            _ => Reply::of(200),
        },
    });
    let rules = format!("  - {{ delivery: documents, namespace: {database}.orders, to: notify }}");
    let settings = format!(", timeout: 3s, batch: {{ {batch} }}");
    let file = world.file("/in/{at}", &settings, &rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    for n in 0..40 {
        let writes = (0..25).map(|id| {
            let update =
                doc! { "$set": { "n": n, "at": if (n + id) % 3 == 0 { "a" } else { "b" } } };
            let orders = orders.clone();
            async move { orders.update_one(doc! { "_id": id }, update).upsert(true).await }
        });
        futures_util::future::try_join_all(writes).await?;
    }
    orders.delete_many(doc! { "_id": { "$lt": 3 } }).await?;
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    // What each URL holds.
    let mut held: BTreeMap<(String, String), Value> = BTreeMap::new();
    // Of each document, no message is older than one before it, accepted or not.
    let mut last: BTreeMap<String, (Vec<u64>, i64)> = BTreeMap::new();
    for request in &received {
        for message in request.messages() {
            let data = &message["data"];
            let time = data["cluster_time"].as_str().context("a time")?;
            let time = time.split('.').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            let id = data["_id"].to_string();
            let (before, newest) = last.entry(id.clone()).or_default();
            let n = data["document"]["n"].as_i64().unwrap_or(*newest);
            ensure!((&*before, *newest) <= (&time, n), "{id} goes back from {before:?} {newest}");
            (*before, *newest) = (time, n);
            if !request.is_accepted() {
                continue;
            }
            let place = (request.path.clone(), id.clone());
            match data["op"] == "put" {
                true => {
                    ensure!(
                        !held.keys().any(|(path, other)| *other == id && *path != request.path),
                        "{id} is told at {} before it has left the other one",
                        request.path
                    );
                    held.insert(place, data["document"].clone());
                }
                false => drop(held.remove(&place)),
            }
        }
    }
    let expected: BTreeMap<_, _> = source(&orders)
        .await?
        .into_iter()
        .map(|(id, document)| {
            let at = document["at"].as_str().unwrap_or_default();
            ((format!("/in/{at}"), id), document)
        })
        .collect();
    assert_eq!(held, expected);
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// One endpoint never answers; the other is told everything.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_dead_holds_up_no_other() -> Result<()> {
    let world = Hooked::new().await?;
    let dead = Receiver::start().await?;
    dead.answer(|_| Reply { hang: true, ..Reply::default() });
    let orders = world.collection("hook_dead.orders");
    orders.insert_many((0..500).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let url = dead.url();
    let targets = format!(
        "{}  dead: {{ webhook: {{ url: \"{url}/in\", timeout: 1m }} }}\n",
        world.target("/in", ", batch: { max_actions: 100 }")
    );
    let rules = "  - { delivery: documents, namespace: hook_dead.orders, to: [notify, dead] }";
    let mut run = world.file_of(&targets, "100ms", rules)?.run(&[])?;
    copied(&mut run).await?;
    orders.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    world.caught_up(&mut run).await?;
    // One document a lane, however often that is tried.
    let documents = |received: &[Received]| {
        data(received).iter().map(|data| data["_id"].to_string()).collect::<BTreeSet<_>>().len()
    };
    dead.until(|received| documents(received) >= 8).await?;
    // As many as there will ever be.
    run.until_full().await?;
    assert_eq!(documents(&dead.received()), 8);
    let status = run.status().await.context("it answers")?;
    assert_eq!(status["targets"]["dead"]["rules"]["hook_dead.orders"]["delivered"], 0);
    Ok(())
}

/// A hundred megabytes lie before an endpoint that never answers, and change while it does not.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_before_an_endpoint_that_is_dead() -> Result<()> {
    let world = Hooked::new().await?;
    world.receiver.answer(|_| Reply { hang: true, ..Reply::default() });
    let orders = world.collection("hook_memory.orders");
    let fill = "x".repeat(20_000);
    for part in 0..50 {
        let ids = part * 100..(part + 1) * 100;
        orders.insert_many(ids.map(|id| doc! { "_id": id, "n": 0, "fill": &fill })).await?;
    }
    let rules = "  - { delivery: documents, namespace: hook_memory.orders, to: notify }";
    let file = world.file("/in", ", timeout: 1m", rules)?;
    let mut run = file.run(&[])?;
    world.receiver.until(|received| received.len() >= 8).await?;
    // As much of it as there will ever be.
    run.until_full().await?;
    orders.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    // All of it is known, and none of it has gone anywhere.
    run.metric_reaches("mongosync_events_total", &["op=\"update\""], 5_000.0).await?;
    run.until_full().await?;
    let status = run.status().await.context("it answers")?;
    assert_eq!(status["targets"]["notify"]["rules"]["hook_memory.orders"]["delivered"], 0);
    let peak = run.peak_memory()?;
    assert!(peak < 256 << 20, "{} MiB", peak >> 20);
    // All of it arrives once there is somebody.
    world.receiver.answer(|_| Reply::of(200));
    run.kill().await?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    assert_eq!(held(&received).len(), 5_000);
    let peak = run.peak_memory()?;
    assert!(peak < 256 << 20, "{} MiB", peak >> 20);
    assert!(run.terminate().await?.success());
    Ok(())
}
