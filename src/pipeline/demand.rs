//! What has to be copied again although it has been: the one way in which a pipeline gets over a
//! lost history, a collection that was dropped or renamed, and a rule that has changed.
//!
//! Whoever finds it out ends the pipeline with a demand; the next plan carries it out. A process that
//! dies in between finds it out again, since the position has not passed what led to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    change::{ClusterTime, Namespace},
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
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.parts.is_empty() && !self.lost
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
