//! Which parts a plan copies now, why, and where they lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::Uuid;

use crate::{
    change::{Namespace, RuleIndex},
    checkpoint::{
        keys,
        records::{IdTypesRecord, load_all},
    },
    pipeline::{Error, demand::Demand},
    rules::model::OnDrop,
    source::namespaces::Kind,
};

use super::{
    Copies, PartId, Planning,
    again::{Part, Wanted, choose},
    are_all, until_listed,
};

/// What is planned now, beside every part that there is or has been.
type Choice = (Vec<PartId>, BTreeMap<PartId, Chosen>);

/// A part that is planned now.
pub(super) struct Chosen {
    /// See [`CopyPlanRecord::sweep`].
    pub sweep: bool,
    /// Whether what the target holds of it stays.
    pub keep: bool,
    /// See [`CopyPlanRecord::asked`].
    pub asked: bool,
    /// What it is; `None` where it is no more.
    pub kind: Option<Kind>,
    /// See [`CopyPlanRecord::collection`].
    pub collection: Option<Uuid>,
    /// See [`CopyPlanRecord::container`].
    pub container: Option<String>,
}

impl Planning<'_> {
    /// What is planned now.
    ///
    /// `same` says whether the source is the one that is known from before.
    pub(super) async fn chosen(
        &self,
        fresh: &BTreeSet<RuleIndex>,
        copies: &Copies,
        same: bool,
    ) -> Result<Choice, Error> {
        let complete = self.is_whole();
        let Demand { rules, lost, seek, .. } = &self.demand;
        if !complete && (!rules.is_empty() || *lost || seek.is_some()) {
            let what = match (rules.is_empty(), lost) {
                (false, _) => {
                    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
                    format!("rules have to be copied again ({})", rules.join(", "))
                }
                (true, true) => "the stored position is of no more use".to_owned(),
                (true, false) => "it is to go on from another time".to_owned(),
            };
            return Err(Error::Refused(format!(
                "target {}: {what}, which concerns all its rules: run without --rule",
                self.name,
            )));
        }
        let copies_now = |index: &RuleIndex| {
            self.rules.get(*index).rule().copy.is_some() && !self.options.changes_only
        };
        if self.demand.is_empty() && !fresh.iter().any(copies_now) {
            return Ok(Default::default());
        }
        let new: Vec<RuleIndex> = fresh.iter().copied().filter(copies_now).collect();
        let (mut all, found) = self.parts_as_listed(&new, copies).await?;
        let ids = self.collection_ids(&all).await?;
        // Another source has other ids, and that says nothing.
        let known_here = if same { ids.clone() } else { HashMap::new() };
        let mut wanted = BTreeMap::new();
        for part in &mut all {
            let (index, namespace) = &part.id;
            let name = &self.rules.get(*index).rule().name;
            let demanded = self.demand.parts.get(&(name.clone(), namespace.clone()));
            let again =
                self.demand.rules.contains(name) && self.rules.get(*index).rule().copy.is_some();
            let why = if demanded.is_none()
                && self.has_ended(*index, copies, &found, &known_here, namespace)
            {
                // Unless the stream is read from somewhere else, and may never show it.
                if !self.demand.lost && self.demand.seek.is_none() {
                    tracing::info!(
                    target = self.name,
                    rule = name,
                    %namespace,
                    "the collection was dropped or made anew, which is still to be read: until \
                     then nothing is swept there"
                    );
                    // The stream is still to show how it ended: nothing is swept before that.
                    part.copies = false;
                    continue;
                }
                Wanted::Keep
            } else {
                match demanded {
                    // Whatever else it is copied for, what it held stays.
                    Some(OnDrop::Keep) => Wanted::Keep,
                    Some(OnDrop::Remove) => Wanted::Again,
                    None if again => Wanted::Again,
                    None if fresh.contains(index) && copies_now(index) => Wanted::First,
                    None => continue,
                }
            };
            wanted.insert(part.id.clone(), why);
        }
        for index in &new {
            if !all.iter().any(|part| part.id.0 == *index && found.contains_key(&part.id.1)) {
                tracing::warn!(
                    target = self.name,
                    rule = self.rules.get(*index).rule().name,
                    "no collection matches the rule now; those that come later are followed"
                );
            }
        }
        let chosen = choose(&all, &wanted, complete);
        let parts = all.iter().map(|part| part.id.clone()).collect();
        let mut containers: HashMap<PartId, Option<String>> =
            all.into_iter().map(|part| (part.id, part.container)).collect();
        let chosen = chosen.into_iter().map(|(id, sweep)| {
            let why = wanted.get(&id).copied().unwrap_or(Wanted::Again);
            if why == Wanted::Again && !sweep {
                tracing::warn!(
                    target = self.name,
                    rule = self.rules.get(id.0).rule().name,
                    namespace = %id.1,
                    "rules that are not copied again may write to the same place: what is gone from \
                     the source stays in the target"
                );
            }
            // One that has left the rule is swept, and read no more.
            let read = self.rules.reads(self.rules.get(id.0).rule(), &id.1);
            let kind = found.get(&id.1).copied().filter(|_| read);
            let container = containers.remove(&id).flatten();
            let first = why == Wanted::First;
            if first && !sweep {
                tracing::debug!(
                    target = self.name,
                    rule = self.rules.get(id.0).rule().name,
                    namespace = %id.1,
                    "others write to the same place: what lies there is not swept"
                );
            }
            let collection = ids.get(&id.1).copied();
            let keep = why == Wanted::Keep;
            (id, Chosen { sweep, keep, asked: !first, kind, collection, container })
        });
        Ok((parts, chosen.collect()))
    }

    /// Whether a collection that a rule with `on_drop: keep` delivered is no more, or another one
    /// bears its name now, and the stream has not shown how that came about: a sweep would remove
    /// what stays.
    fn has_ended(
        &self,
        index: RuleIndex,
        copies: &Copies,
        found: &HashMap<Namespace, Kind>,
        ids: &HashMap<Namespace, Uuid>,
        namespace: &Namespace,
    ) -> bool {
        let rule = self.rules.get(index).rule();
        let follows = self.rules.get(index).follows();
        if rule.on_drop != OnDrop::Keep || !follows || !self.rules.reads(rule, namespace) {
            return false;
        }
        let plan = copies.get(&index).and_then(|own| own.get(namespace)).map(|own| &own.plan);
        if !found.contains_key(namespace) {
            // What was seen to has a plan that says so.
            return plan.is_some_and(|plan| !plan.ended);
        }
        let known = plan.and_then(|plan| plan.collection);
        known.is_some_and(|known| ids.get(namespace).is_some_and(|own| *own != known))
    }

    /// The server's own ids of the collections of these parts.
    async fn collection_ids(&self, parts: &[Part]) -> Result<HashMap<Namespace, Uuid>, Error> {
        let databases: BTreeSet<&str> = parts.iter().map(|part| part.id.1.database()).collect();
        let mut ids = HashMap::new();
        for database in databases {
            let source = &self.reading.source;
            let listed =
                self.asked("listing collections", || source.collection_ids(database)).await?;
            ids.extend(listed.unwrap_or_default());
        }
        Ok(ids)
    }

    /// Whether every rule of the target is part of this run.
    pub(super) fn is_whole(&self) -> bool {
        self.rules.iter().count() == self.all_rules.len()
    }

    /// Every part that there is or has been, and what is there. Where something is not that may be, it is
    /// looked for once more, a moment later: a plan that leaves out what has just been made does so for ever,
    /// and nothing of the stream shows it again.
    async fn parts_as_listed(
        &self,
        new: &[RuleIndex],
        copies: &Copies,
    ) -> Result<(Vec<Part>, HashMap<Namespace, Kind>), Error> {
        let (parts, found) = self.parts(copies).await?;
        let is_there = |part: &&Part| found.contains_key(&part.id.1);
        let has_all = |index: &RuleIndex| {
            let has_some = parts.iter().filter(is_there).any(|part| part.id.0 == *index);
            are_all(self.rules.get(*index).rule(), has_some)
        };
        let mut demanded = self.demand.parts.keys();
        if new.iter().all(has_all) && demanded.all(|(_, it)| found.contains_key(it)) {
            return Ok((parts, found));
        }
        until_listed(self.stop).await?;
        self.parts(copies).await
    }

    /// Every part that there is or has been, and which namespaces there are now.
    async fn parts(&self, copies: &Copies) -> Result<(Vec<Part>, HashMap<Namespace, Kind>), Error> {
        // Namespaces that came after a rule was copied have no plan; an id of theirs was written.
        let prefix = keys::all_id_types();
        let met = self.stored(|| load_all::<IdTypesRecord>(&**self.store, &prefix)).await?;
        let met: Vec<Namespace> = met
            .iter()
            .filter_map(|(key, _)| Namespace::parse(str::from_utf8(key.0.last()?).ok()?))
            .collect();
        let mut parts = Vec::new();
        let mut found = HashMap::new();
        let mut listed = self.namespaces_of(|_| true).await?;
        for (index, rule) in self.rules.iter() {
            let mut namespaces = BTreeSet::new();
            for there in listed.remove(&index).unwrap_or_default() {
                namespaces.insert(there.namespace.clone());
                found.insert(there.namespace, there.kind);
            }
            namespaces
                .extend(copies.get(&index).into_iter().flatten().map(|(name, _)| name.clone()));
            let reads = |namespace: &&Namespace| self.rules.reads(rule.rule(), namespace);
            namespaces.extend(met.iter().filter(reads).cloned());
            let demanded = self.demand.parts.keys().filter(|(name, _)| *name == rule.rule().name);
            namespaces.extend(demanded.map(|(_, namespace)| namespace.clone()));
            let name = &rule.rule().name;
            let moves = rule.rule().transform.as_ref().is_some_and(|script| script.may_move());
            parts.extend(namespaces.into_iter().map(|namespace| Part {
                container: self.target.container(name, &namespace).filter(|_| !moves),
                copies: rule.rule().copy.is_some() && !self.options.changes_only,
                id: (index, namespace),
            }));
        }
        Ok((parts, found))
    }
}
