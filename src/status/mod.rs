//! What every stage reports to, and what people and machines read: metrics, the status object, the
//! HTTP server.
//!
//! One [`Status`] a pipeline, shared as `Arc`. Stages fetch the handle of their target and rule
//! once and keep it; a report is an atomic or a short lock, never a wait. Nothing here decides
//! anything: no stage may read it to choose what to do.

mod http;
mod lag;
mod metrics;
mod rule;
mod secrets;
mod snapshot;
mod target;
mod trouble;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use ::metrics::Gauge;

use crate::{
    change::ClusterTime,
    rules::model::{Rule, RuleFile},
};

pub use http::{Asked, Commands, ListenError, Outcome, Server};
pub use rule::{Copied, EventKind, RuleStatus, Settled};
pub use secrets::masked;
pub use snapshot::{
    CopySnapshot, Holder, READY_LAG, RuleSnapshot, Snapshot, Standing, TargetSnapshot,
};
pub use target::{State, TargetStatus};
pub use trouble::{Listener, Trouble};

use trouble::Troubles;

/// What a pipeline is doing. Made from the rule file before anything is reached, so that a target
/// that has never answered is seen too.
///
/// It brings its own metrics recorder instead of installing one for the whole process: two
/// pipelines in one program never mix their numbers, and a program that has a recorder of its own
/// keeps it.
#[derive(Debug)]
pub struct Status {
    name: String,
    standby: AtomicBool,
    /// Targets and rules, in the order of the file.
    rules: Vec<(String, String)>,
    targets: Vec<Arc<TargetStatus>>,
    /// In seconds; `UNKNOWN` until it has been measured.
    oplog_window: AtomicU64,
    /// The time of the oldest entry; `UNKNOWN` until it has been read.
    oplog_first: AtomicU64,
    oplog_gauge: OnceLock<Gauge>,
    holder: Mutex<Option<Holder>>,
    troubles: Troubles,
    metrics: Arc<metrics::Metrics>,
}

const UNKNOWN: u64 = u64::MAX;

impl Status {
    /// Of every rule in the file.
    pub fn new(rules: &RuleFile) -> Arc<Self> {
        Self::of(rules, &[])
    }

    /// Of only these rules and the targets that they write to; of all where `selected` is empty.
    pub fn of(rules: &RuleFile, selected: &[String]) -> Arc<Self> {
        let metrics = metrics::Metrics::new();
        let troubles = Troubles::new();
        let targets = rules
            .targets
            .iter()
            .flat_map(|target| {
                let of_target = rules
                    .deliveries(&target.name)
                    .map(|(rule, _)| rule)
                    .filter(|rule| selected.is_empty() || selected.contains(&rule.name));
                let (events, documents): (Vec<_>, Vec<_>) =
                    of_target.partition(|rule| rule.events.is_some());
                let own = |events_of: Option<&str>, own: &[&Rule]| {
                    let max_await = rules.source.max_await;
                    let name = (target.name.as_str(), events_of);
                    Arc::new(TargetStatus::new((&metrics, &troubles), name, own, max_await))
                };
                let shared = (!documents.is_empty()).then(|| own(None, &documents));
                let events = events.into_iter().map(|rule| own(Some(&rule.name), &[rule]));
                shared.into_iter().chain(events.collect::<Vec<_>>()).collect::<Vec<_>>()
            })
            .collect();
        Arc::new(Self {
            name: rules.name.clone(),
            standby: AtomicBool::new(false),
            rules: rules
                .targets
                .iter()
                .flat_map(|target| {
                    let name = &target.name;
                    rules.deliveries(name).map(|(rule, _)| (name.clone(), rule.name.clone()))
                })
                .collect(),
            targets,
            oplog_window: AtomicU64::new(UNKNOWN),
            oplog_first: AtomicU64::new(UNKNOWN),
            oplog_gauge: OnceLock::new(),
            holder: Mutex::default(),
            troubles,
            metrics,
        })
    }

    /// The handle of one target; of several pipelines, of the first.
    ///
    /// # Panics
    /// Where no selected rule writes to a target of that name.
    pub fn target(&self, name: &str) -> Arc<TargetStatus> {
        let own = self.targets.iter().find(|target| target.name() == name);
        own.cloned().expect("targets are looked up by the names of the same rule file")
    }

    /// The handle of one pipeline of a target: of its `documents` rules, or of an `events` rule.
    ///
    /// # Panics
    /// Where there is none.
    pub fn pipeline(&self, name: &str, events_of: Option<&str>) -> Arc<TargetStatus> {
        let is_it = |it: &&Arc<TargetStatus>| it.name() == name && it.events_of() == events_of;
        let own = self.targets.iter().find(is_it);
        own.cloned().expect("pipelines are looked up by the names of the same rule file")
    }

    /// Every pipeline of every target, in the order of the file; those of one target together.
    pub fn targets(&self) -> &[Arc<TargetStatus>] {
        &self.targets
    }

    /// Hears what goes wrong from now on.
    pub fn troubles(&self) -> Listener {
        self.troubles.listen()
    }

    /// The run has failed, and ends.
    pub fn ended(&self, error: &dyn std::error::Error) {
        let mut words = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some say themselves what led to them.
            if !words.contains(&text) {
                words = format!("{words}: {text}");
            }
            cause = error.source();
        }
        self.troubles.tell(Trouble::Ended { words: masked(&words).into_owned() });
    }

    /// Says whether another process holds the lease. A status begins as active.
    pub fn standby(&self, standby: bool) {
        self.standby.store(standby, Relaxed);
    }

    /// Who holds the lease, this process or another.
    pub fn held_by(&self, holder: Holder) {
        *self.holder.lock().expect("nothing panics while it holds the lock") = Some(holder);
    }

    /// Whether another process holds the lease.
    pub fn stands_by(&self) -> bool {
        self.standby.load(Relaxed)
    }

    /// How much time lies between the oldest and the newest entry of the source's oplog.
    pub fn oplog_window(&self, window: Duration) {
        self.oplog_window.store(window.as_secs(), Relaxed);
        self.oplog_gauge
            .get_or_init(|| self.metrics.gauge(metrics::OPLOG_WINDOW, &[]))
            .set(window.as_secs_f64());
    }

    /// The time of the oldest entry of the source's oplog.
    pub fn oplog_reaches_to(&self, first: ClusterTime) {
        self.oplog_first.store(first.0, Relaxed);
    }

    /// The object of `GET /api/status`. `now` is what lag is measured against.
    pub fn snapshot(&self, now: SystemTime) -> Snapshot {
        let oplog = Some(self.oplog_first.load(Relaxed)).filter(|&first| first != UNKNOWN);
        let holder = self.holder.lock().expect("nothing panics while it holds the lock").clone();
        Snapshot {
            name: self.name.clone(),
            state: if self.stands_by() { Standing::Standby } else { Standing::Active },
            age_seconds: Some(0.0),
            holder,
            targets: self.snapshots(now, oplog.map(ClusterTime)),
            oplog_window_seconds: Some(self.oplog_window.load(Relaxed))
                .filter(|&seconds| seconds != UNKNOWN),
        }
    }

    /// Of each target, all its pipelines as one. `oplog` is the time of its oldest entry.
    fn snapshots(
        &self,
        now: SystemTime,
        oplog: Option<ClusterTime>,
    ) -> Vec<(String, TargetSnapshot)> {
        let mut all: Vec<(String, TargetSnapshot)> = Vec::new();
        for pipeline in &self.targets {
            let own = pipeline.snapshot(now, oplog);
            match all.last_mut().filter(|(name, _)| name == pipeline.name()) {
                Some((_, target)) => target.join(own),
                None => all.push((pipeline.name().to_owned(), own)),
            }
        }
        for (name, target) in &mut all {
            let place = |rule: &String| {
                self.rules.iter().position(|own| own == &(name.clone(), rule.clone()))
            };
            target.rules.sort_by_key(|(rule, _)| place(rule));
        }
        all
    }

    /// The text of `GET /metrics`, for a program that has a server of its own.
    pub fn metrics(&self) -> String {
        self.export(SystemTime::now());
        self.metrics.render()
    }

    /// Sets the gauges that are a target's as a whole. Lag grows by itself, so it is set when it is read.
    fn export(&self, now: SystemTime) {
        for (name, _) in self.snapshots(now, None) {
            let own = || self.targets.iter().filter(|target| target.name() == name);
            let labels = [("target", name.as_str())];
            if let Some(lag) = own().filter_map(|target| target.lag_at(now)).max() {
                self.metrics.gauge(metrics::LAG, &labels).set(lag.as_secs_f64());
            }
            if let Some(stored) = own().filter_map(|target| target.stored_seconds()).min() {
                self.metrics.gauge(metrics::CHECKPOINT_TIMESTAMP, &labels).set(stored as f64);
            }
        }
    }
}
