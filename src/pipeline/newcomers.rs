//! Collections that a rule with a copy meets after it was copied: they come whole by their changes, so
//! there is nothing to copy. They get a plan all the same, stored before the first of their documents
//! is delivered: without it nobody would know, once such a collection is dropped while nobody looks,
//! that documents of it lie in the target, and which collection it was.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bson::Uuid;

use crate::{
    change::{ClusterTime, Namespace},
    checkpoint::{
        chunks::ChunkSet,
        keys,
        records::{CopyPlanRecord, CopyProgressRecord, put},
        store::{Store, Write},
    },
    delivery::insist_on_writing,
    source::stream::Event,
    target::Target,
};

use super::{
    Error,
    plan::{PartId, asked},
    reading::Reading,
    rule_set::RuleSet,
};

/// The id of a collection that was no more when its first change was read. No collection has it.
const UNKNOWN: Uuid = Uuid::from_bytes([0; 16]);

/// Knows what has a plan, and gives one to what has none.
pub struct Newcomers {
    reading: Arc<Reading>,
    rules: Arc<RuleSet>,
    /// Says where documents lie.
    target: Arc<dyn Target>,
    name: String,
    store: Arc<dyn Store>,
    planned: HashMap<PartId, ClusterTime>,
    /// Namespaces that have been looked at.
    known: HashSet<Namespace>,
}

impl Newcomers {
    /// `planned` says when the copy of each part was planned; `name` is the target's.
    pub fn new(
        reading: Arc<Reading>,
        rules: Arc<RuleSet>,
        target: Arc<dyn Target>,
        name: String,
        store: Arc<dyn Store>,
        planned: HashMap<PartId, ClusterTime>,
    ) -> Self {
        Self { reading, rules, target, name, store, planned, known: HashSet::new() }
    }

    /// When a part was planned, or met: what ended before that has been seen to.
    pub fn planned(&self, part: &PartId) -> Option<ClusterTime> {
        self.planned.get(part).copied()
    }

    /// Stores a plan of everything in these events that has none. To be called before they are passed
    /// on.
    ///
    /// # Errors
    /// Where the store or the source refuses; `Stopped`.
    pub async fn meet(&mut self, events: &[Event]) -> Result<(), Error> {
        let mut met: Vec<(PartId, ClusterTime)> = Vec::new();
        for event in events {
            let Event::Changed { namespace, time, .. } = event else { continue };
            if self.known.contains(namespace) {
                continue;
            }
            self.known.insert(namespace.clone());
            for &rule in &*self.rules.following(namespace) {
                let part = (rule, namespace.clone());
                if self.rules.get(rule).rule().copy.is_some() && !self.planned.contains_key(&part) {
                    self.planned.insert(part.clone(), *time);
                    met.push((part, *time));
                }
            }
        }
        if met.is_empty() {
            return Ok(());
        }
        // Asked for now, so that no document of a later collection is taken for one of this.
        let mut ids: HashMap<&str, Option<HashMap<Namespace, Uuid>>> = HashMap::new();
        let databases: BTreeSet<&str> = met.iter().map(|((_, name), _)| name.database()).collect();
        for database in databases {
            let list = || self.reading.source.collection_ids(database);
            ids.insert(database, asked(&self.reading, "listing collections", list).await?);
        }
        let writes: Vec<Write> = met
            .iter()
            .flat_map(|(part, time)| {
                let listed = ids.get(part.1.database()).and_then(Option::as_ref);
                // One that is gone already will be shown to have ended.
                let id = |listed: &HashMap<_, _>| listed.get(&part.1).copied().unwrap_or(UNKNOWN);
                self.plan(part, *time, listed.map(id))
            })
            .collect();
        Ok(insist_on_writing(&*self.store, writes, &self.reading.stop).await?)
    }

    /// A plan of which everything is done.
    fn plan(
        &self,
        (rule, namespace): &PartId,
        time: ClusterTime,
        collection: Option<Uuid>,
    ) -> [Write; 2] {
        let rule = self.rules.get(*rule).rule();
        let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
        tracing::info!(
            target = self.name,
            rule = rule.name,
            %namespace,
            "a collection that no copy of the rule has met: its changes are followed"
        );
        let plan = CopyPlanRecord {
            id: Uuid::new(),
            started: time,
            collection,
            bounds: Vec::new(),
            expected: 0,
            sweep: false,
            container: self.target.container(&rule.name, namespace).filter(|_| !moves),
            asked: false,
            ended: false,
            fingerprint: Some(rule.fingerprint.clone()),
        };
        let mut done = ChunkSet::default();
        done.insert(0);
        let progress =
            CopyProgressRecord { plan: plan.id, done, documents: 0, complete: true, swept: true };
        let (target, name) = (&self.name, namespace.as_str());
        [
            put(keys::copy_plan(target, &rule.name, name), &plan),
            put(keys::copy_progress(target, &rule.name, name), &progress),
        ]
    }
}
