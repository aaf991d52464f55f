//! What one target's run begins with: from which time the stream is followed, and what is copied.
//!
//! The order is the promise: what has to be copied again is stored first, then the position, then the
//! plans of the copies, and a rule is remembered once all its plans are stored; only then is what had
//! to be copied again forgotten, and the first document read. A process that dies in between plans
//! again.

mod again;
mod choosing;
mod names;
mod replacing;
mod stored;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use bson::{DateTime, Timestamp, Uuid, oid::ObjectId};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Namespace, RuleIndex},
    checkpoint::{
        keys,
        records::{
            CopyPlanRecord, CopyProgressRecord, KeptRecord, PositionRecord, RuleRecord, load, put,
        },
        requests::is_to_come,
        store::{Store, StoreError, Write},
    },
    delivery::{insist, insist_on_writing},
    rules::model::{CopySettings, NamespacePattern, OnRuleChange, Rule, RuleFile},
    source::{
        chunks,
        error::Error as SourceError,
        namespaces::{Found, Kind, LISTED_WITHIN, Size},
        selection,
    },
    status::RuleStatus,
    target::Target,
};

use super::{
    Error, Options,
    copying::Copy,
    demand::Demand,
    following::{Lost, history_lost},
    reading::Reading,
    rule_set::RuleSet,
};

pub use again::PartId;
use choosing::Chosen;
pub use names::stored_names;
pub use replacing::Replacements;

/// Collections that the source is asked about at a time: the answers are small and the ways long.
const AT_ONCE: usize = 8;

/// Where a target's run begins.
pub struct Plan {
    /// The stream's start.
    pub start: ClusterTime,
    /// The replica set or sharded cluster that the position holds for.
    pub source: Option<ObjectId>,
    /// Rules that this run leaves out, and where they are.
    pub behind: BTreeMap<String, ClusterTime>,
    /// Of each rule with a copy: its copies, and whether they were complete before.
    pub copies: Vec<(RuleIndex, Vec<Arc<Copy>>, bool)>,
    /// When the copy of each part was planned, copies of earlier runs too.
    pub planned: HashMap<PartId, ClusterTime>,
    /// The newest start of a copy into the target: what is written for changes is not older.
    pub floor: ClusterTime,
    /// Whether everything that is copied into the target is part of this run or complete.
    pub whole: bool,
    /// What is filled beside what is read, and swapped in.
    pub replacements: Replacements,
}

/// Makes the plan of one target.
pub struct Planning<'a> {
    /// The source.
    pub reading: &'a Reading,
    /// Where positions are kept.
    pub store: &'a Arc<dyn Store>,
    /// The target's name.
    pub name: &'a str,
    /// The rule file.
    pub file: &'a RuleFile,
    /// The target, which says where documents lie.
    pub target: &'a dyn Target,
    /// Its rules in this run.
    pub rules: &'a RuleSet,
    /// The names of all its rules in the file.
    pub all_rules: BTreeSet<String>,
    /// Of each rule, by its index.
    pub rule_status: &'a [Arc<RuleStatus>],
    /// What the command says.
    pub options: &'a Options,
    /// What has to be copied again.
    pub demand: Demand,
    /// Ends every wait.
    pub stop: &'a CancellationToken,
}

/// A copy as the store or a fresh plan has it.
pub struct Planned {
    /// Of what.
    pub namespace: Namespace,
    /// How it is cut up.
    pub plan: CopyPlanRecord,
    /// How far it is.
    pub progress: Option<CopyProgressRecord>,
    /// What was read of its size to cut it up, where that was now.
    pub size: Option<Size>,
}

impl Planned {
    /// Whether all of it is settled, and the target knows.
    pub fn is_complete(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|own| own.complete && own.plan == self.plan.id)
    }

    fn has_progress(&self) -> bool {
        let progress = self.progress.as_ref();
        progress.is_some_and(|own| own.plan == self.plan.id && !own.done.is_empty())
    }

    fn is_swept(&self) -> bool {
        self.is_complete() && self.progress.as_ref().is_some_and(|own| own.swept)
    }
}

/// The copies of each rule.
type Copies = BTreeMap<RuleIndex, BTreeMap<Namespace, Planned>>;

impl Planning<'_> {
    /// Reads what is stored, plans what is new or demanded, and stores it.
    ///
    /// # Errors
    /// `Refused` where a rule asks for what can't be had; see [`Error`].
    pub async fn make(mut self) -> Result<Plan, Error> {
        let key = keys::position(self.name);
        let mut position: Option<PositionRecord> =
            self.stored(|| load(&**self.store, &key)).await?;
        let mut all = self.stored_copies().await?;
        self.forget_removed_rules(&mut all).await?;
        self.recall_demand().await?;
        let (source, lost) =
            identity(self.reading, self.rules, self.name, position.as_ref()).await?;
        self.demand.join(lost);
        let known = position.as_ref().and_then(|position| position.source);
        let same = known.is_none() || known == source;
        let newest = all.values().flat_map(BTreeMap::values).map(|own| own.plan.started).max();
        let records: Vec<_> =
            self.rules.iter().map(|(_, rule)| self.rule_record(rule.rule())).collect();
        let records: Vec<_> = stream::iter(records).buffered(AT_ONCE).try_collect().await?;
        let known_rules: Vec<_> = self.rules.iter().map(|(index, _)| index).zip(records).collect();
        let fresh = known_rules.iter().filter(|(_, record)| record.is_none());
        let fresh: BTreeSet<RuleIndex> = fresh.map(|(index, _)| *index).collect();
        // Says what can't be copied at all before anything is stored.
        self.namespaces_of(|index| fresh.contains(&index)).await?;
        let mut copies = Copies::new();
        for (index, record) in known_rules {
            let rule = self.rules.get(index).rule();
            let own = all.remove(&rule.name).unwrap_or_default();
            let own = self.forget_ended(rule, own, position.as_ref()).await?;
            copies.insert(index, own);
            if let Some(record) = record {
                self.keep_elsewhere(rule, &record).await?;
                self.compare(index, rule, &record);
                self.begin_anew(rule, &copies[&index]);
            }
        }
        self.try_reads().await?;
        let mut replacements = self.replacements(&copies).await?;
        // What comes into being after this is in the stream; what was there is among the namespaces
        // that are looked for next.
        let now = match &position {
            Some(position) if fresh.is_empty() && self.demand.is_empty() => position.time,
            _ => {
                let now =
                    self.asked("reading the cluster time", || self.reading.source.now()).await?;
                // A member that lags tells of an earlier time; copies of one another's documents
                // are told apart by theirs.
                let known = position.as_ref().map(|position| position.time);
                now.max(self.demand.seen).max(known.max(newest).unwrap_or_default())
            }
        };
        let (all, chosen) = self.chosen(&fresh, &copies, same).await?;
        self.hold_names().await?;
        self.settle(&fresh, &copies, &chosen)?;
        let begin = self.new_replacements(&chosen).await?;
        self.remember_demand().await?;
        self.remember_replacements(&begin, now).await?;
        // What was begun before under these names is not filled any more.
        replacements.extend(begin);
        if let Some(position) = &mut position {
            // One that is copied now needs nothing of the stream from before.
            let copied = fresh.iter().map(|&index| self.rules.get(index).rule());
            let copied = copied.filter(|rule| rule.copy.is_some() && !self.options.changes_only);
            let copied: BTreeSet<&str> = copied.map(|rule| rule.name.as_str()).collect();
            position.behind.retain(|rule, _| !copied.contains(rule.as_str()));
        }
        if let Some(position) = position.as_mut().filter(|_| self.demand.lost) {
            position.time = now;
            position.behind.retain(|rule, _| !self.active().contains(rule.as_str()));
        }
        if let (Some(position), Some(time)) = (position.as_mut(), self.demand.seek) {
            position.time = time;
            position.behind.retain(|rule, _| !self.active().contains(rule.as_str()));
        }
        let new = || fresh.iter().map(|&index| self.rules.get(index).rule());
        let since = first_start(new());
        self.none_to_come(new())?;
        let (start, behind) = start(position.as_ref(), now, since, self.active(), &self.all_rules);
        if position.as_ref().map_or(now, |position| position.time) > start {
            reaches(self.reading, self.name, start, since).await?;
        }
        // Durable before the first document is read.
        let mut record = PositionRecord {
            time: start,
            token: None,
            // Until everything is planned, it is another one's ids that are known.
            source: known.or(source),
            behind: stored_times(&behind),
            stored_at: DateTime::now(),
        };
        self.write(vec![put(keys::position(self.name), &record)]).await?;
        self.plan_parts(&chosen, &mut copies, now).await?;
        let whole = self.planned_whole(&fresh, &chosen, &all);
        for &index in fresh.iter().filter(|index| !whole.contains(index)) {
            self.keep_all(self.rules.get(index).rule()).await?;
        }
        let remembered: Vec<_> =
            whole.iter().map(|&index| self.remember_rule(self.rules.get(index).rule())).collect();
        let () = stream::iter(remembered).buffered(AT_ONCE).try_collect().await?;
        for index in whole {
            self.rule_status[usize::from(index.0)].stale(false);
        }
        if !same {
            record.source = source;
            self.write(vec![put(keys::position(self.name), &record)]).await?;
        }
        self.forget_demand().await?;
        let planned: HashMap<_, _> = copies
            .iter()
            .flat_map(|(&rule, copies)| {
                copies.values().map(move |own| ((rule, own.namespace.clone()), own.plan.started))
            })
            .collect();
        let floor = planned.values().copied().max().max(newest).unwrap_or_default();
        let left_out = |own: &Planned| !self.is_copied(own) && !own.is_complete();
        let whole = self.is_whole() && !copies.values().flat_map(BTreeMap::values).any(left_out);
        let copies = self.copies(copies, whole).await?;
        Ok(Plan { start, source, behind, copies, planned, floor, whole, replacements })
    }

    /// Gives each namespace its place in the target: to those that were copied before, in that order, and
    /// then to new ones. A new rule for which there is none is refused; where a collection came later, its
    /// documents are.
    fn settle(
        &self,
        fresh: &BTreeSet<RuleIndex>,
        copies: &Copies,
        chosen: &BTreeMap<PartId, Chosen>,
    ) -> Result<(), Error> {
        let all =
            copies.iter().flat_map(|(index, copies)| copies.values().map(|own| (*index, own)));
        let is_read = |(index, own): &(RuleIndex, &Planned)| {
            let part = (*index, own.namespace.clone());
            let gone = chosen.get(&part).is_some_and(|chosen| chosen.kind.is_none());
            !own.plan.ended
                && !gone
                && self.rules.reads(self.rules.get(*index).rule(), &own.namespace)
        };
        let mut known: Vec<_> = all.filter(is_read).collect();
        known.sort_by_key(|(_, own)| own.plan.started);
        let known = known.into_iter().map(|(index, own)| (index, &own.namespace));
        let new = chosen.iter().filter(|(_, chosen)| chosen.kind.is_some());
        let new = new.map(|((index, namespace), _)| (*index, namespace));
        for (index, namespace) in known.chain(new) {
            let rule = self.rules.get(index).rule();
            match self.target.settle(&rule.name, namespace) {
                Ok(()) => {}
                Err(words) if fresh.contains(&index) => {
                    return Err(Error::Refused(format!("target {}: {words}", self.name)));
                }
                Err(words) => tracing::warn!(
                    target = self.name,
                    rule = rule.name,
                    %namespace,
                    "its documents become dead letters: {words}"
                ),
            }
        }
        Ok(())
    }

    /// The rules of which everything that they read was planned by the present definition.
    fn planned_whole(
        &self,
        fresh: &BTreeSet<RuleIndex>,
        chosen: &BTreeMap<PartId, Chosen>,
        all: &[PartId],
    ) -> Vec<RuleIndex> {
        let whole = |index: RuleIndex| {
            let rule = self.rules.get(index).rule();
            if fresh.contains(&index) {
                // One that this run does not copy is still new to the next.
                return rule.copy.is_none() || !self.options.changes_only;
            }
            let mut own = all
                .iter()
                .filter(|(own, namespace)| *own == index && self.rules.reads(rule, namespace))
                .peekable();
            self.demand.rules.contains(&rule.name)
                || (own.peek().is_some() && own.all(|part| chosen.contains_key(part)))
        };
        self.rules.iter().map(|(index, _)| index).filter(|&index| whole(index)).collect()
    }

    /// Whether a copy is part of this run: what was asked for is, whatever the run is for.
    fn is_copied(&self, planned: &Planned) -> bool {
        !self.options.changes_only || planned.plan.asked
    }

    /// The copies of this run.
    async fn copies(
        &self,
        all: Copies,
        whole: bool,
    ) -> Result<Vec<(RuleIndex, Vec<Arc<Copy>>, bool)>, Error> {
        let (mut rules, mut copies) = (Vec::new(), Vec::new());
        for (index, planned) in all {
            let planned: Vec<Planned> =
                planned.into_values().filter(|own| self.is_copied(own)).collect();
            let copies_at_all = self.rules.get(index).rule().copy.is_some();
            if planned.is_empty() && (!copies_at_all || self.options.changes_only) {
                continue;
            }
            // A sweep that was put off is part of the copy.
            let complete = planned.iter().all(|own| match whole {
                true => own.is_swept(),
                false => own.is_complete(),
            });
            rules.push((index, planned.len(), complete));
            let made = |planned| copy(self.reading, self.rules, index, planned);
            copies.extend(planned.into_iter().map(made));
        }
        let copies: Vec<_> =
            stream::iter(copies).buffered(AT_ONCE).map_ok(Arc::new).try_collect().await?;
        let mut copies = copies.into_iter();
        let own =
            |(index, count, complete)| (index, copies.by_ref().take(count).collect(), complete);
        Ok(rules.into_iter().map(own).collect())
    }

    /// Plans and stores the chosen copies.
    async fn plan_parts(
        &self,
        chosen: &BTreeMap<PartId, Chosen>,
        copies: &mut Copies,
        now: ClusterTime,
    ) -> Result<(), Error> {
        // What stays is told apart by its time before anything newer is planned.
        for ((index, namespace), chosen) in chosen.iter().filter(|(_, chosen)| chosen.keep) {
            let rule = self.rules.get(*index).rule();
            let patterns = match &chosen.container {
                Some(container) => vec![container.clone()],
                None => self.containers(rule),
            };
            let kept = KeptRecord { before: now };
            let keep = |pattern: &String| put(keys::kept(self.name, pattern), &kept);
            self.write(patterns.iter().map(keep).collect()).await?;
            self.forget_places(rule, namespace).await?;
        }
        let cuts: Vec<_> = chosen
            .iter()
            .map(|((index, namespace), chosen)| async {
                match chosen.kind {
                    None => Ok((Vec::new(), Size::default())),
                    Some(kind) => {
                        cut(self.reading, self.rules.get(*index).rule(), namespace, kind).await
                    }
                }
            })
            .collect();
        let cuts: Vec<_> = stream::iter(cuts).buffered(AT_ONCE).try_collect().await?;
        let mut plans = Vec::with_capacity(chosen.len());
        for (((index, namespace), chosen), (bounds, size)) in chosen.iter().zip(cuts) {
            let rule = self.rules.get(*index).rule();
            let known = copies.entry(*index).or_default();
            let before = known.get(namespace).and_then(|known| known.plan.container.as_deref());
            if let Some(before) =
                before.filter(|before| chosen.container.as_deref() != Some(before))
            {
                tracing::warn!(
                    target = self.name,
                    rule = rule.name,
                    %namespace,
                    container = before,
                    "the rule writes to another place than before: what it wrote there stays"
                );
            }
            let plan = CopyPlanRecord {
                id: Uuid::new(),
                started: now,
                collection: chosen.collection,
                bounds,
                expected: size.documents,
                sweep: chosen.sweep,
                container: chosen.container.clone(),
                asked: chosen.asked,
                ended: chosen.kind.is_none(),
                fingerprint: Some(rule.fingerprint.clone()),
            };
            plans.push(put(keys::copy_plan(self.name, &rule.name, namespace.as_str()), &plan));
            let namespace = namespace.clone();
            let planned = Planned { namespace, plan, progress: None, size: Some(size) };
            known.insert(planned.namespace.clone(), planned);
        }
        plans.extend(self.passed_over(chosen, copies));
        // Plans of an earlier try are written over; its progress is void by the plan's id.
        self.write(plans).await
    }

    /// Notes in the plans that wait for the stream to show how their collections ended that they do not have
    /// their rules begun anew once more: it has been done, for all that there is of them.
    fn passed_over(&self, chosen: &BTreeMap<PartId, Chosen>, copies: &mut Copies) -> Vec<Write> {
        let mut writes = Vec::new();
        for (index, copies) in copies {
            let rule = self.rules.get(*index).rule();
            if !self.demand.rules.contains(&rule.name) {
                continue;
            }
            for (namespace, own) in copies {
                let known = own.plan.fingerprint.replace(rule.fingerprint.clone());
                let passed_over = !chosen.contains_key(&(*index, namespace.clone()));
                if passed_over && known.is_some_and(|known| known != rule.fingerprint) {
                    let key = keys::copy_plan(self.name, &rule.name, namespace.as_str());
                    writes.push(put(key, &own.plan));
                }
            }
        }
        writes
    }

    /// Lets MongoDB evaluate each rule's filter, projection and pipeline once on nothing: what it
    /// does not understand, or does not allow, is told now and not for ever after.
    async fn try_reads(&self) -> Result<(), Error> {
        let tried = self.rules.iter().map(async |(_, rule)| {
            // A pattern's namespaces may not be there yet.
            let named = rule.rule().namespaces.include.iter().find_map(|pattern| match pattern {
                NamespacePattern::Exact(namespace) => Some(namespace.clone()),
                NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
            });
            let Some(namespace) = named.filter(|_| rule.follows()) else { return Ok(()) };
            let tried = self
                .reading
                .insist("trying a rule's read", || {
                    self.reading.source.try_read(&namespace, &rule.read)
                })
                .await;
            match tried {
                Ok(_) => Ok(()),
                Err(None) => Err(Error::Stopped),
                Err(Some(error)) => Err(Error::Refused(format!(
                    "rule {}: MongoDB refuses its filter, project or pipeline: {error}",
                    rule.rule().name
                ))),
            }
        });
        let tried: Vec<_> = tried.collect();
        stream::iter(tried).buffered(AT_ONCE).try_collect().await
    }

    /// Refuses a `changes.since` in the future: it would come to nothing but the present.
    fn none_to_come<'a>(&self, mut fresh: impl Iterator<Item = &'a Rule>) -> Result<(), Error> {
        fresh.try_for_each(|rule| not_to_come(self.name, rule))
    }

    /// Sees to a rule that is not the one that was copied.
    fn compare(&mut self, index: RuleIndex, rule: &Rule, record: &RuleRecord) {
        let stale = record.fingerprint != rule.fingerprint;
        self.rule_status[usize::from(index.0)].stale(stale);
        if !stale {
            return;
        }
        match rule.on_rule_change {
            OnRuleChange::Resync => {
                tracing::info!(
                    target = self.name,
                    rule = rule.name,
                    "the rule has changed since it was copied: it is copied again"
                );
                self.demand.rules.insert(rule.name.clone());
            }
            OnRuleChange::Warn => tracing::warn!(
                target = self.name,
                rule = rule.name,
                "stale definition: the rule has changed since it was copied; what changes from now on \
                 is delivered by the new one, what was delivered before stays as it is. \
                 `on_rule_change: resync` copies it again"
            ),
        }
    }

    /// Has a rule copied again whose copy was broken off and was begun by another definition: what it
    /// would come to is neither what the old one says nor what the new one does, whatever the rule says
    /// about what had been finished.
    fn begin_anew(&mut self, rule: &Rule, copies: &BTreeMap<Namespace, Planned>) {
        let another = |plan: &CopyPlanRecord| {
            plan.fingerprint.as_ref().is_some_and(|planned| *planned != rule.fingerprint)
        };
        let broken_off =
            |own: &Planned| !own.is_complete() && self.is_copied(own) && another(&own.plan);
        if rule.copy.is_none() || !copies.values().any(broken_off) {
            return;
        }
        if self.demand.rules.insert(rule.name.clone()) {
            tracing::warn!(
                target = self.name,
                rule = rule.name,
                "the rule has changed while its copy was not finished: the copy is begun anew"
            );
        }
    }

    fn active(&self) -> BTreeSet<&str> {
        self.rules.iter().map(|(_, rule)| rule.rule().name.as_str()).collect()
    }

    /// The namespaces that each of these rules reads, as they are now; several rules are asked for at a time.
    async fn namespaces_of(
        &self,
        which: impl Fn(RuleIndex) -> bool,
    ) -> Result<BTreeMap<RuleIndex, Vec<Found>>, Error> {
        let rules = self.rules.iter().filter(|(index, _)| which(*index));
        let asked = rules.map(|(index, rule)| async move {
            Ok((index, namespaces(self.reading, self.rules, rule.rule()).await?))
        });
        stream::iter(asked.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
    }

    async fn asked<T, F>(&self, what: &'static str, call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        asked(self.reading, what, call).await
    }

    async fn stored<T, F>(&self, call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        Ok(insist(self.stop, call).await?)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), Error> {
        Ok(insist_on_writing(&**self.store, writes, self.stop).await?)
    }
}

/// The namespaces that a rule reads, as they are now.
pub async fn namespaces(
    reading: &Reading,
    rules: &RuleSet,
    rule: &Rule,
) -> Result<Vec<Found>, Error> {
    let (selector, hidden) = (&rule.namespaces, rules.hidden());
    let select = || reading.source.select(selector, hidden);
    let selected = asked(reading, "listing collections", select).await?;
    match selected.refused.first() {
        Some(series) => {
            Err(Error::Refused(format!("rule {}: {}", rule.name, selection::refusal(series))))
        }
        None => Ok(selected.read),
    }
}

/// Whether these are all that a rule reads, for all that a list can say: where it names one collection, and
/// that is there. What has come to be a moment ago may not be listed yet.
pub fn are_all(rule: &Rule, found: bool) -> bool {
    found && rule.namespaces.exact().is_some()
}

/// Waits until what has come to be before is listed.
///
/// # Errors
/// Where it is stopped.
pub async fn until_listed(stop: &CancellationToken) -> Result<(), Error> {
    let moment = tokio::time::sleep(LISTED_WITHIN);
    stop.run_until_cancelled(moment).await.ok_or(Error::Stopped)
}

/// Refuses a rule that is to begin in the future: until then nothing would be delivered.
pub fn not_to_come(target: &str, rule: &Rule) -> Result<(), Error> {
    match rule.since().filter(|&since| is_to_come(since, SystemTime::now())) {
        None => Ok(()),
        Some(since) => Err(Error::Refused(format!(
            "`changes.since` of rule {} of target {target} says {}, which is yet to come: take it out to \
             begin now, or write a time that has passed",
            rule.name,
            DateTime::from_millis(i64::from(since.time) * 1000)
                .try_to_rfc3339_string()
                .unwrap_or_default()
        ))),
    }
}

/// Refuses to begin where the oplog does not reach back to: nothing is stored of it then.
pub async fn reaches(
    reading: &Reading,
    target: &str,
    start: ClusterTime,
    since: Option<ClusterTime>,
) -> Result<(), Error> {
    let Some(since) = since.filter(|&since| since == start) else { return Ok(()) };
    let what = "reading how far the oplog reaches back";
    match asked(reading, what, || reading.source.oplog_first()).await? {
        Some(first) if first > since => Err(Error::Refused(format!(
            "`changes.since` of a rule of target {target} says {since}, and the oplog begins at {first} \
             only: what happened before can't be followed"
        ))),
        _ => Ok(()),
    }
}

/// The replica set's or cluster's own id; another one than the position's is a lost history, and what
/// that demands.
pub async fn identity(
    reading: &Reading,
    rules: &RuleSet,
    target: &str,
    position: Option<&PositionRecord>,
) -> Result<(Option<ObjectId>, Demand), Error> {
    let nothing = Demand::default();
    let own = asked(reading, "reading the id of the source", || reading.source.identity()).await?;
    let Some(position) = position else { return Ok((own, nothing)) };
    let known = position.source;
    let (Some(own), Some(known)) = (own, known) else {
        if own.is_none() && known.is_some() {
            tracing::warn!(
                target,
                "the source's id can't be read with this login: whether it is the same replica set or \
                 cluster as before is not known"
            );
        }
        return Ok((own.or(known), nothing));
    };
    if own == known {
        return Ok((Some(own), nothing));
    }
    let now = asked(reading, "reading the cluster time", || reading.source.now()).await?;
    if now < position.time {
        return Err(Error::Refused(format!(
            "the source is another replica set or cluster than before, and its cluster time ({now}) is \
             earlier than what target {target} has seen ({}): the target would take none of its \
             documents for new. Give the rule file another `name` and write to another place, or go back \
             to the source of before",
            position.time
        )));
    }
    let mut demand = history_lost(rules, target, position.time, &Lost::AnotherSource)?;
    // Those that follow nothing hold the other one's documents too.
    let copying = rules.iter().filter(|(_, rule)| !rule.follows());
    let copying = copying.filter(|(_, rule)| rule.rule().copy.is_some());
    demand.rules.extend(copying.map(|(_, rule)| rule.rule().name.clone()));
    Ok((Some(own), demand))
}

/// The bounds of a collection's chunks, and about how large it is.
pub async fn cut(
    reading: &Reading,
    rule: &Rule,
    namespace: &Namespace,
    kind: Kind,
) -> Result<(Vec<bson::Bson>, Size), Error> {
    let settings = rule.copy.unwrap_or(CopySettings::DEFAULT);
    let source = &reading.source;
    let size =
        asked(reading, "reading the size of a collection", || source.size(namespace)).await?;
    if kind == Kind::View {
        return Ok((Vec::new(), size));
    }
    let chunks = chunks::count(size, settings);
    let bounds = asked(reading, "cutting a collection into chunks", || {
        source.split_points(namespace, chunks, settings.allow_disk_use)
    })
    .await?;
    Ok((bounds, size))
}

/// A copy as the store or a fresh plan has it, to be carried out.
pub async fn copy(
    reading: &Reading,
    rules: &RuleSet,
    rule: RuleIndex,
    planned: Planned,
) -> Result<Copy, Error> {
    let idle = planned.is_complete() || planned.plan.ended;
    let Planned { namespace, plan, progress, size } = planned;
    let source = &reading.source;
    let target_rule = rules.get(rule);
    // Only a rule that follows no changes can have a view.
    let view = !idle
        && !target_rule.follows()
        && target_rule.rule().namespaces.names(&namespace)
        && asked(reading, "listing collections", || source.named(&namespace))
            .await?
            .is_some_and(|found| found.kind == Kind::View);
    let (size, shape) = if idle {
        Default::default()
    } else {
        let read = || source.size(&namespace);
        let size = match size {
            Some(size) => size,
            None => asked(reading, "reading the size of a collection", read).await?,
        };
        (size, asked(reading, "reading a shard key", || source.key_shape(&namespace)).await?)
    };
    Ok(Copy::new(rule, namespace, view, plan, progress, shape, size.average()))
}

/// Asks the source until it answers or refuses.
///
/// # Errors
/// `Stopped`, and `Refused` with the server's words.
pub async fn asked<T, F>(
    reading: &Reading,
    what: &'static str,
    call: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, SourceError>>,
{
    reading.insist(what, call).await.map_err(|error| match error {
        None => Error::Stopped,
        Some(error) => Error::Refused(format!("{what} failed: {error}")),
    })
}

/// From when on rules that run for the first time want changes: `changes.since` of those that do
/// not copy.
fn first_start<'a>(fresh: impl Iterator<Item = &'a Rule>) -> Option<ClusterTime> {
    fresh.filter_map(|rule| rule.since().map(ClusterTime::from)).min()
}

/// The stream's start, and the positions of the rules that are left out.
fn start(
    position: Option<&PositionRecord>,
    now: ClusterTime,
    since: Option<ClusterTime>,
    active: BTreeSet<&str>,
    all: &BTreeSet<String>,
) -> (ClusterTime, BTreeMap<String, ClusterTime>) {
    let mut behind = BTreeMap::new();
    let mut start = position.map_or(now, |position| position.time);
    start = start.min(since.unwrap_or(start));
    let Some(position) = position else { return (start, behind) };
    for name in all {
        let own = position.behind.get(name).map(|&time| ClusterTime::from(time));
        if active.contains(name.as_str()) {
            start = start.min(own.unwrap_or(start));
        } else {
            behind.insert(name.clone(), own.unwrap_or(position.time));
        }
    }
    (start, behind)
}

/// Positions by rule, as they are stored.
pub fn stored_times(behind: &BTreeMap<String, ClusterTime>) -> BTreeMap<String, Timestamp> {
    behind.iter().map(|(rule, &time)| (rule.clone(), time.into())).collect()
}

#[cfg(test)]
mod tests;
