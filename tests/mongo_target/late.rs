//! Writes that come late: of the same process, of one that is no more, of one that has lost its right.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Bson, Document, RawBsonRef, RawDocumentBuf, doc},
};
use mongosync::{
    change::{Cause, ClusterTime, DocumentKey, Namespace, Phase},
    rules::model::{self, MongoPlace, NamespacePattern, Secret, Selector},
    target::{
        Action, Item, Operation, Outcome, Placing, Request, Right, Target,
        mongodb::{MongoRule, MongoTarget},
    },
    transform::Meta,
};
use mongosync_servers::MongoDb;
use tokio::time::{Instant, interval};

use super::Worlds;

/// A target of one rule over a collection of the database `late`, and no run behind it.
pub struct Alone {
    target: MongoTarget,
    namespace: Namespace,
}

impl Alone {
    pub fn new(uri: &str, collection: &str) -> Self {
        let namespace = Namespace::new("late", collection);
        let rule = MongoRule {
            name: "items".into(),
            namespaces: Selector {
                include: vec![NamespacePattern::Exact(namespace.clone())],
                exclude: Vec::new(),
            },
            place: MongoPlace::default(),
            keeps: false,
            keeps_dropped: false,
            moves: false,
            ddl: false,
            appends: false,
        };
        let settings = model::MongoDb { uri: Secret::new(uri) };
        let timeout = Duration::from_secs(20);
        let target = MongoTarget::new(&settings, "late", timeout, vec![rule], None);
        Self { target, namespace }
    }

    /// A request of one item: a document, or the removal of one.
    pub fn request(
        &self,
        phase: Phase,
        id: i32,
        document: Option<RawDocumentBuf>,
    ) -> Result<Request> {
        let key = DocumentKey::from_id(RawBsonRef::Int32(id))?;
        let meta = Meta::default();
        let placing = Placing {
            namespace: &self.namespace,
            key: &key,
            id: "",
            op: "put",
            document: document.as_deref(),
            event: None,
            meta: &meta,
        };
        let placed = self.target.place("items", &placing).map_err(anyhow::Error::msg)?;
        let place = placed.place;
        let operation = Operation {
            place: place.clone(),
            action: document.map_or(Action::Remove, |document| Action::Put(document.into())),
            time: ClusterTime::ZERO,
            cause: match phase {
                Phase::Copy => Cause::Copy(bson::Uuid::new()),
                Phase::Changes => Cause::Event(ClusterTime::ZERO),
            },
            extra: placed.extra,
            namespace: self.namespace.clone(),
            phase,
        };
        let mut body = Vec::new();
        self.target.encode(&operation, &mut body).map_err(anyhow::Error::msg)?;
        let items = vec![Item { range: 0..body.len(), place }];
        Ok(Request { body: body.into(), items, lane: 0, right: None, standing: None })
    }

    pub fn put(&self, id: i32, n: i32) -> Result<Request> {
        let document = RawDocumentBuf::try_from(&doc! { "_id": id, "n": n })?;
        self.request(Phase::Changes, id, Some(document))
    }

    pub async fn send(&self, request: &Request) -> Result<Vec<Outcome>> {
        self.target.send(request).await.map_err(|retry| anyhow!("{retry:?}"))
    }

    /// As often as it takes.
    pub async fn insist(&self, request: &Request) -> Result<()> {
        let mut again = interval(Duration::from_millis(20));
        loop {
            match self.target.send(request).await.as_deref() {
                Ok([Outcome::Applied]) => return Ok(()),
                Ok([Outcome::Retry(_)]) | Err(_) => {}
                other => return Err(anyhow!("{other:?}")),
            }
            again.tick().await;
        }
    }
}

/// The writes of the targets here that run in a server.
async fn running(client: &Client) -> Result<Vec<Bson>> {
    let pipeline = [
        doc! { "$currentOp": { "allUsers": true } },
        doc! { "$match": { "command.comment": { "$regex": "^mongosync late " } } },
    ];
    let found: Vec<Document> =
        client.database("admin").aggregate(pipeline).await?.try_collect().await?;
    Ok(found.into_iter().filter_map(|mut operation| operation.remove("opid")).collect())
}

async fn until_run(client: &Client, wanted: impl Fn(&[Bson]) -> bool) -> Result<Vec<Bson>> {
    let mut look = interval(Duration::from_millis(10));
    loop {
        let found = running(client).await?;
        if wanted(&found) {
            return Ok(found);
        }
        look.tick().await;
    }
}

/// A process that was paused may send what it had at hand after another has taken over.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_comes_too_late_does_nothing() -> Result<()> {
    let worlds = Worlds::new().await?;
    let held: Collection<Document> = worlds.to.database("late").collection("lease");
    held.insert_many([doc! { "_id": 1, "n": 1 }, doc! { "_id": 2, "n": 1 }]).await?;
    let target = Alone::new(worlds.mirror.uri(), "lease");
    let requests = [target.put(1, 2)?, target.request(Phase::Changes, 2, None)?, target.put(3, 2)?];
    for request in &requests {
        let now = Instant::now();
        let (since, until) = (now - Duration::from_secs(5), now - Duration::from_secs(1));
        let right = Some(Right { since, until, alone: since });
        let outcomes = target.send(&Request { right, ..request.clone() }).await?;
        let is_late = matches!(&*outcomes, [Outcome::Retry(retry)] if retry.reason == "late");
        ensure!(is_late, "{outcomes:?}");
    }
    let found: Vec<Document> =
        held.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?;
    assert_eq!(found, [doc! { "_id": 1, "n": 1 }, doc! { "_id": 2, "n": 1 }]);
    // In time the same go through.
    for request in &requests {
        assert_eq!(target.send(request).await?, [Outcome::Applied]);
    }
    let found: Vec<Document> =
        held.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?;
    assert_eq!(found, [doc! { "_id": 1, "n": 2 }, doc! { "_id": 3, "n": 2 }]);
    Ok(())
}

/// What a process sent before it died may be on its way for as long as it had the right to write.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_before_the_right_of_an_earlier_process_has_ended() -> Result<()> {
    let worlds = Worlds::new().await?;
    let target = Alone::new(worlds.mirror.uri(), "alone");
    let now = Instant::now();
    let until = now + Duration::from_secs(30);
    let right = Right { since: now, until, alone: until };
    let request = Request { right: Some(right), ..target.put(1, 1)? };
    let retry = target.target.send(&request).await.expect_err("it is too early");
    ensure!(retry.reason == "lease" && retry.after > Some(Duration::from_secs(10)), "{retry:?}");
    let request = Request { right: Some(Right { alone: now, ..right }), ..request };
    assert_eq!(target.send(&request).await?, [Outcome::Applied]);
    Ok(())
}

/// What a process that is no more left running in the server ends before the next one writes; a look
/// at the server leaves it alone.
#[tokio::test(flavor = "multi_thread")]
async fn writes_that_a_dead_process_left_running_are_ended() -> Result<()> {
    let mirror = MongoDb::start().await?;
    let client = mirror.client();
    let admin = client.database("admin");
    let hang = |mode: &str| {
        admin.run_command(doc! {
            "configureFailPoint": "hangDuringBatchUpdate", "mode": mode,
            "data": { "shouldCheckForInterrupt": true },
        })
    };
    let (dead, next) = (Alone::new(mirror.uri(), "items"), Alone::new(mirror.uri(), "items"));
    hang("alwaysOn").await?;
    let old = dead.put(1, 1)?;
    let sent = tokio::spawn(async move { dead.send(&old).await });
    until_run(&client, |found| found.len() == 1).await?;
    next.target.reach().await.map_err(|retry| anyhow!("{retry:?}"))?;
    next.target.prepare().await.map_err(|retry| anyhow!("{retry:?}"))?;
    assert_eq!(running(&client).await?.len(), 1);
    let new = next.put(1, 2)?;
    let first = next.target.send(&new).await.expect_err("another writes still");
    assert_eq!(first.reason, "lease");
    let ended = sent.await?;
    let applied = ended.as_ref().is_ok_and(|outcomes| outcomes.contains(&Outcome::Applied));
    ensure!(!applied, "{ended:?}");
    hang("off").await?;
    next.insist(&new).await?;
    let held: Collection<Document> = client.database("late").collection("items");
    assert_eq!(held.find_one(doc! {}).await?, Some(doc! { "_id": 1, "n": 2 }));
    Ok(())
}

/// Something that takes a document, so that whoever writes it waits.
async fn take(held: &Collection<Document>, id: i32) -> Result<mongodb::ClientSession> {
    let mut session = held.client().start_session().await?;
    session.start_transaction().await?;
    let set = doc! { "$set": { "taken": true } };
    held.update_one(doc! { "_id": id }, set).upsert(true).session(&mut session).await?;
    Ok(session)
}

/// The connection breaks under a write that has to wait; it is sent again, and then comes another.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_connection_broke_does_not_undo_a_newer_one() -> Result<()> {
    let mirror = MongoDb::start().await?;
    let (proxy, uri) = super::in_front_of(&mirror).await?;
    let client = mirror.client();
    let held: Collection<Document> = client.database("late").collection("broken");
    held.insert_one(doc! { "_id": 1, "n": 0 }).await?;
    let target = Arc::new(Alone::new(&uri, "broken"));
    for round in 0..10 {
        let mut taken = take(&held, 1).await?;
        let (old, new) = (target.put(1, 2 * round + 1)?, target.put(1, 2 * round + 2)?);
        let sender = target.clone();
        let first = old.clone();
        let sent = tokio::spawn(async move { sender.target.send(&first).await });
        let before = until_run(&client, |found| !found.is_empty()).await?;
        proxy.cut();
        sent.await?.expect_err("the connection is gone");
        let sender = target.clone();
        let again = tokio::spawn(async move { sender.insist(&old).await });
        // The one that nobody waits for has ended, or the other one has come.
        until_run(&client, |found| !found.is_empty() && found != before).await?;
        taken.abort_transaction().await?;
        again.await??;
        target.insist(&new).await?;
        until_run(&client, <[Bson]>::is_empty).await?;
        let found = held.find_one(doc! { "_id": 1 }).await?;
        assert_eq!(found, Some(doc! { "_id": 1, "n": 2 * round + 2 }), "round {round}");
    }
    Ok(())
}

/// The same with a copied document, which is inserted, and its removal.
#[tokio::test(flavor = "multi_thread")]
async fn an_insert_whose_connection_broke_brings_nothing_back() -> Result<()> {
    let mirror = MongoDb::start().await?;
    let (proxy, uri) = super::in_front_of(&mirror).await?;
    let client = mirror.client();
    let held: Collection<Document> = client.database("late").collection("copied");
    client.database("late").create_collection("copied").await?;
    let target = Arc::new(Alone::new(&uri, "copied"));
    for id in 0..10 {
        let mut taken = take(&held, id).await?;
        let document = RawDocumentBuf::try_from(&doc! { "_id": id, "n": 1 })?;
        let copied = target.request(Phase::Copy, id, Some(document))?;
        let sender = target.clone();
        let first = copied.clone();
        let sent = tokio::spawn(async move { sender.target.send(&first).await });
        let before = until_run(&client, |found| !found.is_empty()).await?;
        proxy.cut();
        sent.await?.expect_err("the connection is gone");
        let sender = target.clone();
        let again = tokio::spawn(async move { sender.insist(&copied).await });
        until_run(&client, |found| !found.is_empty() && found != before).await?;
        taken.abort_transaction().await?;
        again.await??;
        target.insist(&target.request(Phase::Changes, id, None)?).await?;
        until_run(&client, <[Bson]>::is_empty).await?;
        assert_eq!(held.count_documents(doc! {}).await?, 0, "{id}");
    }
    Ok(())
}

/// `mongosync check --online` and others that look do not end what the running process writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_leaves_the_writes_of_the_running_process_alone() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let client = mirror.client();
    let items: Collection<Document> = worlds.from.database("checked_mirror").collection("items");
    items.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    let rules = "  - { namespace: checked_mirror.items, to: search }";
    let text = worlds.text(mirror.uri(), rules);
    let file = crate::support::run::RuleFile::written(worlds.folder.path(), &text)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let admin = client.database("admin");
    let hang = |mode: &str| {
        admin.run_command(doc! {
            "configureFailPoint": "hangDuringBatchUpdate", "mode": mode,
            "data": { "shouldCheckForInterrupt": true },
        })
    };
    hang("alwaysOn").await?;
    items.update_one(doc! { "_id": 1 }, doc! { "$set": { "n": 2 } }).await?;
    let writes = || async {
        let pipeline = [
            doc! { "$currentOp": { "allUsers": true } },
            doc! { "$match": { "command.comment": { "$regex": "^mongosync rules-" } } },
            doc! { "$project": { "opid": 1, "killPending": 1 } },
        ];
        let found: Vec<Document> = admin.aggregate(pipeline).await?.try_collect().await?;
        Ok::<_, anyhow::Error>(found)
    };
    let mut look = interval(Duration::from_millis(20));
    let before = loop {
        let found = writes().await?;
        if !found.is_empty() {
            break found;
        }
        look.tick().await;
    };
    let checked = file.command("check", &["--online"]).await?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(writes().await?, before);
    hang("off").await?;
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}
