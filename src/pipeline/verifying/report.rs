//! What `verify` found, for people and programs.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

/// By the names of the targets.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Those that were looked at.
    pub targets: BTreeMap<String, TargetReport>,
}

/// What one target holds, beside what it should.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct TargetReport {
    /// Why it can't be compared at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    /// By the names of the rules.
    pub rules: BTreeMap<String, RuleReport>,
    /// Documents that mongosync wrote and the target holds, where they can be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<u64>,
    /// Those among them that no document of the source makes.
    pub extra: u64,
    /// Those that were, and have been removed.
    pub extra_repaired: u64,
    /// Those whose removal is on its way.
    pub extra_not_delivered: u64,
    /// Some of what differs: as many of each kind as were asked for.
    pub differences: Vec<Difference>,
    /// What can't be told, and why something differs, in words.
    pub notes: Vec<String>,
    /// Whether a repair was left for whoever runs the rule file next.
    pub repair_left: bool,
}

/// One rule in one target. All but `documents` and `dead_letters` count what lies in the target: a
/// transform may make several of one document.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct RuleReport {
    /// Documents that the rule takes from the source.
    pub documents: u64,
    /// As they should be.
    pub equal: u64,
    /// Not in the target.
    pub missing: u64,
    /// In the target with other content.
    pub different: u64,
    /// Changed in the source, and not in the target yet.
    pub not_delivered: u64,
    /// Documents in the dead letters that are not in the target as they are now.
    pub dead_letters: u64,
    /// Missing or different ones that have been delivered again.
    pub repaired: u64,
    /// Whether the copy is still under way.
    pub copying: bool,
    /// Whether the rule has changed since it was copied.
    pub stale: bool,
}

/// How something differs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The target does not hold it.
    Missing,
    /// The target holds something else.
    Different,
    /// The source does not have it.
    Extra,
}

impl Kind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Extra => "extra",
        }
    }
}

/// One difference.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The rule; of an extra document one that writes there.
    pub rule: String,
    /// Where the document lives in the source, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its `_id`, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it lies in the target, or should.
    pub place: String,
    /// Whether it has been mended.
    pub repaired: bool,
}

impl Report {
    /// What differs and was not mended.
    pub fn differences(&self) -> u64 {
        self.targets.values().map(TargetReport::differing).sum()
    }

    /// What was mended.
    pub fn repaired(&self) -> u64 {
        self.targets.values().map(TargetReport::repaired).sum()
    }
}

impl TargetReport {
    /// What differs and was not mended.
    pub fn differing(&self) -> u64 {
        let rules = self.rules.values().map(|rule| rule.missing + rule.different);
        rules.sum::<u64>() + self.extra
    }

    /// What was mended.
    pub fn repaired(&self) -> u64 {
        self.rules.values().map(|rule| rule.repaired).sum::<u64>() + self.extra_repaired
    }

    /// Keeps a difference, unless there are `limit` of its kind already.
    pub(super) fn show(&mut self, difference: Difference, limit: usize) {
        let known = self.differences.iter().filter(|known| known.kind == difference.kind);
        if known.count() < limit {
            self.differences.push(difference);
        }
    }

    /// Says something once.
    pub(super) fn note(&mut self, words: String) {
        if !self.notes.contains(&words) {
            self.notes.push(words);
        }
    }
}

/// How far it is, for whoever watches.
#[derive(Default, Debug)]
pub struct Progress {
    what: Mutex<String>,
    done: AtomicU64,
    expected: AtomicU64,
}

impl Progress {
    /// What is looked at now.
    pub fn what(&self) -> String {
        self.what.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Documents that have been looked at, and about how many there are.
    pub fn documents(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }

    pub(super) fn begin(&self, what: String, expected: u64) {
        *self.what.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.done.store(0, Ordering::Relaxed);
        self.expected.store(expected, Ordering::Relaxed);
    }

    pub(super) fn add(&self, documents: u64) {
        self.done.fetch_add(documents, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_each_kind_are_shown_and_all_are_counted() {
        let mut target = TargetReport::default();
        let difference = |kind, place: usize| Difference {
            kind,
            rule: "items".into(),
            namespace: None,
            id: None,
            place: place.to_string(),
            repaired: false,
        };
        for place in 0..5 {
            target.show(difference(Kind::Missing, place), 2);
            target.show(difference(Kind::Extra, place), 3);
        }
        let shown = |kind| target.differences.iter().filter(|known| known.kind == kind).count();
        assert_eq!((shown(Kind::Missing), shown(Kind::Extra)), (2, 3));

        let rule = RuleReport {
            missing: 3,
            different: 2,
            not_delivered: 7,
            dead_letters: 1,
            repaired: 4,
            ..RuleReport::default()
        };
        target.rules.insert("items".into(), rule);
        (target.extra, target.extra_repaired, target.extra_not_delivered) = (5, 6, 9);
        let report = Report { targets: [("search".to_owned(), target)].into() };
        // What is on its way and what is in the dead letters is told apart.
        assert_eq!((report.differences(), report.repaired()), (10, 10));
    }
}
