//! Which containers are filled anew beside what is read, to be swapped in once they are whole: those
//! of rules that are copied again as a whole, where the target can do that and the copy brings
//! everything that is to be there.
//!
//! One that has been begun is never given up: what changed meanwhile has been told to it alone. What
//! has to stay in spite of the copy, and was found out later, is taken over before the swap.

use std::collections::BTreeMap;

use bson::Uuid;

use crate::{
    change::{ClusterTime, Namespace},
    checkpoint::{
        keys,
        records::{ReplacementRecord, load_all, put},
        store::{RecordKey, Write},
    },
    pipeline::{Error, containers},
};

use super::{Chosen, Copies, PartId, Planning};

/// A container that is filled beside what is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// A rule that wrote to it when it was begun.
    pub rule: String,
    /// Of this replacement alone.
    pub id: Uuid,
    /// Whether an earlier run has written to it.
    pub begun: bool,
}

/// By container.
pub type Replacements = BTreeMap<String, Replacement>;

impl Planning<'_> {
    /// Those that are under way.
    pub(super) async fn replacements(&self, copies: &Copies) -> Result<Replacements, Error> {
        let prefix = keys::replacements(self.name);
        let stored = self.stored(|| load_all::<ReplacementRecord>(&**self.store, &prefix)).await?;
        let of =
            |key: &RecordKey| key.0.last().and_then(|name| String::from_utf8(name.clone()).ok());
        let one = |(key, record): (_, ReplacementRecord)| {
            let container = of(&key)?;
            let begun = copies.values().flat_map(BTreeMap::values).any(|own| {
                own.plan.container.as_ref() == Some(&container)
                    && own.plan.started >= record.since
                    && own.has_progress()
            });
            Some((container, Replacement { rule: record.rule, id: record.id, begun }))
        };
        Ok(stored.into_iter().filter_map(one).collect())
    }

    /// Those that begin now: of the containers of rules that are copied again as a whole.
    pub(super) async fn new_replacements(
        &self,
        chosen: &BTreeMap<PartId, Chosen>,
    ) -> Result<Replacements, Error> {
        let mut begin = Replacements::new();
        for ((index, _), part) in chosen {
            let rule = &self.rules.get(*index).rule().name;
            let Some(container) = part.container.as_ref().filter(|_| part.sweep) else { continue };
            if !self.demand.rules.contains(rule)
                || begin.contains_key(container)
                || !self.target.is_replaceable(rule, container)
            {
                continue;
            }
            let keeps = |own: &Chosen| own.keep && own.container.as_ref() == Some(container);
            let prevented = match chosen.values().any(keeps) {
                true => Some("it holds documents that are kept".to_owned()),
                false => self.prevents(container).await?,
            };
            match prevented {
                None => {
                    let rule = rule.clone();
                    let new = Replacement { rule, id: Uuid::new(), begun: false };
                    begin.insert(container.clone(), new);
                }
                Some(why) => tracing::info!(
                    target = self.name,
                    container,
                    why,
                    "copied again into the index that is read, not into a new one"
                ),
            }
        }
        Ok(begin)
    }

    /// Why a copy does not bring everything that is to be in a container.
    async fn prevents(&self, container: &str) -> Result<Option<String>, Error> {
        if let Some(why) = containers::obstacle(self.target, self.rules, container) {
            return Ok(Some(why));
        }
        let anywhere = Namespace::new("any", "any");
        let mut rules = self.rules.iter().map(|(_, rule)| rule.rule());
        let chooses = rules.find(|rule| {
            containers::may_reach(self.target, rule, container)
                && (rule.transform.as_ref().is_some_and(|script| script.may_move())
                    || self.target.container(&rule.name, &anywhere).is_none())
        });
        if let Some(rule) = chooses {
            return Ok(Some(format!("rule {} chooses where each document lies", rule.name)));
        }
        let kept = self.stored(|| containers::kept(&**self.store, self.name, container)).await?;
        Ok(kept.map(|_| "it holds documents that are kept".to_owned()))
    }

    /// Stores what is to be replaced from now on.
    pub(super) async fn remember_replacements(
        &self,
        begin: &Replacements,
        now: ClusterTime,
    ) -> Result<(), Error> {
        let writes: Vec<Write> = begin
            .iter()
            .map(|(container, new)| {
                let record = ReplacementRecord { id: new.id, rule: new.rule.clone(), since: now };
                put(keys::replacement(self.name, container), &record)
            })
            .collect();
        self.write(writes).await
    }
}
