//! What the run of an `events` rule begins with: where its stream is opened, and what is copied.
//!
//! As in `plan`, the order is the promise: what is demanded is stored first, then the position, then the
//! plans of the copies, and the rule is remembered once all of them are stored. A process that dies in
//! between plans again. There is less to it: what was told stays told, so that nothing is swept, nothing
//! is filled beside something else, and no rule has to do with another.

use std::{collections::BTreeMap, sync::Arc};

use bson::{DateTime, Uuid, oid::ObjectId};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Namespace, RuleIndex},
    checkpoint::{
        keys,
        records::{
            CopyPlanRecord, CopyProgressRecord, DemandRecord, PositionRecord, Record, RuleRecord,
            load, load_all, put, removal,
        },
        store::{RecordKey, Store, Table, Write},
    },
    delivery::{insist, insist_on_writing},
    rules::model::{OnRuleChange, Rule},
    source::namespaces::Found,
};

use super::{
    super::{
        Error, Options,
        copying::Copy,
        demand::Demand,
        plan::{
            Planned, are_all, asked, copy, cut, identity, namespaces, not_to_come, reaches,
            until_listed,
        },
        reading::Reading,
        rule_set::RuleSet,
        settling::Place,
    },
    images::Images,
    position::EventPosition,
};

/// Records read at once.
const PAGE: usize = 500;

/// The one rule of the pipeline.
pub const RULE: RuleIndex = RuleIndex(0);

/// Where the run of an `events` rule begins.
pub struct EventPlan {
    /// The stream's start.
    pub position: EventPosition,
    /// The replica set or sharded cluster that the position holds for.
    pub source: Option<ObjectId>,
    /// What is copied in this run.
    pub copies: Vec<Arc<Copy>>,
    /// Whether that was complete before.
    pub complete: bool,
}

/// Makes the plan of one `events` rule.
pub struct EventPlanning<'a> {
    /// The source.
    pub reading: &'a Reading,
    /// Where positions are kept.
    pub store: &'a Arc<dyn Store>,
    /// The target's name.
    pub name: &'a str,
    /// The one rule.
    pub rules: &'a RuleSet,
    /// Whose images are kept.
    pub images: &'a Images,
    /// What the command says.
    pub options: &'a Options,
    /// What has to be done again.
    pub demand: Demand,
    /// Ends every wait.
    pub stop: &'a CancellationToken,
}

impl EventPlanning<'_> {
    fn rule(&self) -> &Rule {
        self.rules.get(RULE).rule()
    }

    /// Reads what is stored, plans what is new or demanded, and stores it.
    ///
    /// # Errors
    /// `Refused` where the rule asks for what can't be had; see [`Error`].
    pub async fn make(mut self) -> Result<EventPlan, Error> {
        let stream = keys::Stream::new(self.name, Some(&self.rule().name));
        let rule_key = keys::event_rule(self.name, &self.rule().name);
        let known: Option<RuleRecord> = self.loaded(&rule_key).await?;
        let stored: Option<PositionRecord> = self.loaded(&stream.position()).await?;
        let demanded: Option<DemandRecord> = self.loaded(&stream.demand()).await?;
        if let Some(demanded) = demanded {
            let own = [self.rule().name.clone()].into();
            self.demand.join(Demand::of(demanded, &own));
        }
        let (source, lost) = identity(self.reading, self.rules, self.name, stored.as_ref()).await?;
        self.demand.join(lost);
        let fresh = known.is_none();
        self.compare(known.as_ref());
        self.keep_images(&namespaces(self.reading, self.rules, self.rule()).await?).await?;
        // After the images, so that no event behind it lacks one.
        let now = match &stored {
            Some(stored) if !fresh && self.demand.is_nothing() => stored.time,
            _ => {
                let source = &self.reading.source;
                let now = asked(self.reading, "reading the cluster time", || source.now()).await?;
                stored.as_ref().map_or(now, |stored| now.max(stored.time))
            }
        };
        let position = self.position(stored.as_ref(), now).await?;
        // What comes into being after this is in the stream; what was there is among those that are
        // looked for now. Behind `now`, since images may take long to be switched on.
        let mut found = namespaces(self.reading, self.rules, self.rule()).await?;
        let copies_at_all = self.rule().copy.is_some();
        let again = self.demand.rules.contains(&self.rule().name);
        let copies_now = copies_at_all && !self.options.changes_only && (fresh || again);
        if copies_now && !are_all(self.rule(), !found.is_empty()) {
            until_listed(self.stop).await?;
            found = namespaces(self.reading, self.rules, self.rule()).await?;
        }
        self.keep_images(&found).await?;
        if !self.demand.is_nothing() {
            self.write(vec![put(stream.demand(), &self.demand.record())]).await?;
        }
        // Durable before the first document is read.
        let record = PositionRecord {
            time: position.time(),
            token: position.token(),
            source,
            behind: BTreeMap::new(),
            stored_at: DateTime::now(),
        };
        self.write(vec![put(stream.position(), &record)]).await?;
        let mut planned = self.stored_copies().await?;
        if copies_now {
            self.forget(planned.keys()).await?;
            planned.clear();
            for found in found {
                let (namespace, kind) = (found.namespace, found.kind);
                let (bounds, size) = cut(self.reading, self.rule(), &namespace, kind).await?;
                let plan = CopyPlanRecord {
                    id: Uuid::new(),
                    started: now,
                    collection: None,
                    bounds,
                    expected: size.documents,
                    sweep: false,
                    container: None,
                    asked: again,
                    ended: false,
                    fingerprint: Some(self.rule().fingerprint.clone()),
                };
                let rule = &self.rule().name;
                let key = keys::event_copy_plan(self.name, rule, namespace.as_str());
                self.write(vec![put(key, &plan)]).await?;
                let own = Planned { namespace, plan, progress: None, size: Some(size) };
                planned.insert(own.namespace.clone(), own);
            }
        }
        if copies_at_all && !fresh && !again && planned.is_empty() {
            tracing::info!(
                target = self.name,
                rule = self.rule().name,
                "nothing is copied, though `copy` is on: the rule has run before, and nothing was copied \
                 then. `mongosync resync` copies what is there"
            );
        }
        // One that this run does not copy is still new to the next.
        if !fresh || !copies_at_all || !self.options.changes_only {
            let record = RuleRecord {
                fingerprint: self.rule().fingerprint.clone(),
                since: DateTime::now(),
                containers: Vec::new(),
            };
            self.write(vec![put(rule_key, &record)]).await?;
        }
        if !self.demand.is_nothing() {
            self.write(vec![removal::<DemandRecord>(stream.demand())]).await?;
        }
        let mut copies = Vec::new();
        let mut complete = true;
        let carried_out = copies_at_all && !self.options.changes_only;
        for planned in planned.into_values().filter(|own| carried_out || own.plan.asked) {
            complete &= planned.is_complete();
            copies.push(Arc::new(copy(self.reading, self.rules, RULE, planned).await?));
        }
        Ok(EventPlan { position, source, copies, complete })
    }

    async fn keep_images(&self, found: &[Found]) -> Result<(), Error> {
        if self.rules.get(RULE).follows() {
            for found in found {
                self.images.ensure(&found.namespace).await?;
            }
        }
        Ok(())
    }

    /// Where the stream goes on.
    async fn position(
        &self,
        stored: Option<&PositionRecord>,
        now: ClusterTime,
    ) -> Result<EventPosition, Error> {
        if let Some(time) = self.demand.seek {
            return Ok(EventPosition::at(time));
        }
        if self.demand.lost {
            return Ok(EventPosition::at(now));
        }
        if let Some(stored) = stored {
            return Ok(EventPosition::of(stored));
        }
        let copies = self.rule().copy.is_some() || self.rule().changes.is_none();
        match self.rule().since() {
            Some(time) => {
                not_to_come(self.name, self.rule())?;
                let since = ClusterTime::from(time);
                reaches(self.reading, self.name, since, Some(since)).await?;
                Ok(EventPosition::at(since))
            }
            None if copies => Ok(EventPosition::at(now)),
            // A stream begins with what happened at its time, and that is no news.
            None => Ok(EventPosition::at(now.after())),
        }
    }

    /// Sees to a rule that is not the one of before. What it told then stays told.
    fn compare(&mut self, known: Option<&RuleRecord>) {
        let rule = self.rules.get(RULE).rule();
        if known.is_none_or(|known| known.fingerprint == rule.fingerprint) {
            return;
        }
        let again = rule.on_rule_change == OnRuleChange::Resync;
        tracing::info!(
            target = self.name,
            rule = rule.name,
            "the rule has changed: what is told from now on is told by the new one{}",
            if again { ", and what is there is copied again" } else { "" }
        );
        if again {
            self.demand.rules.insert(rule.name.clone());
        }
    }

    /// The plans of all copies of the rule, and how far they are.
    async fn stored_copies(&self) -> Result<BTreeMap<Namespace, Planned>, Error> {
        let prefix = keys::event_copies(self.name, &self.rule().name);
        let mut plans = BTreeMap::new();
        let mut progress = BTreeMap::new();
        let mut after: Option<RecordKey> = None;
        loop {
            let scan = || self.store.scan(Table::Copies, &prefix, after.as_ref(), PAGE);
            let page = insist(self.stop, scan).await?;
            let last = page.len() < PAGE;
            for (key, record) in &page {
                let [.., namespace, kind] = key.0.as_slice() else { continue };
                let namespace = str::from_utf8(namespace).ok().and_then(Namespace::parse);
                let Some(namespace) = namespace else { continue };
                let place = self.store.place();
                match kind.as_slice() {
                    b"plan" => {
                        drop(plans.insert(namespace, CopyPlanRecord::decode(record, place)?))
                    }
                    b"progress" => {
                        let record = CopyProgressRecord::decode(record, place)?;
                        progress.insert(namespace, record);
                    }
                    _ => {}
                }
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
            if last {
                break;
            }
        }
        Ok(plans
            .into_iter()
            .map(|(namespace, plan)| {
                let progress = progress.remove(&namespace);
                (namespace.clone(), Planned { namespace, plan, progress, size: None })
            })
            .collect())
    }

    async fn forget(&self, namespaces: impl Iterator<Item = &Namespace>) -> Result<(), Error> {
        let rule = &self.rule().name;
        let writes: Vec<Write> = namespaces
            .flat_map(|namespace| {
                let namespace = namespace.as_str();
                [
                    removal::<CopyPlanRecord>(keys::event_copy_plan(self.name, rule, namespace)),
                    removal::<CopyProgressRecord>(keys::event_copy_progress(
                        self.name, rule, namespace,
                    )),
                ]
            })
            .collect();
        for writes in writes.chunks(PAGE) {
            self.write(writes.to_vec()).await?;
        }
        Ok(())
    }

    async fn loaded<R: Record>(&self, key: &RecordKey) -> Result<Option<R>, Error> {
        Ok(insist(self.stop, || load(&**self.store, key)).await?)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), Error> {
        Ok(insist_on_writing(&**self.store, writes, self.stop).await?)
    }
}

/// Forgets where the `events` rules of a target were that its file no longer has.
///
/// # Errors
/// See [`Error`].
pub async fn forget_removed_rules(
    store: &Arc<dyn Store>,
    target: &str,
    known: impl Fn(&str) -> bool,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let prefix = keys::event_rules(target);
    let rules = insist(stop, || load_all::<RuleRecord>(&**store, &prefix)).await?;
    for (key, _) in rules {
        let Some(name) = key.0.last().and_then(|name| str::from_utf8(name).ok()) else { continue };
        if known(name) {
            continue;
        }
        let copies = keys::event_copies(target, name);
        loop {
            let page = insist(stop, || store.scan(Table::Copies, &copies, None, PAGE)).await?;
            if page.is_empty() {
                break;
            }
            let gone =
                page.into_iter().map(|(key, _)| Write { table: Table::Copies, key, value: None });
            insist_on_writing(&**store, gone.collect(), stop).await?;
        }
        let stream = keys::Stream::new(target, Some(name));
        let position = removal::<PositionRecord>(stream.position());
        let demand = removal::<DemandRecord>(stream.demand());
        insist_on_writing(&**store, vec![position, demand], stop).await?;
        // Last: while it is there, the rest is found again.
        insist_on_writing(&**store, vec![removal::<RuleRecord>(key.clone())], stop).await?;
        tracing::info!(
            target,
            rule = name,
            "the rule no longer tells events here: its position is forgotten"
        );
    }
    Ok(())
}
