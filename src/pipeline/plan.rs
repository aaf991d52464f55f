//! What one target's run begins with: from which time the stream is followed, and what is copied.
//!
//! The order is the promise: the position is stored before the plans of the copies, the plans before
//! the first document is read, and a rule is remembered once all its plans are stored. A process
//! that dies in between plans again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bson::{Timestamp, Uuid};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, Namespace, RuleIndex},
    checkpoint::{
        keys,
        records::{
            CopyPlanRecord, CopyProgressRecord, PositionRecord, Record, RuleRecord, load, load_all,
            put, removal,
        },
        store::{RecordKey, Store, StoreError, Table, Write},
    },
    delivery::{insist, insist_on_writing},
    rules::model::{NamespacePattern, Rule, Since},
    source::{
        budget::Budget,
        chunks,
        error::Error as SourceError,
        namespaces::{Found, Kind},
    },
};

use super::{
    Error, Options,
    copying::Copy,
    reading::Reading,
    rule_set::{RuleSet, TargetRule},
};

/// Where a target's run begins.
pub struct Plan {
    /// The stream's start.
    pub start: ClusterTime,
    /// Rules that this run leaves out, and where they are.
    pub behind: BTreeMap<String, ClusterTime>,
    /// Of each rule with a copy: its copies, and whether they were complete before.
    pub copies: Vec<(RuleIndex, Vec<Arc<Copy>>, bool)>,
}

/// Makes the plan of one target.
pub struct Planning<'a> {
    /// The source.
    pub reading: &'a Reading,
    /// Where positions are kept.
    pub store: &'a Arc<dyn Store>,
    /// The target's name.
    pub target: &'a str,
    /// Its rules in this run.
    pub rules: &'a RuleSet,
    /// The names of all its rules in the file.
    pub all_rules: BTreeSet<String>,
    /// What the command says.
    pub options: &'a Options,
    /// Ends every wait.
    pub stop: &'a CancellationToken,
}

/// A copy as the store or a fresh plan has it.
struct Planned {
    namespace: Namespace,
    plan: CopyPlanRecord,
    progress: Option<CopyProgressRecord>,
}

impl Planning<'_> {
    /// Reads what is stored, plans what is new, and stores it.
    ///
    /// # Errors
    /// `Refused` where a rule asks for what can't be had; see [`Error`].
    pub async fn make(self) -> Result<Plan, Error> {
        self.forget_removed_rules().await?;
        let key = keys::position(self.target);
        let position: Option<PositionRecord> = self.stored(|| load(&**self.store, &key)).await?;
        let mut fresh = Vec::new();
        let mut known: HashMap<RuleIndex, Vec<Planned>> = HashMap::new();
        for (index, rule) in self.rules.iter() {
            let key = keys::rule(self.target, &rule.rule().name);
            let record: Option<RuleRecord> = self.stored(|| load(&**self.store, &key)).await?;
            match record {
                None => fresh.push((index, rule)),
                Some(record) => {
                    self.compare(rule.rule(), &record);
                    known.insert(index, self.stored_copies(rule.rule()).await?);
                }
            }
        }
        for (_, rule) in &fresh {
            // Says what can't be copied at all before anything is stored.
            namespaces(self.reading, self.rules, rule.rule()).await?;
        }
        self.try_reads().await?;
        let now = match (&position, fresh.is_empty()) {
            (Some(position), true) => position.time,
            _ => self.asked("reading the cluster time", || self.reading.source.now()).await?,
        };
        let since = first_start(fresh.iter().map(|(_, rule)| rule.rule()));
        let (start, behind) = start(position.as_ref(), now, since, self.active(), &self.all_rules);
        // Durable before the first document is read.
        let record = PositionRecord {
            time: start,
            token: None,
            behind: stored_times(&behind),
            stored_at: bson::DateTime::now(),
        };
        self.write(vec![put(keys::position(self.target), &record)]).await?;
        for (index, rule) in fresh {
            if self.options.changes_only {
                continue;
            }
            known.insert(index, self.plan_rule(rule, now).await?);
        }
        let mut copies = Vec::new();
        for (index, rule) in self.rules.iter() {
            let Some(planned) = known.remove(&index) else { continue };
            if rule.rule().copy.is_none() || self.options.changes_only {
                continue;
            }
            let complete = planned.iter().all(|copy| {
                let progress = copy.progress.as_ref();
                progress.is_some_and(|own| own.complete && own.plan == copy.plan.id)
            });
            let mut made = Vec::with_capacity(planned.len());
            for planned in planned {
                made.push(Arc::new(self.copy(index, planned, complete).await?));
            }
            copies.push((index, made, complete));
        }
        Ok(Plan { start, behind, copies })
    }

    /// Lets MongoDB evaluate each rule's filter, projection and pipeline once on nothing: what it
    /// does not understand, or does not allow, is told now and not for ever after.
    async fn try_reads(&self) -> Result<(), Error> {
        let budget = Budget::new(usize::MAX);
        for (_, rule) in self.rules.iter() {
            // A pattern's namespaces may not be there yet.
            let named = rule.rule().namespaces.include.iter().find_map(|pattern| match pattern {
                NamespacePattern::Exact(namespace) => Some(namespace.clone()),
                NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
            });
            let Some(namespace) = named.filter(|_| rule.follows()) else { continue };
            let tried = self
                .reading
                .insist("trying a rule's read", || {
                    let source = &self.reading.source;
                    source.lookup(&namespace, &rule.read, &[], ClusterTime::ZERO, &budget)
                })
                .await;
            match tried {
                Ok(_) => {}
                Err(None) => return Err(Error::Stopped),
                Err(Some(error)) => {
                    return Err(Error::Refused(format!(
                        "rule {}: MongoDB refuses its filter, project or pipeline: {error}",
                        rule.rule().name
                    )));
                }
            }
        }
        Ok(())
    }

    /// A rule that has gone from the file is forgotten: should it come back, what happened meanwhile
    /// is not in any stream that is still to be read, so it begins with a copy.
    async fn forget_removed_rules(&self) -> Result<(), Error> {
        let prefix = keys::rules(self.target);
        let known = self.stored(|| load_all::<RuleRecord>(&**self.store, &prefix)).await?;
        for (key, _) in known {
            let Some(name) = key.0.last().and_then(|name| str::from_utf8(name).ok()) else {
                continue;
            };
            if self.all_rules.contains(name) {
                continue;
            }
            // The record of the rule goes first: without it what is left of its copies is planned
            // over.
            self.write(vec![removal::<RuleRecord>(key.clone())]).await?;
            let copies = keys::copies(self.target, name);
            loop {
                let page =
                    self.stored(|| self.store.scan(Table::Copies, &copies, None, PAGE)).await?;
                if page.is_empty() {
                    break;
                }
                let removals = page
                    .into_iter()
                    .map(|(key, _)| Write { table: Table::Copies, key, value: None })
                    .collect();
                self.write(removals).await?;
            }
            tracing::info!(
                target = self.target,
                rule = name,
                "the rule is no longer in the file: its progress is forgotten, its documents stay in \
                 the target"
            );
        }
        Ok(())
    }

    /// Says when a rule is not the one that was copied.
    fn compare(&self, rule: &Rule, record: &RuleRecord) {
        if record.fingerprint != rule.fingerprint {
            tracing::warn!(
                target = self.target,
                rule = rule.name,
                "stale definition: the rule has changed since it was copied; what changes from now on \
                 is delivered by the new one, what was delivered before stays as it is"
            );
        }
    }

    fn active(&self) -> BTreeSet<&str> {
        self.rules.iter().map(|(_, rule)| rule.rule().name.as_str()).collect()
    }

    /// The plans of a rule's copies, and how far they are.
    async fn stored_copies(&self, rule: &Rule) -> Result<Vec<Planned>, Error> {
        let prefix = keys::copies(self.target, &rule.name);
        let mut planned: BTreeMap<Vec<u8>, (Option<CopyPlanRecord>, Option<CopyProgressRecord>)> =
            BTreeMap::new();
        let mut after: Option<RecordKey> = None;
        loop {
            let page = self
                .stored(|| self.store.scan(Table::Copies, &prefix, after.as_ref(), PAGE))
                .await?;
            let last = page.len() < PAGE;
            for (key, record) in &page {
                let [_, _, namespace, kind] = key.0.as_slice() else { continue };
                let entry = planned.entry(namespace.clone()).or_default();
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
        Ok(planned
            .into_iter()
            .filter_map(|(namespace, (plan, progress))| {
                let namespace = Namespace::parse(str::from_utf8(&namespace).ok()?)?;
                Some(Planned { namespace, plan: plan?, progress })
            })
            .collect())
    }

    /// Plans the copy of every namespace that a rule reads now, and remembers the rule. Namespaces
    /// that come later are in the change stream from their beginning.
    async fn plan_rule(
        &self,
        rule: &TargetRule,
        started: ClusterTime,
    ) -> Result<Vec<Planned>, Error> {
        let name = &rule.rule().name;
        let mut planned = Vec::new();
        if let Some(settings) = rule.rule().copy {
            for found in namespaces(self.reading, self.rules, rule.rule()).await? {
                let namespace = &found.namespace;
                let size = self
                    .asked("reading the size of a collection", || {
                        self.reading.source.size(namespace)
                    })
                    .await?;
                let bounds = match found.kind {
                    Kind::View => Vec::new(),
                    _ => {
                        let chunks = chunks::count(size, settings);
                        self.asked("cutting a collection into chunks", || {
                            let disk = settings.allow_disk_use;
                            self.reading.source.split_points(namespace, chunks, disk)
                        })
                        .await?
                    }
                };
                let plan = CopyPlanRecord {
                    id: Uuid::new(),
                    started,
                    collection: None,
                    bounds,
                    expected: size.documents,
                };
                planned.push(Planned { namespace: found.namespace, plan, progress: None });
            }
            if planned.is_empty() {
                tracing::warn!(
                    target = self.target,
                    rule = name,
                    "no collection matches the rule now; those that come later are followed"
                );
            }
        }
        // Plans of an earlier try are written over; its progress is void by the plan's id.
        let plans = planned
            .iter()
            .map(|planned| {
                let namespace = planned.namespace.as_str();
                put(keys::copy_plan(self.target, name, namespace), &planned.plan)
            })
            .collect();
        self.write(plans).await?;
        let record = RuleRecord {
            fingerprint: rule.rule().fingerprint.clone(),
            since: bson::DateTime::now(),
        };
        self.write(vec![put(keys::rule(self.target, name), &record)]).await?;
        Ok(planned)
    }

    async fn copy(&self, rule: RuleIndex, planned: Planned, complete: bool) -> Result<Copy, Error> {
        let Planned { namespace, plan, progress } = planned;
        let source = &self.reading.source;
        let target_rule = self.rules.get(rule);
        // Only a rule that follows no changes can have a view.
        let view = !target_rule.follows()
            && target_rule.rule().namespaces.names(&namespace)
            && self
                .asked("listing collections", || source.collections(namespace.database()))
                .await?
                .iter()
                .any(|found| found.namespace == namespace && found.kind == Kind::View);
        let (size, shape) = if complete {
            Default::default()
        } else {
            (
                self.asked("reading the size of a collection", || source.size(&namespace)).await?,
                self.asked("reading a shard key", || source.key_shape(&namespace)).await?,
            )
        };
        Ok(Copy::new(rule, namespace, view, plan, progress, shape, size.average()))
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
    let mut databases = BTreeSet::new();
    let mut all = false;
    for pattern in &rule.namespaces.include {
        match pattern {
            NamespacePattern::Exact(namespace) => {
                databases.insert(namespace.database().to_owned());
            }
            NamespacePattern::Glob(glob) => match &glob.literal_database {
                Some(database) => {
                    databases.insert(database.clone());
                }
                None => all = true,
            },
            NamespacePattern::Regex(_) => all = true,
        }
    }
    let source = &reading.source;
    if all {
        databases.extend(asked(reading, "listing databases", || source.databases()).await?);
    }
    let mut namespaces = Vec::new();
    for database in databases {
        let found = asked(reading, "listing collections", || source.collections(&database)).await?;
        for found in found {
            if !rules.reads(rule, &found.namespace) {
                continue;
            }
            let named = rule.namespaces.names(&found.namespace);
            match found.kind {
                Kind::Collection => namespaces.push(found),
                Kind::View if named => namespaces.push(found),
                Kind::TimeSeries if named => {
                    return Err(Error::Refused(format!(
                        "rule {}: {} is a time-series collection, whose documents have no unique \
                         _id; read it through a view that makes one",
                        rule.name, found.namespace
                    )));
                }
                // Patterns pass over these.
                Kind::View | Kind::TimeSeries => {}
            }
        }
    }
    namespaces.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    Ok(namespaces)
}

/// Asks the source until it answers or refuses.
async fn asked<T, F>(
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
    fresh
        .filter(|rule| rule.copy.is_none())
        .filter_map(|rule| match rule.changes?.since {
            Since::Time(time) => Some(ClusterTime::from(time)),
            Since::Now => None,
        })
        .min()
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

/// Records read at once.
const PAGE: usize = 500;

#[cfg(test)]
mod tests;
