//! What one rule does in one target: its copy, what became of its documents, its events.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use metrics::{Counter, Gauge};

use super::{
    UNKNOWN,
    metrics::{COPY_DOCUMENTS, COPY_EXPECTED, DEAD_LETTERS, DOCUMENTS, EVENTS, Metrics},
    snapshot::{CopySnapshot, RuleSnapshot},
};
use crate::{
    change::{ClusterTime, Phase},
    rules::model::Rule,
};

/// What became of a document of a rule once it was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// The target holds it.
    Delivered,
    /// The target holds it no more.
    Removed,
    /// The target held something newer, or nothing that was to be removed.
    Superseded,
    /// It does not match the rule, and nothing had to be done about it.
    Filtered,
    /// The transform said to leave the target as it is.
    Skipped,
    /// It was refused for good.
    DeadLetter,
}

impl Settled {
    /// Every outcome, in the order of the enum.
    pub const ALL: [Self; 6] = [
        Self::Delivered,
        Self::Removed,
        Self::Superseded,
        Self::Filtered,
        Self::Skipped,
        Self::DeadLetter,
    ];

    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Removed => "removed",
            Self::Superseded => "superseded",
            Self::Filtered => "filtered",
            Self::Skipped => "skipped",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// What a change event says has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A new document.
    Insert,
    /// Some fields of a document.
    Update,
    /// A whole document.
    Replace,
    /// A document that is no more.
    Delete,
    /// A collection that is no more.
    Drop,
    /// A collection under another name.
    Rename,
    /// A database that is no more.
    DropDatabase,
    /// The stream ended on it.
    Invalidate,
    /// Anything else: indexes, shards, options.
    Other,
}

impl EventKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 9] = [
        Self::Insert,
        Self::Update,
        Self::Replace,
        Self::Delete,
        Self::Drop,
        Self::Rename,
        Self::DropDatabase,
        Self::Invalidate,
        Self::Other,
    ];

    /// The label in metrics: the event's `operationType`, or `other`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Drop => "drop",
            Self::Rename => "rename",
            Self::DropDatabase => "dropDatabase",
            Self::Invalidate => "invalidate",
            Self::Other => "other",
        }
    }

    /// From an event's `operationType`.
    pub fn from_operation_type(text: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).unwrap_or(Self::Other)
    }
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Documents settled, those of earlier runs included.
    pub documents: u64,
    /// Those of them that earlier runs settled.
    pub resumed: u64,
    /// Bytes of documents, in this run.
    pub bytes: u64,
    /// An estimate; `None` until there is one.
    pub expected: Option<u64>,
    /// Whether there is nothing left to copy.
    pub complete: bool,
}

/// One rule in one target.
#[derive(Debug)]
pub struct RuleStatus {
    name: String,
    target: String,
    metrics: Arc<Metrics>,
    settled: [[Count; Settled::ALL.len()]; 2],
    events: [Count; EventKind::ALL.len()],
    dead_letters: Counter,
    /// `UNKNOWN` where the rule has no position of its own.
    position: AtomicU64,
    documents: AtomicU64,
    resumed: AtomicU64,
    bytes: AtomicU64,
    expected: AtomicU64,
    complete: AtomicBool,
    stale: AtomicBool,
    documents_gauge: Gauge,
    expected_gauge: OnceLock<Gauge>,
}

/// A number that the status object and the metrics both show.
#[derive(Debug)]
struct Count {
    here: AtomicU64,
    exported: Counter,
}

impl Count {
    fn new(exported: Counter) -> Self {
        Self { here: AtomicU64::new(0), exported }
    }

    fn add(&self, n: u64) {
        self.here.fetch_add(n, Relaxed);
        self.exported.increment(n);
    }
}

impl RuleStatus {
    pub(super) fn new(metrics: &Arc<Metrics>, target: &str, rule: &Rule) -> Self {
        let labels = [("rule", rule.name.as_str()), ("target", target)];
        let [of_rule, of_target] = labels;
        let settled = |phase: Phase| {
            Settled::ALL.map(|outcome| {
                Count::new(metrics.counter(
                    DOCUMENTS,
                    &[of_rule, of_target, ("phase", phase.as_str()), ("outcome", outcome.as_str())],
                ))
            })
        };
        Self {
            name: rule.name.clone(),
            target: target.to_owned(),
            settled: [settled(Phase::Copy), settled(Phase::Changes)],
            events: EventKind::ALL.map(|kind| {
                let labels = [of_rule, of_target, ("op", kind.as_str())];
                Count::new(metrics.counter(EVENTS, &labels))
            }),
            dead_letters: metrics.counter(DEAD_LETTERS, &labels),
            position: AtomicU64::new(UNKNOWN),
            documents: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            expected: AtomicU64::new(UNKNOWN),
            complete: AtomicBool::new(rule.copy.is_none()),
            stale: AtomicBool::new(false),
            documents_gauge: metrics.gauge(COPY_DOCUMENTS, &labels),
            expected_gauge: OnceLock::new(),
            metrics: metrics.clone(),
        }
    }

    /// The rule's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A copy begins, or goes on where `resumed` documents have been settled by earlier runs. What
    /// an earlier copy in this process reported is forgotten.
    pub fn copy_begins(&self, resumed: u64) {
        self.documents.store(resumed, Relaxed);
        self.resumed.store(resumed, Relaxed);
        self.bytes.store(0, Relaxed);
        self.expected.store(UNKNOWN, Relaxed);
        self.complete.store(false, Relaxed);
        self.documents_gauge.set(resumed as f64);
    }

    /// How many documents the copy will settle, earlier runs included: an estimate, for people and
    /// progress bars. May be called again with a better one.
    pub fn copy_expected(&self, documents: u64) {
        self.expected.store(documents, Relaxed);
        self.expected_gauge
            .get_or_init(|| {
                let labels = [("rule", self.name.as_str()), ("target", &self.target)];
                self.metrics.gauge(COPY_EXPECTED, &labels)
            })
            .set(documents as f64);
    }

    /// So many more documents of the copy are settled, of so many bytes in the source.
    pub fn copy_progress(&self, documents: u64, bytes: u64) {
        self.documents.fetch_add(documents, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.documents_gauge.increment(documents as f64);
    }

    /// Everything that the copy read is settled, or an earlier run has done all of it, or nothing is
    /// to be copied in this run. A rule without a copy is complete from the start.
    pub fn copy_complete(&self) {
        let was_complete = self.complete.swap(true, Relaxed);
        let Copied { documents, resumed, .. } = self.copied();
        if !was_complete && documents > resumed {
            tracing::info!(target = %self.target, rule = %self.name, documents, "copy complete");
        }
    }

    /// Whether the rule delivers something else than what was copied.
    pub fn stale(&self, stale: bool) {
        self.stale.store(stale, Relaxed);
    }

    /// `n` documents were settled.
    pub fn count(&self, phase: Phase, outcome: Settled, n: u64) {
        self.settled[phase as usize][outcome as usize].add(n);
        if outcome == Settled::DeadLetter {
            self.dead_letters.increment(n);
        }
    }

    /// `n` events of the change stream concerned this rule.
    pub fn event(&self, kind: EventKind, n: u64) {
        self.events[kind as usize].add(n);
    }

    /// The settled position of a rule that has a change stream of its own. A rule that shares its
    /// target's shows the target's.
    pub fn position(&self, position: ClusterTime) {
        self.position.store(position.0, Relaxed);
    }

    /// How far the copy is.
    pub fn copied(&self) -> Copied {
        Copied {
            documents: self.documents.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            expected: known(&self.expected),
            complete: self.complete.load(Relaxed),
        }
    }

    /// Events of any kind so far.
    pub fn events(&self) -> u64 {
        self.events.iter().map(|count| count.here.load(Relaxed)).sum()
    }

    /// Documents with this outcome so far, in both phases.
    pub fn settled(&self, outcome: Settled) -> u64 {
        self.settled.iter().map(|phase| phase[outcome as usize].here.load(Relaxed)).sum()
    }

    pub(super) fn snapshot(&self, of_target: Option<ClusterTime>) -> RuleSnapshot {
        let copied = self.copied();
        RuleSnapshot {
            position: known(&self.position).map(ClusterTime).or(of_target),
            copy: CopySnapshot {
                documents: copied.documents,
                expected: copied.expected,
                complete: copied.complete,
            },
            stale_definition: self.stale.load(Relaxed),
            delivered: self.settled(Settled::Delivered),
            removed: self.settled(Settled::Removed),
            superseded: self.settled(Settled::Superseded),
            dead_letters: self.settled(Settled::DeadLetter),
        }
    }
}

fn known(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Relaxed)).filter(|&value| value != UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enums_index_their_own_lists() {
        for (index, outcome) in Settled::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            assert_eq!(EventKind::from_operation_type(kind.as_str()), kind);
        }
        assert_eq!(EventKind::from_operation_type("createIndexes"), EventKind::Other);
        assert_eq!([Phase::Copy as usize, Phase::Changes as usize], [0, 1]);
    }
}
