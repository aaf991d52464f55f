//! The rules of one target, and which of them read a namespace.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    change::{Namespace, RuleIndex},
    rules::model::{Destination, Rule, RuleFile, Selector},
    source::{lookup::Read, stream::Scope},
};

/// Namespaces whose rules are remembered; a deployment with more is matched again.
const REMEMBERED: usize = 100_000;

/// A rule of the target.
pub struct TargetRule {
    file: Arc<RuleFile>,
    index: usize,
    destination: Destination,
    /// How it reads.
    pub read: Read,
    follows: bool,
}

impl TargetRule {
    /// The rule as the file has it.
    pub fn rule(&self) -> &Rule {
        &self.file.rules[self.index]
    }

    /// Whether it follows changes: it says so, and its namespace is not a view, which has none.
    pub fn follows(&self) -> bool {
        self.follows
    }

    /// What it says about the target.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}

/// All rules that write to one target.
pub struct RuleSet {
    rules: Vec<TargetRule>,
    /// mongosync's own database in the source, which patterns pass over.
    hidden: Option<String>,
    by_namespace: Mutex<HashMap<Namespace, Arc<[RuleIndex]>>>,
}

impl RuleSet {
    /// Those of `target` whose name `wanted` accepts. Not empty where the caller has checked that.
    pub fn new(
        file: &Arc<RuleFile>,
        target: &str,
        hidden: Option<String>,
        wanted: impl Fn(&str) -> bool,
        is_view: impl Fn(&Namespace) -> bool,
    ) -> Self {
        let mut rules = Vec::new();
        for (index, rule) in file.rules.iter().enumerate() {
            if !wanted(&rule.name) {
                continue;
            }
            let follows = rule.changes.is_some() && !rule.namespaces.exact().is_some_and(&is_view);
            for destination in rule.to.iter().filter(|to| to.target == target) {
                rules.push(TargetRule {
                    file: file.clone(),
                    index,
                    destination: destination.clone(),
                    read: Read::of(rule),
                    follows,
                });
            }
        }
        Self { rules, hidden, by_namespace: Mutex::default() }
    }

    /// Whether no rule writes to the target.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// A rule.
    pub fn get(&self, index: RuleIndex) -> &TargetRule {
        &self.rules[usize::from(index.0)]
    }

    /// All of them, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (RuleIndex, &TargetRule)> {
        self.rules.iter().enumerate().map(|(index, rule)| {
            (RuleIndex(u16::try_from(index).expect("fewer rules than 65,536")), rule)
        })
    }

    /// What the change stream has to show: the selectors of the rules that follow changes.
    pub fn followed(&self) -> Vec<&Selector> {
        self.rules.iter().filter(|rule| rule.follows).map(|rule| &rule.rule().namespaces).collect()
    }

    /// The smallest scope that holds them.
    pub fn scope(&self) -> Scope {
        Scope::of(self.followed())
    }

    /// mongosync's own database in the source, which patterns pass over.
    pub fn hidden(&self) -> Option<&str> {
        self.hidden.as_deref()
    }

    /// Whether a rule reads a namespace.
    pub fn reads(&self, rule: &Rule, namespace: &Namespace) -> bool {
        rule.namespaces.takes(namespace, self.hidden())
    }

    /// The rules that follow the changes of a namespace.
    pub fn following(&self, namespace: &Namespace) -> Arc<[RuleIndex]> {
        let mut known = self.by_namespace.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = known.get(namespace) {
            return rules.clone();
        }
        let rules: Arc<[RuleIndex]> = self
            .iter()
            .filter(|(_, rule)| rule.follows && self.reads(rule.rule(), namespace))
            .map(|(index, _)| index)
            .collect();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(namespace.clone(), rules.clone());
        rules
    }
}
