//! What a case works with: a source, a target, and a rule file that leads from one to the other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use serde_json::Value;

use super::{
    engine::EngineSide,
    lines::{FileSide, StdoutSide},
    mongodb::MongoSide,
    side::{Kind, Side},
    webhook::WebhookSide,
};
use crate::support::{
    checker::{Differences, plain_id},
    run::{RuleFile, Run},
    sourced::Sourced,
    unique,
};

/// What rule files call the target.
pub const OUT: &str = "out";

/// A collection of the source and a target of one kind.
pub struct Bench {
    pub kind: Kind,
    pub sourced: Sourced,
    pub items: Collection<Document>,
    pub side: Box<dyn Side>,
    namespace: String,
}

impl Bench {
    pub async fn new(kind: Kind) -> Result<Self> {
        let sourced = Sourced::new().await?;
        let database = format!("conform{}", unique());
        let namespace = format!("{database}.items");
        let side: Box<dyn Side> = match kind {
            Kind::Engine => Box::new(EngineSide::new(&format!("{database}-items")).await?),
            Kind::MongoDb => Box::new(MongoSide::new(&database).await?),
            Kind::Webhook => Box::new(WebhookSide::new().await?),
            Kind::File => Box::new(FileSide::new(sourced.folder.path())?),
            Kind::Stdout => Box::new(StdoutSide::default()),
        };
        Ok(Self { kind, items: sourced.collection(&namespace), sourced, side, namespace })
    }

    /// A rule file that delivers documents, with these settings of the target and more lines of the rule.
    pub fn file(&self, settings: &str, rule: &str) -> Result<RuleFile> {
        self.file_of("100ms", &self.target(settings), &self.rule("documents", OUT, rule))
    }

    pub fn file_of(&self, every: &str, targets: &str, rules: &str) -> Result<RuleFile> {
        self.sourced.rule_file(every, targets, rules)
    }

    /// The target's line.
    pub fn target(&self, settings: &str) -> String {
        format!("  {OUT}: {}", self.side.entry(settings))
    }

    /// The lines of a rule over the collection.
    pub fn rule(&self, delivery: &str, to: &str, more: &str) -> String {
        let namespace = &self.namespace;
        format!(
            "  - name: items\n    namespace: {namespace}\n    delivery: {delivery}\n    to: {to}\n{more}"
        )
    }

    pub fn run(&self, file: &RuleFile) -> Result<Run> {
        self.side.run(file)
    }

    /// Waits until all that the source has acknowledged by now is settled.
    pub async fn settled(&self, run: &mut Run) -> Result<()> {
        self.sourced.settled(run, OUT).await
    }

    /// Fails where the target does not hold every document of the source as it is, and no other.
    /// Returns how many there are.
    pub async fn same(&self) -> Result<usize> {
        self.same_but(&BTreeSet::new()).await
    }

    /// The same, whatever it holds of some.
    pub async fn same_but(&self, passed_over: &BTreeSet<String>) -> Result<usize> {
        self.holds(passed_over, |id, document| vec![(id, self.side.shown(document))]).await
    }

    /// Fails where the target does not hold what `shape` makes of each document: ids and bodies.
    pub async fn holds(
        &self,
        passed_over: &BTreeSet<String>,
        shape: impl Fn(String, &Document) -> Vec<(String, Value)>,
    ) -> Result<usize> {
        let mut held = self.side.held().await?;
        held.retain(|id, _| !passed_over.contains(id));
        let mut differences = Differences::default();
        let mut cursor = self.items.find(doc! {}).await?;
        while let Some(document) = cursor.try_next().await? {
            let id = document.get("_id").and_then(plain_id).context("a plain id")?;
            if passed_over.contains(&id) {
                continue;
            }
            for (id, expected) in shape(id, &document) {
                differences.checked += 1;
                match held.remove(&id) {
                    None => differences.missing.push(id),
                    Some(found) if found != expected => {
                        differences.stale.push(format!("{id}: {found} is not {expected}"));
                    }
                    Some(_) => {}
                }
            }
        }
        differences.extra = held.into_keys().collect();
        differences.none()
    }

    /// Fails where a state of a document came behind a newer one of it. Returns how many there were.
    pub async fn in_order(&self) -> Result<usize> {
        let seen = self.side.seen().await?;
        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        for (id, n) in &seen {
            let newest = newest.entry(id).or_insert(*n);
            ensure!(n >= newest, "{id} goes back from {newest} to {n}");
            *newest = *n;
        }
        Ok(seen.len())
    }

    /// The `_id`s in the dead letters.
    pub async fn letters(&self, file: &RuleFile) -> Result<BTreeSet<String>> {
        let letters = file.dead_letters().await?;
        let mut ids = BTreeSet::new();
        for letter in &letters {
            ids.insert(letter["key_text"].as_str().context("a key")?.to_owned());
        }
        ensure!(ids.len() == letters.len(), "two letters of one document: {letters:#?}");
        Ok(ids)
    }
}
