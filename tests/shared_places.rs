//! Documents that a rule gives one place: of each place one document has it, the others are dead letters,
//! and each of those follows once the place is free.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Client, Collection,
    bson::{Document, doc},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::{
    World,
    checker::hits,
    cluster, mirror,
    receiver::Receiver,
    router::Router,
    run::{RuleFile, Run, Settings},
    sourced::Sourced,
    told::{lines, lines_of},
};

const PATIENCE: Duration = Duration::from_secs(120);

/// Where the documents come from, and where they go.
#[derive(Clone, Copy)]
enum Kind {
    /// By a template.
    Engine,
    /// By a script.
    MongoDb,
    /// By a template, from a sharded collection in which most changes change the shard key too.
    Sharded,
}

/// A collection whose documents are put where their field `at` says.
struct Sharing {
    world: World,
    kind: Kind,
    name: &'static str,
    source: Client,
    router: Option<Router>,
    items: Collection<Document>,
    file: RuleFile,
}

/// What a place holds: of which document, and which state of it.
type Held = BTreeMap<String, (i32, i32)>;

fn item(id: i32, at: &str, n: i32) -> Document {
    doc! { "_id": id, "key": id, "at": at, "n": n, "region": region(n) }
}

/// By which a sharded collection is sharded.
fn region(n: i32) -> i32 {
    n % 3
}

impl Sharing {
    async fn new(kind: Kind, name: &'static str) -> Result<Self> {
        Self::with(kind, name, "").await
    }

    /// Under a rule with more keys.
    async fn with(kind: Kind, name: &'static str, keys: &str) -> Result<Self> {
        let world = World::new().await?;
        let router = match kind {
            Kind::Sharded => Some(Router::start(cluster().await?).await?),
            Kind::Engine | Kind::MongoDb => None,
        };
        let source = match &router {
            Some(router) => {
                router.shard(&format!("{name}.items"), doc! { "region": 1 }).await?;
                router.client().await?
            }
            None => world.client.clone(),
        };
        let items = source.database(name).collection("items");
        let small =
            "retry: { initial: 20ms, max: 100ms }, batch: { max_actions: 40, concurrency: 3 }";
        let (mut text, engine) = (String::new(), format!(", {small}"));
        let top = "checkpoint: { every: 100ms }".into();
        let mongo = router.as_ref().map(Router::uri);
        let settings = Settings { top, engine, mongo, ..Settings::default() };
        match kind {
            Kind::Engine | Kind::Sharded => {
                let rule = format!(
                    "  - namespace: {name}.items\n{keys}    \
                     to: [{{ target: search, index: '{name}', id: '{{at}}' }}]"
                );
                text.push_str(&settings.text(world.mongo.uri(), &world.engine.url(), &rule));
            }
            Kind::MongoDb => {
                let mirror = mirror().await?;
                text.push_str(&format!(
                    "source: {}\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n\
                     checkpoint: {{ every: 100ms }}\n\
                     targets:\n  search: {{ mongodb: {{ uri: \"{}\", {small} }} }}\n\
                     rules:\n  - namespace: {name}.items\n{keys}    transform: doc._id = doc.at;\n    \
                     to: [{{ target: search, namespace: {name}_to.items }}]\n",
                    world.mongo.uri(),
                    mirror.uri()
                ));
            }
        }
        let file = RuleFile::written(world.folder.path(), &text)?;
        Ok(Self { world, kind, name, source, router, items, file })
    }

    async fn held(&self) -> Result<Held> {
        let number =
            |value: Option<i64>| i32::try_from(value.context("a number")?).context("small");
        let mut held = Held::new();
        match self.kind {
            Kind::Engine | Kind::Sharded => {
                for hit in hits(&self.world.engine, self.name).await? {
                    let [key, n] = ["key", "n"].map(|field| number(hit.source[field].as_i64()));
                    held.insert(hit.id, (key?, n?));
                }
            }
            Kind::MongoDb => {
                let database = mirror().await?.client().database(&format!("{}_to", self.name));
                let lying = database.collection::<Document>("items").find(doc! {}).await?;
                for document in lying.try_collect::<Vec<_>>().await? {
                    let place = document.get_str("_id")?.to_owned();
                    held.insert(place, (document.get_i32("key")?, document.get_i32("n")?));
                }
            }
        }
        Ok(held)
    }

    /// What is wrong in the target, if anything: each place that documents name holds one of them as it
    /// is in the source, all others have letters, and nobody else has.
    async fn wrong(&self) -> Result<Option<String>> {
        let all: Vec<Document> = self.items.find(doc! {}).await?.try_collect().await?;
        let mut wanted: BTreeMap<String, BTreeMap<i32, i32>> = BTreeMap::new();
        for document in &all {
            let own = wanted.entry(document.get_str("at")?.to_owned()).or_default();
            own.insert(document.get_i32("_id")?, document.get_i32("n")?);
        }
        let held = self.held().await?;
        let letters = self.file.dead_letters().await?;
        let of = |letter: &serde_json::Value| letter["key"]["_id"].as_i64();
        let refused = letters.iter().map(|letter| Ok(of(letter).context("a key")?.try_into()?));
        let refused: BTreeSet<i32> = refused.collect::<Result<_>>()?;
        let mut expected: BTreeSet<i32> = BTreeSet::new();
        for (place, own) in &wanted {
            match held.get(place) {
                None => return Ok(Some(format!("nothing at {place}, of {own:?}"))),
                Some((key, n)) if own.get(key) != Some(n) => {
                    return Ok(Some(format!("{key}, {n} at {place}, of {own:?}")));
                }
                Some((key, _)) => expected.extend(own.keys().filter(|other| *other != key)),
            }
        }
        let extra: Vec<_> = held.keys().filter(|place| !wanted.contains_key(*place)).collect();
        if !extra.is_empty() {
            return Ok(Some(format!("extra: {extra:?}")));
        }
        // Of a document whose shard key has changed there is one too.
        if refused == expected && refused.len() == letters.len() {
            return Ok(None);
        }
        let mut words = format!("letters of {refused:?}, and not of {expected:?}");
        for key in refused.symmetric_difference(&expected) {
            let document = all.iter().find(|it| it.get_i32("_id").is_ok_and(|it| it == *key));
            let letter = letters.iter().find(|it| of(it) == Some((*key).into()));
            let kept: Vec<Document> = self
                .source
                .database("mongosync")
                .collection::<Document>("places")
                .find(doc! { "v.key._id": key })
                .await?
                .try_collect()
                .await?;
            words.push_str(&format!("\n{key}: {document:?}, {letter:?}, {kept:?}"));
        }
        Ok(Some(words))
    }

    /// Waits until all is as it should be. Who takes a place that has become free comes behind the change
    /// that freed it, and no position waits for that.
    async fn right(&self, run: &mut Run) -> Result<Held> {
        run.copied().await?;
        run.caught_up(&self.source).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(200));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let Some(wrong) = self.wrong().await? else { return self.held().await };
            ensure!(Instant::now() < deadline, "{wrong}\n{}", run.log());
        }
    }

    /// Waits until this is what lies there, and has letters.
    async fn is(&self, run: &mut Run, held: &[(&str, i32, i32)], refused: &[i64]) -> Result<()> {
        run.caught_up(&self.source).await?;
        let held: Held = held.iter().map(|(at, id, n)| ((*at).to_owned(), (*id, *n))).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(200));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let letters = self.file.dead_letters().await?;
            let of: Option<Vec<_>> =
                letters.iter().map(|letter| letter["key"]["_id"].as_i64()).collect();
            let lies = self.held().await?;
            if lies == held && of.as_deref() == Some(refused) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{lies:?}, {letters:?}\n{}", run.log());
        }
    }

    /// Waits until the store says nothing of any place.
    async fn nothing_is_kept(&self) -> Result<()> {
        let name = self.file.path.file_stem().and_then(|name| name.to_str()).context("a name")?;
        let places: Collection<Document> = self.source.database("mongosync").collection("places");
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            let kept: Vec<Document> =
                places.find(doc! { "name": name }).await?.try_collect().await?;
            if kept.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{kept:?}");
        }
    }

    /// What is said to a person who asks for something to be done with all letters.
    async fn all_letters(&self, action: &str) -> Result<String> {
        let output = self.file.command("dead-letters", &[action, "--all"]).await?;
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{action}: {problem}");
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn set(&self, id: i32, at: &str, n: i32) -> Result<()> {
        let (by_id, item) = (doc! { "_id": id }, item(id, at, n));
        if self.router.is_none() {
            self.items.replace_one(by_id, item).upsert(true).await?;
            return Ok(());
        }
        let Some(before) = self.items.find_one(by_id).await? else {
            self.items.insert_one(item).await?;
            return Ok(());
        };
        let by_key = doc! { "_id": id, "region": before.get_i32("region")? };
        if n % 2 == 0 {
            self.items.replace_one(by_key, item).await?;
            return Ok(());
        }
        // As from one shard to another.
        let mut session = self.source.start_session().await?;
        session.start_transaction().await?;
        self.items.delete_one(by_key).session(&mut session).await?;
        self.items.insert_one(item).session(&mut session).await?;
        Ok(session.commit_transaction().await?)
    }

    async fn remove(&self, id: i32) -> Result<()> {
        self.items.delete_one(doc! { "_id": id }).await?;
        Ok(())
    }
}

/// All that may become of two documents of one place.
async fn one_by_one(sharing: Sharing) -> Result<()> {
    sharing.set(1, "a", 1).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    // The second one is refused, and says why.
    sharing.set(2, "a", 1).await?;
    let held = sharing.right(&mut run).await?;
    assert_eq!(held, [("a".to_owned(), (1, 1))].into());
    let letters = sharing.file.dead_letters().await?;
    assert_eq!(letters[0]["reason"], "place");
    let words = letters[0]["words"].as_str().context("words")?;
    let one = sharing.router.as_ref().map_or("1", |_| r#"{"region":1,"_id":1}"#);
    let other = format!("another document, {one} of {}.items", sharing.name);
    ensure!(words.contains(&other) && words.contains("takes its place by itself"), "{words}");
    ensure!(letters[0]["place"].as_str().is_some_and(|place| place.contains('a')), "{letters:?}");
    // Who has it tried again while the first is there is told so.
    let said = sharing.all_letters("retry").await?;
    assert_eq!(said, "target search: 1 delivered again, 1 of them refused again\n");
    let again = sharing.file.dead_letters().await?;
    ensure!(again[0]["attempts"].as_u64() > letters[0]["attempts"].as_u64(), "{again:?}");
    assert_eq!((again.len(), &again[0]["words"]), (1, &letters[0]["words"]));
    assert_eq!(sharing.right(&mut run).await?, held);
    // What becomes of it is nothing to the first. Forgotten, it is refused again when it changes.
    assert_eq!(sharing.all_letters("purge").await?, "target search: 1 forgotten\n");
    assert_eq!(sharing.file.dead_letters().await?, Vec::<serde_json::Value>::new());
    sharing.set(2, "a", 2).await?;
    assert_eq!(sharing.right(&mut run).await?, held);
    assert_eq!(sharing.file.dead_letters().await?[0]["attempts"], 1);
    sharing.remove(2).await?;
    assert_eq!(sharing.right(&mut run).await?, held);
    // It had a place of its own before, where it is no more.
    sharing.set(2, "b", 3).await?;
    sharing.right(&mut run).await?;
    sharing.set(2, "a", 4).await?;
    assert_eq!(sharing.right(&mut run).await?, held);
    // The first one leaves: the second takes its place, with nobody touching it.
    sharing.set(1, "c", 2).await?;
    let held = sharing.right(&mut run).await?;
    assert_eq!(held, [("a".to_owned(), (2, 4)), ("c".to_owned(), (1, 2))].into());
    // So does one of several when it goes.
    sharing.set(3, "a", 1).await?;
    sharing.set(4, "a", 1).await?;
    sharing.right(&mut run).await?;
    sharing.remove(2).await?;
    sharing.right(&mut run).await?;
    // Nor does an end in between matter.
    assert!(run.terminate().await?.success());
    let (at_a, _) = sharing.held().await?["a"];
    sharing.remove(at_a).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    assert_eq!(sharing.file.dead_letters().await?, Vec::<serde_json::Value>::new());
    // Who is forgotten is looked at again by the next run, and follows.
    sharing.set(9, "a", 1).await?;
    sharing.right(&mut run).await?;
    let (at_a, _) = sharing.held().await?["a"];
    sharing.all_letters("purge").await?;
    assert!(run.terminate().await?.success());
    let mut run = sharing.file.run(&[])?;
    sharing.remove(at_a).await?;
    assert_eq!(sharing.right(&mut run).await?["a"], (9, 1));
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_documents_of_one_id_one_is_refused_and_follows_later() -> Result<()> {
    one_by_one(Sharing::new(Kind::Engine, "sharing-one").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_documents_of_one_mongodb_id_one_is_refused_and_follows_later() -> Result<()> {
    one_by_one(Sharing::new(Kind::MongoDb, "sharing_one").await?).await
}

/// The same in a sharded collection, of which a document has another key once its shard key has changed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_sharded_documents_of_one_id_one_is_refused_and_follows_later() -> Result<()> {
    one_by_one(Sharing::new(Kind::Sharded, "sharing-sharded").await?).await
}

/// Who has a place keeps it under each new key, and who is refused follows under its own newest.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_that_of_a_document_whose_shard_key_changes() -> Result<()> {
    let sharing = Sharing::new(Kind::Sharded, "sharing-keys").await?;
    let at_a = |id: i32, n: i32| Held::from([("a".to_owned(), (id, n))]);
    // Were the place ever free, the other one would be asked first: its `_id` is less.
    sharing.set(5, "a", 1).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    sharing.set(2, "a", 1).await?;
    assert_eq!(sharing.right(&mut run).await?, at_a(5, 1));
    for n in 2..6 {
        sharing.set(5, "a", n).await?;
        assert_eq!(sharing.right(&mut run).await?, at_a(5, n));
    }
    for n in 2..6 {
        sharing.set(2, "a", n).await?;
        assert_eq!(sharing.right(&mut run).await?, at_a(5, 5));
    }
    // The same between two runs: of both keys are changed several times, and nothing says in between.
    assert!(run.terminate().await?.success());
    for n in 6..9 {
        sharing.set(5, "a", n).await?;
        sharing.set(2, "a", n).await?;
    }
    let mut run = sharing.file.run(&[])?;
    assert_eq!(sharing.right(&mut run).await?, at_a(5, 8));
    // It goes under another key than the one that it came by.
    sharing.remove(5).await?;
    assert_eq!(sharing.right(&mut run).await?, at_a(2, 8));
    assert_eq!(sharing.file.dead_letters().await?, Vec::<serde_json::Value>::new());
    // So it does as it goes, and with the run that knew the other one.
    sharing.set(3, "a", 1).await?;
    assert_eq!(sharing.right(&mut run).await?, at_a(2, 8));
    run.kill().await?;
    sharing.set(2, "a", 9).await?;
    sharing.set(3, "a", 2).await?;
    sharing.remove(2).await?;
    let mut run = sharing.file.run(&[])?;
    assert_eq!(sharing.right(&mut run).await?, at_a(3, 2));
    sharing.remove(3).await?;
    assert_eq!(sharing.right(&mut run).await?, Held::new());
    sharing.nothing_is_kept().await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A change of its shard key is told under the key that it had.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_read_under_its_new_shard_key_is_told() -> Result<()> {
    let keys = "    pipeline: [{ $set: { share: { $divide: [1, $n] } } }]\n";
    let sharing = Sharing::with(Kind::Sharded, "sharing-unread", keys).await?;
    sharing.set(1, "a", 1).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    sharing.set(1, "b", 0).await?;
    sharing.is(&mut run, &[], &[1]).await?;
    let letters = sharing.file.dead_letters().await?;
    assert_eq!(
        (&letters[0]["reason"], &letters[0]["key"]["region"]),
        (&"source".into(), &0.into())
    );
    sharing.set(1, "b", 2).await?;
    sharing.is(&mut run, &[("b", 1, 2)], &[]).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What is told of documents under one `_id` would be of one document to whoever listens.
#[tokio::test(flavor = "multi_thread")]
async fn under_one_id_is_told_of_one_document() -> Result<()> {
    const TARGETS: [&str; 3] = ["lines", "out", "hook"];
    let (world, receiver) = (Sourced::new().await?, Receiver::start().await?);
    let items = world.collection("sharing_told.items");
    let targets = format!(
        "  lines: {{ file: {{ path: told/items.ndjson }} }}\n  out: {{ stdout: {{}} }}\n  \
         hook: {{ webhook: {{ url: \"{}/items\" }} }}",
        receiver.url()
    );
    let rule = "  - { namespace: sharing_told.items, delivery: documents, \
                transform: 'doc._id = doc.at;', to: [lines, out, hook] }";
    let file = world.rule_file("100ms", &targets, rule)?;
    let settled = async |run: &mut Run| -> Result<()> {
        for target in TARGETS {
            world.settled(run, target).await?;
        }
        Ok(())
    };
    // What each was told, as often as it may have been.
    let told = |run: &Run| -> Result<Vec<Vec<(String, i64)>>> {
        let of_lines = lines(&world.path("told"), "items")?;
        let messages = receiver.received().iter().map(|it| it.json()).collect();
        let told = [of_lines, lines_of(&run.output())?, messages].into_iter().map(|told| {
            let short = told.iter().map(|it| {
                let (data, of) = (&it["data"], it["data"]["document"]["key"].as_i64());
                assert_eq!(data["_id"], "a");
                (data["op"].as_str().unwrap_or_default().to_owned(), of.unwrap_or_default())
            });
            let mut short: Vec<_> = short.collect();
            short.dedup();
            short
        });
        Ok(told.collect())
    };
    let put = |of: i64| ("put".to_owned(), of);
    items.insert_one(item(1, "a", 1)).await?;
    let mut run = file.run(&[])?;
    for target in TARGETS {
        run.copied_to(target).await?;
    }
    items.insert_one(item(2, "a", 1)).await?;
    settled(&mut run).await?;
    let letters = file.dead_letters().await?;
    let of: Vec<_> = letters.iter().map(|it| (&it["key"]["_id"], &it["reason"])).collect();
    assert_eq!(of, vec![(&2.into(), &"place".into()); 3]);
    assert_eq!(told(&run)?, vec![vec![put(1)]; 3]);
    items.delete_one(doc! { "_id": 1 }).await?;
    settled(&mut run).await?;
    let deadline = Instant::now() + PATIENCE;
    let mut look = interval(Duration::from_millis(100));
    while !file.dead_letters().await?.is_empty() {
        look.tick().await;
        ensure!(Instant::now() < deadline, "{}", run.log());
    }
    assert_eq!(told(&run)?, vec![vec![put(1), ("remove".to_owned(), 0), put(2)]; 3]);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A run that leaves the rule of a refused document out has nothing to do with it, and does not forget it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_outlasts_a_run_without_its_rule() -> Result<()> {
    let world = World::new().await?;
    let [one, two] = ["one", "two"].map(|name| world.collection(&format!("parted.{name}")));
    let rule = |name: &str| {
        format!(
            "  - {{ name: {name}, namespace: parted.{name}, transform: 'meta.index = \"parted\";', \
             to: [{{ target: search, id: '{{at}}' }}] }}\n"
        )
    };
    let file = world.rule_file(&[rule("one"), rule("two")].concat())?;
    let held = async || -> Result<Vec<(String, Option<i64>)>> {
        let hits = hits(&world.engine, "parted").await?.into_iter();
        Ok(hits.map(|hit| (hit.id, hit.source["key"].as_i64())).collect())
    };
    let wait_for = async |expected: &[(&str, i64)]| -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(100));
        let expected: Vec<_> =
            expected.iter().map(|(at, n)| ((*at).to_owned(), Some(*n))).collect();
        loop {
            look.tick().await;
            let held = held().await?;
            if held == expected && file.dead_letters().await?.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{held:?}, and not {expected:?}");
        }
    };
    for (n, leaves_meanwhile) in [(1, false), (2, true)] {
        one.insert_one(item(n, "a", n)).await?;
        let mut run = file.run(&[])?;
        run.copied().await?;
        run.caught_up(&world.client).await?;
        two.insert_one(item(n + 10, "a", n)).await?;
        run.caught_up(&world.client).await?;
        assert_eq!(file.dead_letters().await?.len(), 1);
        assert!(run.terminate().await?.success());
        let mut run = file.run(&["--rule", "one"])?;
        run.caught_up(&world.client).await?;
        if leaves_meanwhile {
            one.delete_one(doc! { "_id": n }).await?;
            run.caught_up(&world.client).await?;
            assert_eq!(held().await?, []);
        }
        assert!(run.terminate().await?.success());
        assert_eq!(file.dead_letters().await?.len(), 1, "it is none of that run's");
        let mut run = file.run(&[])?;
        run.caught_up(&world.client).await?;
        one.delete_one(doc! { "_id": n }).await?;
        wait_for(&[("a", i64::from(n) + 10)]).await?;
        two.delete_one(doc! { "_id": n + 10 }).await?;
        wait_for(&[]).await?;
        assert!(run.terminate().await?.success());
    }
    Ok(())
}

/// What is kept in the target after its deletion keeps its place.
async fn kept(sharing: Sharing) -> Result<()> {
    let is = async |run: &mut Run, held: &[(&str, i32, i32)], refused: &[i64]| {
        sharing.is(run, held, refused).await
    };
    // Behind this nothing is on its way to the place any more.
    let again = "target search: 1 delivered again, 1 of them refused again\n";
    sharing.set(1, "a", 1).await?;
    let mut run = sharing.file.run(&[])?;
    run.copied().await?;
    sharing.set(2, "a", 1).await?;
    is(&mut run, &[("a", 1, 1)], &[2]).await?;
    sharing.remove(1).await?;
    is(&mut run, &[("a", 1, 1)], &[2]).await?;
    assert_eq!(sharing.all_letters("retry").await?, again);
    sharing.set(2, "a", 2).await?;
    is(&mut run, &[("a", 1, 1)], &[2]).await?;
    assert!(run.terminate().await?.success());
    let mut run = sharing.file.run(&[])?;
    is(&mut run, &[("a", 1, 1)], &[2]).await?;
    assert_eq!(sharing.all_letters("retry").await?, again);
    is(&mut run, &[("a", 1, 1)], &[2]).await?;
    // Who comes again has his place, and may leave it.
    sharing.set(1, "a", 3).await?;
    is(&mut run, &[("a", 1, 3)], &[2]).await?;
    sharing.set(1, "c", 4).await?;
    is(&mut run, &[("a", 2, 2), ("c", 1, 4)], &[]).await?;
    // Who leaves the filter is not kept.
    sharing.set(3, "a", 1).await?;
    is(&mut run, &[("a", 2, 2), ("c", 1, 4)], &[3]).await?;
    sharing.set(2, "a", -1).await?;
    is(&mut run, &[("a", 3, 1), ("c", 1, 4)], &[]).await?;
    // Of who was refused, and is deleted, there is nothing to keep.
    sharing.set(4, "a", 1).await?;
    is(&mut run, &[("a", 3, 1), ("c", 1, 4)], &[4]).await?;
    sharing.remove(4).await?;
    is(&mut run, &[("a", 3, 1), ("c", 1, 4)], &[]).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

const KEEPS: &str = "    on_delete: keep\n    filter: { n: { $gte: 0 } }\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_after_its_deletion_keeps_its_id() -> Result<()> {
    kept(Sharing::with(Kind::Engine, "sharing-kept", KEEPS).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_after_its_deletion_keeps_its_mongodb_id() -> Result<()> {
    kept(Sharing::with(Kind::MongoDb, "sharing_kept", KEEPS).await?).await
}

/// What is kept of a collection that is no more stands in nobody's way.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_after_a_drop_is_nobodys() -> Result<()> {
    let sharing = Sharing::with(Kind::Engine, "sharing-dropped", "    on_drop: keep\n").await?;
    for id in 1..4 {
        sharing.set(id, &format!("p{id}"), 1).await?;
    }
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    sharing.set(4, "p3", 1).await?;
    sharing.right(&mut run).await?;
    sharing.items.drop().await?;
    sharing.is(&mut run, &[("p1", 1, 1), ("p2", 2, 1), ("p3", 3, 1)], &[]).await?;
    // Of the collection that is made again one has its place, as ever.
    sharing.set(5, "p1", 1).await?;
    sharing.is(&mut run, &[("p1", 5, 1), ("p2", 2, 1), ("p3", 3, 1)], &[]).await?;
    sharing.set(1, "p1", 2).await?;
    sharing.set(6, "p3", 2).await?;
    sharing.is(&mut run, &[("p1", 5, 1), ("p2", 2, 1), ("p3", 6, 2)], &[1]).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Who has another shard key is not deleted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_after_its_deletion_is_not_what_has_another_shard_key() -> Result<()> {
    kept(Sharing::with(Kind::Sharded, "sharing-kept-sharded", KEEPS).await?).await
}

/// Each has its place in the end.
async fn swapped(sharing: Sharing) -> Result<()> {
    const PAIRS: i32 = 60;
    let place = |id: i32| format!("p{id:03}");
    sharing.items.insert_many((0..2 * PAIRS).map(|id| item(id, &place(id), 0))).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    for round in 1..4 {
        for pair in 0..PAIRS {
            let (one, other) = (2 * pair, 2 * pair + 1);
            let turned = round % 2;
            sharing.set(one, &place(one + turned), round).await?;
            sharing.set(other, &place(other - turned), round).await?;
        }
        sharing.right(&mut run).await?;
    }
    // A ring of all.
    for id in 0..2 * PAIRS {
        sharing.set(id, &place((id + 1) % (2 * PAIRS)), 9).await?;
    }
    let held = sharing.right(&mut run).await?;
    assert_eq!(held.len(), 2 * usize::try_from(PAIRS)?);
    assert_eq!(sharing.file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_swap_their_ids_both_arrive() -> Result<()> {
    swapped(Sharing::new(Kind::Engine, "sharing-swap").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_swap_their_mongodb_ids_both_arrive() -> Result<()> {
    swapped(Sharing::new(Kind::MongoDb, "sharing_swap").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_swap_their_ids_and_shard_keys_both_arrive() -> Result<()> {
    swapped(Sharing::new(Kind::Sharded, "sharing-resharded").await?).await
}

/// A copy in which each place is that of several, by several lanes at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_which_thousands_share_places_ends() -> Result<()> {
    let sharing = Sharing::new(Kind::Engine, "sharing-many").await?;
    let items = (0..6_000).map(|id| item(id, &format!("p{}", id % 1_500), id));
    sharing.items.insert_many(items).await?;
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    assert_eq!(sharing.file.dead_letters().await?.len(), 4_500);
    // All who have a place leave it.
    let held: Vec<i32> = sharing.held().await?.into_values().map(|(key, _)| key).collect();
    sharing.items.delete_many(doc! { "_id": { "$in": held } }).await?;
    sharing.right(&mut run).await?;
    assert_eq!(sharing.file.dead_letters().await?.len(), 3_000);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Few places, many documents, and an end at any moment.
async fn kills(sharing: Sharing, seed: u64) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut n = 0;
    let mut stir = async |count: usize| -> Result<()> {
        for _ in 0..count {
            n += 1;
            let id = random.random_range(0..120);
            match random.random_bool(0.2) {
                true => sharing.remove(id).await?,
                false => {
                    let at = format!("p{}", random.random_range(0..80));
                    sharing.set(id, &at, n).await?;
                }
            }
        }
        Ok(())
    };
    stir(150).await?;
    for round in 0..8_u32 {
        let mut run = sharing.file.run(&[])?;
        stir(60).await?;
        let least = u64::from(round * 13 % 60);
        run.until("some deliveries", |status| {
            let rules = status["targets"]["search"]["rules"].as_object();
            let count =
                |rule: &serde_json::Value, what: &str| rule[what].as_u64().unwrap_or_default();
            rules.into_iter().flat_map(|rules| rules.values()).any(|rule| {
                count(rule, "delivered") + count(rule, "removed") + count(rule, "dead_letters")
                    >= least
            })
        })
        .await?;
        run.kill().await?;
        stir(40).await?;
    }
    let mut run = sharing.file.run(&[])?;
    sharing.right(&mut run).await?;
    stir(300).await?;
    sharing.right(&mut run).await?;
    // Nothing is left over in the end.
    sharing.items.delete_many(doc! {}).await?;
    assert_eq!(sharing.right(&mut run).await?, Held::new());
    assert!(run.terminate().await?.success());
    // Who was refused, and went elsewhere before, is looked at by the next run.
    let run = sharing.file.run(&[])?;
    sharing.nothing_is_kept().await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_ids_is_told_apart_across_kills() -> Result<()> {
    kills(Sharing::new(Kind::Engine, "sharing-kills").await?, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_mongodb_ids_is_told_apart_across_kills() -> Result<()> {
    kills(Sharing::new(Kind::MongoDb, "sharing_kills").await?, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_ids_and_changes_its_shard_key_is_told_apart_across_kills() -> Result<()> {
    kills(Sharing::new(Kind::Sharded, "sharing-sharded-kills").await?, 3).await
}
