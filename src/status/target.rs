//! What one target does: its state, how far it is behind, its requests.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use metrics::{Counter, Gauge};

use super::{
    UNKNOWN,
    lag::LagClock,
    metrics::{BATCH, BUFFER, DELIVERY, Metrics, RETRIES, Samples},
    rule::RuleStatus,
    secrets::masked,
    snapshot::TargetSnapshot,
    trouble::{Trouble, Troubles},
};
use crate::{
    change::{ClusterTime, Namespace},
    rules::model::Rule,
};

/// What a target's pipeline is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// At least one rule's copy is not complete; changes may be followed meanwhile.
    Copying,
    /// Copies are complete; changes are followed.
    Following,
    /// The target, or the source as far as this target is concerned, does not take or give anything
    /// now; it is tried again.
    Waiting,
    /// A person said to pause.
    Paused,
    /// It can't go on without a person.
    Failed,
}

impl State {
    /// The word in the status object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One target, as far as one of its pipelines goes: that of its `documents` rules, or that of one
/// `events` rule. The status object shows them as one.
#[derive(Debug)]
pub struct TargetStatus {
    name: String,
    /// The `events` rule whose pipeline it is.
    events_of: Option<String>,
    rules: Vec<Arc<RuleStatus>>,
    /// Whether any of its rules follows changes; without, there is no lag.
    follows: bool,
    metrics: Arc<Metrics>,
    troubles: Troubles,
    condition: Mutex<Condition>,
    /// The same as `condition.waiting`, so that a success costs one load.
    waiting: AtomicBool,
    /// The same for `condition.source`.
    source_waiting: AtomicBool,
    /// The same for `condition.held`.
    held: AtomicBool,
    lag: Mutex<Lag>,
    /// Seconds of the stored position; `UNKNOWN` until there is one.
    stored: AtomicU64,
    buffer: Gauge,
    delivery: Samples,
    batch: Samples,
    retries: Mutex<HashMap<&'static str, Counter>>,
}

#[derive(Debug)]
struct Condition {
    /// What it does when it does not wait; never `Waiting`.
    work: State,
    waiting: bool,
    error: Option<String>,
    /// Why the source does not give what this target needs. Apart from the target's own trouble:
    /// a stream that goes on says nothing about a target that does not.
    source: Option<String>,
    /// Why some documents can't be written while others are, by lane.
    held: BTreeMap<usize, String>,
}

impl Condition {
    fn state(&self) -> State {
        match self.work {
            State::Paused | State::Failed => self.work,
            _ if self.waiting || self.source.is_some() || !self.held.is_empty() => State::Waiting,
            State::Copying | State::Following | State::Waiting => self.work,
        }
    }

    fn error(&self) -> Option<&str> {
        let held = self.held.values().next();
        self.error.as_deref().or(self.source.as_deref()).or(held.map(String::as_str))
    }
}

#[derive(Debug)]
struct Lag {
    clock: LagClock,
    position: Option<ClusterTime>,
}

impl TargetStatus {
    pub(super) fn new(
        (metrics, troubles): (&Arc<Metrics>, &Troubles),
        (name, events_of): (&str, Option<&str>),
        rules: &[&Rule],
        max_await: Duration,
    ) -> Self {
        let labels = [("target", name)];
        let copies = rules.iter().any(|rule| rule.copy.is_some());
        Self {
            name: name.to_owned(),
            events_of: events_of.map(str::to_owned),
            rules: rules
                .iter()
                .map(|rule| Arc::new(RuleStatus::new(metrics, name, rule)))
                .collect(),
            follows: rules.iter().any(|rule| rule.changes.is_some()),
            condition: Mutex::new(Condition {
                work: if copies { State::Copying } else { State::Following },
                waiting: false,
                error: None,
                source: None,
                held: BTreeMap::new(),
            }),
            waiting: AtomicBool::new(false),
            source_waiting: AtomicBool::new(false),
            held: AtomicBool::new(false),
            lag: Mutex::new(Lag { clock: LagClock::new(max_await), position: None }),
            stored: AtomicU64::new(UNKNOWN),
            buffer: metrics.gauge(BUFFER, &labels),
            delivery: metrics.samples(DELIVERY, &labels),
            batch: metrics.samples(BATCH, &labels),
            retries: Mutex::default(),
            metrics: metrics.clone(),
            troubles: troubles.clone(),
        }
    }

    /// The target's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The `events` rule whose pipeline it is; `None` for that of the `documents` rules.
    pub fn events_of(&self) -> Option<&str> {
        self.events_of.as_deref()
    }

    /// What a person may call it.
    pub fn label(&self) -> String {
        match &self.events_of {
            Some(rule) => format!("{} ({rule})", self.name),
            None => self.name.clone(),
        }
    }

    /// The rules that write to it, in the order of the file.
    pub fn rules(&self) -> &[Arc<RuleStatus>] {
        &self.rules
    }

    /// The handle of one rule.
    ///
    /// # Panics
    /// Where no selected rule of that name writes to this target.
    pub fn rule(&self, name: &str) -> Arc<RuleStatus> {
        self.rules
            .iter()
            .find(|rule| rule.name() == name)
            .cloned()
            .expect("rules are looked up by the names of the same rule file")
    }

    /// What it is doing now. A change of state is logged, once. `Waiting` may be left only by
    /// [`recovered`](Self::recovered); the others replace one another, under it.
    pub fn set_state(&self, state: State) {
        self.change(|condition| match state {
            State::Waiting => condition.waiting = true,
            work => condition.work = work,
        });
    }

    /// A try has failed in a way that can pass, and there will be another. The error is for a
    /// person; passwords in connection strings are masked. May be called at every try and from
    /// every lane.
    pub fn waiting(&self, error: &str) {
        self.change(|condition| {
            condition.waiting = true;
            condition.error = Some(masked(error).into_owned());
        });
    }

    /// Something has gone through: the last error is forgotten. Cheap enough for every success.
    pub fn recovered(&self) {
        if self.waiting.load(Relaxed) {
            self.change(|condition| {
                condition.waiting = false;
                condition.error = None;
            });
        }
    }

    /// Some of a lane's documents can't be written while the others go on, and why; `None` once there are
    /// none any more. Otherwise as [`waiting`](Self::waiting), but that no success of others ends it.
    pub fn held(&self, lane: usize, error: Option<&str>) {
        if error.is_none() && !self.held.load(Relaxed) {
            return;
        }
        self.change(|condition| match error {
            Some(error) => drop(condition.held.insert(lane, masked(error).into_owned())),
            None => drop(condition.held.remove(&lane)),
        });
    }

    /// The source does not give what is asked of it, and is asked again. Otherwise as
    /// [`waiting`](Self::waiting).
    pub fn source_waiting(&self, error: &str) {
        self.change(|condition| condition.source = Some(format!("source: {}", masked(error))));
    }

    /// The source has answered again.
    pub fn source_recovered(&self) {
        if self.source_waiting.load(Relaxed) {
            self.change(|condition| condition.source = None);
        }
    }

    /// It can't go on, and why.
    pub fn failed(&self, error: &str) {
        self.change(|condition| {
            condition.work = State::Failed;
            condition.error = Some(masked(error).into_owned());
        });
    }

    /// A document or an event of a rule was refused for good, and its dead letter is stored.
    pub fn refused(&self, rule: &str, (namespace, id): (&Namespace, String), words: &str) {
        self.troubles.tell(Trouble::Refused {
            target: self.name.clone(),
            rule: rule.to_owned(),
            namespace: namespace.to_string(),
            id,
            words: masked(words).into_owned(),
        });
    }

    /// Whether anybody listens to what goes wrong.
    pub fn is_heard(&self) -> bool {
        self.troubles.are_heard()
    }

    /// A reply of the target's change stream came at `now`, with the cluster times of its first and
    /// last event; `None` for an empty reply, which counts too: it says that nothing has happened.
    pub fn seen(&self, events: Option<(ClusterTime, ClusterTime)>, now: SystemTime) {
        self.lag().clock.seen(events, now);
    }

    /// Everything up to this cluster time is settled. Called whenever the low-water mark moves, not
    /// only when it is stored, and with the stored one at the start.
    pub fn position(&self, position: ClusterTime) {
        let mut lag = self.lag();
        lag.position = Some(position);
        lag.clock.settled(position);
    }

    /// Up to which time everything is settled; `None` until that is known.
    pub fn position_now(&self) -> Option<ClusterTime> {
        self.lag().position
    }

    /// The position that the checkpoint store now holds durably.
    pub fn checkpoint_stored(&self, position: ClusterTime) {
        self.stored.store(position.seconds().into(), Relaxed);
    }

    /// Seconds of that.
    pub(super) fn stored_seconds(&self) -> Option<u64> {
        Some(self.stored.load(Relaxed)).filter(|&seconds| seconds != UNKNOWN)
    }

    /// From one change's cluster time until the target acknowledged it.
    pub fn delivery_seconds(&self, duration: Duration) {
        self.delivery.record(duration);
    }

    /// One request, from its first byte to the last of its answer.
    pub fn batch_seconds(&self, duration: Duration) {
        self.batch.record(duration);
    }

    /// A request or a part of it will be sent again, for this reason (`target::Retry::reason`).
    pub fn retry(&self, reason: &'static str) {
        let mut retries = self.retries.lock().expect("nothing panics while it holds the lock");
        retries
            .entry(reason)
            .or_insert_with(|| {
                self.metrics.counter(RETRIES, &[("target", &self.name), ("reason", reason)])
            })
            .increment(1);
    }

    /// So many bytes of documents have entered (or, negative, left) the way to this target.
    pub fn buffer_bytes(&self, delta: i64) {
        self.buffer.increment(delta as f64);
    }

    /// What it is doing.
    pub fn state(&self) -> State {
        self.condition().state()
    }

    /// Why it waits or has failed.
    pub fn last_error(&self) -> Option<String> {
        self.condition().error().map(str::to_owned)
    }

    /// How far it is behind; `None` where that is not known yet, or nothing is followed.
    pub fn lag_at(&self, now: SystemTime) -> Option<Duration> {
        self.follows.then(|| self.lag().clock.lag(now)).flatten()
    }

    /// Events of all rules so far.
    pub fn events(&self) -> u64 {
        self.rules.iter().map(|rule| rule.events()).sum()
    }

    /// `oplog` is the time of its oldest entry.
    pub(super) fn snapshot(&self, now: SystemTime, oplog: Option<ClusterTime>) -> TargetSnapshot {
        let position = self.position_now();
        let lag = self.lag_at(now);
        let condition = self.condition();
        TargetSnapshot {
            state: condition.state(),
            lag_seconds: lag.map(|lag| (lag.as_secs_f64() * 1000.0).round() / 1000.0),
            position,
            oplog_left_seconds: position.zip(oplog).map(|(position, oldest)| {
                position.seconds().saturating_sub(oldest.seconds()).into()
            }),
            last_error: condition.error().map(str::to_owned),
            rules: self
                .rules
                .iter()
                .map(|rule| (rule.name().to_owned(), rule.snapshot(position)))
                .collect(),
            follows: self.follows,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Condition)) {
        let mut condition = self.condition();
        let before = (condition.state(), condition.error().map(str::to_owned));
        change(&mut condition);
        self.waiting.store(condition.waiting, Relaxed);
        self.source_waiting.store(condition.source.is_some(), Relaxed);
        self.held.store(!condition.held.is_empty(), Relaxed);
        let (state, error) = (condition.state(), condition.error());
        if (before.0, before.1.as_deref()) == (state, error) {
            return;
        }
        if let Some(error) = error {
            let (target, words) = (self.name.clone(), error.to_owned());
            match state {
                State::Waiting => self.troubles.tell(Trouble::Waiting { target, words }),
                State::Failed => self.troubles.tell(Trouble::Failed { target, words }),
                State::Copying | State::Following | State::Paused => {}
            }
        }
        match (state, error) {
            (State::Failed, Some(error)) => {
                tracing::error!(target = %self.name, error, "target has failed");
            }
            (State::Waiting, Some(error)) => {
                tracing::warn!(target = %self.name, error, "target is waited for");
            }
            _ if before.0 == State::Waiting => {
                tracing::info!(target = %self.name, %state, "target goes on");
            }
            _ => tracing::info!(target = %self.name, %state, "target has a new state"),
        }
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().expect("nothing panics while it holds the lock")
    }

    fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().expect("nothing panics while it holds the lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Status, fixture};

    #[test]
    fn waiting_lies_over_the_work() {
        let status = Status::new(&fixture::rules());
        let target = status.target("search");
        assert_eq!(target.state(), State::Copying);

        target.waiting("connect mongodb://me:hunter2@h/ refused");
        assert_eq!(target.state(), State::Waiting);
        assert_eq!(target.last_error().unwrap(), "connect mongodb://me:…@h/ refused");

        target.set_state(State::Following);
        assert_eq!(target.state(), State::Waiting, "only a success ends the waiting");
        target.set_state(State::Paused);
        assert_eq!(target.state(), State::Paused);
        target.set_state(State::Following);
        assert_eq!(target.state(), State::Waiting);

        target.recovered();
        assert_eq!((target.state(), target.last_error()), (State::Following, None));

        target.held(2, Some("no right"));
        target.waiting("busy");
        assert_eq!(target.last_error().unwrap(), "busy");
        target.recovered();
        assert_eq!(target.state(), State::Waiting, "another lane's success is none of these");
        assert_eq!(target.last_error().unwrap(), "no right");
        target.held(1, None);
        assert_eq!(target.state(), State::Waiting);
        target.held(2, None);
        assert_eq!((target.state(), target.last_error()), (State::Following, None));

        target.failed("the index is gone");
        target.recovered();
        assert_eq!(target.state(), State::Failed);
        assert_eq!(target.last_error().unwrap(), "the index is gone");
    }
}
