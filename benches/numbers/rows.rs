//! The rows of the table, each measured against its floors, turn by turn.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use bytes::Bytes;
use mongodb::Collection;
use mongosync_servers::{Engine, MongoDb};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    endpoint::{Endpoint, WEBHOOK},
    floors,
    product::{Costs, Product, Running},
    report::{Line, Points, Report, Samples},
    world::{INDEX, NAMESPACE, World},
};

/// Updates that are caught up on.
const UPDATES: u64 = 100_000;
/// Single changes whose way is timed.
const CHANGES: u64 = 300;
/// Events that a webhook is told while it is timed.
const EVENTS: u64 = 2_000;
/// What its endpoint takes over each.
const TAKES: Duration = Duration::from_millis(20);
/// How many it answers at a time: the product's default.
const CONNECTIONS: u64 = 8;
/// A change that does not arrive within this never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// Six lines, of the kind that people write.
const TRANSFORM: &str = "    transform: |
      doc.margin = doc.price - doc.cost;
      doc.in_stock = doc.stock > 0;
      doc.label = doc.title + \" \" + doc.sku;
      doc.country = doc.supplier.country;
      doc.remove(\"number\");
      if doc.status == \"draft\" { remove(); }
";

/// The rows, and what they share.
pub struct Rows {
    /// The servers.
    pub world: World,
    /// How often each pair is measured.
    pub rounds: u32,
    /// Where the lines go.
    pub report: Report,
    /// The most memory of all runs.
    pub peak: Samples,
    /// Where the points of what grows go.
    pub points: Points,
    /// The highest rate of changes that is kept up with, a second, once it is known.
    pub kept_up: Option<f64>,
    /// The last probe that was written.
    pub probes: u64,
}

impl Rows {
    /// Into an endpoint that answers at once; with a transform or without.
    pub async fn copy(&mut self, transform: bool) -> Result<()> {
        let (name, script, goal, cpu_goal) = match transform {
            false => ("copy", "", 2.0, 6.0),
            true => ("copy with a transform", TRANSFORM, 3.0, 14.0),
        };
        let bodies = self.world.bodies().await?;
        let world = &self.world;
        let (source, url) = (world.mongo.uri(), &world.endpoint.url);
        let product = Product::new(source, url, NAMESPACE, script)?;
        // What a first run takes that has next to nothing to copy.
        let single = world.collection.client().database("numbers").collection("single");
        single.drop().await?;
        single.insert_one(doc! { "_id": 1 }).await?;
        let starting = Product::new(source, url, "numbers.single", "")?;
        let mut start = Samples::default();
        let (mut cursor, mut sent) = (Samples::default(), Samples::default());
        let (mut least, mut costs) = (Samples::default(), Costs::default());
        // The first round warms the caches up.
        for round in 0..=self.rounds {
            let read = floors::cursor(&world.collection, world.documents).await?;
            let written = floors::bodies(&world.endpoint.url, &bodies).await?;
            let all = world.documents;
            let alone = floors::least(&world.collection, url, all, transform).await?;
            world.forget().await?;
            let empty = starting.measure(&["--copy-only"]).await?;
            let before = world.endpoint.arrived().items;
            world.forget().await?;
            let cost = product.measure(&["--copy-only"]).await?;
            let copied = world.endpoint.arrived().items - before;
            ensure!(copied == world.documents, "{copied} of {}", world.documents);
            if round > 0 {
                cursor.push(read.as_secs_f64());
                sent.push(written.as_secs_f64());
                least.push(alone.as_secs_f64());
                start.push(empty.wall);
                costs.push(cost);
            }
        }
        let documents = world.documents;
        eprintln!(
            "  the least program that copies: {least} s; a run that copies one document: {start} s"
        );
        self.report.add(Line {
            row: name.to_owned(),
            floors: format!(
                "cursor {cursor} s, bodies {sent} s; least program {least} s; start {start} s"
            ),
            ours: format!("{} s", costs.wall),
            reached: costs.wall.median() / cursor.median().max(sent.median()),
            goal,
            unit: "",
        });
        self.add_cpu(name, &costs, documents, cpu_goal);
        Ok(())
    }

    /// Into a real Elasticsearch.
    pub async fn engine(&mut self) -> Result<()> {
        let engine = Engine::elasticsearch().heap("1g").for_throughput().start().await?;
        let bodies = self.world.bodies().await?;
        let world = &self.world;
        let product = Product::new(world.mongo.uri(), &engine.url(), NAMESPACE, "")?;
        // Java compiles what is hot while this goes on.
        prepared(&engine, &bodies).await?;
        let (mut sent, mut found, mut costs) =
            (Samples::default(), Samples::default(), Costs::default());
        let (mut reached, mut until_found) = (Samples::default(), Samples::default());
        // An engine's pace changes while minutes go by: each run is compared with what was sent before
        // it and after it.
        let mut before = prepared(&engine, &bodies).await?;
        for _ in 0..self.rounds {
            engine.request("DELETE", &format!("/{INDEX}"), "").await?;
            world.forget().await?;
            let cost = product.measure(&["--copy-only"]).await?;
            let count = engine.request("GET", &format!("/{INDEX}/_count"), "").await?.body;
            ensure!(count.contains(&format!(r#""count":{},"#, world.documents)), "{count}");
            let after = prepared(&engine, &bodies).await?;
            let mean = |of: fn(&Prepared) -> f64| f64::midpoint(of(&before), of(&after));
            reached.push(cost.wall / mean(|it| it.sent));
            until_found.push(cost.wall / mean(|it| it.found));
            sent.push(mean(|it| it.sent));
            found.push(mean(|it| it.found));
            costs.push(cost);
            before = after;
        }
        let documents = world.documents;
        self.report.add(Line {
            row: "copy into Elasticsearch".to_owned(),
            floors: format!("bodies {sent} s, until a search finds them {found} s"),
            ours: format!("{} s", costs.wall),
            reached: reached.median(),
            goal: 1.1,
            unit: "",
        });
        eprintln!(
            "  each run by its floor: {reached}; by that until a search finds them: {until_found}"
        );
        self.note(&costs, documents);
        Ok(())
    }

    /// Into another MongoDB, its index too.
    pub async fn mongodb(&mut self) -> Result<()> {
        let mirror = MongoDb::builder().cache_gb(1.0).start().await?;
        let world = &self.world;
        let (database, name) = NAMESPACE.split_once('.').context("a namespace")?;
        let held = mirror.client().database(database);
        let target = format!("{{ mongodb: {{ uri: \"{}\" }} }}", mirror.uri());
        let product = Product::with(world.mongo.uri(), &target, NAMESPACE, "")?;
        let (mut inserted, mut costs) = (Samples::default(), Costs::default());
        // The first round warms the caches up.
        for round in 0..=self.rounds {
            held.drop().await?;
            let to = held.collection(name);
            let alone = floors::inserted(&world.collection, &to, world.documents).await?;
            held.drop().await?;
            mirror.client().database("mongosync").drop().await?;
            world.forget().await?;
            let cost = product.measure(&["--copy-only"]).await?;
            let copied = to.count_documents(doc! {}).await?;
            ensure!(copied == world.documents, "{copied} of {}", world.documents);
            if round > 0 {
                inserted.push(alone.as_secs_f64());
                costs.push(cost);
            }
        }
        let documents = world.documents;
        self.report.add(Line {
            row: "copy into MongoDB".to_owned(),
            floors: format!("read and inserted by the driver {inserted} s"),
            ours: format!("{} s", costs.wall),
            reached: costs.wall.median() / inserted.median(),
            goal: 1.3,
            unit: "",
        });
        self.note(&costs, documents);
        Ok(())
    }

    /// Stopped, a hundred thousand updates, started.
    pub async fn catch_up(&mut self) -> Result<()> {
        let updates = UPDATES.min(self.world.documents);
        let world = &self.world;
        let product = Product::new(world.mongo.uri(), &world.endpoint.url, NAMESPACE, "")?;
        world.forget().await?;
        following(&product, &world.collection, &world.endpoint).await?.terminate().await?;
        let mut drained = Samples::default();
        let mut costs = Costs::default();
        for round in 0..=self.rounds {
            let start = world.update(updates, u64::from(round) + 1).await?;
            let stream = floors::stream(&world.collection, start, updates).await?;
            let wanted = world.endpoint.arrived().items + updates;
            let mut running = product.start(&["--changes-only"])?;
            let all = running.meanwhile(within(world.endpoint.until(wanted))).await;
            let all = all.with_context(|| running.log())?;
            let cost = running.cost(all.at)?;
            running.terminate().await?;
            if round > 0 {
                drained.push(stream.as_secs_f64());
                costs.push(cost);
            }
        }
        self.report.add(Line {
            row: format!("catching up on {updates} updates"),
            floors: format!("stream {drained} s"),
            ours: format!("{} s", costs.wall),
            reached: costs.wall.median() / drained.median(),
            goal: 2.0,
            unit: "",
        });
        self.note(&costs, updates);
        Ok(())
    }

    /// One change at a time, from the source's acknowledgement to the target's.
    pub async fn latency(&mut self) -> Result<()> {
        let world = &self.world;
        let product = Product::new(world.mongo.uri(), &world.endpoint.url, NAMESPACE, "")?;
        world.forget().await?;
        let mut running = following(&product, &world.collection, &world.endpoint).await?;
        let mut random = StdRng::seed_from_u64(2);
        let mut taken = Samples::default();
        for change in 0..CHANGES {
            let idle = Duration::from_millis(random.random_range(20..200));
            tokio::time::sleep(idle).await;
            let before = world.endpoint.arrived().items;
            let number = random.random_range(0..i64::try_from(world.documents)?);
            let wanted = doc! { "number": number };
            let changed = doc! { "$set": { "change": i64::try_from(change)? } };
            world.collection.update_one(wanted, changed).await?;
            let acknowledged = Instant::now();
            let arrived = within(world.endpoint.until(before + 1));
            let arrived = running.meanwhile(arrived).await?;
            let way = arrived.at.saturating_duration_since(acknowledged);
            taken.push(way.as_secs_f64() * 1e3);
        }
        let cost = running.cost(Instant::now())?;
        running.terminate().await?;
        self.peak.push(cost.peak);
        for (name, share, goal) in [("p50", 0.5, 15.0), ("p99", 0.99, 60.0)] {
            self.report.add(Line {
                row: format!("one change, {name}"),
                floors: String::new(),
                ours: format!("most {:.1} ms", taken.largest()),
                reached: taken.quantile(share),
                goal,
                unit: "ms",
            });
        }
        Ok(())
    }

    /// Events told to an endpoint that takes 20 ms over each, with a backlog behind them, so that no
    /// connection has nothing to send.
    pub async fn webhook(&mut self) -> Result<()> {
        let world = &self.world;
        let endpoint = Endpoint::answering_after(TAKES).await?;
        let target = format!(
            "{{ webhook: {{ url: \"{}{WEBHOOK}\", batch: {{ concurrency: {CONNECTIONS} }} }} }}",
            endpoint.url
        );
        let events = "    delivery: events\n";
        let product = Product::with(world.mongo.uri(), &target, NAMESPACE, events)?;
        let (mut allowed, mut taken, mut peak) =
            (Samples::default(), Samples::default(), Samples::default());
        for round in 0..=self.rounds {
            let floor = floors::webhooks(&endpoint.url, CONNECTIONS, EVENTS).await?;
            world.forget().await?;
            let mut running = product.start(&[])?;
            let first = endpoint.arrived().items + 1;
            // What a stream that is not yet open would miss.
            let opened = async {
                for change in 0_i64.. {
                    let changed = doc! { "$set": { "change": change } };
                    world.collection.update_one(doc! { "number": 0_i64 }, changed).await?;
                    let one = endpoint.until(first);
                    if tokio::time::timeout(Duration::from_secs(1), one).await.is_ok() {
                        break;
                    }
                }
                anyhow::Ok(())
            };
            running.meanwhile(within(opened)).await.with_context(|| running.log())?;
            let backlog = (2 * EVENTS).min(world.documents);
            let start = endpoint.arrived().items + EVENTS / 10;
            world.update(backlog, 1_000 + u64::from(round)).await?;
            let begun = running.meanwhile(within(endpoint.until(start))).await?;
            let all = endpoint.until(begun.items + EVENTS);
            let all = running.meanwhile(within(all)).await.with_context(|| running.log())?;
            let seconds = (all.at - begun.at).as_secs_f64();
            peak.push(running.cost(all.at)?.peak);
            drop(running);
            if round > 0 {
                allowed.push(EVENTS as f64 / floor.as_secs_f64());
                taken.push((all.items - begun.items) as f64 / seconds);
            }
        }
        self.peak.push(peak.largest());
        self.report.add(Line {
            row: format!("events to a webhook that takes {} ms", TAKES.as_millis()),
            floors: format!("{CONNECTIONS} connections {allowed} events/s"),
            ours: format!("{taken} events/s"),
            reached: allowed.median() / taken.median(),
            goal: 1.11,
            unit: "",
        });
        Ok(())
    }

    /// The memory of all that was measured.
    pub fn memory(&mut self) {
        self.report.add(Line {
            row: "resident memory through all of it".to_owned(),
            floors: String::new(),
            ours: format!("median of the runs {:.0} MiB", self.peak.median()),
            reached: self.peak.largest(),
            goal: 150.0,
            unit: "MiB",
        });
    }

    fn add_cpu(&mut self, name: &str, costs: &Costs, documents: u64, goal: f64) {
        self.report.add(Line {
            row: format!("CPU of {name}, per document"),
            floors: String::new(),
            ours: format!("{} s (the endpoint's own: {} s)", costs.cpu, costs.endpoint),
            reached: costs.each(documents),
            goal,
            unit: "µs",
        });
        self.peak.push(costs.peak.largest());
    }

    fn note(&mut self, costs: &Costs, documents: u64) {
        eprintln!(
            "  CPU {} s, {:.2} µs each; the endpoint's own {} s",
            costs.cpu,
            costs.each(documents),
            costs.endpoint
        );
        self.peak.push(costs.peak.largest());
    }
}

/// The product following changes of `collection`, once the first one has come through.
pub async fn following(
    product: &Product,
    collection: &Collection<Document>,
    endpoint: &Endpoint,
) -> Result<Running> {
    let mut running = product.start(&["--changes-only"])?;
    let before = endpoint.arrived().items;
    let opened = async {
        for change in 0_i64.. {
            let first = doc! { "number": 0_i64 };
            let changed = doc! { "$set": { "change": change } };
            collection.update_one(first, changed).await?;
            let one = endpoint.until(before + 1);
            if tokio::time::timeout(Duration::from_secs(1), one).await.is_ok() {
                break;
            }
        }
        // What else was changed until then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        anyhow::Ok(())
    };
    let opened = running.meanwhile(within(opened)).await;
    opened.with_context(|| running.log())?;
    Ok(running)
}

/// Seconds that ready-made bodies take.
struct Prepared {
    /// Until the last one was answered.
    sent: f64,
    /// Until a search finds all of it, as it does at the end of a copy.
    found: f64,
}

/// Ready-made bodies into a new index with the settings that the product gives it for a copy.
async fn prepared(engine: &Engine, bodies: &Arc<[Bytes]>) -> Result<Prepared> {
    let path = format!("/{INDEX}");
    engine.request("DELETE", &path, "").await?;
    let settings = r#"{"settings":{"refresh_interval":"30s","number_of_replicas":0}}"#;
    let made = engine.request("PUT", &path, settings).await?;
    ensure!(made.status == 200, "{}", made.body);
    let sent = floors::bodies(&engine.url(), bodies).await?;
    let started = Instant::now();
    let refreshed = engine.request("POST", &format!("{path}/_refresh"), "").await?;
    ensure!(refreshed.status == 200, "{}", refreshed.body);
    let found = sent + started.elapsed();
    Ok(Prepared { sent: sent.as_secs_f64(), found: found.as_secs_f64() })
}

/// A wait that ends.
pub async fn within<T>(wait: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, wait).await.context("it does not come")?
}
