//! How the cost of changes grows: many of one document, many documents, more of them a second, and
//! changes beside a copy.

use std::{
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::Collection;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    endpoint::Endpoint,
    product::{Cost, Costs, Product, Running},
    report::{Point, Samples},
    rows::{Rows, following, within},
    world::NAMESPACE,
};

/// Changes of the one document.
const HOT: u64 = 100_000;
/// Changes in one command.
const COMMAND: u64 = 1_000;
/// How long a steady rate is held up in each round.
const STEADY: Duration = Duration::from_secs(5);
/// Shares of the highest rate that are held up.
const SHARES: [u32; 3] = [10, 50, 90];
/// Shares of it beside a copy.
const BESIDE: [u32; 3] = [0, 10, 50];
/// How often a steady load is written.
const TICK: Duration = Duration::from_millis(10);

impl Rows {
    /// One document changed again and again: most changes need no delivery of their own.
    pub async fn hot(&mut self) -> Result<()> {
        let endpoint = Endpoint::probing().await?;
        let collection = self.world.collection.clone();
        let mut running = self.follow(&endpoint).await?;
        let (mut floor, mut behind) = (Samples::default(), Samples::default());
        let (mut costs, mut delivered) = (Costs::default(), Samples::default());
        for _ in 0..self.rounds {
            let first = self.probes + 1;
            self.probes += HOT;
            let last = self.probes;
            let before = endpoint.arrived().items;
            let burst = async {
                let begun = Instant::now();
                for from in (first..=last).step_by(COMMAND as usize) {
                    let updates = (from..=last.min(from + COMMAND - 1)).map(|probe| {
                        let set = doc! { "$set": { "probe": probe.cast_signed() } };
                        doc! { "q": { "number": 0_i64 }, "u": set }
                    });
                    change(&collection, updates.collect()).await?;
                }
                let acknowledged = Instant::now();
                let equal = within(endpoint.until_probe(last)).await?;
                Ok((begun, acknowledged, equal))
            };
            let (begun, acknowledged, equal) = measure(&mut running, burst, &mut costs).await?;
            floor.push((acknowledged - begun).as_secs_f64());
            behind.push(equal.saturating_duration_since(acknowledged).as_secs_f64());
            delivered.push((endpoint.arrived().items - before) as f64);
        }
        running.terminate().await?;
        self.points.add(Point {
            row: "changes at once",
            point: "of one document".to_owned(),
            documents: HOT,
            bytes: 0,
            floor,
            costs,
            also: format!(
                "{:.0} deliveries, equal {behind} s after the last change",
                delivered.median()
            ),
        });
        Ok(())
    }

    /// Each document changed once, as fast as the source takes it.
    pub async fn wide(&mut self) -> Result<()> {
        let endpoint = Endpoint::probing().await?;
        let collection = self.world.collection.clone();
        let documents = self.world.documents;
        let mut running = self.follow(&endpoint).await?;
        let (mut floor, mut behind) = (Samples::default(), Samples::default());
        let mut costs = Costs::default();
        for round in 0..self.rounds {
            let wanted = endpoint.arrived().items + documents;
            let burst = async {
                let begun = Instant::now();
                for from in (0..documents).step_by(COMMAND as usize) {
                    let to = documents.min(from + COMMAND);
                    range(&collection, from, to, "burst", begun, round).await?;
                }
                let acknowledged = Instant::now();
                let equal = within(endpoint.until(wanted)).await?.at;
                Ok((begun, acknowledged, equal))
            };
            let (begun, acknowledged, equal) = measure(&mut running, burst, &mut costs).await?;
            floor.push((acknowledged - begun).as_secs_f64());
            behind.push(equal.saturating_duration_since(acknowledged).as_secs_f64());
        }
        running.terminate().await?;
        self.kept_up = Some(documents as f64 / costs.wall.median());
        self.points.add(Point {
            row: "changes at once",
            point: "of a document each".to_owned(),
            documents,
            bytes: 0,
            floor,
            costs,
            also: format!("equal {behind} s after the last change"),
        });
        Ok(())
    }

    /// From the source's acknowledgement to the target's, while others change other documents.
    pub async fn under_load(&mut self) -> Result<()> {
        let highest = self.highest().await?;
        let endpoint = Endpoint::probing().await?;
        let mut running = self.follow(&endpoint).await?;
        for share in SHARES {
            let rate = highest * f64::from(share) / 100.0;
            let load = self.load(rate);
            let before = running.cost(Instant::now())?;
            let lasting = async {
                tokio::select! {
                    ended = load.run() => ended.map(|never| match never {}),
                    () = sleep(STEADY * self.rounds) => Ok(()),
                }
            };
            running.meanwhile(lasting).await?;
            let cost = running.cost(Instant::now())?.since(before);
            let (made, probes) = load.end();
            let mut way = Samples::default();
            for (probe, acknowledged) in probes {
                let arrived = running.meanwhile(within(endpoint.until_probe(probe))).await?;
                let took = arrived.saturating_duration_since(acknowledged);
                way.push(took.as_secs_f64() * 1e3);
                self.probes = self.probes.max(probe);
            }
            let mut costs = Costs::default();
            costs.push(cost);
            self.points.add(Point {
                row: "latency under load",
                point: format!("{share} %: {rate:.0} changes/s"),
                documents: made,
                bytes: 0,
                floor: Samples::default(),
                costs,
                also: format!(
                    "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
                    way.median(),
                    way.quantile(0.99),
                    way.largest()
                ),
            });
        }
        running.terminate().await
    }

    /// A copy while changes pour in.
    pub async fn beside(&mut self) -> Result<()> {
        let highest = self.highest().await?;
        let endpoint = Endpoint::probing().await?;
        let product = self.of_the_world(&endpoint)?;
        for share in BESIDE {
            let rate = highest * f64::from(share) / 100.0;
            let (mut costs, mut lag) = (Costs::default(), Samples::default());
            let mut changes = Samples::default();
            for _ in 0..self.rounds {
                self.world.forget().await?;
                let load = self.load(rate);
                let mut running = product.start(&["--copy-only"])?;
                let ended = tokio::select! {
                    ended = running.ended() => ended?,
                    failed = load.run() => match failed? {},
                };
                costs.push(running.cost(ended)?);
                running.reap()?;
                let (made, probes) = load.end();
                changes.push(made as f64);
                self.probes = probes.iter().fold(self.probes, |last, &(probe, _)| last.max(probe));
                let newest =
                    probes.iter().rev().find(|(probe, _)| endpoint.probed(*probe).is_some());
                if let Some((_, acknowledged)) = newest {
                    lag.push(ended.saturating_duration_since(*acknowledged).as_secs_f64());
                }
            }
            let also = match share {
                0 => String::new(),
                _ => format!(
                    "{:.0} changes meanwhile; at the end it knew what was {lag} s old",
                    changes.median()
                ),
            };
            self.points.add(Point {
                row: "copy beside changes",
                point: format!("{share} %: {rate:.0} changes/s"),
                documents: self.world.documents,
                bytes: 0,
                floor: Samples::default(),
                costs,
                also,
            });
        }
        Ok(())
    }

    async fn highest(&mut self) -> Result<f64> {
        if self.kept_up.is_none() {
            self.wide().await?;
        }
        self.kept_up.context("a burst was measured")
    }

    fn of_the_world(&self, endpoint: &Endpoint) -> Result<Product> {
        Product::new(self.world.mongo.uri(), &endpoint.url, NAMESPACE, "")
    }

    async fn follow(&self, endpoint: &Endpoint) -> Result<Running> {
        self.world.forget().await?;
        following(&self.of_the_world(endpoint)?, &self.world.collection, endpoint).await
    }

    fn load(&self, rate: f64) -> Load {
        Load {
            collection: self.world.collection.clone(),
            half: self.world.documents / 2,
            rate,
            probe: self.probes,
            written: Mutex::default(),
        }
    }
}

/// Changes at a steady rate to one half of the documents, and probes to the other.
struct Load {
    collection: Collection<Document>,
    half: u64,
    rate: f64,
    /// The last probe before it.
    probe: u64,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    changes: u64,
    /// And when the source had acknowledged each.
    probes: Vec<(u64, Instant)>,
}

impl Load {
    /// Until it is dropped; a rate of nothing writes nothing.
    async fn run(&self) -> Result<Infallible> {
        if self.rate <= 0.0 {
            return std::future::pending().await;
        }
        let (never, _) = tokio::try_join!(self.change(), self.probe())?;
        match never {}
    }

    /// What was written.
    fn end(self) -> (u64, Vec<(u64, Instant)>) {
        let Written { changes, probes } =
            self.written.into_inner().unwrap_or_else(PoisonError::into_inner);
        (changes + probes.len() as u64, probes)
    }

    async fn change(&self) -> Result<Infallible> {
        let begun = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made = 0;
        for round in 0.. {
            tick.tick().await;
            let due = (self.rate * begun.elapsed().as_secs_f64()) as u64;
            while made < due {
                let from = made % self.half;
                let to = self.half.min(from + COMMAND.min(due - made));
                range(&self.collection, from, to, "load", begun, round).await?;
                made += to - from;
                self.written.lock().unwrap_or_else(PoisonError::into_inner).changes = made;
            }
        }
        unreachable!("ticks do not end")
    }

    async fn probe(&self) -> Result<Infallible> {
        let mut random = StdRng::seed_from_u64(3);
        let mut probe = self.probe;
        loop {
            sleep(Duration::from_millis(random.random_range(20..80))).await;
            probe += 1;
            let number = self.half + probe % self.half;
            let chosen = doc! { "number": number.cast_signed() };
            let changed = doc! { "$set": { "probe": probe.cast_signed() } };
            self.collection.update_one(chosen, changed).await?;
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.probes.push((probe, Instant::now()));
        }
    }
}

/// Changes each document with a number in the range, once.
async fn range(
    collection: &Collection<Document>,
    from: u64,
    to: u64,
    field: &str,
    begun: Instant,
    round: u32,
) -> Result<()> {
    let chosen = doc! { "number": { "$gte": from.cast_signed(), "$lt": to.cast_signed() } };
    // Never what it was.
    let value = format!("{round} {:?}", begun.elapsed());
    let done = collection.update_many(chosen, doc! { "$set": { field: value } }).await?;
    ensure!(done.modified_count == to - from, "{} of {}", done.modified_count, to - from);
    Ok(())
}

/// Sends many updates at once, each an event of its own.
async fn change(collection: &Collection<Document>, updates: Vec<Document>) -> Result<()> {
    let count = i64::try_from(updates.len())?;
    let database = collection.client().database(&collection.namespace().db);
    let command = doc! { "update": collection.name(), "updates": updates };
    let done = database.run_command(command).await?;
    ensure!(done.get_i32("nModified").map(i64::from)? == count, "{done}");
    Ok(())
}

/// What a burst costs the product, from its first change until the target has all.
async fn measure(
    running: &mut Running,
    burst: impl Future<Output = Result<(Instant, Instant, Instant)>>,
    costs: &mut Costs,
) -> Result<(Instant, Instant, Instant)> {
    let before = running.cost(Instant::now())?;
    let done = running.meanwhile(burst).await;
    let (begun, acknowledged, equal) = done.with_context(|| running.log())?;
    let cost = running.cost(equal)?.since(before);
    costs.push(Cost { wall: (equal - begun).as_secs_f64(), ..cost });
    Ok((begun, acknowledged, equal))
}
