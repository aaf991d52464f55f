//! How the cost of a copy grows: with the size of documents, with namespaces, with rules.
//!
//! Each point is read by raw cursors first, and by the product then, turn by turn.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use bson::Document;
use mongodb::{Collection, Database};

use crate::{
    floors,
    product::{Costs, Product},
    report::{Point, Samples},
    rows::{Rows, following, within},
    world::{ORDINARY, World, fill, update},
};

/// Bytes of a document, how it is called, and of how many there are at the least.
const SIZES: [(usize, &str, u64); 5] = [
    (200, "0.2 KB", 1),
    (ORDINARY, "1.1 KB", 1),
    (10_000, "10 KB", 2_000),
    (100_000, "100 KB", 2_000),
    // MongoDB allows 16,777,216; an update adds a field.
    (16_760_000, "16 MB", 8),
];
/// Documents that are updated, at the most, to be caught up on.
const UPDATES: u64 = 100_000;
const NAMESPACES: [u64; 3] = [1, 10, 1_000];
const RULES: [u64; 4] = [1, 10, 50, 200];

impl Rows {
    /// About the same bytes in few documents or many: copied, and caught up on.
    pub async fn sizes(&mut self) -> Result<()> {
        let all = self.world.documents * ORDINARY as u64;
        for (bytes, name, least) in SIZES {
            let documents = (all / bytes as u64).max(least);
            let database = self.database("sizes");
            let collection = database.collection(&format!("of_{bytes}"));
            let written = fill(&collection, 0..documents, bytes).await?;
            let product = self.product(&rule(&collection))?;
            self.copied(
                "document size, copy",
                name,
                &[(collection.clone(), documents)],
                written,
                &product,
            )
            .await?;
            self.caught_up(name, &collection, documents, written / documents, &product).await?;
            database.drop().await?;
        }
        Ok(())
    }

    /// The same documents in one collection, or spread over many, under one pattern.
    pub async fn namespaces(&mut self) -> Result<()> {
        for count in NAMESPACES {
            let database = self.database("spread");
            let (collections, written) = self.spread(&database, count).await?;
            let rules = "  - name: all\n    namespace: \"spread.*\"\n    to: search\n";
            let product = self.product(rules)?;
            self.copied(
                "namespaces, one rule",
                &count.to_string(),
                &collections,
                written,
                &product,
            )
            .await?;
            database.drop().await?;
        }
        Ok(())
    }

    /// The same documents spread over collections, with a rule for each.
    pub async fn rules(&mut self) -> Result<()> {
        for count in RULES {
            let database = self.database("ruled");
            let (collections, written) = self.spread(&database, count).await?;
            let rules: String =
                collections.iter().map(|(collection, _)| rule(collection)).collect();
            let product = self.product(&rules)?;
            self.copied(
                "rules, a namespace each",
                &count.to_string(),
                &collections,
                written,
                &product,
            )
            .await?;
            database.drop().await?;
        }
        Ok(())
    }

    fn database(&self, name: &str) -> Database {
        self.world.mongo.client().database(name)
    }

    fn product(&self, rules: &str) -> Result<Product> {
        let World { mongo, endpoint, .. } = &self.world;
        let target = format!("{{ elasticsearch: {{ urls: [\"{}\"] }} }}", endpoint.url);
        Product::of(mongo.uri(), &target, rules)
    }

    /// The ordinary documents in so many collections.
    async fn spread(
        &self,
        database: &Database,
        count: u64,
    ) -> Result<(Vec<(Collection<Document>, u64)>, u64)> {
        let each = (self.world.documents / count).max(1);
        let (mut collections, mut written) = (Vec::new(), 0);
        for number in 0..count {
            let collection = database.collection(&format!("part_{number:04}"));
            let numbers: Range<u64> = number * each..(number + 1) * each;
            written += fill(&collection, numbers, ORDINARY).await?;
            collections.push((collection, each));
        }
        Ok((collections, written))
    }

    async fn copied(
        &mut self,
        row: &'static str,
        point: &str,
        collections: &[(Collection<Document>, u64)],
        bytes: u64,
        product: &Product,
    ) -> Result<()> {
        let world = &self.world;
        let documents = collections.iter().map(|(_, documents)| documents).sum();
        let (mut floor, mut first) = (Samples::default(), Samples::default());
        let mut costs = Costs::default();
        for _ in 0..self.rounds {
            let mut read = 0.0;
            for (collection, documents) in collections {
                read += floors::cursor(collection, *documents).await?.as_secs_f64();
            }
            floor.push(read);
            world.forget().await?;
            let before = world.endpoint.arrived().items;
            let mut running = product.start(&["--copy-only"])?;
            let begun = running.meanwhile(within(world.endpoint.until(before + 1))).await;
            let begun = begun.with_context(|| running.log())?;
            first.push((begun.at - running.started).as_secs_f64());
            let ended = running.ended().await?;
            costs.push(running.cost(ended)?);
            running.reap()?;
            let copied = world.endpoint.arrived().items - before;
            ensure!(copied == documents, "{copied} of {documents}");
        }
        let also = format!("the first request after {first} s");
        let point = point.to_owned();
        self.points.add(Point { row, point, documents, bytes, floor, costs, also });
        Ok(())
    }

    /// Stopped, each document updated, started.
    async fn caught_up(
        &mut self,
        point: &str,
        collection: &Collection<Document>,
        documents: u64,
        each: u64,
        product: &Product,
    ) -> Result<()> {
        let world = &self.world;
        let updates = documents.min(UPDATES);
        let (mut floor, mut costs) = (Samples::default(), Costs::default());
        world.forget().await?;
        following(product, collection, &world.endpoint).await?.terminate().await?;
        for round in 0..self.rounds {
            let start = update(collection, updates, u64::from(round) + 1).await?;
            floor.push(floors::stream(collection, start, updates).await?.as_secs_f64());
            let wanted = world.endpoint.arrived().items + updates;
            let mut running = product.start(&["--changes-only"])?;
            let all = running.meanwhile(within(world.endpoint.until(wanted))).await;
            let all = all.with_context(|| running.log())?;
            costs.push(running.cost(all.at)?);
            running.terminate().await?;
        }
        self.points.add(Point {
            row: "document size, catching up",
            point: point.to_owned(),
            documents: updates,
            bytes: updates * each,
            floor,
            costs,
            also: String::new(),
        });
        Ok(())
    }
}

fn rule(collection: &Collection<Document>) -> String {
    format!("  - namespace: {}\n    to: search\n", collection.namespace())
}
