//! Which containers are filled anew beside what is read, to be swapped in once they are whole: those
//! of rules that are copied again as a whole, where the target can do that and nothing in them is
//! to stay as it is.

use std::collections::BTreeMap;

use bson::Uuid;

use crate::{
    change::{Namespace, RuleIndex},
    checkpoint::{
        keys,
        records::{ReplacementRecord, load_all, put, removal},
        store::Write,
    },
    pipeline::{Error, containers, targets::insist_on_target},
    rules::model::OnDrop,
    target::Replaceable,
};

use super::{Chosen, Copies, PartId, Planning};

/// A container that is filled beside what is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement {
    /// A rule that writes to it.
    pub rule: String,
    /// Of this replacement alone.
    pub id: Uuid,
    /// Whether an earlier run has written to it.
    pub begun: bool,
}

/// By container.
pub type Replacements = BTreeMap<String, Replacement>;

impl Planning<'_> {
    /// Those that are under way. What can no longer be swapped in is given up: the rules that write
    /// there are copied again, into what is read. In a run without all rules none is given up.
    pub(super) async fn replacements(
        &mut self,
        copies: &Copies,
    ) -> Result<(Replacements, Vec<String>), Error> {
        let prefix = keys::replacements(self.name);
        let stored = self.stored(|| load_all::<ReplacementRecord>(&**self.store, &prefix)).await?;
        let (mut going_on, mut given_up) = (Replacements::new(), Vec::new());
        for (key, record) in stored {
            let Some(container) = key.0.last().and_then(|name| str::from_utf8(name).ok()) else {
                continue;
            };
            let own = |(index, namespace): (RuleIndex, &Namespace)| {
                let rule = &self.rules.get(index).rule().name;
                (self.target.container(rule, namespace).as_deref() == Some(container))
                    .then(|| rule.clone())
            };
            let all = copies.iter().flat_map(|(&index, own)| own.keys().map(move |of| (index, of)));
            let rule = all.filter_map(own).next();
            let begun = copies
                .values()
                .flat_map(BTreeMap::values)
                .any(|own| own.plan.container.as_deref() == Some(container) && own.has_progress());
            let prevented = match &rule {
                _ if !self.is_whole() => None,
                None => Some("no rule writes there any more".to_owned()),
                Some(rule) => self.prevents(rule, container).await?,
            };
            if let Some(why) = prevented {
                tracing::warn!(
                    target = self.name,
                    container,
                    why,
                    "the index that was being filled can't be swapped in, and is left as it is"
                );
                let reach = |rule: &&crate::rules::model::Rule| {
                    containers::may_reach(self.target, rule, container)
                };
                let again = self.rules.iter().map(|(_, rule)| rule.rule()).filter(reach);
                let again: Vec<_> = again.map(|rule| rule.name.clone()).collect();
                self.demand.rules.extend(again);
                given_up.push(container.to_owned());
            } else if let Some(rule) = rule {
                going_on.insert(container.to_owned(), Replacement { rule, id: record.id, begun });
            }
        }
        Ok((going_on, given_up))
    }

    /// Those that begin now: of the containers of rules that are copied again as a whole.
    pub(super) async fn new_replacements(
        &self,
        chosen: &BTreeMap<PartId, Chosen>,
    ) -> Result<Replacements, Error> {
        let mut begin = Replacements::new();
        for ((index, _), chosen) in chosen {
            let rule = &self.rules.get(*index).rule().name;
            let Some(container) = chosen.container.as_ref().filter(|_| chosen.sweep) else {
                continue;
            };
            if !self.demand.rules.contains(rule) || begin.contains_key(container) {
                continue;
            }
            match self.prevents(rule, container).await? {
                None => {
                    let rule = rule.clone();
                    let new = Replacement { rule, id: Uuid::new(), begun: false };
                    begin.insert(container.clone(), new);
                }
                Some(why) if !why.is_empty() => tracing::info!(
                    target = self.name,
                    container,
                    why,
                    "copied again into the index that is read, not into a new one"
                ),
                Some(_) => {}
            }
        }
        Ok(begin)
    }

    /// Why a container can't be replaced; empty words where none of its kind can.
    async fn prevents(&self, rule: &str, container: &str) -> Result<Option<String>, Error> {
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
        let keeps = self.demand.parts.iter().any(|((rule, namespace), on_drop)| {
            *on_drop == OnDrop::Keep
                && self.target.container(rule, namespace).as_deref() == Some(container)
        });
        if kept.is_some() || keeps {
            return Ok(Some("it holds documents that are kept".to_owned()));
        }
        let reading = self.reading;
        let answer = insist_on_target(&reading.status, self.settings, self.stop, || {
            self.target.replaceable(rule, container)
        });
        Ok(match answer.await {
            None => return Err(Error::Stopped),
            Some(Replaceable::Yes) => None,
            Some(Replaceable::No) => Some(String::new()),
            Some(Replaceable::NotThis(why)) => Some(why),
        })
    }

    /// Stores what is to be replaced from now on.
    pub(super) async fn remember_replacements(
        &self,
        begin: &Replacements,
        given_up: &[String],
    ) -> Result<(), Error> {
        let key = |container: &str| keys::replacement(self.name, container);
        let mut writes: Vec<Write> =
            given_up.iter().map(|container| removal::<ReplacementRecord>(key(container))).collect();
        writes.extend(
            begin.iter().map(|(name, new)| put(key(name), &ReplacementRecord { id: new.id })),
        );
        self.write(writes).await
    }
}
