//! One look at the checkpoint store: who holds the name, what it said last, and what is stored
//! besides.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bson::Uuid;
use tokio::time::{Instant, sleep};

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys,
        lease::{self, Identity, LeaseRecord},
        records::{
            CopyPlanRecord, CopyProgressRecord, DeadLetterRecord, PositionRecord, Record, load,
        },
        report::{self, ReportRecord},
        store::{RecordKey, Store, StoreError, Table},
    },
    rules::model::RuleFile,
    status::{CopySnapshot, Holder, Snapshot, Standing, Status},
};

/// How often a sign of life is looked for.
const PULSE: Duration = Duration::from_millis(300);
/// A report is never older than this while its process lives; clocks may say otherwise.
const OLDEST: Duration = Duration::from_secs(65);
/// Records read at once.
const PAGE: usize = 200;
/// Dead letters are counted up to here.
pub(super) const COUNTED: usize = 1_000;

/// What was found.
#[derive(Debug)]
pub(super) struct Look {
    pub snapshot: Snapshot,
    /// The process that holds no more gave the name back; else it ended in some other way.
    pub released: bool,
    /// Dead letters in the store, up to [`COUNTED`], by target and rule.
    pub letters: BTreeMap<(String, String), usize>,
}

/// What the store has of one target.
#[derive(Default)]
pub(super) struct StoredTarget {
    pub position: Option<ClusterTime>,
    /// By rule, where there are any.
    pub copies: BTreeMap<String, CopySnapshot>,
}

/// Looks at one store again and again.
pub(super) struct Looking<'a> {
    rules: &'a RuleFile,
    store: &'a dyn Store,
    me: Identity,
    pulse: Option<Pulse>,
}

/// The last sign of life that was seen, by our own clock.
struct Pulse {
    sign: (Uuid, u64),
    since: Instant,
    alive: bool,
}

impl<'a> Looking<'a> {
    pub(super) fn new(rules: &'a RuleFile, store: &'a dyn Store) -> Self {
        let me = Identity::of_this_process(&rules.name, &rules.path);
        Self { rules, store, me, pulse: None }
    }

    /// Looks once. Takes up to a lease's term where only watching tells whether a process lives.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn look(&mut self, now: SystemTime) -> Result<Look, StoreError> {
        let mut lease = lease::current(self.store).await?;
        let alive = match &mut lease {
            Some(record) => self.is_alive(record, now).await?,
            None => false,
        };
        let report = report::last(self.store).await?;
        let mut stored = BTreeMap::new();
        let mut letters = BTreeMap::new();
        for target in &self.rules.targets {
            stored.insert(target.name.clone(), self.target(&target.name).await?);
            for (rule, _) in self.rules.deliveries(&target.name) {
                let count = self.letters(&target.name, &rule.name).await?;
                letters.insert((target.name.clone(), rule.name.clone()), count);
            }
        }
        let snapshot = told(self.rules, lease.as_ref(), alive, report.as_ref(), &stored, now);
        let released = lease.is_some_and(|lease| lease.released);
        Ok(Look { snapshot, released, letters })
    }

    /// Whether the holder lives. Its own clock is believed where it agrees with ours; else, and for
    /// one that says nothing new, its signs of life are waited for. `record` is the newest then.
    async fn is_alive(
        &mut self,
        record: &mut LeaseRecord,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        if lease::is_over(record, &self.me) {
            self.pulse = None;
            return Ok(false);
        }
        let sign = (record.owner, record.renewed);
        let pulse = match self.pulse.take() {
            Some(pulse) if pulse.sign == sign => {
                Pulse { alive: pulse.alive && pulse.since.elapsed() < lease::TERM, ..pulse }
            }
            Some(_) => Pulse { sign, since: Instant::now(), alive: true },
            None => {
                let alive =
                    agrees(record.seen.to_system_time(), now) || self.gives_a_sign(record).await?;
                Pulse { sign: (record.owner, record.renewed), since: Instant::now(), alive }
            }
        };
        Ok(self.pulse.insert(pulse).alive)
    }

    async fn gives_a_sign(&self, record: &mut LeaseRecord) -> Result<bool, StoreError> {
        let since = Instant::now();
        while since.elapsed() < lease::TERM {
            sleep(PULSE).await;
            let Some(found) = lease::current(self.store).await? else { return Ok(false) };
            if found.released {
                *record = found;
                return Ok(false);
            }
            if (found.owner, found.renewed) != (record.owner, record.renewed) {
                *record = found;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn target(&self, target: &str) -> Result<StoredTarget, StoreError> {
        let position: Option<PositionRecord> = load(self.store, &keys::position(target)).await?;
        // Of each rule and namespace: the plan's id and expectation, and what is done of it.
        let mut parts: BTreeMap<_, (Option<(Uuid, u64)>, Option<_>)> = BTreeMap::new();
        let prefix = keys::all_copies(target);
        let mut after: Option<RecordKey> = None;
        loop {
            let page = self.store.scan(Table::Copies, &prefix, after.as_ref(), PAGE).await?;
            for (key, record) in &page {
                let [_, rule, namespace, kind] = key.0.as_slice() else { continue };
                let part = parts.entry((rule.clone(), namespace.clone())).or_default();
                match kind.as_slice() {
                    b"plan" => {
                        let plan = CopyPlanRecord::decode(record, self.store.place())?;
                        part.0 = Some((plan.id, plan.expected));
                    }
                    b"progress" => {
                        part.1 = Some(CopyProgressRecord::decode(record, self.store.place())?);
                    }
                    _ => {}
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => break,
            }
        }
        let mut copies: BTreeMap<String, CopySnapshot> = BTreeMap::new();
        for ((rule, _), (plan, progress)) in parts {
            let (Ok(rule), Some((id, expected))) = (String::from_utf8(rule), plan) else {
                continue;
            };
            // Progress of another plan is void.
            let progress = progress.filter(|progress| progress.plan == id);
            let all = CopySnapshot { documents: 0, expected: Some(0), complete: true };
            let copy = copies.entry(rule).or_insert(all);
            copy.expected = copy.expected.map(|sum| sum + expected);
            copy.documents += progress.as_ref().map_or(0, |progress| progress.documents);
            copy.complete &= progress.is_some_and(|progress| progress.complete);
        }
        Ok(StoredTarget { position: position.map(|position| position.time), copies })
    }

    async fn letters(&self, target: &str, rule: &str) -> Result<usize, StoreError> {
        let prefix = keys::dead_letters(target, rule);
        let mut after: Option<RecordKey> = None;
        let mut count = 0;
        while count < COUNTED {
            let page =
                self.store.scan(DeadLetterRecord::TABLE, &prefix, after.as_ref(), PAGE).await?;
            count += page.len();
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
                _ => break,
            }
        }
        Ok(count)
    }
}

/// Whether a sign of life of that time is a present one, as far as clocks can tell.
fn agrees(seen: SystemTime, now: SystemTime) -> bool {
    let apart = now.duration_since(seen).unwrap_or_else(|ahead| ahead.duration());
    apart < lease::TERM
}

/// The status object, from all that is stored.
fn told(
    rules: &RuleFile,
    lease: Option<&LeaseRecord>,
    alive: bool,
    report: Option<&ReportRecord>,
    stored: &BTreeMap<String, StoredTarget>,
    now: SystemTime,
) -> Snapshot {
    let since =
        |time: bson::DateTime| now.duration_since(time.to_system_time()).unwrap_or(Duration::ZERO);
    // What an earlier process said is not of this one. A later version may say it in a form that is not
    // known here.
    let said = report
        .filter(|report| lease.is_some_and(|lease| lease.epoch == report.epoch))
        .and_then(|report| {
            let said = bson::deserialize_from_document::<Snapshot>(report.said.clone()).ok()?;
            Some((said, since(report.at).min(OLDEST)))
        });
    let mut snapshot = Status::new(rules).snapshot(now);
    snapshot.state = if alive { Standing::Active } else { Standing::Stopped };
    snapshot.age_seconds = lease.map(|lease| match since(lease.seen) {
        // A clock that differs says nothing about one that lives.
        age if alive && age >= lease::TERM => 0.0,
        age => tenths(age.as_secs_f64()),
    });
    snapshot.holder = lease.map(|lease| Holder {
        host: lease.host.clone(),
        pid: lease.pid,
        since: lease.since.try_to_rfc3339_string().unwrap_or_default(),
    });

    for (name, target) in &mut snapshot.targets {
        if let Some(stored) = stored.get(name) {
            for (rule, copied) in &mut target.rules {
                if let Some(copy) = stored.copies.get(rule) {
                    copied.copy = *copy;
                }
            }
        }
    }
    if let Some((said, age)) = said {
        snapshot.oplog_window_seconds = said.oplog_window_seconds;
        for (name, mut target) in said.targets {
            target.lag_seconds = target.lag_seconds.filter(|_| alive).map(|lag| match lag {
                // What waited then waits still, or there would be news.
                lag if lag >= 1.0 => tenths(lag + age.as_secs_f64()),
                lag => lag,
            });
            target.oplog_left_seconds = target.oplog_left_seconds.filter(|_| alive);
            match snapshot.targets.iter_mut().find(|(known, _)| *known == name) {
                None => snapshot.targets.push((name, target)),
                Some((_, known)) => {
                    // Rules that this run leaves out are in the store all the same.
                    for rule in std::mem::take(&mut known.rules) {
                        if !target.rules.iter().any(|(said, _)| *said == rule.0) {
                            target.rules.push(rule);
                        }
                    }
                    *known = target;
                }
            }
        }
    }
    for (name, target) in &mut snapshot.targets {
        let stored = stored.get(name).and_then(|stored| stored.position);
        // Where nobody works, only what is stored counts.
        let position = if alive { target.position.max(stored) } else { stored.or(target.position) };
        for (_, rule) in &mut target.rules {
            if rule.position == target.position {
                rule.position = position;
            }
        }
        target.position = position;
    }
    snapshot
}

fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests;
