//! What planning reads from the checkpoint store and leaves there.

use std::collections::{BTreeMap, BTreeSet};

use bson::DateTime;

use crate::{
    change::{ClusterTime, Namespace},
    checkpoint::{
        keys,
        records::{
            CopyPlanRecord, CopyProgressRecord, DemandRecord, KeptRecord, PlacesRecord,
            PositionRecord, Record, RuleRecord, load, load_all, page, put, removal,
        },
        store::{RecordKey, Table, Write},
    },
    pipeline::{Error, demand::Demand},
    rules::model::Rule,
};

use super::{Planned, Planning};

/// Records read at once.
const PAGE: usize = 500;
/// Later than anything is ever written.
const FOR_EVER: ClusterTime = ClusterTime(u64::MAX);

/// The names of a rule and of a namespace, as they are stored.
type Part = (Vec<u8>, Vec<u8>);
/// Of every rule that has copies, by name: its copies.
pub(super) type StoredCopies = BTreeMap<String, BTreeMap<Namespace, Planned>>;

impl Planning<'_> {
    /// The plans of all copies into the target, and how far they are.
    pub(super) async fn stored_copies(&self) -> Result<StoredCopies, Error> {
        let prefix = keys::all_copies(self.name);
        let mut stored: BTreeMap<Part, (Option<_>, Option<_>)> = BTreeMap::new();
        let mut after: Option<RecordKey> = None;
        loop {
            let page = self
                .stored(|| self.store.scan(Table::Copies, &prefix, after.as_ref(), PAGE))
                .await?;
            let last = page.len() < PAGE;
            for (key, record) in &page {
                let [_, rule, namespace, kind] = key.0.as_slice() else { continue };
                let entry = stored.entry((rule.clone(), namespace.clone())).or_default();
                let place = self.store.place();
                match kind.as_slice() {
                    b"plan" => entry.0 = Some(CopyPlanRecord::decode(record, place)?),
                    b"progress" => entry.1 = Some(CopyProgressRecord::decode(record, place)?),
                    _ => {}
                }
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
            if last {
                break;
            }
        }
        let mut copies = StoredCopies::new();
        for ((rule, namespace), (plan, progress)) in stored {
            let (Ok(rule), Ok(namespace)) = (String::from_utf8(rule), str::from_utf8(&namespace))
            else {
                continue;
            };
            let (Some(namespace), Some(plan)) = (Namespace::parse(namespace), plan) else {
                continue;
            };
            let planned = Planned { namespace: namespace.clone(), plan, progress, size: None };
            copies.entry(rule).or_default().insert(namespace, planned);
        }
        Ok(copies)
    }

    /// A rule that has gone from the file is forgotten: should it come back, what happened meanwhile
    /// is not in any stream that is still to be read, so it begins with a copy. What it wrote stays,
    /// whoever is copied into the same place again.
    pub(super) async fn forget_removed_rules(&self, all: &mut StoredCopies) -> Result<(), Error> {
        let prefix = keys::rules(self.name);
        let known = self.stored(|| load_all::<RuleRecord>(&**self.store, &prefix)).await?;
        let mut recorded = BTreeSet::new();
        for (key, record) in known {
            let Some(name) = key.0.last().and_then(|name| str::from_utf8(name).ok()) else {
                continue;
            };
            recorded.insert(name.to_owned());
            if self.all_rules.contains(name) {
                continue;
            }
            let kept = KeptRecord { before: self.written().await? };
            let keep = |pattern: &String| put(keys::kept_of(self.name, pattern, name), &kept);
            self.write(record.containers.iter().map(keep).collect()).await?;
            // The record of the rule goes before its copies: without it what is left of them is
            // planned over.
            self.write(vec![removal::<RuleRecord>(key.clone())]).await?;
            let copies = all.remove(name).unwrap_or_default();
            self.forget_copies(name, copies.keys()).await?;
            tracing::info!(
                target = self.name,
                rule = name,
                "the rule is no longer in the file: its progress is forgotten, its documents stay in \
                 the target"
            );
        }
        self.end_keeping(&recorded).await
    }

    /// What a rule without a record writes, as long as it has none: it is new to the next run that
    /// copies, and what it wrote meanwhile stays should it leave the file before.
    pub(super) async fn keep_all(&self, rule: &Rule) -> Result<(), Error> {
        let kept = KeptRecord { before: FOR_EVER };
        let keep = |pattern: &String| put(keys::kept_of(self.name, pattern, &rule.name), &kept);
        self.write(self.containers(rule).iter().map(keep).collect()).await
    }

    /// What rules wrote that never had a record, and have left the file, ends with the present.
    async fn end_keeping(&self, recorded: &BTreeSet<String>) -> Result<(), Error> {
        let prefix = keys::all_kept(self.name);
        let kept = self.stored(|| load_all::<KeptRecord>(&**self.store, &prefix)).await?;
        for (key, record) in kept {
            let Some(rule) = key.0.get(3).and_then(|name| str::from_utf8(name).ok()) else {
                continue;
            };
            // One that has a record by now wrote to other places before.
            let ends = !self.all_rules.contains(rule) || recorded.contains(rule);
            if ends && record.before == FOR_EVER {
                let before = self.written().await?;
                self.write(vec![put(key, &KeptRecord { before })]).await?;
            }
        }
        Ok(())
    }

    /// Forgets plans of collections that were no more when they were made, and have been swept.
    pub(super) async fn forget_ended(
        &self,
        rule: &Rule,
        copies: BTreeMap<Namespace, Planned>,
        position: Option<&PositionRecord>,
    ) -> Result<BTreeMap<Namespace, Planned>, Error> {
        // Until then its end is shown again, and the plan says that it has been seen to.
        let passed = |own: &Planned| position.is_some_and(|at| at.time > own.plan.started);
        let (ended, rest): (BTreeMap<_, _>, BTreeMap<_, _>) = copies
            .into_iter()
            .partition(|(_, own)| own.plan.ended && own.is_swept() && passed(own));
        self.forget_copies(&rule.name, ended.keys()).await?;
        Ok(rest)
    }

    async fn forget_copies(
        &self,
        rule: &str,
        namespaces: impl Iterator<Item = &Namespace>,
    ) -> Result<(), Error> {
        let writes: Vec<Write> = namespaces
            .flat_map(|namespace| {
                let namespace = namespace.as_str();
                [
                    removal::<CopyPlanRecord>(keys::copy_plan(self.name, rule, namespace)),
                    removal::<CopyProgressRecord>(keys::copy_progress(self.name, rule, namespace)),
                ]
            })
            .collect();
        for writes in writes.chunks(PAGE) {
            self.write(writes.to_vec()).await?;
        }
        Ok(())
    }

    /// What is remembered of a rule; widened by where it writes now.
    pub(super) async fn rule_record(&self, rule: &Rule) -> Result<Option<RuleRecord>, Error> {
        let key = keys::rule(self.name, &rule.name);
        let found: Option<RuleRecord> = self.stored(|| load(&**self.store, &key)).await?;
        let Some(mut record) = found else { return Ok(None) };
        let known = record.containers.len();
        for pattern in self.containers(rule) {
            if !record.containers.contains(&pattern) {
                record.containers.push(pattern);
            }
        }
        if record.containers.len() > known {
            self.write(vec![put(key, &record)]).await?;
        }
        Ok(Some(record))
    }

    /// What a rule wrote to where it no longer writes stays, whoever is copied there again.
    pub(super) async fn keep_elsewhere(
        &self,
        rule: &Rule,
        record: &RuleRecord,
    ) -> Result<(), Error> {
        let present = self.containers(rule);
        for pattern in record.containers.iter().filter(|pattern| !present.contains(pattern)) {
            let key = keys::kept_of(self.name, pattern, &rule.name);
            let known: Option<KeptRecord> = self.stored(|| load(&**self.store, &key)).await?;
            if known.is_none() {
                let before = self.written().await?;
                self.write(vec![put(key, &KeptRecord { before })]).await?;
            }
        }
        Ok(())
    }

    /// Later than everything that has been written to the target.
    async fn written(&self) -> Result<ClusterTime, Error> {
        let now = self.asked("reading the cluster time", || self.reading.source.now()).await?;
        let place = keys::position(self.name);
        let position: Option<PositionRecord> = self.stored(|| load(&**self.store, &place)).await?;
        // A member that lags tells of an earlier time than a copy began at.
        let copies = self.stored_copies().await?;
        let planned = copies.values().flat_map(BTreeMap::values).map(|own| own.plan.started).max();
        let stored = position.map(|position| position.time).max(planned);
        Ok(stored.map_or(now, |stored| now.max(stored)).after())
    }

    /// Remembers that all of a rule was planned by its present definition.
    pub(super) async fn remember_rule(&self, rule: &Rule) -> Result<(), Error> {
        let known = self.rule_record(rule).await?;
        let record = RuleRecord {
            fingerprint: rule.fingerprint.clone(),
            since: DateTime::now(),
            containers: known.map_or_else(|| self.containers(rule), |known| known.containers),
        };
        self.write(vec![put(keys::rule(self.name, &rule.name), &record)]).await?;
        // One that comes back owns what it wrote before.
        let owned = |pattern| removal::<KeptRecord>(keys::kept_of(self.name, pattern, &rule.name));
        self.write(self.containers(rule).iter().map(|pattern| owned(pattern)).collect()).await
    }

    /// Where a rule's documents may lie.
    pub(super) fn containers(&self, rule: &Rule) -> Vec<String> {
        match rule.transform.as_ref().is_some_and(|script| script.may_move()) {
            true => vec!["*".to_owned()],
            false => self.target.containers(&rule.name),
        }
    }

    /// Adds what an earlier run was to copy again and has not planned.
    pub(super) async fn recall_demand(&mut self) -> Result<(), Error> {
        let key = keys::demand(self.name);
        let stored: Option<DemandRecord> = self.stored(|| load(&**self.store, &key)).await?;
        if let Some(record) = stored {
            self.demand.join(Demand::of(record, &self.all_rules));
        }
        Ok(())
    }

    /// Stores what is to be copied again.
    pub(super) async fn remember_demand(&self) -> Result<(), Error> {
        if self.demand.is_nothing() {
            return Ok(());
        }
        self.write(vec![put(keys::demand(self.name), &self.demand.record())]).await
    }

    /// Forgets it, as far as this run has planned it.
    pub(super) async fn forget_demand(&self) -> Result<(), Error> {
        if self.demand.is_nothing() {
            return Ok(());
        }
        // A run without all rules can't sweep: the next whole one plans it again.
        let left = match self.is_whole() {
            true => self.demand.left_by(&self.active()),
            false => self.demand.clone(),
        };
        let key = keys::demand(self.name);
        let write = match left.is_nothing() {
            true => removal::<DemandRecord>(key),
            false => put(key, &left.record()),
        };
        self.write(vec![write]).await
    }

    /// Forgets where a rule's documents of a namespace lie: what is kept for ever is nobody's.
    pub(super) async fn forget_places(
        &self,
        rule: &Rule,
        namespace: &Namespace,
    ) -> Result<(), Error> {
        let prefix = keys::places(self.name, namespace.as_str());
        let mut after = None;
        loop {
            let found = self
                .stored(|| page::<PlacesRecord>(&**self.store, &prefix, after.as_ref(), PAGE))
                .await?;
            let complete = found.len() < PAGE;
            after = found.last().map(|(key, _)| key.clone());
            let writes = found.into_iter().filter_map(|(key, mut record)| {
                let before = record.places.len();
                record.places.retain(|place| place.rule != rule.name);
                let value = (!record.places.is_empty()).then(|| record.encode());
                let changed = record.places.len() != before;
                changed.then_some(Write { table: Table::Places, key, value })
            });
            self.write(writes.collect()).await?;
            if complete {
                return Ok(());
            }
        }
    }
}
