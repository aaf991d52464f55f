//! What has to be copied again although it has been: the one way in which a pipeline gets over a
//! lost history, a collection that was dropped or renamed, and a rule that has changed.
//!
//! Whoever finds it out ends the pipeline with a demand; the next plan carries it out. It is stored
//! before anything else is changed and forgotten once all of it is planned: a process that dies in
//! between plans all of it again.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    change::{ClusterTime, Namespace},
    checkpoint::records::{DemandRecord, DemandedPart},
    rules::model::OnDrop,
};

/// What is to be copied again.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Rules, by name, with every namespace that they read or have read.
    pub rules: BTreeSet<String>,
    /// Namespaces of a rule. What the target holds of them from before is removed, or kept.
    pub parts: BTreeMap<(String, Namespace), OnDrop>,
    /// What led to it happened up to then: the copies begin later.
    pub seen: ClusterTime,
    /// Whether the stored position is of no more use, and the stream begins now.
    pub lost: bool,
    /// Where the stream begins instead of at the stored position.
    pub seek: Option<ClusterTime>,
}

impl Demand {
    /// Whether there is nothing to store.
    pub fn is_nothing(&self) -> bool {
        self.is_empty() && self.seek.is_none()
    }

    /// Whether nothing has to be copied again.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.parts.is_empty() && !self.lost
    }

    /// Adds another one.
    pub fn join(&mut self, other: Self) {
        self.rules.extend(other.rules);
        for ((rule, namespace), on_drop) in other.parts {
            self.part(&rule, &namespace, on_drop);
        }
        self.seen = self.seen.max(other.seen);
        self.lost |= other.lost;
        self.seek = other.seek.or(self.seek);
    }

    /// As it is stored.
    pub fn record(&self) -> DemandRecord {
        DemandRecord {
            rules: self.rules.iter().cloned().collect(),
            parts: self
                .parts
                .iter()
                .map(|((rule, namespace), on_drop)| DemandedPart {
                    rule: rule.clone(),
                    namespace: namespace.as_str().to_owned(),
                    keep: *on_drop == OnDrop::Keep,
                })
                .collect(),
            seen: self.seen,
            lost: self.lost,
            seek: self.seek.map(Into::into),
        }
    }

    /// A stored one, as far as the file still has its rules.
    pub fn of(record: DemandRecord, known: &BTreeSet<String>) -> Self {
        let parts = record.parts.into_iter().filter(|part| known.contains(&part.rule));
        Self {
            rules: record.rules.into_iter().filter(|rule| known.contains(rule)).collect(),
            parts: parts
                .filter_map(|part| {
                    let on_drop = if part.keep { OnDrop::Keep } else { OnDrop::Remove };
                    Some(((part.rule, Namespace::parse(&part.namespace)?), on_drop))
                })
                .collect(),
            seen: record.seen,
            lost: record.lost,
            seek: record.seek.map(Into::into),
        }
    }

    /// What of it a run without all rules leaves for another.
    pub fn left_by(&self, active: &BTreeSet<&str>) -> Self {
        let parts = self.parts.iter().filter(|((rule, _), _)| !active.contains(rule.as_str()));
        Self {
            parts: parts.map(|(part, on_drop)| (part.clone(), *on_drop)).collect(),
            seen: self.seen,
            ..Self::default()
        }
    }

    /// A part. Of two reasons for one, that which removes counts: what replaced the collection is
    /// not what was to be kept.
    pub fn part(&mut self, rule: &str, namespace: &Namespace, on_drop: OnDrop) {
        let known = self.parts.entry((rule.to_owned(), namespace.clone())).or_insert(on_drop);
        if on_drop == OnDrop::Remove {
            *known = on_drop;
        }
    }
}
