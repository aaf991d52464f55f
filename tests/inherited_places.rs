//! A rule delivers alone, and whose its places are need not be kept; then there is another whose documents may
//! be given the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::support::{
    World,
    checker::hits,
    fault::{Fault, Gate, Moment},
    mirror,
    mongo_proxy::MongoProxy,
    run::{RuleFile, Run, Settings},
};

const PATIENCE: Duration = Duration::from_secs(120);
/// More than are read at a time.
const DOCUMENTS: i32 = 700;

/// Where the documents go.
#[derive(Clone, Copy)]
enum Kind {
    Engine,
    MongoDb,
}

/// The rule `one` keeps the ids of its documents, in a place that a field names. The rule `two` gives
/// each of its own the id that the field `at` says.
struct Inheriting {
    world: World,
    kind: Kind,
    name: &'static str,
    one: Collection<Document>,
    two: Collection<Document>,
    file: RuleFile,
    rules: [String; 2],
    store: MongoProxy,
}

/// Of a place, whose document it holds.
type Held = BTreeMap<i64, String>;

fn one(id: i32) -> Document {
    doc! { "_id": id, "region": "north", "of": "one" }
}

fn two(id: i32, at: i32) -> Document {
    doc! { "_id": id, "region": "north", "of": "two", "at": at }
}

impl Inheriting {
    async fn new(kind: Kind, name: &'static str) -> Result<Self> {
        let world = World::new().await?;
        // Documents of two collections do not lie in one of a MongoDB.
        let read = match kind {
            Kind::Engine => ["one", "two"],
            Kind::MongoDb => ["items", "items"],
        };
        let [one, two] = read.map(|read| world.collection(&format!("{name}.{read}")));
        let store = MongoProxy::start(&world.mongo_address()?).await?;
        let top =
            format!("checkpoint: {{ every: 100ms, mongodb: {{ uri: \"{}\" }} }}", store.uri());
        let rule = |(rule, read): (&str, &Collection<Document>), to: String, rest: &str| {
            format!(
                "  - {{ name: {rule}, namespace: {}, filter: {{ of: {rule} }}, \
                 to: [{{ target: search, {to} }}]{rest} }}\n",
                read.namespace()
            )
        };
        let (first, second) = (("one", &one), ("two", &two));
        let (head, rules) = match kind {
            Kind::Engine => {
                let settings = Settings { top, ..Settings::default() };
                let index = format!("index: '{name}-{{region}}'");
                let rules = [
                    rule(first, index.clone(), ""),
                    rule(second, format!("{index}, id: '{{at}}'"), ""),
                ];
                (settings.text(world.mongo.uri(), &world.engine.url(), ""), rules)
            }
            Kind::MongoDb => {
                let head = format!(
                    "source: {}\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n{top}\n\
                     targets:\n  search: {{ mongodb: {{ uri: \"{}\" }} }}\nrules:\n",
                    world.mongo.uri(),
                    mirror().await?.uri()
                );
                let to = format!("namespace: '{name}_to.{{region}}'");
                let chooses = ", transform: 'doc._id = doc.at;'";
                let rules = [rule(first, to.clone(), ""), rule(second, to, chooses)];
                (head, rules)
            }
        };
        let file = RuleFile::written(world.folder.path(), &format!("{head}{}", rules[0]))?;
        Ok(Self { world, kind, name, one, two, file, rules, store })
    }

    /// From now on the rule `two` is in the file, or not.
    fn with_two(&self, with: bool) -> Result<()> {
        let [_, two] = &self.rules;
        self.file.rewrite(|text| match with {
            true => format!("{text}{two}"),
            false => text.replace(two, ""),
        })
    }

    async fn settled(&self) -> Result<Run> {
        let mut run = self.file.run(&[])?;
        run.copied().await?;
        run.caught_up(&self.world.client).await?;
        Ok(run)
    }

    async fn held(&self) -> Result<Held> {
        let mut held = Held::new();
        match self.kind {
            Kind::Engine => {
                for hit in hits(&self.world.engine, &format!("{}-north", self.name)).await? {
                    let of = hit.source["of"].as_str().context("a text")?;
                    held.insert(hit.id.parse()?, of.to_owned());
                }
            }
            Kind::MongoDb => {
                let database = mirror().await?.client().database(&format!("{}_to", self.name));
                let lying = database.collection::<Document>("north").find(doc! {}).await?;
                for document in lying.try_collect::<Vec<_>>().await? {
                    let id = document.get_i32("_id")?;
                    held.insert(id.into(), document.get_str("of")?.to_owned());
                }
            }
        }
        Ok(held)
    }

    /// Waits until these places hold documents of `two`, and all others of those up to `last` such of `one`;
    /// `refused` says for which places there are letters.
    async fn holds(&self, of_two: &[i64], last: i64, refused: &[i64]) -> Result<()> {
        let of = |id: i64| if of_two.contains(&id) { "two" } else { "one" }.to_owned();
        let expected: Held = (1..=last).map(|id| (id, of(id))).collect();
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(100));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let (held, letters) = (self.held().await?, self.file.dead_letters().await?);
            let all_named = refused.iter().all(|at| {
                let words = format!("that of another document, {at} of {}", self.one.namespace());
                let is_of = |letter: &serde_json::Value| {
                    letter["rule"] == "two"
                        && letter["words"].as_str().is_some_and(|said| said.contains(&words))
                };
                letters.iter().any(is_of)
            });
            if held == expected && all_named && letters.len() == refused.len() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "two at {:?}, {} in all, letters {letters:?}",
                held.iter().filter(|(_, of)| *of == "two").collect::<Vec<_>>(),
                held.len()
            );
        }
    }
}

async fn what_lies_there_stays(inheriting: Inheriting) -> Result<()> {
    let last = i64::from(DOCUMENTS);
    inheriting.one.insert_many((1..=DOCUMENTS).map(one)).await?;
    assert!(inheriting.settled().await?.terminate().await?.success());
    inheriting.two.insert_many([two(10_001, 5), two(10_002, 6)]).await?;
    inheriting.with_two(true)?;
    let run = inheriting.settled().await?;
    inheriting.holds(&[], last, &[5, 6]).await?;
    // What becomes of them is nothing to the others.
    inheriting.two.delete_one(doc! { "_id": 10_002 }).await?;
    inheriting.holds(&[], last, &[5]).await?;
    inheriting.one.delete_one(doc! { "_id": 5 }).await?;
    inheriting.holds(&[5], last, &[]).await?;
    assert!(run.terminate().await?.success());
    // The first one is alone for a while once more.
    inheriting.with_two(false)?;
    let mut run = inheriting.file.run(&[])?;
    inheriting.one.insert_one(one(DOCUMENTS + 1)).await?;
    run.caught_up(&inheriting.world.client).await?;
    assert!(run.terminate().await?.success());
    inheriting.two.insert_one(two(10_003, DOCUMENTS + 1)).await?;
    inheriting.with_two(true)?;
    let run = inheriting.settled().await?;
    inheriting.holds(&[5], last + 1, &[last + 1]).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_were_there_before_a_rule_that_shares_them_keep_their_documents() -> Result<()> {
    what_lies_there_stays(Inheriting::new(Kind::Engine, "inherit").await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_ids_that_were_there_before_a_rule_that_shares_them_keep_their_documents()
-> Result<()> {
    what_lies_there_stays(Inheriting::new(Kind::MongoDb, "inherit_to").await?).await
}

/// The first run of both is killed as it first stores whose places are, the next one at the write behind that,
/// and so on until one has copied what is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_it_is_read_whose_places_are() -> Result<()> {
    for (moment, name) in [(Moment::Before, "inherit-before"), (Moment::After, "inherit-after")] {
        let inheriting = Inheriting::new(Kind::Engine, name).await?;
        inheriting.one.insert_many((1..=DOCUMENTS).map(one)).await?;
        assert!(inheriting.settled().await?.terminate().await?.success());
        let shared = [5, DOCUMENTS / 2, DOCUMENTS];
        inheriting.two.insert_many((10_001..).zip(shared).map(|(id, at)| two(id, at))).await?;
        inheriting.with_two(true)?;
        let mut kills = 0;
        let run = loop {
            let writes = Arc::new(AtomicUsize::new(0));
            let gate = Gate::closed();
            let fault = Fault::Hold(moment, gate.clone());
            inheriting.store.play(move |command| {
                // What is planned before is not meant.
                let has_begun = writes.load(Ordering::Acquire) > 0;
                let counts = command.writes_to("places")
                    || has_begun
                        && ["facts", "dead_letters"].iter().any(|it| command.writes_to(it));
                let is_chosen = counts && writes.fetch_add(1, Ordering::AcqRel) == kills;
                is_chosen.then(|| fault.clone())
            });
            let mut run = inheriting.file.run(&[])?;
            let copied = tokio::select! {
                copied = run.copied() => copied.map(|()| true),
                () = gate.met(1) => Ok(false),
            };
            if copied? {
                inheriting.store.pass_on();
                gate.open();
                break run;
            }
            run.kill().await?;
            gate.discard();
            inheriting.store.pass_on();
            kills += 1;
        };
        println!("{name}: {kills} kills");
        ensure!(kills >= 2, "{kills} writes to the store");
        let refused = shared.map(i64::from);
        inheriting.holds(&[], DOCUMENTS.into(), &refused).await?;
        inheriting.one.delete_many(doc! { "_id": { "$in": shared.to_vec() } }).await?;
        inheriting.holds(&refused, DOCUMENTS.into(), &[]).await?;
        assert!(run.terminate().await?.success());
    }
    Ok(())
}
